"""A training run: members for each fold, and the bundle they make.

Every person is held out by the members of exactly one fold. All members together score people whom none of
them has seen; the held-out predictions say how large the error is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.config import RunConfig, TrainingConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.files import sha256_of
from hpc_brainage.losses.gradient_memory import free_gradient_memory
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.model.member import Member
from hpc_brainage.provenance import software
from hpc_brainage.scans import IDENTITY
from hpc_brainage.store.reader import Store
from hpc_brainage.training.checkpoint import MemberCheckpoint
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.description import describe_model
from hpc_brainage.training.distributed import (
    LostProcess,
    Processes,
    join_processes,
    others_may_be_lost,
)
from hpc_brainage.training.folds import assign_folds
from hpc_brainage.training.keeper import Keeper
from hpc_brainage.training.lease import Lease
from hpc_brainage.training.loop import EpochReport, MemberTask, has_begun, member_seed, train_member
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.preparation import check_settings
from hpc_brainage.training.records import LEASE, RunFolder, what_is_computed
from hpc_brainage.training.stacked import can_be_stacked, train_stacked
from hpc_brainage.training.stop import Agreement, Signals

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """What a run ends with, before it is measured."""

    folder: RunFolder
    info: ModelInfo
    members: tuple[Member, ...]
    data: TrainingData
    fold: np.ndarray
    """Fold in which each scan of `data` was held out."""
    held_out: pd.DataFrame
    """`RunFolder.held_out` as a table, in the order of `data.scans`."""


def run_training(
    folder: Path,
    *,
    on_start: Callable[[TrainingData], None] | None = None,
    on_epoch: Callable[[dict[str, Any], int, int], None] | None = None,
    finish: Callable[[FinishedRun], object] | None = None,
) -> FinishedRun | None:
    """Train all members of a prepared run; every process of the run calls this.

    A run that was cut off goes on from its newest checkpoint, on any number of processes. The first process
    returns what was trained; the others return None.

    Parameters
    ----------
    folder : the run's folder, made by `RunFolder.prepare`.
    on_start : told about the data.
    on_epoch : told each epoch of each member, and how many epochs of how many are done.
    finish : called with what was trained, while nobody else may train in the folder.

    Raises
    ------
    TrainingError : the settings do not fit the store, the store has changed since the preparation, or
        another training is under way in the folder.
    Stopped : one of the processes was told to stop; what is done is saved.
    LostProcess : another process of the run has ended.
    """
    run = RunFolder(folder)
    config, request = run.config(), run.request()
    store = Store.open(request["store"])
    run.check_store(store)
    data = load_training_data(store, config, request["where"])
    settings = config.training
    fold = assign_folds(data.scans, data.availability, settings.folds, settings.seed)
    folds = {f"fold {index}": np.flatnonzero(fold != index) for index in range(settings.folds)}
    check_settings(data, config, folds)
    timeout = timedelta(minutes=settings.timeout_minutes)
    processes = join_processes(settings.device, timeout)
    key = _key(config, store, data)
    with ExitStack() as until_finished:
        with others_may_be_lost(processes), ExitStack() as held:
            held.callback(free_gradient_memory)
            _agree(processes, key, settings)
            lease = _take(until_finished, run, processes)
            keeper = Keeper(
                folder=run.checkpoints,
                key=key,
                processes=processes,
                signals=held.enter_context(Signals()),
                agreement=Agreement(processes, timeout),
                seconds=60 * settings.checkpoint_minutes,
                lease=lease,
            )
            held.enter_context(keeper)
            if processes.is_first:
                held.enter_context(run.under_way(processes.world_size, key))
                if on_start:
                    on_start(data)
            held.enter_context(others_may_be_lost(processes))  # so that the run's status says it, too
            members = _members(data, folds, config, run, keeper, on_epoch)
        if not processes.is_first:
            return None
        held_out = data.scans[[*IDENTITY, "age", "sex", "site"]].assign(fold=fold, brain_age=np.nan)
        for index in range(settings.folds):
            of_fold = members[index * settings.ensemble : (index + 1) * settings.ensemble]
            _predict_held_out(held_out, of_fold, data, np.flatnonzero(fold == index))
        members = [member.to("cpu") for member in members]
        held_out["available"] = _available(held_out, data)
        run.write_held_out(held_out)
        info = describe_model(folder.name, config, data, fold, members, request["where"], salt=key[:32])
        finished = FinishedRun(run, info, tuple(members), data, fold, held_out)
        if finish:
            finish(finished)
    return finished


def _members(
    data: TrainingData,
    folds: Mapping[str, np.ndarray],
    config: RunConfig,
    run: RunFolder,
    keeper: Keeper,
    on_epoch: Callable[[dict[str, Any], int, int], None] | None,
) -> list[Member]:
    """All members of a run, trained now or before, on the run's device; empty but in the first process."""
    settings, processes = config.training, keeper.processes
    checkpoints = [
        MemberCheckpoint(run.checkpoints, index, keeper.key) for index in range(settings.members)
    ]
    finished = {
        index: found
        for index, checkpoint in enumerate(checkpoints if processes.is_first else ())
        if (found := checkpoint.load_finished(config))
    }
    epochs = dict.fromkeys(finished, settings.epochs)

    def begun(members: Sequence[int], epoch: int) -> None:
        if processes.is_first:
            run.keep_metrics(members, epoch)

    def report(record: dict[str, Any]) -> None:
        if processes.is_first:
            run.log_epoch(record)
            epochs[record["member"]] = record["epoch"] + 1
            if on_epoch:
                on_epoch(record, sum(epochs.values()), settings.members * settings.epochs)

    learned_from = [rows for rows in folds.values() for _ in range(settings.ensemble)]
    tasks = [
        MemberTask(index, rows, member_seed(settings.seed, index))
        for index, rows in enumerate(learned_from)
    ]
    known = processes.words_of_the_first([float(task.index in finished) for task in tasks])
    done = [task.index for task, is_done in zip(tasks, known, strict=True) if is_done]
    for index, member, summary in _trained(data, tasks, done, config, keeper, report, begun):
        if processes.is_first:
            try:
                checkpoints[index].save_finished(member, summary)
            except OSError as problem:
                _LOG.warning(
                    "member %d could not be saved, and training goes on (%s: %s)",
                    index, run.checkpoints, problem.strerror,
                )  # fmt: skip
                keeper.spare()
            finished[index] = member, summary
            run.note(members_finished=len(finished))
    return [finished[index][0].to(processes.device) for index in sorted(finished)]


