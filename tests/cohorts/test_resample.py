"""Images of other grids on the grid of a template: where they land, and what is written down about it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import pytest
from battery import check_cohort
from nifti_files import voxels, write_image

from hpc_brainage.cohorts.nifti import load_volume
from hpc_brainage.cohorts.reading import Reading
from hpc_brainage.cohorts.recipe import read_recipe
from hpc_brainage.cohorts.resample import load_resampled, open_template
from hpc_brainage.cohorts.sources import open_cohort
from hpc_brainage.errors import ScanRefused, UsageError

FINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -24], [0, 0, 1, -28], [0, 0, 0, 1]])
COARSE = np.array([[2.0, 0, 0, -18], [0, 2, 0, -20], [0, 0, 2, -24], [0, 0, 0, 1]])
COARSE_SHAPE = (18, 20, 24)


def wave(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A smooth image that is a function of the place in millimetres, whatever the grid."""
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
    x, y, z = np.moveaxis(place + affine[:3, 3], -1, 0)
    return (100 + 30 * np.sin(x / 9) + 20 * np.cos(y / 11) + z).astype(np.float32)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return write_image(tmp_path / "template.nii.gz", wave(COARSE_SHAPE, COARSE), COARSE, orientation="LPI")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of a fine grid, of which one is stored from right to left, and one of the template's."""
    folder = tmp_path / "images"
    fine = wave((42, 48, 56), FINE)
    write_image(folder / "sub-1_T1w.nii.gz", fine, FINE)
    write_image(folder / "sub-2_T1w.nii.gz", fine, FINE, orientation="LAS")
    write_image(folder / "sub-3_T1w.nii.gz", wave(COARSE_SHAPE, COARSE), COARSE)
    return folder


def test_what_is_resampled_lies_where_it_lay(images: Path, template: Path) -> None:
    grid = open_template(str(template))
    expected = wave(COARSE_SHAPE, COARSE)
    for name in ("sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"):
        moved = load_resampled(images / name, grid)
        assert (moved.shape, moved.dtype, moved.flags.f_contiguous) == (COARSE_SHAPE, np.float32, True)
        np.testing.assert_allclose(moved, expected, atol=0.01)


def test_a_cohort_of_several_grids_comes_onto_one(images: Path, template: Path) -> None:
    reading = Reading(resample=str(template))
    cohort = check_cohort(lambda: open_cohort(images, reading=reading))
    (source,) = cohort.sources.values()
    assert len(cohort) == 3
    assert (source.stored.numbers, source.stored.axes) == ("float32", "zyx")
    assert source.modality.shape == COARSE_SHAPE
    np.testing.assert_allclose(np.array(source.modality.affine), COARSE)
    for row in range(3):
        np.testing.assert_allclose(source.values(row), wave(COARSE_SHAPE, COARSE), atol=0.01)
    untouched = load_volume(images / "sub-3_T1w.nii.gz")
    np.testing.assert_array_equal(source.values(2), untouched)  # it already was on that grid
    assert "images: 2 of 3 images are resampled to the 18 x 20 x 24 voxels of template.nii.gz" in (
        cohort.account.notes
    )
    assert not cohort.account.refusals


def test_the_recipe_tells_the_grid_and_the_method_and_no_path(images: Path, template: Path) -> None:
    recipe = open_cohort(images, reading=Reading(resample=str(template))).recipe
    kept = recipe["resampled_to"]
    assert kept["template"] == "template.nii.gz"
    assert kept["interpolation"] == "continuous"
    assert kept["nilearn"] == version("nilearn")
    assert str(template.parent) not in str(recipe)
    same = write_image(template.with_name("other.nii"), wave(COARSE_SHAPE, COARSE) * 2, COARSE)
    shifted = COARSE.copy()
    shifted[0, 3] += 1
    other = write_image(template.with_name("shifted.nii"), wave(COARSE_SHAPE, COARSE), shifted)
    hashes = [open_template(str(path)).record()["resampled_to"]["grid_sha256"] for path in (same, other)]
    assert [found == kept["grid_sha256"] for found in hashes] == [True, False]


