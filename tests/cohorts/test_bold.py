"""BOLD series with an atlas: the edges are those that were planted, and what is damaged is refused."""

from __future__ import annotations

import gzip
import json
import shutil
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from battery import check_cohort
from bids_trees import describe, fmriprep, table, xcpd
from bold_trees import (
    AFFINE,
    LABELS,
    SHAPE,
    SPACE,
    VOLUMES,
    bold_of,
    bold_tree,
    confounds_frame,
    confounds_of,
    regions_of_grid,
    signals_of,
    write_atlas,
    write_bold,
    write_confounds,
)
from nifti_files import voxels, write_image

from hpc_brainage.cohorts import connectivity
from hpc_brainage.cohorts.atlas import Atlas
from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.cohorts.confounds import cleaning_of
from hpc_brainage.cohorts.nifti_series import region_means, series_header
from hpc_brainage.cohorts.reading import Confounds, Reading
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.errors import CohortError, ScanRefused, UsageError

EDGES = tuple(f"roi_{a}--roi_{b}" for i, a in enumerate(LABELS) for b in LABELS[i + 1 :])


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    return write_atlas(tmp_path / "atlases" / "Slabs-4.nii.gz")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return bold_tree(tmp_path / "fmriprep")


def edges_of(cohort: Cohort, row: int = 0) -> np.ndarray:
    (source,) = cohort.sources.values()
    return source.load(row)


def reasons(cohort: Cohort) -> dict[str, str]:
    return {refusal.scan: refusal.reason for refusal in cohort.account.refusals}


def rewrite_confounds(tree: Path, person: str, frame: pd.DataFrame) -> None:
    write_confounds(confounds_of(tree, person), frame)


def test_series_become_edges_named_after_the_atlas(tree: Path, atlas: Path) -> None:
    table(tree / "participants.tsv", participant_id=["sub-01", "sub-02"], age=[21.0, 34.0], sex=["F", "M"])
    cohort = check_cohort(lambda: open_cohort(tree, reading=Reading(atlas=atlas)))
    ((key, source),) = cohort.sources.items()
    assert key == "fmri/slabs_4"
    assert source.modality.features == EDGES
    assert cohort.scans["participant_id"].tolist() == ["01", "02", "03"]
    np.testing.assert_array_equal(cohort.scans["age"], [21.0, 34.0, np.nan])
    assert not cohort.account.refusals
    notes = " ".join(cohort.account.notes)
    assert "3 BOLD series in people's own space" in notes
    assert "its regions are called roi_<label>" in notes
    for row in range(3):
        r = np.tanh(source.load(row))
        assert r[0] == pytest.approx(0.6, abs=0.15), "the planted correlation"
        assert np.abs(r[1:]).max() < 0.3, "nothing was planted between the others"
    (recipe,) = cohort.recipe["added"]
    assert recipe["reader"] == "bold"
    assert (recipe["atlas"]["name"], recipe["confounds"]) == ("slabs_4", "simple")
    assert len(recipe["atlas"]["sha256"]) == 64
    assert recipe["nilearn"]
    assert cohort.recipe["options"]["atlas"] == "Slabs-4.nii.gz"
    assert str(tree.parent) not in json.dumps(cohort.recipe)


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor", "none"])
def test_edges_are_those_of_least_squares_on_plain_means(
    tree: Path, atlas: Path, strategy: Confounds
) -> None:
    cohort = open_cohort(tree, reading=Reading(atlas=atlas, confounds=strategy))
    bold = bold_of(tree, "02")
    series = np.asarray(nibabel.load(bold).dataobj, dtype=np.float64)
    means = np.stack([series[regions_of_grid() == label].mean(axis=0) for label in LABELS], axis=1)
    cleaning = cleaning_of(bold, strategy, VOLUMES, 2.0)
    kept = cleaning.kept
    design = [np.ones(len(kept)), *cleaning.regressors[kept].T]
    if strategy != "none":
        design.append(np.arange(len(kept)))
    matrix = np.column_stack([column / np.linalg.norm(column) for column in design])
    residuals = means[kept] - matrix @ np.linalg.lstsq(matrix, means[kept], rcond=None)[0]
    r = np.corrcoef(residuals.T)[np.triu_indices(len(LABELS), 1)]
    np.testing.assert_allclose(edges_of(cohort, 1), np.arctanh(r), atol=1e-5)


