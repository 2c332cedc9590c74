"""Where a model meets a store: features are matched by name, never by position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpc_brainage.errors import ModelError
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.store.reader import Store
from hpc_brainage.store.role_table import RoleTable, role_volume

LEAST_SHARED = 0.5
"""A store that has less than this share of a model's features of a role does not fit the model."""


@dataclass(frozen=True)
class RoleMatch:
    """How a role of the model is served by the store.

    Attributes
    ----------
    present : bool (scans,), which scans of the store have the role.
    columns : for features, the store column of each of the model's features, -1 where it has none.
    missing : the model's features that the store lacks; they take the training median.
    ignored : how many features the store has and the model does not take.
    volume : for a volume, its key in the store.
    """

    role: str
    present: np.ndarray
    columns: np.ndarray
    missing: tuple[str, ...]
    ignored: int
    table: RoleTable | None
    volume: str | None = None

    @cached_property
    def _are_all(self) -> bool:
        """Whether the model takes the store's columns as they stand."""
        assert self.table is not None
        return np.array_equal(self.columns, np.arange(len(self.table.names)))

    def features(self, rows: np.ndarray) -> np.ndarray:
        """The model's features of some scans, float32 (rows, features); NaN where there is none."""
        assert self.table is not None
        stored = self.table.read(rows)
        if self._are_all:
            return stored
        if not stored.shape[1]:
            return np.full((len(rows), len(self.columns)), np.nan, dtype=np.float32)
        taken = np.take(stored, self.columns, axis=1, mode="clip")
        taken[:, self.columns < 0] = np.nan
        return taken


def match_roles(store: Store, info: ModelInfo) -> dict[str, RoleMatch]:
    """Match every role of the model with what the store has; a role may be absent altogether.

    Raises
    ------
    ModelError : the store has a role, but too few of the features that the model takes; or it has none
        of the model's roles.
    """
    matches: dict[str, RoleMatch] = {}
    for role, features in info.features.items():
        matches[role] = _match_features(store, role, features, info)
    for role, grid in info.volumes.items():
        matches[role] = _match_volume(store, role, grid, info)
    if not any(match.present.any() for match in matches.values()):
        raise ModelError(
            "the store has none of the modalities that the model takes",
            where=store.path,
            expected=" or ".join(matches),
            hint="look at the store with `brainage inspect`",
        )
    return matches


def _match_features(store: Store, role: str, features: tuple[str, ...], info: ModelInfo) -> RoleMatch:
    # The tables that the model was trained on, where the store has them by these names; else all of the
    # role's: names of features are what counts.
    known = [name for name in info.tables[role] if f"{role}/{name}" in store.modalities]
    table = RoleTable(store, role, known)
    columns = np.array([table.column(name) for name in features], dtype=np.int64)
    missing = tuple(name for name, column in zip(features, columns, strict=True) if column < 0)
    if table.modalities and len(missing) > (1 - LEAST_SHARED) * len(features):
        others = {m.role for m in store.modalities.values()} & {*info.features, *info.volumes} - {role}
        without = f", or make a store without {role}" if others else ""
        raise ModelError(
            f"the store has {len(features) - len(missing)} of the {len(features)} {role} features that"
            " the model takes",
            where=store.path,
            expected=f"at least {LEAST_SHARED:.0%} of them, by name: {_some(features)}",
            hint=f"the store has {_some(table.names)}; convert the cohort with the atlas and software that"
            f" the model was trained on{without}",
        )
    for name, column, unit in zip(features, columns, info.units[role], strict=True):
        theirs = table.units[column] if column >= 0 else ""
        if unit and theirs and unit != theirs:
            raise ModelError(
                f"the {role} feature {name!r} is in {theirs} in the store and in {unit} in the model",
                where=store.path,
                hint="convert the cohort in the units of the model's training",
            )
    ignored = len(table.names) - (len(features) - len(missing))
    return RoleMatch(role, table.present, columns, missing, ignored, table)


def _match_volume(store: Store, role: str, grid: tuple[int, ...], info: ModelInfo) -> RoleMatch:
    tables = info.tables[role]
    has_it = any(m.role == role and m.name in tables for m in store.modalities.values())
    volume = role_volume(store, role, tables) if has_it else None
    if volume is None:
        absent = np.zeros(store.n_scans, dtype=bool)
        return RoleMatch(role, absent, np.empty(0, dtype=np.int64), (), 0, None)
    if volume.shape != grid:
        raise ModelError(
            f"the store's {volume.key} has grid {volume.shape}", where=store.path, expected=str(grid)
        )
    return RoleMatch(role, store.present(volume.key), np.empty(0, dtype=np.int64), (), 0, None, volume.key)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
