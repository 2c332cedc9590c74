"""A run that is stopped and goes on with 4, then 2, then 1, then 4 processes is the run of one alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from planted import planted_store
from processes import launch
from safetensors.torch import load_file

from hpc_brainage.config import load_config
from hpc_brainage.training.keeper import Keeper, State
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training
from hpc_brainage.training.stop import Stopped

STARTS = ((4, 4), (2, 4), (1, 9), (4, 0))
"""How many processes there are, and after how many steps one of them is told to stop; 0: never.

That is twice in the middle of an epoch of the first member, and then of the second."""
SETTINGS = (
    "smri.components=8", "fmri.components=6", "smri.hidden=[8]", "fmri.hidden=[8]", "model.shared=3",
    "model.distinct=3", "training.folds=2", "training.epochs=4", "training.batch_size=8",
    "training.device=cpu", "training.learning_rate=1e-2",
)  # fmt: skip
EARLY_STOPPING = ("training.validation=0.2",)
WAYS = {
    "stage 0": EARLY_STOPPING,
    "stage 1": (*EARLY_STOPPING, "training.zero_stage=1"),
    "stage 2": (*EARLY_STOPPING, "training.zero_stage=2"),
    "stage 3": (*EARLY_STOPPING, "training.zero_stage=3"),
    "together where one process is alone": (),
}


def prepared(folder: Path, store: Path, way: str) -> RunFolder:
    return RunFolder.prepare(folder, load_config(None, [*SETTINGS, *WAYS[way]]), store, None)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_goes_on_with_four_two_one_and_four_processes_ends_with_the_same_model(
    tmp_path: Path,
) -> None:
    store = planted_store(tmp_path, 60)
    runs = {way: prepared(tmp_path / way, store, way) for way in WAYS}
    reached: dict[str, list[tuple[int, int]]] = {way: [] for way in WAYS}
    for number, (world, steps) in enumerate(STARTS):
        launch(world, __file__, str(steps), *(str(run.path) for run in runs.values()))
        for way, run in runs.items():
            status = run.status()
            assert (status["processes"], status["restarts"]) == (world, number), way
            if steps:
                assert status["state"] == "stopped", way
                reached[way].append(newest(run))
    for way, run in runs.items():
        assert [finished for finished, _ in reached[way]] == [0, 0, 1], reached
        assert all(one < other for one, other in itertools.pairwise(reached[way])), reached
        alone = prepared(tmp_path / f"{way}, alone", store, way)
        run_training(alone.path)
        assert_same(run, alone)


def newest(run: RunFolder) -> tuple[int, int]:
    """How many members are finished, and how many steps were taken of the one under way."""
    finished = len(list(run.checkpoints.glob("member-*.json")))
    return finished, max(
        int(place.name.removeprefix("step-")) for place in run.checkpoints.glob("*/step-*")
    )


def assert_same(run: RunFolder, alone: RunFolder) -> None:
    """The same networks, the same epochs, each once, with the same losses, and the same ages of who was
    held out; but for the order in which gradients are added up."""
    weights = [sorted(one.checkpoints.glob("member-*.safetensors")) for one in (run, alone)]
    assert len(weights[0]) == len(weights[1]) == 2
    for mine, its in zip(*weights, strict=True):
        expected = load_file(its)
        found = load_file(mine)
        assert set(found) == set(expected)
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4, msg=f"{run.path}: {name}")
    curves = []
    for one in (run, alone):
        lines = [json.loads(line) for line in one.metrics.read_text().splitlines()]
        curves.append({(line["member"], line["epoch"], line["step"]): line["loss"] for line in lines})
        assert len(curves[-1]) == len(lines)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    ages = [pd.read_csv(one.held_out, sep="\t")["brain_age"].to_numpy() for one in (run, alone)]
    assert ages[0] == pytest.approx(ages[1], rel=1e-4)


def train(run: Path, steps: int) -> None:
    """Go on with a run; its last process is told to stop after so many steps, or never."""
    after_step, count = Keeper.after_step, itertools.count(1)

    def watched(keeper: Keeper, state: Callable[[], State]) -> None:
        is_last = keeper.processes.rank == keeper.processes.world_size - 1
        if next(count) == steps and is_last:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(keeper, state)

    with patch.object(Keeper, "after_step", watched):
        try:
            run_training(run)
            assert not steps
        except Stopped:
            assert steps


if __name__ == "__main__":
    steps, *folders = sys.argv[1:]
    for folder in folders:
        train(Path(folder), int(steps))
    # A process whose peers close their connections while its own threads still listen may abort at its end.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
