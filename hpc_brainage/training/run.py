"""A training run: one member for each fold, and the bundle they make.

Every person is held out by exactly one member. The members together score people whom none of them has
seen; the held-out predictions say how large the error is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.config import RunConfig
from hpc_brainage.files import sha256_of
from hpc_brainage.model.bundle import (
    Bundle,
    ModelInfo,
    TrainingPeople,
    person_mark,
    save_bundle,
    scan_mark,
)
from hpc_brainage.model.member import Member
from hpc_brainage.provenance import software
from hpc_brainage.scans import IDENTITY
from hpc_brainage.store.reader import Store
from hpc_brainage.training.checkpoint import MemberCheckpoints
from hpc_brainage.training.data import FeatureInput, TrainingData, load_training_data
from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.folds import assign_folds
from hpc_brainage.training.loop import MemberTask, predict_rows, train_member
from hpc_brainage.training.records import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """What a run ends with."""

    folder: RunFolder
    bundle: Bundle
    data: TrainingData
    fold: np.ndarray
    """Fold in which each scan of `data` was held out."""
    held_out: pd.DataFrame
    """`RunFolder.held_out` as a table, in the order of `data.scans`."""
    is_first: bool
    """Whether this is the process that writes what is left to write."""


def run_training(
    folder: Path,
    *,
    on_start: Callable[[TrainingData], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> FinishedRun:
    """Train all members of a prepared run and write the bundle; every process of the run calls this.

    A run that was cut off goes on with the first member that is not finished.

    Parameters
    ----------
    folder : the run's folder, made by `RunFolder.prepare`.
    on_start, on_epoch : told about the data, and about each epoch of each member.
    """
    run = RunFolder(folder)
    config, request = run.config(), run.request()
    where = request["where"]
    store = Store.open(Path(request["store"]))
    data = load_training_data(store, config, where)
    processes = join_processes(config.training.device)
    key = _key(config, store, data)
    if processes.is_first:
        run.update(state="running", processes=processes.world_size)
        if on_start:
            on_start(data)

    def report(record: dict[str, Any]) -> None:
        if processes.is_first:
            run.log_epoch(record)
            if on_epoch:
                on_epoch(record)

    settings = config.training
    fold = assign_folds(data.scans, data.availability, settings.folds, settings.seed)
    held_out = data.scans[[*IDENTITY, "age", "sex", "site"]].assign(
        available=data.availability, fold=fold, brain_age=np.nan
    )
    members: list[Member] = []
    for index in range(settings.folds):
        checkpoints = MemberCheckpoints(run.checkpoints, index, key)
        finished = checkpoints.load_finished(config)
        if finished is None:
            task = MemberTask(index, np.flatnonzero(fold != index), settings.seed * 1000 + index)
            finished = train_member(data, task, config, processes, checkpoints, report)
        member = finished[0]
        rows = np.flatnonzero(fold == index)
        for name, years in predict_rows(member, data, rows).items():
            column = "brain_age" if name == "age" else f"brain_age_{name.removeprefix('age_')}_only"
            if column not in held_out:
                held_out[column] = np.nan
            held_out.loc[rows, column] = years
        members.append(member)
        if processes.is_first:
            run.update(members_finished=index + 1)
    info = _info(folder.name, config, data, fold, members, where, salt=key[:32])
    bundle = Bundle(info, tuple(members))
    if processes.is_first:
        run.write_held_out(held_out)
        bundle = save_bundle(run.model, info, members)
    return FinishedRun(run, bundle, data, fold, held_out, processes.is_first)


def _key(config: RunConfig, store: Store, data: TrainingData) -> str:
    """What decides every number of the run; the same key means the same run."""
    scans = data.scans[list(IDENTITY)].to_numpy().tolist()
    return sha256_of(
        {"config": config.model_dump(mode="json"), "store": store.content_sha256, "scans": scans}
    )


def _info(
    name: str,
    config: RunConfig,
    data: TrainingData,
    fold: np.ndarray,
    members: list[Member],
    where: str | None,
    salt: str,
) -> ModelInfo:
    scans, age = data.scans, data.scans["age"]
    features: dict[str, tuple[str, ...]] = {}
    volumes: dict[str, tuple[int, ...]] = {}
    for role, source in data.inputs.items():
        if isinstance(source, FeatureInput):
            taken = {name for member in members for name in member.features(role)}
            features[role] = tuple(name for name in source.names if name in taken)
        else:
            volumes[role] = source.grid
    people = TrainingPeople(
        people=int(scans["participant_id"].nunique()),
        scans=len(scans),
        age_min=float(age.min()),
        age_max=float(age.max()),
        age_mean=float(age.mean()),
        age_sd=float(age.std(ddof=0)),
        sexes=_counts(scans["sex"]),
        sites=_counts(scans["site"]),
        with_modality={role: int(source.present.sum()) for role, source in data.inputs.items()},
        where=where,
        store=data.store.name,
        store_sha256=data.store.content_sha256,
    )
    cohort = data.store.name
    seen: dict[str, int] = {}
    for person, checksums, index in zip(scans["participant_id"], data.checksums, fold, strict=True):
        seen[person_mark(cohort, person, salt)] = int(index)
        seen |= {scan_mark(checksum, salt): int(index) for checksum in checksums if checksum}
    return ModelInfo(
        name=name,
        config=config,
        members=tuple(member.describe() for member in members),
        features=features,
        volumes=volumes,
        training=people,
        salt=salt,
        seen=dict(sorted(seen.items())),
        software=software("torch", "deepspeed", "numpy"),
    )


def _counts(column: pd.Series) -> dict[str, int]:
    counts = column.value_counts()
    return {str(value): int(counts[value]) for value in sorted(counts.index)}
