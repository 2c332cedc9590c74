"""One image: what is taken, how it is turned, and what no header, however bold, can do."""

from __future__ import annotations

import gzip
import tracemalloc
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import AFFINE, SHAPE, voxels, write_image

from hpc_brainage.cohorts.nifti import SAME_PLACE_MM, load_integers, load_volume, volume_header
from hpc_brainage.errors import ScanRefused
from hpc_brainage.modality import NUMBERS

ORIENTATIONS = [
    "".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)
]  # all 48 of them


def packed(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def with_header(path: Path, **fields: object) -> Path:
    """A plain image with fields of its header overwritten, whatever they then claim."""
    image = write_image(path)
    header = nibabel.Nifti1Header(image.read_bytes()[:348], check=False)
    for field, value in fields.items():
        header[field] = value
    image.write_bytes(header.binaryblock + image.read_bytes()[348:])
    return image


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_of_any_orientation_comes_out_in_ras_order(tmp_path: Path, orientation: str) -> None:
    path = write_image(tmp_path / "scan.nii", orientation=orientation)
    header = volume_header(path)
    assert (header.shape, header.orientation) == (SHAPE, orientation)
    np.testing.assert_allclose(header.affine, AFFINE)
    loaded = load_volume(path, SHAPE, AFFINE)
    assert loaded.dtype == np.float32
    assert loaded.flags.writeable
    np.testing.assert_array_equal(loaded, voxels())
    integers = load_integers(path, SHAPE, AFFINE, "int16")
    assert integers.integers.flags.writeable
    np.testing.assert_array_equal(integers.integers, voxels())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh", "a.mgz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_every_format_and_type_is_read(tmp_path: Path, name: str, dtype: str) -> None:
    array = (voxels() % 200).astype(dtype)
    np.testing.assert_array_equal(load_volume(write_image(tmp_path / name, array)), array)


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    endian=st.sampled_from("<>"),
    slope=st.one_of(st.just(1.0), st.floats(-100, 100, width=32).filter(lambda slope: abs(slope) > 1e-6)),
    offset=st.one_of(st.just(0.0), st.floats(-1000, 1000, width=32)),
    orientation=st.sampled_from(ORIENTATIONS),
    ending=st.sampled_from([".nii", ".nii.gz"]),
    seed=st.integers(0, 2**32),
)
def test_scaled_integers_are_what_nibabel_reads(
    tmp_path_factory: pytest.TempPathFactory, numbers, endian, slope, offset, orientation, ending, seed
) -> None:
    limits = np.iinfo(numbers)
    array = np.random.default_rng(seed).integers(limits.min, limits.max, SHAPE, numbers, endpoint=True)
    header = nibabel.Nifti1Header(endianness=endian)
    header.set_data_dtype(np.dtype(numbers).newbyteorder(endian))
    codes = nibabel.orientations.axcodes2ornt(tuple(orientation))
    turns = nibabel.orientations.ornt_transform(nibabel.io_orientation(AFFINE), codes)
    image = nibabel.Nifti1Image(array, AFFINE, header).as_reoriented(turns)
    image.header.set_data_offset(352)
    image.header["scl_slope"], image.header["scl_inter"] = slope, offset
    path = tmp_path_factory.mktemp("scaled") / f"a{ending}"
    # written by hand: nibabel would choose a scaling of its own
    stored = np.asarray(image.dataobj).astype(header.get_data_dtype())
    plain = image.header.binaryblock + bytes(4) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(plain) if ending == ".nii.gz" else plain)

    expected = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata(dtype=np.float32)
    scaled = load_integers(path, SHAPE, AFFINE, numbers)
    assert scaled.integers.dtype == np.dtype(numbers)
    np.testing.assert_array_equal(scaled.integers, array)
    np.testing.assert_allclose(scaled.values(), expected, rtol=1e-6, atol=1e-4)
    loaded = load_volume(path, SHAPE, AFFINE)
    assert loaded.tobytes() == scaled.values().tobytes()  # to the last bit, the sign of 0 included
    step_by_step = (array.astype(np.float32) * np.float32(slope)) + np.float32(offset)
    assert loaded.tobytes() == step_by_step.tobytes()
    if orientation == "RAS":
        assert scaled.integers.flags.f_contiguous
        assert loaded.flags.f_contiguous


def test_a_refusal_for_an_unreadable_image_does_not_hold_its_path(tmp_path: Path) -> None:
    (tmp_path / "private.nii").mkdir()
    with pytest.raises(ScanRefused) as refusal:
        load_volume(tmp_path / "private.nii")
    assert refusal.value.what == "the file cannot be read to its end (Is a directory)"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_image_that_does_not_fit_into_memory_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*asked: object) -> None:
        raise MemoryError

    path = write_image(tmp_path / name)
    monkeypatch.setattr("hpc_brainage.cohorts.nifti.gunzip", full)
    monkeypatch.setattr("hpc_brainage.cohorts.nifti._streamed", full)
    with pytest.raises(ScanRefused, match="does not fit into memory"):
        load_volume(path)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float64"])
