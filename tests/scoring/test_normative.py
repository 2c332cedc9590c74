"""Where a gap lies among those of controls of the same age and sex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.age_support import are_few, count_ages, people_near
from hpc_brainage.scoring.normative import (
    centile,
    fit_norms,
    normative_z,
    outside,
    p_accelerated,
    standardised_controls,
    uniformity,
)
from hpc_brainage.scoring.splines import basis, log_mean, place_knots
from hpc_brainage.scoring.uncertainty import Predicted


def mean_of(age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    return 6 - 0.3 * age + 0.002 * (age - 35) ** 2 + np.where(sex == "F", 1.0, -1.0)


def sd_of(age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    return (1.0 + 0.05 * age) * np.where(sex == "F", 0.8, 1.1)


def controls(n: int, seed: int) -> Predicted:
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(10, 70, n), np.where(draw.random(n) < 0.5, "F", "M").astype(object)
    gap = mean_of(age, sex) + sd_of(age, sex) * draw.normal(size=n)
    return Predicted(age + gap, age, np.full(n, np.nan), sex, draw.integers(0, 5, n))


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


def skewed(n: int, seed: int) -> Predicted:
    """Controls whose gaps are skewed to the older side: many a little younger, a few much older."""
    draw = np.random.default_rng(seed)
    age, sex = draw.uniform(10, 70, n), np.where(draw.random(n) < 0.5, "F", "M").astype(object)
    gap = mean_of(age, sex) + sd_of(age, sex) * (draw.gamma(4, size=n) - 4) / 2
    return Predicted(age + gap, age, np.full(n, np.nan), sex, draw.integers(0, 5, n))


def test_z_of_skewed_gaps_is_as_rare_as_it_says_on_either_side() -> None:
    norms = fit_norms(skewed(1200, 3))
    assert norms is not None
    assert norms.shape is not None
    new = skewed(6000, 4)
    gap = new.predicted - new.age
    z = normative_z(norms, gap, new.age, new.sex)
    u = normative_z(norms.model_copy(update={"shape": None}), gap, new.age, new.sex)
    z, u = z[np.isfinite(z)], u[np.isfinite(u)]
    assert (u > 1.96).mean() > 0.035
    assert (u < -1.96).mean() < 0.005
    assert (z > 1.96).mean() == pytest.approx(0.025, abs=0.01)
    assert (z < -1.96).mean() == pytest.approx(0.025, abs=0.01)
    said = uniformity(norms)
    assert abs(said.skew) < 0.3
    assert said.p > 0.01
    assert (p_accelerated(norms, z) < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    np.testing.assert_allclose(centile(z) / 100, 1 - p_accelerated(norms, z), atol=0.04)


def test_a_shape_mends_z_of_any_number_of_controls() -> None:
    """How often |z| is above 1.96 should be 5 %: never further off than without a shape, on average."""
    new = skewed(4000, 6)
    for n in (85, 99, 100, 140):
        off = {"shape": [], "none": []}  # type: dict[str, list[float]]
        for seed in range(8):
            norms = fit_norms(skewed(n, 50 + seed))
            assert norms is not None
            for name, one in (("shape", norms), ("none", norms.model_copy(update={"shape": None}))):
                z = normative_z(one, new.predicted - new.age, new.age, new.sex)
                z = z[np.isfinite(z)]
                off[name].append(abs((z > 1.96).mean() - 0.025) + abs((z < -1.96).mean() - 0.025))
        assert np.mean(off["shape"]) < np.mean(off["none"])


def test_where_no_shape_is_found_z_is_the_standardised_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_brainage.scoring.normative.fit_shape", lambda u: None)
    norms = fit_norms(skewed(300, 5))
    assert norms is not None
    assert norms.shape is None
    np.testing.assert_array_equal(standardised_controls(norms), norms.z)


def test_norms_that_no_shape_mends_are_told_by_their_unevenness() -> None:
    known, draw = controls(1000, 3), np.random.default_rng(3)
    apart = np.where(draw.random(1000) < 0.5, -40.0, 40.0)
    norms = fit_norms(Predicted(known.predicted + apart, known.age, known.sd, known.sex, known.fold))
    assert norms is not None
    assert uniformity(norms).p < 0.001


def test_nothing_is_said_outside_the_controls_ages() -> None:
    norms = fit_norms(controls(500, 4))
    assert norms is not None
    age = np.array([norms.age_min - 0.1, norms.age_min, 40.0, norms.age_max + 0.1, np.nan])
    z = normative_z(norms, np.zeros(5), age, np.full(5, "F", dtype=object))
    assert np.isfinite(z).tolist() == [False, True, True, False, False]
    assert np.isfinite(p_accelerated(norms, z)).tolist() == np.isfinite(z).tolist()
    assert np.isfinite(centile(z)).tolist() == np.isfinite(z).tolist()


def test_three_absurd_gaps_leave_everybody_else_s_z_as_they_were() -> None:
    clean = controls(400, 7)
    predicted = clean.predicted.copy()
    predicted[np.argsort(clean.age)[[3, 150, 390]]] += 40.0
    planted = Predicted(predicted, clean.age, clean.sd, clean.sex, clean.fold)
    new = controls(2000, 8)
    z_clean, z_planted = (
        normative_z(norms, new.predicted - new.age, new.age, new.sex)
        for norms in (fit_norms(clean), fit_norms(planted))
        if norms is not None
    )
    assert np.nanstd(z_clean) == pytest.approx(1, abs=0.08)
    assert np.nanstd(z_planted) == pytest.approx(1, abs=0.08)
    assert np.nanmax(np.abs(z_planted - z_clean)) < 0.5


@pytest.mark.parametrize("n", [300, 1000])
def test_held_out_z_of_normal_gaps_have_a_variance_of_one(n: int) -> None:
    spread = []
    for seed in range(10):
        norms = fit_norms(controls(n, 100 + seed))
        assert norms is not None
        spread.append(np.var(norms.z))
    assert np.mean(spread) == pytest.approx(1, abs=0.12)


def test_the_spread_stays_what_it_is_beyond_the_outer_knots() -> None:
    draw = np.random.default_rng(9)
    age = np.concatenate([draw.normal(18, 5, 380), np.linspace(31, 46, 20)])
    gap = draw.normal(size=400) * np.exp(-0.08 * (age - 18))
    sex = np.tile(np.array(["F", "M"], dtype=object), 200)
    norms = fit_norms(Predicted(age + gap, age, np.full(400, np.nan), sex, draw.integers(0, 5, 400)))
    assert norms is not None
    knots = norms.log_sd.knots
    far = norms.model_copy(update={"age_min": 0.0, "age_max": 99.0})
    far = far.model_copy(update={"ages": None, "shape": None})
    male = np.full(2, "M", dtype=object)
    for at in ((knots[0], knots[0] - 5), (knots[-1], knots[-1] + 12)):
        z = [normative_z(far, np.full(2, g), np.array(at), male) for g in (0.0, 1.0)]
        one, other = 1 / (z[1] - z[0])
        assert other == pytest.approx(one, rel=1e-9)


def test_nothing_is_said_where_few_controls_are_near() -> None:
    draw = np.random.default_rng(10)
    age = np.concatenate([draw.uniform(10, 20, 150), [40.0, 41.0], draw.uniform(60, 70, 150)])
    sex = np.tile(np.array(["F", "M"], dtype=object), 151)
    people = Predicted(
        age + draw.normal(size=302), age, np.full(302, np.nan), sex, draw.integers(0, 5, 302)
    )
    norms = fit_norms(people)
    assert norms is not None
    assert len(norms.z) == 300
    assert outside(norms, np.array([15.0, 40.0, 65.0, 80.0, np.nan])).tolist() == [
        False, True, False, True, False,
    ]  # fmt: skip
    z = normative_z(norms, np.zeros(3), np.array([15.0, 40.0, 65.0]), np.full(3, "F", dtype=object))
    assert np.isfinite(z).tolist() == [True, False, True]


def test_people_near_an_age_are_counted_by_whole_and_part_years() -> None:
    ages = count_ages(np.repeat([10.5, 11.5, 12.5, 20.5], [4, 6, 8, 10]))
    assert ages.first == 10
    assert ages.counts[:4] == (4, 6, 8, 0)
    assert ages.within == 3.0
    near = people_near(ages, np.array([12.0, 9.0, 8.5, 30.0, np.nan]))
    np.testing.assert_allclose(near, [18, 10, 7, 0, np.nan])
    assert are_few(ages, np.array([12.0, np.nan])).tolist() == [True, False]
    assert count_ages(np.linspace(10, 90, 100)).within == pytest.approx(
        0.5 * np.linspace(10, 90, 100).std()
    )


def test_few_controls_have_no_norms_and_one_sex_alone_has_no_offset() -> None:
    assert fit_norms(controls(59, 5)) is None
    known = controls(200, 6)
    men = Predicted(known.predicted, known.age, known.sd, np.full(200, "M", dtype=object), known.fold)
    norms = fit_norms(men)
    assert norms is not None
    assert norms.mean.weights[-1] == 0
    age = np.array([30.0, 30.0])
    f, m = normative_z(norms, np.zeros(2), age, np.array(["F", "M"], dtype=object))
    assert f == m


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), st.integers(0, 20))
def test_p_is_the_share_of_controls_with_as_high_a_z_counting_the_scan(z: float, seed: int) -> None:
    norms = fit_norms(controls(160, seed))
    assert norms is not None
    held = np.array(norms.z)
    expected = (1 + (held >= round(z, 4)).sum()) / (len(held) + 1)
    assert p_accelerated(norms, np.array([z]))[0] == pytest.approx(expected)
    assert expected >= 1 / (len(held) + 1)


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
