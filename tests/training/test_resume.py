"""A run that was stopped or cut off, and went on, is the run that was left alone."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_store

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.training import keeper as keeper_room
from hpc_brainage.training.keeper import Keeper
from hpc_brainage.training.lease import Lease
from hpc_brainage.training.records import LEASE, RunFolder
from hpc_brainage.training.run import FinishedRun, run_training
from hpc_brainage.training.stop import Stopped

SETTINGS = (
    "smri.components=8", "fmri.components=6", "smri.hidden=[8]", "fmri.hidden=[8]", "model.shared=3",
    "model.distinct=3", "training.folds=2", "training.epochs=6", "training.batch_size=16",
    "training.device=cpu", "training.learning_rate=1e-2",
)  # fmt: skip
WAYS = {
    "stacked": (),
    "by the engine": ("training.zero_stage=1",),
    "with sharded parameters": ("training.zero_stage=3",),
    "with early stopping": ("training.validation=0.2", "training.patience=2", "training.epochs=12"),
    "in parts": ("training.accumulation=2", "training.modality_training='dropout'"),
}


def config(*more: str) -> RunConfig:
    return load_config(None, [*SETTINGS, *more])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_store(tmp_path_factory.mktemp("planted"), 60)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step that finds the last checkpoint written begins the next one."""
    begin = Keeper.begin

    def at_once(keeper: Keeper, name: str) -> object:
        keeper.seconds = 0.0
        return begin(keeper, name)

    monkeypatch.setattr(Keeper, "begin", at_once)


