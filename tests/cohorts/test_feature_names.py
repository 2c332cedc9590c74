from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.feature_names import (
    brain_columns,
    connectome_columns,
    is_brain_name,
    is_not_brain_name,
    unit_of,
    zero_is_missing,
)
from hpc_brainage.cohorts.tables import column_names


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("lh_bankssts_thickness", "mm"),
        ("rh_G&S_cingul-Ant_area", "mm2"),
        ("lh_insula_GrayVol", "mm3"),
        ("lh_insula_SurfArea", "mm2"),
        ("lh_insula_ThickAvg", "mm"),
        ("lh_insula_ThickStd", "mm"),
        ("lh_insula_MeanCurv", ""),
        ("L_bankssts_thickavg", "mm"),
        ("Left-Accumbens-area", "mm3"),
        ("Left-Hippocampus", "mm3"),
        ("Left.Hippocampus", "mm3"),
        ("X3rd.Ventricle", "mm3"),
        ("Left-Hippocampus_Volume_mm3", "mm3"),
        ("CC_Mid_Anterior", "mm3"),
        ("eTIV", "mm3"),
        ("BrainSegVol-to-eTIV", ""),
        ("lHip_GM_Vol", ""),
        ("17--210", ""),
    ],
)
def test_brain_names_and_their_units(name: str, unit: str) -> None:
    assert is_brain_name(name)
    assert unit_of(name) == unit


@pytest.mark.parametrize(
    "name",
    ["FIQ", "DX_GROUP", "age_ambiguous", "BMI", "lh_euler", "avg_en", "mean_FD", "SurfaceHoles",
     "handedness", "right_handed", "NEO_N", "raven_score", "parking_area", "func_mean_fd", "n_dead_roi",
     "Unnamed: 0"],
)  # fmt: skip
def test_numbers_about_people_and_images_have_no_brain_names(name: str) -> None:
    assert not is_brain_name(name)


@pytest.mark.parametrize(
    "name", ["FIQ", "lh_euler", "mean_FD", "age_at_scan", "Unnamed: 0", "n_timepoints"]
)
def test_what_is_known_not_to_be_a_measurement(name: str) -> None:
    assert is_not_brain_name(name)
    assert not is_not_brain_name("roi_17")


@pytest.mark.parametrize(
    "name", ["5th-Ventricle", "Left-vessel", "WM-hypointensities", "Right-vessel_Volume_mm3"]
)
def test_structures_that_a_healthy_brain_may_lack_may_be_zero(name: str) -> None:
    assert unit_of(name) == "mm3"
    assert not zero_is_missing(name)
    assert zero_is_missing("Left-Hippocampus")


def test_a_stated_unit_says_more_than_a_name() -> None:
    assert zero_is_missing("wm-lh-insula", "mm3")
    assert not zero_is_missing("wm-lh-insula")
    assert not zero_is_missing("lh_insula_thicknessstd")
    assert not zero_is_missing("lHip_WM_Vol", "cm3")


LABELS = st.lists(
    st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,5}", fullmatch=True), min_size=4, max_size=9, unique=True
)


@given(labels=LABELS, missing=st.integers(0, 35), sign=st.sampled_from("_~:"))
@settings(max_examples=60, deadline=None)
def test_only_all_pairs_of_one_set_of_labels_are_a_connectome(
    labels: list[str], missing: int, sign: str
) -> None:
    edges = [f"{a}{sign}{b}" for a, b in combinations(labels, 2)]
    others = ["mean@FD", "good.time", "age", "1_2"]
    assert connectome_columns([*others, *edges]) == set(edges)
    broken = [edge for place, edge in enumerate(edges) if place != missing % len(edges)]
    assert connectome_columns(broken) == set()


@pytest.mark.real
@pytest.mark.parametrize(
    ("table", "others"),
    [
        ("abide1/smri_freesurfer6.csv.gz", {"file_id"}),
        ("ixi_smri/ixi_joined.csv",
         {"participant_id", "age", "sex", "site", "age_ambiguous", "lh_euler", "rh_euler"}),
        ("fcon1000_smri/fcon1000.csv",
         {"sub_id", "age", "sex", "site", "avg_en", "lhSurfaceHoles", "rhSurfaceHoles", "SurfaceHoles"}),
        ("abide1_males_desikan6/FS_features_ABIDE_males.csv",
         {"FILE_ID", "AGE_AT_SCAN", "SEX", "FIQ", "DX_GROUP"}),
        ("fc_yeo17_ds003798/data_OpenNeuroTransfer_yeo17_tr.csv",
         {"sub_id", "good_time", "num_good_frames", "mean_FD", "age", "sex", "site", "group", "sitenum"}),
    ],
)  # fmt: skip
def test_in_real_tables_exactly_the_brain_is_recognised(
    real_data: Path, table: str, others: set[str]
) -> None:
    names = column_names(real_data / table)
    assert set(names) - brain_columns(names) == others


@pytest.mark.real
def test_no_participants_table_of_the_samples_holds_a_brain(real_data: Path) -> None:
    for path in (real_data / "format_samples" / "participants").rglob("*.tsv"):
        assert brain_columns(column_names(path)) == set(), path.name


def test_the_edges_of_400_regions_are_recognised_at_once() -> None:
    names = [f"r{a}_r{b}" for a, b in combinations(range(400), 2)]
    started = time.perf_counter()
    assert connectome_columns([*names, "mean_FD"]) == set(names)
    assert time.perf_counter() - started < 5
    assert connectome_columns(names[1:]) == set()
