"""Durable files: whole or not there, readable as the umask says, and never half removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import StoreError, UsageError
from hpc_brainage.files import (
    read_json,
    remove_tree,
    sha256_of,
    sha256_of_file,
    sweep,
    write_bytes,
    write_durably,
    write_json,
    write_text,
)


@pytest.fixture
def umask() -> Iterator[None]:
    """The process's umask is put back, whatever a test sets."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class PowerCutError(Exception):
    pass


def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.tsv"
    write_text(path, "old")

    def half(file: BinaryIO) -> None:
        file.write(b"new but only ha")
        raise PowerCutError

    with pytest.raises(PowerCutError):
        write_durably(path, half)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["scores.tsv"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(file: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(tmp_path / "scores.tsv", fails)
    assert names_in(tmp_path) == []


def test_a_rename_that_fails_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.tsv"
    write_text(path, "old")

    def refuses(*names: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(OSError, match="no"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["scores.tsv"]


def test_the_content_is_flushed_before_the_file_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "scores.tsv", []
    replace, fsync = os.replace, os.fsync

    def watched_replace(old: str, new: Path) -> None:
        events.append("renamed")
        replace(old, new)

    def watched_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("folder flushed" if folder else f"{os.fstat(descriptor).st_size} bytes flushed")
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    write_bytes(path, b"12345")
    assert events == ["5 bytes flushed", "renamed", "folder flushed"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.usefixtures("umask")
def test_permissions_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    os.umask(mask)
    write_text(tmp_path / "scores.tsv", "x")
    assert stat.S_IMODE((tmp_path / "scores.tsv").stat().st_mode) == mode
    assert os.umask(mask) == mask


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "runs" / "abide" / "config.toml", "é")
    assert (tmp_path / "runs" / "abide" / "config.toml").read_bytes() == "é".encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_json_and_keeps_the_old_file(value: float, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_json(path, {"mae": 5.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"mae": [1.0, value]})
    assert read_json(path) == {"mae": 5.0}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, max_examples=60)
@given(content=json_values)
def test_json_that_was_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_json(path, content)
    assert read_json(path) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a file is missing"),
        (b'{"mae": 5.', "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        ("folder", "not readable as JSON"),
    ],
)
def test_json_that_cannot_be_read_raises_the_callers_error_and_names_the_file(
    content: bytes | str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "zarr.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(StoreError, match=message) as raised:
        read_json(path, StoreError)
    assert raised.value.where == str(path)
    with pytest.raises(UsageError):
        read_json(path, UsageError)


def test_a_hash_of_content_does_not_depend_on_the_order_of_its_keys() -> None:
    assert sha256_of({"a": 1, "b": [2, 3]}) == sha256_of({"b": [2, 3], "a": 1})
    assert sha256_of({"b": [2, 3]}) != sha256_of({"b": [3, 2]})


def test_a_hash_of_a_file_is_of_all_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "x").write_bytes(content)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_a_removed_folder_is_gone_and_nothing_beside_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "store.zarr"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "shard").write_text("x")
    (tmp_path / "neighbour").write_text("stays")
    remove_tree(folder)
    remove_tree(folder)
    assert names_in(tmp_path) == ["neighbour"]


def test_a_folder_is_removed_where_nothing_can_be_made_for_lack_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "tensors").write_text("x")
    monkeypatch.setattr(os, "mkdir", full)
    remove_tree(folder)
    assert names_in(tmp_path) == []


def test_a_removal_that_is_cut_off_leaves_no_half_folder_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps({}))

    def cut(path: Path, **_: object) -> None:
        raise PowerCutError

    monkeypatch.setattr("shutil.rmtree", cut)
    with pytest.raises(PowerCutError):
        remove_tree(folder)
    assert not folder.exists()


@pytest.mark.parametrize("what", ["the folder", "the name it was to have"])
def test_a_folder_that_somebody_else_removes_at_the_same_moment_is_gone_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder, rename = tmp_path / "store.zarr", os.replace
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")

    def too_late(old: Path, new: Path) -> None:
        monkeypatch.setattr(os, "replace", rename)
        if what == "the folder":
            remove_tree(folder)
        else:
            sweep(folder)
        rename(old, new)

    monkeypatch.setattr(os, "replace", too_late)
    remove_tree(folder)
    assert os.replace is rename
    assert names_in(tmp_path) == []


def test_what_somebody_else_sweeps_at_the_same_moment_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, remove = tmp_path / ".store.zarr.ab_d3f9x.old", shutil.rmtree
    (left / "store.zarr").mkdir(parents=True)

    def too_late(path: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        remove(path)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", too_late)
    sweep(tmp_path / "store.zarr")
    assert shutil.rmtree is remove
    assert names_in(tmp_path) == []


def test_removing_a_link_leaves_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    remove_tree(tmp_path / "link")
    assert names_in(tmp_path) == ["precious"]
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "x"


def test_only_what_killed_writers_and_removers_of_that_path_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    (tmp_path / ".store.zarr.ab_d3f9x.old" / "store.zarr" / "age").mkdir(parents=True)
    (tmp_path / ".store.zarr.k3j2abcd.tmp").write_text("half")
    stay = [
        ".other.zarr.k3j2abcd.tmp", ".store.zarr.backup.tmp", ".store.zarr.k3j2abcd.old",
        "store.zarr.k3j2abcd.tmp", ".store.zarr.K3J2ABCD.tmp", "storeXzarr", ".storeXzarr.k3j2abcd.tmp",
    ]  # fmt: skip
    for name in stay:
        (tmp_path / name).write_text("precious")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".store.zarr.linklink.old").symlink_to(tmp_path / "elsewhere")
    sweep(path)
    assert names_in(tmp_path) == sorted([*stay, ".store.zarr.linklink.old", "elsewhere"])
    sweep(tmp_path / "missing" / "store.zarr")


def test_what_a_cut_off_removal_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store.zarr"
    folder.mkdir()

    def cut(path: Path, **_: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", cut)
        with pytest.raises(PowerCutError):
            remove_tree(folder)
    assert len(names_in(tmp_path)) == 1
    sweep(folder)
    assert names_in(tmp_path) == []
