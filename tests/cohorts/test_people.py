from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.columns import age_unit_of_sidecar, recognise_columns
from hpc_brainage.cohorts.people import ColumnMap, identities, read_people
from hpc_brainage.cohorts.tables import read_table
from hpc_brainage.errors import CohortError, UsageError
from hpc_brainage.scans import IDENTITY, SCAN_COLUMNS


def people(columns: ColumnMap | None = None, **table: object):
    return read_people(pd.DataFrame(table), columns or ColumnMap(), source="people.tsv")


def test_prefixes_blanks_and_floats_leave_the_identity() -> None:
    found = people(participant_id=[" sub-01", "sub-02 "], session=["ses-1", "2"], run=[1.0, 2.0])
    assert found.scans[list(IDENTITY)].to_numpy().tolist() == [["01", "1", "1"], ["02", "2", "2"]]
    assert identities(pd.Series([51456.0, np.nan])).tolist() == ["51456", ""]
    assert identities(pd.Series(["51456.0", "0051456"])).tolist() == ["51456", "0051456"]


def test_usual_names_are_recognised_in_any_case_and_the_most_telling_wins() -> None:
    found = recognise_columns(
        ["Subject_ID", "participant_id", "AGE_AT_SCAN", "Gender", "site_id", "dx"], ColumnMap(), source="t"
    )
    assert found.named() == {
        "id": "participant_id", "age": "AGE_AT_SCAN", "sex": "Gender", "site": "site_id", "diagnosis": "dx",
    }  # fmt: skip


def test_two_equally_fitting_columns_are_an_error_that_names_the_flag() -> None:
    with pytest.raises(CohortError, match="file_id, sub_id") as error:
        people(file_id=["a"], sub_id=[1])
    assert "--id" in str(error.value)
    assert people(ColumnMap(id="file_id"), file_id=["a"], sub_id=[1]).scans["participant_id"].tolist() == [
        "a"
    ]


def test_a_table_without_identity_lists_its_columns() -> None:
    with pytest.raises(CohortError, match="who was scanned") as error:
        people(name=["a"], age=[3])
    assert "--id" in str(error.value)
    assert "name, age" in str(error.value)


def test_a_named_column_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(CohortError, match="'fileid'") as error:
        people(ColumnMap(id="fileid"), file_id=["a"])
    assert "'file_id'" in str(error.value)


def test_unknown_ages_stay_and_are_counted() -> None:
    found = people(participant_id=["a", "b"], age=[20.5, np.nan])
    assert found.scans["age"].isna().tolist() == [False, True]
    assert "1 scan has no age" in found.account.notes[0]


@pytest.mark.parametrize("age", ["55-60", "89+", "n.a. (old)", "inf", "-3"])
def test_an_impossible_age_costs_the_scan_and_says_why(age: str) -> None:
    found = people(participant_id=["a", "b", "c"], age=["20", age, "30"])
    assert found.scans["participant_id"].tolist() == ["a", "c"]
    assert found.rows.tolist() == [0, 2]
    (refusal,) = found.account.refusals
    assert refusal.participant_id == "b"
    assert age.strip("-") in refusal.reason


def test_ages_in_months_stop_the_reading_until_they_are_called_months() -> None:
    months = [240.0, 300.0, 611.0]
    with pytest.raises(CohortError, match="look like months") as error:
        people(participant_id=["a", "b", "c"], age=months)
    assert "--age-unit months" in str(error.value)
    found = people(ColumnMap(age_unit="months"), participant_id=["a", "b", "c"], age=months)
    np.testing.assert_allclose(found.scans["age"], [20, 25, 611 / 12])


def test_ages_in_months_of_children_stop_the_reading_although_few_exceed_a_life() -> None:
    children = np.linspace(107, 133, 120)
    for months in (children, np.linspace(101, 121, 40), [*[90.0] * 97, 123.0, 125.0, 130.0]):
        ids = [f"s{i}" for i in range(len(months))]
        with pytest.raises(CohortError, match="look like months") as error:
            people(participant_id=ids, age=months)
        assert "--age-unit months" in str(error.value)
    with pytest.raises(CohortError, match="1 of 3 are above"):
        people(participant_id=list("abc"), age=[20, 130, 30])
    ids = [f"s{i}" for i in range(120)]
    assert people(ColumnMap(age_unit="months"), participant_id=ids, age=children).scans["age"].max() < 12
    centenarians = people(ColumnMap(age_unit="years"), participant_id=ids, age=np.linspace(100, 112, 120))
    assert len(centenarians.scans) == 120


