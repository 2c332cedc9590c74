"""A finished run as it lies on disk: its settings, its people, and the folds that they were held out in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import StoreError, TrainingError
from hpc_brainage.scans import IDENTITY
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.not_finished import not_a_finished_run
from hpc_brainage.training.records import RunFolder

_KNOWN_ROUNDING = 1e-3
_AGES = ("brain_age", "brain_age_smri_only", "brain_age_fmri_only")


def open_finished(folder: Path, store: str | None = None) -> tuple[RunFolder, TrainingData, RunConfig]:
    """A run, the very scans that it was trained on, and its settings.

    Parameters
    ----------
    store : where the run's store lies now, should it have been moved; it is known by its content.

    Raises
    ------
    TrainingError : the run is not finished, or its store has changed.
    StoreError : the store is not there any more.
    """
    run = RunFolder(folder)
    if not run.is_finished:
        raise not_a_finished_run(folder)
    request, config = run.request(), run.config()
    opened = _open_store(request["store"]) if store is None else Store.open(store)
    run.check_store(opened)
    return run, load_training_data(opened, config, request["where"]), config


def _open_store(place: str) -> Store:
    try:
        return Store.open(place)
    except StoreError as problem:
        raise StoreError(
            f"the run's store cannot be opened: {problem.what}",
            where=problem.where,
            expected=problem.expected,
            hint="if it was moved, say where it lies now, after the run: it is known by its content",
        ) from None


def held_out_table(run: RunFolder, data: TrainingData) -> pd.DataFrame:
    """The run's held_out.tsv, whose rows are the scans of the data in their order.

    `fold` is the fold in which a scan was held out; ages are in years, NaN where there is none.

    Raises
    ------
    TrainingError : the table cannot be read, or is of other scans.
    """
    text = dict.fromkeys(IDENTITY, str)
    try:
        table = pd.read_csv(
            run.held_out,
            sep="\t",
            dtype=text,
            keep_default_na=False,
            na_values={name: [""] for name in _AGES},
        )
        same = table[list(IDENTITY)].to_numpy().tolist() == data.scans[list(IDENTITY)].to_numpy().tolist()
        same = same and bool((np.abs(table["age"] - data.scans["age"]) < _KNOWN_ROUNDING).all())
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TrainingError(
            f"the held-out predictions cannot be read ({problem})", where=run.held_out
        ) from None
    if not same:
        raise TrainingError("these are held-out predictions of other scans", where=run.held_out)
    return table
