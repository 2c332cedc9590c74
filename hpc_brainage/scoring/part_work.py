"""One task on a worker: score some parts of a store, and write the rows down there.

A worker loads the model with its first task and keeps it. What is loaded must be what the run was started
with, by its hashes, and so must the code: workers on other nodes see the same files, or they are refused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_brainage.errors import ModelError, ScoringError, StoreError
from hpc_brainage.model.bundle import bundle_sha256, load_bundle
from hpc_brainage.provenance import package_version
from hpc_brainage.scans import select_scans
from hpc_brainage.scoring.alignment import match_roles
from hpc_brainage.scoring.parts import PartRecord, part_record, write_part
from hpc_brainage.store.reader import Store

if TYPE_CHECKING:
    from hpc_brainage.scoring.predictor import Predictor

THREADS = "BRAINAGE_THREADS"
"""Environment variable: cores of a worker; without it, as many as Dask gives it threads."""
DEVICE = "BRAINAGE_DEVICE"
"""Environment variable: `cpu`, `cuda`, or by default a GPU if there is one."""

_ALONE = threading.Lock()
"""Held by the task that is at work: a worker of Dask with several threads starts as many tasks at once, and
each would take all of the threads, a model and a block of its own."""


@dataclass(frozen=True)
class PartWork:
    """What a worker has to know to score any part of a run.

    Attributes
    ----------
    store, model, folder : where they are, seen from every worker.
    belongs_to : what the parts belong to (see `belonging`).
    where : the selection of scans.
    """

    store: str
    model: str
    folder: str
    belongs_to: tuple[tuple[str, str | None], ...]
    where: str | None = None

    def __call__(self, first: int, stop: int) -> PartRecord:
        """Score the chosen scans among rows `first` to `stop`, unless that is done already.

        Raises
        ------
        StoreError, ModelError, ScoringError : store, model or code are not those of the run, or the run
            is over.
        """
        folder = Path(self.folder)
        if (done := part_record(folder, first, stop)) is not None:
            return done
        with _ALONE:
            predictor, chosen = _loaded(self)
            began = time.monotonic()
            table = predictor.score(first + np.flatnonzero(chosen[first:stop]))
            return write_part(folder, first, stop, table, began)


def belonging(store: Store, model: Path, where: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What parts belong to: parts of which any of this differs are never put into one table."""
    return {
        "model": bundle_sha256(model),
        "store": store.content_sha256,
        "selection": where,
        "software": package_version(),
        **settings,
    }


@lru_cache(maxsize=1)
def _loaded(work: PartWork) -> tuple[Predictor, np.ndarray]:
    """This worker's predictor, and which scans of the store are chosen; made with its first task."""
    import torch
    from distributed import get_worker

    from hpc_brainage.scoring.predictor import Predictor

    torch.set_num_threads(int(os.environ.get(THREADS) or get_worker().state.nthreads))
    store = Store.open(work.store)
    found = belonging(store, Path(work.model), work.where, {})
    for name, error in (("model", ModelError), ("store", StoreError), ("software", ScoringError)):
        if found[name] != dict(work.belongs_to)[name]:
            raise error(
                f"a worker finds another {name} than the command that it works for",
                where=f"{os.uname().nodename}: {work.model if name == 'model' else work.store}",
                expected=f"{name} {dict(work.belongs_to)[name]}",
                hint="workers must see the same files, and run the same version",
            )
    bundle = load_bundle(Path(work.model), _device())
    predictor = Predictor(bundle, store, match_roles(store, bundle.info), package_version())
    return predictor, select_scans(store.scans, work.where)


def _device() -> str:
    """The GPU of this worker, if it has one.

    Workers of one machine or job are numbered from 0, and there are no more of them than GPUs; where each
    sees its own GPU alone, or first, `DEVICE` says so.
    """
    import torch

    asked = os.environ.get(DEVICE, "")
    if asked:
        return asked
    if not torch.cuda.is_available():
        return "cpu"
    from distributed import get_worker

    number = str(get_worker().name).rpartition("-")[2]
    return f"cuda:{int(number) % torch.cuda.device_count() if number.isdecimal() else 0}"
