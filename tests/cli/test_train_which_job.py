"""Which job a run has, whoever submitted it, and what is said where its submission goes wrong.

SLURM only pretends here.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.commands import RUN, SETTINGS, Brainage

from hpc_brainage.cli.follow import Epochs
from hpc_brainage.cluster.run_job import job_of, keep_job, keep_this_job
from hpc_brainage.cluster.starts import Start
from hpc_brainage.training.lease import Lease
from hpc_brainage.training.records import PASSED_OVER, RunFolder

WORDS = ("train", "--nodes", 2, *SETTINGS)
PEOPLE = "participant_id,age,sex,lh_thickness,rh_thickness\n" + "".join(
    f"p{index},{20 + index},F,2.{index},2.5\n" for index in range(20)
)
pytestmark = pytest.mark.usefixtures("openbhb")
BOTH = "100|RUNNING|None|0:42:00|node[1-2]\n200|FAILED|NonZeroExitCode|0:00|\n"


def trained_by(job: str, run: Path) -> None:
    """Leave what a job leaves that trains a run on a node."""
    owner = {"token": "other", "host": "node7", "pid": 4711, "machine": "elsewhere", "born": "1"}
    (run / "logs" / f"{job}-0").mkdir(parents=True)
    (run / "lease.json").write_text(json.dumps(owner | {"job": job, "start": 0}))


def test_a_run_s_job_is_the_one_that_trains_it_whichever_was_kept(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage(*WORDS)
    run = tmp_path / RUN
    kept = job_of(run)
    assert kept is not None
    trained_by("100", run)
    keep_job(run, kept.model_copy(update={"id": "200"}))
    (run / "logs" / "200-0").mkdir()
    Start(run / "logs" / "200-0").record(0, "another training is under way", is_loss=False)
    (run / "logs" / "rank-0.log").write_text("it goes well\n")
    (slurm / "queue").write_text(BOTH)
    assert re.search(r"openbhb 100 running .* 0:42:00", brainage("jobs").text)
    assert "failed first" not in brainage("logs", RUN).text
    for words in (WORDS, ("resume", RUN)):
        assert "job 100 of this run is there already (running)" in brainage(*words).text
    assert brainage("cancel", RUN).code == 0
    assert (slurm / "cancelled").read_text() == "100\n"


def test_a_lease_that_a_job_has_left_does_not_hide_the_one_that_waits(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage(*WORDS)
    run = tmp_path / RUN
    trained_by("90", run)
    (slurm / "queue").write_text("90|NODE_FAIL|None|0:00|\n100|PENDING|Priority|1:00:00|\n")
    assert re.search(r"openbhb 100 pending \(Priority\)", brainage("jobs").text)
    assert brainage("cancel", RUN).code == 0
    assert (slurm / "cancelled").read_text() == "100\n"


def test_a_command_within_a_job_is_not_that_job(brainage: Brainage, slurm: Path, tmp_path: Path) -> None:
    """Somebody trains without --nodes in an interactive job, which must not be cancelled with it."""
    brainage(*WORDS)
    run = tmp_path / RUN
    trained_by("55", run)
    (run / "logs" / "55-0").rmdir()
    (slurm / "queue").write_text("55|RUNNING|None|0:42:00|node1\n100|CANCELLED|None|0:00|\n")
    answer = brainage("cancel", RUN)
    assert (answer.code, "nobody trains it on this machine" in answer.text) == (3, True)
    assert not (slurm / "cancelled").exists()


@pytest.mark.parametrize("first", ["50", "100"])
def test_a_second_job_is_cancelled_where_the_first_began_to_train_meanwhile(
    brainage: Brainage, slurm: Path, tmp_path: Path, first: str
) -> None:
    """Two commands at once, and SLURM is slow to take the job of the second one; or it is the only one."""
    brainage(*WORDS, "--dry-run")
    sbatch = slurm.parent / "programs" / "sbatch"
    trained_by(first, tmp_path / "first")
    lease = f"mkdir {tmp_path / RUN}/logs/{first}-0; cp {tmp_path}/first/lease.json {tmp_path / RUN}/\n"
    sbatch.write_text(sbatch.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{lease}"))
    (slurm / "queue").write_text(f"{first}|RUNNING|None|0:42:00|node1\n")
    answer = brainage(*WORDS)
    is_second = first != "100"
    assert (answer.code, "job 50 trains this run already" in answer.text) == (3 * is_second, is_second)
    assert (slurm / "cancelled").exists() == is_second
    assert (tmp_path / RUN / "job.json").exists() != is_second


def test_a_copy_of_a_run_that_is_trained_is_a_run_of_its_own(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brainage(*WORDS)
    trained_by("100", tmp_path / RUN)
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node1\n")
    shutil.copytree(tmp_path / RUN, tmp_path / "runs" / "copy", symlinks=True)
    assert brainage("cancel", "runs/copy").code == 3
    assert not (slurm / "cancelled").exists()
    monkeypatch.setattr(Lease, "refuse_if_held", lambda lease: None)  # half a minute
    assert "submitted job 200" in brainage("resume", "runs/copy").text


@pytest.mark.parametrize(
    ("words", "name"),
    [(WORDS, "brainage-openbhb"), (("convert", "people.csv", "--cluster", "slurm"), "brainage-convert")],
)
def test_an_interruption_says_that_a_job_may_have_been_taken(
    brainage: Brainage, slurm: Path, tmp_path: Path, words: tuple[object, ...], name: str
) -> None:
    (tmp_path / "people.csv").write_text(PEOPLE)
    sbatch = slurm.parent / "programs" / "sbatch"
    sbatch.write_text(sbatch.read_text() + "kill -s INT $PPID; sleep 5\n")
    command = [sys.executable, "-m", "hpc_brainage.cli.main", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stdout + done.stderr
    assert f"squeue --me -n {name}" in done.stdout + done.stderr
    if words[0] == "convert":
        assert list(tmp_path.glob("people.zarr.jobs/*/work.json"))  # the job needs it


def test_logs_of_a_job_that_failed_without_a_word_of_its_processes_are_the_job_s(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage(*WORDS)
    logs = tmp_path / RUN / "logs"
    waiting = brainage("logs", RUN)
    assert (waiting.code, "expected: job 100 to have started" in waiting.text) == (3, True)
    (logs / "job-100.log").write_text("node1: task 1: User defined signal 2\n")
    (logs / "rank-0.log").touch()
    assert "task 1: User defined signal 2" in brainage("logs", RUN).text
    (logs / "rank-0.log").write_text("a start before\n")
    assert "a start before" in brainage("logs", RUN).text
    (slurm / "queue").write_text("100|FAILED|NonZeroExitCode|0:00|\n")
    assert "task 1: User defined signal 2" in brainage("logs", RUN).text
    (logs / "90-0").mkdir()
    Start(logs / "90-0").record(0, "of an earlier job", is_loss=False)
    assert "task 1: User defined signal 2" in brainage("logs", RUN).text
    assert "a start before" in brainage("logs", RUN, "--rank", 0).text


@pytest.mark.parametrize(
    ("words", "full", "where"),
    [
        (WORDS, "code.shutil.copyfile", "runs/openbhb"),
        ((*WORDS, "--dry-run"), "run_job.write_json", "runs/openbhb"),
        (("resume", RUN), "run_job.write_json", "runs/openbhb"),
        (("convert", "people.csv", "--cluster", "slurm"), "code.shutil.copyfile", "people.zarr.jobs"),
    ],
)
def test_a_full_disk_at_a_submission_is_said_of_the_folder_that_is_written(
    brainage: Brainage,
    slurm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    full: str,
    where: str,
) -> None:
    def fails(source: Path, *rest: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", source)

    (tmp_path / "people.csv").write_text(PEOPLE)
    if words[0] == "resume":
        brainage(*WORDS)
    monkeypatch.setattr(f"hpc_brainage.cluster.{full}", fails)
    answer = brainage(*words)
    assert (answer.code, "cannot be written (No space left on device)" in answer.text) == (5, True)
    assert f"{where} to do" in answer.text, answer.text
    assert (slurm / "cancelled").exists() == (words[0] == "resume")  # the only one that SLURM had taken


def test_epochs_that_are_trained_anew_are_shown_again_and_the_reason_is_said(
    brainage: Brainage, slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brainage(*WORDS)
    run = RunFolder(tmp_path / RUN)

    def trained(*losses: float) -> list[str]:
        """Write a member's epochs as a start of the job does, and take what is said of them."""
        records = [
            {"member": 0, "epoch": index, "step": index, "loss": loss} for index, loss in enumerate(losses)
        ]
        run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        epochs.show()
        return capsys.readouterr().out.splitlines()

    epochs = Epochs(run)
    capsys.readouterr()
    run.update(state="running", passed_over=None)
    assert trained(3.0, 2.0) == [
        "member 1 of 2, epoch 1 of 3, loss 3.000", "member 1 of 2, epoch 2 of 3, loss 2.000"
    ]  # fmt: skip
    assert trained(3.0) == []
    run.update(passed_over=PASSED_OVER)
    assert trained(9.0, 2.0) == [PASSED_OVER, "member 1 of 2, epoch 1 of 3, loss 9.000"]
    assert trained(9.0, 8.0) == ["member 1 of 2, epoch 2 of 3, loss 8.000"]
    assert f"openbhb: {PASSED_OVER}" in brainage("jobs").text


