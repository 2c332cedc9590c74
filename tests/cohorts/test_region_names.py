from __future__ import annotations

from itertools import product
from pathlib import Path

import freesurfer_trees
import openbhb_trees
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.freesurfer import read_freesurfer
from hpc_brainage.cohorts.openbhb import read_openbhb
from hpc_brainage.cohorts.openbhb_names import (
    DESIKAN_REGIONS,
    DESTRIEUX_REGIONS,
    FREESURFER_CHANNELS,
    roi_feature_names,
)
from hpc_brainage.cohorts.region_names import DESIKAN, DESTRIEUX, region_name, region_names
from hpc_brainage.cohorts.tables import column_names

MEASURES = ("area", "volume", "thickness", "thicknessstd", "meancurv", "gauscurv", "curvind")
UNMISTAKABLE = {
    "lh-bankssts_average_thickness_mm": "lh_bankssts_thickness",
    "rh-insula_integrated_rectified_mean_curvature_mm^-1": "rh_insula_meancurv",
    "lh_insula_ThickStd": "lh_insula_thicknessstd",
    "LH_Insula_SurfArea": "lh_insula_area",
    "rh insula GrayVol": "rh_insula_volume",
    "lh_G&S_cingul-Ant_thickness": "lh_G_and_S_cingul-Ant_thickness",
    "lh_G.S_cingul.Ant_thickness": "lh_G_and_S_cingul-Ant_thickness",
    "rh-G_and_S_frontomargin_surface_area_mm^2": "rh_G_and_S_frontomargin_area",
    "lh_MeanThickness": "lh_MeanThickness_thickness",
    "rh_WhiteSurfArea": "rh_WhiteSurfArea_area",
    "Left-Thalamus-Proper": "Left-Thalamus",
}
BELIEVED_IN_A_TABLE_OF_FREESURFER = {
    "L_insula_thickavg": "lh_insula_thickness",
    "R_insula_surfavg": "rh_insula_area",
    "left insula thickness": "lh_insula_thickness",
    "Right.Hippocampus": "Right-Hippocampus",
    "Left-Thalamus-Proper_Volume_mm3": "Left-Thalamus",
    "left_choroid_plexus": "Left-choroid-plexus",
    "X3rd.Ventricle": "3rd-Ventricle",
    "CC_Mid_Posterior_Volume_mm3": "CC_Mid_Posterior",
    "CSF_Volume_mm3": "CSF",
}
OTHERS = (
    "lh_x_thickness", "lh_insula", "lh_insula_numvert", "lh_euler", "wm-lh-insula", "ctx-lh-insula_area",
    "lHip_GM_Vol", "CSF_Vol", "17--210", "eTIV", "FIQ", "lh_insula_area_cm2", "L_age",
    "Left-Hippocampus_mean",
)  # fmt: skip


@pytest.mark.parametrize(("spelled", "usual"), UNMISTAKABLE.items())
def test_a_spelling_that_leaves_no_doubt_becomes_the_usual_name(spelled: str, usual: str) -> None:
    assert region_name(spelled) == usual
    assert region_name(usual) == usual
    assert region_names([spelled]) == ((usual,), (spelled,))


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_stay_whatever_else_is_in_the_table(name: str) -> None:
    assert region_name(name) == name
    assert region_names([name, "lh_bankssts_area", "Left-VentralDC"])[0][0] == name


@pytest.mark.parametrize(("spelled", "usual"), BELIEVED_IN_A_TABLE_OF_FREESURFER.items())
@pytest.mark.parametrize("own", ["R_bankssts_surfavg", "Right-Accumbens-area", "rh_G_cuneus_volume"])
def test_names_that_other_software_has_too_are_believed_beside_one_that_only_freesurfer_has(
    spelled: str, usual: str, own: str
) -> None:
    if spelled != "left_choroid_plexus":
        assert region_names([spelled, "L_Precuneus_vol"]) == ((spelled, "L_Precuneus_vol"), ())
    assert region_names([spelled, own])[0][0] == usual


@pytest.mark.parametrize(("ours", "regions"), [(DESIKAN, DESIKAN_REGIONS), (DESTRIEUX, DESTRIEUX_REGIONS)])
def test_openbhb_s_tables_have_the_names_of_aparcstats2table(
    ours: tuple[str, ...], regions: tuple[str, ...]
) -> None:
    usual = tuple(
        f"{side}_{region}_{measure}" for measure, side, region in product(MEASURES, ("lh", "rh"), ours)
    )
    assert roi_feature_names(regions, FREESURFER_CHANNELS) == usual
    assert region_names(usual) == (usual, ())


