from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.feature_choice import choose_features
from hpc_brainage.cohorts.feature_table import features_from_table
from hpc_brainage.cohorts.tables import read_table
from hpc_brainage.errors import CohortError

IDS = ["a", "b", "c", "d"]


def cohort(
    columns: ColumnMap | None = None, declared: bool = False, patterns: str | None = None, **table: Any
) -> Cohort:
    return features_from_table(
        pd.DataFrame({"participant_id": IDS, **table}),
        columns or ColumnMap(),
        source="fs.csv",
        role="smri",
        name="fs",
        declared=declared,
        patterns=patterns,
    )


def loaded(found: Cohort) -> np.ndarray:
    source = found.sources["smri/fs"]
    return np.stack([source.load(row) for row in range(len(found))])


def noted(found: Cohort, words: str) -> str:
    (note,) = [note for note in found.account.notes if words in note]
    return note


def test_brain_names_are_features_and_other_numbers_are_carried_along() -> None:
    found = check_cohort(
        lambda: cohort(
            age=[20.0, 30, 40, 50],
            lh_x_thickness=[2.0, 2.5, 3, 2],
            fiq=[100, 90, 80, 110],
            rh_x_area=[900, 800, 700, 650],
        )
    )
    modality = found.sources["smri/fs"].modality
    assert modality.features == ("lh_x_thickness", "rh_x_area")
    assert modality.units == ("mm", "mm2")
    np.testing.assert_array_equal(loaded(found), [[2, 900], [2.5, 800], [3, 700], [2, 650]])
    assert found.scans["fiq"].tolist() == [100, 90, 80, 110]
    assert "fiq" in noted(found, "carried along")


def test_a_table_without_brain_names_is_a_cohort_of_people() -> None:
    found = cohort(age=[20.0, 30, 40, 50], iq=[1, 2, 3, 4])
    assert found.sources == {}
    assert "iq" in found.scans


def test_a_table_given_as_measurements_gives_all_numbers_that_are_not_about_people() -> None:
    table = {"roi_1": [1.0, 2, 3, 4], "roi_2": [4.0, 3, 2, 1], "mean_FD": [0.1, 0.2, 0.3, 0.4]}
    assert cohort(**table).sources == {}
    found = cohort(declared=True, **table)
    assert found.sources["smri/fs"].modality.features == ("roi_1", "roi_2")
    assert "mean_FD" in noted(found, "carried along")


def test_patterns_choose_exactly_the_columns_that_they_match() -> None:
    table = {"lh_x_thickness": [2.0, 3, 2, 3], "my_index": [1.0, 2, 3, 4]}
    assert cohort(patterns="my_*", **table).sources["smri/fs"].modality.features == ("my_index",)
    assert cohort(patterns="none_*", **table).sources["smri/fs"].modality.features == ("lh_x_thickness",)


def test_text_in_a_number_column_costs_that_scan_and_names_column_and_value() -> None:
    found = cohort(lh_x_thickness=["2.5", "oops", np.nan, "3"], lh_y_thickness=[2.0, 2, 2.5, 3])
    (refusal,) = found.account.refusals
    assert (refusal.participant_id, refusal.source) == ("b", "fs.csv")
    assert "lh_x_thickness" in refusal.reason
    assert "'oops'" in refusal.reason
    assert found.scans["participant_id"].tolist() == ["a", "c", "d"]
    np.testing.assert_array_equal(loaded(found)[:, 0], [2.5, np.nan, 3])


def test_a_column_of_mostly_text_is_no_measurement() -> None:
    found = cohort(lh_comment=["x", "y", "3", np.nan], lh_y_thickness=[2.0, 2, 2.5, 3])
    assert found.sources["smri/fs"].modality.features == ("lh_y_thickness",)
    assert not found.account.refusals
    assert "lh_comment" in noted(found, "mostly text")
    assert "lh_comment" in found.scans


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_an_infinite_value_costs_the_scan(value: float) -> None:
    found = cohort(lh_y_thickness=[2.0, value, 2.5, 3])
    assert [refusal.participant_id for refusal in found.account.refusals] == ["b"]
    assert "lh_y_thickness is infinite" in found.account.refusals[0].reason


def test_a_region_of_exactly_zero_is_missing_but_what_may_be_empty_is_not() -> None:
    found = cohort(
        **{
            "lh_x_thickness": [2.0, 0.0, 2.5, 3.0],
            "Left-Hippocampus": [4000.0, 0.0, 3900.0, 4100.0],
            "Left-vessel": [0.0, 12.0, 0.0, 30.0],
            "lh_x_meancurv": [0.0, 0.1, 0.1, 0.2],
        }
    )
    values = loaded(found)
    assert np.isnan(values[1, :2]).all()
    np.testing.assert_array_equal(values[:, 2], [0, 12, 0, 30])
    assert values[0, 3] == 0
    note = noted(found, "exactly 0")
    assert note.startswith("fs.csv: 2 values")
    assert "Left-Hippocampus (1)" in note


def test_zero_means_missing_whoever_else_is_in_the_table() -> None:
    everyone = cohort(
        lh_x_thickness=[0.0] * 4, lh_y_thickness=[2.0, 2.1, 2.2, 0.0], **{"Left-vessel": [0] * 4}
    )
    np.testing.assert_array_equal(np.isnan(loaded(everyone)[:, 0]), True)
    assert noted(everyone, "0 for everyone").endswith("1 columns are 0 for everyone: lh_x_thickness")
    np.testing.assert_array_equal(loaded(everyone)[:, 2], 0)
    frame = pd.DataFrame({"id": ["a"], "lh_x_thickness": [0.0], "lh_y_thickness": [2.0]})
    alone = features_from_table(frame, ColumnMap(), source="one.csv", role="smri", name="fs")
    np.testing.assert_array_equal(loaded(alone), [[np.nan, 2]])