def test_large_numbers_that_cancel_against_the_offset_keep_their_differences(
    tmp_path: Path, dtype: str
) -> None:
    far = 2.0**30
    path = write_image(tmp_path / "scan.nii", (voxels() + far).astype(dtype))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([1.0, -far], dtype="<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    loaded = load_volume(path)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, voxels())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_integers_of_another_type_than_the_others_are_refused(tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name)
    with pytest.raises(ScanRefused, match="its voxels are int16, not uint8"):
        load_integers(path, SHAPE, AFFINE, "uint8")


def test_nifti_2_big_endian_scaling_and_wrong_endings_are_read(tmp_path: Path) -> None:
    nibabel.Nifti2Image(voxels(), AFFINE).to_filename(tmp_path / "two.nii")
    np.testing.assert_array_equal(load_volume(tmp_path / "two.nii"), voxels())
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.Nifti1Image(voxels().astype(">i2"), AFFINE, header).to_filename(tmp_path / "big.nii")
    np.testing.assert_array_equal(load_volume(tmp_path / "big.nii"), voxels())
    scaled = with_header(tmp_path / "scaled.nii", scl_slope=0.5, scl_inter=-3.0)
    np.testing.assert_array_equal(load_volume(scaled), voxels() * 0.5 - 3)
    unpacked = write_image(tmp_path / "plain.nii")
    unpacked.rename(tmp_path / "plain.nii.gz")
    np.testing.assert_array_equal(load_volume(tmp_path / "plain.nii.gz"), voxels())


def test_an_oblique_image_keeps_its_place_and_micrometres_become_millimetres(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    path = write_image(tmp_path / "oblique.nii", affine=turn @ AFFINE, orientation="LPS")
    np.testing.assert_allclose(volume_header(path).affine, turn @ AFFINE, atol=1e-5)
    small = with_header(tmp_path / "small.nii", xyzt_units=3)
    np.testing.assert_allclose(volume_header(small).affine[:3], AFFINE[:3] / 1000)


def test_trailing_axes_of_one_are_dropped_and_longer_ones_refused(tmp_path: Path) -> None:
    for shape in ((*SHAPE, 1), (*SHAPE, 1, 1)):
        path = write_image(tmp_path / "one.nii", voxels(shape=shape))
        np.testing.assert_array_equal(load_volume(path), voxels(shape=shape).reshape(SHAPE))
    for shape in ((*SHAPE, 2), (*SHAPE, 1, 3)):
        with pytest.raises(ScanRefused, match="series of volumes"):
            volume_header(write_image(tmp_path / "many.nii", voxels(shape=shape)))
    for shape in ((5, 6), (5, 6, 1)):
        with pytest.raises(ScanRefused, match="no volume"):
            volume_header(write_image(tmp_path / "flat.nii", voxels(shape=shape)))


def test_another_grid_or_place_is_refused_and_rounding_is_not(tmp_path: Path) -> None:
    path = write_image(tmp_path / "scan.nii", orientation="LIA")
    with pytest.raises(ScanRefused, match="5 x 6 x 7, not 7 x 6 x 5"):
        load_volume(path, (7, 6, 5), AFFINE)
    near, far, zoomed = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.9 * SAME_PLACE_MM
    far[0, 3] += 1.1 * SAME_PLACE_MM
    zoomed[2, 2] = 2.1
    assert load_volume(path, SHAPE, near).shape == SHAPE
    with pytest.raises(ScanRefused, match=r"up to 0\.11 mm"):
        load_volume(path, SHAPE, far)
    with pytest.raises(ScanRefused, match=r"up to 0\.6 mm"):
        load_volume(path, SHAPE, zoomed)
    with pytest.raises(ScanRefused, match="up to nan mm"):
        load_volume(path, SHAPE, AFFINE * np.nan)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(lambda a: a * 0, "every value is 0"), (lambda a: a * 0 + 7, "every value is 7"),
     (lambda a: np.where(a == a[1, 2, 3], np.nan, a), "NaN or infinite"),
     (lambda a: np.where(a == a[1, 2, 3], np.inf, a), "NaN or infinite"),
     (lambda a: a.astype(np.float64) * 1e300, "NaN or infinite"),
     (lambda a: a * 1e5, r"run from 300000 to 9\.97e\+07, intensities from -1e\+07 to 1e\+07"),
     (lambda a: a.astype(np.int32) * -100_000, "intensities from")],
)  # fmt: skip
def test_an_empty_or_broken_volume_is_refused(tmp_path: Path, change, reason: str) -> None:
    path = write_image(tmp_path / "scan.nii.gz", change(voxels().astype(np.float32)))
    with pytest.raises(ScanRefused, match=reason) as refused:
        load_volume(path)
    assert "scan.nii.gz" in str(refused.value)


