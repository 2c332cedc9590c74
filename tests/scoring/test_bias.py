"""The bias correction's algebra, and why corrected ages must not be reported as accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_brainage.scoring.bias import correct_gap, fit_bias_line


def predictions(slope: float = 0.6, noise: float = 6.0, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    age = draw.uniform(10, 80, n)
    return age, 45 + slope * (age - 45) + draw.normal(0, noise, n)


def test_the_corrected_gap_has_no_trend_where_it_was_fitted() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    assert line.slope == pytest.approx(0.6, abs=0.02)
    corrected = correct_gap(predicted - age, age, line)
    assert abs(np.corrcoef(corrected, age)[0, 1]) < 1e-10
    assert abs(corrected.mean()) < 1e-10


def test_it_is_the_correction_of_de_lange_and_cole() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    de_lange = predicted + age - (line.intercept + line.slope * age)
    np.testing.assert_allclose(correct_gap(predicted - age, age, line), de_lange - age, atol=1e-12)


def test_a_shift_of_a_group_survives_a_line_fitted_on_others() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age[:2000], predicted=predicted[:2000])
    assert line is not None
    cases = predicted[2000:] + 5.0
    corrected = correct_gap(cases - age[2000:], age[2000:], line)
    assert corrected.mean() == pytest.approx(5.0, abs=0.5)


@pytest.mark.parametrize("accuracy", [0.05, 0.3, 0.6, 0.9])
def test_corrected_ages_correlate_with_age_whatever_the_model(accuracy: float) -> None:
    """Butler et al. 2021; for a least-squares predictor r >= (1 + ρ²(1 - ρ²))^-1/2 >= 0.894."""
    draw = np.random.default_rng(1)
    age = draw.normal(50, 10, 20_000)
    signal = accuracy * (age - 50) / 10 + np.sqrt(1 - accuracy**2) * draw.normal(size=age.size)
    predicted = 50 + 10 * accuracy * signal
    line = fit_bias_line(age=age, predicted=predicted)
    assert line is not None
    corrected_age = age + correct_gap(predicted - age, age, line)
    r = np.corrcoef(corrected_age, age)[0, 1]
    assert r == pytest.approx((1 + accuracy**2 * (1 - accuracy**2)) ** -0.5, abs=0.01)
    assert r > 0.89


def test_too_few_people_or_one_age_give_no_line() -> None:
    age, predicted = predictions(n=19)
    assert fit_bias_line(age=age, predicted=predicted) is None
    assert fit_bias_line(age=np.full(50, 30.0), predicted=np.arange(50.0)) is None


def test_people_without_age_or_prediction_are_left_out_of_the_fit() -> None:
    age, predicted = predictions()
    line = fit_bias_line(age=age, predicted=predicted)
    with_gaps = fit_bias_line(
        age=np.append(age, [np.nan, 40.0]), predicted=np.append(predicted, [40.0, np.nan])
    )
    assert line == with_gaps
