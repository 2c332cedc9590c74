"""Learners against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as KnownRidge
from sklearn.linear_model import RidgeCV

from hpc_brainage.evaluation.learners import Ridge, SupportVectors


def some(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, width)) * draw.uniform(0.2, 3, width)
    return x, x[:, :3].sum(axis=1) + draw.normal(0, 1, n) + 20


@pytest.mark.parametrize("width", [5, 80])
def test_ridge_is_scikit_learn_s_with_the_penalty_of_leave_one_out(width: int) -> None:
    x, t = some(50, width)
    found = Ridge().fit(x, t, np.arange(50))
    known = RidgeCV(alphas=np.logspace(-1, 7, 33)).fit(x, t)
    assert found.settings["penalty"] == pytest.approx(known.alpha_)
    new, _ = some(20, width, seed=1)
    np.testing.assert_allclose(found.predict(new), known.predict(new), rtol=1e-8)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), width=st.sampled_from([4, 60]), repeated=st.booleans())
def test_inner_predictions_are_those_of_fits_without_the_person(
    seed: int, width: int, repeated: bool
) -> None:
    x, t = some(30, width, seed)
    person = np.arange(30) // 2 if repeated else np.arange(30)
    found = Ridge().fit(x, t, person)
    for who in np.unique(person):
        out = person == who
        without = KnownRidge(alpha=found.settings["penalty"]).fit(x[~out], t[~out])
        # The closed form never fits again, and is exact nevertheless.
        np.testing.assert_allclose(found.inner[out], without.predict(x[out]), rtol=1e-6)


def test_repeated_scans_of_a_person_do_not_shrink_the_penalty() -> None:
    """Noise that comes twice would be learned by heart if only one of two scans were left out."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 30)).repeat(2, axis=0)
    t = draw.normal(size=40).repeat(2)
    naive, careful = Ridge().fit(x, t, np.arange(80)), Ridge().fit(x, t, np.arange(80) // 2)
    assert careful.settings["penalty"] > 10 * naive.settings["penalty"]
    assert np.abs(careful.inner - t).mean() > 2 * np.abs(naive.inner - t).mean()


def test_support_vectors_find_a_bent_relation_that_ridge_cannot() -> None:
    draw = np.random.default_rng(0)
    x, new = draw.uniform(-2, 2, (200, 2)), draw.uniform(-2, 2, (100, 2))
    t, truth = x[:, 0] ** 2 + 50 + draw.normal(0, 0.1, 200), new[:, 0] ** 2 + 50
    bent, straight = (lr.fit(x, t, np.arange(200)) for lr in (SupportVectors(), Ridge()))
    assert np.abs(bent.predict(new) - truth).mean() < 0.25
    assert np.abs(straight.predict(new) - truth).mean() > 0.8


def test_support_vectors_choose_by_people_whom_they_have_not_seen() -> None:
    """Pure noise, every person twice: what was predicted without the person is no better than the mean."""
    draw = np.random.default_rng(1)
    x, t = draw.normal(size=(60, 30)).repeat(2, axis=0), draw.normal(size=60).repeat(2)
    found = SupportVectors().fit(x, t, np.arange(120) // 2)
    assert np.abs(found.inner - t).mean() > 0.9 * np.abs(t - t.mean()).mean()
    assert np.abs(found.predict(x) - t).mean() < np.abs(found.inner - t).mean()


def test_a_learner_gives_the_same_whenever_it_is_asked() -> None:
    x, t = some(60, 10)
    for learner in (Ridge(), SupportVectors()):
        one, two = (learner.fit(x, t, np.arange(60)) for _ in range(2))
        np.testing.assert_array_equal(one.predict(x), two.predict(x))
        assert one.settings == two.settings
