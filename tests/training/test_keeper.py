"""What the keeper leaves on a disk that has no room for all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Piece
from hpc_brainage.training.keeper import Keeper, State
from hpc_brainage.training.snapshot import Snapshots
from hpc_brainage.training.stop import Agreement, Signals

NAME = "member-0"


class FirstOfTwo(Processes):
    """The first process, and what the second tells it at each save: whether the one before has failed."""

    second: Iterator[bool]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        return values + torch.tensor([1.0, float(next(FirstOfTwo.second))])


def keeper(folder: Path, processes: Processes) -> Keeper:
    alone = Processes(0, 1, processes.device)
    return Keeper(folder, "key", processes, Signals(), Agreement(alone, timedelta(minutes=1)), 60.0)


def state(step: int) -> State:
    return State(step, {"parameter/a": Piece(0, torch.ones(3))}, {}, {"parameter/a": 3}, {})


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / NAME).iterdir())


def test_a_checkpoint_that_another_process_could_not_write_is_gone_after_the_next(tmp_path: Path) -> None:
    FirstOfTwo.second = iter([False, True, True, False])
    with keeper(tmp_path, FirstOfTwo(0, 1, torch.device("cpu"))) as saving:
        saving.begin(NAME)
        for step in (1, 2, 3, 4):
            saving.save(state(step))
    assert steps(tmp_path) == [3, 4], "the second process has failed to write 1 and 2"


def test_tensors_whose_mark_finds_no_room_do_not_pile_up_and_what_was_whole_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with keeper(tmp_path, Processes(0, 1, torch.device("cpu"))) as saving, caplog.at_level(logging.WARNING):
        saving.begin(NAME)
        saving.save(state(1))
        saving._wait()
        monkeypatch.setattr("hpc_brainage.training.snapshot.write_json", full)
        for step in (2, 3, 4):
            saving.save(state(step))
    assert caplog.text.count("could not be saved, and training goes on") == 3
    assert steps(tmp_path) == [1, 4]
    found = Snapshots(tmp_path / NAME, "key").newest()
    assert found is not None
    assert found.step == 1
