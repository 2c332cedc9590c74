"""The work of a conversion: shards are made by several threads, and parts declared done in their order.

Unpacking, scaling, hashing and compressing all happen outside of Python's own lock, so threads keep every
core busy while they share one cohort. More machines share the work by parts.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from threadpoolctl import threadpool_limits

from hpc_brainage.cohorts.cohort import Cohort, ModalitySource
from hpc_brainage.errors import ScanRefused
from hpc_brainage.store.building import Build, DoneByAnother
from hpc_brainage.store.manifest import PartManifest, PartOfModality
from hpc_brainage.store.place import writing_to
from hpc_brainage.store.plan import Plan, PlannedModality
from hpc_brainage.store.writer import Loaded, encode_shard, write_shard

Progress = Callable[[int, int], None]
_MOST_WORKERS = 8
_WRITERS = 2


def default_workers(plan: Plan) -> int:
    """One thread for each core that this process may use, up to eight; one where there are only tables."""
    if all(planned.modality.kind == "features" for planned in plan.modalities):
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def share(parts: int, number: int, of: int) -> range:
    """The `number`-th of `of` shares of the parts, counted from 1: consecutive, and equal but for one.

    Raises
    ------
    ValueError : there is no such share.
    """
    if not 1 <= number <= of:
        raise ValueError(f"share {number} of {of}")
    return range(parts * (number - 1) // of, parts * number // of)


def write_parts(
    cohort: Cohort,
    build: Build,
    indices: Sequence[int] | None = None,
    *,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Convert parts of the plan, unless they have been done; returns how many had been.

    A scan that its source refuses is left absent in that modality, with the reason in the manifest, and
    such a part is converted again when it is asked for again. What is in memory at any time is, for each
    worker and two more, one chunk of values and one shard of compressed bytes.

    Parameters
    ----------
    indices : which parts; all of them by default.
    workers : threads (see `default_workers`).
    progress : called with the measurements (scan x modality) that are done, and all that were asked for.

    Raises
    ------
    StoreError : the place has been taken by another conversion.
    EnvironmentLacks : the disk is full, or must not be written.
    """
    wanted = range(len(build.plan.parts)) if indices is None else indices
    with writing_to(build.place):
        try:
            return _write_parts(cohort, build, wanted, workers, progress)
        except DoneByAnother:  # the store has been finished meanwhile
            return len(wanted)


def _write_parts(
    cohort: Cohort, build: Build, wanted: Sequence[int], workers: int | None, progress: Progress
) -> int:
    missing = [index for index in wanted if not build.settled_part(index)]
    tried_again = [index for index in missing if build.has_part(index)]
    counter = _Counter(build.plan, wanted, missing, progress)
    workers = workers or default_workers(build.plan)
    build.require()
    work = _Work(cohort, build, workers, counter.one_more)
    # More threads of BLAS would be in the way of these, and add up in another order.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers + _WRITERS, thread_name_prefix="convert") as pool,
    ):
        try:
            for index in tried_again:
                build.withdraw_part(index)
            begun = deque((index, _begin(work, index, pool)) for index in missing)
            while begun:  # what a part reports is forgotten once it is saved
                build.save_part(_manifest(build, *begun.popleft()))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return len(wanted) - len(missing)


Shard = tuple[str, "Future[PartOfModality]"]


def _begin(work: _Work, index: int, pool: ThreadPoolExecutor) -> list[Shard]:
    """Hand out the shards of a part, each with the modality that it belongs to."""
    plan = work.build.plan
    return [
        (planned.modality.key, pool.submit(work.shard, planned, rows))
        for planned in plan.modalities
        for rows in plan.shards(index, planned)
    ]


class _Work:
    """What a thread does: make a shard as soon as a core is free for it, then write it.

    Writing is waiting for the disk, so there are a few more threads than cores: while one waits, another
    makes the next shard.
    """

    def __init__(self, cohort: Cohort, build: Build, cores: int, loaded: Callable[[], None]) -> None:
        self.build = build
        self._loaded = loaded
        self._cores = threading.Semaphore(cores)
        self._loaders = {key: _loader(source) for key, source in cohort.sources.items()}

    def shard(self, planned: PlannedModality, rows: range) -> PartOfModality:
        load = self._loaders[planned.modality.key]
        with self._cores:
            encoded = encode_shard(self.build.plan, planned, rows, load, self._loaded)
        return write_shard(self.build, encoded)


def _manifest(build: Build, index: int, shards: Sequence[Shard]) -> PartManifest:
    """What the shards of a part report, once all of them are written."""
    return PartManifest(
        index,
        build.plan.sha256,
        {
            key: PartOfModality.joined([shard.result() for _, shard in of_modality])
            for key, of_modality in groupby(shards, key=lambda shard: shard[0])
        },
    )


def _loader(source: ModalitySource) -> Callable[[int], Loaded]:
    def load(row: int) -> Loaded:
        if not source.present[row]:
            return None
        try:
            return source.load(row)
        except OSError as problem:  # one unreadable file must not stop the others
            raise ScanRefused(f"cannot be read ({problem.strerror or type(problem).__name__})") from None

    return load


class _Counter:
    """Measurements that are done, counted by all threads together."""

    def __init__(
        self, plan: Plan, wanted: Sequence[int], missing: Sequence[int], progress: Progress
    ) -> None:
        self._total = sum(_measurements(plan, index) for index in wanted)
        self._done = self._total - sum(_measurements(plan, index) for index in missing)
        self._progress = progress
        self._lock = threading.Lock()
        progress(self._done, self._total)

    def one_more(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total)


def _measurements(plan: Plan, part: int) -> int:
    return sum(len(rows) for planned in plan.modalities for rows in plan.shards(part, planned))
