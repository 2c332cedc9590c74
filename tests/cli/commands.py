"""How a test types a command: in this process, with what it printed and its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc_brainage.cli.main import run

TINY = (
    "smri.components=8", "fmri.components=8", "smri.hidden=[8]", "fmri.hidden=[8]", "model.shared=4",
    "model.distinct=4", "training.folds=2", "training.epochs=3", "training.batch_size=16",
    "training.device=cpu",
)  # fmt: skip
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
RUN = Path("runs") / "openbhb"


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it on one line, since a table may break its cells anywhere."""
        return " ".join((self.out + " " + self.err).split())


Brainage = Callable[..., Answer]


def type_command(folder: Path, *words: object) -> Answer:
    """Type `brainage WORDS` in `folder`; a traceback fails the test."""
    out, err = io.StringIO(), io.StringIO()
    typed = sys.argv
    sys.argv = ["brainage", *map(str, words)]
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run()
    finally:
        sys.argv = typed
    answer = Answer(int(ended.value.code or 0), out.getvalue(), err.getvalue())
    assert "Traceback" not in answer.text
    return answer


def epoch(folder: Path, *numbers: int) -> None:
    """Write epochs of the first member into the metrics of a folder's run, as a job does."""
    with (folder / RUN / "metrics.jsonl").open("a") as file:
        for number in numbers:
            record = {"member": 0, "epoch": number, "step": 3 * number, "loss": 4.0 - number}
            file.write(json.dumps(record) + "\n")