def _trained(
    data: TrainingData,
    tasks: Sequence[MemberTask],
    done: Collection[int],
    config: RunConfig,
    keeper: Keeper,
    report: EpochReport,
    begun: Callable[[Sequence[int], int], None],
) -> Iterator[tuple[int, Member, dict[str, Any]]]:
    """Each member that is not done, as soon as it is trained: its number, itself, and a summary."""
    processes = keeper.processes
    stacked = can_be_stacked(data, config, processes, config.training.folds)
    left = [task for task in tasks if task.index not in done]
    # A member that more processes have begun is finished by itself: members of a stack step together.
    alone = [task for task in left if has_begun(task, keeper)] if stacked else left
    for task in alone:
        this = partial(begun, [task.index])
        yield task.index, *train_member(data, task, config, processes, report, keeper, this)
        keeper.end()
    if stacked:
        done = {*done, *(task.index for task in alone)}
        everyone = [data] * len(tasks)
        yield from train_stacked(everyone, tasks, config, processes.device, report, done, keeper, begun)


def _take(held: ExitStack, run: RunFolder, processes: Processes) -> Lease | None:
    """The run's lease, in the first process; the others only learn whether it was to be had.

    Raises
    ------
    TrainingError : another training is under way in the folder.
    """
    lease, refusal = None, None
    if processes.is_first:
        lease = Lease(run.path / LEASE)
        try:
            held.enter_context(lease)
        except TrainingError as problem:
            refusal = problem
    if processes.word_of_the_first(float(refusal is not None)):
        raise refusal or LostProcess("the first process may not train in this folder", where=run.path)
    return lease


def _predict_held_out(
    table: pd.DataFrame, members: Sequence[Member], data: TrainingData, rows: np.ndarray
) -> None:
    """Write the mean predictions of a fold's members for the fold's people into the table."""
    predictions = [predict_rows(member, data, rows) for member in members]
    for name in predictions[0]:
        column = "brain_age" if name == "age" else f"brain_age_{name.removeprefix('age_')}_only"
        if column not in table:
            table[column] = np.nan
        table.loc[rows, column] = np.mean([years[name] for years in predictions], axis=0)


def _available(held_out: pd.DataFrame, data: TrainingData) -> list[str]:
    """Which modalities each scan was predicted from: "smri+fmri", "smri", ..., or "none"."""
    used = {role: held_out[f"brain_age_{role}_only"].notna().to_numpy() for role in data.inputs}
    return ["+".join(r for r in used if used[r][row]) or "none" for row in range(len(held_out))]


def _agree(processes: Processes, key: str, settings: TrainingConfig) -> None:
    """All processes must be about to compute the same thing.

    Raises
    ------
    TrainingError : they are not, or they are more than a step has scans.
    """
    shares = processes.world_size * settings.accumulation
    if settings.batch_size < shares:
        each = f" in {settings.accumulation} parts each" if settings.accumulation > 1 else ""
        raise TrainingError(
            f"{processes.world_size} processes cannot share a step of {settings.batch_size} scans{each}",
            where="training.batch_size",
            expected=f"at least {shares}",
            hint="--set training.batch_size=N, or use fewer processes",
        )
    mine = float(int(key[:12], 16))
    if processes.word_of_the_first(mine) != mine:
        raise TrainingError(
            "this process sees other settings or another store than the first process",
            where=f"rank {processes.rank}",
            hint="the run folder and the store must be on a file system that all nodes share",
        )


def _key(config: RunConfig, store: Store, data: TrainingData) -> str:
    """What decides every number of the run; the same key means the same run."""
    scans = data.scans[list(IDENTITY)].to_numpy().tolist()
    return sha256_of(
        {
            "config": what_is_computed(config),
            "store": store.content_sha256,
            "scans": scans,
            "software": software("torch", "deepspeed", "numpy"),
        }
    )
