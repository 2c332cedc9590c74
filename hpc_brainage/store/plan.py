"""The plan of a conversion: what will stand in the store, and in which parts it is made.

The plan is made once, from the cohort alone, and frozen beside the work. Whoever comes later, to go on
after a kill or to convert one part in a job of its own, makes the plan again and compares the hash: a
different table of scans, selection, set of files or format is never mixed into a store that was begun
with another. What the files of single scans hold is not part of the plan (see `Plan`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.errors import StoreError, UsageError
from hpc_brainage.files import sha256_of
from hpc_brainage.modality import Modality
from hpc_brainage.provenance import software
from hpc_brainage.store.people import columns_of, hash_of_table
from hpc_brainage.store.schema import (
    FORMAT,
    FORMAT_VERSION,
    MOST_SCANS,
    Encoding,
    Layout,
    check_names,
    cut,
    lay_out,
)

_PLAIN = ("name", "n_scans", "scans_sha256", "part_scans", "recipe", "account", "software", "extends")


@dataclass(frozen=True)
class PlannedModality:
    """A modality, how its scans are laid on disk, and which scans the source has it for.

    `encoding` says how numbers become bytes.

    `present_sha256` is the hash of the source's presence mask, one byte per scan; `fingerprint` is the
    source's own, of the files that it will load ("" if it gives none).
    """

    modality: Modality
    layout: Layout
    encoding: Encoding
    present_sha256: str
    fingerprint: str


@dataclass(frozen=True)
class PlannedSource:
    """What a plan needs to know of a source: its modality, and for which scans (scans,) it has it."""

    modality: Modality
    present: np.ndarray
    encoding: Encoding
    fingerprint: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a store, except the measurements in files of single scans.

    Tables are in the recipe by hash. A file of one scan is known by its name and size only, and only
    where its reader gives a fingerprint: one that is replaced by another of the same size, or whose
    reader gives none, leaves the plan as it was.

    Parameters
    ----------
    name : of the cohort.
    n_scans : rows of the store.
    scans_sha256 : hash of the whole table of scans.
    modalities : in the cohort's order.
    part_scans : scans per part, a multiple of every shard.
    recipe : how the cohort was read.
    account : how many rows of which source were taken, JSON-able.
    software : versions that write the bytes; not part of the hash, but frozen with the plan.
    extends : the plan of the finished store that this one adds scans to, and how many it has (see
        `conversion.append`); `None` for a new store.
    """

    name: str
    n_scans: int
    scans_sha256: str
    modalities: tuple[PlannedModality, ...]
    part_scans: int
    recipe: dict[str, Any]
    account: dict[str, Any]
    software: dict[str, str]
    extends: dict[str, Any] | None = None

    @classmethod
    def make(
        cls,
        name: str,
        scans: pd.DataFrame,
        sources: Sequence[PlannedSource],
        *,
        recipe: Mapping[str, Any],
        account: Mapping[str, Any],
        extends: Mapping[str, Any] | None = None,
    ) -> Plan:
        """Plan a store of `scans` with these sources.

        Raises
        ------
        StoreError : there is no modality, one is empty or larger than a store can hold, two need the
            same array name, or there are too many scans.
        """
        if len(scans) > MOST_SCANS:
            raise StoreError(f"{len(scans)} scans in one store", expected=f"at most {MOST_SCANS}")
        check_names([(source.modality, source.encoding) for source in sources])
        part_scans, layouts = lay_out([source.modality for source in sources])
        return cls(
            name=name,
            n_scans=len(scans),
            scans_sha256=hash_of_table(columns_of(scans)),
            modalities=tuple(
                PlannedModality(
                    source.modality,
                    layouts[source.modality.key],
                    source.encoding,
                    hashlib.sha256(np.asarray(source.present, dtype=bool).tobytes()).hexdigest(),
                    source.fingerprint,
                )
                for source in sources
            ),
            part_scans=part_scans,
            recipe=json.loads(json.dumps(recipe)),
            account=json.loads(json.dumps(account)),
            software=software("numpy", "numcodecs", "zarr"),
            extends=None if extends is None else dict(extends),
        )

    @property
    def first_new(self) -> int:
        """The first row that is converted; those before it are in the store that is extended."""
        return 0 if self.extends is None else self.extends["n_scans"]

    @cached_property
    def parts(self) -> list[range]:
        """Rows of each part, in order; the first may begin with scans that the store has already."""
        return [rows for rows in cut(self.n_scans, self.part_scans) if rows.stop > self.first_new]

    def shards(self, part: int, planned: PlannedModality) -> list[range]:
        """Rows of the shards of one modality in a part, but for those that only hold scans of before."""
        rows, length = self.parts[part], planned.layout.shard_scans
        first = max(rows.start, self.first_new - self.first_new % length)
        return [range(start, min(start + length, rows.stop)) for start in range(first, rows.stop, length)]

    @cached_property
    def sha256(self) -> str:
        record = self.to_record()
        del record["software"]
        return sha256_of(record)

    def to_record(self) -> dict[str, Any]:
        """JSON-able; `from_record` reads it back."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "n_scans": self.n_scans,
            "scans_sha256": self.scans_sha256,
            "modalities": [
                {
                    **planned.modality.describe(),
                    **planned.encoding.describe(),
                    "chunk_scans": planned.layout.chunk_scans,
                    "shard_scans": planned.layout.shard_scans,
                    "present_sha256": planned.present_sha256,
                    "fingerprint": planned.fingerprint,
                }
                for planned in self.modalities
            ],
            "part_scans": self.part_scans,
            "recipe": self.recipe,
            "account": self.account,
            "software": self.software,
            "extends": self.extends,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Plan:
        """Read a frozen plan back.

        Raises
        ------
        StoreError : it was frozen by another format version, or is damaged.
        """
        try:
            if record["format_version"] != FORMAT_VERSION:
                raise StoreError(
                    "a conversion was begun here by another version of this program",
                    hint="--overwrite starts it again",
                )
            return cls(
                modalities=tuple(
                    PlannedModality(
                        Modality.from_record(entry),
                        Layout(entry["chunk_scans"], entry["shard_scans"]),
                        Encoding.from_record(entry),
                        entry["present_sha256"],
                        entry["fingerprint"],
                    )
                    for entry in record["modalities"]
                ),
                **{field: record[field] for field in _PLAIN},
            )
        except (KeyError, TypeError, UsageError):
            raise StoreError(
                "the plan of the conversion that was begun here is damaged",
                hint="--overwrite starts it again",
            ) from None

    def differences(self, other: Plan) -> list[str]:
        """In which respects two plans differ, in words."""
        words = {
            "name": "the name of the cohort",
            "n_scans": "the number of scans",
            "scans_sha256": "the table of scans",
            "modalities": "the modalities, which scans have them, or the files that these are in",
            "part_scans": "the size of a part",
            "recipe": "the input files or options",
            "account": "the account of the sources",
            "software": "the versions of the software",
            "extends": "the store that is added to",
        }
        return [word for field, word in words.items() if getattr(self, field) != getattr(other, field)]
