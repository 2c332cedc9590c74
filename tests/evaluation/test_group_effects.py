"""Adjusted differences between groups: against closed forms, dense algebra, and a planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.group_effects import Contrast, adjusted_differences

Cohort = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]


def cohort(people: int = 60, seed: int = 7, sites: int = 4, effect: float = 2.0) -> Cohort:
    """Outcome, group, covariates and site: sites differ, and errors are the larger the older the person."""
    draw = np.random.default_rng(seed)
    site = np.array([f"S{i % sites}" for i in range(people)])
    age = draw.uniform(8, 60, people)
    sex = (draw.random(people) < 0.5) * 1.0
    group = np.where(draw.random(people) < 0.4, "case", "control")
    offset = np.array([int(name[1:]) for name in site])
    noise = draw.normal(0, 1 + 0.05 * age, people)
    outcome = effect * (group == "case") - 0.1 * age + 0.002 * age**2 + offset + noise
    centred = age - age.mean()
    return outcome, group, {"age": centred, "age²": centred**2, "sex": sex}, site


def compared(found: Cohort, **options: np.ndarray) -> Contrast:
    outcome, group, covariates, site = found
    return adjusted_differences(outcome, group, "control", covariates, site_N=site, **options)


def dense_hc3(found: Cohort) -> tuple[float, float, int]:
    """The difference, its HC3 error and the degrees of freedom, with an indicator for each site."""
    outcome, group, covariates, site = found
    indicators = [(site == name) * 1.0 for name in sorted(set(site))]
    x = np.stack([*covariates.values(), *indicators, (group == "case") * 1.0], axis=1)
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ outcome
    leverage = np.einsum("nk,kl,nl->n", x, inverse, x)
    weight = ((outcome - x @ beta) / (1 - leverage)) ** 2
    covariance = inverse @ (x.T * weight) @ x @ inverse
    return float(beta[-1]), float(np.sqrt(covariance[-1, -1])), len(outcome) - x.shape[1]


def test_the_numbers_are_those_of_an_established_library() -> None:
    """statsmodels 0.15, OLS with an indicator for each site, cov_type HC3 and cluster, use_t."""
    case = compared(cohort()).differences["case"]
    assert case.value == pytest.approx(1.5734420696150144, rel=1e-9)
    assert (case.low, case.high) == pytest.approx((0.04485732572450041, 3.1020268135055282), rel=1e-9)
    assert case.p == pytest.approx(0.043872866659720025, rel=1e-9)
    twice = compared(cohort(), person_N=np.arange(60) // 2).differences["case"]
    assert (twice.low, twice.high) == pytest.approx((0.1342747845458505, 3.0126093546841783), rel=1e-9)
    assert twice.p == pytest.approx(0.03320792217020675, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(30, 80), st.integers(0, 10_000), st.integers(1, 5))
def test_taking_out_site_means_is_the_regression_with_an_indicator_for_each_site(
    people: int, seed: int, sites: int
) -> None:
    found = cohort(people, seed, sites)
    value, error, degrees = dense_hc3(found)
    case = compared(found).differences["case"]
    assert case.value == pytest.approx(value, rel=1e-7, abs=1e-9)
    reach = student.ppf(0.975, degrees) * error
    assert (case.low, case.high) == pytest.approx((value - reach, value + reach), rel=1e-6, abs=1e-8)


def test_two_groups_and_nothing_else_are_the_difference_of_means_and_hedges_g() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(0, 1, 30), draw.normal(1, 3, 12)
    group = np.array(["control"] * 30 + ["case"] * 12)
    case = adjusted_differences(np.concatenate([a, b]), group, "control", {}).differences["case"]
    assert case.value == pytest.approx(b.mean() - a.mean())
    # HC3 of a mean: the squared residuals over (1 - 1/n)², over n²
    of_a, of_b = (((x - x.mean()) ** 2).sum() / (len(x) - 1) ** 2 for x in (a, b))
    error = np.sqrt(of_a + of_b)
    assert case.high - case.value == pytest.approx(student.ppf(0.975, 40) * error)
    pooled = np.sqrt((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / 40)
    small = 1 - 3 / (4 * 40 - 1)
    assert case.g == pytest.approx(small * (b.mean() - a.mean()) / pooled)
    of_g = np.sqrt((small * error / pooled) ** 2 + case.g**2 / (2 * 40))
    assert case.g_high - case.g == pytest.approx(student.ppf(0.975, 40) * of_g)


def test_an_interval_holds_the_planted_difference_nineteen_times_in_twenty() -> None:
    held = [
        case.low <= 2.0 <= case.high
        for seed in range(400)
        for case in compared(cohort(80, seed)).differences.values()
    ]
    assert len(held) == 400
    assert 0.92 <= np.mean(held) <= 0.98


def test_scans_of_one_person_do_not_count_as_so_many_people() -> None:
    outcome, group, covariates, site = cohort(90)
    once = compared((outcome, group, covariates, site)).differences["case"]
    again = {name: np.tile(values, 3) for name, values in covariates.items()}
    thrice = (np.tile(outcome, 3), np.tile(group, 3), again, np.tile(site, 3))
    person = np.tile(np.arange(90).astype(str), 3)
    as_one = compared(thrice, person_N=person).differences["case"]
    as_many = compared(thrice).differences["case"]
    assert as_one.value == pytest.approx(once.value)
    width = once.high - once.low
    assert 0.85 * width < as_one.high - as_one.low < 1.05 * width
    assert as_many.high - as_many.low < 0.65 * width


def test_groups_that_are_sites_by_another_name_are_named_and_not_compared() -> None:
    outcome, _, covariates, site = cohort()
    group = np.where(site == "S0", "control", np.where(site == "S1", "case", "other"))
    found = compared((outcome, group, covariates, site))
    assert found.differences == {}
    assert found.confounded == ("case", "other")
    assert found.informative == 0


def test_people_at_sites_of_one_group_change_nothing_and_are_counted() -> None:
    outcome, group, covariates, site = cohort(80)
    alone = site == "S3"
    group = np.where(alone, "control", group)
    everybody = compared((outcome, group, covariates, site))
    assert everybody.informative == 60
    assert everybody.n == 80
    without = {name: values[~alone] for name, values in covariates.items() if name == "sex"}
    rest = compared((outcome[~alone], group[~alone], without, site[~alone]))
    of_sex = {"sex": covariates["sex"]}
    alike = compared((outcome, group, of_sex, site))
    assert alike.differences["case"].value == pytest.approx(rest.differences["case"].value, abs=0.6)


def test_a_covariate_that_others_determine_is_named() -> None:
    outcome, group, covariates, site = cohort()
    more = {**covariates, "age in months": 12 * covariates["age"] + 3, "scanner": (site == "S1") * 1.0}
    found = compared((outcome, group, {**more, "same for all": np.ones(60)}, site))
    assert found.without == ("age in months", "scanner", "same for all")
    assert found.covariates == ("age", "age²", "sex", "site")
    assert found.differences == compared((outcome, group, covariates, site)).differences


def test_one_site_is_no_covariate() -> None:
    outcome, group, covariates, _ = cohort()
    found = compared((outcome, group, covariates, np.full(60, "only")))
    assert found.covariates == ("age", "age²", "sex")
    assert found.without == ("site",)


def test_whoever_is_alone_at_a_site_takes_no_part() -> None:
    outcome, group, covariates, site = cohort(60)
    lonely = site.copy().astype(object)
    lonely[:5] = [f"alone {i}" for i in range(5)]
    with_them = compared((outcome, group, covariates, lonely)).differences["case"]
    rest = {name: values[5:] for name, values in covariates.items()}
    without = compared((outcome[5:], group[5:], rest, site[5:])).differences["case"]
    assert with_them.value == pytest.approx(without.value)
    assert with_them.low == pytest.approx(without.low)


def test_too_few_people_for_the_covariates_give_no_number() -> None:
    draw = np.random.default_rng(0)
    group = np.array(["control", "case", "control", "case"])
    covariates = {name: draw.normal(size=4) for name in "ab"}
    case = adjusted_differences(draw.normal(size=4), group, "control", covariates).differences["case"]
    assert np.isnan([case.value, case.low, case.high, case.p, case.g]).all()


def test_what_cannot_be_compared_is_refused_in_words() -> None:
    outcome, group, covariates, site = cohort()
    with pytest.raises(UsageError, match="nobody is in the reference group"):
        adjusted_differences(outcome, group, "healthy", covariates)
    outcome[3] = np.nan
    with pytest.raises(UsageError, match="a finite number for each scan"):
        adjusted_differences(outcome, group, "control", covariates, site_N=site)
