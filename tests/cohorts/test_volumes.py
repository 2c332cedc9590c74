"""Folders of images: what is recognised, whose it is, which grid counts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from battery import check_cohort
from nifti_files import AFFINE, SHAPE, voxels, write_image

from hpc_brainage.cohorts.reading import Reading, Voxels
from hpc_brainage.cohorts.sources import open_cohort, parse_added
from hpc_brainage.cohorts.volumes import is_volumes, read_volumes, volume_files
from hpc_brainage.errors import CohortError, ScanRefused
from hpc_brainage.modality import ScaledIntegers, Stored


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images of one grid in three orientations, one of another grid, one elsewhere in space."""
    folder = tmp_path / "images"
    for person in range(6):
        orientation = ("RAS", "LAS", "PIR")[person % 3]
        write_image(folder / f"sub-{person}_T1w.nii.gz", voxels(person), orientation=orientation)
    write_image(folder / "sub-6_T1w.nii.gz", voxels(6, (5, 6, 8)))
    shifted = AFFINE.copy()
    shifted[1, 3] += 4
    write_image(folder / "sub-7_T1w.nii.gz", voxels(7), affine=shifted)
    return folder


def test_a_folder_of_images_is_a_cohort_of_volumes(images: Path) -> None:
    assert is_volumes(images)
    cohort = check_cohort(lambda: open_cohort(images))
    assert cohort.name == "images"
    assert cohort.scans["participant_id"].tolist() == list("012345")
    (source,) = cohort.sources.values()
    modality = source.modality
    assert (modality.key, modality.kind, modality.shape) == ("smri/images", "volume", SHAPE)
    np.testing.assert_allclose(np.array(modality.affine), AFFINE)
    for row in range(6):
        np.testing.assert_array_equal(source.values(row), voxels(row))
    reasons = {refusal.scan: refusal.reason for refusal in cohort.account.refusals}
    assert list(reasons) == ["sub-6", "sub-7"]
    assert "5 x 6 x 8, not 5 x 6 x 7" in reasons["sub-6"]
    assert "4 mm from where they should be" in reasons["sub-7"]
    assert cohort.account.notes[-1].startswith("images: nothing here says ages or sexes")
    assert cohort.account.notes[:-1] == (
        "images: 4 of 6 images are turned to RAS order: 2 from LAS, 2 from PIR",
        "images: 2 of 8 images lie on other grids; if all are registered to one space, --resample TEMPLATE "
        "brings them onto one grid",
    )


def test_images_that_only_a_kind_tells_apart_may_be_of_one_person(tmp_path: Path) -> None:
    for kind in ("gm", "t1", "wm"):
        write_image(tmp_path / "images" / f"someone_{kind}_converted.nii.gz")
    write_image(tmp_path / "images" / "another_t1_converted.nii.gz")
    (note,) = [note for note in open_cohort(tmp_path / "images").account.notes if "kind of image" in note]
    assert note.startswith("images: 3 images are told apart by a kind of image only: someone_gm")
    people = tmp_path / "people" / "x"
    for person in ("anna", "t10", "otto"):
        write_image(people / f"{person}_t1.nii.gz")
    assert "kind of image" not in " ".join(open_cohort(people).account.notes)


@pytest.mark.parametrize(
    ("types", "voxels_as", "kept", "note"),
    [
        (("int16", "int16", "int16"), "native", "int16", None),
        (("uint8", "uint8", "uint8"), "native", "uint8", None),
        (("int16", "int16", "int16"), "float32", "float32", None),
        (("int16", "uint8", "int16"), "native", "float32", "2 int16, 1 uint8"),
        (("int16", "float32", "int16"), "native", "float32", "1 float32, 2 int16"),
        (("int16", "uint8", "int16"), "float32", "float32", None),
        (("int32", "int32", "int32"), "native", "float32", None),
        (("float64", "float64", "float64"), "native", "float32", None),
    ],
)
def test_integers_are_kept_where_all_images_have_the_same(
    tmp_path: Path, types: tuple[str, ...], voxels_as: Voxels, kept: str, note: str | None
) -> None:
    folder = tmp_path / "images"
    for person, numbers in enumerate(types):
        array = (voxels(person) % 200).astype(numbers)
        write_image(folder / f"sub-{person}_T1w.nii.gz", array, orientation=("RAS", "LIA")[person % 2])
    reading = Reading(voxels=voxels_as)
    cohort = check_cohort(lambda: open_cohort(folder, reading=reading))
    (source,) = cohort.sources.values()
    assert source.stored == Stored(kept, "zyx")
    for person in range(3):
        np.testing.assert_array_equal(source.values(person), voxels(person) % 200)
    said = [told for told in cohort.account.notes if "kept as float32" in told]
    assert len(said) == (note is not None)
    assert note is None or said[0].endswith(note)


