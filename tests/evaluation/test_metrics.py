"""Errors against their definitions, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from hpc_brainage.evaluation.metrics import performance


def test_the_errors_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    age = draw.uniform(10, 80, 200)
    predicted = age + draw.normal(0, 5, 200)
    found = performance(predicted, age)
    assert found.mae == pytest.approx(mean_absolute_error(age, predicted))
    assert found.rmse == pytest.approx(root_mean_squared_error(age, predicted))
    assert found.r2 == pytest.approx(r2_score(age, predicted))
    assert found.r == pytest.approx(np.corrcoef(age, predicted)[0, 1])


def test_people_without_a_prediction_do_not_count() -> None:
    found = performance(np.array([10.0, np.nan, 30.0, 41.0]), np.array([11.0, 20.0, 30.0, 40.0]))
    assert found.n == 3
    assert found.mae == pytest.approx(2 / 3)


def test_what_is_not_defined_is_none_and_not_zero() -> None:
    assert performance(np.array([10.0, 12.0]), np.array([11.0, 12.0])).r2 is None
    assert performance(np.full(5, 3.0), np.arange(5.0)).r is None
    assert performance(np.array([]), np.array([])).n == 0
