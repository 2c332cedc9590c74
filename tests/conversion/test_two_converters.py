"""Two conversions to the same place at the same time, forced into the moments that hurt.

Nobody waits for anybody. Two who convert the same write the same bytes, and whoever has lost the place to
another conversion is told so at the next write.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
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

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion import convert as steps
from hpc_brainage.conversion.convert import convert, finalise, init
from hpc_brainage.conversion.parts import write_parts
from hpc_brainage.errors import StoreError
from hpc_brainage.store import building, marker, place
from hpc_brainage.store.building import Build, DoneByAnother
from hpc_brainage.store.marker import FolderState, folder_state
from hpc_brainage.store.reader import Store
from hpc_brainage.store.verify import verify

TAKEN = "another conversion has taken this place"


class Halted:
    """A conversion in a thread, halted where it loads row `row`; `go_on` lets it end."""

    def __init__(self, cohort: Cohort, work: Callable[[Cohort], object], row: int = 9) -> None:
        self.reached, self.free = threading.Event(), threading.Event()
        self.problem: BaseException | None = None

        def slow(load: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
            def wait(at: int) -> np.ndarray:
                if at == row:
                    self.reached.set()
                    assert self.free.wait(20)
                return load(at)

            return wait

        sources = {key: replace(source, load=slow(source.load)) for key, source in cohort.sources.items()}

        def run() -> None:
            try:
                work(replace(cohort, sources=sources))
            except BaseException as problem:
                self.problem = problem
                self.reached.set()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert self.reached.wait(20)

    def go_on(self) -> None:
        self.free.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _several_parts() -> Iterator[None]:
    with small_shards():
        yield


def undisturbed(cohort: Cohort, folder: Path) -> dict[str, str]:
    return hashes(convert(cohort, folder / "undisturbed" / "store.zarr").store_path)


def names_in(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


def nothing_to_load(cohort: Cohort) -> Cohort:
    """The same cohort, in which loading anything is an error."""
    sources = {key: replace(source, load=None) for key, source in cohort.sources.items()}
    return replace(cohort, sources=sources)


def at_once(*work: Callable[[], object]) -> list[BaseException | None]:
    """Run all of `work` in threads of their own; what each ended with."""
    problems: list[BaseException | None] = [None] * len(work)

    def run(number: int) -> None:
        try:
            work[number]()
        except BaseException as problem:
            problems[number] = problem

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return problems


def test_who_comes_second_does_all_of_the_work_and_the_first_ends_without_a_word(tmp_path: Path) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    first = Halted(cohort, lambda slow: convert(slow, path))
    convert(cohort, path)
    assert hashes(path) == undisturbed(cohort, tmp_path)
    first.go_on()
    assert first.problem is None
    assert hashes(path) == undisturbed(cohort, tmp_path)
    assert not (path / "_build").exists()


def test_a_part_that_two_write_at_once_is_the_same_bytes(tmp_path: Path) -> None:
    cohort = mixed_cohort()[0]
    build = init(cohort, tmp_path / "store.zarr")
    slow = [Halted(cohort, lambda slow: write_parts(slow, build, [2])) for _ in range(2)]
    write_parts(cohort, build, [2])
    manifest = build.read_part(2)
    for one in slow:
        one.go_on()
        assert one.problem is None
        assert build.read_part(2).to_record() == manifest.to_record()
    convert(cohort, build.place)
    assert hashes(tmp_path / "store.zarr") == undisturbed(cohort, tmp_path)


def test_a_store_is_finished_while_somebody_still_writes_a_part_that_is_done(tmp_path: Path) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build = init(cohort, path)
    first = Halted(cohort, lambda slow: write_parts(slow, build, [2]))
    write_parts(cohort, build)
    finalise(nothing_to_load(cohort), build)
    before = hashes(tmp_path)
    first.go_on()
    assert first.problem is None
    assert hashes(tmp_path) == before
    assert verify(path) == []


def test_processes_that_convert_the_same_end_in_the_same_bytes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    other = context.Process(target=in_a_process, args=(tmp_path, ready), daemon=True)
    other.start()
    in_a_process(tmp_path, ready)
    other.join(50)
    assert other.exitcode == 0
    assert hashes(tmp_path / "store.zarr") == undisturbed(mixed_cohort()[0], tmp_path)
    assert names_in(tmp_path) == ["store.account.tsv", "store.zarr", "undisturbed"]


def in_a_process(folder: Path, ready: threading.Barrier) -> None:
    with small_shards():
        ready.wait(50)
        convert(mixed_cohort()[0], folder / "store.zarr")


@pytest.mark.parametrize("finished", [False, True])
def test_whose_place_is_taken_is_told_and_leaves_the_new_store_alone(
    tmp_path: Path, finished: bool
) -> None:
    path, other = tmp_path / "store.zarr", mixed_cohort(seed=1)[0]
    first = Halted(mixed_cohort(seed=0)[0], lambda slow: convert(slow, path))
    if finished:
        convert(other, path, overwrite=True)
    else:
        init(other, path, overwrite=True)
    first.go_on()
    assert TAKEN in str(first.problem)
    assert "--overwrite" in str(first.problem)
    convert(other, path)
    assert hashes(path) == undisturbed(other, tmp_path)
    assert names_in(tmp_path) == ["store.account.tsv", "store.zarr", "undisturbed"]


def test_whose_place_is_taken_does_not_remove_a_shard_that_is_empty_in_his_own_store(
    tmp_path: Path,
) -> None:
    table, path = features(7), tmp_path / "store.zarr"
    values = measurements(table, 12)
    old = cohort_of(people(12), {table: values}, refuse={table.key: [8, 9, 10, 11]})
    first = Halted(old, lambda slow: convert(slow, path))
    new = cohort_of(people(12, seed=1), {table: values})
    convert(new, path, overwrite=True)
    first.go_on()
    assert TAKEN in str(first.problem)
    assert hashes(path) == undisturbed(new, tmp_path)


def test_a_store_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    first = Halted(mixed_cohort()[0], lambda slow: convert(slow, path))
    path.rename(tmp_path / "moved away")
    first.go_on()
    assert TAKEN in str(first.problem)
    assert not path.exists()


def test_a_writer_whose_folder_was_taken_stops_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    taken = init(mixed_cohort(seed=0)[0], path)
    convert(mixed_cohort(seed=1)[0], path, overwrite=True)
    before = hashes(tmp_path)
    with pytest.raises(StoreError, match=TAKEN):
        write_parts(mixed_cohort(seed=0)[0], taken, [0])
    with pytest.raises(StoreError, match="part 1 of 6 has not been converted"):
        finalise(mixed_cohort(seed=0)[0], taken)
    with pytest.raises(StoreError, match=TAKEN):
        taken.write("age/c.0", [b"other ages"])
    assert hashes(tmp_path) == before


def test_a_folder_that_goes_while_it_is_looked_at_means_that_the_place_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.zarr"
    taken = init(mixed_cohort()[0], path)
    make = Path.mkdir

    def removed_meanwhile(folder: Path, *how: object, **more: object) -> None:
        if folder.name != "age":
            return make(folder, *how, **more)  # type: ignore[arg-type]
        path.rename(tmp_path / "moved away")
        raise FileExistsError(errno.EEXIST, "File exists", str(folder))

    monkeypatch.setattr(Path, "mkdir", removed_meanwhile)
    with pytest.raises(StoreError, match=TAKEN):
        taken.write("age/c.0", [b"ages"])


def test_who_finds_a_plan_that_is_given_up_at_that_moment_has_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.zarr"
    other = init(mixed_cohort(seed=0)[0], path)
    mine = Build(other.place, steps.plan_for(mixed_cohort(seed=1)[0]))
    read = building.read_record

    def given_up(where: place.Place, key: str) -> object:
        where.remove(key)
        return read(where, key)

    monkeypatch.setattr(building, "read_record", given_up)
    assert building.why_not_ours(mine) is None


def test_a_part_of_a_finished_store_is_not_written_again(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    build = init(cohort, tmp_path / "store.zarr")
    convert(cohort, build.place)
    before = hashes(tmp_path)
    assert write_parts(nothing_to_load(cohort), build, [0, 3]) == 2
    with pytest.raises(DoneByAnother):
        build.write("age/c.0", [b"other ages"])
    assert hashes(tmp_path) == before


def test_of_two_conversions_begun_at_one_moment_both_are_told_and_the_place_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cohorts = tmp_path / "store.zarr", [mixed_cohort(seed=seed)[0] for seed in (0, 1)]
    freeze, both = building.freeze, threading.Barrier(2)

    def freeze_together(build: Build) -> None:
        both.wait(20)
        freeze(build)
        both.wait(20)

    with monkeypatch.context() as patched:
        patched.setattr(building, "freeze", freeze_together)
        problems = at_once(*(lambda cohort=cohort: init(cohort, path) for cohort in cohorts))
    told = [problem for problem in problems if "another conversion was begun here" in str(problem)]
    assert told
    assert len(told) + problems.count(None) == 2
    if len(told) == 2:
        assert folder_state(place.place_at(path)) is FolderState.FREE
    mine = cohorts[0] if len(told) == 2 else cohorts[problems.index(None)]
    convert(mine, path)
    assert hashes(path) == undisturbed(mine, tmp_path)
    assert not (path / "_build").exists()


def test_who_begins_a_moment_later_gives_way_to_whoever_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cohort, later = tmp_path / "store.zarr", mixed_cohort(seed=0)[0], mixed_cohort(seed=1)[0]
    freeze, at_work = building.freeze, []

    def too_late(build: Build) -> None:
        monkeypatch.setattr(building, "freeze", freeze)
        at_work.append(Halted(cohort, lambda slow: convert(slow, path)))
        freeze(build)

    monkeypatch.setattr(building, "freeze", too_late)
    with pytest.raises(StoreError, match="another conversion was begun here"):
        convert(later, path)
    at_work[0].go_on()
    assert at_work[0].problem is None
    assert hashes(path) == undisturbed(cohort, tmp_path)
    assert not (path / "_build").exists()


def test_two_who_finish_at_the_same_moment_both_end_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build, both, finish = init(cohort, path), threading.Barrier(2), steps.finish_store
    write_parts(cohort, build)

    def finish_together(*arguments: object) -> None:
        both.wait(20)
        finish(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(steps, "finish_store", finish_together)
        assert at_once(*[lambda: finalise(cohort, build)] * 2) == [None, None]
    assert hashes(path) == undisturbed(cohort, tmp_path)
    assert names_in(tmp_path) == ["store.account.tsv", "store.zarr", "undisturbed"]


@pytest.mark.parametrize("halted_at", ["age/c.0", "smri_vbm_checksum/c.0", "zarr.json"])
def test_who_is_overtaken_in_the_middle_of_finishing_ends_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halted_at: str
) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build, write = init(cohort, path), Build.write
    write_parts(cohort, build)

    def overtaken(self: Build, key: str, pieces: list[bytes]) -> None:
        if key == halted_at:
            monkeypatch.setattr(Build, "write", write)
            finalise(cohort, init(cohort, path))
        write(self, key, pieces)

    monkeypatch.setattr(Build, "write", overtaken)
    assert finalise(cohort, build).n_scans == len(cohort)
    assert Build.write is write
    assert hashes(path) == undisturbed(cohort, tmp_path)


def test_a_refused_scan_that_somebody_tries_again_does_not_stop_the_others(tmp_path: Path) -> None:
    table, path = features(7), tmp_path / "store.zarr"
    cohort = cohort_of(people(12), {table: measurements(table, 12)}, refuse={table.key: [1]})
    build = init(cohort, path)
    write_parts(cohort, build, [0, 1])
    first = Halted(cohort, lambda slow: convert(slow, path), row=9)
    deadline = time.monotonic() + 20
    while not build.has_part(0):  # which it has tried again by now
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = Halted(cohort, lambda slow: write_parts(slow, build, [0]), row=2)
    assert not build.has_part(0)
    first.go_on()
    assert first.problem is None
    second.go_on()
    assert second.problem is None
    assert hashes(path) == undisturbed(cohort, tmp_path)


def ask(build: Build) -> FolderState | None:
    """What `require` says of a store that is finished while it looks."""
    try:
        build.require()
    except DoneByAnother:
        return FolderState.FINISHED
    return None


@pytest.mark.parametrize(
    ("module", "look"), [(marker, lambda build: folder_state(build.place)), (building, ask)]
)
def test_who_looks_at_the_moment_when_another_finishes_finds_a_finished_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    look: Callable[[Build], FolderState | None],
) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build, begun = init(cohort, path), module.plans_begun
    write_parts(cohort, build)

    def finished_just_then(where: place.Place) -> list[str]:
        monkeypatch.undo()
        finalise(cohort, build)
        return begun(where)

    monkeypatch.setattr(module, "plans_begun", finished_just_then)
    assert look(build) is FolderState.FINISHED


def test_a_temporary_file_that_vanishes_while_somebody_looks_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build, walk = init(cohort, path), os.walk

    def with_a_ghost(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in walk(top):
            yield folder, folders, ["tmp0.tmp", *names]

    monkeypatch.setattr(os, "walk", with_a_ghost)
    assert marker.plans_begun(build.place) == [build.work]
    assert convert(cohort, path).parts == 6


def test_a_file_that_comes_into_the_work_folder_while_it_is_removed_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, path = mixed_cohort()[0], tmp_path / "store.zarr"
    build, remove, came = init(cohort, path), shutil.rmtree, []
    work = path / build.work

    def disturbed(folder: Path, **how: object) -> None:
        remove(folder, **how)  # type: ignore[call-overload]
        if folder == work and len(came) < 3:
            came.append(work / "tmp0.tmp")
            work.mkdir()
            came[-1].touch()

    monkeypatch.setattr(place.shutil, "rmtree", disturbed)
    convert(cohort, path)
    assert len(came) == 3
    assert not (path / "_build").exists()


def test_an_account_that_another_sweeps_away_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, swept = place.write_text, []

    def swept_away(path: Path, content: str) -> None:
        if len(swept) < 2:
            swept.append(path)
            raise FileNotFoundError(path)
        write(path, content)

    monkeypatch.setattr(place, "write_text", swept_away)
    report = convert(mixed_cohort()[0], tmp_path / "store.zarr")
    assert len(swept) == 2
    assert Path(report.account_path).is_file()


def test_a_store_can_be_read_while_it_is_replaced_and_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    old = Store.open(convert(mixed_cohort(seed=0)[0], path).store_path)
    first = Halted(mixed_cohort(seed=1)[0], lambda slow: convert(slow, path, overwrite=True))
    with pytest.raises(StoreError, match="has not finished"):
        Store.open(path)
    first.go_on()
    assert Store.open(path).content_sha256 != old.content_sha256


def test_many_at_once_with_and_without_overwriting_end_in_a_whole_store(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    problems: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            convert(mixed_cohort(seed=seed)[0], path, overwrite=True)
        except StoreError:
            pass
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(number % 2,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    wholes = [
        hashes(convert(mixed_cohort(seed=seed)[0], tmp_path / f"{seed}.zarr").store_path) for seed in (0, 1)
    ]
    if hashes(path) not in wholes:  # everybody was told at some moment: whoever comes next goes on
        convert(mixed_cohort(seed=0)[0], path, overwrite=True)
    assert hashes(path) in wholes
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        "0.account.tsv", "0.zarr", "1.account.tsv", "1.zarr", "store.account.tsv", "store.zarr",
    ]  # fmt: skip