def test_an_image_that_is_refused_has_no_say_in_how_the_others_are_kept(tmp_path: Path) -> None:
    for person in range(3):
        write_image(tmp_path / f"sub-{person}_T1w.nii", voxels(person))
    write_image(tmp_path / "sub-3_T1w.nii", voxels(3, (5, 6, 8)).astype(np.float32))
    (source,) = read_volumes(tmp_path).sources.values()
    assert source.stored == Stored("int16", "zyx")


def test_each_scan_keeps_its_own_slope_and_offset(tmp_path: Path) -> None:
    for person in range(2):
        path = write_image(tmp_path / f"sub-{person}_T1w.nii", voxels(person))
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([0.5 + person, -3.0], "<f4").tobytes()  # scl_slope, scl_inter
        path.write_bytes(bytes(content))
    (source,) = read_volumes(tmp_path).sources.values()
    for person in range(2):
        loaded = source.load(person)
        assert isinstance(loaded, ScaledIntegers)
        assert (loaded.slope, loaded.offset) == (0.5 + person, -3.0)
        np.testing.assert_array_equal(source.values(person), voxels(person) * (0.5 + person) - 3)


def test_images_are_added_to_a_table_by_known_ids(images: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for name in ("IXI002-Guys-0828-T1.nii", "IXI012-HH-1211-T1.nii", "IXI013-HH-1212-T1.nii"):
        write_image(others / name)
    table = tmp_path / "people.csv"
    pd.DataFrame({"id": ["IXI012", "IXI002", "IXI099"], "age": [30, 40, 50]}).to_csv(table, index=False)
    cohort = open_cohort(table, add=[parse_added(f"smri/t1w={others}/*.nii")])
    assert cohort.scans["participant_id"].tolist() == ["IXI012", "IXI002"]
    assert cohort.sources["smri/t1w"].present.all()
    assert cohort.account.sources[1].only_here == (("IXI013-HH-1212", "", ""),)
    assert list(open_cohort(table, add=[parse_added(f"smri={others}")]).sources) == ["smri/others"]


def test_a_glob_is_a_main_source(images: Path) -> None:
    cohort = open_cohort(Path(f"{images}/sub-[0-3]_*.nii.gz"))
    assert cohort.name == "images"
    assert len(cohort) == 4
    with pytest.raises(CohortError, match="nothing at this path"):
        open_cohort(Path(f"{images}/none_*.nii.gz"))


def test_images_that_are_all_called_the_same_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for subject in ("bert", "sub-02_ses-1"):
        write_image(tmp_path / "subjects" / subject / "mri" / "norm.mgz", orientation="LIA")
    cohort = read_volumes(Path(f"{tmp_path}/subjects/*/mri/norm.mgz"))
    assert cohort.scans[["participant_id", "session_id"]].to_numpy().tolist() == [["bert", ""], ["02", "1"]]


def test_names_that_spm_put_something_before_are_read(tmp_path: Path) -> None:
    for person in ("01", "02"):
        write_image(tmp_path / f"mwp1sub-{person}_ses-2_T1w.nii")
    cohort = read_volumes(tmp_path)
    assert cohort.scans[["participant_id", "session_id"]].to_numpy().tolist() == [["01", "2"], ["02", "2"]]


def test_two_images_of_one_scan_are_an_error(images: Path) -> None:
    write_image(images / "sub-0_desc-brain_mask.nii.gz")
    with pytest.raises(CohortError, match="two files are the same scan, sub-0") as error:
        read_volumes(images)
    assert "sub-0_T1w.nii.gz" in str(error.value)


def test_what_cannot_be_read_is_refused_and_the_others_go_on(images: Path) -> None:
    (images / "sub-8_T1w.nii.gz").write_bytes(b"")
    (images / "sub-9_T1w.nii.gz").symlink_to("../.git/annex/objects/XX")
    write_image(images / "sub-10_T1w.nii.gz", voxels(shape=(*SHAPE, 3)))
    cohort = read_volumes(images)
    assert len(cohort) == 6
    assert cohort.account.sources[0].rows == 11
    reasons = {refusal.scan: refusal.reason for refusal in cohort.account.refusals}
    assert "empty" in reasons["sub-8"]
    assert "downloaded" in reasons["sub-9"]
    assert "series of volumes" in reasons["sub-10"]


def test_what_is_truncated_or_replaced_later_is_refused_when_loaded(images: Path) -> None:
    cohort = read_volumes(images)
    (source,) = cohort.sources.values()
    content = (images / "sub-0_T1w.nii.gz").read_bytes()
    (images / "sub-0_T1w.nii.gz").write_bytes(content[:-20])
    write_image(images / "sub-1_T1w.nii.gz", voxels(1, (5, 6, 8)))
    write_image(images / "sub-2_T1w.nii.gz", voxels(2).astype(np.float32))
    for row, reason in (
        (0, "cannot be read to its end"), (1, "its grid is 5 x 6 x 8"), (2, "float32, not int16")
    ):  # fmt: skip
        with pytest.raises(ScanRefused, match=reason):
            source.load(row)


def test_images_in_native_space_have_no_common_grid(tmp_path: Path) -> None:
    for person in range(3):
        write_image(tmp_path / f"sub-{person}_T1w.nii", voxels(shape=(5, 6, 7 + person)))
    with pytest.raises(CohortError, match="no two of the 3 images lie on one grid") as error:
        read_volumes(tmp_path)
    assert "register" in str(error.value)


def test_a_folder_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="there are no images"):
        read_volumes(tmp_path)
    for person in range(2):
        (tmp_path / f"sub-{person}_T1w.nii").write_bytes(b"x" * 400)
    with pytest.raises(CohortError, match="none of the 2 images can be used"):
        read_volumes(tmp_path)


