"""Evaluating a finished run, or settings on a store: the model and all simple predictors, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_brainage.errors import TrainingError
from hpc_brainage.evaluation.baselines import Constant, baselines
from hpc_brainage.evaluation.comparison import Evaluation, evaluate_predictions
from hpc_brainage.evaluation.finished import held_out_table, open_finished
from hpc_brainage.evaluation.openbhb import SPLITS, ChallengeResult, challenge_members, check_challenge
from hpc_brainage.evaluation.pipelines import (
    Pipeline,
    SAAVAEPipeline,
    View,
    alone,
    held_out_views,
    predict_held_out,
)
from hpc_brainage.evaluation.progress import Progress
from hpc_brainage.evaluation.splits import by_label
from hpc_brainage.evaluation.trial import Trial
from hpc_brainage.model.bundle import load_bundle
from hpc_brainage.training.data import load_training_data

MODEL = "SA-AVAE"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what it was made of."""

    found: Evaluation
    about: dict[str, Any]
    notes: tuple[str, ...]


def evaluate_run(folder: Path, progress: Progress, store: str | None = None) -> Evaluated:
    """A finished run's held-out predictions beside simple predictors' on the same folds and people.

    Nothing of the model is trained again.

    Parameters
    ----------
    store : where the run's store lies now; by default where it lay.

    Raises
    ------
    TrainingError : the run is not finished, its store has changed, or its table is not of this store.
    """
    run, data, config = open_finished(folder, store)
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
        predictions[pipeline.name] = predict_held_out(pipeline, data, splits)
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
    return Evaluated(found, {"run": folder.resolve().name, **run.request()}, data.notes)


def evaluate_config(trial: Trial, progress: Progress) -> Evaluated:
    """Cross-validate the model with some settings, and all simple predictors with it.

    Raises
    ------
    TrainingError : the settings do not fit the store, or there are too few people or sites.
    """
    config, training = trial.config, trial.config.training
    data, splits, said = trial.open()
    simple = baselines(data, config)
    epochs = len(splits) * trial.seeds * training.ensemble * training.epochs
    count, total = itertools.count(1), epochs + len(simple)
    model = SAAVAEPipeline(config, report=lambda record: progress(next(count), total, MODEL))
    views: dict[str, View] = {MODEL: lambda people: people}
    if len(data.inputs) > 1:
        views |= {f"{MODEL} from {role} alone": alone(role) for role in data.inputs}
    predictions = held_out_views(model, data, splits, trial.chosen_seeds, views)
    for index, pipeline in enumerate(simple):
        progress(epochs + index, total, pipeline.name)
        predictions[pipeline.name] = predict_held_out(pipeline, data, splits)
    found = evaluate_predictions(
        MODEL,
        predictions,
        data.scans,
        data.availability,
        splits,
        protocol=said,
        constants=_constants(simple),
        of_less=tuple(views)[1:],
        networks=training.ensemble,
    )
    return Evaluated(found, trial.about(data), data.notes)


def evaluate_openbhb(folder: Path, progress: Progress, store: str | None = None) -> list[ChallengeResult]:
    """OpenBHB's protocol for the members of a finished run that was trained on the training split only.

    Parameters
    ----------
    store : where the run's store lies now; by default where it lay.

    Raises
    ------
    TrainingError : the run is not finished, its store has changed, or test people were trained on.
    UsageError : the store's scans do not name the challenge's splits.
    """
    run, learned_from, config = open_finished(folder, store)
    data = load_training_data(learned_from.store, config)
    split = data.scans["split"].to_numpy()
    check_challenge(split)
    bundle = load_bundle(run.model)
    seen = bundle.known_people(data.scans, data.checksums).fold >= 0
    leaked = seen & np.isin(split, SPLITS[1:])
    if leaked.any():
        raise TrainingError(
            f"{int(leaked.sum())} scans of OpenBHB's test splits were trained on",
            where=folder,
            hint="train with --where \"split == 'train'\", then evaluate that run",
        )
    return challenge_members(bundle.members, data, progress)


def _constants(simple: Sequence[Pipeline]) -> list[str]:
    return [pipeline.name for pipeline in simple if isinstance(pipeline, Constant)]
