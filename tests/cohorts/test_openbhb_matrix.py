"""The challenge's matrix of OpenBHB, at its true width with a few sparse rows."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import openbhb_trees as trees
import pytest
from battery import check_cohort

from hpc_brainage.cohorts.openbhb import read_openbhb
from hpc_brainage.cohorts.openbhb_blocks import BLOCKS, PLACES, WIDTH
from hpc_brainage.cohorts.openbhb_matrix import is_openbhb_matrix, read_openbhb_matrix
from hpc_brainage.cohorts.openbhb_names import OpenBHBArray
from hpc_brainage.cohorts.sources import open_cohort
from hpc_brainage.errors import CohortError, ScanRefused

ARRAYS = {array.name: array for array in BLOCKS}
HEADER = "participant_id\tage\tsite\tsplit"
SPARSE = 64  # numbers at the beginning and at the end of an image that are not 0


def matrix(path: Path, rows: int, width: int = WIDTH, dtype: type = np.float32) -> np.ndarray:
    """A file of its true size, of which only what is written takes room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=(rows, width))


def fill(numbers: np.ndarray, person: int) -> None:
    """One row: ROI tables as `openbhb_trees` has them, and the ends of the other blocks."""
    for name, place in PLACES.items():
        if name in trees.ROI_SHAPES:
            numbers[place] = trees.values(name, person).reshape(-1)
        else:
            numbers[place.start : place.start + SPARSE] = np.arange(1, SPARSE + 1) / SPARSE + person
            numbers[place.stop - SPARSE : place.stop] = 0.5 + person


def table(path: Path, *rows: str, header: str = HEADER) -> None:
    path.write_text("\n".join([header, *(row.replace(" ", "\t") for row in rows)]) + "\n")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.npy of two people and test.npy of one, as the challenge's kit unpacks."""
    folder = tmp_path_factory.mktemp("kit")
    train, test = (matrix(folder / "data" / f"{name}.npy", n) for name, n in (("train", 2), ("test", 1)))
    for person, row in enumerate([*train, *test]):
        fill(row, person)
    table(
        folder / "data" / "train.tsv",
        f"{trees.IDS[0]} 19.0 48 internal_train",
        f"{trees.IDS[1]} 61.5 3 internal_train",
    )
    table(folder / "data" / "test.tsv", f"{trees.IDS[2]} 8.25  external_test")
    return folder


def template(folder: Path, array: OpenBHBArray, voxels: int, inside: float) -> np.ndarray:
    """An image that is above its threshold in so many voxels, scattered; returns those, bool (x, y, z)."""
    chosen = np.random.default_rng(voxels).permutation(int(np.prod(array.shape))) < voxels
    kept = chosen.reshape(array.shape)
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image((kept * inside).astype(np.float32), np.diag([1.5, 1.5, 1.5, 1]))
    nibabel.save(image, folder / array.template)
    return kept


def size(name: str) -> int:
    return PLACES[name].stop - PLACES[name].start


def test_the_blocks_lie_where_the_challenge_puts_them() -> None:
    stops = [PLACES[array.name].stop for array in BLOCKS]
    assert stops == [519945, 2347040, 3657776, 3658060, 3658536, 3659572]
    assert stops[-1] == WIDTH


def test_people_and_features_are_those_of_the_other_releases(kit: Path, tmp_path: Path) -> None:
    cohort = check_cohort(lambda: read_openbhb_matrix(kit))
    release = read_openbhb(trees.huggingface(tmp_path / "openbhb"))
    assert cohort.name == "openbhb"
    assert cohort.scans["participant_id"].tolist() == release.scans["participant_id"].tolist()
    assert cohort.scans["age"].tolist() == [19.0, 61.5, 8.25]
    assert cohort.scans["site"].tolist() == ["48", "3", ""]
    assert cohort.scans["split"].tolist() == ["train", "train", "external_test"]
    assert list(cohort.sources) == [
        "smri/xhemi", "smri/vbm_roi", "smri/desikan_roi", "smri/destrieux_roi"
    ]  # fmt: skip
    for name in trees.ROI_SHAPES:
        ours, theirs = cohort.sources[f"smri/{name}"], release.sources[f"smri/{name}"]
        assert ours.modality == theirs.modality
        for row in range(3):
            np.testing.assert_array_equal(ours.load(row), theirs.load(row))
    surface = cohort.sources["smri/xhemi"].load(1)
    assert (surface.shape, surface[0, 0], surface[7, -1]) == ((8, 163842), 1 + 1 / SPARSE, 1.5)
    (source,) = cohort.account.sources
    assert (source.rows, source.matched) == (3, 3)
    assert not cohort.account.refusals


