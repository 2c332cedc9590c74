"""Intervals that hold nine in ten ages, whatever the errors are like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.uncertainty import (
    FEWEST_IN_A_CELL,
    Predicted,
    conformal_quantile,
    covered_without_own_fold,
    fit_intervals,
    half_widths,
)


def people(n: int, seed: int, *, sd_known: bool = False, skewed: bool = False) -> Predicted:
    """Errors that grow with age, more in men, with tails that are not normal."""
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(8, 60, n), np.where(draw.random(n) < 0.4, "F", "M").astype(object)
    spread = (0.5 + 0.08 * age) * np.where(sex == "M", 1.3, 1.0)
    noise = draw.standard_t(4, n) if not skewed else draw.exponential(1.0, n) - 0.7
    sd = spread * np.exp(draw.normal(0, 0.05, n)) if sd_known else np.full(n, np.nan)
    return Predicted(age + spread * noise, age, sd, sex, draw.integers(0, 5, n))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_the_quantile_is_the_ceil_of_n_plus_one_th_smallest_score(n: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random(n)
    place = math.ceil((n + 1) * 0.9)
    expected = math.inf if place > n else np.sort(scores)[place - 1]
    assert conformal_quantile(scores) == expected
    assert math.isinf(conformal_quantile(scores)) == (n < 9)


def test_nine_in_ten_new_people_lie_in_the_interval_over_two_hundred_simulations() -> None:
    coverage = []
    for seed in range(200):
        fitted = fit_intervals(people(400, seed))
        assert fitted is not None
        new = people(400, 10_000 + seed)
        coverage.append(float((np.abs(new.age - new.predicted) <= half_widths(fitted, new)).mean()))
    assert 0.88 <= np.mean(coverage) <= 0.92
    assert np.mean(coverage) >= 0.895, "conformal prediction covers at least its level on average"


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("sd_known", [False, True])
def test_coverage_of_two_thousand_people_is_within_two_hundredths(sd_known: bool, skewed: bool) -> None:
    known = people(2000, 1, sd_known=sd_known, skewed=skewed)
    fitted = fit_intervals(known)
    assert fitted is not None
    assert fitted.uses_sd is sd_known
    new = people(20_000, 2, sd_known=sd_known, skewed=skewed)
    held = np.abs(new.age - new.predicted) <= half_widths(fitted, new)
    assert held.mean() == pytest.approx(0.9, abs=0.02)
    for sex in ("F", "M"):
        assert held[new.sex == sex].mean() == pytest.approx(0.9, abs=0.03)
    for low, high in ((8, 25), (25, 42), (42, 60)):
        third = (new.predicted >= low) & (new.predicted < high)
        assert held[third].mean() == pytest.approx(0.9, abs=0.04)
    honest = covered_without_own_fold(known)
    assert honest.mean() == pytest.approx(0.9, abs=0.02)


def test_a_width_grows_with_the_error_to_be_expected() -> None:
    fitted = fit_intervals(people(2000, 3))
    assert fitted is not None
    two = Predicted(
        np.array([12.0, 50.0]), np.full(2, np.nan), np.full(2, np.nan), np.array(["M", "M"]), np.zeros(2)
    )
    young, old = half_widths(fitted, two)
    assert old > 1.5 * young


def test_a_cell_has_a_quantile_of_its_own_only_with_a_hundred_people() -> None:
    known = people(900, 4)
    fitted = fit_intervals(known)
    assert fitted is not None
    counts = {name: cell.n for name, cell in fitted.quantiles.items()}
    assert {"everyone", "F", "M"} <= set(counts)
    assert counts["everyone"] == 900
    assert all(n >= FEWEST_IN_A_CELL for n in counts.values())
    few = fit_intervals(known.take(np.arange(150)))
    assert few is not None
    assert "F low" not in few.quantiles
    assert "F" not in few.quantiles


def test_an_unknown_sex_takes_everybodys_quantile() -> None:
    fitted = fit_intervals(people(900, 5))
    assert fitted is not None
    one = Predicted(np.array([30.0]), np.array([np.nan]), np.array([np.nan]), np.array(["U"]), np.zeros(1))
    men = Predicted(one.predicted, one.age, one.sd, np.array(["M"]), one.fold)
    ratio = half_widths(fitted, one)[0] / half_widths(fitted, men)[0]
    cell = next(name for name in ("M middle", "M") if name in fitted.quantiles)
    assert ratio == pytest.approx(fitted.quantiles["everyone"].q / fitted.quantiles[cell].q)


def test_too_few_people_calibrate_nothing() -> None:
    assert fit_intervals(people(19, 6)) is None
    assert fit_intervals(people(20, 6)) is not None


def test_a_fold_is_checked_by_the_others_only() -> None:
    known = people(300, 7)
    worse = Predicted(known.predicted.copy(), known.age, known.sd, known.sex, known.fold)
    worse.predicted[known.fold == 2] += 40.0
    held = covered_without_own_fold(worse)
    assert held[known.fold == 2].mean() < 0.4, "its own errors would have widened the interval"
