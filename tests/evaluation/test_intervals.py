"""Intervals against brute force, closed forms and simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation import intervals
from hpc_brainage.evaluation.intervals import (
    bootstrap_difference,
    bootstrap_errors,
    corrected_t_test,
    corrected_test_over_splits,
    drawn_sums,
)
from hpc_brainage.evaluation.splits import Split


def some_people(n: int, seed: int = 0, clusters: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    age = draw.uniform(8, 60, n)
    predicted = age + draw.normal(0, 4, n)
    return predicted, age, draw.integers(clusters or n, size=n) if clusters else np.arange(n)


@pytest.mark.parametrize("clusters", [0, 12])
def test_the_draws_are_those_of_a_loop_over_resampled_people(clusters: int) -> None:
    predicted, age, cluster = some_people(60, clusters=clusters)
    names = np.unique(cluster)
    drawn = np.random.default_rng(3).integers(len(names), size=(200, len(names)))
    by_loop: dict[str, list[float]] = {"mae": [], "rmse": [], "r2": [], "r": []}
    for draw in drawn:
        rows = np.concatenate([np.flatnonzero(cluster == names[number]) for number in draw])
        p, y = predicted[rows], age[rows]
        by_loop["mae"].append(mean_absolute_error(y, p))
        by_loop["rmse"].append(root_mean_squared_error(y, p))
        by_loop["r2"].append(r2_score(y, p))
        by_loop["r"].append(stats.pearsonr(y, p).statistic)
    found = bootstrap_errors(predicted, age, cluster, draws=200, seed=3)
    for measure, values in by_loop.items():
        interval = found[measure]
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_the_interval_of_the_mae_is_that_of_a_mean() -> None:
    """For many people the percentile interval is the normal one: mean ± 1.96 SD / √n."""
    predicted, age, people = some_people(4000)
    found = bootstrap_errors(predicted, age, people)["mae"]
    assert found is not None
    error = np.abs(predicted - age)
    half = 1.96 * error.std() / np.sqrt(len(error))
    assert found.low == pytest.approx(error.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(error.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """300 simulated studies of 100 people: E|N(0, 4)| = 4 √(2/π) is covered in 95 % of them, about."""
    truth, hits = 4 * np.sqrt(2 / np.pi), 0
    for seed in range(300):
        predicted, age, people = some_people(100, seed)
        found = bootstrap_errors(predicted, age, people, draws=300, seed=seed)["mae"]
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 300 <= 0.98


def test_people_of_a_site_who_err_together_make_the_interval_over_sites_wider() -> None:
    draw = np.random.default_rng(1)
    site = np.repeat(np.arange(15), 40)
    age = draw.uniform(10, 60, 600)
    predicted = age + draw.normal(0, 3, 15)[site] + draw.normal(0, 1, 600)
    over_people = bootstrap_errors(predicted, age, np.arange(600))["mae"]
    over_sites = bootstrap_errors(predicted, age, site)["mae"]
    assert over_people is not None
    assert over_sites is not None
    assert over_sites.high - over_sites.low > 2 * (over_people.high - over_people.low)


def test_the_draws_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, age, cluster = some_people(90, clusters=30)
    whole = intervals.bootstrap_errors(predicted, age, cluster)
    monkeypatch.setattr(intervals, "_COUNTS_AT_ONCE", 30 * 7)
    for measure, interval in intervals.bootstrap_errors(predicted, age, cluster).items():
        before = whole[measure]
        assert interval is not None
        assert before is not None
        assert (interval.low, interval.high) == pytest.approx((before.low, before.high), rel=1e-9)


def test_two_thousand_draws_of_820_people_take_well_under_a_second() -> None:
    predicted, age, people = some_people(820)
    started = time.process_time()
    bootstrap_errors(predicted, age, people, draws=2000)
    assert time.process_time() - started < 1.0


def test_the_measure_of_several_predictors_is_the_mean_and_not_that_of_the_ensemble() -> None:
    age = np.linspace(10, 60, 50)
    wrong_both_ways = np.stack([age + 5, age - 5])
    found = bootstrap_errors(wrong_both_ways, age, np.arange(50))["mae"]
    assert found is not None
    assert (found.low, found.high) == pytest.approx((5, 5))


@settings(deadline=None, max_examples=40)
@given(shift=st.floats(-50, 50), seed=st.integers(0, 1000))
def test_adding_the_same_years_to_ages_and_predictions_changes_nothing(shift: float, seed: int) -> None:
    predicted, age, people = some_people(40, seed)
    before = bootstrap_errors(predicted, age, people, draws=50)
    after = bootstrap_errors(predicted + shift, age + shift, people, draws=50)
    for measure, interval in before.items():
        other = after[measure]
        assert interval is not None
        assert other is not None
        assert (interval.low, interval.high) == pytest.approx((other.low, other.high), rel=1e-6)


def test_what_is_not_defined_has_no_interval() -> None:
    age = np.arange(20.0)
    constant = bootstrap_errors(np.full(20, 9.0), age, np.arange(20))
    assert constant["r"] is None
    assert constant["mae"] is not None
    assert set(bootstrap_errors(age, age, np.arange(20) % 7).values()) == {None}
    assert None not in bootstrap_errors(age, age + 1, np.arange(20) % 8).values()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from("abcdefghijkl"), min_size=12, max_size=30),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_a_draw_has_as_many_people_as_there_are_each_with_all_scans(
    person: list[str], draws: int, seed: int
) -> None:
    names = sorted(set(person))
    first = [person.index(name) for name in names]
    by_scan = drawn_sums(np.eye(len(person)), np.array(person), draws, seed)
    assert (by_scan is None) == (len(names) < intervals.FEWEST_CLUSTERS)
    if by_scan is not None:
        assert (by_scan[:, first].sum(axis=1) == len(names)).all()
        for column, name in enumerate(person):
            np.testing.assert_array_equal(by_scan[:, column], by_scan[:, person.index(name)])


def test_networks_of_few_seeds_are_drawn_too() -> None:
    """Five seeds whose errors lie 1 year apart say less of other seeds than five that are alike."""
    age = np.linspace(10, 60, 400)
    shift = np.array([1.0, 2, 3, 4, 5])
    apart, alike = age + shift[:, None], np.broadcast_to(age + 3, (5, 400))
    known = bootstrap_difference(alike, age, age, np.arange(400))
    found = bootstrap_difference(apart, age, age, np.arange(400), draws=20_000)
    alone = bootstrap_errors(apart, age, np.arange(400), draws=20_000)["mae"]
    assert known is not None
    assert found is not None
    assert alone is not None
    assert (known.low, known.high) == pytest.approx((3, 3))
    # 1.96 standard errors of the mean of five seeds are 1.39 years.
    assert found.high - found.low == pytest.approx(2 * 1.96 * shift.std(ddof=1) / np.sqrt(5), rel=0.1)
    assert (alone.low, alone.high) == pytest.approx((found.low, found.high))


def test_seeds_of_one_model_are_seldom_told_from_other_seeds_of_it() -> None:
    """What an ablation must not find: 300 times five networks against five of the same kind."""
    draw, told = np.random.default_rng(0), 0
    age = np.zeros(60)
    for study in range(300):
        person = draw.normal(0, 2, 60)
        errors = np.abs(3 + person + draw.normal(0, 0.3, (10, 1)) + draw.normal(0, 1, (10, 60)))
        found = bootstrap_difference(errors[:5], errors[5:], age, np.arange(60), draws=300, seed=study)
        assert found is not None
        told += found.low > 0 or found.high < 0
    assert told / 300 <= 0.07


def test_a_missing_prediction_is_refused_and_not_dropped() -> None:
    with pytest.raises(UsageError, match="one finite prediction"):
        bootstrap_errors(np.array([1.0, np.nan, 3.0]), np.arange(3.0), np.arange(3))


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    """Two predictors with nearly the same errors: the small difference is plain, the intervals overlap."""
    predicted, age, people = some_people(300)
    worse = age + 1.1 * (predicted - age)
    a = bootstrap_errors(predicted, age, people)["mae"]
    b = bootstrap_errors(worse, age, people)["mae"]
    paired = bootstrap_difference(predicted, worse, age, people)
    assert a is not None
    assert b is not None
    assert paired is not None
    assert a.high > b.low
    assert paired.high < 0
    reverse = bootstrap_difference(worse, predicted, age, people)
    assert reverse is not None
    assert (reverse.low, reverse.high) == pytest.approx((-paired.high, -paired.low))


def test_the_corrected_test_has_its_closed_form() -> None:
    d = np.array([0.3, 0.1, 0.4, -0.1, 0.2])
    found = corrected_t_test(d, test_to_train=0.25)
    assert found is not None
    assert found.t == pytest.approx(d.mean() / np.sqrt((0.2 + 0.25) * d.var(ddof=1)))
    assert found.degrees == 4
    assert found.p == pytest.approx(2 * stats.t.cdf(-abs(found.t), 4))


def test_without_the_correction_it_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=12), draw.normal(0.3, 1, size=12)
    found, known = corrected_t_test(a - b, test_to_train=0.0), stats.ttest_rel(a, b)
    assert found is not None
    assert (found.t, found.p) == pytest.approx((known.statistic, known.pvalue))


def test_a_split_without_compared_people_takes_no_part_in_the_test() -> None:
    splits = [
        Split(str(k), np.flatnonzero(np.arange(40) % 4 != k), np.arange(40)[np.arange(40) % 4 == k])
        for k in range(4)
    ]
    compared = np.arange(40) % 4 != 3
    difference = np.random.default_rng(0).normal(size=40)
    means = np.array([difference[split.test].mean() for split in splits[:3]])
    assert corrected_test_over_splits(difference, compared, splits) == corrected_t_test(means, 10 / 20)


def test_equal_predictors_do_not_differ_and_one_split_says_nothing() -> None:
    same = corrected_t_test(np.zeros(5), 0.25)
    assert same is not None
    assert (same.t, same.p) == (0.0, 1.0)
    assert corrected_t_test(np.array([1.0]), 0.25) is None
