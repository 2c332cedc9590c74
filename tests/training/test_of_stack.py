"""What each member takes of a checkpoint of many, which is read once for all of them."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Piece
from hpc_brainage.training.keeper import Keeper
from hpc_brainage.training.snapshot import Snapshot, Snapshots
from hpc_brainage.training.stop import Agreement, Signals

KEY = "key"
STEP = 12


def saved(checkpoints: Path, members: list[int]) -> Snapshots:
    """A stack of these members, of which each has two parameters: its number, and its tenth."""
    snapshots = Snapshots(checkpoints / f"members-{members[0]}-{members[-1]}", KEY)
    values = {
        "parameter/a": torch.tensor([[m, m / 10] for m in members]).view(-1),
        "step/a": torch.tensor([float(STEP)]),
        "sums/loss": torch.tensor([100.0 + m for m in members]),
    }
    pieces = {name: Piece(0, value) for name, value in values.items()}
    sizes = {name: len(value) for name, value in values.items()}
    record = {"epoch": 3, "step": STEP, "taken": 2, "terms": ["loss"], "sums": [], "best": None}
    snapshots.write(STEP, 0, 1, pieces, sizes, {**record, "members": members})
    return snapshots


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    processes = Processes(0, 1, torch.device("cpu"))
    return Keeper(tmp_path, KEY, processes, Signals(), Agreement(processes, timedelta(minutes=1)), 60.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of which a checkpoint was read."""
    found: list[Path] = []
    read = Snapshots.read

    def counted(snapshots: Snapshots, step: int) -> Snapshot:
        found.append(snapshots.folder)
        return read(snapshots, step)

    monkeypatch.setattr(Snapshots, "read", counted)
    return found


def test_fifty_members_read_the_checkpoints_of_their_stacks_once(keeper: Keeper, reads: list[Path]) -> None:
    stacks = [list(range(30)), list(range(30, 50))]
    folders = [saved(keeper.folder, members).folder for members in stacks]
    for member in range(50):
        found = keeper.begin(f"member-{member}", member)
        assert found is not None
        torch.testing.assert_close(found.tensors["parameter/a"], torch.tensor([member, member / 10]))
        assert (found.step, found.record["sums"]) == (STEP, [[100.0 + member]])
    assert reads == folders


def test_a_member_that_was_in_no_stack_begins_from_the_beginning(keeper: Keeper) -> None:
    saved(keeper.folder, [2, 3, 5])
    for member in (0, 4, 6):
        assert keeper.begin(f"member-{member}", member) is None
    assert keeper.begin("member-5", 5) is not None


def test_a_stack_that_is_damaged_is_read_and_named_once(
    keeper: Keeper, reads: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    (place,) = saved(keeper.folder, [0, 1]).folder.iterdir()
    (place / "rank-0.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        assert [keeper.begin(f"member-{member}", member) for member in (0, 1)] == [None, None]
    assert len(reads) == caplog.text.count("passed over") == 1


def test_what_a_member_goes_on_from_is_read_once(keeper: Keeper, reads: list[Path]) -> None:
    own = Snapshots(keeper.folder / "member-0", KEY)
    own.write(STEP, 0, 1, {"parameter/a": Piece(0, torch.ones(2))}, {"parameter/a": 2}, {})
    found = keeper.begin("member-0", 0)
    assert found is not None
    assert found.step == STEP
    assert reads == [own.folder]
