"""Scans whose measurements lie in files of their own, gathered scan by scan into one cohort.

Versions differ in which regions they report, so the features of a modality are all those that any scan
has, in the order of their first appearance; what a scan lacks is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import Account, Cohort, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.feature_choice import listed
from hpc_brainage.cohorts.feature_table import features_from_matrix
from hpc_brainage.cohorts.file_identity import Identity, scans_of
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.people import People
from hpc_brainage.errors import CohortError
from hpc_brainage.files import sha256_of
from hpc_brainage.modality import Role


@dataclass(frozen=True)
class Measured:
    """The features of one modality of one scan.

    Parameters
    ----------
    names, units : of the features.
    values : shape (features,), float32; NaN is missing, nothing is infinite.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: np.ndarray


@dataclass
class Gathered:
    """Collects scans with `add`, in the order that they shall have, and makes a `cohort` of them.

    Memory is that of the values: scans with the same features share their names.

    Parameters
    ----------
    folder : that the scans lie in.
    role : of all modalities.
    reader : who reads them, for the recipe.
    """

    folder: Path
    role: Role
    reader: str
    _scans: list[Identity] = field(default_factory=list)
    _further: list[Mapping[str, float | str]] = field(default_factory=list)
    _rows: dict[str, dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[int, np.ndarray]]]] = field(
        default_factory=dict
    )
    _refusals: list[Refusal] = field(default_factory=list)
    _files: dict[Path, tuple[str, str]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The folder's name, for messages."""
        return self.folder.name

    def add(
        self,
        scan: Identity,
        measured: Mapping[str, Measured],
        further: Mapping[str, float | str] | None = None,
    ) -> None:
        """Take a scan with what was measured of it, by name of the modality; nothing is no scan.

        `further` are values that are no measurement of the brain (image quality): further columns.
        """
        if not measured:
            return
        row = len(self._scans)
        self._scans.append(scan)
        self._further.append(further or {})
        for name, found in measured.items():
            layouts = self._rows.setdefault(name, {})
            layouts.setdefault((found.names, found.units), []).append((row, found.values))

    def refuse(self, scan: Identity, reason: str, modality: str | None = None) -> None:
        """A scan, or one modality of it, that is there and cannot be taken."""
        source = f"{self.role}/{modality}" if modality else self.source
        self._refusals.append(Refusal(*scan, source, reason))

    def has_read(self, path: Path, name: str, sha256: str) -> None:
        """A file that was read: the `name` that the recipe knows it by, and the hash of its content."""
        self._files[path] = (name, sha256)

    def cohort(self, found: int, notes: Sequence[str], expected: str) -> Cohort:
        """The scans as a cohort whose ages are unknown.

        Parameters
        ----------
        found : how many scans the folder has, those that were refused among them.
        notes : what to know about the folder.
        expected : what such a folder holds, for the error.

        Raises
        ------
        CohortError : no scan has a measurement.
        """
        scans = self._table()
        people = People(scans, np.arange(len(scans)), Account())
        rows = JoinedSource(self.source, rows=found, matched=len(scans))
        account = Account((rows,), tuple(self._refusals), tuple(f"{self.source}: {note}" for note in notes))
        fingerprint = fingerprint_of(self._files)
        sources: dict[str, ModalitySource] = {}
        for name in list(self._rows):
            one = self._modality(name, people)
            sources |= {key: replace(new, fingerprint=fingerprint) for key, new in one.sources.items()}
            account += one.account
        if not sources:
            first = next((refusal.reason for refusal in self._refusals), None)
            raise CohortError(
                f"none of the {found} scans can be used",
                where=self.folder,
                expected=expected,
                hint=f"the first was refused because: {first}" if first else None,
            )
        content = list(self._files.values())
        recipe = {"reader": self.reader, "scan_files": len(content), "sha256": sha256_of(content)}
        return Cohort(self.source, scans, sources, account, recipe)

    def _table(self) -> pd.DataFrame:
        scans = scans_of(self._scans)
        further = pd.DataFrame(self._further, index=scans.index)
        words = further.select_dtypes(exclude="number").columns
        further[words] = further[words].fillna("")
        return pd.concat([scans, further], axis=1)

    def _modality(self, name: str, people: People) -> Cohort:
        layouts = self._rows.pop(name)  # each modality is let go of once its matrix is there
        unit_of = {
            feature: unit for names, units in layouts for feature, unit in zip(names, units, strict=True)
        }
        place = {feature: column for column, feature in enumerate(unit_of)}
        matrix = np.full((len(people.scans), len(unit_of)), np.nan, dtype=np.float32)
        for (names, _), found in layouts.items():
            columns = [place[feature] for feature in names]
            for row, values in found:
                matrix[row, columns] = values
        layouts.clear()
        key = f"{self.role}/{name}"
        features, notes = list(unit_of), []
        somewhere = np.asarray(np.isfinite(matrix).any(axis=0))
        if not somewhere.all():
            nowhere = [features[column] for column in np.flatnonzero(~somewhere)]
            notes.append(
                f"{key}: {len(nowhere)} features without a value in any scan are left out: "
                f"{listed(nowhere)}"
            )
            features = [features[column] for column in np.flatnonzero(somewhere)]
            matrix = matrix[:, somewhere]
        if not features:
            return Cohort(key, people.scans, {}, Account(notes=tuple(notes)))
        notes += _uneven(matrix, features, key)
        cohort = features_from_matrix(
            matrix,
            features,
            people,
            source=key,
            role=self.role,
            name=name,
            units=[unit_of[feature] for feature in features],
        )
        return replace(cohort, account=Account(notes=tuple(notes)) + cohort.account)


def _uneven(matrix: np.ndarray, features: list[str], key: str) -> list[str]:
    """How many scans lack features that other scans have; those without any are not meant."""
    has = np.isfinite(matrix)
    measured = np.asarray(has.any(axis=1))
    lacking = measured.sum() - has.sum(axis=0)  # scans, for each feature
    if not lacking.any():
        return []
    most = int(lacking.argmax())
    scans = int((measured & ~np.asarray(has.all(axis=1))).sum())
    return [
        f"{key}: {scans} of {int(measured.sum())} scans lack features that others have, most often "
        f"{features[most]} ({int(lacking[most])})"
    ]
