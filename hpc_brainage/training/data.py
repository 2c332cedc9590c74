"""What a run trains on: the chosen scans of a store, and their inputs.

Feature tables are read into memory once and indexed by tensors from then on. Volumes stay in the store
and are streamed batch by batch, the next one read while the present one is computed on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from hpc_brainage.config import RunConfig
from hpc_brainage.model.member import SEX_NUMBERS
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, select_scans
from hpc_brainage.store.reader import Store
from hpc_brainage.store.role_table import RoleTable
from hpc_brainage.training.chosen import choose_scans

_READERS = 2  # threads that unpack volumes, in each process


@dataclass(frozen=True)
class FeatureInput:
    """A role's features, float32 (scans, features) with NaN where missing; their names, units, tables."""

    tables: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    present: np.ndarray
    x_NF: np.ndarray

    def take(self, rows: np.ndarray) -> FeatureInput:
        """The same features for a choice of the scans."""
        return replace(self, present=self.present[rows], x_NF=self.x_NF[rows])


@dataclass(frozen=True)
class VolumeInput:
    """A role's volume, left in the store."""

    store: Store
    key: str
    grid: tuple[int, int, int]
    present: np.ndarray
    store_rows: np.ndarray

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """Float32 (rows, X, Y, Z) in the store's memory order; zeros where a scan has no volume."""
        out = self.store.empty(self.key, len(rows))
        self.store.read_into(self.key, self.store_rows[rows], out, absent=0.0, threads=_READERS)
        return torch.from_numpy(out)

    def take(self, rows: np.ndarray) -> VolumeInput:
        """The same volume for a choice of the scans."""
        return replace(self, present=self.present[rows], store_rows=self.store_rows[rows])


RoleInput = FeatureInput | VolumeInput


