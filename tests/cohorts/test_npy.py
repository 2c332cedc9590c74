"""One array of one scan: what is taken, what is refused, and that nothing is ever unpickled."""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cohorts.image_check import MODULATED
from hpc_brainage.cohorts.npy import load_npy, read_npy
from hpc_brainage.errors import ScanRefused

SHAPE = (4, 5, 6)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def saved(path: Path, array: np.ndarray, allow_pickle: bool = False) -> Path:
    np.save(path, array, allow_pickle=allow_pickle)
    return path


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", ">f4", "<i8"])
def test_numbers_of_every_kind_become_float32(tmp_path: Path, dtype: str) -> None:
    given_array = (image() * 20 + 100).astype(dtype)
    loaded = load_npy(saved(tmp_path / "scan.npy", given_array), SHAPE)
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable
    np.testing.assert_array_equal(loaded, given_array.astype(np.float32))


def test_leading_axes_of_one_are_dropped_and_fortran_order_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "scan.npy", np.asfortranarray(image()[None, None]))
    np.testing.assert_array_equal(load_npy(path, SHAPE), image())


def test_a_gzipped_array_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, image())
    path = tmp_path / "scan.npy.gz"
    path.write_bytes(gzip.compress(buffer.getvalue()))
    np.testing.assert_array_equal(load_npy(path, SHAPE), image())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScanRefused, match="cannot be read"):
        load_npy(path, SHAPE)


@pytest.mark.parametrize("shape", [(5, 4, 6), (2, *SHAPE), (120,), (*SHAPE, 1), (4, 5)])
def test_another_shape_is_refused_naming_both(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=shape))
    with pytest.raises(ScanRefused) as refused:
        load_npy(path, SHAPE)
    assert str(shape) in refused.value.what
    assert str(SHAPE) in str(refused.value.expected)
    assert refused.value.where == str(path)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=128 + 4 * 5 * 6 * 4 - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = saved(tmp_path_factory.mktemp("cut") / "scan.npy", image())
    assert path.stat().st_size == 128 + image().nbytes
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ScanRefused):
        load_npy(path, SHAPE)


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.npy"
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (100_000, 100_000, 1000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("the array must not be read"))
    with pytest.raises(ScanRefused, match="truncated"):
        load_npy(path, (100_000, 100_000, 1000))


@pytest.mark.parametrize("bare", [False, True])
def test_nothing_is_ever_unpickled(tmp_path: Path, bare: bool) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "scan.npy"
    trap = np.empty(120, dtype=object)
    trap[:] = [Trap(sprung)] * 120
    if bare:
        path.write_bytes(pickle.dumps(trap))
    else:
        saved(path, trap.reshape(SHAPE), allow_pickle=True)
    with pytest.raises(ScanRefused, match="not a readable" if bare else "pickled Python objects"):
        load_npy(path, SHAPE)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap does spring where pickles are trusted
    assert sprung.exists()


@pytest.mark.parametrize(
    "array",
    [
        np.full(SHAPE, "1.0"),
        np.zeros(SHAPE, complex),
        np.zeros(SHAPE, bool),
        np.zeros(SHAPE, [("a", "f4")]),
    ],
)
def test_what_is_no_real_number_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ScanRefused, match="not numbers"):
        load_npy(saved(tmp_path / "scan.npy", array), SHAPE)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array at all, but text", b"PK\x03\x04zip"])
def test_what_is_no_npy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scan.npy"
    path.write_bytes(content)
    with pytest.raises(ScanRefused, match="not a readable"):
        load_npy(path, SHAPE)


def test_a_pointer_to_a_file_that_was_not_downloaded_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ScanRefused, match="Git LFS"):
        load_npy(path, SHAPE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_image_with_a_value_that_is_no_number_is_refused(tmp_path: Path, bad: float) -> None:
    broken = image()
    broken[1, 2, 3] = bad
    path = saved(tmp_path / "scan.npy", broken)
    with pytest.raises(ScanRefused, match="1 of 120 values are NaN or infinite"):
        load_npy(path, SHAPE)
    assert read_npy(path, SHAPE).shape == SHAPE  # features may miss a value: there it is not refused


@pytest.mark.parametrize("damage", [b"(2# 4", b"(2\x7f 4", b"(2, 4\n"])
def test_a_header_whose_bracket_is_never_closed_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = saved(tmp_path / "scan.npy", image())
    content = path.read_bytes()
    place = content.index(b"(")
    path.write_bytes(content[:place] + damage + content[place + len(damage) :])
    with pytest.raises(ScanRefused, match=r"not a readable \.npy file"):
        read_npy(path)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_image_is_refused(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "scan.npy", np.full(SHAPE, value))
    with pytest.raises(ScanRefused, match="empty"):
        load_npy(path, SHAPE)


def test_numbers_beyond_float32_are_refused_in_an_image(tmp_path: Path) -> None:
    huge = image().astype(np.float64)
    huge[0, 0, 0] = 1e300
    with pytest.raises(ScanRefused, match="infinite"):
        load_npy(saved(tmp_path / "scan.npy", huge), SHAPE)


def test_grey_matter_of_another_scale_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "scan.npy", np.abs(image()))
    np.testing.assert_array_equal(load_npy(path, SHAPE, MODULATED), np.abs(image()))
    saved(path, np.abs(image()) * 100)
    with pytest.raises(ScanRefused, match=r"modulated tissue maps from -0\.01 to 20"):
        load_npy(path, SHAPE, MODULATED)


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "scan.npy", image())
    read = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda file, dtype, count: read(file, dtype, count - 1))
    with pytest.raises(ScanRefused, match="truncated: it has 604 of 608 bytes"):
        load_npy(path, SHAPE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanRefused, match="missing"):
        load_npy(tmp_path / "scan.npy", SHAPE)


def test_no_more_is_unpacked_than_the_header_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    np.save(content, image())
    path = tmp_path / "bomb.npy.gz"
    path.write_bytes(gzip.compress(content.getvalue() + bytes(50_000_000)))
    asked: list[int] = []
    real = gzip.GzipFile.read

    def watched(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        asked.append(-1 if size is None else size)
        return real(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", watched)
    np.testing.assert_array_equal(load_npy(path, SHAPE), image())
    assert 0 <= min(asked) <= max(asked) <= len(content.getvalue()) + 1


def test_a_refusal_for_an_unreadable_file_does_not_hold_its_path(tmp_path: Path) -> None:
    (tmp_path / "private.npy").mkdir()
    with pytest.raises(ScanRefused) as refusal:
        read_npy(tmp_path / "private.npy")
    assert refusal.value.what == "the file cannot be read (Is a directory)"
