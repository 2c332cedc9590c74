"""The public tables, opened as a user would, with the numbers that are known of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.columns import ColumnMap
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError

pytestmark = pytest.mark.real


def test_abide_has_820_scans_of_which_701_have_fmri(real_data: Path) -> None:
    folder = real_data / "abide1"
    columns = ColumnMap(id="file_id", age="age", sex="sex", site="site", diagnosis="dx")
    add = [
        parse_added(f"smri={folder}/smri_freesurfer6.csv.gz"),
        parse_added(f"fmri={folder}/fmri_fc_ho111_fisherz.npz"),
    ]
    cohort = check_cohort(
        lambda: open_cohort(folder / "participants.csv", reading=Reading(columns=columns), add=add)
    )
    assert (cohort.name, len(cohort)) == ("abide1", 820)
    smri, fmri = cohort.sources["smri/freesurfer6"], cohort.sources["fmri/fc_ho111_fisherz"]
    assert (smri.modality.shape, int(smri.present.sum())) == ((707,), 820)
    assert (fmri.modality.shape, int(fmri.present.sum())) == ((6105,), 701)
    assert cohort.scans["sex"].value_counts().to_dict() == {"M": 703, "F": 117}
    assert cohort.scans["site"].nunique() == 15
    assert cohort.account.sources[-1].without == 119
    assert not cohort.account.refusals
    assert any("186 values of exactly 0" in note for note in cohort.account.notes)
    controls = open_cohort(
        folder / "participants.csv", reading=Reading(columns=columns), add=add, where="dx == 'TC'"
    )
    assert set(controls.scans["diagnosis"]) == {"TC"}


def test_the_identity_of_abide_s_people_must_be_named(real_data: Path) -> None:
    with pytest.raises(CohortError, match="file_id, sub_id") as error:
        open_cohort(real_data / "abide1" / "participants.csv")
    assert "--id" in str(error.value)


def test_abide_time_series_join_by_the_names_of_their_files(real_data: Path) -> None:
    folder = real_data / "abide1"
    add = [parse_added(f"fmri/ts={folder}/timeseries_sample")]
    cohort = open_cohort(
        folder / "participants.csv", reading=Reading(columns=ColumnMap(id="file_id")), add=add
    )
    assert len(cohort) == 26
    assert cohort.account.sources[-1].matched == 26
    assert cohort.sources["fmri/ts"].present.all()


def test_the_males_table_needs_its_sex_code_explained(real_data: Path) -> None:
    path = real_data / "abide1_males_desikan6" / "FS_features_ABIDE_males.csv"
    with pytest.raises(CohortError, match=r"'1' \(743\)"):
        open_cohort(path)
    cohort = check_cohort(
        lambda: open_cohort(path, reading=Reading(columns=ColumnMap(sex_codes={"1": "M", "2": "F"})))
    )
    (source,) = cohort.sources.values()
    assert (len(cohort), source.modality.shape) == (743, (419,))
    assert set(cohort.scans["sex"]) == {"M"}
    assert set(cohort.scans["diagnosis"]) == {"1", "-1"}
    assert "FIQ" in cohort.scans


def test_fcon1000_keeps_its_constant_columns_and_says_so(real_data: Path) -> None:
    path = real_data / "fcon1000_smri" / "fcon1000.csv"
    cohort = check_cohort(
        lambda: open_cohort(path, reading=Reading(columns=ColumnMap(sex_codes={"0": "F", "1": "M"})))
    )
    assert cohort.scans["sex"].value_counts().to_dict() == {"F": 589, "M": 489}
    assert cohort.sources["smri/fcon1000"].modality.shape == (214,)
    assert any("4 columns are the same for everyone" in note for note in cohort.account.notes)
    assert "avg_en" in cohort.scans


def test_ixi_raw_tables_lose_the_two_people_with_two_ages(real_data: Path) -> None:
    folder = real_data / "ixi_smri"
    columns = ColumnMap(sex_codes={"1": "M", "2": "F"})
    add = [parse_added(f"smri={folder}/IXI_aparc_thickness.csv")]
    cohort = open_cohort(folder / "IXI_age_gender.csv", reading=Reading(columns=columns), add=add)
    assert len(cohort) == 556
    assert {refusal.participant_id for refusal in cohort.account.refusals} == {"IXI219", "IXI328"}
    joined = check_cohort(lambda: open_cohort(folder / "ixi_joined.csv"))
    assert (len(joined), joined.sources["smri/ixi_joined"].modality.shape) == (558, (72,))
    assert set(joined.scans["age_ambiguous"]) == {0, 1}


def test_the_hemispheres_of_aomic_stand_side_by_side(real_data: Path) -> None:
    folder = real_data / "aomic_piop2_smri"
    add = [parse_added(f"smri/fs={folder}/data-*.tsv")]
    cohort = check_cohort(lambda: open_cohort(folder / "participants.tsv", add=add))
    modality = cohort.sources["smri/fs"].modality
    assert len(cohort) == 226
    assert modality.features.count("eTIV") == 1
    atlases = {f"lh_{atlas}_WhiteSurfArea_area" for atlas in ("aparc", "aparc.a2009s")}
    assert {name for name in modality.features if name.startswith("lh_") and "WhiteSurf" in name} == atlases
    assert {"lh_bankssts_thickness", "rh_bankssts_thickness", "Left-Caudate", "Left-Caudate_mean"} <= set(
        modality.features
    )
    assert modality.units[modality.features.index("Left-Caudate_mean")] == ""
    assert int(cohort.scans["age"].isna().sum()) == 2
    assert cohort.scans["sex"].value_counts().to_dict() == {"F": 129, "M": 96, "U": 1}
    assert np.isfinite(cohort.sources["smri/fs"].load(0)).all()


def test_yeo_edges_are_recognised_as_a_connectome(real_data: Path) -> None:
    path = real_data / "fc_yeo17_ds003798" / "data_OpenNeuroTransfer_yeo17_tr.csv"
    cohort = check_cohort(
        lambda: open_cohort(path, reading=Reading(columns=ColumnMap(sex_codes={"0": "F", "1": "M"})))
    )
    ((key, source),) = cohort.sources.items()
    assert key.startswith("fmri/")
    assert source.modality.shape == (136,)
    assert "mean_FD" in cohort.scans


@pytest.mark.parametrize(("name", "further"), [("unused-roi", {"stripMe"}), ("space-delim", set())])
def test_a_transposed_segmentation_table_is_turned_with_a_word(
    real_data: Path, name: str, further: set[str]
) -> None:
    path = real_data / "format_samples" / "freesurfer_tables" / f"fs-roi-volumes-fixture-{name}.txt"
    cohort = check_cohort(lambda: open_cohort(path))
    (source,) = cohort.sources.values()
    assert cohort.scans["participant_id"].tolist() == ["M8710000_20121001"]
    assert source.modality.shape == (63,)
    values = dict(zip(source.modality.features, source.load(0).tolist(), strict=True))
    assert (values["Left-Thalamus"], values["Left-Inf-Lat-Vent"]) == pytest.approx((7863.4, 304.7))
    assert set(cohort.scans.columns[8:]) == {"lhSurfaceHoles", "rhSurfaceHoles", "SurfaceHoles"} | further
    assert any("lies on its side" in note and "was turned" in note for note in cohort.account.notes)
    assert any("5 columns renamed: Left-Thal" in note for note in cohort.account.notes)


def test_a_transposed_table_that_lacks_a_value_is_refused_with_its_line(real_data: Path) -> None:
    path = real_data / "format_samples" / "freesurfer_tables" / "fs-roi-volumes-fixture-invalid.txt"
    with pytest.raises(CohortError, match="1 fields and the header has 2") as error:
        open_cohort(path)
    assert "line 2" in str(error.value)
