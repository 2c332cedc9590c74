"""Where a gap lies among those of controls of the same age and sex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.normative import centile, fit_norms, normative_z, p_accelerated, uniformity
from hpc_brainage.scoring.splines import basis, log_mean, place_knots
from hpc_brainage.scoring.uncertainty import HeldOut


def mean_of(age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    return 6 - 0.3 * age + 0.002 * (age - 35) ** 2 + np.where(sex == "F", 1.0, -1.0)


def sd_of(age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    return (1.0 + 0.05 * age) * np.where(sex == "F", 0.8, 1.1)


def controls(n: int, seed: int) -> HeldOut:
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(10, 70, n), np.where(draw.random(n) < 0.5, "F", "M").astype(object)
    gap = mean_of(age, sex) + sd_of(age, sex) * draw.normal(size=n)
    return HeldOut(age + gap, age, np.full(n, np.nan), sex, draw.integers(0, 5, n))


def test_planted_mean_and_spread_come_back_as_z() -> None:
    norms = fit_norms(controls(4000, 0))
    assert norms is not None
    age, sex = np.tile(np.linspace(15, 65, 11), 2), np.repeat(np.array(["F", "M"], dtype=object), 11)
    for z in (-1.5, 0.0, 2.0):
        gap = mean_of(age, sex) + z * sd_of(age, sex)
        np.testing.assert_allclose(normative_z(norms, gap, age, sex), z, atol=0.22)


def test_z_of_new_controls_are_standard_normal_and_their_p_uniform() -> None:
    norms = fit_norms(controls(1500, 1))
    assert norms is not None
    new = controls(3000, 2)
    z = normative_z(norms, new.predicted - new.age, new.age, new.sex)
    z = z[np.isfinite(z)]
    assert z.mean() == pytest.approx(0, abs=0.08)
    assert z.std() == pytest.approx(1, abs=0.06)
    p = p_accelerated(norms, z)
    for level in (0.05, 0.1, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.05)
    said = uniformity(norms)
    assert said.n == 1500
    assert said.ks < 0.05
    assert said.p > 0.01


def test_norms_that_do_not_fit_are_told_by_their_skewness() -> None:
    known, draw = controls(1000, 3), np.random.default_rng(3)
    skewed = HeldOut(known.age + draw.exponential(3.0, 1000), known.age, known.sd, known.sex, known.fold)
    norms = fit_norms(skewed)
    assert norms is not None
    said = uniformity(norms)
    assert said.skew > 1
    assert said.p < 0.001


def test_nothing_is_said_outside_the_controls_ages() -> None:
    norms = fit_norms(controls(500, 4))
    assert norms is not None
    age = np.array([norms.age_min - 0.1, norms.age_min, 40.0, norms.age_max + 0.1, np.nan])
    z = normative_z(norms, np.zeros(5), age, np.full(5, "F", dtype=object))
    assert np.isfinite(z).tolist() == [False, True, True, False, False]
    assert np.isfinite(p_accelerated(norms, z)).tolist() == np.isfinite(z).tolist()
    assert np.isfinite(centile(z)).tolist() == np.isfinite(z).tolist()


def test_few_controls_have_no_norms_and_one_sex_alone_has_no_offset() -> None:
    assert fit_norms(controls(59, 5)) is None
    known = controls(200, 6)
    men = HeldOut(known.predicted, known.age, known.sd, np.full(200, "M", dtype=object), known.fold)
    norms = fit_norms(men)
    assert norms is not None
    assert norms.mean.weights[-1] == 0
    age = np.array([30.0, 30.0])
    f, m = normative_z(norms, np.zeros(2), age, np.array(["F", "M"], dtype=object))
    assert f == m


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), st.integers(0, 20))
def test_p_is_the_share_of_controls_with_as_high_a_z_counting_the_scan(z: float, seed: int) -> None:
    norms = fit_norms(controls(80, seed))
    assert norms is not None
    held = np.array(norms.z)
    expected = (1 + (held >= round(z, 4)).sum()) / 81
    assert p_accelerated(norms, np.array([z]))[0] == pytest.approx(expected)
    assert expected >= 1 / 81


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=70, max_size=300), st.integers(0, 9))
def test_a_spline_is_a_line_beyond_its_outer_knots(x: list[float], seed: int) -> None:
    knots = place_knots(np.array(x), 200, 60)
    if len(knots) < 3:
        return
    weights = np.random.default_rng(seed).normal(size=len(knots))
    width = knots[-1] - knots[0]
    for start in (knots[-1], knots[0] - 2 * width):
        at = start + width * np.array([0.0, 0.5, 1.0, 1.5, 2.0])
        bend = np.diff(basis(at, knots) @ weights, 2)
        np.testing.assert_allclose(bend, 0, atol=1e-6 * (1 + np.abs(weights).sum()) * 1e2)


def test_the_mean_of_positive_numbers_is_found_on_the_log_scale() -> None:
    draw = np.random.default_rng(0)
    t = draw.uniform(0, 1, 20_000)
    y = np.exp(0.5 + 1.2 * t) * draw.gamma(2.0, 0.5, 20_000)
    found = log_mean(np.column_stack([np.ones_like(t), t]), y)
    np.testing.assert_allclose(found, [0.5, 1.2], atol=0.05)
