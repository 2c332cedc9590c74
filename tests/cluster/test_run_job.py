"""The job of a run: its sbatch file, what decides whether it is queued again, and what is kept of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pretended_slurm import pretend_slurm

from hpc_brainage.cluster import run_job
from hpc_brainage.cluster.resources import Resources, TrainResources
from hpc_brainage.cluster.run_job import (
    BODY,
    RunJob,
    batch_file,
    check_version,
    code_of,
    job_of,
    keep_job,
    keep_this_job,
    plan_job,
    submit_run,
)
from hpc_brainage.errors import EnvironmentLacks, TrainingError, UsageError
from hpc_brainage.provenance import package_version

SBATCH = Path(__file__).parents[2] / "slurm" / "train.sbatch"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "my run"
    folder.mkdir(parents=True)
    return folder


def job(run: Path, nodes: int = 2, resources: Resources | None = None, **asked: object) -> RunJob:
    site = resources or Resources(train=TrainResources(**asked))  # type: ignore[arg-type]
    return plan_job(run, nodes, site, "slurm")


def asked_for(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_one_task_for_each_gpu_and_the_signal_to_save_goes_to_all_of_them(run: Path) -> None:
    text = batch_file(run, job(run, 4, gpus_per_node=8, cpus_per_task=6, memory_gb=1.5, time=90))
    for line in (
        "--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=6", "--mem=1536M",
        "--time=90", "--requeue", "--open-mode=append", "--signal=USR2@90",
        f"--output='{run}/logs/job-%j.log'",
    ):  # fmt: skip
        assert line in asked_for(text)
    assert "submitit.core" not in text
    assert not list(run.rglob("*.pkl"))


def test_what_is_not_said_is_left_to_the_site(run: Path) -> None:
    options = {line.split("=")[0] for line in asked_for(batch_file(run, job(run)))}
    assert options == {
        "--nodes", "--ntasks-per-node", "--cpus-per-task", "--job-name", "--open-mode", "--output",
        "--requeue", "--signal",
    }  # fmt: skip


def test_training_asks_for_what_the_site_says_unless_it_has_words_of_its_own(run: Path) -> None:
    train = TrainResources(
        partition="gpu", save_seconds=300, container=("apptainer", "exec", "my image.sif"),
        python="python3", scratch="$SLURM_TMPDIR", interface="ib0",
    )  # fmt: skip
    site = Resources(
        partition="cpu", account="lab", qos="long", exclude="node3", time=5, setup=("module load cuda",),
        extra={"mail-type": "END"}, train=train,
    )  # fmt: skip
    text = batch_file(run, job(run, resources=site))
    assert {
        "--partition=gpu", "--account=lab", "--qos=long", "--exclude=node3", "--signal=USR2@300",
        "--mail-type=END",
    } <= set(asked_for(text))  # fmt: skip
    assert not any(line.startswith("--time") for line in asked_for(text))
    lines = text.splitlines()
    assert "worker=(apptainer exec 'my image.sif' python3 -P -m hpc_brainage.cli.worker)" in lines
    assert "export BRAINAGE_SCRATCH='$SLURM_TMPDIR'" in lines
    assert "export BRAINAGE_INTERFACE=ib0" in lines
    assert lines.index("module load cuda") < lines.index(BODY.splitlines()[0])


def test_the_sbatch_file_of_the_repository_says_the_same(run: Path) -> None:
    text, by_hand = batch_file(run, job(run)), SBATCH.read_text()
    assert text.endswith(f"\n{BODY}\n")
    assert by_hand.endswith(f"\n{BODY}\n")
    of_both = set(asked_for(text)) & set(asked_for(by_hand))
    assert of_both == {"--requeue", "--open-mode=append", "--signal=USR2@90", "--cpus-per-task=2"}
    assert {line.split("=")[0] for line in asked_for(by_hand)} == {
        line.split("=")[0] for line in of_both
    } | {"--job-name", "--output"}
    words = "-P -m hpc_brainage.cli.worker)"
    assert f"worker=(python {words}" in by_hand
    assert words in text


@pytest.mark.parametrize(
    ("srun", "code", "requeued"),
    [
        ("exit 0", 0, False),
        ("touch rendezvous.json; exit 75", 75, True),
        ("touch rendezvous.json lost-0.json; exit 3", 3, True),
        ("touch rendezvous.json; exit 137", 137, True),
        ("touch rendezvous.json failed-3.json; exit 75", 75, False),
        ("touch failed-0.json; exit 3", 3, False),
        ("exit 127", 127, False),
        ("touch rendezvous.json; exit 200", 200, False),
        *[(f"exit {code}", code, True) for code in (75, 140, 143)],
        ("touch failed-0.json; exit 140", 140, False),
        ("exit 137", 137, False),
    ],
)
def test_only_what_was_stopped_or_has_lost_a_process_is_queued_again(
    run: Path, tmp_path: Path, srun: str, code: int, requeued: bool
) -> None:
    """Every process writes down what it failed of; one that a dead node took with it writes nothing,
    nor does one that is told to stop before it listens."""
    (run / "logs" / "12-0").mkdir(parents=True)
    (run / "logs" / "12-0" / "rendezvous.json").touch()
    done, told = started(run, tmp_path, srun, restarts=3)
    assert done.returncode == code
    assert told == ("requeue 12\n" if requeued else None)
    assert ("asks to be queued again" in done.stdout) == requeued
    assert (run / "logs" / "12-3").is_dir()


@pytest.mark.parametrize(("met", "requeued"), [(0, False), (1, True)])
def test_a_job_that_is_always_stopped_before_it_has_begun_is_queued_again_three_times(
    run: Path, tmp_path: Path, met: int, requeued: bool
) -> None:
    for number in range(met):
        (run / "logs" / f"12-{number}").mkdir(parents=True)
        (run / "logs" / f"12-{number}" / "rendezvous.json").touch()
    done, told = started(run, tmp_path, "exit 140", restarts=3)
    assert (done.returncode, told is not None) == (140, requeued)
    assert ("before training began" in done.stdout) != requeued


def test_a_job_that_slurm_does_not_queue_again_says_what_does(run: Path, tmp_path: Path) -> None:
    done, told = started(run, tmp_path, "touch rendezvous.json; exit 75", restarts=0, scontrol="exit 1")
    assert (done.returncode, told) == (75, "requeue 12\n")
    assert f"SLURM does not do so; brainage resume {run} goes on" in done.stdout


def started(
    run: Path, tmp_path: Path, srun: str, *, restarts: int, scontrol: str = "exit 0"
) -> tuple[subprocess.CompletedProcess[str], str | None]:
    """Run the script of job 12 with a pretended srun; what it did, and what it told scontrol."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (
        ("srun", f'cd "$BRAINAGE_START"; {srun}'),
        ("scontrol", f'echo "$@" > "{tmp_path}/told"; {scontrol}'),
    ):
        (programs / name).write_text(f"#!/bin/bash\n{words}\n")
        (programs / name).chmod(0o755)
    script, told = tmp_path / "job.sh", tmp_path / "told"
    script.write_text(batch_file(run, job(run)))
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(
        ["bash", script], env=env, check=False, timeout=20, capture_output=True, text=True
    )
    return done, told.read_text() if told.is_file() else None


