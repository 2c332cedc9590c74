"""Evaluating a finished run, or settings on a store: the model and all simple predictors, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError, UsageError, nearest
from hpc_brainage.evaluation.baselines import Constant, baselines
from hpc_brainage.evaluation.comparison import Evaluation, evaluate_predictions
from hpc_brainage.evaluation.finished import held_out_table, open_finished
from hpc_brainage.evaluation.openbhb import SPLITS, ChallengeResult, challenge_members
from hpc_brainage.evaluation.pipelines import (
    Pipeline,
    SAAVAEPipeline,
    View,
    alone,
    held_out,
    held_out_views,
)
from hpc_brainage.evaluation.splits import (
    Split,
    by_label,
    leave_one_site_out,
    people_folds,
    plain_folds,
)
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.store.reader import Store
from hpc_brainage.training.data import TrainingData, load_training_data
from hpc_brainage.training.preparation import check_settings

MODEL = "SA-AVAE"

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it was made of."""

    found: Evaluation
    about: dict[str, Any]
    notes: tuple[str, ...]


def evaluate_run(folder: Path, progress: Progress) -> Evaluated:
    """A finished run's held-out predictions beside simple predictors' on the same folds and people.

    Nothing of the model is trained again.

    Raises
    ------
    TrainingError : the run is not finished, its store has changed, or its table is not of this store.
    """
    run, data, config = open_finished(folder)
    table = held_out_table(run, data)
    splits = by_label(table["fold"].to_numpy())
    predictions = {MODEL: table["brain_age"].to_numpy(dtype=float)[None]}
    of_less = []
    if len(data.inputs) > 1:
        for role in data.inputs:
            name = f"{MODEL} from {role} alone"
            of_less.append(name)
            predictions[name] = table[f"brain_age_{role}_only"].to_numpy(dtype=float)[None]
    simple = baselines(data, config)
    for index, pipeline in enumerate(simple):
        predictions[pipeline.name] = held_out(pipeline, data, splits)
        progress(index + 1, len(simple), pipeline.name)
    found = evaluate_predictions(
        MODEL,
        predictions,
        data.scans,
        table["available"].astype(str).tolist(),
        splits,
        protocol=f"{len(splits)} folds over people",
        constants=_constants(simple),
        of_less=of_less,
    )
    return Evaluated(found, {"run": folder.name, **run.request()}, data.notes)


def evaluate_config(
    store: Path | str,
    config: RunConfig,
    protocol: str,
    seeds: int,
    progress: Progress,
    where: str | None = None,
) -> Evaluated:
    """Cross-validate the model with these settings, and all simple predictors with it.

    Parameters
    ----------
    store : what to train and test on.
    protocol : "folds" over people with the same mix, as a run has them; "kfold", scikit-learn's KFold over
        the people with all modalities, while the others are trained on in every fold; "sites", leaving
        one site out.
    seeds : of the model for each split, each with `training.ensemble` networks; the splits are the same.
    where : only these scans.

    Raises
    ------
    TrainingError : the settings do not fit the store, or there are too few people or sites.
    UsageError : another protocol.
    """
    data = load_training_data(Store.open(store), config, where)
    settings = config.training
    splits, said = splits_of(data, config, protocol)
    chosen = range(settings.seed, settings.seed + seeds)
    simple = baselines(data, config)
    epochs = len(splits) * seeds * settings.ensemble * settings.epochs
    count, total = itertools.count(1), epochs + len(simple)
    model = SAAVAEPipeline(config, report=lambda record: progress(next(count), total, MODEL))
    views: dict[str, View] = {MODEL: lambda people: people}
    if len(data.inputs) > 1:
        views |= {f"{MODEL} from {role} alone": alone(role) for role in data.inputs}
    predictions = held_out_views(model, data, splits, tuple(chosen), views)
    for index, pipeline in enumerate(simple):
        progress(epochs + index, total, pipeline.name)
        predictions[pipeline.name] = held_out(pipeline, data, splits)
    found = evaluate_predictions(
        MODEL,
        predictions,
        data.scans,
        data.availability,
        splits,
        protocol=said,
        constants=_constants(simple),
        of_less=tuple(views)[1:],
        networks=settings.ensemble,
    )
    about = {
        "store_sha256": data.store.content_sha256,
        "where": where,
        "config": config.model_dump(mode="json"),
        "seeds": list(chosen),
    }
    return Evaluated(found, about, data.notes)


def evaluate_openbhb(folder: Path) -> list[ChallengeResult]:
    """OpenBHB's protocol for the members of a finished run that was trained on the training split only.

    Raises
    ------
    TrainingError : the run is not finished, its store has changed, or test people were trained on.
    """
    run, _, config = open_finished(folder)
    request = run.request()
    data = load_training_data(Store.open(request["store"]), config)
    bundle = load_bundle(run.model)
    split = data.scans["split"].to_numpy()
    seen = bundle.known_people(data.scans, data.checksums).fold >= 0
    leaked = seen & np.isin(split, SPLITS[1:])
    if leaked.any():
        raise TrainingError(
            f"{int(leaked.sum())} scans of OpenBHB's test splits were trained on",
            where=folder,
            hint="train with --where \"split == 'train'\", then evaluate that run",
        )
    return challenge_members(bundle.members, data)


def splits_of(data: TrainingData, config: RunConfig, protocol: str) -> tuple[list[Split], str]:
    """The splits of a protocol ("folds", "kfold" or "sites"), and how a report calls it.

    Raises
    ------
    TrainingError : there are too few people or sites, or the settings do not fit what is trained on.
    UsageError : another protocol.
    """
    splits, said = _splits_of(data, config, protocol)
    check_settings(data, config, {split.name: split.train for split in splits})
    return splits, said


def _splits_of(data: TrainingData, config: RunConfig, protocol: str) -> tuple[list[Split], str]:
    folds, seed = config.training.folds, config.training.seed
    if protocol == "folds":
        return people_folds(data, folds, seed), f"{folds} folds over people"
    if protocol == "kfold":
        everything = "+".join(data.inputs)
        complete = np.array([has == everything for has in data.availability])
        said = f"KFold({folds}, shuffle=True, random_state={seed}), all with {everything}"
        return plain_folds(data, folds, seed, complete), said
    if protocol == "sites":
        return leave_one_site_out(data), "leaving one site out"
    raise UsageError(f"the protocol {protocol!r}", hint=nearest(protocol, ("folds", "kfold", "sites")))


def _constants(simple: Sequence[Pipeline]) -> list[str]:
    return [pipeline.name for pipeline in simple if isinstance(pipeline, Constant)]
