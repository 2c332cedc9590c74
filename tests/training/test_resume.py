"""A run that was stopped or cut off, and went on, is the run that was left alone."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_store
from safetensors.torch import load_file

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.training import keeper as keeper_room
from hpc_brainage.training import records as records_room
from hpc_brainage.training.checkpoint import MemberCheckpoint
from hpc_brainage.training.keeper import Keeper
from hpc_brainage.training.lease import Lease
from hpc_brainage.training.progress import Progress
from hpc_brainage.training.records import LEASE, PASSED_OVER, RunFolder
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

    def at_once(keeper: Keeper, *what: object) -> object:
        keeper.seconds = 0.0
        return begin(keeper, *what)  # type: ignore[arg-type]

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


@pytest.mark.parametrize("way", ["stacked", "by the engine", "with early stopping"])
def test_told_to_stop_after_the_last_step_it_stops_and_every_member_is_kept(
    way: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(*WAYS[way])
    undisturbed = whole(tmp_path / "undisturbed", store, settings)
    run = RunFolder.prepare(tmp_path / "stopped", settings, store, None)
    last = lines(undisturbed.folder)[-1]

    def tell(record: dict, *_: int) -> None:
        if (record["member"], record["epoch"]) == (last["member"], last["epoch"]):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run_training(run.path, on_epoch=tell)
    assert run.status()["state"] == "stopped"
    assert len(list(run.checkpoints.glob("member-*.json"))) == 2
    monkeypatch.setattr(Keeper, "begin", None)  # nothing is trained any more
    again = run_training(run.path)
    assert again is not None
    assert_same_run(again, undisturbed)


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


@pytest.mark.parametrize("way", ["stacked", "by the engine"])
def test_a_finished_member_that_cannot_be_saved_goes_on_from_its_checkpoint(
    way: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(*WAYS[way])
    undisturbed = whole(tmp_path / "undisturbed", store, settings)
    run = RunFolder.prepare(tmp_path / "full", settings, store, None)

    def full(checkpoint: MemberCheckpoint, *_: object) -> None:
        if checkpoint.index == 0:
            raise OSError(28, "No space left on device")
        raise ValueError("of no interest")

    with monkeypatch.context() as meanwhile, caplog.at_level(logging.WARNING):
        meanwhile.setattr(MemberCheckpoint, "save_finished", full)
        with pytest.raises(ValueError, match="of no interest"):
            run_training(run.path)
    assert "member 0 could not be saved, and training goes on" in caplog.text
    name = "members-0-1" if way == "stacked" else "member-0"
    assert list((run.checkpoints / name).glob("step-*/rank-0.json"))
    again = run_training(run.path)
    assert again is not None
    assert_same_run(again, undisturbed)
    assert not [path for path in run.checkpoints.iterdir() if path.is_dir()], "no checkpoint is left"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_epoch_for_which_the_disk_has_no_room_is_logged_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    run.log_epoch({"member": 0, "epoch": 0})
    kept = run.metrics.rename(tmp_path / "kept")
    run.metrics.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        run.log_epoch({"member": 0, "epoch": 1})
    assert "metrics.jsonl could not be written" in caplog.text
    run.metrics.unlink()
    kept.rename(run.metrics)
    run.log_epoch({"member": 0, "epoch": 2})
    assert [line["epoch"] for line in lines(run)] == [0, 1, 2]


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


@pytest.mark.parametrize("way", ["stacked", "by the engine"])
def test_other_settings_never_remove_what_was_saved(
    way: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.prepare(tmp_path / "run", config(*WAYS[way]), store, None)
    at_step(4, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Stopped):
        run_training(run.path)
    saved = sorted(run.checkpoints.rglob("*"))
    with pytest.raises(TrainingError, match="other settings"):
        RunFolder.prepare(run.path, config(*WAYS[way], "training.seed=3"), store, None)
    assert sorted(run.checkpoints.rglob("*")) == saved
    assert run.config() == config(*WAYS[way])


def test_settings_that_decide_no_number_go_on_with_the_same_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = config("training.zero_stage=1")
    run = RunFolder.prepare(tmp_path / "run", first, store, None)
    at_step(4, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Stopped):
        run_training(run.path)
    more = config("training.zero_stage=2", "training.timeout_minutes=3", "training.checkpoint_minutes=1")
    again = whole(run.path, store, more)
    assert run.status()["restarts"] == 1
    assert run.config() == more
    assert_same_run(again, whole(tmp_path / "undisturbed", store, first))
    run.finish()
    RunFolder.prepare(run.path, first, store, None)
    assert run.config() == more, "a finished run says how it was made"


def test_that_what_was_saved_is_of_other_settings_is_noted(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changes the settings in the run's folder by hand."""
    run = RunFolder.prepare(tmp_path / "run", config("training.zero_stage=1"), store, None)
    noted = []
    for rate in ("1e-2", "1e-2", "2e-2", "2e-2"):
        text = (run.path / "config.toml").read_text()
        text = re.sub(r"(?m)^learning_rate = .*", f"learning_rate = {rate}", text)
        (run.path / "config.toml").write_text(text)
        at_step(2, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
        with pytest.raises(Stopped):
            run_training(run.path)
        noted.append(run.status()["passed_over"])
    assert noted == [None, None, PASSED_OVER, None]


@pytest.mark.parametrize("last", ["status.json", "config.toml", "request.json"])
def test_a_preparation_that_was_killed_is_begun_anew(
    last: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def killed(path: Path, *content: object) -> None:
        if path.name == last:
            raise KeyboardInterrupt
        written[path.name[-4:]](path, *content)

    written = {"json": records_room.write_json, "toml": records_room.write_text}
    with monkeypatch.context() as meanwhile:
        for name in ("write_json", "write_text"):
            meanwhile.setattr(records_room, name, killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder.prepare(folder, config(), store, None)
    assert not (folder / "request.json").exists()
    assert RunFolder.prepare(folder, config(), store, None).config() == config()


def test_somebody_s_own_settings_are_no_preparation(store: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[training]")
    with pytest.raises(TrainingError, match="not a run"):
        RunFolder.prepare(tmp_path, config(), store, None)


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


def test_an_epoch_that_is_finished_in_larger_parts_has_the_mean_of_the_steps_that_were_taken(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 30 people in seven steps of four, and one of two; in three parts the last two join the step before.
    first = config("training.zero_stage=1", "training.batch_size=4")
    undisturbed = whole(tmp_path / "undisturbed", store, first)
    run = RunFolder.prepare(tmp_path / "run", first, store, None)
    at_step(8, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Stopped):
        run_training(run.path)
    in_parts = config("training.zero_stage=1", "training.batch_size=4", "training.accumulation=3")
    again = whole(run.path, store, in_parts)
    assert lines(again.folder)[0] == lines(undisturbed.folder)[0]
    assert [line["step"] for line in lines(again.folder)][:3] == [8, 15, 22]


@pytest.mark.parametrize("way", ["stacked", "by the engine", "with sharded parameters"])
def test_a_loss_that_is_not_a_number_any_more_is_never_saved(
    way: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "add", spoiled_from(6, Progress.add))
    run = RunFolder.prepare(tmp_path / "run", config(*WAYS[way]), store, None)
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch") as refused:
        run_training(run.path)
    assert "learning_rate" in str(refused.value)
    for path in run.checkpoints.rglob("rank-0.safetensors"):
        assert int(path.parent.name[5:]) < 6
        assert all(bool(torch.isfinite(values).all()) for values in load_file(path).values())


def spoiled_from(step: int, add: Callable[[Progress, dict], None]) -> Callable[[Progress, dict], None]:
    """Count steps of which the loss is NaN from a step on."""

    def spoiled(progress: Progress, terms: dict[str, torch.Tensor]) -> None:
        terms = dict(terms)
        if progress.step + 1 >= step:
            terms["loss"] = terms["loss"] * float("nan")
        add(progress, terms)

    return spoiled


def test_who_has_lost_the_folder_leaves_the_other_s_status_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.prepare(tmp_path / "run", config(), store, None)

    def taken(keeper: Keeper) -> None:
        assert keeper.lease is not None
        keeper.lease.is_lost = True

    at_step(3, taken, monkeypatch)
    with pytest.raises(TrainingError, match="another training has taken"):
        run_training(run.path)
    assert run.status()["state"] == "running"


def test_a_finished_member_that_cannot_be_used_is_trained_again_and_the_reason_is_said(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = whole(tmp_path / "run", store, config())
    weights = first.folder.checkpoints / "member-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    record = first.folder.checkpoints / "member-1.json"
    record.write_text(record.read_text().replace('"key": "', '"key": "0'))
    with caplog.at_level(logging.WARNING):
        again = whole(tmp_path / "run", store, config())
    assert "member 0 is trained again" in caplog.text
    assert "its weights are damaged" in caplog.text
    assert "member 1 is trained again" in caplog.text
    assert "other settings, another store or other software" in caplog.text
    assert_same_run(again, first)


@pytest.mark.parametrize("stops", [(4,), (4, 3), (7, 7)], ids=str)
def test_members_that_were_saved_together_go_on_one_by_one_and_together_again(
    stops: tuple[int, ...], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped so many steps after the beginning, and after going on in the other way."""
    undisturbed = whole(tmp_path / "undisturbed", store, config())
    ways = [config(), config("training.zero_stage=1")]
    run = tmp_path / "run"
    for number, stop in enumerate(stops):
        RunFolder.prepare(run, ways[number % 2], store, None)
        at_step(stop, lambda keeper: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
        with pytest.raises(Stopped):
            run_training(run)
    (run / "metrics.jsonl").touch()  # a run that was stopped in its first epoch has none
    before = lines(RunFolder(run))
    went_on = whole(run, store, ways[len(stops) % 2])
    after = lines(went_on.folder)
    assert after[: len(before)] == before, "what was reported is not trained again"
    np.testing.assert_allclose(went_on.held_out["brain_age"], undisturbed.held_out["brain_age"], rtol=1e-4)
    curves = [
        {(line["member"], line["epoch"]): line["loss"] for line in found}
        for found in (after, lines(undisturbed.folder))
    ]
    assert len(after) == len(curves[0])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    went_on.folder.finish()
    assert not [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
