"""What a job of an array runs: the command that stands in the submission's folder, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_brainage.cli.task import MOST_TIMEOUTS, main
from hpc_brainage.cluster.array import LAST, Work
from hpc_brainage.errors import ExitCode
from hpc_brainage.files import write_json
from hpc_brainage.provenance import package_version

STUCK = """
import sys, time, pathlib
import hpc_brainage.cli.main
from hpc_brainage.cli import task

def never_ends():
    pathlib.Path("began").touch()
    time.sleep(60)

hpc_brainage.cli.main.run = never_ends
sys.exit(task.main(sys.argv[1:]))
"""


def submission(folder: Path, *commands: tuple[str, ...], minutes: int = 60) -> Path:
    """The folder of a submission whose commands are typed in `folder`."""
    (folder / "jobs").mkdir()
    work = Work(
        folder=str(folder),
        version=package_version(),
        minutes=minutes,
        commands=commands,
        last=("inspect", "nowhere.zarr"),
    )
    write_json(folder / "jobs" / "work.json", work.model_dump(mode="json"))
    return folder / "jobs"


def test_a_job_types_its_command_in_the_folder_of_the_user_and_ends_as_it_does(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("participant_id,age,sex,lh_thickness\na,20,F,2.5\nb,30,M,2.4\n")
    work = submission(tmp_path, ("convert", "--init", "people.csv"))
    for task, code, words in (
        ("1", 0, "planned: 1 parts"),
        (LAST, 3, "nowhere.zarr"),
        ("2", 2, "no such task"),
    ):
        run = [sys.executable, "-P", "-m", "hpc_brainage.cli.task", str(work), task]
        done = subprocess.run(run, cwd="/", capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done
        assert "Traceback" not in done.stderr
    assert (tmp_path / "people.zarr").is_dir()


def test_a_signal_that_comes_while_python_ends_does_not_make_a_finished_job_fail(tmp_path: Path) -> None:
    late = "import os, signal; atexit.register(os.kill, os.getpid(), signal.SIGUSR2)\n"
    done = "hpc_brainage.cli.main.run = lambda: sys.exit(4)\n"
    program = "import atexit\n" + late + STUCK.replace("hpc_brainage.cli.main.run = never_ends\n", done)
    words = [sys.executable, "-c", program, str(submission(tmp_path, ("convert",))), "1"]
    assert subprocess.run(words, timeout=60, check=False).returncode == 4


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_is_told_to_stop_ends_at_once_and_says_that_it_may_go_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    assert told_to_stop(tmp_path, submission(tmp_path, ("convert",)), number) == ExitCode.STOPPED
    assert not (tmp_path / "jobs" / "time-was-up-1").exists(), "it was preempted"


def test_a_job_whose_time_is_up_again_and_again_is_not_queued_for_ever(tmp_path: Path) -> None:
    work = submission(tmp_path, ("convert",), minutes=1)
    (work / "time-was-up-1").write_text("earlier\n" * (MOST_TIMEOUTS - 2))
    codes = [told_to_stop(tmp_path, work, signal.SIGUSR2) for _ in range(2)]
    assert codes == [ExitCode.STOPPED, ExitCode.ENVIRONMENT]


def told_to_stop(folder: Path, work: Path, number: signal.Signals) -> int:
    """The exit code of a job that is stuck in its command, and then told to stop."""
    began = folder / "began"
    began.unlink(missing_ok=True)
    words = [sys.executable, "-c", STUCK, str(work), "1"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not began.exists():
            assert time.monotonic() < until
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    finally:
        process.kill()
        process.wait()
    assert f"told to stop by {number.name}" in said
    return process.returncode


def test_a_job_of_no_submission_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)]
    assert main([str(tmp_path), "1"]) == ExitCode.USAGE
    assert main([]) == ExitCode.USAGE
    assert "work.json" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)] == before
