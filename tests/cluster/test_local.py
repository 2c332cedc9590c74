"""The processes of a run on this machine: started, watched and ended together."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from hpc_brainage.cluster import local
from hpc_brainage.cluster.local import is_running, run_here
from hpc_brainage.cluster.resources import Resources, TrainResources
from hpc_brainage.cluster.run_job import RunJob, job_of, plan_job
from hpc_brainage.cluster.starts import newest_start

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def job(run: Path, program: str, processes: int = 3) -> RunJob:
    """A job whose worker is a shell script, called with -P -m hpc_brainage.cli.worker RUN."""
    script = run / "worker"
    script.write_text(f"#!/bin/bash\nrun=$4\n{program}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    site = Resources(train=TrainResources(python=str(script)))
    return plan_job(run, processes, site, "local")


def log(run: Path, rank: int) -> str:
    return (run / "logs" / f"rank-{rank}.log").read_text()


def test_each_process_knows_its_place_and_has_its_own_log(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "7")
    looks: list[int] = []
    said = 'echo "$RANK of $WORLD_SIZE, $LOCAL_RANK, ${SLURM_PROCID:-no srun}, ${BRAINAGE_START##*/}, $run"'
    assert run_here(run, job(run, said), lambda: looks.append(1)) == 0
    start = newest_start(run)
    assert start is not None
    for rank in range(3):
        assert log(run, rank) == f"{rank} of 3, {rank}, no srun, {start.folder.name}, {run}\n"
    assert looks
    kept = job_of(run)
    assert kept is not None
    assert (kept.id, kept.host) == (str(os.getpid()), os.uname().nodename)


def test_processes_share_the_cores_of_the_machine(run: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    for processes in (1, cores, 2 * cores):
        run_here(run, job(run, "echo $OMP_NUM_THREADS > $run/threads-$RANK", processes), lambda: None)
        threads = [int((run / f"threads-{rank}").read_text()) for rank in range(processes)]
        assert threads == [max(1, cores // processes)] * processes


def test_a_second_start_has_a_folder_of_its_own_and_the_same_logs(run: Path) -> None:
    for _ in range(2):
        run_here(run, job(run, "echo here"), lambda: None)
    assert len(list((run / "logs").glob("*-local"))) == 2
    assert log(run, 0) == "here\nhere\n"


def test_a_process_that_fails_ends_the_others(run: Path) -> None:
    program = "trap 'echo saved; exit 75' TERM; [ $RANK = 1 ] && exit 3; sleep 20 & wait"
    assert run_here(run, job(run, program), lambda: None) in (3, 75)
    assert (log(run, 0), log(run, 2)) == ("saved\n", "saved\n")


def test_one_that_does_not_listen_is_ended_all_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_TIME_TO_SAVE", 0.5)
    program = "trap '' TERM; [ $RANK = 1 ] && sleep 0.3 && exit 3; for i in {1..200}; do sleep 0.1; done"
    assert run_here(run, job(run, program), lambda: None) in (3, -signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_lets_all_save(run: Path, how: int) -> None:
    def look() -> None:
        if all((run / f"ready-{rank}").exists() for rank in range(2)):
            os.kill(os.getpid(), how)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    program = "trap 'echo saved; exit 75' TERM; touch $run/ready-$RANK; sleep 20 & wait"
    if how == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            run_here(run, job(run, program, 2), look)
    else:
        assert run_here(run, job(run, program, 2), look) == 75
    assert (log(run, 0), log(run, 1)) == ("saved\n", "saved\n")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_processes_do_not_outlive_a_launcher_that_is_killed(run: Path) -> None:
    program = "trap 'echo saved; exit 75' TERM; touch $run/ready-$RANK; sleep 20 & wait"
    planned = job(run, program, 2)
    launcher = os.fork()
    if launcher == 0:
        run_here(run, planned, lambda: None)
        os._exit(0)
    until = time.monotonic() + 10
    while len(list(run.glob("ready-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    while not all(log(run, rank) for rank in range(2)) and time.monotonic() < until:
        time.sleep(0.05)
    assert (log(run, 0), log(run, 1)) == ("saved\n", "saved\n")


def test_a_launching_process_is_known_by_more_than_its_number(run: Path) -> None:
    run_here(run, job(run, "true"), lambda: None)
    kept = job_of(run)
    assert kept is not None
    assert is_running(kept)  # this process launched it
    assert not is_running(kept.model_copy(update={"ticks": kept.ticks + 1}))
    assert not is_running(kept.model_copy(update={"id": str(2**22 + 1)}))