@dataclass(frozen=True)
class TrainingData:
    """The scans that a run trains on.

    Attributes
    ----------
    scans : their table, numbered from 0; all following arrays are in this order.
    inputs : by role.
    availability : which modalities each scan has, as "smri+fmri", "smri" or "fmri".
    checksums : of each scan, those of all its measurements in the store ("" where it has none).
    notes : who was left out, and why.
    """

    store: Store
    scans: pd.DataFrame
    inputs: dict[str, RoleInput]
    availability: list[str]
    checksums: list[tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def complete(self) -> np.ndarray:
        """Who has every modality, bool (scans,)."""
        present: np.ndarray = np.logical_and.reduce([source.present for source in self.inputs.values()])
        return present

    @property
    def sex(self) -> np.ndarray:
        return np.array([SEX_NUMBERS[sex] for sex in self.scans["sex"]], dtype=np.int64)

    @property
    def age(self) -> np.ndarray:
        return self.scans["age"].to_numpy(dtype=np.float32, copy=True)

    def take(self, rows: np.ndarray) -> TrainingData:
        """Some of the scans, by row number or mask, in that order; nothing of the others comes along."""
        rows = np.arange(len(self.scans))[rows]
        return replace(
            self,
            scans=self.scans.iloc[rows].reset_index(drop=True),
            inputs={role: source.take(rows) for role, source in self.inputs.items()},
            availability=[self.availability[row] for row in rows],
            checksums=[self.checksums[row] for row in rows],
        )

    def only(self, roles: Collection[str]) -> TrainingData:
        """The same scans as if there were no other modalities than these."""
        inputs = {role: source for role, source in self.inputs.items() if role in roles}
        return replace(self, inputs=inputs, availability=_availability(inputs, len(self.scans)))

    def hiding(self, roles: Collection[str]) -> TrainingData:
        """The same scans as if nobody had these modalities, which are known to exist."""
        inputs = {
            role: replace(source, present=source.present & (role not in roles))
            for role, source in self.inputs.items()
        }
        return replace(self, inputs=inputs, availability=_availability(inputs, len(self.scans)))

    def without_ages(self) -> TrainingData:
        """The same scans as a predictor may see them: who they are, their sex and their measurements.

        Ages are NaN, sites, splits and diagnoses empty, and columns that only this cohort has are left
        out: one of them may say the age in another way.
        """
        scans = self.scans[[*IDENTITY, "sex"]].assign(age=np.nan, site="", split="", diagnosis="")
        return replace(self, scans=scans[list(SCAN_COLUMNS)])


def load_training_data(store: Store, config: RunConfig, where: str | None = None) -> TrainingData:
    """The scans of a store that can be trained on: selected, of known age, with a modality that is used.

    Raises
    ------
    UsageError, TrainingError : as `choose_scans`.
    """
    chosen = choose_scans(store, config, where)
    rows, notes = chosen.rows, list(chosen.notes)
    inputs = {role: _input(store, source, rows) for role, source in chosen.sources.items()}
    availability = _availability(inputs, len(rows))
    scans = store.scans.iloc[rows].reset_index(drop=True)
    checksums = list(zip(*(store.checksums(key)[rows].tolist() for key in store.modalities), strict=True))
    notes += _twins(scans, checksums) + _worth_knowing(scans, where)
    notes += _whose_norms(scans, config.training.controls)
    return TrainingData(store, scans, inputs, availability, checksums, tuple(notes))


def _availability(inputs: Mapping[str, RoleInput], scans: int) -> list[str]:
    return ["+".join(role for role, one in inputs.items() if one.present[row]) for row in range(scans)]


def _worth_knowing(scans: pd.DataFrame, where: str | None) -> list[str]:
    """What somebody may not have meant to train on."""
    notes = []
    splits = scans["split"].value_counts()
    if where is None and len(splits) > 1 and any("test" in str(split) for split in splits.index):
        counts = ", ".join(f"{split or 'none'} {n}" for split, n in splits.items())
        notes.append(
            f"WARNING: the cohort has official splits ({counts}), and all of them are trained on;"
            " --where \"split == 'train'\" keeps the others for testing"
        )
    sexes = set(scans["sex"])
    if not {"F", "M"} <= sexes:
        notes.append(f"everybody's sex is {'/'.join(sorted(sexes))}: the model will not know the other sex")
    return notes


def _whose_norms(scans: pd.DataFrame, controls: str) -> list[str]:
    """Of a cohort with several diagnoses, whom a gap will be compared with."""
    if controls:
        chosen = int(select_scans(scans, controls, "training.controls").sum())
        return [f"calibration is by {chosen} of {len(scans)} scans (training.controls {controls!r})"]
    diagnoses = scans["diagnosis"].value_counts()
    if len(diagnoses) < 2:
        return []
    counts = ", ".join(f"{name or 'none'} {n}" for name, n in diagnoses.head(6).items())
    return [
        f"WARNING: there are several diagnoses ({counts}), and gaps will be compared with everybody's;"
        f" --set training.controls=\"diagnosis == '{diagnoses.index[0]}'\", say, names the controls"
    ]


def _twins(scans: pd.DataFrame, checksums: list[tuple[str, ...]]) -> list[str]:
    """A note on people with the very same data under different names: folds cannot keep those apart."""
    owners: dict[str, set[str]] = {}
    for person, own in zip(scans["participant_id"], checksums, strict=True):
        for checksum in filter(None, own):
            owners.setdefault(checksum, set()).add(person)
    twins = sorted({", ".join(sorted(people)) for people in owners.values() if len(people) > 1})
    if not twins:
        return []
    return [
        f"WARNING: {len(twins)} scans are there under several participants (one is {twins[0][:80]}): the"
        " held-out error is too good if they fall into different folds"
    ]


def _input(store: Store, source: RoleTable | str, rows: np.ndarray) -> RoleInput:
    if isinstance(source, RoleTable):
        return FeatureInput(
            source.tables, source.names, source.units, source.present[rows], source.read(rows)
        )
    x, y, z = store.modalities[source].shape
    return VolumeInput(store, source, (x, y, z), store.present(source)[rows], rows)


def stream(
    inputs: dict[str, torch.Tensor | VolumeInput], batches: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Batches of rows with their inputs, volumes read one batch ahead of the one in use."""

    def gather(rows: np.ndarray) -> dict[str, torch.Tensor]:
        index = torch.from_numpy(rows)
        return {
            role: source.read(rows) if isinstance(source, VolumeInput) else source[index.to(source.device)]
            for role, source in inputs.items()
        }

    if not any(isinstance(source, VolumeInput) for source in inputs.values()):
        for rows in batches:
            yield rows, gather(rows)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="volumes") as reader:
        ahead = [reader.submit(gather, rows) for rows in batches[:1]]
        for index, rows in enumerate(batches):
            if index + 1 < len(batches):
                ahead.append(reader.submit(gather, batches[index + 1]))
            yield rows, ahead.pop(0).result()