def test_a_folder_its_data_and_a_single_matrix_are_recognised(kit: Path) -> None:
    assert is_openbhb_matrix(kit)
    assert is_openbhb_matrix(kit / "data")
    assert is_openbhb_matrix(kit / "data" / "train.npy")
    assert open_cohort(kit).scans.equals(open_cohort(kit / "data").scans)
    assert len(open_cohort(kit / "data" / "train.npy")) == 2


def test_no_matrix_is_read_to_tell_what_a_folder_is(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        raise AssertionError(f"{path.name} was read as time series")

    monkeypatch.setattr("hpc_brainage.cohorts.timeseries.read_series", read)
    for folder in (kit, kit / "data"):
        assert open_cohort(folder).recipe["layout"] == "matrix"


def test_files_of_single_scans_come_first(kit: Path, tmp_path: Path) -> None:
    tree = trees.huggingface(tmp_path / "openbhb")
    for name in ("train.npy", "train.tsv"):
        (tree / name).symlink_to(kit / "data" / name)
    assert not is_openbhb_matrix(tree)
    assert "smri/cat12vbm" in open_cohort(tree).sources


@pytest.mark.parametrize("place", ["resource", "data/masks", ""])
def test_images_are_put_back_into_their_grid_by_the_templates(kit: Path, place: str) -> None:
    vbm, quasiraw = ARRAYS["cat12vbm"], ARRAYS["quasiraw"]
    cohort = read_openbhb_matrix(kit)
    for array in (vbm, quasiraw):
        note = next(note for note in cohort.account.notes if f"smri/{array.name} is left out" in note)
        assert array.template in note
    kept = {
        "cat12vbm": template(kit / place, vbm, size("cat12vbm"), 0.06),
        "quasiraw": template(kit / place, quasiraw, size("quasiraw"), 1.0),
    }
    try:
        cohort = check_cohort(lambda: read_openbhb_matrix(kit), loads=1)
        for name, inside in kept.items():
            source = cohort.sources[f"smri/{name}"]
            assert source.modality.affine == ((1.5, 0, 0, 0), (0, 1.5, 0, 0), (0, 0, 1.5, 0), (0, 0, 0, 1))
            volume = source.load(2)
            # what nilearn's apply_mask gives of the volume, in C order of the grid
            assert volume[inside][[0, 1, -1]].tolist() == [2 + 1 / SPARSE, 2 + 2 / SPARSE, 2.5]
            assert not volume[~inside].any()
        files = {entry["name"] for entry in cohort.recipe["files"]}
        assert files == {"train.tsv", "test.tsv", vbm.template, quasiraw.template}
    finally:
        for array in (vbm, quasiraw):
            (kit / place / array.template).unlink()


def test_a_template_with_other_voxels_is_not_used(kit: Path) -> None:
    array = ARRAYS["cat12vbm"]
    template(kit / "resource", array, size("cat12vbm") - 1, 0.06)
    try:
        cohort = read_openbhb_matrix(kit)
    finally:
        (kit / "resource" / array.template).unlink()
    assert "smri/cat12vbm" not in cohort.sources
    (note,) = [note for note in cohort.account.notes if "smri/cat12vbm is left out" in note]
    assert "519,944 voxels above 0.05" in note
    assert "519,945" in note


def test_scans_of_a_table_without_participants_are_called_after_their_rows(
    kit: Path, tmp_path: Path
) -> None:
    (tmp_path / "internal_test.npy").symlink_to(kit / "data" / "train.npy")
    (tmp_path / "external_test.npy").symlink_to(kit / "data" / "test.npy")
    table(tmp_path / "internal_test.tsv", "19.0 48", "61.5 3", header="age\tsiteXacq")
    table(tmp_path / "external_test.tsv", "8.25 60", header="age\tsiteXacq")
    cohort = check_cohort(lambda: read_openbhb_matrix(tmp_path))
    assert cohort.scans["participant_id"].tolist() == [
        "internal_test-000000", "internal_test-000001", "external_test-000000"
    ]  # fmt: skip
    assert cohort.scans["split"].tolist() == ["internal_test", "internal_test", "external_test"]
    assert cohort.scans["site"].tolist() == ["48", "3", "60"]
    notes = "\n".join(cohort.account.notes)
    assert "internal_test.tsv: no column says who was scanned" in notes
    assert "external_test.tsv: no column holds the split" in notes


def test_a_test_and_its_halves_are_not_read_as_different_people(kit: Path, tmp_path: Path) -> None:
    for name in ("test", "internal_test"):
        (tmp_path / f"{name}.npy").symlink_to(kit / "data" / "test.npy")
        (tmp_path / f"{name}.tsv").symlink_to(kit / "data" / "test.tsv")
    with pytest.raises(CohortError, match="side by side"):
        read_openbhb_matrix(tmp_path)


@pytest.mark.parametrize(
    ("width", "dtype"), [(WIDTH - 1, np.float32), (284, np.float64), (WIDTH, np.int16)]
)
def test_another_width_is_refused_with_the_blocks_that_are_expected(
    tmp_path: Path, width: int, dtype: type
) -> None:
    matrix(tmp_path / "train.npy", 2, width, dtype)
    table(tmp_path / "train.tsv", "a 20 1 train", "b 30 1 train")
    with pytest.raises(CohortError, match=f"shape \\(2, {width}\\)") as error:
        open_cohort(tmp_path)
    assert "3,659,572 numbers for each scan: vbm 519,945, quasiraw 1,827,095" in str(error.value)


def test_a_matrix_that_is_cut_off_or_has_other_rows_than_its_table_is_refused(tmp_path: Path) -> None:
    matrix(tmp_path / "train.npy", 2)
    table(tmp_path / "train.tsv", "a 20 1 train")
    with pytest.raises(CohortError, match="1 rows and the matrix has 2"):
        read_openbhb_matrix(tmp_path)
    with (tmp_path / "train.npy").open("r+b") as file:
        file.truncate(WIDTH * 4)
    table(tmp_path / "train.tsv", "a 20 1 train", "b 30 1 train")
    with pytest.raises(CohortError, match="cut off"):
        read_openbhb_matrix(tmp_path)
    (tmp_path / "train.npy").write_bytes(b"no matrix")
    with pytest.raises(CohortError, match="not a readable"):
        read_openbhb_matrix(tmp_path)
    with pytest.raises(CohortError, match="no matrix of OpenBHB's challenge"):
        read_openbhb_matrix(tmp_path / "elsewhere")


def test_what_cannot_be_trusted_costs_that_scan_when_it_is_loaded(tmp_path: Path) -> None:
    numbers = matrix(tmp_path / "train.npy", 3)
    fill(numbers[0], 0)
    numbers[0, PLACES["desikan_roi"]][4] = 0  # an area
    numbers[0, PLACES["xhemi"]][9] = np.nan
    fill(numbers[1], 1)
    numbers[1, PLACES["vbm_roi"]][0] = np.inf
    del numbers
    table(tmp_path / "train.tsv", "a 20 1 train", "b 30 1 train", "c 40 1 train")
    cohort = read_openbhb_matrix(tmp_path)
    assert np.isnan(cohort.sources["smri/desikan_roi"].load(0)).nonzero()[0].tolist() == [4]
    for key, row, reason in (
        ("smri/xhemi", 0, "NaN or infinite"),
        ("smri/vbm_roi", 1, "infinite"),
        ("smri/xhemi", 2, "the image is empty"),
    ):
        with pytest.raises(ScanRefused, match=reason):
            cohort.sources[key].load(row)
    before = cohort.sources["smri/xhemi"].fingerprint
    with (tmp_path / "train.npy").open("r+b") as file:
        file.truncate(WIDTH * 4)
    with pytest.raises(ScanRefused, match="has changed"):
        cohort.sources["smri/vbm_roi"].load(0)
    matrix(tmp_path / "train.npy", 3, dtype=np.float64)
    assert read_openbhb_matrix(tmp_path).sources["smri/xhemi"].fingerprint != before


@pytest.mark.real
def test_the_real_template_has_as_many_voxels_as_the_matrix(real_data: Path, kit: Path) -> None:
    array = ARRAYS["quasiraw"]
    (kit / array.template).symlink_to(real_data / "openbhb_resources" / array.template)
    try:
        source = read_openbhb_matrix(kit).sources["smri/quasiraw"]
    finally:
        (kit / array.template).unlink()
    assert source.modality.affine[0] == (-1.0, 0.0, 0.0, 90.0)
    assert np.count_nonzero(source.load(0)) == 2 * SPARSE
