"""Agreement of two models, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.evaluation.agreement import agreement, compare_errors, concordance


def people(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n).astype(str), (np.arange(n) % 10).astype(str)


def test_concordance_is_one_only_on_the_line_of_equality() -> None:
    a = np.array([10.0, 20.0, 40.0, 60.0])
    assert concordance(a, a) == pytest.approx(1.0)
    assert concordance(a, -a) == pytest.approx(-2 * a.var() / (2 * a.var() + (2 * a.mean()) ** 2))
    # cov = var, so 2 var / (2 var + shift²)
    assert concordance(a, a + 5) == pytest.approx(2 * a.var() / (2 * a.var() + 25))
    assert concordance(a, np.full(4, 7.0)) == 0.0
    assert concordance(np.full(4, 7.0), np.full(4, 7.0)) is None
    assert concordance(a[:2], a[:2]) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 30), st.integers(0, 10_000))
def test_concordance_is_never_above_the_correlation(n: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    found = concordance(a, b)
    assert found is not None
    assert abs(found) <= abs(np.corrcoef(a, b)[0, 1]) + 1e-12


def test_a_planted_shift_and_spread_come_out() -> None:
    draw = np.random.default_rng(0)
    a = draw.uniform(20, 80, 5000)
    b = a + 2.0 + draw.normal(0, 3, 5000)
    found = agreement(a, b, *people(5000))
    assert found.mean_difference.value == pytest.approx(-2.0, abs=0.15)
    assert found.mean_difference.is_below_zero
    assert found.limits is not None
    assert found.limits.high - found.limits.low == pytest.approx(2 * 1.96 * 3, abs=0.3)
    # The mean of |N(2, 3²)|, folded normal.
    assert found.mean_absolute_difference == pytest.approx(2.915, abs=0.1)


def test_the_model_that_errs_less_is_told_and_equal_ones_are_not() -> None:
    draw = np.random.default_rng(1)
    age = draw.uniform(20, 80, 600)
    good, poor, as_good = (age + draw.normal(0, sd, 600) for sd in (3.0, 6.0, 3.0))
    told = compare_errors(good, poor, age, *people(600))
    assert told.difference.is_below_zero
    assert told.difference.value == pytest.approx(told.first - told.second)
    assert told.first == pytest.approx(3 * np.sqrt(2 / np.pi), abs=0.3)
    assert not compare_errors(good, as_good, age, *people(600)).difference.is_told_apart


def test_few_people_have_no_interval() -> None:
    found = agreement(np.array([1.0, 2.0]), np.array([1.5, 2.0]), *people(2))
    assert found.mean_difference.people is None
    assert found.r is None
