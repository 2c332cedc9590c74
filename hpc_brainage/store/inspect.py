"""What is in a store, in numbers: plain records that a command line or a report can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.modality import Modality
from hpc_brainage.store.reader import Store
from hpc_brainage.store.schema import bytes_per_scan, shard_key


@dataclass(frozen=True)
class ModalitySummary:
    """One modality of a store.

    Parameters
    ----------
    present, refused : scans that have it; scans whose data was not taken.
    bytes_raw, bytes_stored : of the scans that are present, as float32; of their shard files.
    shards : number of files.
    missing_share : of the feature values of present scans, 0 to 1; 0 for images.
    empty_features : names of features that no scan has a value for.
    constant_features : names of features that are the same in all scans that have one.
    """

    modality: Modality
    present: int
    refused: int
    bytes_raw: int
    bytes_stored: int
    shards: int
    chunk_scans: int
    shard_scans: int
    missing_share: float
    empty_features: tuple[str, ...]
    constant_features: tuple[str, ...]

    @property
    def compression(self) -> float:
        """How many times smaller the shards are than the values; NaN if no scan is present."""
        return self.bytes_raw / self.bytes_stored if self.bytes_stored else float("nan")


@dataclass(frozen=True)
class PeopleSummary:
    """Who is in a store; ages in years, NaN if none is known.

    The counts are by value, the most frequent first; "" is unknown.
    """

    scans: int
    participants: int
    without_data: int
    age_known: int
    age_mean: float
    age_sd: float
    age_min: float
    age_max: float
    sexes: dict[str, int]
    sites: dict[str, int]
    splits: dict[str, int]
    diagnoses: dict[str, int]
    further_columns: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """A store at a glance."""

    name: str
    format_version: int
    content_sha256: str
    people: PeopleSummary
    modalities: tuple[ModalitySummary, ...]
    parts: int
    part_scans: int
    recipe: dict[str, Any]
    software: dict[str, str]
    account: dict[str, Any]


def describe(store: Store) -> Summary:
    """Summarise an open store, without reading its measurements.

    Raises
    ------
    StoreError : one of the arrays that it needs is missing or damaged.
    """
    return Summary(
        name=store.name,
        format_version=store.attributes["format_version"],
        content_sha256=store.content_sha256,
        people=_people(store),
        modalities=tuple(_modality(store, modality) for modality in store.modalities.values()),
        parts=len(store.parts()),
        part_scans=store.part_scans,
        recipe=store.attributes["recipe"],
        software=store.attributes["software"],
        account=store.attributes["account"],
    )


def _people(store: Store) -> PeopleSummary:
    scans = store.scans
    some = np.logical_or.reduce([store.present(key) for key in store.modalities])
    ages = scans["age"].dropna()
    return PeopleSummary(
        scans=len(scans),
        participants=scans["participant_id"].nunique(),
        without_data=int((~some).sum()),
        age_known=len(ages),
        age_mean=float(ages.mean()),
        age_sd=float(ages.std()),
        age_min=float(ages.min()),
        age_max=float(ages.max()),
        sexes=_counts(scans["sex"]),
        sites=_counts(scans["site"]),
        splits=_counts(scans["split"]),
        diagnoses=_counts(scans["diagnosis"]),
        further_columns=tuple(column.name for column in store.columns if column.array != column.name),
    )


def _modality(store: Store, modality: Modality) -> ModalitySummary:
    present, layout = int(store.present(modality.key).sum()), store.layout(modality.key)
    files = {shard_key(modality, number) for number in store.shard_numbers(modality.key)}
    folder = store.place.sizes(f"{modality.array_name}/")
    statistics = store.statistics(modality.key)
    empty: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    missing = 0.0
    if modality.kind == "features":
        names = np.array(modality.features, dtype=object)
        empty = tuple(names[statistics.count == 0])
        constant = tuple(names[(statistics.count > 1) & (statistics.min == statistics.max)])
        if present:
            missing = 1.0 - float(statistics.count.sum()) / (present * len(names))
    return ModalitySummary(
        modality=modality,
        present=present,
        refused=int((store.refused(modality.key) != "").sum()),
        bytes_raw=present * bytes_per_scan(modality),
        bytes_stored=sum(size for key, size in folder if key in files),
        shards=len(files),
        chunk_scans=layout.chunk_scans,
        shard_scans=layout.shard_scans,
        missing_share=missing,
        empty_features=empty,
        constant_features=constant,
    )


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}
