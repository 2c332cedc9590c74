"""Scoring a whole store with Dask: each task is one part of the store, done on one worker.

A worker loads the bundle once. A task reads whole shards, scores them and writes its rows to disk itself;
only a small record goes back, so a lost worker costs one task, and a run that is started again goes on
with the parts that are not there yet.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.files import read_json, remove_tree, write_durably, write_json
from hpc_brainage.model.bundle import ModelInfo, bundle_sha256, load_bundle, read_info
from hpc_brainage.provenance import package_version, software
from hpc_brainage.scans import IDENTITY, scan_names, select_scans
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.bias import mean_held_out_gap
from hpc_brainage.scoring.predictor import Predictor
from hpc_brainage.scoring.table import summary, write_table
from hpc_brainage.store.reader import Store

_ATTEMPTS = 3


@dataclass(frozen=True)
class ScoringReport:
    """What a scoring run made."""

    paths: dict[str, Path]
    table: pd.DataFrame
    about: dict[str, Any]
    notes: tuple[str, ...]


def score_store(
    store_path: Path | str,
    model_path: Path,
    out: Path,
    *,
    where: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoringReport:
    """Score the scans of a store and write `OUT.tsv`, `OUT.parquet` and `OUT.json`.

    Parameters
    ----------
    where : a selection of the scans (see `select_scans`).
    workers : worker processes on this machine; by default one for each core, at most one for each part.
    progress : told how many scans of how many are done.

    Raises
    ------
    StoreError, ModelError : the store or the bundle cannot be used, or they do not fit each other.
    ScoringError : parts failed even when they were tried again.
    """
    store, info = Store.open(store_path), read_info(model_path)
    notes = _meeting_notes(store, info)
    chosen = select_scans(store.scans, where)
    tasks = [(i, part[chosen[part]]) for i, part in enumerate(map(_rows, store.parts()))]
    tasks = [(index, rows) for index, rows in tasks if len(rows)]
    parts = _PartFolder(out.with_name(f"{out.name}.parts"), store, model_path, where)
    with parts.held():
        return _score(store, info, model_path, tasks, parts, out, where, notes, workers, progress)


def _score(
    store: Store,
    info: ModelInfo,
    model_path: Path,
    tasks: list[tuple[int, np.ndarray]],
    parts: _PartFolder,
    out: Path,
    where: str | None,
    notes: tuple[str, ...],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> ScoringReport:
    """Score what is not scored yet, and put the parts together."""
    _run(store.place.absolute(), model_path, tasks, parts, workers, progress)
    frames = [pd.read_parquet(parts.path(index)) for index, _ in tasks]
    table = pd.concat(frames, ignore_index=True)
    rows = np.concatenate([rows for _, rows in tasks])
    _check_complete(table, store.scans.iloc[rows])
    about = {
        "model": {"name": info.name, "sha256": parts.model_sha256},
        "store": {"name": store.name, "sha256": store.content_sha256},
        "where": where,
        "notes": list(notes),
        "software": software("torch", "dask", "zarr"),
        "summary": summary(table) | {"training_mean_gap": mean_held_out_gap(info)},
    }
    paths = write_table(table, out, about)
    parts.remove()
    return ScoringReport(paths, table, about, notes)


class _PartFolder:
    """Scored parts on disk, and what they belong to."""

    def __init__(self, folder: Path, store: Store, model_path: Path, where: str | None) -> None:
        self.folder = folder
        self.model_sha256 = bundle_sha256(model_path)
        self._belongs_to = {
            "model": self.model_sha256,
            "store": store.content_sha256,
            "where": where,
            "software": package_version(),
        }

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder for this process alone.

        Parts of an interrupted run of the same kind are kept; parts of any other are not ours.
        """
        self._prepare()
        with (self.folder / "run.json").open() as marker:
            try:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ScoringError(
                    "another command is scoring into the same table",
                    where=self.folder,
                    hint="wait for it, or give this run another --out",
                ) from None
            yield

    def _prepare(self) -> None:
        marker = self.folder / "run.json"
        if marker.is_file() and read_json(marker, ScoringError) != self._belongs_to:
            raise ScoringError(
                "an unfinished run of another model, store or selection left its parts here",
                where=self.folder,
                hint="remove the folder, or give this run another --out",
            )
        if self.folder.exists() and not marker.is_file():
            raise ScoringError("the folder for unfinished parts is in use", where=self.folder)
        if not marker.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(marker, self._belongs_to)

    def path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.parquet"

    def remove(self) -> None:
        remove_tree(self.folder)


