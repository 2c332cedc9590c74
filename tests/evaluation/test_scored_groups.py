"""Groups of a scored cohort: described, compared, and what cannot be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scored_tables import score_table

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.scored_groups import (
    by_site,
    compared,
    control_group,
    described,
    group_values,
)


def diagnoses(table: pd.DataFrame) -> pd.Series:
    return group_values(table, "diagnosis")


@pytest.mark.parametrize(
    "word", ["TC", "HC", "control", "Controls", "Healthy control", "CN", "healthy_controls"]
)
def test_a_word_for_people_without_a_diagnosis_is_known(word: str) -> None:
    assert control_group(["ASD", word]) == word


def test_no_control_is_guessed_where_there_is_none_or_two() -> None:
    assert control_group(["A", "B"]) is None
    assert control_group(["HC", "TD", "ASD"]) is None


def test_the_planted_difference_is_found_in_every_outcome() -> None:
    table = score_table(400).assign(bag_z=lambda t: t["bag_corrected"] / 4)
    found, notes = compared(table, diagnoses(table), "control")
    raw, z = found.to_dict("records")
    assert (raw["group"], raw["reference"]) == ("patient", "control")
    assert raw["low"] < 3 < raw["high"]
    assert raw["low"] > 0
    assert raw["adjusted_for"] == "age, age², sex, site"
    assert z["difference"] == pytest.approx(raw["difference"] / 4, rel=0.05)
    assert raw["g"] == pytest.approx(0.75, abs=0.25)
    assert notes == ()


def test_groups_that_are_their_sites_are_compared_without_site_and_that_is_said() -> None:
    table = score_table(200, sites=2)
    table["diagnosis"] = np.where(table["site"] == "site 0", "control", "patient")
    found, notes = compared(table, diagnoses(table), "control")
    assert list(found["adjusted_for"]) == ["age, age², sex"]
    assert any("cannot be told from their sites" in note for note in notes)


def test_a_partly_confounded_design_says_how_many_scans_speak() -> None:
    table = score_table(200, sites=4)
    table.loc[table["site"] == "site 3", "diagnosis"] = "patient"
    found, notes = compared(table, diagnoses(table), "control")
    assert list(found["adjusted_for"]) == ["age, age², sex, site"]
    assert any(
        note.startswith("Only 150 of 200 scans are at sites with more than one group") for note in notes
    )


def test_small_and_unknown_groups_are_named() -> None:
    table = score_table(100)
    table.loc[:2, "diagnosis"] = "rare"
    table.loc[3:9, "diagnosis"] = ""
    found, notes = compared(table, diagnoses(table), "control")
    assert set(found["group"]) == {"patient"}
    assert any("7 scans of no known group" in note for note in notes)
    assert any(note.endswith("with fewer than 5 scans each: rare.") for note in notes)


def test_ages_that_hardly_overlap_are_said() -> None:
    table = score_table(300)
    old = table["age"] > 50
    table["diagnosis"] = np.where(old, "patient", "control")
    _, notes = compared(table, diagnoses(table), "control")
    assert any("rests on extrapolation over age" in note for note in notes)


def test_new_cases_against_training_controls_are_said() -> None:
    table = score_table(200)
    table["in_training"] = table["diagnosis"] == "control"
    _, notes = compared(table, diagnoses(table), "control")
    assert any("control 100 %, patient 0 %" in note for note in notes)


def test_sexes_are_compared_without_sex_as_a_covariate() -> None:
    table = score_table(300)
    found, _ = compared(table, table["sex"], "F")
    assert list(found["adjusted_for"]) == ["age, age², site"]
    assert found.iloc[0]["low"] < 0 < found.iloc[0]["high"]


def test_nobody_to_compare_is_said() -> None:
    table = score_table(60)
    table["diagnosis"] = "control"
    found, notes = compared(table, diagnoses(table), "control")
    assert not len(found)
    assert notes[-1] == "There are no two groups to compare."


def test_codes_are_groups_and_measurements_are_not() -> None:
    table = score_table(50).assign(code=[1.0, 2.0] * 24 + [np.nan] * 2, iq=np.arange(50) / 3)
    assert set(group_values(table, "code")) == {"1", "2", ""}
    with pytest.raises(UsageError, match="50 different values"):
        group_values(table, "iq")
    with pytest.raises(UsageError) as refused:
        group_values(table, "diagnosys")
    assert "diagnosis" in str(refused.value)


def test_groups_are_described_as_they_are() -> None:
    table = score_table(80)
    found = described(table, diagnoses(table)).set_index("group")
    own = table[table["diagnosis"] == "patient"]
    assert found.loc["patient", "n"] == len(own)
    assert found.loc["patient", "mean_gap"] == pytest.approx(own["bag"].mean())
    assert found.loc["patient", "sd_corrected"] == pytest.approx(own["bag_corrected"].std())


def test_the_offsets_of_sites_are_found_at_the_same_age() -> None:
    table = score_table(800, noise=2.0)
    table["diagnosis"] = "control"
    older = (table["site"] == "site 1") & (table["age"] < 30)
    table = table[~older].reset_index(drop=True)  # whose raw gap is lower, but for their age
    table.loc[table["site"] == "site 2", ["bag", "bag_corrected"]] += 4.0
    found, share = by_site(table)
    found = found.set_index("group")
    assert found.loc["site 2", "adjusted_gap"] == pytest.approx(3.0, abs=0.5)  # 4 less their mean of 1
    assert found.loc["site 1", "adjusted_gap"] == pytest.approx(-1.0, abs=0.5)
    assert found.loc["site 2", "low"] > 0
    assert share is not None
    assert 0.2 < share < 0.7


def test_sites_that_do_not_differ_explain_nothing_and_one_site_is_no_comparison() -> None:
    _, share = by_site(score_table(400))
    assert share is not None
    assert share < 0.03
    assert by_site(score_table(40, sites=1))[1] is None
    few, _ = by_site(score_table(12, sites=4))
    assert few["adjusted_gap"].isna().all()
