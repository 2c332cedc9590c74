"""Trees of BIDS derivatives: which files are meant, who they are of, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from battery import check_cohort
from bids_trees import (
    ROIS,
    describe,
    fmriprep,
    from_listing,
    table,
    tissue_map,
    write_relmat,
    write_series,
    xcpd,
)
from nifti_files import SHAPE, voxels, write_image

from hpc_brainage.cohorts.bids import is_bids, read_bids
from hpc_brainage.cohorts.bids_files import choose, find_candidates, parse_entities
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError, UsageError

T1W = "desc=preproc"
LISTINGS = "format_samples/listings"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """An fMRIPrep tree in the derivatives of a data set with three people, of whom one was not scanned."""
    root = tmp_path / "study"
    describe(root)
    table(root / "participants.tsv", participant_id=["sub-02", "sub-01", "sub-09"],
          age=[32.5, 21.0, 44.0], sex=["F", "M", "F"], group=["a", "b", "a"])  # fmt: skip
    return fmriprep(root / "derivatives" / "fmriprep")


def test_a_tree_of_images_is_a_cohort_with_the_people_of_its_data_set(prepared: Path) -> None:
    assert is_bids(prepared)
    cohort = check_cohort(lambda: open_cohort(prepared, reading=Reading(entities=T1W)))
    assert cohort.name == "fmriprep"
    assert cohort.scans["participant_id"].tolist() == ["01", "02", "03"]
    assert cohort.scans["sex"].tolist() == ["M", "F", "U"]
    np.testing.assert_array_equal(cohort.scans["age"], [21.0, 32.5, np.nan])
    assert cohort.scans["diagnosis"].tolist() == ["b", "a", ""]
    (source,) = cohort.sources.values()
    assert (source.modality.key, source.modality.shape) == ("smri/t1w", SHAPE)
    np.testing.assert_array_equal(source.values(1), voxels(1))
    by_name = {each.source: each for each in cohort.account.sources}
    assert by_name["participants.tsv"].unmeasured == (("09", "", ""),)
    assert (by_name["participants.tsv"].rows, by_name["participants.tsv"].matched) == (3, 2)
    assert by_name["participants.tsv"].without == 1
    notes = " ".join(cohort.account.notes)
    assert "1 scans are of people who are not in participants.tsv" in notes
    assert "sub-03" in notes
    assert "3 images in people's own space are left aside" in notes
    assert "turned to RAS order: 3 from LAS" in notes
    assert cohort.recipe["entities"] == {"desc": ["preproc"]}
    assert str(prepared.parent) not in str(cohort.recipe)


def test_grey_matter_is_chosen_by_its_label(prepared: Path) -> None:
    cohort = read_bids(prepared, Reading(entities="label=GM"))
    assert list(cohort.sources) == ["smri/gm"]
    np.testing.assert_array_equal(cohort.sources["smri/gm"].load(2), tissue_map(12))


def test_several_images_of_a_scan_are_an_error_that_says_between_what(prepared: Path) -> None:
    with pytest.raises(CohortError, match="2 files could be the structural image of sub-01") as error:
        open_cohort(prepared)
    assert "suffix (T1w, probseg)" in str(error.value)
    assert "desc (none, preproc)" in str(error.value)
    for person in ("01", "02", "03"):
        name = f"sub-{person}_space-MNI152NLin6Asym_res-01_desc-preproc_T1w.nii.gz"
        write_image(prepared / f"sub-{person}" / "anat" / name, voxels(shape=(9, 9, 9)))
    with pytest.raises(CohortError, match="2 files") as error:
        open_cohort(prepared, reading=Reading(entities=T1W))
    assert "space (MNI152NLin2009cAsym, MNI152NLin6Asym)" in str(error.value)
    assert "--entities res=2,space=MNI152NLin2009cAsym" in str(error.value)
    cohort = open_cohort(prepared, reading=Reading(entities="desc=preproc,space=MNI152NLin6Asym,res=01"))
    assert cohort.sources["smri/t1w"].modality.shape == (9, 9, 9)


def test_a_value_or_an_entity_that_nobody_has_is_an_error(prepared: Path) -> None:
    with pytest.raises(CohortError, match="no structural image of this tree fits space=MNI152Lin") as error:
        open_cohort(prepared, reading=Reading(entities="space=MNI152Lin,desc=preproc"))
    assert "space=MNI152NLin2009cAsym" in str(error.value)
    with pytest.raises(UsageError, match="no file that could be chosen has the entity 'sapce'"):
        open_cohort(prepared, reading=Reading(entities="desc=preproc,sapce=MNI152NLin2009cAsym"))
    people = table(prepared.parent / "people.tsv", id=["a"], lh_x_area=[1.0])
    with pytest.raises(UsageError, match="'space'"):
        open_cohort(people, reading=Reading(entities="space=MNI"))
    with pytest.raises(CohortError, match="no preprocessed image and no connectivity"):
        open_cohort(prepared, reading=Reading(entities="suffix=T2w"))


@pytest.mark.parametrize("text", ["", "space", "=x", "space=a,", "a b=c"])
def test_entities_must_be_understood(text: str) -> None:
    with pytest.raises(UsageError, match="not understood"):
        parse_entities(text)


def test_entities_are_pairs_that_may_repeat() -> None:
    assert parse_entities(None) == {}
    assert parse_entities("space=A, desc=desc-preproc,space=B,run=") == {
        "space": ("A", "B"), "desc": ("preproc",), "run": ("",),
    }  # fmt: skip


def test_different_people_in_different_spaces_are_an_error(prepared: Path) -> None:
    anat = prepared / "sub-03" / "anat"
    (old,) = anat.glob("*space*_desc-preproc_T1w.nii.gz")
    old.rename(anat / "sub-03_space-MNIPediatricAsym_res-2_desc-preproc_T1w.nii.gz")
    with pytest.raises(CohortError, match="differ in space: MNI152NLin2009cAsym, MNIPediatricAsym"):
        open_cohort(prepared, reading=Reading(entities=T1W))


def test_a_raw_data_set_points_at_its_derivatives(prepared: Path) -> None:
    root = prepared.parent.parent
    write_image(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    with pytest.raises(CohortError, match="no preprocessed image") as error:
        open_cohort(root)
    assert str(prepared) in str(error.value)


def test_images_and_series_of_one_tree_meet_in_one_scan(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d", atlases=("Gordon", "Tian"))
    for file in (tree / "sub-02").rglob("*Gordon*timeseries*"):
        file.unlink()
    for file in (tree / "sub-03").rglob("*T1w*"):
        file.unlink()
    with pytest.raises(CohortError, match=r"atlas \(Gordon, Tian\)"):
        open_cohort(tree)
    cohort = check_cohort(lambda: open_cohort(tree, reading=Reading(entities="atlas=Gordon")))
    assert cohort.scans[["participant_id", "session_id", "run"]].to_numpy().tolist() == [
        ["01", "1", ""], ["02", "1", ""], ["03", "1", ""],
    ]  # fmt: skip
    assert cohort.sources["smri/t1w"].present.tolist() == [True, True, False]
    assert cohort.sources["fmri/fc"].present.tolist() == [True, False, True]
    assert cohort.sources["fmri/fc"].modality.features[0] == f"{ROIS[0]}--{ROIS[1]}"
    assert any("matrices are left aside" in note for note in cohort.account.notes)
    only_images = open_cohort(tree, reading=Reading(entities="suffix=T1w"))
    assert list(only_images.sources) == ["smri/t1w"]
    assert len(only_images) == 2


def test_matrices_are_the_same_edges_as_the_series_they_come_from(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d")
    series = open_cohort(tree, reading=Reading(entities="suffix=timeseries")).sources["fmri/fc"]
    matrices = check_cohort(lambda: open_cohort(tree, reading=Reading(entities="suffix=relmat"))).sources[
        "fmri/fc"
    ]
    assert matrices.modality == series.modality
    np.testing.assert_allclose(matrices.load(2), series.load(2), atol=1e-5)


def test_a_roi_that_is_not_covered_has_missing_edges(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d")
    for file in (tree / "sub-02").rglob("*timeseries.tsv"):
        write_series(file, 1, uncovered=2)
    for file in (tree / "sub-02").rglob("*relmat.tsv"):
        write_relmat(file, 1, uncovered=2)
    for suffix in ("timeseries", "relmat"):
        edges = open_cohort(tree, reading=Reading(entities=f"suffix={suffix}")).sources["fmri/fc"].load(1)
        np.testing.assert_array_equal(np.isnan(edges), [False, True, False, True, False, True])


def test_runs_are_scans_of_their_own_or_one_must_be_chosen(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d")
    first = next((tree / "sub-01").rglob("*timeseries.tsv"))
    write_series(first.with_name(first.name.replace("run-01", "run-02")), 9)
    with pytest.raises(CohortError, match=r"run \(01, 02\)"):
        open_cohort(tree)
    assert len(open_cohort(tree, reading=Reading(entities="run=01"))) == 3
    runs = open_cohort(tree, reading=Reading(entities="suffix=timeseries")).scans
    assert runs[runs["participant_id"] == "01"]["run"].tolist() == ["01", "02"]
    write_series(first.with_name(first.name.replace("run-01_", "")), 8)  # of both runs together
    with pytest.raises(CohortError, match=r"run \(01, 02, none\)"):
        open_cohort(tree, reading=Reading(entities="suffix=timeseries"))
    together = open_cohort(tree, reading=Reading(entities="suffix=timeseries,run="))
    assert together.scans[["participant_id", "run"]].to_numpy().tolist() == [["01", ""]]


def test_an_image_without_a_session_belongs_to_the_one_visit_of_the_series(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d")
    for file in list(tree.rglob("*T1w.nii.gz")):
        anat = file.parent.parent.parent / "anat"
        anat.mkdir()
        file.rename(anat / file.name.replace("_ses-1", ""))
    cohort = open_cohort(tree)
    assert cohort.scans["session_id"].tolist() == ["1", "1", "1"]
    assert all(source.present.all() for source in cohort.sources.values())
    again = tree / "sub-01" / "ses-2" / "func"
    first = next((tree / "sub-01").rglob("*timeseries.tsv"))
    write_series(again / first.name.replace("ses-1", "ses-2"), 9)
    with pytest.raises(CohortError, match=r"ses \(1, 2\)"):
        open_cohort(tree)
    assert len(open_cohort(tree, reading=Reading(entities="ses=1"))) == 3


def test_the_age_at_the_visit_comes_before_that_of_the_participant(prepared: Path) -> None:
    root = prepared.parent.parent
    for person in ("01", "02"):
        folder = prepared / f"sub-{person}"
        (anat := folder / "anat").rename(folder / "old")
        for session in ("a", "b"):
            file = folder / f"ses-{session}" / "anat"
            name = f"sub-{person}_ses-{session}_space-MNI152NLin2009cAsym_res-2_desc-preproc_T1w.nii.gz"
            write_image(file / name, voxels(3))
        for old in (folder / "old").iterdir():
            old.unlink()
        assert not anat.exists()
    table(root / "sub-01" / "sub-01_sessions.tsv", session_id=["ses-a", "ses-b"], age=[21.2, 23.4])
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    ages = dict(zip(zip(cohort.scans["participant_id"], cohort.scans["session_id"], strict=True),
                    cohort.scans["age"], strict=True))  # fmt: skip
    assert ages["01", "a"] == 21.2
    assert ages["01", "b"] == 23.4
    assert ages["02", "a"] == ages["02", "b"] == 32.5
    notes = " ".join(cohort.account.notes)
    assert "the age of 2 scans is that at the visit" in notes
    assert "1 people have several sessions, for which there is only one age" in notes
    table(root / "sub-01" / "sub-01_sessions.tsv", session_id=["ses-a", "ses-b"], age=[21.2, "n/a"])
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    known = cohort.scans.loc[cohort.scans["participant_id"] == "01", "age"]
    assert known.iloc[0] == 21.2
    assert np.isnan(known.iloc[1])  # although participants.tsv states one
    assert any("the age of 1 scans is unknown" in note for note in cohort.account.notes)
    (root / "sessions.json").write_text(json.dumps({"age": {"Units": "months"}}))
    months = table(root / "sub-01" / "sub-01_sessions.tsv", session_id=["ses-a", "ses-b"], age=[252, "89+"])
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    assert cohort.scans["age"][0] == 21.0
    refused = {refusal.scan: refusal.reason for refusal in cohort.account.refusals}
    assert "'89+', which is not a number" in refused["sub-01_ses-b"]
    assert ("01", "b") not in set(
        zip(cohort.scans["participant_id"], cohort.scans["session_id"], strict=True)
    )
    months.write_text("session_id\tage\nses-a\t21\t7\n")
    refused = {
        refusal.scan: refusal.reason
        for refusal in open_cohort(prepared, reading=Reading(entities=T1W)).account.refusals
    }
    assert "cannot be read" in refused["sub-01_ses-a"]


@pytest.mark.parametrize(
    ("said", "age"),
    [({"Units": "months"}, 252 / 12), ({"Units": "year"}, None), ({"Units": "weeks"}, None)],
)
def test_months_are_known_by_the_units_and_unclear_ones_refused(prepared: Path, said: dict, age) -> None:
    root = prepared.parent.parent
    table(root / "participants.tsv", participant_id=["sub-01", "sub-02", "sub-03"], age=[252, 390, 100])
    (root / "participants.json").write_text(json.dumps({"age": said}))
    if age is None:
        with pytest.raises(CohortError, match=r"unit of the ages is not clear|cannot be years"):
            open_cohort(prepared, reading=Reading(entities=T1W))
    else:
        assert open_cohort(prepared, reading=Reading(entities=T1W)).scans["age"][0] == age


def test_people_whose_row_cannot_be_used_are_refused_with_the_reason(prepared: Path) -> None:
    root = prepared.parent.parent
    table(root / "participants.tsv", participant_id=["sub-01", "sub-02", "sub-03", "sub-08"],
          age=["21", "89+", "35", "55-60"])  # fmt: skip
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    assert cohort.scans["participant_id"].tolist() == ["01", "03"]
    assert [(refusal.scan, refusal.source) for refusal in cohort.account.refusals] == [
        ("sub-02", "participants.tsv")
    ]
    assert any("1 rows that cannot be used are of people without a scan" in n for n in cohort.account.notes)


def test_a_tree_without_tables_or_of_other_people_says_so(prepared: Path) -> None:
    participants = prepared.parent.parent / "participants.tsv"
    table(participants, participant_id=["sub-x1", "sub-x2"], age=[20, 30])
    with pytest.raises(CohortError, match=r"nobody of participants.tsv is in this tree") as error:
        open_cohort(prepared, reading=Reading(entities=T1W))
    assert "x1" in str(error.value)
    assert "01" in str(error.value)
    participants.unlink()
    cohort = check_cohort(lambda: open_cohort(prepared, reading=Reading(entities=T1W)))
    assert cohort.scans["age"].isna().all()
    assert any("there is no participants.tsv" in note for note in cohort.account.notes)


def test_long_tables_are_matched_by_visit(tmp_path: Path) -> None:
    tree = xcpd(tmp_path / "xcp_d", people=("01", "02"))
    table(tree / "participants.tsv", participant_id=["sub-01", "sub-01", "sub-02"],
          session_id=["ses-1", "ses-2", "ses-1"], age=[20.5, 22.5, 30])  # fmt: skip
    cohort = open_cohort(tree)
    assert cohort.scans["age"].tolist() == [20.5, 30]
    source = next(each for each in cohort.account.sources if each.source == "participants.tsv")
    assert source.unmeasured == (("01", "2", ""),)
    without_sessions = fmriprep(tmp_path / "fmriprep", people=("01", "02"))
    (tree / "participants.tsv").rename(without_sessions / "participants.tsv")
    with pytest.raises(CohortError, match="sub-01 has several sessions here"):
        open_cohort(without_sessions, reading=Reading(entities=T1W))


def test_trees_are_added_by_role(prepared: Path, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("id,age\n01,20\n02,30\n07,40\n")
    functional = xcpd(tmp_path / "xcp_d", atlases=("Gordon", "Tian"))
    add = [parse_added(f"smri={prepared}"), parse_added(f"fmri/tian={functional}")]
    cohort = open_cohort(people, reading=Reading(entities="desc=preproc,atlas=Tian"), add=add)
    assert cohort.scans["participant_id"].tolist() == ["01", "02"]
    assert cohort.scans["age"].tolist() == [20, 30]
    assert list(cohort.sources) == ["smri/t1w", "fmri/tian"]
    with pytest.raises(CohortError, match="this tree has no time series"):
        open_cohort(people, reading=Reading(entities=T1W), add=[parse_added(f"fmri={prepared}")])


def test_a_file_in_the_folder_of_somebody_else_is_refused(prepared: Path) -> None:
    stray = "sub-77_space-MNI152NLin2009cAsym_res-2_desc-preproc_T1w.nii.gz"
    write_image(prepared / "sub-01" / "anat" / stray)
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    assert len(cohort) == 3
    (refusal,) = cohort.account.refusals
    assert (refusal.scan, refusal.reason) == ("sub-77", f"{stray} lies in the folder of sub-01")


def test_one_image_on_another_grid_costs_one_scan(prepared: Path) -> None:
    (odd,) = (prepared / "sub-02" / "anat").glob("*space*_desc-preproc_T1w.nii.gz")
    write_image(odd, voxels(shape=(9, 9, 9)))
    cohort = open_cohort(prepared, reading=Reading(entities=T1W))
    assert cohort.scans["participant_id"].tolist() == ["01", "03"]
    (refusal,) = cohort.account.refusals
    assert "9 x 9 x 9" in refusal.reason


REAL_TREES = {
    "ds000001-fmriprep": ("ds000001-fmriprep", "desc=preproc", 4, 0),
    "fmriprep_ds054_outputs": (".", "label=GM,res=2", 1, 0),
    "fmriprep_ds210_outputs": (".", "desc=preproc,space=MNI152NLin2009cAsym", 1, 0),
    "fmriprep_ds005_outputs": (".", "desc=preproc", 1, 0),
    "ds005625_derivatives": ("derivatives/fmriprep", "desc=preproc,res=02", 1, 0),
    "xcpd_test_ds001419_nifti_outputs": (".", "desc=preproc", 1, 0),
    "xcpd_test_fmriprep_without_freesurfer_outputs": (".", "atlas=Schaefer100,run=1", 1, 1),
    "xcpd_test_pnc_cifti_outputs": (".", "atlas=Tian", 1, 1),
    "xcpd_test_ukbiobank_outputs": (".", "atlas=Glasser,suffix=T1w,suffix=relmat", 1, 1),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL_TREES)
def test_of_real_trees_one_file_a_scan_is_chosen(real_data: Path, tmp_path: Path, name: str) -> None:
    below, entities, images, edges = REAL_TREES[name]
    folder = from_listing(real_data / LISTINGS / f"{name}.txt", tmp_path) / below
    assert is_bids(folder)
    tree = find_candidates(folder)
    wanted = parse_entities(entities)
    chosen = [choose(files, wanted, "file", folder).files for files in (tree.volumes, tree.edges)]
    assert [len(files) for files in chosen] == [images, edges]
    assert not tree.misplaced
    with pytest.raises(CohortError, match="none of the"):  # the files are empty
        open_cohort(folder, reading=Reading(entities=entities))


@pytest.mark.real
def test_real_tables_of_participants_and_sessions_are_read(real_data: Path, tmp_path: Path) -> None:
    tables = real_data / "format_samples" / "participants"
    for name, person, age in (
        ("ds005250", "01", 30.0),
        ("synthetic", "01", 34.0),
        ("ds000228", "pixar001", 4.77),
    ):
        tree = fmriprep(tmp_path / name, people=(person,))
        for path in (tables / name).rglob("*.*"):
            copy = tree / path.relative_to(tables / name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
        cohort = open_cohort(tree, reading=Reading(entities=T1W))
        assert cohort.scans["age"][0] == pytest.approx(age, abs=0.01)
