"""Groups of a scored cohort: described, compared, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
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


def test_modalities_that_groups_have_unevenly_are_taken_out_and_named() -> None:
    table = score_table(400)
    control = (table["diagnosis"] == "control").to_numpy()
    draw = np.random.default_rng(3).random(400)
    table["has_fmri"] = draw < np.where(control, 0.9, 0.6)
    table["bag"] += np.where(table["has_fmri"], 0, 5)
    found, notes = compared(table, diagnoses(table), "control")
    raw = found.iloc[0]
    assert raw["adjusted_for"] == "age, age², sex, modalities (smri only), site"
    assert raw["low"] < 3 < raw["high"] < 4.5  # and not 3 and a part of 5
    shares = [100 * (~table.loc[own, "has_fmri"]).mean() for own in (control, ~control)]
    said = f"from smri only (control {shares[0]:.0f} %, patient {shares[1]:.0f} %)"
    assert any(said in note for note in notes)
    assert not any("smri+fmri" in note for note in notes), "of two sets one says it"
    table["has_fmri"] = draw < 0.8
    found, notes = compared(table, diagnoses(table), "control")
    assert "modalities" in found.iloc[0]["adjusted_for"]
    assert notes == ()


def test_every_set_of_modalities_that_groups_have_unevenly_is_named() -> None:
    table = score_table(400)
    control = (table["diagnosis"] == "control").to_numpy()
    draw = np.random.default_rng(3).random(400)
    table["has_smri"] = draw > np.where(control, 0.1, 0.3)
    table["has_fmri"] = (draw < 0.7) | ~table["has_smri"]
    (note,) = compared(table, diagnoses(table), "control")[1]
    assert "from fmri only (control " in note
    assert ", from smri+fmri (control " in note
    assert "from smri only" not in note, "three in ten of both"


def test_groups_that_are_their_modalities_are_not_compared_and_that_is_said() -> None:
    table = score_table(200)
    table["has_fmri"] = table["diagnosis"] == "control"
    found, notes = compared(table, diagnoses(table), "control")
    assert found.empty
    assert any("patient cannot be told from what they were scored from" in note for note in notes)
    assert not any("without site" in note for note in notes)


def test_a_site_is_not_its_modalities() -> None:
    table = score_table(800, noise=2.0)
    few = np.random.default_rng(4).random(800) < np.where(table["site"] == "site 2", 0.7, 0.1)
    table["has_fmri"] = ~few
    table["bag"] += np.where(few, 5, 0)
    found, _ = by_site(table)
    assert found["adjusted_gap"].abs().max() < 0.6


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


def by_hand(table: pd.DataFrame, column: str, reference: str) -> dict[str, float]:
    """The difference between two diagnoses by ordinary least squares with an indicator for each site."""
    known = table[table[column].notna()]
    age, y = known["age"].to_numpy(float), known[column].to_numpy(float)
    sites = [(known["site"] == site) * 1.0 for site in sorted(set(known["site"]))[1:]]
    case = (known["diagnosis"] != reference) * 1.0
    x = np.column_stack([np.ones(len(y)), case, age, age**2, (known["sex"] == "M") * 1.0, *sites])
    inverse = np.linalg.inv(x.T @ x)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    left = y - x @ beta
    weight = (left / (1 - np.sum(x @ inverse * x, axis=1))) ** 2  # HC3
    error = np.sqrt((inverse @ (x.T * weight) @ x @ inverse)[1, 1])
    degrees = len(y) - x.shape[1]
    spread, reach = np.sqrt(left @ left / degrees), student.ppf(0.975, degrees)
    small = 1 - 3 / (4 * degrees - 1)
    g = small * beta[1] / spread
    g_error = np.sqrt((small * error / spread) ** 2 + g**2 / (2 * degrees))
    return {
        "difference": beta[1],
        "low": beta[1] - reach * error,
        "high": beta[1] + reach * error,
        "p": 2 * student.sf(abs(beta[1]) / error, degrees),
        "g": g,
        "g_low": g - reach * g_error,
        "g_high": g + reach * g_error,
    }


def check_by_hand(table: pd.DataFrame, reference: str) -> None:
    """What the report shows of the raw gap and of z is what the regression gives."""
    found, _ = compared(table, diagnoses(table), reference)
    assert len(found) == 2
    assert set(found["adjusted_for"]) == {"age, age², sex, site"}
    for row, column in zip(found.to_dict("records"), ("bag", "bag_z"), strict=True):
        expected = by_hand(table, column, reference)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_every_number_of_the_table_is_that_of_a_regression_by_hand() -> None:
    table = score_table(240, sites=5).assign(bag_z=lambda t: t["bag_corrected"] / 4)
    table.loc[::7, "bag_z"] = np.nan
    check_by_hand(table, "control")


@pytest.mark.real
def test_so_they_are_for_the_people_sites_and_diagnoses_of_abide(real_data: Path) -> None:
    """Brain ages are of a plain regression on forty surface areas; everything else is theirs."""
    folder = real_data / "abide1"
    people = pd.read_csv(folder / "participants.csv").set_index("file_id")
    brain = pd.read_csv(folder / "smri_freesurfer6.csv.gz", index_col=0)
    people, brain = people.align(brain.select_dtypes("number"), join="inner", axis=0)
    features = brain.loc[:, brain.notna().all() & (brain.std() > 0)].iloc[:, :40]
    x = np.column_stack([np.ones(len(features)), (features - features.mean()) / features.std()])
    age = people["age"].to_numpy(float)
    table = pd.DataFrame(
        {
            "participant_id": people.index.astype(str),
            "age": age,
            "sex": people["sex"].to_numpy(),
            "site": people["site"].to_numpy(),
            "diagnosis": people["dx"].to_numpy(),
            "has_smri": True,
            "has_fmri": False,
            "bag": x @ np.linalg.lstsq(x, age, rcond=None)[0] - age,
        }
    )
    assert set(table["diagnosis"]) == {"ASD", "TC"}
    assert set(table["sex"]) == {"F", "M"}
    check_by_hand(table.assign(bag_z=table["bag"] / table["bag"].std()), "TC")