def _run(
    store_path: str,
    model_path: Path,
    tasks: list[tuple[int, np.ndarray]],
    parts: _PartFolder,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    total = sum(len(rows) for _, rows in tasks)
    open_tasks = [(index, rows) for index, rows in tasks if not parts.path(index).is_file()]
    done = total - sum(len(rows) for _, rows in open_tasks)
    if progress:
        progress(done, total)
    if not open_tasks:
        return
    import dask
    import torch
    from distributed import Client, LocalCluster, as_completed

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = torch.cuda.device_count() or cores  # a GPU belongs to one worker
    count = max(1, min(workers or places, places if torch.cuda.is_available() else cores, len(open_tasks)))
    scratch = Path(tempfile.mkdtemp(prefix="brainage-dask-"))
    quiet = {"logging.distributed": "critical", "distributed.worker.multiprocessing-method": "spawn"}
    try:
        with dask.config.set(quiet), ExitStack() as held:
            with _not_interrupted():
                cluster = LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",  # a free port, for this machine only
                    scheduler_kwargs={"dashboard": False},
                    local_directory=str(scratch),
                    silence_logs=logging.CRITICAL,  # what fails in a task is said by its future
                )
                client = held.enter_context(Client(held.enter_context(cluster)))
            futures = {
                client.submit(
                    _score_part,
                    store_path,
                    str(model_path),
                    rows,
                    str(parts.path(index)),
                    max(1, cores // count),
                    retries=_ATTEMPTS - 1,
                    pure=False,
                ): (index, len(rows))
                for index, rows in open_tasks
            }
            failed = []
            for future in as_completed(futures):
                index, size = futures[future]
                if future.status == "error":
                    failed.append(f"part {index}: {future.exception()}")
                    continue
                done += size
                if progress:
                    progress(done, total)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if failed:
        raise ScoringError(
            f"{len(failed)} of {len(open_tasks)} parts failed {_ATTEMPTS} times",
            where=failed[0],
            hint="run the same command again: the parts that are done are kept",
        )


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the end; processes that are started meanwhile never get one.

    It would end the workers and this process at once, and none of them would be there to tidy up.
    """
    warnings = os.environ.get("PYTHONWARNINGS")
    # Of a worker that must be killed in the middle of a task, the tracker tidies up: no word is needed.
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (warnings, "ignore:resource_tracker")))
    resource_tracker.ensure_running()  # now, since it unblocks a Ctrl-C when it is started
    if warnings is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = warnings
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _score_part(store: str, model: str, rows: np.ndarray, path: str, threads: int) -> int:
    """One task, on a worker: score the rows, write them to `path`, return how many."""
    predictor = _predictor(store, model, threads)
    table = predictor.score(rows)
    write_durably(Path(path), lambda file: table.to_parquet(file, index=False))
    return len(table)


_loaded: dict[tuple[str, str], Predictor] = {}


def _predictor(store_path: str, model_path: str, threads: int) -> Predictor:
    """This worker's predictor, loaded with its first task."""
    key = (store_path, model_path)
    if key not in _loaded:
        import torch
        from distributed import get_worker

        torch.set_num_threads(threads)
        # Workers are numbered from 0, and there are no more of them than GPUs.
        device = f"cuda:{get_worker().name}" if torch.cuda.is_available() else "cpu"
        bundle, store = load_bundle(Path(model_path), device), Store.open(store_path)
        matches = match_roles(store, bundle.info)
        _loaded[key] = Predictor(bundle, store, matches, package_version())
    return _loaded[key]


def _meeting_notes(store: Store, info: ModelInfo) -> tuple[str, ...]:
    """How the store's features meet the model's, in words; raises if they do not fit."""
    notes = []
    for role, match in match_roles(store, info).items():
        if not match.present.any():
            notes.append(f"the store has no {role}: every scan is scored without it")
            continue
        if match.missing:
            notes.append(
                f"{len(match.missing)} of the model's {len(match.columns)} {role} features are not in the"
                f" store and take the training median: {', '.join(match.missing[:5])}"
                + (", ..." if len(match.missing) > 5 else "")
            )
        if match.ignored:
            notes.append(f"{match.ignored} {role} features of the store are not used by the model")
    return tuple(notes)


def _rows(part: range) -> np.ndarray:
    return np.arange(part.start, part.stop, dtype=np.int64)


def _check_complete(table: pd.DataFrame, scans: pd.DataFrame) -> None:
    """Every selected scan once, in the store's order."""
    if scan_names(table) != scan_names(scans):
        raise ScoringError(
            f"the table has {len(table)} rows for {len(scans)} scans",
            where=", ".join(IDENTITY),
            hint="this is an error of hpc-brainage; please report it",
        )
