"""Whether intervals and centiles hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest
from scored_tables import score_table, with_uncertainty

from hpc_brainage.evaluation.scored_coverage import coverage, uniformity, wilson


def test_wilson_s_interval_is_the_textbook_s() -> None:
    assert wilson(9, 10) == pytest.approx((0.59585, 0.98212), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_coverage_counts_the_ages_inside() -> None:
    scans = pd.DataFrame({"age": np.arange(40.0), "pi90_lo": 10.0, "pi90_hi": 29.0})
    row = coverage({"all": scans}).iloc[0]
    assert (row["n"], row["coverage"], row["median_width"]) == (40, 0.5, 19.0)
    assert row["low"] < 0.5 < row["high"]
    scans.loc[:4, "pi90_lo"] = np.nan
    assert coverage({"all": scans}).iloc[0]["n"] == 35
    assert not len(coverage({"few": scans.tail(19)}))


def test_intervals_that_were_made_right_hold_nine_in_ten() -> None:
    table = with_uncertainty(score_table(2000))
    row = coverage({"controls": table[table["diagnosis"] == "control"]}).iloc[0]
    assert row["low"] <= 0.9 <= row["high"]


def test_the_distance_from_even_is_kolmogorov_s() -> None:
    centile = np.random.default_rng(0).uniform(0, 80, 300)
    table, distance = uniformity(np.append(centile, np.nan))
    assert distance == pytest.approx(float(kstest(centile / 100, "uniform").statistic))
    assert table["n"].sum() == 300
    assert list(table["n"][8:]) == [0, 0]
    assert uniformity(centile[:19])[1] is None
