"""A scan that was refused and then mended: when it is taken, and what tells the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conversion.synthetic import cohort_of, features, hashes, measurements, people, small_shards

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert, finalise, init, plan_for
from hpc_brainage.conversion.parts import write_parts
from hpc_brainage.errors import EnvironmentLacks, StoreError
from hpc_brainage.store.building import Build
from hpc_brainage.store.marker import plan_key
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import verify

TABLE = features(7)


def cohort(refuse: tuple[int, ...] = ()) -> Cohort:
    return cohort_of(people(10), {TABLE: measurements(TABLE, 10)}, refuse={TABLE.key: refuse})


def with_fingerprint(cohort: Cohort, fingerprint: str) -> Cohort:
    sources = {key: replace(source, fingerprint=fingerprint) for key, source in cohort.sources.items()}
    return replace(cohort, sources=sources)


def test_an_unfinished_conversion_tries_refused_scans_again(tmp_path: Path) -> None:
    with small_shards():
        build = init(cohort(refuse=(5,)), tmp_path / "store.zarr")
        write_parts(cohort(refuse=(5,)), build, [0, 1])
        report = convert(cohort(), build.place)
        undisturbed = convert(cohort(), tmp_path / "other.zarr")
    assert (report.refused, report.skipped_parts) == ((), 1)
    assert hashes(report.store_path) == hashes(undisturbed.store_path)


def test_a_part_is_not_done_while_it_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_shards():
        build = init(cohort(refuse=(1,)), tmp_path / "store.zarr")
        write_parts(cohort(refuse=(1,)), build, [0])

        def full(self: Build, manifest: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Build, "save_part", full)
        with pytest.raises(EnvironmentLacks, match="No space left"):
            write_parts(cohort(), build, [0])
    assert not build.has_part(0)


def test_a_finished_store_with_refusals_says_how_many_there_were(tmp_path: Path) -> None:
    first = convert(cohort(refuse=(2, 5)), tmp_path / "store.zarr")
    assert (first.nothing_to_do, first.refused_on_loading) == (False, 2)
    again = convert(cohort(), tmp_path / "store.zarr")
    assert (again.nothing_to_do, again.refused_on_loading) == (True, 2)
    anew = convert(cohort(), tmp_path / "store.zarr", overwrite=True)
    assert (anew.nothing_to_do, anew.refused_on_loading) == (False, 0)
    assert Store.open(anew.store_path).present(TABLE.key).all()
    assert verify(anew.store_path) == []


def test_files_that_were_replaced_make_another_plan(tmp_path: Path) -> None:
    before, after = with_fingerprint(cohort(), "3 files"), with_fingerprint(cohort(), "3 longer files")
    assert plan_for(before).sha256 != plan_for(after).sha256
    assert before.take(np.arange(4)).sources[TABLE.key].fingerprint == "3 files"
    build = init(before, tmp_path / "begun.zarr")
    with pytest.raises(StoreError, match=r"has not finished[\s\S]*the files that these are in"):
        init(after, build.place)
    write_parts(before, build, [0])
    finalise(before, build)
    with pytest.raises(StoreError, match="other content"):
        convert(after, build.place)


@pytest.mark.parametrize("damage", ["fingerprint", "present_sha256", "role"])
def test_a_damaged_plan_of_another_conversion_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    build = init(with_fingerprint(cohort(), "other files"), tmp_path / "store.zarr")
    plan = tmp_path / "store.zarr" / plan_key(build.work)
    plan.write_text(plan.read_text().replace(f'"{damage}"', '"something"'))
    with pytest.raises(StoreError, match=r"plan of the conversion .* is damaged[\s\S]*--overwrite"):
        convert(cohort(), build.place)
    assert verify(convert(cohort(), build.place, overwrite=True).store_path) == []


def test_a_damaged_plan_of_the_same_conversion_does_no_harm(tmp_path: Path) -> None:
    with small_shards():
        build = init(cohort(), tmp_path / "store.zarr")
        write_parts(cohort(), build, [1])
        plan = tmp_path / "store.zarr" / plan_key(build.work)
        plan.write_text(plan.read_text().replace('"role"', '"something"'))
        report = convert(cohort(), build.place)
        undisturbed = convert(cohort(), tmp_path / "other.zarr")
    assert report.skipped_parts == 1
    assert hashes(report.store_path) == hashes(undisturbed.store_path)


def test_a_part_that_somebody_else_does_meanwhile_stays_done(tmp_path: Path) -> None:
    with small_shards():
        build = init(cohort(), tmp_path / "store.zarr")

        def interrupted(row: int) -> np.ndarray:
            write_parts(cohort(), build)
            raise KeyboardInterrupt

        source = replace(cohort().sources[TABLE.key], load=interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_parts(replace(cohort(), sources={TABLE.key: source}), build, workers=1)
        assert all(build.has_part(index) for index in range(len(build.plan.parts)))
