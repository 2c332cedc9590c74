"""Whether intervals and centiles hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, kstest, skew
from scored_tables import score_table, with_uncertainty

from hpc_brainage.evaluation.scored_coverage import (
    coverage,
    evenness,
    of_whom,
    off_by_chance,
    parts,
    skewness,
    wilson,
)


def test_wilson_s_interval_is_the_textbook_s() -> None:
    assert wilson(9, 10) == pytest.approx((0.59585, 0.98212), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_coverage_counts_the_ages_inside() -> None:
    people = [f"p{i}" for i in range(40)]
    scans = pd.DataFrame(
        {"participant_id": people, "age": np.arange(40.0), "pi90_lo": 10.0, "pi90_hi": 29.0}
    )
    row = coverage({"all": scans}).iloc[0]
    assert (row["n"], row["coverage"], row["median_width"]) == (40, 0.5, 19.0)
    assert row["low"] < 0.5 < row["high"]
    scans.loc[:4, "pi90_lo"] = np.nan
    assert coverage({"all": scans}).iloc[0]["n"] == 35
    assert not len(coverage({"few": scans.tail(19)}))


def test_how_far_a_count_is_off_nine_in_ten_by_chance_is_binomial() -> None:
    for count, of in ((14, 20), (18, 20), (20, 20), (0, 20), (130, 165), (155, 165)):
        tails = binom.cdf(count, of, 0.9), binom.sf(count - 1, of, 0.9)
        assert off_by_chance(count, of) == pytest.approx(min(1, 2 * min(tails)))
    assert off_by_chance(14, 20) < off_by_chance(14.5, 20) < off_by_chance(15, 20)


def test_scans_of_one_person_are_of_one_person() -> None:
    once = with_uncertainty(score_table(30))
    twice = pd.concat([once, once.assign(session_id="2")], ignore_index=True)
    one, two = (coverage({"all": scans}).iloc[0] for scans in (once, twice))
    assert (two["n"], two["scans"]) == (30, 60)
    assert tuple(two[["coverage", "low", "high"]]) == tuple(one[["coverage", "low", "high"]])
    assert (of_whom(one), of_whom(two)) == ("30 people", "30 people (60 scans)")
    few = pd.concat([once.head(15)] * 4, ignore_index=True)
    assert not len(coverage({"few": few}))


def test_a_person_scanned_often_weighs_no_more_than_others() -> None:
    scans = with_uncertainty(score_table(40))
    missed = scans["participant_id"] == scans["participant_id"][0]
    scans.loc[:, "pi90_lo"], scans.loc[:, "pi90_hi"] = 0.0, 120.0
    scans.loc[missed, "pi90_hi"] = 1.0
    often = pd.concat([scans, *[scans[missed]] * 39], ignore_index=True)
    assert coverage({"all": often}).iloc[0]["coverage"] == pytest.approx(39 / 40)


def test_intervals_that_were_made_right_hold_nine_in_ten() -> None:
    table = with_uncertainty(score_table(2000))
    row = coverage({"controls": table[table["diagnosis"] == "control"]}).iloc[0]
    assert row["low"] <= 0.9 <= row["high"]


def test_the_distance_from_even_is_kolmogorov_s() -> None:
    centile = np.random.default_rng(0).uniform(0, 80, 300)
    table, distance, p = evenness(np.append(centile, np.nan))
    known = kstest(centile / 100, "uniform")
    assert (distance, p) == pytest.approx((float(known.statistic), float(known.pvalue)), rel=1e-6)
    assert table["n"].sum() == 300
    assert list(table["n"][8:]) == [0, 0]
    assert evenness(centile[:19])[1:] == (None, None)


def test_skewness_is_scipy_s() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=300)
    assert skewness(np.append(values, np.nan)) == pytest.approx(float(skew(values)))
    assert skewness(values[:19]) is None
    assert skewness(np.ones(50)) is None


def test_the_sparse_ends_of_age_are_looked_at_by_themselves() -> None:
    scans = score_table(100).assign(age=np.append(np.linspace(8, 20, 80), np.linspace(25, 56, 20)))
    found = parts(scans, "controls")
    oldest = found["controls: the 20 oldest, 25 to 56 years"]
    assert list(oldest["age"]) == list(scans["age"][80:])
    assert len(found["controls: the 20 youngest, 8 to 11 years"]) == 20
    assert not [name for name in parts(scans.head(79), "controls") if "oldest" in name]
    twice = pd.concat([scans, scans], ignore_index=True)
    both = parts(twice, "controls")["controls: the 20 oldest, 25 to 56 years"]
    assert sorted(both["participant_id"]) == sorted(oldest["participant_id"])
    assert not [name for name in parts(pd.concat([scans.head(40)] * 2), "controls") if "oldest" in name]
