from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.feature_choice import matching_columns
from hpc_brainage.cohorts.freesurfer_names import (
    newest_spelling,
    newest_spellings,
    older_spelling,
    scan_of_subject,
)
from hpc_brainage.cohorts.openbhb_names import DESTRIEUX_REGIONS

RENAMED = {
    "Left-Thalamus-Proper": "Left-Thalamus",
    "Right-Thalamus-Proper*": "Right-Thalamus",
    "lhCorticalWhiteMatterVol": "lhCerebralWhiteMatterVol",
    "CorticalWhiteMatterVol": "CerebralWhiteMatterVol",
    "IntraCranialVol": "EstimatedTotalIntraCranialVol",
    "lh_G&S_cingul-Ant_area": "lh_G_and_S_cingul-Ant_area",
    "rh_S_oc-temp_med&Lingual_thickness": "rh_S_oc-temp_med_and_Lingual_thickness",
}


@pytest.mark.parametrize(("older", "newest"), RENAMED.items())
def test_a_structure_has_the_newest_of_its_names(older: str, newest: str) -> None:
    assert newest_spelling(older) == newest
    assert newest_spelling(newest) == newest
    assert older_spelling(newest) == older.removesuffix("*")


@pytest.mark.parametrize("name", ["Left-Hippocampus", "lh_insula_area", "eTIV", "17--210", "R&D", "age"])
def test_other_names_stay(name: str) -> None:
    assert newest_spelling(name) == older_spelling(name) == name


@pytest.mark.parametrize("region", DESTRIEUX_REGIONS)
def test_every_destrieux_region_has_one_name_in_all_versions(region: str) -> None:
    name = region.replace("-", "_", 1) + "_thickness"
    assert newest_spelling(name) == name
    assert newest_spelling(name.replace("_and_", "&")) == name
    assert newest_spelling(older_spelling(name)) == name


def test_a_table_that_has_both_names_keeps_both() -> None:
    names = ("Left-Thalamus", "Left-Thalamus-Proper", "Right-Thalamus-Proper")
    assert newest_spellings(names) == (
        ("Left-Thalamus", "Left-Thalamus-Proper", "Right-Thalamus"),
        ("Right-Thalamus-Proper",),
    )


NAMES = st.lists(st.sampled_from([*RENAMED, *RENAMED.values(), "CSF", "eTIV"]), unique=True)


@given(names=NAMES)
@settings(max_examples=100, deadline=None)
def test_renaming_never_makes_two_columns_one_and_says_what_it_did(names: list[str]) -> None:
    kept, renamed = newest_spellings(names)
    assert len(set(kept)) == len(names)
    assert [old for old, new in zip(names, kept, strict=True) if old != new] == list(renamed)
    assert all(newest_spelling(old) == newest_spelling(new) for old, new in zip(names, kept, strict=True))


def test_a_pattern_matches_a_structure_by_either_name() -> None:
    columns = ["Left-Thalamus-Proper", "Right-Thalamus", "CSF"]
    assert matching_columns(columns, "Left-Thalamus") == ["Left-Thalamus-Proper"]
    assert matching_columns(columns, "*-Thalamus-Proper") == columns[:2]
    assert matching_columns(columns, "*Thalamus") == columns[:2]


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        ("sub-01", ("01", "", "")),
        ("sub-01_ses-2", ("01", "2", "")),
        ("sub-01_ses-2_run-3", ("01", "2", "3")),
        ("bert", ("bert", "", "")),
        ("CMU_a_0050656", ("CMU_a_0050656", "", "")),
        ("sub-01_ses-2.long.sub-01", ("01", "2", "")),
        ("fs7.0.0", ("fs7.0.0", "", "")),
    ],
)
def test_a_subject_is_a_scan(name: str, scan: tuple[str, str, str]) -> None:
    assert scan_of_subject(name) == scan


def test_a_participant_that_the_cohort_knows_is_one_whatever_the_name_looks_like() -> None:
    assert scan_of_subject("sub-01_ses-2", {"01_ses-2"}) == ("01_ses-2", "", "")
