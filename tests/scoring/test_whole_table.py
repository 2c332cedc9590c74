"""What is done with the whole table: correction by choice, calibration, quality; and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_site_calibration import LINE, local, scored

from hpc_brainage.errors import ScoringError, UsageError
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.scoring.bias import correct_table
from hpc_brainage.scoring.table import SCHEMA, SITE_COLUMNS
from hpc_brainage.scoring.whole_table import WholeTable


def info(lines: dict[str, Any] = LINE) -> ModelInfo:
    """A model's description of which nothing but its bias lines is looked at."""
    return ModelInfo.model_construct(bias=lines)


def table(**columns: Any) -> pd.DataFrame:
    """200 people of a site with an offset of 4 years, a third of them cases with 6 years more."""
    own = correct_table(scored({"new": (200, 4.0, 1.0)}), LINE)
    own["diagnosis"] = np.where(np.arange(200) % 3 == 0, "case", "control")
    own["brain_age"] += np.where(own["diagnosis"] == "case", 6.0, 0.0)
    own["bag"] = own["brain_age"] - own["age"]
    return correct_table(own.assign(flags="site_unseen", extra="x", **columns), LINE)


def test_by_default_the_table_is_as_it_was_with_empty_calibration_and_quality() -> None:
    before = table()
    finished = WholeTable().finish(before, before, info())
    pd.testing.assert_frame_equal(finished.table[list(before.columns)], before)
    assert set(finished.table["qc_status"]) == {""}
    assert not set(finished.table) & set(SITE_COLUMNS)
    assert finished.about["bias"]["fit"] == "held-out training people"
    assert list(finished.about["bias"]["lines"]) == ["everyone"]


def test_columns_of_the_schema_come_first_and_those_of_the_cohort_last() -> None:
    names = list(WholeTable().finish(table(), table(), info()).table.columns)
    known = [name for name in names if name in SCHEMA]
    assert names == [*known, "extra"]
    assert known == [name for name in SCHEMA if name in known]


def test_a_line_fitted_on_the_scored_controls_is_said_everywhere() -> None:
    ask = WholeTable(fit_bias_on_cohort=True, controls="diagnosis == 'control'")
    finished = ask.finish(table(), table(), info())
    assert set(finished.table["bias_fit"]) == {"in_cohort"}
    assert "WARNING" in finished.notes[0]
    controls = finished.table["diagnosis"] == "control"
    corrected = finished.table["bag_corrected"]
    assert abs(corrected[controls].mean()) < 1e-9
    assert abs(np.corrcoef(corrected[controls], finished.table["age"][controls])[0, 1]) < 1e-9
    assert corrected[~controls].mean() == pytest.approx(6.0, abs=1.5)
    assert finished.about["bias"]["fit"] == "in_cohort"
    assert finished.about["bias"]["lines"]["smri"]["n"] == controls.sum()
    pd.testing.assert_series_equal(finished.table["bag"], table()["bag"])


def test_a_line_fitted_on_everybody_takes_out_what_the_study_looks_for() -> None:
    finished = WholeTable(fit_bias_on_cohort=True).finish(table(), table(), info())
    cases = finished.table["diagnosis"] == "case"
    assert finished.table["bag_corrected"][cases].mean() < 4.5


def test_too_few_controls_give_no_line_and_no_table() -> None:
    ask = WholeTable(fit_bias_on_cohort=True, controls="participant_id == 'p1'")
    with pytest.raises(ScoringError, match="cannot be fitted on 1 scans"):
        ask.check(table(), model_sha256="m", store_sha256="s")
    with pytest.raises(ScoringError, match="cannot be fitted on 0 scored scans"):
        ask.finish(table(), table(), info())


def test_cole_is_beheshti_divided_by_the_slope_in_a_table_too() -> None:
    beheshti = WholeTable().finish(table(), table(), info()).table["bag_corrected"]
    cole = WholeTable("cole").finish(table(), table(), info()).table
    np.testing.assert_allclose(cole["bag_corrected"], beheshti / 0.6)
    assert set(cole["bias_method"]) == {"cole"}


def test_a_trend_that_is_left_is_said() -> None:
    lines = {"smri": LINE["everyone"].model_copy(update={"slope": 0.9})}
    notes = WholeTable().finish(table(), table(), info(lines)).notes
    assert "still correlates with age" in notes[0]
    assert "-" not in notes[0].partition(" (")[2], "a minus is no hyphen"
    assert WholeTable("none").finish(table(), table(), info(lines)).notes == ()


def test_a_line_that_few_people_made_is_said_once() -> None:
    few = {"smri": LINE["everyone"].model_copy(update={"n": 28})}
    notes = WholeTable().finish(table(), table(), info(few)).notes
    said = "bag_corrected may be years off: of 200 scans from smri the line stands on 28 scans"
    assert [note for note in notes if "the line" in note] == [said]
    assert WholeTable("none").finish(table(), table(), info(few)).notes == ()


def test_a_calibrated_site_stands_in_table_and_sidecar() -> None:
    ask = WholeTable(local_controls=local({"new": (200, 4.0, 1.0)}))
    finished = ask.finish(table(), table(), info())
    assert any("y taken out of 200 scans" in note for note in finished.notes)
    shift = finished.about["site_calibration"]["around_bias_line"]["new"]["smri"]
    assert shift["controls"] == 200
    assert shift["offset"] == pytest.approx(4.0, abs=1.0)
    controls = finished.table["diagnosis"] == "control"
    assert abs(finished.table["bag_site_calibrated"][controls].mean()) < 1.2
    assert finished.table["bag_corrected"][controls].mean() == pytest.approx(4.0, abs=1.0)


def test_bad_images_are_flagged_beside_other_flags_and_kept() -> None:
    marks = np.full(200, 2.0)
    marks[3], marks[7] = 3.5, 6.0
    finished = WholeTable().finish(table(cat12_IQR=marks), table(), info())
    assert len(finished.table) == 200
    assert finished.table["flags"][3] == "site_unseen;qc_flag"
    assert finished.table["flags"][7] == "site_unseen;qc_fail"
    assert finished.table["flags"][0] == "site_unseen"
    assert finished.about["quality_figures"] == ["cat12_IQR"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (WholeTable(controls="diagnosis == 'control'"), "nothing is fitted"),
        (WholeTable("none", fit_bias_on_cohort=True), "no bias correction to fit"),
        (WholeTable(fit_bias_on_cohort=True, controls="dx == 'TC'"), "not understood"),
        (WholeTable(fit_bias_on_cohort=True, controls="diagnosis == 'TC'"), "matches none"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_scored(ask: WholeTable, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ask.check(table(), model_sha256="m", store_sha256="s")


def test_the_document_has_every_column_of_the_calibration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "score-choices.md").read_text(encoding="utf-8")
    section = re.split(
        "^## ", text.partition("## Sites that the model has not seen\n")[2], flags=re.MULTILINE
    )[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == set(SITE_COLUMNS)


def test_controls_are_chosen_by_the_cohort_s_own_columns() -> None:
    """A column of the cohort that is called like one of the table stands there under another name."""
    scans = table().assign(has_smri=(table()["diagnosis"] == "case").astype(float))
    ask = WholeTable(fit_bias_on_cohort=True, controls="has_smri == 0")
    finished = ask.finish(table(), scans, info())
    controls = finished.table["diagnosis"] == "control"
    assert finished.about["bias"]["lines"]["smri"]["n"] == controls.sum()
