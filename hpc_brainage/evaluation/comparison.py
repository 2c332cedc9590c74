"""A model beside simple predictors, on the same people: errors with intervals, differences, groups.

What is compared are raw held-out predictions. The measures of a predictor with several seeds are given
twice: for one of them, as the mean over the seeds, and for the ensemble, whose prediction is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.groups import groups_of
from hpc_brainage.evaluation.intervals import (
    MEASURES,
    CorrectedTest,
    bootstrap_difference,
    bootstrap_errors,
    corrected_test_over_splits,
)
from hpc_brainage.evaluation.judgement import Estimate, by_its_intervals, difference_said
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.splits import Split, tested_by


@dataclass(frozen=True)
class Measured:
    """A predictor's errors in years, over the scans that it and the model can predict."""

    predictor: str
    scans: int
    mae: Estimate
    rmse: Estimate
    r2: Estimate
    r: Estimate


@dataclass(frozen=True)
class Difference:
    """MAE of the model minus MAE of another predictor on the scans that both predict, years."""

    model: str
    other: str
    scans: int
    mae: Estimate
    test: CorrectedTest | None
    """Over the splits, averaged over seeds in each."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that held-out predictions say about a model.

    Attributes
    ----------
    protocol : how people were held out.
    splits, seeds : how many.
    scans, people, sites : that the model was tested on and predicted.
    not_predicted : scans that were tested and that the model cannot predict; they count nowhere.
    models : the model, or its single networks and their ensemble.
    constants : the predictors that say the same age to everybody.
    everyone : each predictor's errors.
    differences : of each model from each other predictor.
    groups : by division and group, each predictor's errors.
    verdicts : what these numbers say, in sentences.
    """

    protocol: str
    splits: int
    seeds: int
    scans: int
    people: int
    sites: int
    not_predicted: int
    models: tuple[str, ...]
    constants: tuple[str, ...]
    everyone: tuple[Measured, ...]
    differences: tuple[Difference, ...]
    groups: dict[str, dict[str, tuple[Measured, ...]]]
    verdicts: tuple[str, ...]


def evaluate_predictions(
    model: str,
    predictions: Mapping[str, np.ndarray],
    scans: pd.DataFrame,
    availability: Sequence[str],
    splits: Sequence[Split],
    *,
    protocol: str,
    constants: Sequence[str],
    of_less: Sequence[str] = (),
    networks: int = 1,
) -> Evaluation:
    """Compare a model with the other predictors.

    Parameters
    ----------
    model : which of the predictions is judged.
    predictions : by predictor, held-out predictions in years (seeds, scans), NaN where there is none.
    scans : scan table in the same order.
    availability : which modalities each scan is predicted from.
    splits : who was held out together, as given to `predict_held_out`.
    protocol : its name, for the tables.
    constants : which of the predictions are the same for everybody in a split.
    of_less : which of them are the model's own from fewer modalities; they are no rivals.
    networks : how many networks each prediction of the model, for one seed, is the mean of.

    Raises
    ------
    UsageError : no constant among the predictions, or nobody whom the model can predict.
    """
    if not constants:
        raise UsageError("an error without a constant predictor's beside it says nothing", where=protocol)
    age = scans["age"].to_numpy(dtype=float)
    tested = tested_by(splits, len(age))
    known = np.isfinite(predictions[model]).all(axis=0) & tested & np.isfinite(age)
    if not known.any():
        raise UsageError("the model predicts nobody", where=f"{model}, {protocol}")
    forms_of = {name: _forms(name, own, networks) for name, own in predictions.items()}
    forms = {name: own for parts in forms_of.values() for name, own in parts.items()}
    models = tuple(forms_of[model])
    own_kind = (*models, *(name for less in of_less for name in forms_of[less]))
    people, site = scans["participant_id"].to_numpy(), scans["site"].to_numpy()

    def measured(rows: np.ndarray) -> tuple[Measured, ...]:
        found = (_measured(name, own, age, people, site, rows) for name, own in forms.items())
        # A constant differs between splits a little, and what that correlates with says nothing.
        said = (replace(one, r=Estimate(None)) if one.predictor in constants else one for one in found)
        return tuple(one for one in said if one.scans)

    everyone = measured(known)
    differences = tuple(
        _difference(name, other, forms, age, people, site, known, splits)
        for name in models
        for other in forms
        if other not in models
    )
    divisions = groups_of(scans, availability)
    by_group = {
        division: {name: measured(known & rows) for name, rows in parts.items() if (known & rows).any()}
        for division, parts in divisions.items()
    }
    return Evaluation(
        protocol=protocol,
        splits=len(splits),
        seeds=len(predictions[model]),
        scans=int(known.sum()),
        people=len(set(people[known])),
        sites=len(set(site[known]) - {""}),
        not_predicted=int((tested & ~known).sum()),
        models=models,
        constants=tuple(constants),
        everyone=everyone,
        differences=differences,
        groups=by_group,
        verdicts=tuple(
            verdict(name, everyone, differences, constants, own_kind, len(splits)) for name in models
        ),
    )