def test_a_submitted_job_is_kept_with_its_number(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = pretend_slurm(tmp_path, monkeypatch)
    submitted = submit_run(run, job(run, gpus_per_node=1))
    assert (submitted.id, job_of(run)) == ("100", submitted)
    assert (slurm / "job-1").read_text() == batch_file(run, submitted)
    assert not list(run.rglob("*.pkl"))


def test_a_refusal_names_the_setting_that_it_is_about(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = pretend_slurm(tmp_path, monkeypatch)
    (slurm / "refuse-1").write_text("sbatch: error: Requested node configuration is not available\n")
    with pytest.raises(UsageError, match="cpus_per_task = 2, gpus_per_node = 0\n"):
        submit_run(run, job(run))
    assert job_of(run) is None


def test_a_percent_sign_in_a_run_s_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "50%j").mkdir()
    with pytest.raises(UsageError, match="%"):
        batch_file(tmp_path / "50%j", job(tmp_path / "50%j"))


def test_what_is_kept_of_a_job_is_read_back_whole(run: Path) -> None:
    site = Resources(setup=("a", "b"), extra={"exclusive": True}, train=TrainResources(container=("c",)))
    planned = job(run, resources=site)
    keep_job(run, planned)
    assert job_of(run) == planned
    content = json.loads((run / "job.json").read_text())
    for damaged in (json.dumps(content | {"nods": 3}), "{", "[]"):
        (run / "job.json").write_text(damaged)
        with pytest.raises(TrainingError, match=r"remove .*job.json"):
            job_of(run)


def test_a_run_that_is_moved_takes_its_code_along_and_a_copy_has_no_job(run: Path) -> None:
    planned = job(run).model_copy(update={"id": "12"})
    keep_job(run, planned)
    code = code_of(run, planned)
    assert code is not None
    assert code.is_relative_to(run)
    copied = job_of(Path(shutil.copytree(run, run.parent / "copied")))
    moved = run.rename(run.parent / "moved")
    found = job_of(moved)
    assert found is not None
    assert copied is not None
    assert (found.id, copied.id) == ("12", None)
    assert code_of(moved, found) == moved / "code" / code.name
    shutil.rmtree(moved / "code")
    with pytest.raises(TrainingError, match="is gone"):
        batch_file(moved, found)


def within_job(number: str, run: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a process of a job finds that was submitted with an sbatch file of this text."""
    line = next((line for line in text.splitlines() if line.startswith("export BRAINAGE_ASKED=")), None)
    if line is not None:
        monkeypatch.setenv("BRAINAGE_ASKED", line.partition("=")[2].replace("$run", str(run)))
    monkeypatch.setenv("BRAINAGE_START", str(run / "logs" / f"{number}-0"))
    monkeypatch.setenv("SLURM_JOB_ID", number)


@pytest.mark.parametrize(
    "kept", [{"id": "200"}, {"id": None}, {"cluster": "local", "id": "7", "ticks": 3}, None, "damaged"]
)
def test_of_all_jobs_of_a_run_the_one_that_trains_is_kept_with_what_it_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, kept: dict[str, object] | str | None
) -> None:
    """Another one was submitted, with other nodes, or none was kept: this one was submitted by hand."""
    asked = job(run, nodes=3, time=30)
    text = batch_file(run, asked)
    if isinstance(kept, dict):
        keep_job(run, job(run, nodes=5).model_copy(update=kept))
    elif kept:
        (run / "job.json").write_text(kept)
    within_job("100", run, text, monkeypatch)
    check_version(run)
    keep_this_job(run)
    assert job_of(run) == asked.model_copy(update={"id": "100"})
    before = (run / "job.json").stat().st_ino
    keep_this_job(run)
    assert (run / "job.json").stat().st_ino == before  # it is not written again, at each start of the job


def test_of_a_job_by_hand_is_kept_what_slurm_says_of_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_job(run, job(run, nodes=5, container=("apptainer",)).model_copy(update={"id": "90"}))
    within_job("100", run, SBATCH.read_text(), monkeypatch)
    for name, value in {
        "JOB_NUM_NODES": "2", "NTASKS": "8", "CPUS_PER_TASK": "6", "GPUS_ON_NODE": "4",
        "JOB_PARTITION": "gpu", "JOB_ACCOUNT": "lab", "JOB_QOS": "normal",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    keep_this_job(run)
    kept = job_of(run)
    assert kept is not None
    assert (kept.id, kept.nodes, kept.processes, kept.code) == ("100", 2, 8, None)
    lines = asked_for(batch_file(run, kept))
    for line in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=6", "--partition=gpu",
        "--account=lab", "--qos=normal",
    ):  # fmt: skip
        assert line in lines
    assert "apptainer" not in batch_file(run, kept)


def test_a_job_that_nobody_would_know_of_is_cancelled(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for its number, or another one has begun to train meanwhile."""
    slurm = pretend_slurm(tmp_path, monkeypatch)

    def too_late(number: str) -> None:
        assert number == "100"
        raise TrainingError("another one trains")

    with pytest.raises(TrainingError, match="another one trains"):
        submit_run(run, job(run), too_late)
    assert (slurm / "cancelled").read_text() == "100\n"

    def full(path: Path, job: RunJob) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_job, "keep_job", full)
    with pytest.raises(EnvironmentLacks, match="No space left on device") as refused:
        submit_run(run, job(run))
    assert refused.value.where == str(run)
    assert (slurm / "cancelled").read_text() == "200\n"
    assert job_of(run) is None
    (tmp_path / "programs" / "scancel").write_text("#!/bin/sh\nexit 1")
    with pytest.raises(EnvironmentLacks, match="scancel 300"):
        submit_run(run, job(run))


def test_what_is_kept_of_a_job_is_not_changed_by_what_is_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of this machine, and one that is typed within an interactive job."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("BRAINAGE_START", str(run / "logs" / "1-local"))
    keep_this_job(run)
    assert job_of(run) is None
    here = job(run).model_copy(update={"cluster": "local", "id": "7", "ticks": 3})
    keep_job(run, here)
    keep_this_job(run)
    monkeypatch.delenv("BRAINAGE_START")
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    keep_this_job(run)
    assert job_of(run) == here


def test_a_job_without_room_for_its_number_trains_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_job(run, job(run))
    monkeypatch.setenv("BRAINAGE_START", str(run / "logs" / "100-0"))
    monkeypatch.setenv("SLURM_JOB_ID", "100")

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_job, "write_json", full)
    keep_this_job(run)


def test_a_job_does_not_run_another_version_than_was_submitted(run: Path) -> None:
    check_version(run)
    keep_job(run, job(run))
    check_version(run)
    keep_job(run, job(run).model_copy(update={"version": "0.0.1"}))
    with pytest.raises(EnvironmentLacks, match="brainage resume") as refused:
        check_version(run)
    assert package_version() in str(refused.value)