def at_step(number: int, act: Callable[[Keeper], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen after the `number`-th step that is taken from now on."""
    after_step, count = Keeper.after_step, iter(range(1, 1 << 30))

    def watched(keeper: Keeper, state: object) -> None:
        if next(count) == number:
            monkeypatch.setattr(Keeper, "after_step", after_step)
            act(keeper)
        after_step(keeper, state)  # type: ignore[arg-type]

    monkeypatch.setattr(Keeper, "after_step", watched)


def lines(run: RunFolder) -> list[dict]:
    """The metrics, without how long it took."""
    found = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def assert_same_run(one: FinishedRun, other: FinishedRun) -> None:
    """To the last bit."""
    pd.testing.assert_frame_equal(one.held_out, other.held_out, check_exact=True)
    for mine, its in zip(one.members, other.members, strict=True):
        for (name, value), expected in zip(
            mine.state_dict().items(), its.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), name
    key = {"member": 0, "epoch": 0}.keys()
    mine, its = (sorted(lines(run.folder), key=lambda line: [line[k] for k in key]) for run in (one, other))
    assert mine == its


def whole(folder: Path, store: Path, settings: RunConfig) -> FinishedRun:
    finished = run_training(RunFolder.prepare(folder, settings, store, None).path)
    assert finished is not None
    return finished


@pytest.mark.parametrize("way", WAYS)
def test_stopped_twice_and_started_again_it_is_the_same_run(
    way: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(*WAYS[way])
    undisturbed = whole(tmp_path / "undisturbed", store, settings)
    run = RunFolder.prepare(tmp_path / "stopped", settings, store, None)
    for number in (5, 2):  # in the middle of an epoch, and soon after that
        at_step(number, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
        with pytest.raises(Stopped):
            run_training(run.path)
        assert run.status()["state"] == "stopped"
        assert not (run.path / LEASE).exists()
        assert list(run.checkpoints.glob("member*/step-*"))
    again = run_training(run.path)
    assert again is not None
    assert run.status()["restarts"] == 2
    assert_same_run(again, undisturbed)
    assert not [path for path in run.checkpoints.iterdir() if path.is_dir()], "no checkpoint is left"


@pytest.mark.parametrize("way", ["stacked", "with early stopping"])
def test_cut_off_it_goes_on_from_the_newest_checkpoint_that_is_whole(
    way: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = config(*WAYS[way])
    undisturbed = whole(tmp_path / "undisturbed", store, settings)
    run = RunFolder.prepare(tmp_path / "cut", settings, store, None)

    def fail(keeper: Keeper) -> None:
        keeper._wait()
        raise ValueError("of no interest")

    at_step(9, fail, monkeypatch)
    with pytest.raises(ValueError, match="of no interest"):
        run_training(run.path)
    assert run.status()["state"] == "failed"
    assert "of no interest" in run.status()["error"]
    (folder,) = (path for path in run.checkpoints.iterdir() if path.is_dir())
    older, newest = sorted(folder.iterdir())
    weights = newest / "rank-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with run.metrics.open("a") as file:
        file.write('{"member": 0, "epo')  # a line that was cut off, too

    began: list[int] = []
    read = keeper_room.Snapshots.read
    monkeypatch.setattr(
        keeper_room.Snapshots, "read", lambda self, step: (began.append(step), read(self, step))[1]
    )
    with caplog.at_level(logging.WARNING):
        again = run_training(run.path)
    assert again is not None
    assert newest.name in caplog.text
    assert began[:2] == [int(newest.name[5:]), int(older.name[5:])]
    assert_same_run(again, undisturbed)


def test_ctrl_c_saves_and_ends_as_ctrl_c_does(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.prepare(tmp_path / "run", config(), store, None)
    before = signal.getsignal(signal.SIGINT)
    at_step(4, lambda keeper: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_training(run.path)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.status()["state"] == "stopped"
    assert (run.checkpoints / "members-0-1" / "step-00000004" / "rank-0.json").is_file()


def test_checkpoints_that_cannot_be_written_end_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config("training.zero_stage=1")
    undisturbed = whole(tmp_path / "undisturbed", store, settings)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper_room.Snapshots, "write", full)
    run = RunFolder.prepare(tmp_path / "full", settings, store, None)
    with caplog.at_level(logging.WARNING):
        finished = run_training(run.path)
    assert finished is not None
    assert "could not be saved, and training goes on" in caplog.text
    assert "No space left on device" in caplog.text
    assert_same_run(finished, undisturbed)


def test_only_now_and_then_is_anything_saved(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Keeper, "save", lambda self, state: saved.append(state.step))
    monkeypatch.setattr(Keeper, "_is_due", lambda self: False)
    whole(tmp_path / "run", store, config())
    assert saved == []


def test_two_trainings_in_one_folder_are_refused(store: Path, tmp_path: Path) -> None:
    run = RunFolder.prepare(tmp_path / "run", config(), store, None)
    with Lease(run.path / LEASE, beat=0.1):
        with pytest.raises(TrainingError, match="another training is under way"):
            run_training(run.path)
        with pytest.raises(TrainingError, match="another training is under way"):
            RunFolder.prepare(run.path, config("training.epochs=9"), store, None)
    assert run.status()["state"] == "prepared"
    assert run.config() == config()


def test_other_settings_begin_anew(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.prepare(tmp_path / "run", config(), store, None)
    at_step(4, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Stopped):
        run_training(run.path)
    other = config("training.seed=3")
    corrected = whole(run.path, store, other)
    assert corrected.folder.status()["restarts"] == 0
    fresh = whole(tmp_path / "fresh", store, other)
    assert_same_run(corrected, fresh)


def test_a_checkpoint_of_other_people_is_not_gone_on_from(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = {}
    for name, seed in (("one", 0), ("other", 1)):
        runs[name] = RunFolder.prepare(tmp_path / name, config(f"training.seed={seed}"), store, None)
        at_step(4, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
        with pytest.raises(Stopped):
            run_training(runs[name].path)
    shutil.rmtree(runs["one"].checkpoints)
    shutil.copytree(runs["other"].checkpoints, runs["one"].checkpoints)
    with caplog.at_level(logging.WARNING):
        finished = run_training(runs["one"].path)
    assert finished is not None
    assert "other settings, another store or other software" in caplog.text
    assert_same_run(finished, whole(tmp_path / "fresh", store, config()))


def test_accumulation_is_the_same_training_in_smaller_parts(store: Path, tmp_path: Path) -> None:
    more = ("training.zero_stage=1", "model.dropout=0.1")
    at_once = whole(tmp_path / "at once", store, config(*more))
    in_parts = whole(tmp_path / "in parts", store, config(*more, "training.accumulation=3"))
    for one, other in zip(lines(at_once.folder), lines(in_parts.folder), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    np.testing.assert_allclose(at_once.held_out["brain_age"], in_parts.held_out["brain_age"], rtol=1e-4)
