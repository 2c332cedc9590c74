"""Who scores: what the command line may ask for, and whom workers listen to."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed.core import Status

from hpc_brainage.cluster.resources import Flags, Resources
from hpc_brainage.errors import EnvironmentLacks, ScoringError, UsageError
from hpc_brainage.scoring.crew import hired
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.local_crew import LocalWorkers
from hpc_brainage.scoring.slurm_crew import SlurmJobs, _cluster_kind, _job, _settings


def test_nothing_said_means_this_machine() -> None:
    assert Fleet.of(None, None) == Fleet.of("local", None) == Fleet()


def test_a_site_s_words_reach_its_jobs(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        'account = "lab"\npartition = "cpu"\nsetup = ["module load x"]\n'
        '[extra]\nreservation = "a course"\n[score]\npartition = "gpu"\ngpus_per_worker = 1\ntime = 60\n'
    )
    fleet = Fleet.of(str(tmp_path / "site.toml"), None, workers=4, gpus=2)
    assert fleet.resources is not None
    job = _job(_settings(fleet.resources, 2), 2, fleet.resources, tmp_path / "my logs")
    assert (job["queue"], job["account"], job["walltime"], job["processes"]) == ("gpu", "lab", "60", 2)
    assert {"--no-requeue", "--gpus-per-node=2", "--reservation='a course'"} <= set(
        job["job_extra_directives"]
    )
    assert any("my logs/job-%j.log'" in line for line in job["job_extra_directives"])
    assert job["job_script_prologue"][0] == "module load x"
    assert "export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION=3300s" in job["job_script_prologue"]


def test_what_is_typed_goes_above_a_site_s_words(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(
        'account = "lab"\n[score]\npartition = "gpu"\nqos = "long"\ntime = 60\n'
    )
    flags = Flags("short,gpu", "other", "night", "02:00:00")
    fleet = Fleet.of(str(tmp_path / "site.toml"), None, flags=flags)
    assert fleet.resources is not None
    job = _job(_settings(fleet.resources, 0), 0, fleet.resources, tmp_path)
    assert (job["queue"], job["account"], job["walltime"]) == ("short,gpu", "other", "120")
    assert "--qos=night" in job["job_extra_directives"]


def test_a_worker_without_gpus_is_told_to_take_none(tmp_path: Path) -> None:
    job = _job(_settings(Resources(), 0), 0, Resources(), tmp_path)
    assert "export BRAINAGE_DEVICE=cpu" in job["job_script_prologue"]
    assert "export OMP_NUM_THREADS=2" in job["job_script_prologue"]


@pytest.mark.timeout(60)
def test_workers_leave_the_environment_of_their_starter_as_it_was(tmp_path: Path) -> None:
    before = dict(os.environ)
    with hired(Fleet(workers=1), 1, tmp_path) as crew:
        assert crew.client.submit(os.environ.get, "OMP_NUM_THREADS").result(timeout=30)
    assert dict(os.environ) == before


@pytest.mark.timeout(120)
def test_workers_that_dask_has_given_up_are_replaced_under_their_names(tmp_path: Path) -> None:
    def names() -> set[int]:
        return {worker["name"] for worker in crew.client.scheduler_info(n_workers=-1)["workers"].values()}

    with hired(Fleet(workers=1), 1, tmp_path) as crew:
        crew.client.wait_for_workers(1, timeout=50)
        crew.client.retire_workers(close_workers=True)  # for good, with what would start it again
        before = names()
        while not names():
            crew.tend(0)
            time.sleep(0.1)
        assert (before, names()) == (set(), {0})


class GivenUp:
    """Stands in for Dask's cluster: each worker is given up as soon as it is there."""

    def __init__(self, status: Status) -> None:
        self.workers = {0: SimpleNamespace(status=status)}
        self.loop = SimpleNamespace(add_callback=lambda function, *words: None)


def test_nobody_waits_for_workers_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_brainage.scoring.local_crew._PATIENCE", 0.2)
    workers = LocalWorkers(GivenUp(Status.running), 1)
    workers.tend(present=0, done=0)
    time.sleep(0.3)
    workers.tend(present=1, done=0)
    workers.tend(present=0, done=0)
    time.sleep(0.3)
    with pytest.raises(ScoringError, match="there is no worker, and none has come"):
        workers.tend(present=0, done=0)


