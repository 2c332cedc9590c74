"""All feature tables of one role, side by side, as one matrix with named columns.

A model takes one vector per role, while a store may hold several tables of it (OpenBHB has three for
sMRI). Columns keep their feature names; a name that stands in two tables is qualified in both as
`table:feature`, so that a column is always found by one name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hpc_brainage.errors import StoreError, nearest
from hpc_brainage.modality import Modality
from hpc_brainage.store.reader import Store


class RoleTable:
    """The chosen feature tables of a role.

    Attributes
    ----------
    tables : names of the role's modalities, in the order of the columns.
    names : column names, in the order of the tables and of their features.
    units : of the columns, "" where unknown.
    present : bool (scans,), whether a scan has at least one of the tables.
    """

    def __init__(self, store: Store, role: str, tables: Sequence[str] = ()) -> None:
        """`tables` names modalities of the role; none named means all of its feature tables."""
        self.store = store
        self.role = role
        self.modalities = [
            modality for modality in _chosen(store, role, tables) if modality.kind == "features"
        ]
        self.tables = tuple(modality.name for modality in self.modalities)
        self.units = tuple(unit for modality in self.modalities for unit in modality.units)
        repeated = Counter(name for modality in self.modalities for name in modality.features)
        self.names = tuple(
            f"{modality.name}:{name}" if repeated[name] > 1 else name
            for modality in self.modalities
            for name in modality.features
        )
        self._place = {name: index for index, name in enumerate(self.names)}
        self.present = np.zeros(store.n_scans, dtype=bool)
        for modality in self.modalities:
            self.present |= store.present(modality.key)

    def column(self, name: str) -> int:
        """The column of a feature, -1 if there is none.

        A name qualified by a table (`table:feature`) that is not there by itself means the feature of
        that name, if only one table has it.
        """
        if name in self._place:
            return self._place[name]
        _, _, bare = name.partition(":")
        return self._place.get(bare, -1)

    def read(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Float32 (rows, columns); NaN where a feature, or a whole table, is missing for a scan."""
        if not self.modalities:
            n = self.store.n_scans if rows is None else len(rows)
            return np.empty((n, 0), dtype=np.float32)
        parts = [self.store.read(modality.key, rows) for modality in self.modalities]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def role_volume(store: Store, role: str, tables: Sequence[str]) -> Modality | None:
    """The volume that `tables` chooses for the role, or None if it chooses feature tables.

    Raises
    ------
    StoreError : a volume is mixed with other modalities, or a surface is chosen.
    """
    chosen = _chosen(store, role, tables) if tables else []
    images = [modality for modality in chosen if modality.kind != "features"]
    if not images:
        return None
    if len(chosen) > 1 or images[0].kind == "surface":
        raise StoreError(
            "a branch of the model takes feature tables or one volume",
            where=", ".join(modality.key for modality in chosen),
            hint=f"name one volume, or only feature tables, in {role}.tables",
        )
    return images[0]


def _chosen(store: Store, role: str, tables: Sequence[str]) -> list[Modality]:
    of_role = {m.name: m for m in store.modalities.values() if m.role == role}
    if not tables:
        return list(of_role.values())
    for name in tables:
        if name not in of_role:
            raise StoreError(
                f"the store has no {role} modality {name!r}",
                where=store.path,
                hint=nearest(name, of_role),
            )
    return [of_role[name] for name in tables]
