"""One OpenBHB array on the rows of a cohort: out of ROI tables, and out of one file per scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

import numpy as np

from hpc_brainage.cohorts.cohort import Account, JoinedSource, ModalitySource, Refusal
from hpc_brainage.cohorts.fingerprint import fingerprint_of
from hpc_brainage.cohorts.image_check import INTENSITY, MODULATED
from hpc_brainage.cohorts.npy import load_npy, read_npy
from hpc_brainage.cohorts.openbhb_names import OpenBHBArray
from hpc_brainage.cohorts.openbhb_roi import RoiTable, checked_roi, never_zero
from hpc_brainage.modality import Modality

Scan = tuple[str, str]  # participant, session


def place_array(
    array: OpenBHBArray,
    modality: Modality,
    tables: Sequence[tuple[Path, RoiTable]],
    files: Mapping[Scan, Sequence[Path]],
    *,
    rows: Mapping[Scan, int],
    known: Set[str],
) -> tuple[ModalitySource, Account]:
    """Find for each scan of the cohort how this array is loaded.

    A table is believed before a file of the same scan. Two that claim to be the same scan and differ
    are both refused.

    Parameters
    ----------
    array, modality : what is placed, and what it is in this download.
    tables : ROI tables with their paths.
    files : the files that claim to be a scan's array.
    rows : row of each scan of the cohort; sessions are "" throughout where they are not told apart.
    known : every participant of the release, those that were refused as people too.
    """
    scans = list(rows)
    sessions_count = any(session for _, session in scans)
    loaders: dict[int, Callable[[], np.ndarray]] = {}
    refused: dict[int, str] = {}
    strangers: list[tuple[str, str, str]] = []
    notes: list[str] = []
    entries = 0

    def row_of(participant: str, session: str) -> int | None:
        nonlocal entries
        entries += 1
        scan = (participant, session if sessions_count else "")
        if scan not in rows and participant not in known:
            strangers.append((*scan, ""))
        return rows.get(scan)

    first_seen: dict[int, np.ndarray] = {}
    for path, table in tables:
        notes += _zeros_to_missing(path, table, modality)
        for place, scan in enumerate(zip(table.participants, table.sessions, strict=True)):
            row = row_of(*scan)
            if row is None:
                continue
            if row in first_seen:
                if not np.array_equal(table.values[place], first_seen[row], equal_nan=True):
                    refused.setdefault(row, f"{path.name}: two different rows claim to be this scan")
            else:
                first_seen[row] = table.values[place]
                loaders[row] = table.values[place].copy
            if place in table.refused:
                refused.setdefault(row, f"{path.name}: {table.refused[place]}")
    for scan, paths in files.items():
        row = row_of(*scan)
        if row is None or row in first_seen:
            continue
        if len(paths) > 1 or row in loaders:
            names = ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
            refused.setdefault(row, f"several files claim to be this scan: {names}")
        loaders[row] = _file_loader(array, modality, paths[0])

    for row in refused:
        del loaders[row]
    present = np.zeros(len(scans), dtype=bool)
    present[list(loaders)] = True
    refusals = tuple(Refusal(*scans[row], "", modality.key, refused[row]) for row in sorted(refused))
    source = JoinedSource(
        modality.key,
        rows=entries,
        matched=len(loaders),
        only_here=tuple(strangers),
        without=len(scans) - len(loaders),
    )
    mark = fingerprint_of(path for paths in files.values() for path in paths)
    placed = ModalitySource(modality, present, lambda row: loaders[row](), mark)
    return placed, Account((source,), refusals, tuple(notes))


def _zeros_to_missing(path: Path, table: RoiTable, modality: Modality) -> list[str]:
    """Make regions that were not found missing, in place, and say how many there were."""
    zero = (table.values == 0) & never_zero(modality)
    if not zero.any():
        return []
    table.values[zero] = np.nan
    worst = modality.features[int(zero.sum(axis=0).argmax())]
    return [
        f"{modality.key}: {int(zero.sum())} areas, volumes or thicknesses of exactly 0 are missing in "
        f"{int(zero.any(axis=1).sum())} scans of {path.name} (most often {worst})"
    ]


def _file_loader(array: OpenBHBArray, modality: Modality, path: Path) -> Callable[[], np.ndarray]:
    if array.kind == "volume":
        plausible = MODULATED if array.name == "cat12vbm" else INTENSITY
        return partial(load_npy, path, modality.shape, plausible)
    if array.kind == "surface":
        return partial(load_npy, path, modality.shape)
    shape = modality.shape
    if len(array.shape) == 2:
        channels = array.shape[0]
        shape = (channels, modality.shape[0] // channels)
    return partial(_load_roi, path, shape, never_zero(modality))


def _load_roi(path: Path, shape: tuple[int, ...], zero_is_missing: np.ndarray) -> np.ndarray:
    """The features of one person, channel after channel, by the rules of the ROI tables."""
    return checked_roi(read_npy(path, shape).reshape(-1), zero_is_missing, path)