def test_edges_are_those_of_nilearns_masker(tree: Path, atlas: Path) -> None:
    from nilearn.maskers import NiftiLabelsMasker

    bold = bold_of(tree, "01")
    cleaning = cleaning_of(bold, "simple", VOLUMES, 2.0)
    masker = NiftiLabelsMasker(atlas, detrend=True, standardize="zscore_sample", resampling_target="data")
    confounds = pd.DataFrame(cleaning.regressors, columns=list(cleaning.names))
    series = masker.fit_transform(bold, confounds=confounds, sample_mask=cleaning.kept)
    r = np.corrcoef(series.T)[np.triu_indices(len(LABELS), 1)]
    np.testing.assert_allclose(
        edges_of(open_cohort(tree, reading=Reading(atlas=atlas))), np.arctanh(r), atol=1e-4
    )


def test_a_planted_nuisance_goes_with_its_confound(tmp_path: Path, atlas: Path) -> None:
    tree = bold_tree(tmp_path / "fmriprep", nuisance=5.0)
    dirty = open_cohort(tree, reading=Reading(atlas=atlas, confounds="none"))
    assert np.tanh(edges_of(dirty)).min() > 0.9, "all regions follow the white matter"
    clean = np.tanh(edges_of(open_cohort(tree, reading=Reading(atlas=atlas))))
    assert clean[0] == pytest.approx(0.6, abs=0.15)
    assert np.abs(clean[1:]).max() < 0.3


@pytest.mark.parametrize("orientation", ["LAS", "LPI", "PSR"])
def test_the_order_of_the_axes_in_the_file_changes_nothing(
    tree: Path, atlas: Path, orientation: str
) -> None:
    before = edges_of(open_cohort(tree, reading=Reading(atlas=atlas)))
    write_bold(bold_of(tree, "01"), signals_of(0), 0, orientation=orientation)
    turned = edges_of(open_cohort(tree, reading=Reading(atlas=atlas)))
    np.testing.assert_allclose(turned, before, atol=1e-5)


@pytest.mark.parametrize("kind", ["partial", "tangent"])
def test_other_kinds_of_connectivity_are_those_of_time_series(tree: Path, atlas: Path, kind: str) -> None:
    cohort = check_cohort(lambda: open_cohort(tree, reading=Reading(atlas=atlas, connectivity=kind)))
    (source,) = cohort.sources.values()
    assert all(name.startswith(kind) for name in source.modality.features)
    grid = Atlas(atlas).on_grid(SHAPE, AFFINE)
    cleaned = [
        cleaning_of(bold_of(tree, person), "simple", VOLUMES, 2.0).clean(
            region_means(bold_of(tree, person), grid)
        )
        for person in ("01", "02", "03")
    ]
    tangent = connectivity.tangent(cleaned, Atlas(atlas).regions)[0]
    expected = connectivity.partial(cleaned[2]) if kind == "partial" else tangent[2]
    np.testing.assert_allclose(source.load(2), expected, atol=1e-6)


def test_a_region_without_voxels_or_signal_has_missing_edges(tree: Path, tmp_path: Path) -> None:
    atlas = write_atlas(tmp_path / "far.nii.gz", far=99)
    image = nibabel.load(bold_of(tree, "02"))
    series = np.asarray(image.dataobj).copy()
    series[regions_of_grid() == 7] = 0
    nibabel.Nifti1Image(series, image.affine, image.header).to_filename(bold_of(tree, "02"))
    cohort = open_cohort(tree, reading=Reading(atlas=atlas))
    (source,) = cohort.sources.values()
    names = source.modality.features
    missing = {row: {name for name, edge in zip(names, source.load(row), strict=True) if np.isnan(edge)}
               for row in (0, 1)}  # fmt: skip
    assert missing[0] == {name for name in names if "roi_99" in name}
    assert missing[1] == {name for name in names if "roi_99" in name or "roi_7" in name}
    tangent = open_cohort(tree, reading=Reading(atlas=atlas, connectivity="tangent"))
    assert "ROIs without signal in more than 10% of the scans are left out: roi_7, roi_99" in " ".join(
        tangent.account.notes
    )
    assert np.isfinite(edges_of(tangent)).all()


