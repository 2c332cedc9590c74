"""Identities, and which scans a selection means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import UsageError
from hpc_brainage.scans import SCAN_COLUMNS, scan_name, scan_names, select_scans


@pytest.fixture(scope="module")
def scans() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "participant_id": ["000000000001", "02", "03", "04"],
            "session_id": ["", "1", "1", "2"],
            "run": ["", "", "2", ""],
            "age": [10.5, np.nan, 40.0, 71.0],
            "sex": ["F", "M", "U", "F"],
            "site": ["NYU", "a@b #1__x", "it's (B)", ""],
            "split": "",
            "diagnosis": ["TC", "ASD", "TC", ""],
            "full scale IQ": [100.0, 90.0, np.nan, 120.0],
            "scanned": [True, False, True, True],
        }
    )


def test_identities_are_spelt_as_in_bids(scans: pd.DataFrame) -> None:
    assert scan_names(scans) == ["sub-000000000001", "sub-02_ses-1", "sub-03_ses-1_run-2", "sub-04_ses-2"]
    assert scan_name("7", run="1") == "sub-7_run-1"


def test_no_selection_means_every_scan(scans: pd.DataFrame) -> None:
    assert select_scans(scans, None).tolist() == [True] * 4


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("diagnosis == 'TC' and age >= 18", [0, 0, 1, 0]),
        ("participant_id == '000000000001'", [1, 0, 0, 0]),
        ("age in [10.5, 71]", [1, 0, 0, 1]),
        ("sex == ['F', 'M']", [1, 1, 0, 1]),
        ("`full scale IQ` > 95", [1, 0, 0, 1]),
        ("scanned", [1, 0, 1, 1]),
        ("not scanned", [0, 1, 0, 0]),
        ("site.str.startswith('N')", [1, 0, 0, 0]),
        ("site == ''", [0, 0, 0, 1]),
        ("age.isna()", [0, 1, 0, 0]),
        ("age.between(10, 40)", [1, 0, 1, 0]),
    ],
)
def test_a_selection_picks_the_rows_for_which_it_holds(
    where: str, chosen: list[int], scans: pd.DataFrame
) -> None:
    assert select_scans(scans, where).tolist() == [bool(c) for c in chosen]


@pytest.mark.parametrize(
    "where", ["age > 0", "age < 200", "age == age", "age <= 71", "age.between(0, 200)"]
)
def test_an_unknown_age_does_not_match_a_comparison(where: str, scans: pd.DataFrame) -> None:
    assert select_scans(scans, where).tolist() == [True, False, True, True]


def test_an_unknown_age_is_unequal_to_every_age(scans: pd.DataFrame) -> None:
    assert select_scans(scans, "age != 40").tolist() == [True, True, False, True]


@pytest.mark.parametrize("site", ["a@b #1__x", "it's (B)"])
def test_what_stands_in_quotes_is_a_value_whatever_it_looks_like(site: str, scans: pd.DataFrame) -> None:
    assert select_scans(scans, f'site == "{site}"').tolist() == (scans["site"] == site).tolist()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("ages > 3", "did you mean 'age'"),
        ("dx == 'TC'", "'dx' is not defined"),
        ("age >", "not understood"),
        ("", "not understood"),
        ("age > 'ten'", "not understood"),
        ("(" * 500 + "age" + ")" * 500, "not understood"),
        ("age > 200", "matches none of the 4 scans"),
        ("age", "yes or no"),
        ("site", "yes or no"),
        ("age = 3", "yes or no"),
        ("1 == 1", "yes or no"),
        ("True", "yes or no"),
    ],
)
def test_a_selection_that_is_none_says_what_is_wrong_and_repeats_it(
    where: str, message: str, scans: pd.DataFrame
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        select_scans(scans, where)
    assert raised.value.where == f"--where {where!r}"
    assert raised.value.hint or raised.value.expected


def test_a_selection_of_nobody_shows_the_values_of_the_columns_it_names(scans: pd.DataFrame) -> None:
    further = scans.assign(dx=["TC", "TC", "ASD", ""], fiq=np.nan, **{"the site": "tc"})
    for where, hint in {
        "dx == 'tc'": "dx is 'TC' (2), 'ASD' (1), '' (1)",
        'dx == "tc" and `the site` == "age"': "dx is 'TC' (2), 'ASD' (1), '' (1); the site is 'tc' (4)",
    }.items():
        with pytest.raises(UsageError) as raised:
            select_scans(further, where)
        assert raised.value.hint == hint
    many = pd.DataFrame({"age": np.arange(20.0), "site": [f"s{i}" for i in range(20)]})
    with pytest.raises(UsageError) as raised:
        select_scans(many, "age > 200 or site == 'NYU'")
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("age is from 0 to 19; site is 's0' (1), ")
    assert raised.value.hint.endswith("... 20 in all")


@pytest.mark.parametrize(
    "where",
    [
        "@pd.read_pickle('x')",
        "age > @limit",
        "age.__class__",
        "__import__('os')",
        "age > 3\nage.to_csv('written')",
        "age > 3; age.to_csv('written')",
        "age > 3 # '\nage.to_csv('written')",
        "age.to_csv('written')",
        "age . to_csv('written')",
        "(age.to_csv)('written')",
        "`it's` > 1 or age.to_csv('written') or site == 'x'",
        "age.to_pickle('written')",
        "age.values.tofile('written')",
        "age.apply('sum')",
        "open('written', 'w')",
        "import os",
        "lambda: 1",
    ],
)
def test_a_selection_can_only_ask(
    where: str, scans: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        select_scans(scans, where)
    assert not list(tmp_path.iterdir())


def test_a_selection_leaves_the_table_as_it_was(scans: pd.DataFrame) -> None:
    before = scans.copy()
    with pytest.raises(UsageError):
        select_scans(scans, "age = 3")
    pd.testing.assert_frame_equal(scans, before)


def test_a_selection_from_no_scans_is_no_scans(scans: pd.DataFrame) -> None:
    assert select_scans(scans.iloc[:0], "age > 3").shape == (0,)


@settings(deadline=None, max_examples=80)
@given(st.text(alphabet="age <>='\"`@#;\n()_.13,NYUsitorand[]", max_size=25))
def test_whatever_is_typed_is_a_selection_or_a_usage_error(where: str) -> None:
    table = pd.DataFrame({name: ["x", "y"] for name in SCAN_COLUMNS} | {"age": [1.0, np.nan]})
    try:
        chosen = select_scans(table, where)
    except UsageError:
        return
    assert chosen.dtype == bool
    assert chosen.any()
