"""`tools/reproduce_abide` says what it is for, and refuses what it does not know before it begins."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "reproduce_abide"
FILES = ("participants.csv", "smri_freesurfer6.csv.gz", "fmri_fc_ho111_fisherz.npz")


@pytest.mark.parametrize(
    ("words", "steps", "code", "said"),
    [
        (("--help",), None, 0, "STEPS="),
        (("-h",), None, 0, "FOLDER holds participants.csv"),
        ((), None, 2, "reproduce_abide FOLDER"),
        (("--twice",), None, 2, "reproduce_abide FOLDER"),
        (("abide",), "kfold runn", 2, "there is no step 'runn' (known: kfold sites ablate run controls)"),
        (("empty",), None, 3, "empty/participants.csv is not there"),
        (("nowhere",), None, 3, "nowhere/participants.csv is not there"),
    ],
)
def test_a_wrong_word_is_said_and_nothing_is_made(
    words: tuple[str, ...], steps: str | None, code: int, said: str, tmp_path: Path
) -> None:
    for folder in ("abide", "empty"):
        (tmp_path / folder).mkdir()
    for name in FILES:
        (tmp_path / "abide" / name).touch()
    done = subprocess.run(
        [TOOL, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | ({"STEPS": steps} if steps else {}),
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abide", "empty"]
