"""Two conversions to the same place at the same time, forced into the moments that hurt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conversion.synthetic import hashes, mixed_cohort, small_shards

from hpc_brainage.cohorts.cohort import Cohort
from hpc_brainage.conversion.convert import convert, finalise, init, write_part
from hpc_brainage.errors import StoreError
from hpc_brainage.files import remove_tree
from hpc_brainage.store import building
from hpc_brainage.store.lock import locked
from hpc_brainage.store.verify import verify


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


def test_overwriting_what_somebody_is_converting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with small_shards():
        first = Halted(mixed_cohort(seed=0)[0], lambda cohort: convert(cohort, path))
        with pytest.raises(StoreError, match=r"writing this store right now[\s\S]*wait"):
            convert(mixed_cohort(seed=1)[0], path, overwrite=True)
        first.go_on()
        assert first.problem is None
        undisturbed = convert(mixed_cohort(seed=0)[0], tmp_path / "other.zarr").store_path
    assert hashes(path) == hashes(undisturbed)


def test_two_who_replace_a_finished_store_do_so_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.zarr"
    convert(mixed_cohort(seed=0)[0], path)
    removing, go_on, removed = threading.Event(), threading.Event(), []

    def slow_removal(folder: Path) -> None:
        removed.append(folder)
        removing.set()
        assert go_on.wait(20)
        remove_tree(folder)

    monkeypatch.setattr(building, "remove_tree", slow_removal)
    overwrite = partial(init, destination=path, overwrite=True)
    first = threading.Thread(target=overwrite, args=(mixed_cohort(seed=1)[0],), daemon=True)
    first.start()
    assert removing.wait(20)
    second = threading.Thread(target=overwrite, args=(mixed_cohort(seed=2)[0],), daemon=True)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert removed == [path]
    go_on.set()
    first.join(20)
    second.join(20)
    assert removed == [path, path]
    assert verify(convert(mixed_cohort(seed=2)[0], path).store_path) == []


def test_nobody_finishes_a_store_while_somebody_writes_a_part_of_it(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    with small_shards():
        build = init(cohort, tmp_path / "store.zarr")
        for index in (0, 1, 3, 4, 5):
            write_part(cohort, build, index)
        first = Halted(cohort, lambda slow: write_part(slow, build, 2))
        nothing_left_to_load = replace(
            cohort, sources={key: replace(source, load=None) for key, source in cohort.sources.items()}
        )
        second = threading.Thread(target=convert, args=(nothing_left_to_load, build.path), daemon=True)
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert not build.finished
        first.go_on()
        second.join(20)
        assert first.problem is None
        assert build.finished
    assert verify(build.path) == []


def test_who_is_at_work_without_a_part_in_hand_is_waited_for_too(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    build = init(cohort, tmp_path / "store.zarr")
    write_part(cohort, build, 0)
    with build.at_work() as unfinished:
        assert unfinished
        second = threading.Thread(target=finalise, args=(cohort, build), daemon=True)
        second.start()
        second.join(0.3)
        assert not build.finished
    second.join(20)
    with build.at_work() as unfinished:
        assert not unfinished


def test_a_writer_whose_folder_was_taken_stops_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with small_shards():
        taken = init(mixed_cohort(seed=0)[0], path)
        convert(mixed_cohort(seed=1)[0], path, overwrite=True)
        before = hashes(tmp_path)
        with pytest.raises(StoreError, match="other content"):
            write_part(mixed_cohort(seed=0)[0], taken, 0)
        with pytest.raises(StoreError, match="other content"):
            finalise(mixed_cohort(seed=0)[0], taken)
    assert hashes(tmp_path) == before


def test_a_part_of_a_finished_store_is_not_written_again(tmp_path: Path) -> None:
    cohort, _ = mixed_cohort()
    with small_shards():
        build = init(cohort, tmp_path / "store.zarr")
        convert(cohort, build.path)
        before = hashes(tmp_path)
        with pytest.raises(StoreError, match="the store is finished"):
            write_part(cohort, build, 0)
    assert hashes(tmp_path) == before


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

    with small_shards():
        threads = [threading.Thread(target=run, args=(number % 2,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert problems == []
        wholes = [
            hashes(convert(mixed_cohort(seed=seed)[0], tmp_path / f"{seed}.zarr").store_path)
            for seed in (0, 1)
        ]
        if hashes(path) not in wholes:  # everybody was refused at some moment: whoever comes next goes on
            convert(mixed_cohort(seed=0)[0], path, overwrite=True)
    assert hashes(path) in wholes
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        "0.account.tsv", "0.zarr", "1.account.tsv", "1.zarr", "store.account.tsv", "store.zarr",
    ]  # fmt: skip


def test_a_file_system_without_locks_does_not_stop_a_conversion(tmp_path: Path) -> None:
    with patch("fcntl.flock", side_effect=OSError(95, "Operation not supported")):
        path = convert(mixed_cohort()[0], tmp_path / "store.zarr").store_path
    assert verify(path) == []


def test_a_lock_whose_file_was_removed_during_the_wait_is_taken_anew(tmp_path: Path) -> None:
    lock, order = tmp_path / "lock", []

    def second() -> None:
        with locked(lock):
            order.append("second")

    with ExitStack() as third:
        with locked(lock):
            thread = threading.Thread(target=second, daemon=True)
            thread.start()
            thread.join(0.2)
            lock.unlink()
            third.enter_context(locked(lock))  # one who came after the removal, and is first
        thread.join(0.2)
        order.append("third")
    thread.join(20)
    assert order == ["third", "second"]


def test_a_lock_can_be_shared_and_asked_for_without_waiting(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock, shared=True), locked(lock, shared=True):  # noqa: SIM117 - refused inside, not outside
        with pytest.raises(BlockingIOError), locked(lock, wait=False):
            pass
    with locked(lock, wait=False):
        pass