def test_sizes_below_zero_are_kept_with_a_word() -> None:
    found = cohort(lh_cuneus_area=[1.0, -999.0, 3.0, 4.0], lh_cuneus_meancurv=[-0.1, 0.1, 0.2, -0.2])
    assert loaded(found)[1, 0] == -999.0
    note = noted(found, "below 0")
    assert "1 thicknesses, areas or volumes below 0 in 1 scans" in note
    assert "-999" in note
    assert "lh_cuneus_area" in note
    assert "meancurv" not in note


def test_columns_that_say_nothing_are_reported_and_kept() -> None:
    found = cohort(
        lh_x_thickness=[2.0, 2.1, 2.2, 2.3],
        lh_y_thickness=[2.0, np.nan, np.nan, np.nan],
        **{"Left-WM-hypointensities": [0, 0, 0, 0], "lh_z_curv": [0.5, 0.5, 0.5, 0.5]},
    )
    assert len(found.sources["smri/fs"].modality.features) == 4
    assert "Left-WM-hypointensities" in noted(found, "the same for everyone")
    assert "lh_z_curv" in noted(found, "the same for everyone")
    assert "lh_y_thickness" in noted(found, "missing in most scans")


def test_a_roi_without_a_signal_is_noted_as_it_is_of_time_series() -> None:
    rois = ["a", "b", "c", "d"]
    edges = {f"{x}--{y}": [0.1, 0.2, 0.3, 0.4] for i, x in enumerate(rois) for y in rois[i + 1 :]}
    assert not any("no signal" in note for note in cohort(**edges).account.notes)
    for name in edges:
        if "d" in name:
            edges[name] = [np.nan, 0.0, 0.3, np.nan]
        edges[name][3] = np.nan  # nothing of the last scan: it has no connectome, and no dead ROI
    edges["a--b"][2] = np.nan
    note = noted(cohort(**edges), "no signal")
    assert note == (
        "fs.csv: in 2 of 3 scans a ROI has no signal: its edges are missing or 0 (ROIs concerned: 1; "
        "most often d in 2)"
    )


def test_regions_get_their_usual_names_and_a_note_says_how_many_did() -> None:
    found = cohort(
        **{
            "lh_bankssts_ThickAvg": [2.0, 2.1, 2.2, 2.3],
            "rh-insula_gray_matter_volume_mm^3": [5000.0, 0, 5200, 5300],
            "Left-Hippocampus_Volume_mm3": [4000.0, 4100, 4200, 4300],
            "Left-Accumbens-area": [500.0, 510, 520, 530],
        }
    )
    modality = found.sources["smri/fs"].modality
    assert modality.features == (
        "lh_bankssts_thickness", "rh_insula_volume", "Left-Hippocampus", "Left-Accumbens-area"
    )  # fmt: skip
    assert modality.units == ("mm", "mm3", "mm3", "mm3")
    assert np.isnan(loaded(found)[1, 1])
    assert noted(found, "renamed") == (
        "fs.csv: 3 columns renamed: lh_bankssts_ThickAvg -> lh_bankssts_thickness, "
        "rh-insula_gray_matter_volume_mm^3 -> rh_insula_volume, "
        "Left-Hippocampus_Volume_mm3 -> Left-Hippocampus"
    )


@pytest.mark.parametrize("pattern", ["*_ThickAvg", "lh_*_thickness"])
def test_patterns_match_a_region_by_the_name_in_the_table_and_by_its_usual_one(pattern: str) -> None:
    table = {"lh_bankssts_ThickAvg": [2.0, 2.1, 2.2, 2.3], "lh_bankssts_SurfArea": [900.0, 910, 920, 930]}
    found = cohort(patterns=pattern, **table)
    assert found.sources["smri/fs"].modality.features == ("lh_bankssts_thickness",)
    assert found.recipe == {"columns_by_pattern": 1}


def test_a_scan_without_any_value_does_not_have_the_modality() -> None:
    found = cohort(lh_x_thickness=[2.0, np.nan, 2.2, 0.0])
    assert found.sources["smri/fs"].present.tolist() == [True, False, True, False]
    assert "2 of 4 scans" in noted(found, "no value in any feature")


def test_intensities_of_a_segmentation_are_not_called_volumes() -> None:
    frame = pd.DataFrame({"Measure:mean": IDS, "Left-vessel": [1.0, 2, 3, 0], "CSF": [40.0, 0, 41, 43]})
    found = features_from_table(
        frame, ColumnMap(), source="aseg.tsv", role="smri", name="fs", declared=True
    )
    modality = found.sources["smri/fs"].modality
    assert modality.features == ("Left-vessel_mean", "CSF_mean")
    assert modality.units == ("", "")
    assert loaded(found)[1, 1] == 0


def test_a_table_on_its_side_is_refused_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "aseg.txt"
    path.write_text("Measure:volume\tM871\nLeft-Caudate\t3400\nCSF\t900\nBrain-Stem\t21000\n")
    with pytest.raises(CohortError, match="lies on its side"):
        features_from_table(read_table(path), ColumnMap(), source=path.name, role="smri", name="fs")


def test_choosing_is_the_same_for_any_order_of_the_columns() -> None:
    frame = pd.DataFrame({"lh_a_area": [1.0], "fiq": [1.0], "rh_b_area": [2.0], "x": ["word"]})
    for order in (list(frame), list(frame)[::-1]):
        chosen = choose_features(frame[order], [], source="t")
        assert set(chosen.features) == {"lh_a_area", "rh_b_area"}
