"""Where a store is put: links, what killed runs left beside it, its account, and its durability."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conversion.synthetic import (
    cohort_of,
    features,
    hashes,
    measurements,
    mixed_cohort,
    people,
    small_shards,
)

from hpc_brainage.conversion.account import account_name
from hpc_brainage.conversion.convert import convert, init
from hpc_brainage.modality import Modality
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import verify


def test_overwriting_through_a_link_replaces_the_store_and_keeps_the_link(tmp_path: Path) -> None:
    scratch, link = tmp_path / "scratch" / "abide.zarr", tmp_path / "abide.zarr"
    convert(mixed_cohort(seed=0)[0], scratch)
    link.symlink_to(scratch)
    report = convert(mixed_cohort(seed=1)[0], link, overwrite=True)
    assert link.is_symlink()
    assert report.store_path == scratch
    assert hashes(scratch) == hashes(convert(mixed_cohort(seed=1)[0], tmp_path / "other.zarr").store_path)


def test_what_killed_runs_left_beside_the_store_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".store.zarr.abcd_123.old" / "store.zarr" / "age").mkdir(parents=True)
    (tmp_path / ".store.account.tsv.abcd_123.tmp").write_text("half")
    (tmp_path / ".other.account.tsv.abcd_123.tmp").write_text("somebody else's")
    convert(mixed_cohort()[0], tmp_path / "store.zarr")
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        ".other.account.tsv.abcd_123.tmp",
        "store.account.tsv",
        "store.zarr",
    ]


def test_the_accounts_of_stores_side_by_side_have_different_names(tmp_path: Path) -> None:
    names = ["k", "k.zarr", "k.zarr.zarr", "k.v1", "k_account", "k.account"]
    assert len({account_name(name) for name in names}) == len(names)
    assert account_name("k.v1.zarr") == "k.v1.account.tsv"
    assert account_name("k") == "k_account.tsv"
    assert convert(mixed_cohort()[0], tmp_path / "k").account_path == tmp_path / "k_account.tsv"


def test_a_column_with_a_very_long_title_is_stored(tmp_path: Path) -> None:
    title = "In the last two weeks, how often have you been bothered by " * 5
    cohort = cohort_of(people(3).assign(**{title: 1.0}), {features(2): measurements(features(2), 3)})
    report = convert(cohort, tmp_path / "store.zarr")
    assert title in Store.open(report.store_path).scans
    assert verify(report.store_path) == []


def test_other_units_are_other_content(tmp_path: Path) -> None:
    values = measurements(features(2), 3)
    contents = set()
    for number, units in enumerate([("mm", "mm"), ("mm2", "mm"), ("mm", "")]):
        modality = Modality("smri", "table", "features", (2,), ("a", "b"), units)
        path = convert(cohort_of(people(3), {modality: values}), tmp_path / f"{number}.zarr").store_path
        contents.add(Store.open(path).content_sha256)
    assert len(contents) == 3


def test_every_folder_is_on_the_device_before_what_declares_it_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a manifest or a marker whose shards or arrays have no folder."""
    with small_shards():
        work = init(mixed_cohort(6)[0], tmp_path / "same.zarr").work
    store, events = tmp_path / "store.zarr", []
    replace, fsync = os.replace, os.fsync

    def watched_replace(old: str, new: Path) -> None:
        events.append(("named", Path(new)))
        replace(old, new)

    def watched_fsync(descriptor: int) -> None:
        events.append(("flushed", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    with small_shards():
        convert(mixed_cohort(6)[0], store)

    def assert_on_the_device_before(declaration: str, files: str) -> None:
        before = events[: events.index(("named", store / declaration))]
        named = [number for number, (what, path) in enumerate(before) if what == "named"]
        declared = [number for number in named if before[number][1].match(files)]
        assert declared, declaration
        for folder in {before[number][1].parent for number in declared}:
            in_it = [number for number in named if before[number][1].parent == folder]
            last = max(number for number in declared if number in in_it)
            assert ("flushed", folder) in before[last:], (declaration, folder)
            assert ("flushed", folder.parent) in before[in_it[0] :], (declaration, folder)

    assert_on_the_device_before(f"{work}/part-00000.json", "*/c.0.0*")
    assert_on_the_device_before(f"{work}/part-00001.json", "*/c.1.0*")
    assert_on_the_device_before(f"{work}/part-00000.json", f"{work}/plan.json")
    assert_on_the_device_before("zarr.json", "*")
    assert events[-1] == ("flushed", tmp_path)  # the account beside it
    assert ("flushed", store) in events[events.index(("named", store / "zarr.json")) :]
