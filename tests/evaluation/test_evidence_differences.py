"""The evidence of a training: paired differences from the simple predictors, with what chance allows."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_brainage.evaluation.evidence import paired_difference

AGE = np.linspace(18, 26, 224)
PEOPLE = np.arange(224).astype(str)


def test_a_model_that_guesses_is_not_told_apart_from_a_constant_however_it_falls() -> None:
    """Ages of students, and predictions that are noise around their mean: some seeds come out ahead."""
    constant = np.full(224, AGE.mean())
    found = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.3, 224)
        difference = paired_difference(constant + noise, constant, AGE, PEOPLE)
        assert difference is not None
        found.append(difference)
    assert any(one.value < 0 for one in found)
    assert sum(one.is_below_zero for one in found) <= 3


def test_a_model_that_reads_age_is_told_apart_from_a_constant() -> None:
    constant = np.full(224, AGE.mean())
    predicted = AGE.mean() + 0.6 * (AGE - AGE.mean()) + np.random.default_rng(0).normal(0, 0.8, 224)
    difference = paired_difference(predicted, constant, AGE, PEOPLE)
    assert difference is not None
    assert difference.is_below_zero
    assert difference.value == pytest.approx(
        np.mean(np.abs(predicted - AGE) - np.abs(constant - AGE)), rel=1e-12
    )


def test_scans_of_one_person_are_no_further_evidence() -> None:
    draw = np.random.default_rng(1)
    age, model = AGE[::8], AGE[::8] + draw.normal(0, 2, 28)
    rival = np.full(28, AGE.mean())
    once = paired_difference(model, rival, age, PEOPLE[:28])
    often = paired_difference(*(np.repeat(x, 6) for x in (model, rival, age, PEOPLE[:28])))
    assert once is not None
    assert often is not None
    assert often.model_dump() == pytest.approx(once.model_dump())


def test_of_a_few_people_there_is_a_difference_and_no_interval() -> None:
    few = paired_difference(AGE[:7] + 1, AGE[:7] + 2, AGE[:7], PEOPLE[:7])
    assert few is not None
    assert (few.value, few.low, few.high) == (pytest.approx(-1), None, None)
    assert not few.is_below_zero
    assert paired_difference(AGE[:0], AGE[:0], AGE[:0], PEOPLE[:0]) is None
