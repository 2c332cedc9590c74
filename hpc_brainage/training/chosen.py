"""Which scans of a store a run trains on, found without reading a single measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.modality import ROLES
from hpc_brainage.scans import select_scans
from hpc_brainage.store.reader import Store
from hpc_brainage.store.role_table import RoleTable, role_volume


@dataclass(frozen=True)
class ChosenScans:
    """Rows of a store, ascending, and by role the tables or the key of the volume that they are read from.

    `notes` says who was left out, and why.
    """

    rows: np.ndarray
    sources: dict[str, RoleTable | str]
    notes: tuple[str, ...]


def choose_scans(store: Store, config: RunConfig, where: str | None = None) -> ChosenScans:
    """The scans that can be trained on: selected, of known age, with a modality that is used.

    Raises
    ------
    UsageError : the selection is not understood, or matches nobody.
    TrainingError : nobody is left, or the store has none of the modalities that the settings use.
    """
    notes = []
    chosen = select_scans(store.scans, where)
    if where is not None:
        notes.append(f"{int((~chosen).sum())} of {store.n_scans} scans left out by --where {where!r}")
    sources: dict[str, RoleTable | str] = {}
    has = np.zeros(store.n_scans, dtype=bool)
    for role in ROLES:
        settings = config.modality(role)
        if not settings.use:
            continue
        volume = role_volume(store, role, settings.tables)
        if volume is not None:
            sources[role] = volume.key
            has |= store.present(volume.key)
            continue
        table = RoleTable(store, role, settings.tables)
        if table.modalities and table.present.any():
            sources[role] = table
            has |= table.present
    if not sources:
        raise TrainingError(
            "the store has no modality that these settings train on",
            where=store.path,
            hint="look at it with `brainage inspect`; volumes must be named in smri.tables",
        )
    for missing, what in (
        (store.scans["age"].isna().to_numpy(), "have no age"),
        (~has, "have none of the modalities used"),
    ):
        if (chosen & missing).any():
            notes.append(f"{int((chosen & missing).sum())} scans {what} and are not trained on")
        chosen = chosen & ~missing
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise TrainingError("no scan is left to train on", where=store.path, hint="; ".join(notes))
    if config.training.controls:  # what calibrates the model must be there before it is trained
        select_scans(store.scans.iloc[rows], config.training.controls, "training.controls")
    return ChosenScans(rows, sources, tuple(notes))
