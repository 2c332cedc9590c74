"""One process of a run: how it ends, and what it leaves behind when it fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpc_brainage.cli import worker
from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.run_job import job_of, keep_job, plan_job
from hpc_brainage.cluster.starts import UNRECORDED, Start
from hpc_brainage.errors import EnvironmentLacks, StoreError
from hpc_brainage.training.distributed import LostProcess, join_processes
from hpc_brainage.training.stop import STOPPED_EXIT, Stopped


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A start of a job in which this process is rank 1, and has been told where to meet."""
    folder = tmp_path / "run" / "logs" / "12-0"
    folder.mkdir(parents=True)
    start = Start(folder)
    start.meet_here("node1", 15012)
    for name, value in {"BRAINAGE_START": str(folder), "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(worker.signal, "signal", lambda number, handler: None)
    return start


def works(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> int:
    def work(run: Path, on_start: Callable[[object], None]) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(worker, "work", work)
    return worker.main(["run"])


def test_the_code_for_what_goes_on_later_is_training_s_own() -> None:
    assert worker.STOPPED_EXIT == STOPPED_EXIT == 75


def test_a_process_that_was_told_to_stop_ends_with_a_code_of_its_own(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works(monkeypatch, None) == 0
    assert works(monkeypatch, Stopped("step 7")) == STOPPED_EXIT
    assert start.failures() == []


@pytest.mark.parametrize(
    ("error", "is_loss", "code"),
    [
        (StoreError("the store is damaged"), False, 3),
        (ZeroDivisionError("no"), False, 1),
        (RuntimeError("CUDA out of memory"), False, 1),
        (LostProcess("gone"), True, 3),
        (RuntimeError("[pair.cc:537] Connection closed by peer [10.0.0.2]:1"), True, 1),
        (RuntimeError("NCCL error: remote process exited"), True, 1),
        (StoreError("no socket for NCCL"), False, 3),
    ],
)
def test_a_process_writes_down_whether_it_failed_of_itself(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception, is_loss: bool, code: int
) -> None:
    assert works(monkeypatch, error) == code
    (failure,) = start.failures()
    assert (failure.rank, failure.is_loss) == (1, is_loss)
    assert str(error) in failure.what
    kind = "lost" if is_loss else "failed"
    assert json.loads((start.folder / f"{kind}-1.json").read_text())["what"] == str(error)


def test_a_failure_to_meet_the_others_is_written_down_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else rank 1 would wait for ten minutes for a rank 0 that is gone."""
    folder = tmp_path / "run" / "logs" / "12-0"
    folder.mkdir(parents=True)
    words = {"START": str(folder), "INTERFACE": "ib9"}
    for name, value in {f"BRAINAGE_{name}": value for name, value in words.items()}.items():
        monkeypatch.setenv(name, value)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(worker.signal, "signal", lambda number, handler: None)
    assert works(monkeypatch, None) == 5
    (failure,) = Start(folder).failures()
    assert (failure.rank, failure.is_loss, "interface" in failure.what) == (0, False, True)


def test_a_process_without_a_gpu_of_its_own_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --nodes 2 --cluster local on a machine with one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in (words | {"LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentLacks, match="no GPU of its own"):
        join_processes("auto")


def test_a_full_disk_is_said_and_ends_with_a_code_that_nobody_starts_again_after(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
    assert works(monkeypatch, full) == 5
    (failure,) = start.failures()
    assert "model.safetensors" in failure.what
    (start.folder / "failed-1.json").unlink()

    def finds_no_room(self: Start, rank: int, what: str, is_loss: bool) -> None:
        raise full

    monkeypatch.setattr(Start, "record", finds_no_room)
    assert works(monkeypatch, full) == UNRECORDED
    said = capsys.readouterr().err
    assert said.count("cannot be used (No space left on device)") == 2
    assert "Traceback" not in said


def test_a_job_whose_run_was_finished_while_it_waited_changes_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (start.run / "status.json").write_text('{"state": "finished"}')
    monkeypatch.setenv("RANK", "0")

    def work(run: Path, on_start: Callable[[object], None]) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(worker, "work", work)
    before = sorted(start.run.rglob("*"))
    assert worker.main([str(start.run)]) == 0
    assert sorted(start.run.rglob("*")) == before


def test_a_defect_shows_itself_in_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works(monkeypatch, ZeroDivisionError("no"))
    assert "Traceback" in capsys.readouterr().err
    works(monkeypatch, StoreError("the store is damaged"))
    assert "Traceback" not in capsys.readouterr().err


def test_a_job_that_may_train_leaves_its_number_in_the_run_s_folder(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the lease is its own: that is when training says that it has started."""
    planned = plan_job(start.run, 1, Resources(), "slurm").model_copy(update={"id": "200"})
    keep_job(start.run, planned)
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    found = []

    def look() -> None:
        job = job_of(start.run)
        assert job is not None
        found.append(job.id)

    def work(run: Path, on_start: Callable[[object], None]) -> None:
        look()
        on_start(None)
        look()

    monkeypatch.setattr(worker, "work", work)
    assert worker.main([str(start.run)]) == 0
    assert found == ["200", "100"]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_process_that_is_told_to_stop_while_it_waits_ends_at_once(tmp_path: Path, number: int) -> None:
    """Rank 1 waits for a rank 0 that never comes: nothing has been trained, nothing is to be saved."""
    folder = tmp_path / "logs" / "12-0"
    folder.mkdir(parents=True)
    env = os.environ | {"BRAINAGE_START": str(folder), "RANK": "1", "TMPDIR": str(tmp_path)}
    env.pop("TRITON_CACHE_DIR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "hpc_brainage.cli.worker", str(tmp_path)],
        env=env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        caches = tmp_path / f"brainage-{os.getuid()}"
        until = time.monotonic() + 20
        while not caches.exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=10)[1]
    finally:
        process.kill()
    assert (process.returncode, "told to stop" in said) == (STOPPED_EXIT, True)


def test_what_libraries_do_on_the_way_out_does_not_change_how_a_job_ended() -> None:
    """Threads of gloo and of torch's store have aborted processes whose work was done."""
    words = (
        "import atexit, os, runpy; atexit.register(os.abort); runpy.run_module('hpc_brainage.cli.worker',"
    )
    left = subprocess.run(
        [sys.executable, "-c", f"{words} run_name='__main__')"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (left.returncode, "one run folder is needed" in left.stderr) == (2, True), left.stderr
