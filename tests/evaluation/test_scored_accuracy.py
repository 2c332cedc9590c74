"""Accuracy of a scored cohort, and what is left of age in its gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f, ttest_1samp
from scored_tables import INTERCEPT, SLOPE, score_table

from hpc_brainage.evaluation.scored_accuracy import (
    MODEL,
    OWN_MEAN,
    TRAINING_MEAN,
    accuracy,
    advantage,
    age_line,
    beside,
    clusters,
    gap_against_age,
    straight_line,
)


@settings(deadline=None, max_examples=50)
@given(st.integers(3, 60), st.integers(0, 10_000), st.sampled_from([0.0, 1e4]))
def test_the_line_is_least_squares(count: int, seed: int, far: float) -> None:
    draw = np.random.default_rng(seed)
    x, y = far + draw.uniform(8, 80, count), far + draw.normal(40, 10, count)
    found = straight_line(x, y, np.arange(count))
    slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1))
    assert found["slope"][0] == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert found["intercept"][0] == pytest.approx(y.mean() - slope * x.mean(), rel=1e-6, abs=1e-6)
    assert found["r"][0] == pytest.approx(float(np.corrcoef(x, y)[0, 1]), abs=1e-9)
    assert found["mean_gap"][0] == pytest.approx(float((y - x).mean()), abs=1e-9)


def test_the_intervals_of_the_line_hold_what_was_planted() -> None:
    held = {"slope": 0, "intercept": 0}
    for seed in range(100):
        table = score_table(150, seed)
        table = table[table["diagnosis"] == "control"]
        line = age_line({"": table}).iloc[0]
        held["slope"] += line["slope_low"] <= SLOPE <= line["slope_high"]
        held["intercept"] += line["intercept_low"] <= INTERCEPT <= line["intercept_high"]
    assert 87 <= held["slope"] <= 100
    assert 87 <= held["intercept"] <= 100


def test_a_line_that_is_not_defined_is_nan_and_not_zero() -> None:
    same = straight_line(np.full(20, 30.0), np.arange(20.0), np.arange(20))
    assert np.isnan(same["slope"][0])
    assert np.isnan(same["r"][0])
    assert same["mean_gap"][0] == pytest.approx(9.5 - 30)
    flat = straight_line(np.arange(20.0), np.full(20, 30.0), np.arange(20))
    assert flat["slope"][0] == 0
    assert np.isnan(flat["r"][0])
    assert straight_line(np.empty(0), np.empty(0), np.empty(0))["slope"] == (
        pytest.approx(np.nan, nan_ok=True),
        None,
    )
    assert np.isnan(straight_line(np.arange(2.0), np.arange(2.0), np.arange(2))["slope"][0])


def test_sites_are_drawn_where_there_are_enough_and_people_elsewhere() -> None:
    assert clusters(score_table(40, sites=8))[1] == "sites"
    assert clusters(score_table(40, sites=7))[1] == "people"


def test_errors_stand_beside_those_of_saying_a_mean() -> None:
    table = score_table()
    found = accuracy({"all": table}, 30.0).set_index("predictor")
    assert list(found.index) == [MODEL, OWN_MEAN, TRAINING_MEAN]
    assert found.loc[MODEL, "mae"] == pytest.approx(float(table["bag"].abs().mean()))
    assert found.loc[OWN_MEAN, "r2"] == pytest.approx(0)
    assert found.loc[TRAINING_MEAN, "mae"] == pytest.approx(float((table["age"] - 30).abs().mean()))
    assert np.isnan(found.loc[OWN_MEAN, "r"])
    assert found.loc[MODEL, "mae_low"] < found.loc[MODEL, "mae"] < found.loc[MODEL, "mae_high"]
    assert TRAINING_MEAN not in set(accuracy({"all": table}, None)["predictor"])


def test_the_advantage_over_the_mean_is_negative_only_for_a_model_that_knows_something() -> None:
    table = score_table()
    knows = advantage(table)
    assert knows is not None
    assert knows.high < 0
    mixed = table.assign(brain_age=np.random.default_rng(0).permutation(table["brain_age"]))
    knows_nothing = advantage(mixed)
    assert knows_nothing is not None
    assert knows_nothing.low > 0
    assert advantage(table.head(5)) is None


def test_the_corrected_gap_has_no_trend_and_the_raw_one_has() -> None:
    found = gap_against_age(score_table(600)).set_index("column")
    assert found.loc["bag", "r"] < -0.3
    assert found.loc["bag", "per_decade"] == pytest.approx(10 * (SLOPE - 1), abs=0.4)
    assert abs(found.loc["bag_corrected", "r"]) < 0.1
    assert found.loc["bag_corrected", "explained"] < 0.02


def test_a_bend_that_a_line_leaves_is_seen() -> None:
    table = score_table(600, noise=2.0)
    bend = -0.01 * (table["age"] - 45) ** 2
    bent = table.assign(bag_corrected=table["bag_corrected"] + bend - bend.mean())
    row = gap_against_age(bent).set_index("column").loc["bag_corrected"]
    assert abs(row["r"]) < 0.15
    assert row["explained"] > 0.4
    assert max(row["p"], row["p_bend"]) < 1e-6


def test_the_tests_of_a_trend_are_those_of_least_squares() -> None:
    draw = np.random.default_rng(4)
    table = score_table(40)
    age = table["age"].to_numpy()
    gap = 0.15 * age + draw.normal(0, 3, 40)
    row = gap_against_age(table.assign(bag_corrected=gap)).set_index("column").loc["bag_corrected"]
    left = [np.square(gap - np.polyval(np.polyfit(age, gap, k), age)).sum() for k in range(3)]
    assert row["p"] == pytest.approx(f.sf((left[0] - left[2]) / 2 / (left[2] / 37), 2, 37))
    assert row["p_bend"] == pytest.approx(f.sf((left[1] - left[2]) / (left[2] / 37), 1, 37))
    assert row["explained"] == pytest.approx(1 - left[2] / 37 / gap.var(ddof=1))


def test_the_test_of_a_mean_is_student_s_where_everybody_was_scanned_once() -> None:
    table = score_table(40)
    rows = gap_against_age(table).set_index("column")
    assert rows.loc["bag", "p_mean"] == pytest.approx(ttest_1samp(table["bag"], 0).pvalue)
    often = gap_against_age(pd.concat([table] * 4, ignore_index=True)).set_index("column")
    assert often.loc["bag", "p_mean"] == pytest.approx(rows.loc["bag", "p_mean"])


def test_people_who_were_scanned_often_are_not_many_people() -> None:
    table = score_table(30)
    once = gap_against_age(table).set_index("column").loc["bag"]
    often = gap_against_age(pd.concat([table] * 4, ignore_index=True)).set_index("column").loc["bag"]
    for name in ("explained", "p", "p_bend"):
        assert often[name] == pytest.approx(once[name])


def test_gaps_that_lie_on_a_curve_are_explained_wholly() -> None:
    table = score_table(30)
    row = gap_against_age(table.assign(bag_corrected=(table["age"] - 40) ** 2)).set_index("column")
    assert row.loc["bag_corrected", "explained"] == pytest.approx(1)
    assert row.loc["bag_corrected", "p_bend"] < 1e-12


def test_predictions_from_one_modality_stand_beside_the_main_one() -> None:
    table = score_table(50).assign(brain_age_fmri_only=np.nan)
    table["brain_age_smri_only"] = table["brain_age"] + 2.0
    table["brain_age_other_sex"] = table["brain_age"] - 0.5
    table.loc[:9, "brain_age_smri_only"] = np.nan
    found = beside(table).set_index("prediction")
    alone = found.loc["structural MRI alone"]
    assert (alone["n"], alone["mean_difference"]) == (40, pytest.approx(2.0))
    assert alone["mae_main"] == pytest.approx(float(table["bag"][10:].abs().mean()))
    flipped = found.loc["had the person been of the other sex"]
    assert flipped["mean_absolute_difference"] == pytest.approx(0.5)
    assert np.isnan(flipped["mae"])
    assert "functional MRI alone" not in found.index
