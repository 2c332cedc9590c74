"""Scoring with a Dask scheduler and workers that somebody has started by hand, on their own terms."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from cli.commands import TINY, type_command
from planted import planted_store

from hpc_brainage.config import load_config
from hpc_brainage.errors import ScoringError
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.files import read_json
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.runner import score_store
from hpc_brainage.store import schema
from hpc_brainage.store.reader import Store
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training

pytestmark = pytest.mark.timeout(240)

DEADLY = str(Path(__file__).with_name("deadly_scoring.py"))
PEOPLE, PART = 120, 8
Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and a store of fifteen parts."""
    folder = tmp_path_factory.mktemp("trained")
    run = RunFolder.prepare(
        folder / "run", load_config(None, TINY), planted_store(folder, name="training"), None
    )
    finished = run_training(run.path)
    assert finished is not None
    complete(finished)
    with patch.multiple(schema, LONGEST_SHARD=PART, FEATURE_CHUNK_BYTES=1):
        store = planted_store(folder, PEOPLE, seed=1, name="cases")
    return run.model, store


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `dask scheduler` or `dask worker`; whatever still runs at the end is ended."""
    running: list[subprocess.Popen] = []
    (tmp_path / "pids").mkdir()

    def started(what: str, *words: object, seconds: float = 0) -> subprocess.Popen:
        environment = os.environ | {"DEADLY_PIDS": str(tmp_path / "pids"), "DEADLY_SECONDS": str(seconds)}
        command = [
            sys.executable, "-m", f"distributed.cli.dask_{what}",
            "--scheduler-file", str(tmp_path / "scheduler.json"), "--no-dashboard", *map(str, words),
        ]  # fmt: skip
        if what == "worker":
            command += ["--preload", DEADLY, "--local-directory", str(tmp_path / "scratch")]
        with (tmp_path / f"{what}-{len(running)}.log").open("w") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return running[-1]

    try:
        yield started
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def address_of(folder: Path) -> str:
    """Of the scheduler, once it listens."""
    wait_until((folder / "scheduler.json").is_file)
    return str(read_json(folder / "scheduler.json", ScoringError)["address"])


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_whole(table: pd.DataFrame, model: Path, store: Path) -> None:
    """Every scan once, in the store's order, with the age that it has in a process of its own."""
    opened, bundle = Store.open(store), load_bundle(model)
    expected = Predictor(bundle, opened, match_roles(opened, bundle.info), "").score(np.arange(PEOPLE))
    assert table["participant_id"].tolist() == expected["participant_id"].tolist()
    np.testing.assert_allclose(table["brain_age"], expected["brain_age"], rtol=1e-4)


def test_the_command_scores_with_workers_that_run_already_and_leaves_them_running(
    trained: tuple[Path, Path], tmp_path: Path, start: Start
) -> None:
    model, store = trained
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", 0)
    address = address_of(tmp_path)
    workers = [start("worker", "--nthreads", threads, "--no-nanny") for threads in (1, 4)]
    words = ("score", store, "--model", model, "--out", "out", "--scheduler", address)
    answer = type_command(tmp_path, *words)
    assert answer.code == 0, answer.text
    assert_whole(pd.read_parquet(tmp_path / "out.parquet"), model, store)
    assert all(process.poll() is None for process in (scheduler, *workers))


def test_a_worker_leaves_at_the_end_of_its_time_and_another_one_that_comes_takes_over(
    trained: tuple[Path, Path], tmp_path: Path, start: Start
) -> None:
    model, store = trained
    start("scheduler", "--host", "127.0.0.1", "--port", 0)
    address = address_of(tmp_path)
    first = start("worker", "--nthreads", 1, "--lifetime", "6s", seconds=1.0)
    told: list[str] = []
    followed: list[subprocess.Popen] = []

    def follow(done: int, total: int, remarks: str) -> None:
        told.append(remarks)
        if first.poll() is not None and not followed:
            followed.append(start("worker", "--nthreads", 1, "--no-nanny"))

    report = score_store(store, model, tmp_path / "out", fleet=Fleet(scheduler=address), progress=follow)
    assert first.returncode == 0
    assert followed, "there was work left when the first worker's time was up"
    assert any("0 of 1 workers" in remarks for remarks in told)
    assert len(list((tmp_path / "pids").iterdir())) == 2
    assert_whole(report.table, model, store)


def test_a_scheduler_that_ends_is_said_and_what_is_done_is_kept(
    trained: tuple[Path, Path], tmp_path: Path, start: Start
) -> None:
    model, store = trained
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", 0)
    address = address_of(tmp_path)
    start("worker", "--nthreads", 1, "--no-nanny", seconds=0.3)

    def end(done: int, total: int, remarks: str) -> None:
        if done:
            scheduler.kill()

    with pytest.raises(ScoringError, match="connection to the Dask scheduler was lost"):
        score_store(store, model, tmp_path / "out", fleet=Fleet(scheduler=address), progress=end)
    report = score_store(store, model, tmp_path / "out", fleet=Fleet(workers=1))
    assert report.kept >= PART
    assert_whole(report.table, model, store)
