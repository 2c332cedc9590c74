"""Handing a store's parts to workers, and keeping account of what becomes of them.

A task is one or more whole parts of the store with about a second of work: far above what Dask needs to
hand it over (a few milliseconds), and little to lose. What a part costs is measured on the first tasks,
which have one part for each of a worker's threads.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from hpc_brainage.errors import BrainAgeError, ScoringError
from hpc_brainage.scoring.crew import MOST_DEATHS, Crew
from hpc_brainage.scoring.part_work import PartWork
from hpc_brainage.scoring.parts import PartRecord

if TYPE_CHECKING:
    from distributed import Future

TASK_SECONDS = 1.0
"""Work of a task, where there are parts enough."""
LEAST_SECONDS = 0.1
"""Work of a task at least, unless it is all that is left."""
_TURNS = 2
"""A worker gets at most this part of its share of what is left."""
_ATTEMPTS = 3
_MOST_FAILED = 10
_GLANCE = 1.0  # seconds
_FETCH = 10.0  # seconds
_PAUSE = 0.1  # seconds

Tell = Callable[[PartRecord | None], None]
Task = Sequence[range]
"""Parts of a store, one after the other."""


def carry_out(crew: Crew, work: PartWork, parts: Sequence[range], tell: Tell) -> list[PartRecord]:
    """Have all parts scored; the records of the tasks, in no order.

    Of a task that fails, or whose workers die of it, each part is tried once more alone, so that a failure
    is that of a part.

    Parameters
    ----------
    parts : rows of the store, each a whole part of it, in order.
    tell : called with each record as it comes, and with None now and then.

    Raises
    ------
    ScoringError : parts failed, or ended their workers, again and again; all others are done by then,
        unless nearly everything fails. Or the scheduler is gone, or all workers of this machine.
    StoreError, ModelError : a worker cannot use the store or the model.
    """
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    under_way: dict[Future, Task] = {}
    records: list[PartRecord] = []
    failed: dict[range, BaseException] = {}

    def submit(task: Task) -> None:
        first, stop = task[0].start, task[-1].stop
        # A name of this form lets the scheduler keep what no worker is free for.
        key = (f"score-{id(ended):x}", first, stop)
        watch(crew.client.submit(work, first, stop, key=key, retries=_ATTEMPTS - 1, pure=False), task)

    def watch(future: Future, task: Task) -> None:
        under_way[future] = task
        future.add_done_callback(ended.put)

    first = grouped(parts, math.inf, crew.wanted, crew.threads)
    waiting = [part for task in first[crew.wanted :] for part in task]
    for task in first[: crew.wanted]:
        submit(task)
    while under_way:
        crew.tend(len(records))
        try:
            future = ended.get(timeout=_GLANCE)
        except queue.Empty:
            tell(None)
            continue
        task = under_way.pop(future)
        if future.status == "finished":
            try:
                records.append(future.result(timeout=_FETCH))
            except TimeoutError:  # its worker ended before it could be asked: another one does it again
                watch(future, task)
            else:
                tell(records[-1])
        elif future.status == "cancelled":  # nobody here cancels what is under way
            raise _lost()
        elif future.status != "error":
            # Its worker ended after it had said that the task was done: another one does it again. Until
            # then Dask counts it as done, and would wait for its error as long as nobody comes.
            time.sleep(_PAUSE)
            watch(future, task)
        elif len(task) > 1:
            for part in task:
                submit([part])
        else:
            try:
                failed[task[0]] = future.exception(timeout=_FETCH) or RuntimeError(future.status)
            except TimeoutError:  # it is under way again after all
                watch(future, task)
            tell(None)
        if len(failed) >= _MOST_FAILED:
            crew.client.cancel(list(under_way), force=True)
            break
        if waiting and (records or not under_way):
            for task in grouped(waiting, _cost(records), crew.wanted, crew.threads):
                submit(task)
            waiting = []
    if failed:
        raise _failure(failed, len(parts))
    return records


def _cost(records: Sequence[PartRecord]) -> float:
    """Seconds of a row of the store; infinite where nobody knows."""
    return records[-1].seconds / (records[-1].stop - records[-1].first) if records else math.inf


def grouped(parts: Sequence[range], seconds_per_row: float, workers: int, threads: int = 1) -> list[Task]:
    """Parts put together into tasks: neighbours only, in order, each of them once.

    As many as make `TASK_SECONDS` of work, and towards the end ever fewer, but `LEAST_SECONDS` and one for
    each of a worker's threads: half of a worker's share of what is left, so that the last of them end
    together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """
    if not parts:
        return []
    cost = max(seconds_per_row * max(map(len, parts)), 1e-9)
    least = max(threads, math.ceil(LEAST_SECONDS / cost))
    most = max(least, math.ceil(TASK_SECONDS / cost))
    tasks: list[Task] = []
    breaks = [place for place, (a, b) in enumerate(pairwise(parts), 1) if a.stop != b.start]
    for begin, end in pairwise([0, *breaks, len(parts)]):
        while begin < end:
            share = (len(parts) - begin) // (_TURNS * workers)
            stop = min(begin + max(least, min(most, share)), end)
            tasks.append(parts[begin:stop])
            begin = stop
    return tasks


def _lost() -> ScoringError:
    return ScoringError(
        "the connection to the Dask scheduler was lost",
        expected="a scheduler that runs until the last scan is scored",
        hint="run the same command again when there is one: the parts that are done are kept",
    )


def _failure(failed: dict[range, BaseException], parts: int) -> BrainAgeError:
    """What a worker says of model, store or run, as it says it; else which part failed, and how."""
    from distributed.scheduler import KilledWorker

    for problem in failed.values():
        if isinstance(problem, BrainAgeError):
            return problem
    rows, problem = next(iter(failed.items()))
    if isinstance(problem, KilledWorker):
        said = f"{MOST_DEATHS} workers ended while they scored it"
        hint = "see how much memory a worker has; then run the same command again: what is done is kept"
    else:
        said = str(problem).replace("\n", "; ")
        hint = "run the same command again: the parts that are done are kept"
    more = f", and {len(failed) - 1} more tasks" if len(failed) > 1 else ""
    return ScoringError(
        f"the part of rows {rows.start} to {rows.stop - 1} of the store failed{more}",
        where=said,
        expected=f"all of {parts} parts",
        hint=hint,
    )
