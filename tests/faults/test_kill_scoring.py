"""Scoring whose processes are really killed: the table is that of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import dask
import distributed  # noqa: F401
import numpy as np
import pandas as pd
import pytest
from cli.commands import TINY, type_command
from planted import planted_store

from hpc_brainage.config import load_config
from hpc_brainage.errors import ScoringError
from hpc_brainage.evaluation.evidence import complete
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.runner import score_store
from hpc_brainage.store import schema
from hpc_brainage.store.reader import Store
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.run import run_training

pytestmark = pytest.mark.timeout(240)  # half a minute at most on a machine that does nothing else

DEADLY = str(Path(__file__).with_name("deadly_scoring.py"))
PEOPLE, PART = 120, 8
TWO = Fleet(workers=2)
GOES_ON = "interrupted; the same command again goes on with the parts that are not done"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and a store of fifteen parts with a chunk for each scan."""
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
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Say how workers shall die."""

    def so(**how: object) -> None:
        for name, value in how.items():
            monkeypatch.setenv(f"DEADLY_{name.upper()}", str(value))

    (tmp_path / "pids").mkdir()
    so(pids=tmp_path / "pids")
    with dask.config.set({"distributed.worker.preload": [DEADLY]}):
        yield so


def undisturbed(model: Path, store: Path) -> pd.DataFrame:
    opened, bundle = Store.open(store), load_bundle(model)
    return Predictor(bundle, opened, match_roles(opened, bundle.info), "").score(np.arange(PEOPLE))


def assert_whole(table: pd.DataFrame, model: Path, store: Path) -> None:
    """Every scan once, in the store's order, with the age that it has without any disturbance."""
    expected = undisturbed(model, store)
    assert table["participant_id"].tolist() == expected["participant_id"].tolist()
    np.testing.assert_allclose(table["brain_age"], expected["brain_age"], rtol=1e-4)
    assert table["status"].tolist() == expected["status"].tolist()


def test_workers_that_end_in_the_middle_cost_nothing(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(rows="3,119", once=tmp_path)
    report = score_store(store, model, tmp_path / "out", fleet=TWO)
    assert len(list(tmp_path.glob("died-of-*"))) == 2
    assert_whole(report.table, model, store)
    assert not (tmp_path / "out.parts").exists()


def test_workers_that_take_long_to_come_back_cost_nothing(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(rows="3,119", once=tmp_path, seconds=0.1, late_from=3, late_seconds=5)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        report = score_store(store, model, tmp_path / "out", fleet=TWO)
    assert len(pids(tmp_path)) == 4
    assert_whole(report.table, model, store)


def test_workers_that_never_come_are_not_waited_for(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(late_from=1, late_seconds=1000)
    began = time.monotonic()
    with (
        patch.multiple("hpc_brainage.scoring.local_crew", _PATIENCE=10.0, _LEAVE=2.0),
        pytest.raises(ScoringError, match="there is no worker, and none has come"),
    ):
        score_store(store, model, tmp_path / "out", fleet=TWO)
    assert time.monotonic() - began < 60
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_a_worker_that_is_killed_from_outside_costs_nothing(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(seconds=0.2)
    killed: list[int] = []

    def kill(done: int, total: int, remarks: str) -> None:
        if done and not killed:
            killed.append(pids(tmp_path)[0])
            os.kill(killed[0], signal.SIGKILL)

    report = score_store(store, model, tmp_path / "out", fleet=TWO, progress=kill)
    assert killed
    assert_whole(report.table, model, store)


def test_a_part_that_ends_every_worker_is_named_and_all_others_are_kept(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(rows=50)
    with pytest.raises(ScoringError, match="rows 48 to 55 of the store") as caught:
        score_store(store, model, tmp_path / "out", fleet=TWO)
    assert "3 workers ended" in str(caught.value)
    deadly(rows="")
    report = score_store(store, model, tmp_path / "out", fleet=TWO)
    assert report.kept == PEOPLE - PART
    assert_whole(report.table, model, store)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_leaves_no_worker_and_goes_on_where_it_was(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None], by: signal.Signals
) -> None:
    model, store = trained
    deadly(seconds=0.3)
    words = ["score", str(store), "--model", str(model), "--out", str(tmp_path / "out"), "--workers", "2"]
    environment = os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([DEADLY])}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = subprocess.Popen(
        [sys.executable, "-m", "hpc_brainage.cli.main", *words],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: len(list((tmp_path / "out.parts").glob("rows-*.json"))) >= 3)
    # A Ctrl-C goes to the workers as well.
    (os.killpg if by == signal.SIGINT else os.kill)(command.pid, by)
    said = command.communicate(timeout=100)[1]
    if by != signal.SIGKILL:
        assert (command.returncode, said.splitlines()[-1:]) == (130, [GOES_ON])
    workers = pids(tmp_path)
    assert len(workers) == 2
    wait_until(lambda: not any(map(is_alive, workers)))
    deadly(seconds=0)
    report = score_store(store, model, tmp_path / "out", fleet=TWO)
    assert 3 * PART <= report.kept < PEOPLE
    assert_whole(report.table, model, store)


def test_a_scan_that_cannot_be_read_fails_alone_and_the_command_says_so(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    model, store = trained
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(store, damaged)
    shard = damaged / "smri_table" / "c.2.0"
    content = bytearray(shard.read_bytes())
    index = np.frombuffer(content[-(16 * PART + 4) : -4], "<u8").reshape(PART, 2)
    content[int(index[5, 0]) + 3] ^= 0xFF
    shard.write_bytes(content)
    answer = type_command(tmp_path, "score", damaged, "--model", model, "--out", "out", "--workers", 2)
    assert answer.code == 4, answer.text
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert np.flatnonzero(table["status"] == "failed").tolist() == [2 * PART + 5]
    assert "damaged" in table["reason"][2 * PART + 5]
    assert len(table) == PEOPLE


def test_parts_of_another_model_are_refused_until_they_are_thrown_away(
    trained: tuple[Path, Path], tmp_path: Path, deadly: Callable[..., None]
) -> None:
    model, store = trained
    deadly(rows=119)
    with pytest.raises(ScoringError, match="rows 112 to 119"):
        score_store(store, model, tmp_path / "out", fleet=TWO)
    deadly(rows="")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    description = other / "model.json"
    description.write_text(description.read_text().replace('"name": "', '"name": "another ', 1))
    with pytest.raises(ScoringError, match="with another model left its parts") as caught:
        score_store(store, other, tmp_path / "out", fleet=TWO)
    assert "--no-resume" in str(caught.value)
    report = score_store(store, other, tmp_path / "out", fleet=TWO, resume=False)
    assert report.kept == 0
    assert set(report.table["model"]) == {load_bundle(other).info.name}
    assert_whole(report.table, model, store)


def pids(folder: Path) -> list[int]:
    """Of the workers that there were."""
    return [int(path.name.partition(":")[2]) for path in (folder / "pids").iterdir()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_so: Callable[[], bool], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)