def test_a_folder_is_what_it_holds_most_of(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii")
    assert is_volumes(tmp_path)
    assert is_volumes(tmp_path / "a.nii")
    for name in ("a_timeseries.tsv", "b_timeseries.tsv"):
        (tmp_path / name).write_text("x\n")
    assert not is_volumes(tmp_path)
    assert not is_volumes(tmp_path, "fmri")
    (tmp_path / "participants.tsv").write_text("participant_id\n")
    for name in ("b.nii", "c.nii", "d.nii"):
        write_image(tmp_path / name)
    assert not is_volumes(tmp_path)
    assert is_volumes(tmp_path, "smri")


def test_surfaces_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    for name in ("a.dscalar.nii", "a.ptseries.nii", ".a.nii", "a.nii.json", "a.gii", "A.NII.GZ"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in volume_files(tmp_path)] == ["A.NII.GZ"]


def test_the_recipe_knows_what_was_listed_and_no_folder(images: Path) -> None:
    before = read_volumes(images).recipe
    assert str(images) not in str(before)
    write_image(images / "sub-0_T1w.nii.gz", voxels(0) // 2)
    assert read_volumes(images).recipe != before


@pytest.mark.real
def test_real_images_of_different_grids_end_in_an_account_of_all(real_data: Path) -> None:
    cohort = check_cohort(lambda: open_cohort(real_data / "nifti_samples"))
    assert cohort.scans["participant_id"].tolist() == [
        f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted" for tissue in ("gm", "t1", "wm")
    ]
    assert cohort.sources["smri/nifti_samples"].modality.shape == (197, 233, 189)
    reasons = [refusal.reason for refusal in cohort.account.refusals]
    assert len(reasons) == 12
    assert sum("series of volumes" in reason for reason in reasons) == 4
    assert sum("its grid is" in reason for reason in reasons) == 7
    assert sum("from where they should be" in reason for reason in reasons) == 1  # its origin is 0, 0, 0
