"""Checkpoints on disk: whole for any number of writers, and never half of one."""

from __future__ import annotations

import itertools
import json
import logging
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hpc_brainage.errors import TrainingError
from hpc_brainage.training.engine import Piece
from hpc_brainage.training.snapshot import KEPT, Snapshots

KEY = "key"
_REST = {"epoch": 1, "sums": [[0.25]]}


def shared_out(
    whole: dict[str, torch.Tensor], cuts: Sequence[float]
) -> Iterator[tuple[dict[str, Piece], dict[str, int]]]:
    """What each of len(cuts) + 1 processes holds if every tensor is cut at these shares of its length."""
    shares = [0.0, *sorted(cuts), 1.0]
    for low, high in itertools.pairwise(shares):
        pieces = {}
        for name, values in whole.items():
            begin, end = round(low * len(values)), round(high * len(values))
            if begin < end:
                pieces[name] = Piece(begin, values[begin:end].clone())
        yield pieces, {name: len(whole[name]) for name in pieces}


def write(snapshots: Snapshots, step: int, whole: dict[str, torch.Tensor], cuts: Sequence[float]) -> None:
    held = list(shared_out(whole, cuts))
    for rank, (pieces, sizes) in enumerate(held):
        snapshots.write(step, rank, len(held), pieces, sizes, _REST if rank == 0 else {})


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"parameter/a": torch.randn(7, generator=draw), "step/a": torch.tensor([3.0])}


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=4),
    seed=st.integers(0, 2**16),
)
def test_any_number_of_writers_makes_the_same_whole(
    lengths: list[int], cuts: list[float], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = torch.Generator().manual_seed(seed)
    whole = {f"parameter/{n}": torch.randn(size, generator=draw) for n, size in enumerate(lengths)}
    snapshots = Snapshots(tmp_path_factory.mktemp("snapshots"), KEY)
    write(snapshots, 12, whole, cuts)
    found = snapshots.newest()
    assert found is not None
    assert (found.step, found.record) == (12, _REST)
    assert set(found.tensors) == set(whole)
    assert all(torch.equal(found.tensors[name], values) for name, values in whole.items())


def test_a_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    write(Snapshots(tmp_path, KEY), 1, tensors(), [])
    found = load_file(tmp_path / "step-00000001" / "rank-0.safetensors")
    assert all(torch.equal(found[name], values) for name, values in tensors().items())


def damage_weights(place: Path) -> None:
    path = place / "rank-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(place: Path) -> None:
    path = place / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def lose_a_mark(place: Path) -> None:
    (place / "rank-1.json").unlink()


def lose_a_file(place: Path) -> None:
    (place / "rank-1.safetensors").unlink()


def halve_a_mark(place: Path) -> None:
    path = place / "rank-0.json"
    path.write_text(path.read_text()[:40])


def another_run_s(place: Path) -> None:
    path = place / "rank-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "another"}))


def lose_a_piece(place: Path) -> None:
    path = place / "rank-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"writers": 1}))


def nonsense(place: Path) -> None:
    (place / "rank-0.json").write_text("[1]")


@pytest.mark.parametrize(
    "spoil",
    [
        damage_weights,
        truncate,
        lose_a_mark,
        lose_a_file,
        halve_a_mark,
        another_run_s,
        lose_a_piece,
        nonsense,
    ],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_what_is_not_whole_is_passed_over_with_a_word(
    spoil: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Snapshots(tmp_path, KEY)
    for step in (10, 20):
        write(snapshots, step, tensors(step), [0.5])
    spoil(tmp_path / "step-00000020")  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        found = snapshots.newest()
    assert found is not None
    assert found.step == 10
    assert "passed over" in caplog.text
    assert "step-00000020" in caplog.text
    with pytest.raises(TrainingError):
        snapshots.read(20)
    assert torch.equal(found.tensors["parameter/a"], tensors(10)["parameter/a"])
    snapshots.forget_unless(10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_without_any_whole_one_there_is_none(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "nothing", KEY)
    assert snapshots.newest() is None
    snapshots.forget_unless(None)
    snapshots.prune()


def test_the_newest_complete_ones_are_kept_and_those_that_are_being_written(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, KEY)
    for step in (1, 2, 3, 4, 100_000_000):
        write(snapshots, step, tensors(), [0.5])
    lose_a_mark(tmp_path / "step-00000002")
    lose_a_mark(tmp_path / "step-100000000")
    snapshots.prune()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert KEPT == 2
    assert left == ["step-00000003", "step-00000004", "step-100000000"]


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, KEY)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(snapshots, 1, {"parameter/a": torch.randn(10_000)}, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "step-00000001").iterdir()) == []
    assert snapshots.newest() is None
