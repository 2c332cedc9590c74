"""Cutting a store into tasks, and handing them to workers: everything once, and nothing endlessly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import ModelError, ScoringError
from hpc_brainage.scoring.crew import Crew
from hpc_brainage.scoring.dispatch import LEAST_SECONDS, TASK_SECONDS, carry_out, grouped
from hpc_brainage.scoring.part_work import PartWork
from hpc_brainage.scoring.parts import PartRecord

WORK = PartWork("store", "model", "folder", ())


def cut(count: int, length: int = 10) -> list[range]:
    return [range(start, start + length) for start in range(0, count * length, length)]


@settings(max_examples=100, deadline=None)
@given(
    st.sets(st.integers(0, 60), max_size=40),
    st.floats(1e-6, 10) | st.just(float("inf")),
    st.integers(1, 8),
    st.integers(1, 9),
)
def test_tasks_are_neighbouring_parts_each_of_them_once(
    chosen: set[int], cost: float, workers: int, threads: int
) -> None:
    parts = [part for place, part in enumerate(cut(61)) if place in chosen]
    tasks = grouped(parts, cost, workers, threads)
    assert [part for task in tasks for part in task] == parts
    for task in tasks:
        assert all(a.stop == b.start for a, b in pairwise(task))


def test_a_task_is_a_second_of_work_and_less_towards_the_end() -> None:
    sizes = [len(task) for task in grouped(cut(100), TASK_SECONDS / 50, workers=2)]
    assert sizes[:15] == [5] * 15
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-6:] == [1] * 6


def test_a_task_is_a_tenth_of_a_second_at_least() -> None:
    assert len(grouped(cut(16), LEAST_SECONDS / 1000, workers=2)) == 1
    assert {len(task) for task in grouped(cut(16), LEAST_SECONDS / 20, workers=4)} == {2}
    assert len(grouped(cut(16), 1.0, workers=2)) == 16


def test_a_task_has_a_part_for_each_of_a_worker_s_threads() -> None:
    assert [len(task) for task in grouped(cut(20), 1.0, workers=2, threads=8)] == [8, 8, 4]
    sizes = [len(task) for task in grouped(cut(100), TASK_SECONDS / 100, workers=2, threads=4)]
    assert (sizes[0], min(sizes[:-1]), sum(sizes)) == (10, 4, 100)


class Client:
    """Stands in for Dask's: does each task in a thread, or says that it failed."""

    def __init__(self, bad: set[int], problem: Exception | None = None) -> None:
        self.bad, self.asked, self.cancelled = bad, [], 0
        self.problem = problem or RuntimeError("it cannot be done")

    def submit(self, work: object, first: int, stop: int, **_: object) -> Future:
        self.asked.append((first, stop))
        future: Future = Future()
        future.status = "pending"  # type: ignore[attr-defined]

        def end() -> None:
            if self.bad & set(range(first, stop)):
                future.status = "error"  # type: ignore[attr-defined]
                future.set_exception(self.problem)
            else:
                future.status = "finished"  # type: ignore[attr-defined]
                future.set_result(PartRecord(first, stop, stop - first, stop - first, 0, 1e-4, ""))

        threading.Timer(0.005, end).start()
        return future

    def cancel(self, futures: list[Future], force: bool = False) -> None:
        self.cancelled += len(futures)

    def scheduler_info(self, n_workers: int = 5) -> dict:
        return {"workers": {"a": {}, "b": {}}}


def done_by(client: Client, parts: list[range]) -> list[PartRecord]:
    return carry_out(Crew(client, 2), WORK, parts, lambda record: None)  # type: ignore[arg-type]


def test_all_parts_are_done() -> None:
    records = done_by(Client(set()), cut(30))
    covered = sorted(row for record in records for row in range(record.first, record.stop))
    assert covered == list(range(300))


def test_of_a_task_that_fails_the_part_is_found_and_the_others_are_done() -> None:
    client = Client({155})
    with pytest.raises(ScoringError, match="rows 150 to 159") as caught:
        done_by(client, cut(30))
    assert "it cannot be done" in str(caught.value)
    together = [asked for asked in client.asked if asked[0] <= 155 < asked[1]]
    assert together[-1] == (150, 160)
    alone = {asked for asked in client.asked if asked[1] - asked[0] == 10}
    first, stop = together[0]
    assert {(row, row + 10) for row in range(first, stop, 10)} <= alone


def test_what_a_worker_says_of_the_model_is_said_as_it_is() -> None:
    problem = ModelError("the weights are damaged", where="model.safetensors", hint="copy the bundle again")
    with pytest.raises(ModelError) as caught:
        done_by(Client(set(range(10_000)), problem), cut(30))
    assert str(caught.value) == str(problem)


def test_where_everything_fails_it_is_given_up_soon() -> None:
    client = Client(set(range(10_000)))
    with pytest.raises(ScoringError, match="and 9 more tasks"):
        done_by(client, cut(1000))
    assert client.cancelled > 900


def test_a_result_that_is_lost_with_its_worker_is_waited_for_and_is_no_failure() -> None:
    client = Client(set())
    submit = client.submit
    lost: list[Future] = []

    class Lost(Future):
        """Done, and then not any more; its error is asked for in vain."""

        status = "lost"

        def exception(self, timeout: float | None = None) -> BaseException | None:
            pytest.fail("whoever asks for the error of what will be done again waits for ever")

        def add_done_callback(self, fn: Callable[[Future], object]) -> None:
            if self.status == "lost":
                fn(self)  # as Dask does
            else:
                super().add_done_callback(fn)

    def submit_lost(work: object, first: int, stop: int, **more: object) -> Future:
        future = submit(work, first, stop, **more)
        if lost:
            return future
        lost.append(once := Lost())

        def done_again() -> None:
            once.set_result(future.result())
            once.status = "finished"

        threading.Timer(0.15, done_again).start()
        return once

    client.submit = submit_lost  # type: ignore[method-assign]
    records = done_by(client, cut(30))
    covered = sorted(row for record in records for row in range(record.first, record.stop))
    assert covered == list(range(300))


def test_a_crew_is_looked_after_while_nothing_is_done(tmp_path: Path) -> None:
    looked: list[tuple[int, int]] = []
    client = Client(set())
    release = threading.Event()
    submit = client.submit

    def late(*words: int, **more: object) -> Future:
        future = submit(*words, **more)
        quick, future.status = future, "pending"  # type: ignore[attr-defined]
        slow: Future = Future()
        slow.status = "pending"  # type: ignore[attr-defined]

        def pass_on() -> None:
            release.wait(10)
            slow.status = "finished"  # type: ignore[attr-defined]
            slow.set_result(quick.result())

        threading.Thread(target=pass_on).start()
        return slow

    client.submit = late  # type: ignore[method-assign, assignment]

    def tend(present: int, done: int) -> None:
        looked.append((present, done))
        release.set()

    crew = Crew(client, 1, foreman=SimpleNamespace(tend=tend))  # type: ignore[arg-type]
    assert len(carry_out(crew, WORK, cut(1), lambda record: None)) == 1
    assert looked == [(2, 0)]
