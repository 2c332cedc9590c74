from __future__ import annotations

import json

import numpy as np
import pytest

from hpc_brainage.store.statistics import Statistics


def block(n: int = 40, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(1e4, 1.0, (n, 5)).astype(np.float32)
    values[::3, 1] = np.nan
    values[:, 2] = np.nan
    values[:, 3] = 0.1
    return values


def test_statistics_of_features_leave_missing_values_out() -> None:
    values = block()
    found = Statistics.of_features(values)
    known = [0, 1, 3, 4]
    exact = values.astype(np.float64)
    assert found.count.tolist() == [40, 26, 0, 40, 40]
    np.testing.assert_allclose(found.mean[known], np.nanmean(exact[:, known], axis=0), rtol=1e-14)
    np.testing.assert_allclose(
        np.sqrt(found.m2 / found.count.clip(1))[known],
        np.nanstd(exact[:, known], axis=0),
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_array_equal(found.min[known], np.nanmin(values[:, known], axis=0))
    np.testing.assert_array_equal(found.max[known], np.nanmax(values[:, known], axis=0))


def test_what_was_never_counted_is_unknown_and_not_zero() -> None:
    found = Statistics.of_features(block())
    assert np.isnan([found.mean[2], found.min[2], found.max[2]]).all()
    assert found.count[2] == found.m2[2] == 0


@pytest.mark.parametrize("cuts", [[1], [20], [0, 40], [3, 3, 17, 39]])
def test_merging_pieces_gives_what_one_pass_gives(cuts: list[int]) -> None:
    values = block()
    whole = Statistics.of_features(values)
    merged = Statistics.nothing((5,))
    for piece in np.split(values, cuts):
        merged = merged.merge(Statistics.of_features(piece))
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-10, atol=1e-20)
    np.testing.assert_array_equal(merged.min, whole.min)
    np.testing.assert_array_equal(merged.max, whole.max)


@pytest.mark.parametrize(
    "some", [Statistics.of_features(block()), Statistics.nothing(), Statistics.nothing((2,))]
)
def test_a_record_in_json_is_exact(some: Statistics) -> None:
    again = Statistics.from_record(json.loads(json.dumps(some.to_record(), allow_nan=False)))
    for name in ("count", "mean", "m2", "min", "max"):
        one, other = getattr(some, name), getattr(again, name)
        np.testing.assert_array_equal(one, other)
        assert one.shape == other.shape
        assert one.dtype == other.dtype
