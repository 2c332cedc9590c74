"""`brainage train --nodes`, and jobs, logs, cancel and resume: what is submitted, and what is said.

SLURM only pretends here; `tests/slurm` has the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cli.commands import RUN, SETTINGS, TINY, Answer, Brainage, epoch

from hpc_brainage.cli import launch
from hpc_brainage.cluster.process import started_at
from hpc_brainage.cluster.resources import Resources
from hpc_brainage.cluster.run_job import job_of, keep_job, plan_job
from hpc_brainage.cluster.starts import Start
from hpc_brainage.config import load_config
from hpc_brainage.training.lease import Lease
from hpc_brainage.training.records import RunFolder

pytestmark = pytest.mark.usefixtures("openbhb")


def test_a_run_on_nodes_is_prepared_and_submitted(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    answer = brainage("train", "--nodes", 2, *SETTINGS)
    assert answer.code == 0, answer.text
    assert "submitted job 100: 2 processes on 2 nodes -> runs/openbhb" in answer.text
    for words in ("--follow", "brainage logs runs/openbhb", "brainage cancel runs/openbhb"):
        assert words in answer.text
    asked = (slurm / "job-1").read_text()
    assert "#SBATCH --nodes=2" in asked
    assert f"run={tmp_path / RUN}" in asked
    assert (tmp_path / RUN / "request.json").is_file()


def test_gpus_are_for_a_job_too(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('partition = "gpu"\n[train]\ncpus_per_task = 8')
    answer = brainage("train", "--gpus-per-node", 4, "--cluster", "site.toml", *SETTINGS)
    assert "4 processes on 1 node " in answer.text
    asked = (slurm / "job-1").read_text()
    for line in ("--gpus-per-node=4", "--ntasks-per-node=4", "--cpus-per-task=8", "--partition=gpu"):
        assert f"#SBATCH {line}\n" in asked


def test_a_dry_run_prints_what_would_be_submitted_and_nothing_else(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    printed = brainage("train", "--nodes", 2, "--dry-run", *SETTINGS)
    assert printed.code == 0
    assert printed.out.startswith("#!/bin/bash\n")
    assert not (slurm / "job-1").exists()
    brainage("train", "--nodes", 2, *SETTINGS)
    assert (slurm / "job-1").read_text() == printed.out


def test_a_run_whose_job_is_there_is_not_submitted_twice(brainage: Brainage, slurm: Path) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm / "queue").write_text("100|PENDING|Priority|1:00:00|\n")
    for words in (("train", "--nodes", 2, *SETTINGS), ("resume", RUN)):
        answer = brainage(*words)
        assert "job 100 of this run is there already (pending)" in answer.text
    assert not (slurm / "job-2").exists()


def test_nothing_is_submitted_while_slurm_does_not_say_whether_a_job_is_there(
    brainage: Brainage, slurm: Path
) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm.parent / "programs" / "squeue").write_text("#!/bin/sh\nexit 1")
    for words in (("train", "--nodes", 2, *SETTINGS), ("resume", RUN)):
        answer = brainage(*words)
        assert (answer.code, "SLURM does not answer" in answer.text) == (5, True), answer.text
    assert "SLURM does not answer" in brainage("jobs").text
    assert not (slurm / "job-2").exists()


def test_a_cluster_whose_controller_is_away_is_not_taken_for_none(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    (slurm.parent / "programs" / "sinfo").write_text("#!/bin/sh\nexit 1")
    answer = brainage("train", "--nodes", 2, *SETTINGS)
    assert (answer.code, "SLURM does not answer" in answer.text) == (5, True), answer.text
    assert "login node" not in answer.text
    assert not (tmp_path / "runs").exists()


def test_other_settings_do_not_reach_a_job_that_waits(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    before = (tmp_path / RUN / "config.toml").read_text()
    (slurm / "queue").write_text("100|PENDING|Priority|1:00:00|\n")
    for words in (("--set", "training.epochs=5"), ("--where", "age > 21")):
        answer = brainage("train", "--nodes", 2, *SETTINGS, *words)
        assert (answer.code, "with other settings" in answer.text) == (3, True), answer.text
    assert (tmp_path / RUN / "config.toml").read_text() == before


def test_gpus_of_the_command_have_one_process_each(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('partition = "gpu"\n[train]\ngpus_per_node = 4\ntasks_per_node = 4')
    answer = brainage("train", "--gpus-per-node", 2, "--cluster", "site.toml", *SETTINGS)
    assert answer.code == 0, answer.text
    asked = (slurm / "job-1").read_text()
    assert "#SBATCH --gpus-per-node=2\n" in asked
    assert "#SBATCH --ntasks-per-node=2\n" in asked


def test_a_run_is_resumed_as_it_was_submitted(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[train]\ncpus_per_task = 3")
    brainage("train", "--nodes", 2, "--cluster", "site.toml", *SETTINGS)
    (tmp_path / "site.toml").unlink()
    (slurm / "queue").write_text("100|TIMEOUT|TimeLimit|0:00|\n")
    assert "submitted job 200" in brainage("resume", RUN).text
    assert (slurm / "job-2").read_text() == (slurm / "job-1").read_text()
    job = job_of(tmp_path / RUN)
    assert job is not None
    assert job.id == "200"


def test_a_run_of_somebody_else_is_not_resumed(
    brainage: Brainage, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code in its folder would run with one's own rights."""
    brainage("train", "--nodes", 2, *SETTINGS)
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    answer = brainage("resume", RUN)
    assert (answer.code, "somebody else's" in answer.text) == (3, True)
    assert not (slurm / "job-2").exists()


