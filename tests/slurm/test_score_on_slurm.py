"""Scoring by workers on the nodes of a real SLURM: every scan once, whatever happens to a node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from cli.commands import TINY, type_command
from planted import planted_store
from slurm.asking import ask, wait_until

from hpc_brainage.store import schema

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(300)]

SANDBOX = str(Path(__file__).parents[2] / "slurm" / "sandbox")
DEADLY = str(Path(__file__).parents[1] / "faults" / "deadly_scoring.py")
# All cores of a node: one worker on each.
SITE = "[score]\ncpus_per_worker = 4\nmemory_gb = 2\ntime = 10\n"
PEOPLE, PART = 240, 4


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder (with a space in its name) with a model, a store of sixty parts, and their ages."""
    folder = tmp_path_factory.mktemp("my desk")
    planted_store(folder, people=60, name="training")
    settings = [word for setting in TINY for word in ("--set", setting)]
    assert type_command(folder, "train", "training.zarr", "--name", "model", *settings).code == 0
    with patch.multiple(schema, LONGEST_SHARD=PART, FEATURE_CHUNK_BYTES=1):
        planted_store(folder, PEOPLE, seed=1, name="cases")
    (folder / "site.toml").write_text(SITE)
    assert type_command(folder, "score", "cases.zarr", "--model", "runs/model", "--out", "here").code == 0
    return folder


@contextmanager
def scoring(
    desk: Path, out: str, *words: str, seconds: float = 0.0, site: str = "site.toml"
) -> Iterator[subprocess.Popen[str]]:
    """`brainage score --cluster SITE` as a process of its own, with parts that take so long."""
    (desk / f"{out}-nodes").mkdir(exist_ok=True)
    deadly = {"DEADLY_PIDS": str(desk / f"{out}-nodes"), "DEADLY_SECONDS": str(seconds)}
    preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([DEADLY])}
    command = [
        "score",
        "cases.zarr",
        "--model",
        "runs/model",
        "--out",
        out,
        "--cluster",
        site,
        *words,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "hpc_brainage.cli.main", *command],
        cwd=desk, env=os.environ | deadly | preload,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def nodes(desk: Path, out: str) -> set[str]:
    """Where there were workers."""
    return {path.name.partition(":")[0] for path in (desk / f"{out}-nodes").iterdir()}


def is_in_queue() -> bool:
    return "brainage-score" in ask("squeue", "--noheader", "--format=%j")


def parts_done(desk: Path, out: str) -> int:
    return len(list((desk / f"{out}.parts").glob("rows-*.json")))


def assert_whole(desk: Path, out: str) -> None:
    """Every scan once, with the age that one machine gives it; and no job is left."""
    table, here = (pd.read_parquet(desk / f"{name}.parquet") for name in (out, "here"))
    assert table["participant_id"].tolist() == here["participant_id"].tolist()
    np.testing.assert_allclose(table["brain_age"], here["brain_age"], rtol=1e-4)
    assert not (desk / f"{out}.parts").exists()
    wait_until(lambda: not is_in_queue())


def logs(desk: Path, out: str) -> str:
    return "\n".join(path.read_text() for path in (desk / f"{out}.parts" / "logs").glob("*.log"))


def test_four_workers_on_four_nodes(slurm: None, desk: Path) -> None:
    with scoring(desk, "four", "--workers", "4", seconds=0.5) as process:
        said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said + logs(desk, "four")
    assert nodes(desk, "four") == {f"node{number}" for number in range(1, 5)}
    assert "240 of them scored now" in said
    assert_whole(desk, "four")


def test_a_node_that_is_killed_in_the_middle_costs_nothing(slurm: None, desk: Path) -> None:
    with scoring(desk, "killed", "--workers", "4", seconds=1.5) as process:
        wait_until(lambda: parts_done(desk, "killed") >= 8 and len(nodes(desk, "killed")) == 4)
        ask(SANDBOX, "kill-node", "3")
        try:
            said = process.communicate(timeout=250)[0]
        finally:
            ask(SANDBOX, "start-node", "3")
    assert process.returncode == 0, said
    assert_whole(desk, "killed")


def test_jobs_come_and_go_with_the_work(slurm: None, desk: Path) -> None:
    words = ("--min-workers", "1", "--max-workers", "3", "--partition", "main", "--time", "00:20:00")
    with scoring(desk, "adaptive", *words, seconds=0.7) as process:
        wait_until(lambda: " main 20:00" in ask("squeue", "--noheader", "--format=%j %P %l"))
        said = process.communicate(timeout=250)[0]
    assert process.returncode == 0, said + logs(desk, "adaptive")
    assert 2 <= len(nodes(desk, "adaptive")) <= 3
    assert_whole(desk, "adaptive")


def test_a_job_that_is_cancelled_is_submitted_again(slurm: None, desk: Path) -> None:
    with scoring(desk, "cancelled", "--workers", "1", seconds=0.5) as process:
        wait_until(lambda: parts_done(desk, "cancelled") >= 3)
        ask("scancel", "--name", "brainage-score")
        said = process.communicate(timeout=250)[0]
    assert process.returncode == 0, said
    assert len(list((desk / "cancelled-nodes").iterdir())) == 2
    assert_whole(desk, "cancelled")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_cancels_its_jobs_and_goes_on_where_it_was(
    slurm: None, desk: Path, by: signal.Signals
) -> None:
    """In the middle, and, when it is started again, before any worker has come; then it is left alone."""
    out = f"interrupted-{by.name}"
    for began in (lambda: parts_done(desk, out) >= 4, is_in_queue):
        with scoring(desk, out, "--workers", "2", seconds=0.5) as process:
            wait_until(began)
            process.send_signal(by)
            said = process.communicate(timeout=60)[0]
        assert process.returncode == 130, said
        assert "interrupted; the same command again goes on with the parts that are not done" in said
        assert "Traceback" not in said
        wait_until(lambda: not is_in_queue(), seconds=30)
        assert parts_done(desk, out) >= 4
    with scoring(desk, out, "--workers", "2") as process:
        said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    assert " of them kept from the run that was interrupted" in said
    assert_whole(desk, out)


def test_what_the_cluster_does_not_have_is_said_before_anything_is_submitted(
    slurm: None, desk: Path
) -> None:
    for site, words, message in (
        ('[score]\npartition = "gpu"', (), "partitions of this cluster: main (4 nodes, 2 GPUs each)"),
        ("", ("--gpus-per-worker", 3), "has no node with as many GPUs, and the job asks for 1"),
        ('[score]\nmemory_gb = 2\ntime = "2-00:00:00"', (), "at most 1-00:00:00"),
        ("[score]\ncpus_per_worker = 64", (), "4 nodes of 4 cores"),
    ):
        (desk / "wrong.toml").write_text(site)
        answer = type_command(
            desk, "score", "cases.zarr", "--model", "runs/model", "--out", "no", "--cluster", "wrong.toml",
            *words,
        )  # fmt: skip
        assert (answer.code, message in answer.text) == (2, True), answer.text
    assert not ask("squeue", "--noheader")


def test_what_slurm_refuses_is_said_with_the_setting(slurm: None, desk: Path) -> None:
    (desk / "refused.toml").write_text('[score]\nmemory_gb = 2\nconstraint = "a100"')
    with scoring(desk, "refused", site="refused.toml") as process:
        said = process.communicate(timeout=100)[0]
    assert (process.returncode, "SLURM refuses the jobs" in said) == (2, True), said
    assert "constraint = 'a100'" in said
    assert "Traceback" not in said