@pytest.mark.parametrize("name", ["age_months", "AgeInMonths", "age_at_scan_mo", "age (days)", "age.weeks"])
def test_ages_whose_column_is_named_after_another_unit_are_not_taken_for_years(name: str) -> None:
    babies = {"participant_id": ["a", "b", "c"], name: [3.0, 12.0, 36.0]}
    with pytest.raises(CohortError, match="unit of the ages is not clear") as error:
        people(ColumnMap(age=name), **babies)
    assert name in str(error.value)
    said = people(ColumnMap(age=name, age_unit="months"), **babies)
    np.testing.assert_allclose(said.scans["age"], [0.25, 1, 3])


def test_the_scan_age_of_newborns_is_not_recognised_as_years() -> None:
    assert people(participant_id=["a", "b"], scan_age=[41.3, 39.0]).scans["age"].isna().all()
    named = people(ColumnMap(age="scan_age"), participant_id=["a", "b"], scan_age=[41.3, 39.0])
    assert named.scans["age"].tolist() == [41.3, 39.0]


@pytest.mark.parametrize("codes", [{"1": "M", "2": "F"}, {"1.0": "M", "2.0": "F"}])
def test_codes_of_sex_are_understood_with_and_without_decimals(codes: dict[str, str]) -> None:
    for column in (["1.0", "2.0", "unknown"], [1.0, 2.0, np.nan], ["1", "2", "U"]):
        found = people(ColumnMap(sex_codes=codes), participant_id=["a", "b", "c"], sex=column)
        assert found.scans["sex"].tolist() == ["M", "F", "U"]


def test_one_slip_in_a_large_table_costs_one_scan_and_codes_for_missing_are_named() -> None:
    ids = [f"s{i}" for i in range(100)]
    found = people(participant_id=ids, age=[*[30.0] * 99, 300.0])
    assert [refusal.reason for refusal in found.account.refusals] == ["its age of 300 years is impossible"]
    with pytest.raises(CohortError, match="codes for a missing age"):
        people(participant_id=ids, age=[*[30.0] * 95, *[999.0] * 5])


def test_no_diagnosis_is_a_diagnosis() -> None:
    found = people(participant_id=["a", "b", "c"], dx=["None", "MDD", None])
    assert found.scans["diagnosis"].tolist() == ["None", "MDD", ""]


def test_somebody_who_changes_sex_between_sessions_is_noted() -> None:
    found = people(
        participant_id=["a", "a", "b", "b"], session=["1", "2", "1", "2"], sex=["M", "F", "F", None]
    )
    assert len(found.scans) == 4
    assert "people.tsv: 1 people are F in one scan and M in another: a" in found.account.notes


def test_a_further_column_never_takes_the_name_of_another() -> None:
    found = people(
        ColumnMap(site="centre"), participant_id=["a"], centre=["x"], site=[3], original_site=[4]
    )
    assert found.scans.columns.is_unique
    row = found.scans.iloc[0]
    assert (row["site"], row["original_site"], row["original_site_2"]) == ("x", 4, 3)


def test_repetitions_are_compared_in_all_columns_at_once() -> None:
    frame = pd.DataFrame(np.ones((400, 2000)), columns=[f"lh_{i}_area" for i in range(2000)])
    frame.insert(0, "participant_id", [f"s{i // 2}" for i in range(400)])
    frame.loc[7, "lh_5_area"] = 2.0
    started = time.perf_counter()
    found = read_people(frame, ColumnMap(), source="t")
    assert time.perf_counter() - started < 5
    assert [refusal.participant_id for refusal in found.account.refusals] == ["s3"]
    assert "they differ in lh_5_area)" in found.account.refusals[0].reason
    assert len(found.scans) == 199