def test_runs_are_listed_with_how_far_they_are(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    assert "there are no runs" in brainage("jobs").text
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    epoch(tmp_path, 0, 1)
    RunFolder(tmp_path / RUN).update(state="running", restarts=1)
    assert re.search(r"openbhb 100 running 3 2/3 1/2 - 1 0:42:00", brainage("jobs").text)
    (slurm / "queue").write_text("100|PENDING|BeginTime|1:00:00|\n")
    assert re.search(r"openbhb 100 pending \(BeginTime\) 3", brainage("jobs").text)


def test_members_that_are_trained_in_one_pass_are_all_counted(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    """Members of folds of one size share a pass, so that the last line may be of an early one."""
    brainage("train", "--nodes", 2, *SETTINGS, "--set", "training.ensemble=2")
    with (tmp_path / RUN / "metrics.jsonl").open("a") as file:
        for member in (0, 3, 1, 2):
            file.write(json.dumps({"member": member, "epoch": 2, "step": 9, "loss": 1.0}) + "\n")
    assert re.search(r"openbhb 100 \S+ 9 3/3 4/4", brainage("jobs").text), brainage("jobs").text


def test_a_run_that_cannot_be_read_hides_no_other(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    for name in ("good", "bad", "worse"):
        brainage("train", "--nodes", 2, "--name", name, *SETTINGS)
    config = tmp_path / "runs" / "bad" / "config.toml"
    config.write_text("no_such_setting = 1\n" + config.read_text())
    (tmp_path / "runs" / "worse" / "job.json").write_text("{")
    (tmp_path / "runs" / "good" / "starts.jsonl").write_text('{"job": "1')
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    answer = brainage("jobs")
    assert answer.code == 0, answer.text
    assert re.search(r"bad - not readable .*good 100 running .*worse - not readable", answer.text)
    assert "no_such_setting" in answer.text
    assert "job.json" in answer.text


def test_a_run_of_this_machine_is_listed_beside_them(
    brainage: Brainage, trained: tuple[Path, Answer]
) -> None:
    answer = brainage("jobs", "--runs", trained[0] / "runs")
    assert re.search(r"openbhb this machine finished \d+ 3/3 2/2 - 0 -", answer.text), answer.text


def test_a_run_that_is_trained_here_already_is_not_started_twice(
    brainage: Brainage, tmp_path: Path
) -> None:
    settings = load_config(None, list(TINY))
    run = RunFolder.prepare(tmp_path / RUN, settings, tmp_path / "openbhb.zarr", None)
    with subprocess.Popen(["sleep", "30"]) as other:
        here = {"id": str(other.pid), "host": os.uname().nodename, "ticks": started_at(other.pid)}
        keep_job(run.path, plan_job(run.path, 2, Resources(), "local").model_copy(update=here))
        for words in (("train", "--nodes", 2, "--cluster", "local", *SETTINGS), ("resume", RUN)):
            answer = brainage(*words)
            assert f"this run is trained here already (process {other.pid})" in answer.text, answer.text
        kept = job_of(run.path)
        assert kept is not None
        assert kept.id == str(other.pid)
        other.kill()


def test_a_run_that_another_machine_trains_is_refused_and_its_job_stays_as_it_is(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    run = RunFolder.prepare(tmp_path / RUN, load_config(None, list(TINY)), tmp_path / "openbhb.zarr", None)
    elsewhere = {"id": str(os.getpid()), "host": "node7", "ticks": started_at(os.getpid())}
    keep_job(run.path, plan_job(run.path, 2, Resources(), "local").model_copy(update=elsewhere))
    lease, job = run.path / "lease.json", (run.path / "job.json").read_bytes()
    owner = {"token": "other", "host": "node7", "pid": 4711, "machine": "elsewhere", "born": "1"}
    lease.write_text(json.dumps(owner | {"job": None, "start": 0}))
    over = threading.Event()

    def alive() -> None:
        while not over.wait(0.2):
            os.utime(lease)

    heart = threading.Thread(target=alive)
    heart.start()
    try:
        for words in (
            ("train", "--nodes", 2, "--cluster", "local", *SETTINGS), ("train", "--nodes", 2, *SETTINGS),
            ("resume", RUN),
        ):  # fmt: skip
            answer = brainage(*words)
            assert answer.code == 3, answer.text
            assert "another training is under way in this folder (process 4711 on node7)" in answer.text
    finally:
        over.set()
        heart.join()
    assert (run.path / "job.json").read_bytes() == job
    assert not (slurm / "job-1").exists()
    assert not list((run.path / "logs").iterdir())


def test_a_job_that_slurm_has_ended_is_succeeded_at_once(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    """Its lease may be left on a node that nobody can ask."""
    brainage("train", "--nodes", 2, *SETTINGS)
    owner = {"token": "other", "host": "node7", "pid": 4711, "machine": "elsewhere", "born": "1"}
    (tmp_path / RUN / "lease.json").write_text(json.dumps(owner | {"job": "100", "start": 0}))
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    started = time.monotonic()
    assert "submitted job 200" in brainage("resume", RUN).text
    assert time.monotonic() - started < 10


def test_a_run_whose_process_was_killed_is_not_running(brainage: Brainage, tmp_path: Path) -> None:
    run = RunFolder.prepare(tmp_path / RUN, load_config(None, list(TINY)), tmp_path / "openbhb.zarr", None)
    run.update(state="running")
    with Lease(run.path / "lease.json"):
        assert "running" in brainage("jobs").text
        written = json.loads((run.path / "lease.json").read_text())
    with subprocess.Popen(["true"]) as other:
        other.wait()
    (run.path / "lease.json").write_text(json.dumps(written | {"pid": other.pid}))
    assert "interrupted" in brainage("jobs").text


def test_a_copy_of_a_run_has_no_job(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    shutil.copytree(tmp_path / RUN, tmp_path / "runs" / "copy", symlinks=True)
    answer = brainage("cancel", "runs/copy")
    assert (answer.code, "has no job" in answer.text) == (3, True)
    assert not (slurm / "cancelled").exists()
    assert "submitted job 200" in brainage("resume", "runs/copy").text
    assert f"PYTHONPATH={tmp_path}/runs/copy/code/" in (slurm / "job-2").read_text()


def test_what_is_trained_here_after_its_job_was_cancelled_runs_and_can_be_cancelled(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    run = RunFolder(tmp_path / RUN)
    run.update(state="running", restarts=3)
    with Lease(run.path / "lease.json"):
        written = json.loads((run.path / "lease.json").read_text())
    with subprocess.Popen(["sleep", "60"]) as here:
        mine = {"pid": here.pid, "born": str(started_at(here.pid))}
        (run.path / "lease.json").write_text(json.dumps(written | mine))
        assert re.search(r"openbhb +this machine +running .* 3 ", brainage("jobs").text)
        answer = brainage("cancel", RUN)
        assert (answer.code, f"told process {here.pid}" in answer.text) == (0, True)
        assert here.wait(timeout=10) == -signal.SIGTERM
    assert re.search("openbhb +100 +cancelled", brainage("jobs").text)


def test_a_job_is_cancelled_by_its_run(brainage: Brainage, slurm: Path) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    answer = brainage("cancel", RUN)
    assert (answer.code, (slurm / "cancelled").read_text()) == (0, "100\n")
    assert "brainage resume runs/openbhb" in answer.text
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    again = brainage("cancel", RUN)
    assert (again.code, "has ended already (cancelled)" in again.text) == (3, True)


def test_a_run_that_was_cancelled_goes_on_with_what_another_toml_asks_for(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    (tmp_path / "other.toml").write_text('[train]\npartition = "long"\ntime = "2-00:00:00"')
    words = ("train", "--nodes", 2, "--cluster", "other.toml", *SETTINGS)
    (slurm / "queue").write_text("100|PENDING|Resources|1:00:00|\n")
    assert "nothing was submitted" in brainage(*words).text
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    assert "submitted job 200" in brainage(*words).text
    asked = (slurm / "job-2").read_text()
    assert "#SBATCH --partition=long\n" in asked
    assert "#SBATCH --time=2880\n" in asked
    (slurm / "queue").write_text("200|CANCELLED|None|0:00|\n")
    brainage("resume", RUN)
    assert (slurm / "job-3").read_text() == asked


def test_logs_are_those_of_the_first_process_that_failed(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage("train", "--nodes", 2, *SETTINGS)
    logs = tmp_path / RUN / "logs"
    nothing = brainage("logs", RUN)
    assert (nothing.code, "there is no such log" in nothing.text) == (3, True)
    (logs / "job-100.log").write_text("module: command not found\n")
    assert "module: command not found" in brainage("logs", RUN).text
    for rank in range(2):
        (logs / f"rank-{rank}.log").write_text("".join(f"rank {rank} line {i}\n" for i in range(50)))
    assert "rank 0 line 49" in brainage("logs", RUN).text
    (logs / "100-0").mkdir()
    Start(logs / "100-0").record(1, "no", is_loss=False)
    failed = brainage("logs", RUN).text
    assert "rank 1 line 49" in failed
    assert "rank 1 line 10 " not in failed
    assert "rank 1 line 10 " in brainage("logs", RUN, "--rank", 1).text
    missing = brainage("logs", RUN, "--rank", 7)
    assert (missing.code, "one of job-100.log, rank-0.log" in missing.text) == (3, True)


def test_what_a_job_asks_for_may_be_typed_and_is_kept(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('account = "lab"\n[train]\npartition = "gpu"\ntime = 60')
    flags = ("--partition", "long", "--account", "other", "--qos", "night", "--time", "2-00:00:00")
    words = ("train", "--nodes", 2, "--cluster", "site.toml", *flags, *SETTINGS)
    printed = brainage(*words, "--dry-run").out
    for line in ("--partition=long", "--account=other", "--qos=night", "--time=2880"):
        assert f"#SBATCH {line}\n" in printed
    assert "submitted job 100" in brainage(*words).text
    assert (slurm / "job-1").read_text() == printed
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    assert "submitted job 200" in brainage("resume", RUN).text
    assert (slurm / "job-2").read_text() == printed


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train", "--nodes", "5"), 2, "partition main has 4 nodes, and the job asks for 5"),
        (("train", "--nodes", "2", "--gpus-per-node", "1"), 2, "has no node with as many GPUs"),
        (("train", "--cluster", "slrum"), 2, "there is no such cluster"),
        (("train", "--cluster", "Local"), 2, "auto, local, slurm, or the path"),
        (("train", "--nodes", "3", "--set", "training.batch_size=2"), 2, "3 processes cannot share a step"),
        (("train", "--nodes", "2", "--name", "../x"), 2, "a run's name is one word"),
        (("train", "--nodes", "2", "--name", "a/b"), 2, "a run's name is one word"),
        (("train", "--nodes", "2", "--name", ".."), 2, "a run's name is one word"),
        (("train", "--nodes", "2", "--partition", "lnog"), 2, "main (4 nodes), long (2 nodes)"),
        (("train", "--nodes", "2", "--partition", "lnog"), 2, "--partition NAME, or a line in the TOML"),
        (("train", "--nodes", "2", "--time", "9-00:00:00"), 2, "by --time or in the TOML"),
        (("train", "--nodes", "2", "--time", "soon"), 2, "--time soon"),
        (("train", "--time", "9"), 2, "no job is submitted"),
        (("train", "--partition", "main", "--nodes", "2", "--cluster", "local"), 2, "--partition main"),
        (("train", "--dry-run"), 2, "there is no job to print"),
        (("train", "--nodes", "2", "--cluster", "local", "--dry-run"), 2, "there is no job to print"),
        (("resume", "runs/none"), 3, "there is no run here"),
        (("cancel", "runs/none"), 3, "there is no run here"),
        (("logs", "runs/none"), 3, "there is no run here"),
    ],
)
def test_bad_input_is_said_here_and_nothing_is_submitted(
    brainage: Brainage, slurm: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    answer = brainage(*words)
    assert (answer.code, message in answer.text) == (code, True), answer.text
    assert not (slurm / "job-1").exists()
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_slurm_says_how_to_train_anyway(
    brainage: Brainage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for words in (("--nodes", 2), ("--gpus-per-node", 1)):
        answer = brainage("train", *words)
        assert (answer.code, "--cluster local" in answer.text) == (5, True)
    assert brainage("train", "--cluster", "slurm").code == 5
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_of_this_machine_stand_for_two_nodes(brainage: Brainage, tmp_path: Path) -> None:
    answer = brainage("train", "--nodes", 2, "--cluster", "local", *SETTINGS)
    assert answer.code == 0, answer.text
    assert "training in 2 processes -> runs/openbhb" in answer.text
    assert "member 2 of 2, epoch 3 of 3" in answer.text
    assert "held-out error, 2-fold over people" in answer.text
    assert json.loads((tmp_path / RUN / "status.json").read_text())["processes"] == 2
    assert "finished" in brainage("jobs").text
    again = brainage("resume", RUN)
    assert "nothing was left to do" in again.text


@pytest.mark.slow
def test_of_processes_that_fail_here_the_first_is_shown(
    brainage: Brainage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "check_shares", lambda processes, settings: None)
    answer = brainage(
        "train", "--nodes", 3, "--cluster", "local", *SETTINGS, "--set", "training.batch_size=2"
    )
    assert answer.code == 3
    assert "3 processes cannot share a step of 2 scans" in answer.text
    assert re.search(r"rank \d on \S+ failed", answer.text)
    assert "brainage resume runs/openbhb" in answer.text
