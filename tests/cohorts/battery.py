"""What every reader's cohort must satisfy, whatever layout it came from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from hpc_brainage.cohorts.cohort import OLDEST_PLAUSIBLE_YEARS, Cohort
from hpc_brainage.modality import ScaledIntegers
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS, SEXES


def check_cohort(read: Callable[[], Cohort], loads: int = 5) -> Cohort:
    """Run every check on the cohort that `read` gives; `loads` scans of each modality are loaded."""
    cohort = read()
    check_scans(cohort)
    check_loading(cohort, loads)
    check_stable_order(cohort, read())
    check_empty(cohort)
    return cohort


def check_scans(cohort: Cohort) -> None:
    scans = cohort.scans
    assert tuple(scans.columns[: len(SCAN_COLUMNS)]) == SCAN_COLUMNS
    assert scans.columns.is_unique
    assert not scans.duplicated(list(IDENTITY)).any(), "identities are not unique"
    for column in ("participant_id", "session_id", "run", "site", "split", "diagnosis"):
        assert scans[column].map(lambda value: isinstance(value, str)).all(), f"{column} is not all text"
    assert (scans["participant_id"] != "").all()
    assert not scans["participant_id"].str.startswith("sub-").any()
    assert not scans["session_id"].str.startswith("ses-").any()
    assert scans["age"].dtype == np.float64
    assert scans["age"].dropna().between(0, OLDEST_PLAUSIBLE_YEARS).all()
    assert set(scans["sex"]) <= set(SEXES)


def check_loading(cohort: Cohort, loads: int) -> None:
    for key, source in cohort.sources.items():
        assert key == source.modality.key
        assert source.present.dtype == bool
        assert source.present.shape == (len(cohort),)
        rows = np.flatnonzero(source.present)
        for row in rows[np.linspace(0, len(rows) - 1, min(loads, len(rows))).astype(int)].tolist():
            loaded = source.load(row)
            if source.stored.numbers == "float32":
                assert isinstance(loaded, np.ndarray)
            else:
                assert isinstance(loaded, ScaledIntegers)
                assert loaded.integers.dtype == np.dtype(source.stored.numbers)
            first = source.values(row)
            assert first.shape == source.modality.shape
            assert first.dtype == np.float32
            assert not np.isinf(first).any()
            assert np.isfinite(first).any(), "a scan that is present has no value"
            if source.modality.kind == "volume":
                assert np.isfinite(first).all(), "a volume has no missing voxels"
            kept = first.copy()
            # what a caller does to its array must not reach the next load
            (loaded.integers if isinstance(loaded, ScaledIntegers) else first)[...] = 0
            np.testing.assert_array_equal(source.values(row), kept)
        if len(rows) >= 2:
            turned = cohort.take(rows[::-1]).sources[key]
            np.testing.assert_array_equal(turned.values(0), source.values(int(rows[-1])))


def check_stable_order(first: Cohort, second: Cohort) -> None:
    pd.testing.assert_frame_equal(first.scans, second.scans)
    assert list(first.sources) == list(second.sources)
    assert first.account == second.account
    assert first.recipe == second.recipe
    for key, source in first.sources.items():
        assert source.modality == second.sources[key].modality
        np.testing.assert_array_equal(source.present, second.sources[key].present)


def check_empty(cohort: Cohort) -> None:
    empty = cohort.take(np.array([], dtype=np.int64))
    assert len(empty) == 0
    assert tuple(empty.scans.columns) == tuple(cohort.scans.columns)
    assert all(len(source.present) == 0 for source in empty.sources.values())
