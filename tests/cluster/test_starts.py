"""The starts of a run's job: meeting, failing, and giving up."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from hpc_brainage.cluster import starts
from hpc_brainage.cluster.starts import MOST_STARTS_WITHOUT_PROGRESS, Start, newest_start, starts_of
from hpc_brainage.errors import TrainingError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def start_of(run: Path, name: str) -> Start:
    folder = run / "logs" / name
    folder.mkdir(parents=True)
    return Start(folder)


def starts_in_turn(run: Path, *names: str) -> None:
    """Starts that were made a second apart: the clock of a file system is too coarse for less."""
    for second, name in enumerate(names):
        os.utime(start_of(run, name).folder, (second, second))


def test_the_others_wait_for_rank_0_and_hear_where_it_is(run: Path) -> None:
    start = start_of(run, "12-0")
    late = threading.Timer(0.3, start.meet_here, ("node1", 15012))
    late.start()
    assert start.meeting() == ("node1", 15012)
    late.join()


def test_they_do_not_wait_for_a_rank_0_that_has_failed(run: Path) -> None:
    start = start_of(run, "12-0")
    start.record(0, "no memory", is_loss=False)
    with pytest.raises(TrainingError, match="rank 0 has not come"):
        start.meeting()


def test_nor_for_one_that_never_comes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_PATIENCE", 0.3)
    with pytest.raises(TrainingError, match="rank 0 has not come"):
        Start(run / "logs" / "12-0").meeting()


def test_where_an_earlier_start_met_does_not_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_PATIENCE", 0.3)
    start_of(run, "12-0").meet_here("node1", 15012)
    with pytest.raises(TrainingError):
        start_of(run, "12-1").meeting()


def test_the_first_failure_is_the_earliest_that_names_a_reason_of_its_own(run: Path) -> None:
    start = start_of(run, "12-0")
    start.record(3, "another process is gone", is_loss=True)
    start.record(10, "the store is damaged", is_loss=False)
    start.record(2, "me too", is_loss=False)
    assert [failure.rank for failure in start.failures()] == [10, 2, 3]
    assert start.failures()[0].what == "the store is damaged"


def test_a_job_that_comes_no_further_is_given_up(run: Path) -> None:
    for number in range(MOST_STARTS_WITHOUT_PROGRESS):
        start_of(run, f"12-{number}").note()
    with pytest.raises(TrainingError, match="came no further") as given_up:
        start_of(run, "12-99").note()
    assert f"{MOST_STARTS_WITHOUT_PROGRESS} times" in str(given_up.value)


def test_a_job_that_gets_on_may_be_started_for_ever(run: Path) -> None:
    for number in range(5 * MOST_STARTS_WITHOUT_PROGRESS):
        start_of(run, f"12-{number}").note()
        if number % 2:
            (run / "checkpoints" / f"step-{number}.json").touch()
    assert [start["start"] for start in starts_of(run)][-1] == f"12-{number}"


def test_a_job_that_was_submitted_anew_has_all_its_starts_again(run: Path) -> None:
    for number in range(MOST_STARTS_WITHOUT_PROGRESS):
        start_of(run, f"12-{number}").note()
    start_of(run, "13-0").note()
    assert starts_of(run)[-1]["job"] == "13"


def test_the_newest_start_is_the_one_made_last(run: Path) -> None:
    assert newest_start(run) is None
    starts_in_turn(run, "99-0", "12-0", "12-1")
    found = newest_start(run)
    assert found is not None
    assert (found.folder.name, found.job, found.run) == ("12-1", 12, run)


def test_of_several_jobs_the_newest_start_is_looked_for_among_those_of_the_one_that_is_meant(
    run: Path,
) -> None:
    starts_in_turn(run, "100-0", "100-1", "1000-0", "200-0")
    for job, newest in (("100", "100-1"), ("200", "200-0"), ("300", "200-0")):
        found = newest_start(run, job)
        assert found is not None
        assert found.folder.name == newest


def test_half_a_line_of_a_start_that_was_cut_off_spoils_no_other(run: Path) -> None:
    start_of(run, "12-0").note()
    with (run / "starts.jsonl").open("a") as file:
        file.write('{"job": "12", "sta')
    start_of(run, "12-1").note()
    assert [start["start"] for start in starts_of(run)] == ["12-0", "12-1"]


def test_a_start_is_one_line(run: Path) -> None:
    start_of(run, "1700000000-local").note()
    (line,) = (run / "starts.jsonl").read_text().splitlines()
    assert json.loads(line)["job"] == "1700000000"