def verdict(
    model: str,
    everyone: Sequence[Measured],
    differences: Sequence[Difference],
    constants: Sequence[str],
    own_kind: Sequence[str],
    splits: int,
) -> str:
    """What the comparison says about a model, without kindness; `own_kind` is no rival of it.

    "Better" and "worse" take a difference that is told apart from chance (`judgement`). The strongest other
    predictor is the one with the smallest error here: the bar is chosen against the model.
    """
    own = {difference.other: difference for difference in differences if difference.model == model}
    of = {one.predictor: one for one in everyone}
    whole = [m for m in everyone if m.predictor not in own_kind and m.scans == of[model].scans]
    constant = min((m for m in whole if m.predictor in constants), key=_mae)
    rival = min((m for m in whole if m.predictor not in constants), key=_mae, default=None)
    mae, r2 = _mae(of[model]), of[model].r2.value
    if not own[constant.predictor].mae.is_below_zero or r2 is None or r2 <= 0:
        age = f"{constant.predictor} {_mae(constant):.2f}"
        said = f"{model}: no better than a constant age (MAE {mae:.2f}; {age})"
        if rival is not None and _mae(rival) < min(mae, _mae(constant)):
            said += f", and {_against(own[rival.predictor], rival, mae, splits)}"
        return f"{said}; do not use its brain ages"
    if rival is None:
        return f"{model}: better than a constant age (MAE {mae:.2f} against {_mae(constant):.2f})"
    return f"{model}: {_against(own[rival.predictor], rival, mae, splits)}"


def _against(difference: Difference, rival: Measured, mae: float, splits: int) -> str:
    """How the model stands beside the strongest simple predictor."""
    apart = by_its_intervals(difference.mae)
    if difference.mae.is_below_zero:
        said = f"better {apart} than"
    elif difference.mae.is_above_zero:
        said = f"worse {apart} than"
    else:
        said = "not shown to be better than" if mae < _mae(rival) else "no better than"
    p = None if difference.test is None else difference.test.p
    return (
        f"{said} the strongest simple predictor, {rival.predictor!r} (MAE {mae:.2f} against"
        f" {_mae(rival):.2f}; {difference_said(difference.mae, p, splits)})"
    )


def _mae(one: Measured) -> float:
    assert one.mae.value is not None, "a predictor without predictions is in no table"
    return one.mae.value


def _forms(name: str, own: np.ndarray, networks: int) -> dict[str, np.ndarray]:
    """A predictor, (seeds, scans); where seeds differ, for one of them and as the ensemble of all.

    `networks` have already been averaged for each seed.
    """
    with np.errstate(invalid="ignore"):
        differ = len(own) > 1 and bool((own != own[:1])[:, np.isfinite(own).all(axis=0)].any())
    if not differ:
        return {name: own[:1]}
    one = "one network" if networks == 1 else f"ensemble of {networks}"
    return {
        f"{name}, {one} (mean of {len(own)})": own,
        f"{name}, ensemble of {len(own) * networks}": own.mean(axis=0, keepdims=True),
    }


def _measured(
    name: str, own: np.ndarray, age: np.ndarray, people: np.ndarray, site: np.ndarray, rows: np.ndarray
) -> Measured:
    rows = rows & np.isfinite(own).all(axis=0)
    each = [performance(seed[rows], age[rows]) for seed in own]
    over_people = bootstrap_errors(own[:, rows], age[rows], people[rows]) if rows.any() else {}
    over_sites = bootstrap_errors(own[:, rows], age[rows], site[rows]) if rows.any() else {}
    estimates = {}
    for measure in MEASURES:
        values = [getattr(one, measure) for one in each]
        value = None if None in values else float(np.mean(values))
        estimates[measure] = Estimate(value, over_people.get(measure), over_sites.get(measure))
    return Measured(name, int(rows.sum()), **estimates)


def _difference(
    model: str,
    other: str,
    forms: Mapping[str, np.ndarray],
    age: np.ndarray,
    people: np.ndarray,
    site: np.ndarray,
    known: np.ndarray,
    splits: Sequence[Split],
) -> Difference:
    a, b = forms[model], forms[other]
    rows = known & np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    if not rows.any():
        return Difference(model, other, 0, Estimate(None), None)
    gained = np.abs(a - age).mean(axis=0) - np.abs(b - age).mean(axis=0)
    estimate = Estimate(
        float(gained[rows].mean()),
        bootstrap_difference(a[:, rows], b[:, rows], age[rows], people[rows]),
        bootstrap_difference(a[:, rows], b[:, rows], age[rows], site[rows]),
    )
    test = corrected_test_over_splits(gained, rows, splits)
    return Difference(model, other, int(rows.sum()), estimate, test)
