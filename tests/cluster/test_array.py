"""What sbatch is asked for, and what is said when it refuses: with programs that only pretend to be SLURM.

The real one is in `tests/slurm`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pretended_slurm import pretend_slurm

from hpc_brainage.cluster.array import BODY, Submission, submit, work_in
from hpc_brainage.cluster.resources import Resources
from hpc_brainage.errors import EnvironmentLacks, UsageError

BY_HAND = Path(__file__).parents[2] / "slurm" / "convert.sbatch"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return pretend_slurm(tmp_path, monkeypatch)


def submitted(folder: Path, commands: int = 3, **settings: object) -> Submission:
    words = [["convert", f"--part={index}"] for index in range(commands)]
    return submit(words, ["convert"], Resources(**settings), folder, "try")  # type: ignore[arg-type]


def asked(slurm: Path, job: int) -> list[str]:
    return (slurm / f"job-{job}").read_text().splitlines()


def test_an_array_is_asked_for_and_a_job_that_waits_for_all_of_it(slurm: Path, tmp_path: Path) -> None:
    submission = submitted(
        tmp_path / "jobs", partition="long", account="lab", memory_gb=1.5, time=90, cpus=4
    )
    assert submission == Submission("100", "200", tmp_path / "jobs")
    assert submission.ids == "100,200"
    array, last = asked(slurm, 1), asked(slurm, 2)
    for line in ("--partition=long", "--account=lab", "--mem=1536M", "--time=90", "--cpus-per-task=4"):
        assert f"#SBATCH {line}" in array
        assert f"#SBATCH {line}" in last
    assert "#SBATCH --array=1-3" in array
    assert not any("dependency" in line for line in array)
    assert "#SBATCH --dependency=afterany:100" in last
    assert not any("--array" in line for line in last)


def test_a_job_is_queued_again_and_its_steps_have_all_its_cores(slurm: Path, tmp_path: Path) -> None:
    submitted(tmp_path / "jobs", cpus=3)
    script = asked(slurm, 1)
    assert "#SBATCH --requeue" in script
    assert "#SBATCH --open-mode=append" in script
    assert "#SBATCH --signal=USR2@90" in script
    assert any(line.startswith('srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"') for line in script)
    assert not any("wckey" in line or "partition" in line for line in script)


def test_a_site_s_own_lines_and_options_stand_in_the_script(slurm: Path, tmp_path: Path) -> None:
    submitted(
        tmp_path / "jobs", setup=("module load gcc",), extra={"reservation": "a b", "exclusive": True}
    )
    script = asked(slurm, 2)
    assert script.index("module load gcc") < next(i for i, line in enumerate(script) if "srun" in line)
    assert "#SBATCH --reservation='a b'" in script
    assert "#SBATCH --exclusive" in script
    assert "#SBATCH --requeue" in script


def test_without_an_array_there_is_one_job_that_waits_for_nothing(slurm: Path, tmp_path: Path) -> None:
    submission = submitted(tmp_path / "jobs", commands=0)
    assert (submission.array, submission.last, submission.ids) == (None, "100", "100")
    assert not any("--array" in line or "--dependency" in line for line in asked(slurm, 1))
    assert not (slurm / "job-2").exists()


def test_the_files_of_an_older_submission_are_never_met(slurm: Path, tmp_path: Path) -> None:
    submitted(tmp_path / "jobs")
    with pytest.raises(FileExistsError):
        submitted(tmp_path / "jobs")


def test_what_an_interactive_job_has_set_does_not_reach_the_jobs(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_RESERVATION": "course",
    }.items():
        monkeypatch.setenv(name, value)
    submitted(tmp_path / "jobs")
    reached = (slurm / "env-1").read_text().splitlines()
    assert {"SLURM_CONF=/etc/slurm.conf", "SBATCH_RESERVATION=course"} <= set(reached)
    assert not any(line.startswith(("SLURM_JOB_ID=", "SLURM_MEM_PER_CPU=")) for line in reached)
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("invalid partition specified: x", ["partition = 'x'", "main (4 nodes), long (2 nodes)"]),
        ("Invalid account or account/partition combination specified", ["account = 'y'", "main (4 nodes)"]),
        ("Invalid qos specification", ["qos is not set"]),
        (
            "Job violates accounting/QOS policy (job submit limit)",
            ["account = 'y', time = 120"],
        ),
        ("Requested time limit is invalid", ["time = 120"]),
        ("Memory specification can not be satisfied", ["memory_gb = 4"]),
        ("Invalid feature specification", ["constraint is not set"]),
        ("Invalid node name specified", ["exclude is not set"]),
        ("Requested node configuration is not available", ["cpus = 2, memory_gb = 4"]),
        ("unrecognized option '--foo'", ["extra = {}"]),
    ],
)
def test_a_refusal_names_the_setting_that_it_is_about(
    slurm: Path, tmp_path: Path, said: str, expected: list[str]
) -> None:
    (slurm / "refuse-1").write_text(f"sbatch: error: {said}\n")
    with pytest.raises(UsageError) as refused:
        submitted(tmp_path / "jobs", partition="x", account="y")
    for words in ("SLURM refuses the jobs", said, "configs/cluster/example.toml", *expected):
        assert words in str(refused.value)
    assert not (tmp_path / "jobs").exists()


def test_a_refusal_nobody_foresaw_is_passed_on(slurm: Path, tmp_path: Path) -> None:
    (slurm / "refuse-1").write_text("sbatch: error: the moon is full\n")
    with pytest.raises(UsageError, match="the moon is full"):
        submitted(tmp_path / "jobs")


def test_an_array_whose_last_job_is_refused_is_taken_back(slurm: Path, tmp_path: Path) -> None:
    (slurm / "refuse-2").write_text("sbatch: error: Job violates accounting/QOS policy\n")
    with pytest.raises(UsageError):
        submitted(tmp_path / "jobs")
    assert (slurm / "cancelled").read_text() == "100\n"


def test_a_cluster_that_does_not_answer_is_no_fault_of_the_settings(slurm: Path, tmp_path: Path) -> None:
    (slurm / "refuse-1").write_text("sbatch: error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(EnvironmentLacks, match="SLURM does not answer"):
        submitted(tmp_path / "jobs")


def test_a_percent_sign_in_the_path_of_the_logs_is_refused(slurm: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="%"):
        submitted(tmp_path / "50%j")
    assert not (slurm / "job-1").exists()


def test_what_the_jobs_do_stands_in_their_folder_and_nothing_is_pickled(
    slurm: Path, tmp_path: Path
) -> None:
    folder = submitted(tmp_path / "jobs").folder
    work = work_in(folder)
    assert work.folder == str(tmp_path)
    assert [work.words(task) for task in ("1", "3", "last")] == [
        ("convert", "--part=0"), ("convert", "--part=2"), ("convert",)
    ]  # fmt: skip
    for task in ("0", "4", "-1", "first"):
        with pytest.raises(UsageError, match="no such task"):
            work.words(task)
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "100_submission.sh", "200_submission.sh", "code", "work.json"
    ]  # fmt: skip


def test_jobs_run_the_code_of_when_they_were_submitted(slurm: Path, tmp_path: Path) -> None:
    folder = submitted(tmp_path / "jobs").folder
    (code,) = (folder / "code").iterdir()
    assert (code / "hpc_brainage" / "cli" / "task.py").is_file()
    assert f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}" in asked(slurm, 1)
    content = json.loads((folder / "work.json").read_text())
    (folder / "work.json").write_text(json.dumps(content | {"version": "0.0.1"}))
    with pytest.raises(EnvironmentLacks, match=r"submitted with version 0\.0\.1"):
        work_in(folder)


def test_a_folder_of_no_submission_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"work\.json"):
        work_in(tmp_path)


@pytest.mark.parametrize(
    ("array", "task", "job"), [(False, "last", "12"), (True, "3", "10_3")], ids=["last", "of the array"]
)
@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (4, False), (75, True), (140, True), (143, True), (137, False)]
)
def test_only_a_job_that_was_told_to_stop_queues_itself_again(
    slurm: Path, tmp_path: Path, array: bool, task: str, job: str, code: int, requeued: bool
) -> None:
    """And not the whole array, whose number is that of one of its jobs."""
    folder = submitted(tmp_path / "my jobs").folder
    programs = tmp_path / "programs"
    (programs / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/ran"\nexit {code}\n')
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" > "{tmp_path}/asked"\nexit 1\n')
    (programs / "scontrol").chmod(0o755)
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "3"}
    if array:
        env |= {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}
    command = ["bash", slurm / "job-1"]
    done = subprocess.run(command, env=env, check=False, timeout=20, capture_output=True, text=True)
    assert done.returncode == code
    assert ("SLURM does not do so" in done.stdout) == requeued
    words = (tmp_path / "ran").read_text().splitlines()
    assert words[:2] == ["--cpus-per-task=3", "--export=ALL"]
    assert words[-6:] == [sys.executable, "-P", "-m", "hpc_brainage.cli.task", str(folder), task]
    assert (tmp_path / "asked").is_file() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_the_sbatch_file_of_the_repository_says_the_same(slurm: Path, tmp_path: Path) -> None:
    submitted(tmp_path / "jobs")
    text, by_hand = (slurm / "job-1").read_text(), BY_HAND.read_text()
    assert text.endswith(f"\n{BODY}\n")
    assert by_hand.endswith(f"\n{BODY}\n")
    of_both = set(options(text)) & set(options(by_hand))
    assert of_both == {
        "--requeue", "--open-mode=append", "--signal=USR2@90", "--cpus-per-task=2", "--mem=4096M"
    }  # fmt: skip
    assert set(options(by_hand)) - of_both == {"--job-name=brainage-convert", "--output=%x-%j.log"}
    named_here = {"--job-name", "--output", "--time", "--array", "--nodes"}  # by hand: on sbatch's line
    assert {line.split("=")[0] for line in set(options(text)) - of_both} == named_here


def options(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize(
    ("ended", "restarts", "code", "requeued"),
    [
        ("exit 0", 0, 0, False),
        ("exit 4", 0, 4, False),
        ("kill -USR2 $$", 10, 140, True),
        ("", 11, 5, False),
    ],
)
def test_by_hand_only_a_job_that_was_told_to_stop_queues_itself_again_and_not_for_ever(
    slurm: Path, tmp_path: Path, ended: str, restarts: int, code: int, requeued: bool
) -> None:
    programs = tmp_path / "programs"
    (programs / "srun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/ran"\n{ended}\n')
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" > "{tmp_path}/asked"\n')
    (programs / "scontrol").chmod(0o755)
    env = {
        "PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "3",
        "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "8",
        "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    done = subprocess.run(["bash", BY_HAND, "my images", "x.zarr"], env=env, check=False, timeout=20)
    assert done.returncode == code
    assert (tmp_path / "asked").is_file() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 10_3\n"
    if restarts <= 10:
        typed = ["brainage", "convert", "--workers", "3", "--part", "3/8", "my images", "x.zarr"]
        ran = (tmp_path / "ran").read_text().splitlines()
        assert ran == ["--cpus-per-task=3", "--export=ALL", *typed]