def test_settings_that_cannot_be_read_are_not_submitted(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage(*WORDS)
    (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")
    with (tmp_path / RUN / "config.toml").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    answer = brainage("resume", RUN)
    assert (answer.code, "no_such_setting" in answer.text) == (2, True), answer.text
    assert not (slurm / "job-2").exists()


def test_what_is_kept_of_a_job_and_is_damaged_may_be_removed(
    brainage: Brainage, slurm: Path, tmp_path: Path
) -> None:
    brainage(*WORDS)
    kept = tmp_path / RUN / "job.json"
    kept.write_text("{")
    for words in (("cancel", RUN), ("resume", RUN), ("logs", RUN), ("jobs",), WORDS):
        assert "remove runs/openbhb/job.json" in brainage(*words).text
    kept.unlink()
    assert "submitted job 200: 2 processes on 2 nodes" in brainage(*WORDS).text
    assert "1 process on 1 node " in brainage(*WORDS, "--nodes", 1, "--cluster", "slurm").text


def test_of_a_refusal_only_what_was_asked_for_is_named(brainage: Brainage, slurm: Path) -> None:
    (slurm / "refuse-1").write_text("sbatch: error: Invalid account or account/partition combination\n")
    answer = brainage(*WORDS, "--account", "nope")
    assert "where: account = 'nope' " in answer.text, answer.text


def test_what_is_said_of_a_run_is_said_of_the_job_that_trains_it_not_of_one_that_came_too_late(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs of one instant: 200 is kept, but 100 has the lease, and 200 ends where it finds that."""
    brainage(*WORDS)
    run = tmp_path / RUN
    first = job_of(run)
    assert first is not None
    keep_job(run, first.model_copy(update={"id": "200"}))
    for name, value in {"SLURM_JOB_ID": "100", "BRAINAGE_START": str(run / "logs" / "100-0")}.items():
        monkeypatch.setenv(name, value)
    keep_this_job(run)
    for name in ("SLURM_JOB_ID", "BRAINAGE_START"):
        monkeypatch.delenv(name)
    for name in ("100-0", "200-0"):
        (run / "logs" / name).mkdir()
    (run / "logs" / "rank-0.log").write_text("it goes well\n")
    Start(run / "logs" / "200-0").record(0, "another training is under way", is_loss=False)
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n200|FAILED|NonZeroExitCode|0:00|\n")
    assert re.search(r"openbhb 100 running", brainage("jobs").text)
    assert "failed first" not in brainage("logs", RUN).text
    assert brainage("cancel", RUN).code == 0
    assert (slurm / "cancelled").read_text() == "100\n"
