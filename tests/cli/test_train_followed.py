"""`brainage train --nodes --follow`: what is said of a job until it ends, and how it ended.

SLURM only pretends here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cli.commands import RUN, SETTINGS, Brainage, epoch

from hpc_brainage.cli import follow
from hpc_brainage.cluster.starts import Start

pytestmark = pytest.mark.usefixtures("openbhb")


def test_following_says_each_epoch_once_and_how_the_job_is(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is queued again, does an epoch a second time, and fails in the end."""
    brainage("train", "--nodes", 2, *SETTINGS)
    run, looks = tmp_path / RUN, 0

    def next_look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            epoch(tmp_path, 0, 1)
        elif looks == 2:
            (slurm / "queue").write_text("100|PENDING|BeginTime|1:00:00|\n")
        elif looks == 3:
            (run / "metrics.jsonl").unlink()
            epoch(tmp_path, 0, 1, 2)
        elif looks == 4:
            start = run / "logs" / "100-1"
            start.mkdir()
            (run / "logs" / "rank-3.log").write_text("".join(f"line {i}\n" for i in range(99)))
            Start(start).record(3, "the store is damaged\nwhere: there", is_loss=False)
            (slurm / "queue").write_text("100|FAILED|NonZeroExitCode|0:00|\n")

    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    monkeypatch.setattr(follow, "sleep", next_look)
    monkeypatch.setattr(follow, "_SOON", 0.0)
    answer = brainage("train", "--nodes", 2, "--follow", *SETTINGS)
    assert answer.code == 3
    for number in (1, 2, 3):
        assert answer.text.count(f"member 1 of 2, epoch {number} of 3") == 1
    assert "job 100: pending (BeginTime)" in answer.text, answer.out
    assert "rank 3 on" in answer.text
    assert "failed: the store is damaged" in answer.text
    assert "line 98" in answer.text
    assert "line 50" not in answer.text


def test_a_job_that_is_over_for_a_moment_is_followed_on(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its end and its return to the queue, SLURM shows a requeued job as ended."""
    brainage("train", "--nodes", 2, *SETTINGS)
    states = iter(["NODE_FAIL", "NODE_FAIL", "PENDING", "FAILED", "RUNNING", *["CANCELLED"] * 9])
    said: list[str] = []

    def next_look(seconds: float) -> None:
        said.append(next(states))
        (slurm / "queue").write_text(f"100|{said[-1]}|None|0:00|\n")

    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    monkeypatch.setattr(follow, "sleep", next_look)
    monkeypatch.setattr(follow, "_SOON", 0.0)
    answer = brainage("resume", RUN, "--follow")
    assert said[:5] == ["NODE_FAIL", "NODE_FAIL", "PENDING", "FAILED", "RUNNING"]
    assert "the job was cancelled" in answer.text


def test_a_job_that_somebody_cancels_has_not_failed(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes complain as they are ended; nothing is to be mended."""
    brainage("train", "--nodes", 2, *SETTINGS)
    logs = tmp_path / RUN / "logs"
    (logs / "job-100.log").write_text("srun: error: node1: task 0: Terminated\n")

    def next_look(seconds: float) -> None:
        (logs / "100-1").mkdir(exist_ok=True)
        Start(logs / "100-1").record(1, "the connection was closed", is_loss=True)
        (slurm / "queue").write_text("100|CANCELLED|None|0:00|\n")

    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    monkeypatch.setattr(follow, "sleep", next_look)
    monkeypatch.setattr(follow, "_SOON", 0.0)
    answer = brainage("resume", RUN, "--follow")
    assert answer.code == 3
    assert "the job was cancelled" in answer.text
    assert "brainage resume runs/openbhb goes on" in answer.text
    for words in ("srun", "connection was closed", "mend"):
        assert words not in answer.text


def test_a_job_that_finds_no_room_to_say_what_it_failed_of_is_shown_with_a_full_disk(
    brainage: Brainage, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(dir: Path) -> object:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    brainage("train", "--nodes", 2, *SETTINGS)
    said = "error: a file or folder cannot be used (Disk quota exceeded)"
    (tmp_path / RUN / "logs" / "rank-0.log").write_text(f"{said}\n")
    (slurm / "queue").write_text("100|RUNNING|None|0:42:00|node[1-2]\n")
    monkeypatch.setattr(follow, "TemporaryFile", full)
    monkeypatch.setattr(
        follow, "sleep", lambda seconds: (slurm / "queue").write_text("100|FAILED|None|0:00|\n")
    )
    monkeypatch.setattr(follow, "_SOON", 0.0)
    answer = brainage("resume", RUN, "--follow")
    assert answer.code == 3
    assert said in answer.text
    assert "the job ended as FAILED, and the disk of the run's folder is full" in answer.text


def test_a_ctrl_c_leaves_the_job_alone(
    brainage: Brainage, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "sleep", pressed)
    answer = brainage("train", "--nodes", 2, "--follow", *SETTINGS)
    assert answer.code == 130
    assert "job 100 goes on" in answer.text
    assert not (slurm / "cancelled").exists()