def test_years_of_birth_and_bins_are_called_what_they_are() -> None:
    with pytest.raises(CohortError, match="years of birth"):
        people(ColumnMap(age="year_of_birth"), participant_id=["a", "b"], year_of_birth=[1987, 1975])
    with pytest.raises(CohortError, match="no age is a number: '55-60'"):
        people(participant_id=["a", "b"], age=["55-60", "60-65"])


def test_words_for_sex_become_codes_and_unknown_ones_are_noted() -> None:
    words = ["m", "Male", "MAN", "boy", "F", "female", "Woman", "girl", "O", "unknown", None, "x"]
    found = people(participant_id=[f"s{i}" for i in range(12)], sex=words)
    assert "".join(found.scans["sex"]) == "MMMMFFFFUUUU"
    assert "unknown for 4 of 12" in found.account.notes[0]


def test_sex_codes_must_be_explained_all_of_them() -> None:
    ids = ["a", "b", "c"]
    with pytest.raises(CohortError, match=r"'2' \(2\), '1' \(1\)") as error:
        people(participant_id=ids, sex=[1, 2, 2])
    assert "--sex-codes 1=?,2=? with F, M or U (unknown) for each ?" in str(error.value)
    with pytest.raises(CohortError, match=r"'2' \(2\)") as error:
        people(ColumnMap(sex_codes={"1": "M"}), participant_id=ids, sex=[1, 2, 2])
    assert "--sex-codes 1=M,2=? with" in str(error.value)
    with pytest.raises(UsageError, match="no sex"):
        people(ColumnMap(sex_codes={"1": "M", "2": "banana"}), participant_id=ids, sex=[1, 2, 2])
    found = people(
        ColumnMap(sex_codes={"1": "male", "2.0": "F"}), participant_id=ids, sex=[1.0, 2.0, np.nan]
    )
    assert found.scans["sex"].tolist() == ["M", "F", "U"]


def test_two_ages_for_one_person_refuse_every_row_of_that_person_and_say_so_once() -> None:
    found = people(participant_id=["a", "b", "a"], age=[53.8, 20, 58.7])
    assert found.scans["participant_id"].tolist() == ["b"]
    assert [refusal.reason for refusal in found.account.refusals] == ["sub-a has two ages: 53.8 and 58.7"]


def test_a_scan_whose_rows_are_refused_for_different_reasons_is_listed_once_with_all_of_them() -> None:
    found = people(participant_id=["a", "a", "b", "", ""], age=["89+", "old", "20", "30", "40"])
    assert found.scans["participant_id"].tolist() == ["b"]
    assert [(refusal.participant_id, refusal.reason) for refusal in found.account.refusals] == [
        ("a", "its age is '89+', which is not a number; its age is 'old', which is not a number"),
        ("(row 4)", "the row has no participant id"),
        ("(row 5)", "the row has no participant id"),
    ]


def test_a_row_that_is_said_twice_is_kept_once_with_a_note() -> None:
    found = people(participant_id=["a", "b", "a"], age=[53.8, 20, 53.8 + 1e-8], sex=["M", "F", "M"])
    assert found.scans["participant_id"].tolist() == ["a", "b"]
    assert not found.account.refusals
    assert "kept once" in found.account.notes[0]


def test_repeated_rows_that_differ_elsewhere_are_refused_unless_a_session_tells_them_apart() -> None:
    table = {"participant_id": ["a", "a"], "age": [20.0, 20.0], "wave": ["1", "2"], "lh_x": [2.0, 3.0]}
    found = people(**table)
    assert len(found.scans) == 0
    assert "session" in found.account.refusals[0].reason
    assert len(people(ColumnMap(session="wave"), **table).scans) == 2


def test_a_row_without_identity_is_refused_by_its_number() -> None:
    found = people(participant_id=["a", None], age=[20.0, 21.0])
    assert found.account.refusals[0].participant_id == "(row 2)"
    assert found.scans["participant_id"].tolist() == ["a"]


