"""Training whose processes are stopped or killed, alone and together, ends as if nobody had touched it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted_store

from hpc_brainage.config import load_config
from hpc_brainage.errors import ExitCode
from hpc_brainage.training.records import LEASE, RunFolder
from hpc_brainage.training.run import run_training
from hpc_brainage.training.stop import STOPPED_EXIT, Stopped

PROGRAM = Path(__file__).with_name("cut_training.py")
KILLED = -9
SETTINGS = (
    "smri.components=8", "fmri.components=6", "smri.hidden=[8]", "fmri.hidden=[8]", "model.shared=3",
    "model.distinct=3", "training.folds=2", "training.epochs=4", "training.batch_size=16",
    "training.device=cpu", "training.learning_rate=1e-2", "training.validation=0.2",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_store(tmp_path_factory.mktemp("planted"), 60)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What this process trains has as many threads as what it starts: sums of more have other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(store: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Trained by one process, at ZeRO stage 0."""
    run = prepared(tmp_path_factory.mktemp("runs") / "undisturbed", store, 0)
    run_training(run.path)
    return run


def prepared(folder: Path, store: Path, stage: int, *more: str) -> RunFolder:
    settings = load_config(None, [*SETTINGS, f"training.zero_stage={stage}", *more])
    return RunFolder.prepare(folder, settings, store, None)


