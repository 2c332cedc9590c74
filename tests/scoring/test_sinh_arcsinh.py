"""Skewed numbers made normal, by a transformation in which nobody changes places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from hpc_brainage.model.calibration import Shape
from hpc_brainage.scoring.sinh_arcsinh import fit_shape, reshaped


def shape_of(u: np.ndarray) -> Shape:
    found = fit_shape(u)
    assert found is not None
    return found


def of_shape(shape: Shape, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal numbers, and those that the shape makes them of."""
    z = np.random.default_rng(seed).normal(size=n)
    u = shape.location + shape.scale * np.sinh((np.arcsinh(z) + shape.skew) / shape.tail)
    return z, u


@pytest.mark.parametrize(
    "planted",
    [
        Shape(location=-0.4, scale=0.8, skew=0.3, tail=0.85),
        Shape(location=0.3, scale=1.0, skew=-0.25, tail=0.95),
        Shape(location=0.0, scale=0.7, skew=0.0, tail=0.75),
    ],
)
def test_a_planted_shape_comes_back(planted: Shape) -> None:
    z, u = of_shape(planted, 4000, 1)
    found = shape_of(u)
    near = np.abs(z) < 2.5
    np.testing.assert_allclose(reshaped(found, u)[near], z[near], atol=0.15)


def test_normal_numbers_stay_what_they_are() -> None:
    u = np.random.default_rng(2).normal(size=4000)
    near = np.abs(u) < 2
    np.testing.assert_allclose(reshaped(shape_of(u), u)[near], u[near], atol=0.12)


def test_tails_shorter_than_normal_are_not_stretched() -> None:
    found = shape_of(np.random.default_rng(3).uniform(-1.7, 1.7, 2000))
    assert found.tail == 1.0
    assert reshaped(found, np.array([8.0]))[0] < 12


def test_a_few_absurd_numbers_leave_the_others_as_they_were() -> None:
    u = np.random.default_rng(4).gamma(6, size=400) / np.sqrt(6) - np.sqrt(6)
    absurd = u.copy()
    absurd[[3, 150, 390]] = 15.0
    at = np.linspace(-2, 2.5, 10)
    np.testing.assert_allclose(reshaped(shape_of(absurd), at), reshaped(shape_of(u), at), atol=0.3)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_nobody_changes_places_and_skewness_goes(seed: int) -> None:
    draw = np.random.default_rng(seed)
    u = draw.gamma(draw.uniform(2, 20), size=300)
    u = (u - u.mean()) / u.std()
    z = reshaped(shape_of(u), u)
    assert (np.diff(z[np.argsort(u)]) >= 0).all()
    assert abs(skew(z)) < max(abs(skew(u)), 0.2)


def skewed(n: int, seed: int) -> np.ndarray:
    """Numbers with a skewness of 1, of which one in forty is above 2.38."""
    drawn: np.ndarray = (np.random.default_rng(seed).gamma(4, size=n) - 4) / 2
    return drawn


def test_no_number_of_controls_switches_a_shape_on() -> None:
    """Forty have none, and what one more brings is a small step; the rest comes by and by."""
    at, steps, far = np.array([-1.46, 2.38]), [], []
    for seed in range(40):
        u = skewed(400, seed)
        assert fit_shape(u[:40]) is None
        steps.append(reshaped(shape_of(u[:41]), at) - at)
        far.append([reshaped(shape_of(u[:n]), at)[1] for n in (60, 120, 400)])
    assert np.sqrt(np.mean(np.square(steps), axis=0)).max() < 0.15
    few, more, many = np.mean(far, axis=0)
    assert 2.38 > few > more > many > 1.96
    assert many < 2.15


@pytest.mark.parametrize("n", [60, 100])
def test_normal_numbers_are_hardly_bent_though_they_are_few(n: int) -> None:
    draw, at = np.random.default_rng(n), np.array([-1.96, 1.96])
    z = np.array([reshaped(shape_of(draw.normal(size=n)), at) for _ in range(60)])
    np.testing.assert_allclose(z.mean(axis=0), at, atol=0.1)
    assert z.std(axis=0).max() < 0.3


def test_a_search_that_fails_is_no_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit_shape(np.full(200, np.nan)) is None
    from scipy import optimize

    lost = optimize.OptimizeResult(x=np.zeros(4), fun=1.0, success=False)
    monkeypatch.setattr(optimize, "minimize", lambda *_, **__: lost)
    assert fit_shape(skewed(200, 0)) is None


def test_an_unknown_number_stays_unknown() -> None:
    shape = Shape(location=0.0, scale=1.0, skew=0.2, tail=0.9)
    assert np.isnan(reshaped(shape, np.array([np.nan, 1.0]))).tolist() == [True, False]