def test_further_columns_are_carried_and_never_lost_behind_a_standard_name() -> None:
    found = people(
        ColumnMap(site="siteXacq"),
        participant_id=["a"],
        siteXacq=["12"],
        site=[3.0],
        DX_GROUP=[1],
        Euler=[-4],
    )
    assert tuple(found.scans.columns[: len(SCAN_COLUMNS)]) == SCAN_COLUMNS
    row = found.scans.iloc[0]
    assert (row["site"], row["siteXacq"], row["original_site"]) == ("12", "12", 3.0)
    assert (row["diagnosis"], row["DX_GROUP"], row["Euler"]) == ("1", 1, -4)


def test_the_sidecar_of_a_bids_table_states_the_unit(tmp_path: Path) -> None:
    table = tmp_path / "participants.tsv"
    for units, expected in (("months", "months"), ("Years, rounded", "years"), ("", None)):
        (tmp_path / "participants.json").write_text(f'{{"age": {{"Units": "{units}"}}}}')
        assert age_unit_of_sidecar(table, "age") == expected
    for stated in ('"Units": "weeks"', '"Units": "arbitrary"', '"Description": "Age in months"'):
        (tmp_path / "participants.json").write_text(f'{{"Age": {{{stated}}}}}')
        with pytest.raises(CohortError, match="unit of the ages is not clear"):
            age_unit_of_sidecar(table, "age")
    (tmp_path / "participants.json").write_text('{"age": {"Description": "Years, months dropped"}}')
    assert age_unit_of_sidecar(table, "age") is None
    (tmp_path / "participants.json").write_text('{"age": {"Units": "months"}}')
    assert age_unit_of_sidecar(tmp_path / "participants.tsv.gz", "age") == "months"
    (tmp_path / "participants.json").write_text("{ not json")
    assert age_unit_of_sidecar(table, "age") is None


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([20.0, 30.0, np.nan])), max_size=12))
@settings(max_examples=100, deadline=None)
def test_every_row_is_a_scan_a_refusal_or_a_repetition(rows: list[tuple[int, float]]) -> None:
    frame = pd.DataFrame({"participant_id": [f"s{i}" for i, _ in rows], "age": [age for _, age in rows]})
    found = read_people(frame, ColumnMap(), source="t")
    assert not found.scans.duplicated(list(IDENTITY)).any()
    refused = {refusal.participant_id for refusal in found.account.refusals}
    kept = set(found.scans["participant_id"])
    assert kept.isdisjoint(refused)
    assert kept | refused == set(frame["participant_id"])
    for _, group in frame.groupby("participant_id"):
        consistent = group["age"].nunique(dropna=False) == 1
        assert (group["participant_id"].iloc[0] in kept) == consistent
    for scan, row in enumerate(found.rows.tolist()):
        assert found.scans["participant_id"][scan] == frame["participant_id"][row]
        np.testing.assert_equal(found.scans["age"][scan], frame["age"][row])


@pytest.mark.real
def test_ixi_has_two_people_with_two_ages_and_repeats_23_others(real_data: Path) -> None:
    frame = read_table(real_data / "ixi_smri" / "IXI_age_gender.csv", ["participant_id"])
    found = read_people(frame, ColumnMap(sex_codes={"1": "M", "2": "F"}), source="IXI_age_gender.csv")
    assert len(found.scans) == 563
    assert {refusal.participant_id for refusal in found.account.refusals} == {"IXI219", "IXI328"}
    assert "23 scans are listed more than once" in found.account.notes[0]


@pytest.mark.real
def test_top_coded_ages_cost_their_scans_only(real_data: Path) -> None:
    folder = real_data / "format_samples" / "participants"
    frame = read_table(folder / "genetics_ukbb" / "participants.tsv")
    found = read_people(frame, ColumnMap(), source="participants.tsv")
    assert len(found.scans) == 10
    assert all("'89+'" in refusal.reason for refusal in found.account.refusals)
    bins = read_table(folder / "ds000221" / "participants.tsv")
    with pytest.raises(CohortError, match="no age is a number"):
        read_people(bins, ColumnMap(age="age (5-year bins)"), source="participants.tsv")