def start(run: RunFolder, *how: object, world: int = 1, limit: float = 100.0) -> tuple[list[int], str]:
    """Run the program as `world` processes of one run; their exit codes, and what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command: Sequence[str] = [sys.executable, str(PROGRAM), str(run.path), *map(str, how)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=os.environ | place, **pipes))  # type: ignore[call-overload]
    until = time.monotonic() + limit
    said = []
    try:
        for rank, one in enumerate(started):
            if how[:2] == ("freeze", rank):  # it will not end by itself
                one.kill()
            said.append(one.communicate(timeout=max(0.1, until - time.monotonic()))[0])
    finally:
        for one in started:
            one.kill()
            one.wait()
    return [one.returncode for one in started], b"\n".join(said).decode()


def assert_as_undisturbed(run: RunFolder, undisturbed: RunFolder, tolerance: float) -> None:
    """The same predictions of held-out people, and the same epochs, each once, with the same losses."""
    mine, its = (pd.read_csv(one.held_out, sep="\t") for one in (run, undisturbed))
    np.testing.assert_allclose(mine["brain_age"], its["brain_age"], rtol=tolerance, atol=0)
    curves = []
    for one in (run, undisturbed):
        lines = [json.loads(line) for line in one.metrics.read_text().splitlines()]
        curves.append({(line["member"], line["epoch"], line["step"]): line["loss"] for line in lines})
        assert len(curves[-1]) == len(lines)
    assert sorted(curves[0]) == sorted(curves[1])
    assert curves[0] == pytest.approx(curves[1], rel=tolerance)


def told_to_stop(run: RunFolder) -> None:
    """Begin with this very process, and stop it after an epoch."""
    with pytest.raises(Stopped):
        run_training(run.path, on_epoch=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert run.status()["state"] == "stopped"


@pytest.mark.timeout(200)
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    """In the middle of writing a checkpoint; when it is there but nothing says so; between two; in the
    middle of removing those of a finished member."""
    run = prepared(tmp_path / "run", store, 0)
    cuts = [("write", 0, 3), ("mark", 0, 2), ("kill", 0, 3), ("remove", 0, 1)]
    left = []
    for how in cuts:
        codes, said = start(run, "--save", *how)
        assert codes == [KILLED], said
        assert (run.path / LEASE).is_file()
        left.append([path.name for path in run.checkpoints.iterdir() if path.is_dir()])
    assert left[:3] == [["member-0"]] * 3
    assert left[3][0].startswith(".member-0"), "what was finished is being removed"
    run_training(run.path)
    assert run.status()["restarts"] == len(cuts)
    assert_as_undisturbed(run, undisturbed, 0.0)
    (run.checkpoints / ".member-1.json.01234567.tmp").touch()  # of a kill while a finished member is saved
    run.finish()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        f"member-{index}.{kind}" for index in (0, 1) for kind in ("json", "safetensors")
    ]


@pytest.mark.timeout(200)
def test_one_of_two_is_told_to_stop_and_one_process_goes_on(
    store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = prepared(tmp_path / "run", store, 3)
    codes, said = start(run, "stop", 1, 3, world=2)
    assert codes == [STOPPED_EXIT, STOPPED_EXIT], said
    assert run.status()["state"] == "stopped"
    (step,) = (run.checkpoints / "member-0").iterdir()
    assert sorted(path.name for path in step.glob("*.json")) == ["rank-0.json", "rank-1.json"]
    run_training(run.path)
    assert_as_undisturbed(run, undisturbed, 1e-4)


@pytest.mark.timeout(200)
def test_one_of_two_is_told_to_stop_at_the_very_last_step_and_both_do_with_every_member_saved(
    store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = prepared(tmp_path / "run", store, 0)
    steps = 2 * json.loads(undisturbed.metrics.read_text().splitlines()[-1])["step"]  # of two members
    codes, said = start(run, "stop", 1, steps, world=2)
    assert codes == [STOPPED_EXIT, STOPPED_EXIT], said
    assert run.status()["state"] == "stopped"
    assert len(list(run.checkpoints.glob("member-*.json"))) == 2
    run_training(run.path)
    assert_as_undisturbed(run, undisturbed, 1e-4)


@pytest.mark.timeout(200)
def test_one_process_is_followed_by_two_of_which_one_is_killed_and_the_other_ends_soon(
    store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = prepared(tmp_path / "run", store, 2)
    told_to_stop(run)
    codes, said = start(run, "--save", "kill", 1, 5, world=2, limit=80)
    assert codes == [ExitCode.INPUT, KILLED], said
    assert "another process of the run has ended" in said
    assert "has ended" in run.status()["error"]
    assert any(run.checkpoints.glob("member-0/*/rank-1.json"))
    run_training(run.path)
    assert_as_undisturbed(run, undisturbed, 1e-4)


@pytest.mark.timeout(200)
def test_members_that_one_process_trains_together_go_on_by_two_processes_and_by_one_again(
    store: Path, one_thread: None, tmp_path: Path
) -> None:
    together = "training.validation=0"
    left_alone = prepared(tmp_path / "alone", store, 0, together)
    run_training(left_alone.path)
    run = prepared(tmp_path / "run", store, 0, together)
    told_to_stop(run)
    assert [path.name for path in run.checkpoints.glob("member*/")] == ["members-0-1"]
    codes, said = start(run, "stop", 1, 2, world=2)
    assert codes == [STOPPED_EXIT, STOPPED_EXIT], said
    (own,) = (run.checkpoints / "member-0").iterdir()
    (shared,) = (run.checkpoints / "members-0-1").iterdir()
    assert own.name > shared.name, "it went on from its share"
    run_training(run.path)
    assert_as_undisturbed(run, left_alone, 1e-4)


@pytest.mark.timeout(90)
def test_a_process_that_freezes_does_not_hold_the_others_for_ever(store: Path, tmp_path: Path) -> None:
    run = prepared(tmp_path / "run", store, 0, "training.timeout_minutes=0.15")
    codes, said = start(run, "freeze", 1, 3, world=2, limit=80)
    assert codes == [ExitCode.INPUT, KILLED], said
    assert "another process of the run has ended or does not answer" in said
    assert run.status()["state"] == "failed"


@pytest.mark.timeout(120)
def test_a_disk_that_is_full_costs_the_checkpoints_and_nothing_else(
    store: Path, undisturbed: RunFolder, tmp_path: Path
) -> None:
    run = prepared(tmp_path / "run", store, 0)
    codes, said = start(run, "--save", "full", 0, 12_000)
    assert codes == [0], said
    assert "could not be saved, and training goes on" in said
    assert "Traceback" not in said
    assert_as_undisturbed(run, undisturbed, 0.0)