SPELLINGS = st.sampled_from(
    [
        *UNMISTAKABLE,
        *UNMISTAKABLE.values(),
        *BELIEVED_IN_A_TABLE_OF_FREESURFER,
        *OTHERS,
        "L_bankssts_surfavg",
    ]
)


@given(names=st.lists(SPELLINGS, unique=True))
@settings(max_examples=100, deadline=None)
def test_renaming_never_makes_two_columns_one_and_is_done_once_and_for_all(names: list[str]) -> None:
    kept, renamed = region_names(names)
    assert len(set(kept)) == len(names)
    assert [old for old, new in zip(names, kept, strict=True) if old != new] == list(renamed)
    assert region_names(kept) == (kept, ())
    turned = dict(zip(names[::-1], region_names(names[::-1])[0], strict=True))
    assert turned == dict(zip(names, kept, strict=True))


@pytest.mark.parametrize("version", ["5.3", "6.0", "7.0"])
@pytest.mark.parametrize(
    ("theirs", "atlas", "ours"),
    [("desikan_roi", "aparc", "DESIKAN"), ("destrieux_roi", "aparc_a2009s", "DESTRIEUX")],
)
def test_openbhb_and_a_freesurfer_subject_share_every_name_of_their_common_regions(
    tmp_path: Path, version: str, theirs: str, atlas: str, ours: str
) -> None:
    openbhb = read_openbhb(openbhb_trees.huggingface(tmp_path / "openbhb"))
    freesurfer_trees.write_subject(tmp_path / "subjects" / "sub-01", version)
    subjects = read_freesurfer(tmp_path / "subjects")
    trained = set(openbhb.sources[f"smri/{theirs}"].modality.features)
    scored = set(subjects.sources[f"smri/{atlas}"].modality.features)
    common = {
        f"{side}_{region}_{measure}"
        for side in ("lh", "rh")
        for region in getattr(freesurfer_trees, ours)
        for measure in MEASURES
    }
    assert trained & scored == common


@pytest.mark.real
@pytest.mark.parametrize(
    ("table", "renamed"),
    [
        ("abide1_males_desikan6/FS_features_ABIDE_males.csv", 413),
        ("abide1/smri_freesurfer6.csv.gz", 6),
        ("fcon1000_smri/fcon1000.csv", 28),
        ("ixi_smri/IXI_aparc_thickness.csv", 0),
    ],
)
def test_real_tables_of_four_kinds_end_in_one_spelling(real_data: Path, table: str, renamed: int) -> None:
    names = column_names(real_data / table)
    kept, old = region_names(names)
    assert (len(old), len(set(kept))) == (renamed, len(names))
    cortex = [name.split("_") for name in kept if name.startswith(("lh_", "rh_"))]
    assert {words[-1] for words in cortex} <= {*MEASURES, "foldind"}
    assert not any("&" in name or name.endswith(("_mm3", "-Proper")) for name in kept)


@pytest.mark.real
def test_tables_of_two_makers_share_their_desikan_regions(real_data: Path) -> None:
    males, everyone = (
        set(region_names(column_names(real_data / table))[0])
        for table in ("abide1_males_desikan6/FS_features_ABIDE_males.csv", "abide1/smri_freesurfer6.csv.gz")
    )
    cortex = [f"{side}_{region}_{m}" for side, region, m in product(("lh", "rh"), DESIKAN, MEASURES[:3])]
    assert len(males & everyone & set(cortex)) == 62 * 3


@pytest.mark.real
@pytest.mark.parametrize("version", ["fs5.3.0", "fs6.0.0", "fs7.0.0"])
def test_a_real_freesurfer_subject_has_every_feature_of_openbhb_s_cortical_tables(
    real_data: Path, version: str
) -> None:
    subject = read_freesurfer(real_data / "format_samples" / "freesurfer_stats" / version)
    for key, regions in (("smri/aparc", DESIKAN_REGIONS), ("smri/aparc_a2009s", DESTRIEUX_REGIONS)):
        wanted = roi_feature_names(regions, FREESURFER_CHANNELS)
        assert set(wanted) <= set(subject.sources[key].modality.features)
