from __future__ import annotations

import pandas as pd
from conversion.synthetic import people

from hpc_brainage.scans import SCAN_COLUMNS
from hpc_brainage.store.people import columns_of, hash_of_table, table_of


def test_a_table_of_scans_survives_the_way_into_arrays_and_back() -> None:
    scans = people(9)
    again = table_of(columns_of(scans))
    expected = scans.assign(scanner=scans["scanner"].fillna("")).astype({"scanner": "str"})
    pd.testing.assert_frame_equal(again, expected, check_dtype=False)
    assert again["age"].dtype == float
    assert again["participant_id"].dtype == "str"


def test_further_columns_get_names_of_their_own_that_cannot_collide() -> None:
    scans = people(3).assign(**{"smri_table": 1.0, "participant id": "x", "FIQ (2)": 2})
    arrays = [column.array for column in columns_of(scans)]
    assert arrays[: len(SCAN_COLUMNS)] == list(SCAN_COLUMNS)
    assert len(set(arrays)) == len(arrays)
    assert all(array.startswith("extra_") for array in arrays[len(SCAN_COLUMNS) :])
    assert arrays[8:10] == ["extra_fiq", "extra_fiq_2"]
    assert "extra_fiq_2_2" in arrays


def test_numbers_stay_numbers_and_long_identifiers_keep_their_digits() -> None:
    scans = people(2).assign(
        whole=[1, 2],
        flag=[True, False],
        gap=pd.array([1, None], dtype="Int64"),
        long=[2**53 + 1, 1],
    )
    table = table_of(columns_of(scans))
    assert table["whole"].tolist() == [1.0, 2.0]
    assert table["flag"].tolist() == [1.0, 0.0]
    assert table["gap"].isna().tolist() == [False, True]
    assert table["long"].tolist() == ["9007199254740993", "1"]


def test_the_hash_of_a_table_changes_with_any_cell() -> None:
    scans = people(6)
    before = hash_of_table(columns_of(scans))
    for column in scans.columns:
        changed = scans.copy()
        changed.loc[4, column] = 17.25 if column in ("age", "FIQ") else "other"
        assert hash_of_table(columns_of(changed)) != before, column
    assert hash_of_table(columns_of(scans.copy())) == before


def test_a_title_that_is_too_long_for_a_folder_is_cut_and_stays_itself() -> None:
    long = "Wie oft in den letzten zwei Wochen " * 9
    scans = people(2).assign(**{long + "A": 1.0, long + "B": 2.0})
    columns = columns_of(scans)[-2:]
    assert all(len(column.array) <= 200 for column in columns)
    assert columns[0].array != columns[1].array
    assert [column.name for column in columns] == [long + "A", long + "B"]
