"""Unpacking in one step: what it takes on, what it leaves to a stream, and that nobody can tell the two
apart by what comes out."""

from __future__ import annotations

import gzip
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import deflate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nifti_files import voxels, write_image

from hpc_brainage.cohorts import nifti
from hpc_brainage.cohorts.gunzip import gunzip
from hpc_brainage.cohorts.nifti import load_volume
from hpc_brainage.errors import ScanRefused

CONTENT = np.random.default_rng(0).integers(0, 9, 100_000).astype(np.uint8).tobytes()


def unpacked(path: Path, content: bytes, needed: int) -> bytearray | None:
    path.write_bytes(content)
    with path.open("rb") as file:
        os.lseek(file.fileno(), 5, os.SEEK_SET)
        result = gunzip(file.fileno(), needed)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 5  # a stream goes on where it was
    return result


def flipped(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 0x10
    return bytes(damaged)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(0, 9), st.integers(0, 200))
def test_a_whole_member_of_the_needed_length_is_unpacked(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, level: int, behind: int
) -> None:
    path = tmp_path_factory.mktemp("gz") / "a.gz"
    packed = gzip.compress(content, level)
    assert unpacked(path, packed, max(len(content) - behind, 0)) == content


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[:4],
        lambda packed: b"",
        lambda packed: flipped(packed, len(packed) // 2),
        lambda packed: flipped(packed, -8),
        lambda packed: flipped(packed, -4),
        lambda packed: flipped(packed, 0),
        lambda packed: packed + gzip.compress(b"more"),
        lambda packed: gzip.compress(b"before") + packed,
        lambda packed: packed + bytes(512),
        lambda packed: packed + b"\x01" * 4_000_000 + packed[-8:],
        lambda packed: CONTENT,
    ],
)
def test_what_is_no_whole_single_member_is_left_to_a_stream(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    packed = gzip.compress(CONTENT)
    assert unpacked(tmp_path / "a.gz", packed, len(CONTENT)) == CONTENT
    assert unpacked(tmp_path / "b.gz", change(packed), len(CONTENT)) is None


def test_a_second_member_of_the_same_length_is_behind_what_is_needed(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT) + gzip.compress(CONTENT[::-1])
    assert unpacked(tmp_path / "a.gz", packed, len(CONTENT)) == CONTENT


def test_a_length_that_does_not_fit_what_is_needed_costs_no_memory(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        assert unpacked(tmp_path / "a.gz", bomb, 1000) is None  # it holds more than anybody asked for
        assert unpacked(tmp_path / "a.gz", bomb, 60_000_000) is None  # it holds less
        assert unpacked(tmp_path / "a.gz", bomb, 2**33) is None
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parts", [2, 7])
def test_an_image_of_several_members_is_read_as_well(tmp_path: Path, parts: int) -> None:
    content = write_image(tmp_path / "a.nii").read_bytes()
    size = -(-len(content) // parts)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    path = tmp_path / "b.nii.gz"
    path.write_bytes(b"".join(map(gzip.compress, pieces)))
    np.testing.assert_array_equal(load_volume(path), voxels())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ScanRefused, match="cannot be read to its end"):
        load_volume(path)


def test_both_ways_of_unpacking_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / name, orientation="LPI") for name in ("a.nii.gz", "b.mgz")]
    at_once = [load_volume(path) for path in paths]
    monkeypatch.setattr(nifti, "gunzip", lambda *_: None)
    for path, expected in zip(paths, at_once, strict=True):
        streamed = load_volume(path)
        np.testing.assert_array_equal(streamed, expected)
        assert streamed.strides == expected.strides


def test_other_threads_go_on_while_a_file_is_unpacked() -> None:
    packed = gzip.compress(np.random.default_rng(0).integers(0, 9, 20_000_000).astype(np.uint8), 1)
    counted, done = 0, threading.Event()

    def unpack() -> None:
        deflate.gzip_decompress(packed, 20_000_000)
        done.set()

    thread = threading.Thread(target=unpack)
    thread.start()
    while not done.is_set():
        time.sleep(0.0005)
        counted += 1
    thread.join()
    assert counted >= 5
