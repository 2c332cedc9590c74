"""A disk that fills, and one that must not be written: said clearly, with nothing half done left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.commands import Answer, type_command
from cohorts.nifti_files import voxels, write_image
from conversion.synthetic import hashes, small_shards

from hpc_brainage.errors import ExitCode
from hpc_brainage.store.verify import verify

SCANS, GRID = 24, (32, 32, 32)  # 1.5 MiB of noise

Convert = Callable[..., Answer]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "t1w"
    for number in range(SCANS):
        write_image(folder / f"sub-{number:02d}_T1w.nii", voxels(number, GRID))
    return folder


@pytest.fixture
def undisturbed(images: Path, tmp_path: Path) -> dict[str, str]:
    """The files of a conversion on a disk with room."""
    (tmp_path / "room").mkdir()
    with small_shards():
        assert type_command(tmp_path, "convert", images, "room/store.zarr").code == ExitCode.DONE
    return hashes(tmp_path / "room")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"only who may mount a small disk can fill one: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def resize(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk_is_said_and_with_more_room_the_same_command_goes_on(
    images: Path, disk: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store, shards = disk / "store.zarr", []
    with small_shards():
        for size in ("size=64k", "size=400k", "size=900k", "size=1500k"):
            resize(disk, size)
            answer = type_command(tmp_path, "convert", images, store)
            assert answer.code == ExitCode.ENVIRONMENT, answer.text
            assert "No space left on device" in answer.text
            assert f"where: {store} to do: look at the free space" in answer.text
            left = hashes(disk)
            assert "store.zarr/zarr.json" not in left
            assert not any(name.endswith(".tmp") for name in left)
            shards.append({name for name in left if name.startswith("store.zarr/smri_")})
            assert all(left[name] == undisturbed[name] for name in shards[-1]), "a half shard"
            said = type_command(tmp_path, "inspect", store)
            assert said.code == ExitCode.INPUT
            assert "has not finished" in said.text
        assert [len(some) for some in shards] == sorted({len(some) for some in shards})
        resize(disk, "size=8m")
        answer = type_command(tmp_path, "convert", images, store)
    assert answer.code == ExitCode.DONE, answer.text
    assert hashes(disk) == undisturbed
    assert verify(store) == []


def test_a_disk_that_fills_while_scans_are_added_leaves_the_store_as_it_was(
    images: Path, disk: Path, tmp_path: Path
) -> None:
    resize(disk, "size=1200k")
    store, few = disk / "store.zarr", tmp_path / "few" / "t1w"
    few.mkdir(parents=True)
    for image in sorted(images.iterdir())[:10]:
        (few / image.name).symlink_to(image)
    with small_shards():
        assert type_command(tmp_path, "convert", few, store).code == ExitCode.DONE
        (tmp_path / "room").mkdir()
        assert type_command(tmp_path, "convert", few, "room/store.zarr").code == ExitCode.DONE
        assert type_command(tmp_path, "convert", images, "room/store.zarr", "--append").code == 0
        answer = type_command(tmp_path, "convert", images, store, "--append")
        assert answer.code == ExitCode.ENVIRONMENT
        assert "No space left on device" in answer.text
        assert "10 of 10 people" in type_command(tmp_path, "inspect", store).text
        assert [damage.key for damage in verify(store)] == ["_build"]
        resize(disk, "size=8m")
        assert type_command(tmp_path, "convert", images, store, "--append").code == ExitCode.DONE
    assert hashes(disk) == hashes(tmp_path / "room")
    assert verify(store) == []


@pytest.mark.parametrize("words", [(), ("--overwrite",), ("--init",), ("--part", "1/2")])
def test_a_read_only_disk_is_said(images: Path, disk: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    resize(disk, "size=8m")
    store = disk / "store.zarr"
    if words == ("--overwrite",):
        assert type_command(tmp_path, "convert", images, store, "--voxels", "float32").code == 0
    before = hashes(disk)
    resize(disk, "ro")
    answer = type_command(tmp_path, "convert", images, store, *words)
    assert answer.code == ExitCode.ENVIRONMENT, answer.text
    assert "Read-only file system" in answer.text
    assert hashes(disk) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_that_may_not_be_written_is_said(images: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    answer = type_command(tmp_path, "convert", images, closed / "store.zarr")
    assert answer.code == ExitCode.ENVIRONMENT
    assert "Permission denied" in answer.text
    assert not any(closed.iterdir())


def test_a_finished_store_on_a_read_only_disk_is_read_and_left_alone(
    images: Path, disk: Path, tmp_path: Path
) -> None:
    resize(disk, "size=8m")
    store = disk / "store.zarr"
    assert type_command(tmp_path, "convert", images, store).code == ExitCode.DONE
    before = hashes(disk)
    resize(disk, "ro")
    for words in (
        ("convert", images, store),
        ("convert", images, store, "--append"),
        ("verify", store),
        ("inspect", store),
    ):
        assert type_command(tmp_path, *words).code == ExitCode.DONE, words
    assert hashes(disk) == before