def test_what_is_no_image_is_refused_with_the_reason(tmp_path: Path) -> None:
    cases = {
        "empty.nii.gz": (b"", "the file is empty"),
        "text.nii": (b"participant_id\tage\n" * 50, "no image of a format"),
        "text.nii.gz": (gzip.compress(b"no image" * 90), "no image of a format"),
        "short.nii": (write_image(tmp_path / "a.nii").read_bytes()[:200], "no image of a format"),
        "half.nii.gz": (packed(tmp_path / "a.nii").read_bytes()[:60], "cannot be read to its end"),
        "pointer.nii.gz": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        "pair.nii": (with_header(tmp_path / "b.nii", magic=b"ni1").read_bytes(), "no image of a format"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        for read in (volume_header, load_volume):
            with pytest.raises(ScanRefused, match=reason):
                read(tmp_path / name)
    with pytest.raises(ScanRefused, match="the file is missing"):
        volume_header(tmp_path / "nowhere.nii")
    (tmp_path / "annexed.nii.gz").symlink_to("../.git/annex/objects/XX")
    with pytest.raises(ScanRefused, match="not been downloaded"):
        volume_header(tmp_path / "annexed.nii.gz")
    with pytest.raises(ScanRefused, match="cannot be read"):
        volume_header(tmp_path)


@pytest.mark.parametrize("dim", [[3, 32767, 32767, 32767, 1, 1, 1, 1], [3, 900, 900, 900, 1, 1, 1, 1]])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_claims_too_much_costs_no_memory(
    tmp_path: Path, dim: list[int], zipped: bool
) -> None:
    path = with_header(tmp_path / "bold.nii", dim=dim, datatype=64, bitpix=64)
    path = packed(path) if zipped else path
    load_volume(write_image(tmp_path / "warm.nii"))
    tracemalloc.start()
    try:
        for read in (volume_header, load_volume):
            with pytest.raises(ScanRefused, match="claims"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgh", "a.mgz"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = write_image(tmp_path / name, noise)
    whole = path.read_bytes()
    footer = 20 if name == "a.mgh" else 0  # of scan parameters, which nobody misses
    path.write_bytes(whole[: int(kept * (len(whole) - footer))])
    with pytest.raises(ScanRefused, match=r"truncated|cannot be read to its end"):
        load_volume(path)


def test_a_flipped_bit_in_a_packed_image_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = packed(write_image(tmp_path / "a.nii"))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ScanRefused, match="CRC"):
        load_volume(path)


def test_a_header_that_does_not_say_how_the_image_lies_is_refused(tmp_path: Path) -> None:
    path = with_header(tmp_path / "lost.nii", qform_code=0, sform_code=0)
    with pytest.raises(ScanRefused, match="left and right are unknown"):
        volume_header(path)
    path = write_image(tmp_path / "lost.mgh")
    content = bytearray(path.read_bytes())
    content[28:30] = b"\0\0"
    path.write_bytes(bytes(content))
    with pytest.raises(ScanRefused, match="left and right are unknown"):
        volume_header(path)
    for row in (np.zeros(4), np.full(4, np.nan)):
        path = with_header(tmp_path / "flat.nii", srow_x=row, sform_code=1)
        with pytest.raises(ScanRefused, match="no map from voxels to space"):
            volume_header(path)


@pytest.mark.parametrize(("datatype", "bitpix"), [(32, 64), (128, 24), (0, 0), (1, 1), (999, 8)])
def test_numbers_that_are_not_real_are_refused(tmp_path: Path, datatype: int, bitpix: int) -> None:
    path = with_header(tmp_path / "odd.nii", datatype=datatype, bitpix=bitpix)
    with pytest.raises(ScanRefused, match=r"not real numbers|makes no sense"):
        volume_header(path)


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
    name=st.sampled_from(["a.nii", "a.mgh"]),
    zipped=st.booleans(),
)
def test_a_damaged_header_is_refused_or_read_but_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, changes, name, zipped
) -> None:
    path = write_image(tmp_path_factory.mktemp("damaged") / name)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place] = value
    path.write_bytes(bytes(content))
    path = packed(path) if zipped else path
    try:
        header = volume_header(path)
        volume = load_volume(path)
    except ScanRefused:
        return
    if header.numbers in NUMBERS[1:]:
        integers = load_integers(path, header.shape, header.affine, header.numbers)
        np.testing.assert_array_equal(integers.values(), volume)
    assert volume.shape == header.shape
    assert np.isfinite(volume).all()


@pytest.mark.real
def test_real_images_are_what_nibabel_reads(real_data: Path) -> None:
    turned = {}
    for path in sorted((real_data / "nifti_samples").iterdir()):
        try:
            turned[path.name] = volume_header(path).orientation
        except ScanRefused:
            continue
        expected = nibabel.as_closest_canonical(nibabel.load(path))
        loaded = load_volume(path)
        np.testing.assert_allclose(volume_header(path).affine, expected.affine, atol=1e-6)
        np.testing.assert_allclose(loaded, np.asarray(expected.dataobj, np.float32), rtol=1e-6, atol=1e-4)
    assert len(turned) == 11
    assert {name: turned[name] for name in ("norm.mgz", "t1_crop.nii.gz", "anatomical.nii")} == {
        "norm.mgz": "LIA", "t1_crop.nii.gz": "LIA", "anatomical.nii": "LAS",
    }  # fmt: skip