def test_without_it_other_grids_are_refused_and_it_is_named(images: Path) -> None:
    cohort = open_cohort(images)
    assert [refusal.scan for refusal in cohort.account.refusals] == ["sub-3"]
    assert any("--resample TEMPLATE" in note for note in cohort.account.notes)
    with pytest.raises(ScanRefused) as refused:
        load_volume(images / "sub-3_T1w.nii.gz", (42, 48, 56), FINE)
    assert "--resample" in str(refused.value.hint)


def test_no_value_is_made_up_beyond_those_of_the_image(tmp_path: Path, template: Path) -> None:
    """Splines overshoot at edges; a probability above 1 would be no probability."""
    mask = np.zeros((42, 48, 56), np.float32)
    mask[10:31, 12:35, 15:41] = 1.0
    mask[20, 20, 20] = 0.5
    path = write_image(tmp_path / "sub-1_label-GM_probseg.nii.gz", mask, FINE)
    moved = load_resampled(path, open_template(str(template)))
    assert (moved.min(), moved.max()) == (0.0, 1.0)
    assert np.unique(moved).size > 2


def test_an_image_outside_of_the_template_is_refused(tmp_path: Path, template: Path) -> None:
    far = FINE.copy()
    far[0, 3] += 500
    path = write_image(tmp_path / "far.nii.gz", wave((42, 48, 56), FINE), far)
    with pytest.raises(ScanRefused, match=r"nothing of it lies within the 18 x 20 x 24 voxels"):
        load_resampled(path, open_template(str(template)))


@pytest.mark.parametrize(("name", "millimetres"), [("mni152-1mm", 1), ("mni152-2mm", 2)])
def test_the_templates_of_nilearn_are_known_by_name(name: str, millimetres: int) -> None:
    template = open_template(name)
    assert template.name == name
    np.testing.assert_allclose(np.diag(template.grid.affine), [*[millimetres] * 3, 1])
    assert template.grid.shape == {1: (197, 233, 189), 2: (99, 117, 95)}[millimetres]


def test_what_is_no_template_is_an_error_of_usage(tmp_path: Path, images: Path) -> None:
    with pytest.raises(UsageError, match="no such template") as error:
        open_template("mni152-1m")
    assert "mni152-1mm" in str(error.value.hint)
    (tmp_path / "text.nii").write_text("no image" * 100)
    with pytest.raises(UsageError, match="cannot be used: the file is no image"):
        open_template(str(tmp_path / "text.nii"))
    lost = nibabel.Nifti1Image(voxels(), None)
    lost.to_filename(tmp_path / "lost.nii")
    with pytest.raises(UsageError, match="left and right are unknown"):
        open_template(str(tmp_path / "lost.nii"))


def test_a_source_without_images_does_not_hear_it(tmp_path: Path, template: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("participant_id,age,lh_bankssts_thickness\na,20,2.5\nb,30,2.4\n")
    with pytest.raises(UsageError, match="--resample would not be heard"):
        open_cohort(table, reading=Reading(resample=str(template)))


def test_a_recipe_finds_the_template_beside_itself(tmp_path: Path, images: Path, template: Path) -> None:
    recipe = tmp_path / "cohort.toml"
    recipe.write_text('source = "images"\nresample = "template.nii.gz"\nvoxels = "float32"\n')
    reading = read_recipe(recipe).reading
    assert (Path(str(reading.resample)), reading.voxels) == (template, "float32")
    recipe.write_text('source = "images"\nresample = "mni152-2mm"\n')
    assert read_recipe(recipe).reading.resample == "mni152-2mm"
    recipe.write_text('source = "images"\nvoxels = "int8"\n')
    with pytest.raises(UsageError, match="voxels is 'int8'"):
        read_recipe(recipe)


@pytest.mark.real
def test_real_images_come_onto_the_mni_grid(real_data: Path) -> None:
    path = real_data / "nifti_samples" / "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
    template = open_template("mni152-2mm")
    moved = load_resampled(path, template)
    expected = load_volume(path)[::2, ::2, ::2]
    np.testing.assert_allclose(moved, expected, atol=1e-2 * expected.max())
