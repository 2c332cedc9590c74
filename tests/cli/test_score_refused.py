"""What `brainage score` refuses, and that it says so once, with what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from cli.commands import Answer, type_command
from planted import planted_store


def test_a_finished_table_of_other_scans_is_replaced_only_when_asked(
    trained: tuple[Path, Answer], tmp_path: Path
) -> None:
    planted_store(tmp_path, people=24, seed=5, name="cases")
    model = trained[0] / "runs" / "openbhb"
    words = ("score", "cases.zarr", "--model", model, "--out", "out", "--workers", 1)
    assert type_command(tmp_path, *words).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("out*")}
    answer = type_command(tmp_path, *words, "--where", "age > 40")
    assert answer.code == 3
    assert "a score table of another selection is already there" in answer.text
    assert "expected: the scans with age > 40" in answer.text
    assert {path.name: path.read_bytes() for path in tmp_path.glob("out*")} == before
    again = type_command(tmp_path, *words, "--where", "age > 40")
    assert again.code == 3, "what was refused is refused again"

    assert type_command(tmp_path, *words, "--bias", "none").code == 0
    assert json.loads((tmp_path / "out.json").read_text())["bias"]["method"] == "none"
    assert type_command(tmp_path, *words, "--where", "age > 40", "--no-resume").code == 0
    assert json.loads((tmp_path / "out.json").read_text())["where"] == "age > 40"


def test_weights_that_are_cut_are_said_once_with_the_one_thing_to_do(
    trained: tuple[Path, Answer], tmp_path: Path
) -> None:
    planted_store(tmp_path, people=24, seed=5, name="cases")
    shutil.copytree(trained[0] / "runs" / "openbhb" / "model", tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", 1000)
    answer = type_command(tmp_path, "score", "cases.zarr", "--model", "cut", "--out", "out", "--workers", 1)
    assert answer.code == 3
    assert "error: the weights are not those that the description speaks of" in answer.text
    for word in ("where:", "expected:", "to do:"):
        assert answer.err.count(word) == 1
    assert "copy the bundle again" in answer.text


def test_a_place_where_no_table_can_be_is_refused(trained: tuple[Path, Answer], tmp_path: Path) -> None:
    planted_store(tmp_path, people=24, seed=5, name="cases")
    (tmp_path / "file").touch()
    (tmp_path / "folder.tsv").mkdir()
    model = trained[0] / "runs" / "openbhb"
    for out, said in (("file/out", "a file is where the folder"), ("folder", "a folder is where")):
        answer = type_command(tmp_path, "score", "cases.zarr", "--model", model, "--out", out)
        assert answer.code == 3
        assert said in answer.text
        assert "give this run another --out" in answer.text
