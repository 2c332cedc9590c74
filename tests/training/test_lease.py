"""One training at a time in a folder: the living are respected, the dead are succeeded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpc_brainage.errors import TrainingError
from hpc_brainage.training.lease import Lease


def lease(folder: Path) -> Lease:
    return Lease(folder / "lease.json", beat=0.05, patience=0.5)


def left_by(folder: Path, **changes: object) -> Path:
    """A lease file as a process elsewhere would have left it."""
    path = folder / "lease.json"
    content = {"token": "other", "host": "node7", "pid": 4711, "machine": "elsewhere", "born": "1"}
    path.write_text(json.dumps(content | {"job": None, "start": 0} | changes))
    return path


def test_while_somebody_trains_nobody_else_may_and_afterwards_anybody(tmp_path: Path) -> None:
    with lease(tmp_path), pytest.raises(TrainingError, match="another training is under way") as refused:
        lease(tmp_path).__enter__()
    assert f"process {os.getpid()} on" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    with lease(tmp_path):
        pass


def test_a_process_of_this_machine_that_is_gone_is_succeeded_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from hpc_brainage.training.lease import Lease\n"
        "Lease(Path(sys.argv[1])).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "lease.json"
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert path.is_file()
    started = time.monotonic()
    with Lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - started < 5


def test_another_machine_s_process_that_gives_no_sign_of_life_is_succeeded(tmp_path: Path) -> None:
    path = left_by(tmp_path)
    started = time.monotonic()
    with lease(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - started > 0.5


def test_another_machine_s_process_that_gives_a_sign_of_life_is_respected(tmp_path: Path) -> None:
    path, over = left_by(tmp_path, job="12"), threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(TrainingError, match=r"process 4711 on node7, job 12"):
            lease(tmp_path).__enter__()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(("start", "waits"), [("1", False), ("0", True)])
def test_an_earlier_start_of_the_same_job_is_known_to_be_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, waits: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", start)
    left_by(tmp_path, job="12", start=0)
    started = time.monotonic()
    with lease(tmp_path):
        assert (time.monotonic() - started > 0.4) == waits


def test_who_was_taken_for_dead_learns_that_it_has_lost_the_folder(tmp_path: Path) -> None:
    with lease(tmp_path) as mine:
        path = left_by(tmp_path)
        until = time.monotonic() + 10
        while not mine.is_lost and time.monotonic() < until:
            time.sleep(0.02)
        assert mine.is_lost
    assert json.loads(path.read_text())["token"] == "other", "the new owner's file stays"


def test_of_many_who_come_at_once_one_trains(tmp_path: Path) -> None:
    taken, refused, over = [], [], threading.Event()

    def come() -> None:
        try:
            with lease(tmp_path):
                taken.append(1)
                over.wait(10)
        except TrainingError:
            refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while len(taken) + len(refused) < 6 and time.monotonic() < until:
        time.sleep(0.02)
    over.set()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 5)
