"""Edges out of ROI time series: Pearson, partial, tangent, and ROIs without a signal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts import connectivity


def series(seed: int = 0, volumes: int = 120, rois: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(volumes, 2)) @ rng.normal(size=(2, rois))
    return shared + rng.normal(size=(volumes, rois))


def square(edges: np.ndarray, rois: int) -> np.ndarray:
    matrix = np.zeros((rois, rois))
    matrix[np.triu_indices(rois, 1)] = edges
    return matrix + matrix.T


def test_edges_are_named_in_the_order_of_the_rois() -> None:
    assert connectivity.edge_names(("10", "11", "2001")) == ("10--11", "10--2001", "11--2001")
    assert connectivity.edge_names(("a", "b"), "partial:") == ("partial:a--b",)


def test_pearson_is_the_fisher_z_of_numpys_correlation() -> None:
    values = series()
    expected = np.arctanh(np.corrcoef(values.T)[np.triu_indices(6, 1)])
    edges = connectivity.pearson(values)
    assert edges.dtype == np.float32
    np.testing.assert_allclose(edges, expected, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gain=st.floats(1e-3, 1e3),
    offset=st.floats(-1e4, 1e4),
)
def test_pearson_does_not_depend_on_a_scanners_gain_and_offset(
    seed: int, gain: float, offset: float
) -> None:
    values = series(seed, volumes=60, rois=4)
    moved = connectivity.pearson((values + offset) * gain)
    np.testing.assert_allclose(moved, connectivity.pearson(values), atol=2e-4)


def test_two_rois_with_one_signal_have_a_finite_edge() -> None:
    values = series()
    values[:, 3] = -2 * values[:, 1]
    values[:, 4] = values[:, 1]
    matrix = square(connectivity.pearson(values), 6)
    assert np.isfinite(matrix).all()
    assert matrix[1, 4] == pytest.approx(np.arctanh(connectivity.LARGEST_CORRELATION))
    assert matrix[1, 3] == -matrix[1, 4]


@pytest.mark.parametrize("constant", [0.0, 1.0, 12_345.678])
@pytest.mark.parametrize("measure", [connectivity.pearson, connectivity.partial])
def test_a_roi_without_signal_has_missing_edges_and_changes_no_other(constant, measure) -> None:
    values = series()
    values[:, 2] = constant * (1 + 1e-9 * np.random.default_rng(1).normal(size=len(values)))
    assert connectivity.dead_rois(values).tolist() == [False, False, True, False, False, False]
    others = [0, 1, 3, 4, 5]
    edges = square(measure(values), 6)
    assert np.isnan(edges[2, others]).all()
    np.testing.assert_array_equal(
        edges[np.ix_(others, others)][np.triu_indices(5, 1)], measure(values[:, others])
    )


def test_a_weak_signal_on_a_large_mean_is_no_dead_roi() -> None:
    values = 10_000 + 0.5 * series()
    assert not connectivity.dead_rois(values).any()
    assert connectivity.dead_rois(np.ones((50, 3))).all()


def test_partial_correlation_approaches_its_closed_form() -> None:
    # a chain a -> b -> c: a and c correlate, but not once b is known
    rng = np.random.default_rng(3)
    a = rng.normal(size=40_000)
    b = a + rng.normal(size=a.size)
    c = b + rng.normal(size=a.size)
    ab, ac, bc = connectivity.partial(np.column_stack([a, b, c]))
    assert ac == pytest.approx(0.0, abs=0.02)
    # its precision is [[2, -1, 0], [-1, 2, -1], [0, -1, 1]]
    assert ab == pytest.approx(np.sqrt(1 / 4), abs=0.02)
    assert bc == pytest.approx(np.sqrt(1 / 2), abs=0.02)


def test_partial_correlation_survives_fewer_volumes_than_rois() -> None:
    edges = connectivity.partial(series(volumes=40, rois=60))
    assert np.isfinite(edges).all()
    assert np.abs(edges).max() < 1


def test_the_tangent_reference_names_group_and_rois() -> None:
    group = [series(seed) for seed in range(5)]
    labels = ["a", "b", "c", "d", "e", "f"]
    edges, reference = connectivity.tangent(group, labels)
    assert edges.shape == (5, 15)
    assert edges.dtype == np.float32
    assert np.isfinite(edges).all()
    again, same = connectivity.tangent([values * 3 + 7 for values in group], labels)
    np.testing.assert_allclose(again, edges, atol=1e-5)
    assert same == reference
    assert connectivity.tangent(group[:4], labels)[1] != reference
    assert connectivity.tangent(group, labels[::-1])[1] != reference
    np.testing.assert_allclose(edges.mean(axis=0), 0, atol=1e-4)  # the reference is their mean