def test_a_scan_that_the_atlas_does_not_reach_is_refused(tree: Path, tmp_path: Path) -> None:
    image = np.ones((4, 4, 4), dtype=np.int16)
    image[:2] = 2
    elsewhere = AFFINE.copy()
    elsewhere[0, 3] += 500
    atlas = write_image(tmp_path / "elsewhere.nii.gz", image, elsewhere)
    with pytest.raises(ScanRefused, match="no region of the atlas lies within"):
        edges_of(open_cohort(tree, reading=Reading(atlas=atlas)))


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, atlas: Path) -> None:
    tree = bold_tree(tmp_path / "fmriprep", people=("01", "02", "03", "04", "05", "06", "07"))
    write_image(bold_of(tree, "02"), voxels(shape=SHAPE), AFFINE)
    whole = bold_of(tree, "03").read_bytes()
    bold_of(tree, "03").write_bytes(whole[: len(whole) // 2])
    confounds_of(tree, "04").unlink()
    moving = confounds_frame(4)
    moving.loc[np.arange(0, VOLUMES, 2), "framewise_displacement"] = 2.0
    rewrite_confounds(tree, "05", moving)
    bold_of(tree, "06").write_bytes(b"")
    bold_of(tree, "07").unlink()
    bold_of(tree, "07").symlink_to("gone.nii.gz")
    cohort = open_cohort(tree, reading=Reading(atlas=atlas, confounds="scrubbing"))
    assert cohort.scans["participant_id"].tolist() == ["01", "03"]
    refused = reasons(cohort)
    assert "the image is one volume (8 x 9 x 7)" in refused["sub-02"]
    assert "its confounds are missing" in refused["sub-04"]
    assert "it is worth 0 volumes (of 150 volumes 149 scrubbed" in refused["sub-05"]
    assert "the file is empty" in refused["sub-06"]
    assert "has not been downloaded" in refused["sub-07"]
    with pytest.raises(ScanRefused, match=r"cannot be read to its end|truncated"):
        edges_of(cohort, 1)
    tangent = open_cohort(tree, reading=Reading(atlas=atlas, confounds="none", connectivity="tangent"))
    assert "sub-03" in reasons(tangent), "tangent reads everything at once, and goes on with the others"


def test_a_header_that_claims_too_much_costs_no_memory(tree: Path, atlas: Path) -> None:
    header = nibabel.load(bold_of(tree, "01")).header
    for person, shape, reason in (
        ("01", (1000, 1000, 1000, 30000), "which no run has"),
        ("02", (300, 300, 300, 30000), r"its header claims 1,620,000,000,\d+ bytes, it holds"),
    ):
        header.set_data_shape(shape)
        bold_of(tree, person).write_bytes(gzip.compress(header.binaryblock + b"\0" * 100_000))
        tracemalloc.start()
        with pytest.raises(ScanRefused, match=reason):
            series_header(bold_of(tree, person))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
        tracemalloc.stop()
    cohort = open_cohort(tree, reading=Reading(atlas=atlas))
    assert cohort.scans["participant_id"].tolist() == ["03"]


def test_not_a_number_within_a_region_is_refused(tree: Path, atlas: Path) -> None:
    image = nibabel.load(bold_of(tree, "01"))
    series = np.asarray(image.dataobj, dtype=np.float32)
    outside = series.copy()
    outside[0, 0, 0, 5] = np.nan
    nibabel.Nifti1Image(outside, image.affine).to_filename(bold_of(tree, "01"))
    assert np.isfinite(edges_of(open_cohort(tree, reading=Reading(atlas=atlas)))).all()
    series[2, 3, 3, 5] = np.nan
    nibabel.Nifti1Image(series, image.affine).to_filename(bold_of(tree, "01"))
    with pytest.raises(ScanRefused, match="NaN or infinite, first in volume 6"):
        edges_of(open_cohort(tree, reading=Reading(atlas=atlas)))


def test_a_mended_file_changes_the_fingerprint(tree: Path, atlas: Path) -> None:
    def fingerprint() -> str:
        (source,) = open_cohort(tree, reading=Reading(atlas=atlas)).sources.values()
        return source.fingerprint

    first = fingerprint()
    assert first == fingerprint() != ""
    rewrite_confounds(tree, "01", confounds_frame(77))
    second = fingerprint()
    assert first != second
    with bold_of(tree, "02").open("ab") as file:
        file.write(b"\0")
    assert fingerprint() != second


def test_regions_are_named_by_the_table_beside_the_atlas(tree: Path, atlas: Path) -> None:
    beside = atlas.with_name("Slabs-4.tsv")
    named = ("Left", "roi_7", "Right", "Top")
    for file, text in (
        (beside, "index\tname\n0\tBackground\n3\tLeft\n20\tRight\n41\tTop\n"),
        (beside.with_suffix(".csv"), "name,hemi,index\nLeft,L,3\nRight,R,20\nTop,,41\n"),
        (beside.with_suffix(".txt"), "# colours\n3 Left 1 2 3 0\n20 Right 1 2 3 0\n41 Top 9 9 9 0\n"),
    ):
        file.write_text(text)
        assert Atlas(atlas).regions == named
        file.unlink()
    beside.write_text("index\tname\n3\tLeft\n20\tRight\n41\tTop\n")
    cohort = open_cohort(tree, reading=Reading(atlas=atlas))
    (source,) = cohort.sources.values()
    assert source.modality.features[0] == "Left--roi_7"
    assert any("1 regions have no name" in note and "roi_7" in note for note in cohort.account.notes)
    beside.write_text("index\tname\n3\tLeft\n20\tLeft\n")
    with pytest.raises(UsageError, match="same name: Left"):
        Atlas(atlas)
    beside.write_text("index\tname\n3\tLeft\nx\ty\n")
    with pytest.raises(CohortError, match="not understood"):
        Atlas(atlas)
    beside.write_text("colour\tname\n3\tLeft\n")
    with pytest.raises(CohortError, match="no column 'index'"):
        Atlas(atlas)


def test_an_image_that_is_no_atlas_is_refused(tmp_path: Path) -> None:
    probabilities = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    series = np.ones((*SHAPE, 3), dtype=np.int16)
    for image, reason in (
        (probabilities, r"no image of labels: it holds 504 values, such as 0\.\d+"),
        (series, "series of volumes"),
        (np.eye(8)[:, :, None].repeat(4, axis=2).astype(np.int16), "it holds 1 values"),
    ):
        with pytest.raises(UsageError, match=reason):
            Atlas(write_image(tmp_path / "atlas.nii.gz", image, AFFINE))
    with pytest.raises(UsageError, match="the file is missing"):
        Atlas(tmp_path / "none.nii.gz")


def test_an_atlas_and_series_need_each_other(tree: Path, atlas: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="nothing but 6 BOLD series") as error:
        open_cohort(tree)
    assert "--atlas LABELS.nii.gz" in str(error.value)
    with pytest.raises(UsageError, match="no BOLD series that the atlas could be used for"):
        open_cohort(xcpd(tmp_path / "xcp_d"), reading=Reading(atlas=atlas, entities="atlas=Gordon"))
    people = table(tmp_path / "people.tsv", participant_id=["01", "02"], age=[20, 30], lh_x_area=[1.0, 2.0])
    with pytest.raises(UsageError, match="no BOLD series that the atlas could be used for"):
        open_cohort(people, reading=Reading(atlas=atlas))
    cohort = open_cohort(people, reading=Reading(atlas=atlas), add=[parse_added(f"fmri/rest={tree}")])
    assert list(cohort.sources) == ["smri/people", "fmri/rest"]
    assert cohort.sources["fmri/rest"].modality.features == EDGES


def test_series_in_people_s_own_space_do_not_meet_an_atlas(tree: Path, atlas: Path) -> None:
    for person in ("01", "02", "03"):
        bold_of(tree, person).unlink()
    with pytest.raises(CohortError, match="none of the 3 BOLD series of this tree can meet the atlas"):
        open_cohort(tree, reading=Reading(atlas=atlas))


def test_ica_aroma_takes_the_images_that_it_has_cleaned(tree: Path, atlas: Path) -> None:
    with pytest.raises(CohortError, match="none of the 6 BOLD series") as error:
        open_cohort(tree, reading=Reading(atlas=atlas, confounds="ica_aroma"))
    assert "desc-smoothAROMAnonaggr_bold" in str(error.value)
    for person in ("01", "02", "03"):
        cleaned = bold_of(tree, person).name.replace("preproc", "smoothAROMAnonaggr")
        shutil.copy(bold_of(tree, person), bold_of(tree, person).with_name(cleaned))
    cohort = open_cohort(tree, reading=Reading(atlas=atlas, confounds="ica_aroma"))
    assert np.tanh(edges_of(cohort)[0]) == pytest.approx(0.6, abs=0.15)


def test_several_spaces_tasks_or_runs_are_chosen_by_entities(tree: Path, atlas: Path) -> None:
    for person in ("01", "02", "03"):
        for old, new in (("task-rest", "task-film"), (SPACE, "space-MNI152NLin6Asym")):
            other = bold_of(tree, person).name.replace(old, new)
            shutil.copy(bold_of(tree, person), bold_of(tree, person).with_name(other))
        film = confounds_of(tree, person).name.replace("rest", "film")
        shutil.copy(confounds_of(tree, person), confounds_of(tree, person).with_name(film))
    with pytest.raises(CohortError, match="could be the BOLD series of sub-01"):
        open_cohort(tree, reading=Reading(atlas=atlas))
    chosen = Reading(atlas=atlas, entities="task=film,space=MNI152NLin2009cAsym")
    assert len(open_cohort(tree, reading=chosen)) == 3


def test_images_and_series_of_one_tree_are_one_cohort(tmp_path: Path, atlas: Path) -> None:
    tree = fmriprep(tmp_path / "fmriprep")
    bold_tree(tree)
    both = open_cohort(tree, reading=Reading(atlas=atlas, entities="desc=preproc"))
    assert list(both.sources) == ["smri/t1w", "fmri/slabs_4"]
    assert all(source.present.all() for source in both.sources.values())
    only = open_cohort(tree, reading=Reading(atlas=atlas, entities="suffix=bold"))
    assert list(only.sources) == ["fmri/slabs_4"]
    images = open_cohort(tree, reading=Reading(entities="desc=preproc"))
    assert list(images.sources) == ["smri/t1w"]
    assert any("6 BOLD series are left aside; say by which atlas" in note for note in images.account.notes)


def test_repetition_times_that_differ_are_told(tree: Path, atlas: Path) -> None:
    sidecar = bold_of(tree, "02").with_name(bold_of(tree, "02").name.replace(".nii.gz", ".json"))
    sidecar.write_text('{"RepetitionTime": 0.8}')
    cohort = open_cohort(tree, reading=Reading(atlas=atlas))
    assert any("0.8 s in 1, 2 s in 2" in note for note in cohort.account.notes)
    sidecar.write_text("[]")
    assert not any("repetition" in note for note in open_cohort(
        tree, reading=Reading(atlas=atlas)).account.notes), "the header says 2 s"  # fmt: skip


def test_a_single_run_too_short_for_its_regressors_is_refused(tmp_path: Path, atlas: Path) -> None:
    tree = describe(tmp_path / "short")
    func = tree / "sub-1" / "func"
    confounds = func / "sub-1_task-rest_desc-confounds_timeseries.tsv"
    for volumes in (69, 68):  # one is before the steady state, 27 regressors and a trend cost 28
        write_confounds(confounds, confounds_frame(0, volumes=volumes))
        write_bold(
            func / f"sub-1_task-rest_{SPACE}_desc-preproc_bold.nii.gz", signals_of(0, volumes=volumes)
        )
        if volumes == 69:
            assert len(open_cohort(tree, reading=Reading(atlas=atlas))) == 1
    with pytest.raises(CohortError, match="none of the 1 files can be used") as error:
        open_cohort(tree, reading=Reading(atlas=atlas))
    reason = "it is worth 39 volumes (of 68 volumes 1 before the steady state left out; 27 regressors)"
    assert reason in str(error.value)


@pytest.mark.real
def test_real_series_have_the_means_that_nibabel_gives(real_data: Path) -> None:
    for name, volumes in (("fmri1.nii.gz", 40), ("functional.nii", 20), ("example4d.nii.gz", 2)):
        path = real_data / "nifti_samples" / name
        header = series_header(path)
        image = nibabel.load(path)
        assert (*header.shape, header.volumes) == image.shape
        assert header.volumes == volumes
        np.testing.assert_allclose(header.affine, image.affine, atol=1e-4)
        regions = np.random.default_rng(0).integers(0, 5, header.shape).astype(np.int32)
        series = image.get_fdata()
        expected = np.stack([series[regions == region + 1].mean(axis=0) for region in range(4)], axis=1)
        np.testing.assert_allclose(region_means(path, regions), expected, rtol=1e-9)
    assert series_header(real_data / "nifti_samples" / "fmri1.nii.gz").seconds == pytest.approx(1.35)
    # its header says 2000 "seconds"
    assert series_header(real_data / "nifti_samples" / "example4d.nii.gz").seconds is None
    with pytest.raises(ScanRefused, match="does not say how the image lies in space"):
        series_header(real_data / "nifti_samples" / "filtered_func_data.nii.gz")
    with pytest.raises(ScanRefused, match="is one volume"):
        series_header(real_data / "nifti_samples" / "someones_epi.nii.gz")
    with pytest.raises(ScanRefused, match="the file is one volume"):
        series_header(real_data / "nifti_samples" / "norm.mgz")
