"""The score table as it is written: what it calls a cohort's columns, and texts a spreadsheet would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_tables import score_table

from hpc_brainage.files import read_json
from hpc_brainage.scoring.table import (
    COLUMNS,
    SCHEMA,
    cohort_names,
    spreadsheet_safe,
    without_escape,
    write_table,
)


def test_a_cohort_s_columns_keep_their_names_unless_the_table_has_them() -> None:
    assert cohort_names(["iq", "reason", "site_offset"]) == {
        "iq": "iq",
        "reason": "cohort_reason",
        "site_offset": "cohort_site_offset",
    }


@pytest.mark.parametrize("columns", [["reason", "cohort_reason"], ["cohort_reason", "reason"]])
def test_a_name_that_the_cohort_has_already_is_not_given_again(columns: list[str]) -> None:
    names = cohort_names([*columns, "cohort_reason_2"])
    assert names["cohort_reason"] == "cohort_reason"
    assert names["cohort_reason_2"] == "cohort_reason_2"
    assert names["reason"] == "cohort_reason_3"


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(list(COLUMNS)), st.sampled_from(["", "_2", "_3"])),
        unique=True,
    )
)
@settings(deadline=None, max_examples=100)
def test_no_two_columns_get_one_name(parts: list[tuple[int, str, str]]) -> None:
    columns = ["cohort_" * times + name + end for times, name, end in parts]
    names = cohort_names(columns)
    assert len(set(names.values())) == len(columns)
    assert not set(names.values()) & set(COLUMNS)


@given(st.text(alphabet="'=+-@\t\ra7", max_size=6))
@settings(deadline=None, max_examples=100)
def test_every_text_comes_back_from_its_safe_form(text: str) -> None:
    safe = spreadsheet_safe(text)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert without_escape(safe) == text


def test_the_sidecar_says_what_each_column_holds_and_means(tmp_path: Path) -> None:
    table = score_table(5).assign(code="007", iq=100.0, smokes=True)
    write_table(table, tmp_path / "a", {"summary": {"scans": 5}})
    about = read_json(tmp_path / "a.json")
    assert list(about["column_kinds"]) == list(table)
    assert [about["column_kinds"][name] for name in ("code", "iq", "smokes", "age", "in_training")] == [
        "text", "number", "truth", "number", "truth",
    ]  # fmt: skip
    assert about["columns"]["bag"] == SCHEMA["bag"].meaning
    assert about["columns"]["iq"] == "a column of the cohort, as in the store"