def test_workers_that_end_for_nothing_are_not_started_for_ever() -> None:
    workers = LocalWorkers(GivenUp(Status.closed), 1)
    for done in range(20):
        workers.tend(present=0, done=done)
    for _ in range(2):
        workers.tend(present=0, done=19)
    with pytest.raises(ScoringError, match="4 workers could not be started"):
        workers.tend(present=0, done=19)


@pytest.mark.skipif(importlib.util.find_spec("dask_jobqueue") is None, reason="needs dask-jobqueue")
def test_ctrl_c_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    _cluster_kind([])
    assert "dask_jobqueue.runner" in sys.modules
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("cluster", "scheduler", "more", "message"),
    [
        (None, "tcp://x:1", {"workers": 2}, "leave --workers away"),
        ("slurm", "tcp://x:1", {}, "leave --cluster away"),
        (None, None, {"most": 4}, "--cluster slurm as well"),
        ("local", None, {"least": 0}, "--cluster slurm as well"),
        (None, None, {"gpus": 2}, "uses one GPU"),
        ("slurm", None, {"least": 2}, "without an upper bound"),
        ("slurm", None, {"workers": 2, "most": 3}, "either fixed or follows"),
        ("slurm", None, {"least": 4, "most": 3}, "the wrong way round"),
        ("slumr", None, {}, "there is no such cluster"),
        ("local", None, {"flags": Flags(partition="gpu")}, "no job is submitted"),
        (None, "tcp://x:1", {"flags": Flags(time="90")}, "leave --time away"),
        ("slurm", None, {"flags": Flags(time="soon")}, "--time soon"),
    ],
)
def test_words_that_contradict_each_other_are_refused(
    cluster: str | None, scheduler: str | None, more: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Fleet.of(cluster, scheduler, **more)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_scheduler_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_brainage.scoring.crew._CONNECT", "1s")
    fleet = Fleet(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(EnvironmentLacks, match="no Dask scheduler answers"), hired(fleet, 1, tmp_path):
        pass


def test_without_slurm_there_are_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    fleet = Fleet(resources=Resources())
    with pytest.raises(EnvironmentLacks, match="no SLURM"), hired(fleet, 1, tmp_path):
        pass


@pytest.mark.timeout(240)
def test_nobody_without_the_run_s_certificate_is_listened_to(tmp_path: Path) -> None:
    from distributed import Client

    with hired(Fleet(workers=1), 1, tmp_path) as crew:
        address = crew.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert crew.client.submit(sum, (1, 2)).result(timeout=100) == 3
        with pytest.raises((OSError, TypeError, RuntimeError)):
            Client(address.replace("tls", "tcp"), timeout="3s", set_as_default=False)
        with pytest.raises((OSError, TypeError, RuntimeError)):
            Client(address, timeout="3s", set_as_default=False)


class Cluster:
    """Stands in for dask-jobqueue's: jobs that are gone, and nobody who has scored anything."""

    def __init__(self) -> None:
        self.worker_spec: dict[str, object] = {}
        self.workers: dict[str, object] = {}
        self.scheduler_info: dict[str, dict] = {"workers": {}}
        self.loop = self
        self.asked = 0
        self.scale(1)

    def scale(self, jobs: int) -> None:
        self.asked += 1
        self.worker_spec = {f"job {self.asked}-{place}": None for place in range(jobs)}

    def add_callback(self, function, *words) -> None:  # type: ignore[no-untyped-def]
        function(*words)


def test_jobs_that_end_for_nothing_are_not_submitted_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_brainage.scoring.slurm_crew._LOOKS_EVERY", 0.0)
    cluster = Cluster()
    jobs = SlurmJobs(cluster, 1, [], {}, tmp_path)
    for _ in range(3):
        jobs.tend(present=0, done=0)
    with pytest.raises(EnvironmentLacks, match="4 jobs ended before they had scored anything"):
        jobs.tend(present=0, done=0)
    jobs = SlurmJobs(Cluster(), 1, [], {}, tmp_path)
    for done in range(20):
        jobs.tend(present=1, done=done)


def test_a_refusal_of_slurm_is_said_with_the_setting(tmp_path: Path) -> None:
    said = "Command exited\nstderr:\nsbatch: error: Invalid feature specification\n"
    jobs = SlurmJobs(Cluster(), 1, [said], {"constraint": "a100"}, tmp_path)
    with pytest.raises(UsageError, match="SLURM refuses the jobs") as caught:
        jobs.tend(present=0, done=0)
    assert "constraint = 'a100'" in str(caught.value)
