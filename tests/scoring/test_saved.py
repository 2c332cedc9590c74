"""What a scoring run left, read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scored_tables import not_scored, score_table, sidecar, written

from hpc_brainage.errors import ScoringError
from hpc_brainage.files import read_json, write_json
from hpc_brainage.scoring.saved import read_contributions, read_scores
from hpc_brainage.scoring.table import COLUMNS, SCHEMA, SITE_COLUMNS, Column, write_table

HEAD = "role\tfeature\tgroup\tmean_contribution_years\tmean_absolute_contribution_years\tn\n"


def test_any_of_the_files_names_the_scores(tmp_path: Path) -> None:
    table = score_table(30)
    out = written(tmp_path, table)
    for name in (out, out.with_suffix(".parquet"), out.with_suffix(".json")):
        read = read_scores(name)
        assert read.name == out.name
        assert read.about["model"]["name"] == "planted"
        pd.testing.assert_frame_equal(read.table, table, check_dtype=False)
    assert read_contributions(out) is None


@pytest.mark.parametrize("suffix", ["", ".parquet", ".tsv"])
def test_a_saved_table_reads_as_it_was(tmp_path: Path, suffix: str) -> None:
    table = score_table(5)
    table.loc[0, "participant_id"], table.loc[1, "site"] = "=1+1", "NA"
    table["age"] = table["age"].round(2)
    table.loc[2, "age"] = np.nan
    write_table(table, tmp_path / "a", {"summary": {"scans": 5}})
    again = read_scores(Path(f"{tmp_path / 'a'}{suffix}"))
    assert again.name == "a"
    assert again.about["columns"]
    columns = ["participant_id", "session_id", "age", "site", "status", "in_training"]
    pd.testing.assert_frame_equal(again.table[columns], table[columns], check_dtype=False)


def complete(table: pd.DataFrame, columns: dict[str, Column] = SCHEMA) -> pd.DataFrame:
    """The table with all these columns, empty where it had none."""
    empty: dict[str, Any] = {
        "text": "",
        "number": np.nan,
        "truth": pd.array([pd.NA] * len(table), dtype="boolean"),
    }
    return table.assign(**{name: empty[c.kind] for name, c in columns.items() if name not in table})


def uncorrected() -> pd.DataFrame:
    return complete(score_table(6).assign(bias_method="none", bias_fit="", bag_corrected=np.nan))


def calibrated() -> pd.DataFrame:
    said = ["28 local controls", "", "none: the model knows the site"] * 2
    number = [1.5, np.nan, np.nan] * 2
    return complete(score_table(6).assign(site_calibration=said, site_offset=number), COLUMNS)


def nobody() -> pd.DataFrame:
    return complete(not_scored(score_table(6), list(range(6))).assign(bias_fit=""))


@pytest.mark.parametrize("make", [uncorrected, calibrated, nobody])
def test_the_tsv_reads_as_the_parquet_file_does(make: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    of_cohort: dict[str, Any] = {
        "code": ["007", "", "1e5", "NA", "True", "'=1+1"], "note": "", "iq": [99.0, np.nan, -1, 0, 5, 7.5],
        "=name": "=1+1", "unknown": np.nan, "smokes": [True, False] * 3,
        "drinks": pd.array([True, None, False] * 2, dtype="boolean"), "none": [None] * 6,
    }  # fmt: skip
    write_table(make().assign(**of_cohort), tmp_path / "a", {"summary": {"scans": 6}})
    parquet, tsv = (read_scores(tmp_path / f"a{suffix}").table for suffix in (".parquet", ".tsv"))
    parquet["none"] = ""  # of texts
    pd.testing.assert_frame_equal(tsv, parquet, check_dtype=False, rtol=1e-5)
    assert all(isinstance(text, str) for text in tsv["bias_fit"])
    assert tsv["code"].tolist() == of_cohort["code"]
    again = read_scores(tmp_path / "a.tsv").scored
    assert len(again) == (parquet["status"] == "scored").sum()
    for name, column in COLUMNS.items():
        if name in SCHEMA or (name in SITE_COLUMNS and make is calibrated):
            assert pd.api.types.is_string_dtype(tsv[name]) == (column.kind == "text"), name


def test_a_cohort_s_column_of_which_nothing_says_what_it_holds_is_text(tmp_path: Path) -> None:
    paths = write_table(score_table(3).assign(code="007"), tmp_path / "a", {"summary": {"scans": 3}})
    about = read_json(paths["json"])
    del about["column_kinds"]
    write_json(paths["json"], about)
    table = read_scores(paths["tsv"]).table
    assert table["code"].tolist() == ["007"] * 3
    assert table["brain_age"].dtype == float
    assert table["in_training"].dtype == bool


def test_a_table_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="there is no score table"):
        read_scores(tmp_path / "nothing")
    (tmp_path / "other.tsv").write_text("participant_id\tage\n01\t30\n")
    with pytest.raises(ScoringError, match="not a score table") as raised:
        read_scores(tmp_path / "other")
    assert "brain_age" in str(raised.value)
    with pytest.raises(ScoringError, match="more than once"):
        read_scores(written(tmp_path, pd.concat([score_table(2)] * 2, ignore_index=True)))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    table = score_table(30)
    with pytest.raises(ScoringError, match="about 29 scans, the table has 30"):
        read_scores(written(tmp_path, table, sidecar(table.head(29))))
    with pytest.raises(ScoringError, match="version 99"):
        read_scores(written(tmp_path, table, sidecar(table) | {"schema_version": 99}))
    out = written(tmp_path, table.drop(columns="flags"))
    with pytest.raises(ScoringError, match="also the columns flags"):
        read_scores(out)
    written(tmp_path, table)
    write_json(out.with_suffix(".json"), ["not", "a", "sidecar"])
    with pytest.raises(ScoringError, match="version None"):
        read_scores(out)
    out.with_suffix(".json").unlink()
    with pytest.raises(ScoringError, match="no sidecar"):
        read_scores(out)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_of_a_file_that_was_cut_it_is_said_what_to_do(tmp_path: Path, suffix: str) -> None:
    out = written(tmp_path, score_table(30))
    file = out.with_suffix(suffix)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ScoringError) as raised:
        read_scores(out)
    assert raised.value.where == str(file)
    assert raised.value.expected
    assert "score the store again" in str(raised.value.hint)


@pytest.mark.parametrize("version", [1, 2])
def test_a_table_of_an_earlier_version_gets_the_present_names(tmp_path: Path, version: int) -> None:
    table = score_table(30).assign(in_training=[True] + 29 * [False])
    before = table.rename(columns={"in_training": "held_out"})
    out = written(tmp_path, before, sidecar(before) | {"schema_version": version})
    pd.testing.assert_frame_equal(read_scores(out).table, table, check_dtype=False)


@pytest.mark.parametrize("suffix", ["", ".tsv"])
def test_the_tsv_of_an_earlier_version_has_its_truths(tmp_path: Path, suffix: str) -> None:
    table = score_table(4).assign(in_training=[True, False, False, True])
    out = written(
        tmp_path, (before := table.rename(columns={"in_training": "held_out"})),
        sidecar(before) | {"schema_version": 2},
    )  # fmt: skip
    before.to_csv(out.with_suffix(".tsv"), sep="\t", index=False)
    assert read_scores(Path(f"{out}{suffix}")).table["in_training"].tolist() == [True, False, False, True]


def test_an_early_table_is_said_to_be_one(tmp_path: Path) -> None:
    table = score_table(4).drop(columns="split")
    with pytest.raises(ScoringError, match="score table of an early version 1") as raised:
        read_scores(written(tmp_path, table, sidecar(table) | {"schema_version": 1}))
    assert "score the store again" in str(raised.value)
    assert "split" in str(raised.value)


def test_contributions_are_read_as_they_stand(tmp_path: Path) -> None:
    out = written(tmp_path, score_table(30))
    file = tmp_path / "scores_contributions.tsv"
    file.write_text(HEAD + "smri\tNA\t'=x\t0.5\t\t30\n")
    found = read_contributions(out)
    assert found is not None
    assert found.iloc[0]["feature"] == "NA"
    assert found.iloc[0]["group"] == "=x"
    assert found.iloc[0]["mean_contribution_years"] == 0.5
    assert np.isnan(found.iloc[0]["mean_absolute_contribution_years"])
    file.write_text("feature\tx\na\t1\n")
    with pytest.raises(ScoringError, match="lack the columns role, group"):
        read_contributions(out)
