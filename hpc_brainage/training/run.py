"""A training run: members for each fold, and the bundle they make.

Every person is held out by the members of exactly one fold. All members together score people whom none of
them has seen; the held-out predictions say how large the error is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.config import RunConfig, TrainingConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.files import sha256_of
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.model.member import Member
from hpc_brainage.provenance import software
from hpc_brainage.scans import IDENTITY
from hpc_brainage.store.reader import Store
from hpc_brainage.training.checkpoint import MemberCheckpoint
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.description import describe_model
from hpc_brainage.training.distributed import Processes, join_processes
from hpc_brainage.training.folds import assign_folds
from hpc_brainage.training.loop import EpochReport, MemberTask, member_seed, train_member
from hpc_brainage.training.prediction import predict_rows
from hpc_brainage.training.preparation import check_settings
from hpc_brainage.training.records import RunFolder
from hpc_brainage.training.stacked import can_be_stacked, train_stacked


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
) -> FinishedRun | None:
    """Train all members of a prepared run; every process of the run calls this.

    A run that was cut off goes on with the first member that is not finished. The first process returns
    what was trained; the others return None.

    Parameters
    ----------
    folder : the run's folder, made by `RunFolder.prepare`.
    on_start : told about the data.
    on_epoch : told each epoch of each member, and how many epochs of how many are done.

    Raises
    ------
    TrainingError : the settings do not fit the store, or the store has changed since the preparation.
    """
    run = RunFolder(folder)
    config, request = run.config(), run.request()
    store = Store.open(request["store"])
    if store.content_sha256 != request["content_sha256"]:
        raise TrainingError(
            "the store has changed since the run was prepared",
            where=store.path,
            hint="train again with another --name",
        )
    data = load_training_data(store, config, request["where"])
    settings = config.training
    fold = assign_folds(data.scans, data.availability, settings.folds, settings.seed)
    folds = {f"fold {index}": np.flatnonzero(fold != index) for index in range(settings.folds)}
    check_settings(data, config, folds)
    processes = join_processes(settings.device)
    key = _key(config, store, data)
    _agree(processes, key, settings)
    if processes.is_first:
        run.update(state="running", processes=processes.world_size)
        if on_start:
            on_start(data)

    checkpoints = [MemberCheckpoint(run.checkpoints, index, key) for index in range(settings.members)]
    finished = {
        index: found
        for index, checkpoint in enumerate(checkpoints if processes.is_first else ())
        if (found := checkpoint.load_finished(config))
    }
    epochs = dict.fromkeys(finished, settings.epochs)

    def report(record: dict[str, Any]) -> None:
        if processes.is_first:
            run.log_epoch(record)
            epochs[record["member"]] = record["epoch"] + 1
            if on_epoch:
                on_epoch(record, sum(epochs.values()), settings.members * settings.epochs)

    if processes.is_first:
        run.keep_metrics(list(finished))
    learned_from = [rows for rows in folds.values() for _ in range(settings.ensemble)]
    tasks = [
        MemberTask(index, rows, member_seed(settings.seed, index))
        for index, rows in enumerate(learned_from)
    ]
    done = [task.index for task in tasks if processes.word_of_the_first(float(task.index in finished))]
    for index, member, summary in _trained(data, tasks, done, config, processes, report):
        if processes.is_first:
            checkpoints[index].save_finished(member, summary)
            finished[index] = member, summary
            run.update(members_finished=len(finished))
    if not processes.is_first:
        return None
    members = [finished[index][0].to(processes.device) for index in range(settings.members)]
    held_out = data.scans[[*IDENTITY, "age", "sex", "site"]].assign(fold=fold, brain_age=np.nan)
    for index in range(settings.folds):
        of_fold = members[index * settings.ensemble : (index + 1) * settings.ensemble]
        _predict_held_out(held_out, of_fold, data, np.flatnonzero(fold == index))
    members = [member.to("cpu") for member in members]
    held_out["available"] = _available(held_out, data)
    run.write_held_out(held_out)
    info = describe_model(folder.name, config, data, fold, members, request["where"], salt=key[:32])
    return FinishedRun(run, info, tuple(members), data, fold, held_out)


def _trained(
    data: TrainingData,
    tasks: Sequence[MemberTask],
    done: Collection[int],
    config: RunConfig,
    processes: Processes,
    report: EpochReport,
) -> Iterator[tuple[int, Member, dict[str, Any]]]:
    """Each member that is not done, as soon as it is trained: its number, itself, and a summary."""
    if can_be_stacked(data, config, processes, config.training.folds):
        everyone = [data] * len(tasks)
        yield from train_stacked(everyone, tasks, config, processes.device, report, done)
        return
    for task in tasks:
        if task.index not in done:
            yield task.index, *train_member(data, task, config, processes, report)


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
    if settings.batch_size < processes.world_size:
        raise TrainingError(
            f"{processes.world_size} processes cannot share a step of {settings.batch_size} scans",
            where="training.batch_size",
            expected=f"at least {processes.world_size}",
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
            "config": config.model_dump(mode="json"),
            "store": store.content_sha256,
            "scans": scans,
            "software": software("torch", "deepspeed", "numpy"),
        }
    )
