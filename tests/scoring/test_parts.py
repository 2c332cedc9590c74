"""Scored parts on disk: one that is damaged is as if it were not there."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from hpc_brainage.errors import ScoringError
from hpc_brainage.scoring.parts import PartFolder, part_record, write_part

PARTS = [range(0, 3), range(3, 6)]


@pytest.fixture
def folder(tmp_path: Path) -> PartFolder:
    parts = PartFolder(tmp_path / "out.parts", {"model": "m"})
    with parts.held():
        for part in PARTS:
            table = pd.DataFrame({"status": ["scored"] * 3, "brain_age": [float(part.start)] * 3})
            write_part(parts.folder, part.start, part.stop, table, time.monotonic())
    return parts


def test_parts_that_are_done_are_found_and_read(folder: PartFolder) -> None:
    found = folder.done(PARTS)
    assert [(one.first, one.stop, one.scored) for one in found] == [(0, 3, 3), (3, 6, 3)]
    assert folder.read(found[1])["brain_age"].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("suffix", ["parquet", "json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "removed"])
def test_a_damaged_part_is_not_done_and_is_scored_again(folder: PartFolder, suffix: str, how: str) -> None:
    path = folder.folder / f"rows-000000003-000000006.{suffix}"
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:20])
    else:
        content[0] ^= 1
        path.write_bytes(content)
    assert [one.first for one in folder.done(PARTS)] == [0]
    assert part_record(folder.folder, 3, 6) is None
    table = pd.DataFrame({"status": ["scored"] * 3, "brain_age": [3.0] * 3})
    write_part(folder.folder, 3, 6, table, time.monotonic())
    assert [one.first for one in folder.done(PARTS)] == [0, 3]


@pytest.mark.parametrize("left", ["", "rows-000000000-000000003.parquet", "logs"])
def test_a_run_that_fails_leaves_its_folder_only_with_something_to_go_on_with_or_to_read(
    tmp_path: Path, left: str
) -> None:
    parts = PartFolder(tmp_path / "out.parts", {"model": "m"})

    def fail() -> None:
        with parts.held():
            if left:
                (parts.folder / left).mkdir()
            raise ScoringError("the workers are refused")

    with pytest.raises(ScoringError, match="refused"):
        fail()
    assert parts.folder.exists() == bool(left)


def test_parts_of_another_selection_are_said_to_be_of_it(tmp_path: Path) -> None:
    asked = {"model": "m", "selection": "age > 40"}
    with PartFolder(tmp_path / "out.parts", asked | {"selection": None}).held():
        pass
    with pytest.raises(ScoringError) as caught, PartFolder(tmp_path / "out.parts", asked).held():
        pass
    assert caught.value.expected == "selection 'age > 40', and the parts are of everything"
