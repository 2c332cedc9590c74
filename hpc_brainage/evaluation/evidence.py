"""The numbers that a trained model must not be without: its held-out error beside simple predictors', the
trend of its errors with age, and a calibration. Errors are everybody's, the latter two the controls'."""

from __future__ import annotations

import numpy as np
import torch

from hpc_brainage.evaluation.baselines import Constant, ridges
from hpc_brainage.evaluation.calibration import calibrate, controls_of, training_range
from hpc_brainage.evaluation.intervals import bootstrap_difference
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.pipelines import predict_held_out
from hpc_brainage.evaluation.splits import by_label
from hpc_brainage.model.bundle import Bundle, ModelInfo, save_bundle
from hpc_brainage.model.evidence import Comparison, Evidence, PairedDifference, Performance
from hpc_brainage.model.member import Member
from hpc_brainage.model.training_range import TrainingRange
from hpc_brainage.scoring.bias import fit_bias_lines
from hpc_brainage.training.run import FinishedRun


def complete(run: FinishedRun) -> Bundle:
    """Measure a finished run, write its bundle and mark the run as finished.

    All predictors are compared on the same people: those whom the model could predict. Of the ridges that
    predict all of them, the one with the smallest error is the bar, and of the constant ages the better
    one: both are chosen against the model.
    """
    config = run.info.config
    age = run.data.age.astype(float)
    predicted = run.held_out["brain_age"].to_numpy()
    available = run.held_out["available"].to_numpy()
    people = run.data.scans["participant_id"].to_numpy()
    splits = by_label(run.fold)
    known = np.isfinite(predicted)
    by_mean, by_median = (
        predict_held_out(pipeline, run.data, splits)[0]
        for pipeline in (Constant("mean", np.mean), Constant("median", np.median))
    )
    tried = {one.name: predict_held_out(one, run.data, splits)[0] for one in ridges(run.data, config)}
    whole = {name: own for name, own in tried.items() if np.isfinite(own[known]).all()}
    strongest = min(whole, key=lambda name: float(np.abs(whole[name] - age)[known].mean()))
    by_ridge = whole[strongest]

    def compare(rows: np.ndarray) -> Comparison:
        return Comparison(
            model=performance(predicted[rows], age[rows]),
            ridge=performance(by_ridge[rows], age[rows]),
            mean_predictor=_constant(by_mean[rows], age[rows]),
            median_predictor=_constant(by_median[rows], age[rows]),
        )

    def minus(rival: np.ndarray) -> PairedDifference | None:
        return paired_difference(predicted[known], rival[known], age[known], people[known])

    everyone = compare(known)
    by_constant = by_mean if everyone.constant is everyone.mean_predictor else by_median
    groups = sorted(set(available[known]), key=lambda group: (-len(group), group))
    evidence = Evidence(
        folds=config.training.folds,
        not_predicted=int((~known).sum()),
        ridge_predictor=strongest,
        everyone=everyone,
        by_available={str(g): compare(known & (available == g)) for g in groups if len(groups) > 1},
        minus_constant=minus(by_constant),
        minus_ridge=minus(by_ridge),
    )
    controls = controls_of(run.data, run.info)
    lines = fit_bias_lines(run.held_out[controls], available[controls])
    info = run.info.model_copy(update={"evidence": evidence, "bias": lines})
    bundle = save_bundle(run.folder.model, *_calibrated(run, info))
    run.folder.finish()
    return bundle


def paired_difference(
    model_N: np.ndarray, rival_N: np.ndarray, age_N: np.ndarray, person_N: np.ndarray
) -> PairedDifference | None:
    """MAE of the model minus a rival's on the same scans, with its interval over people; None for nobody.

    Parameters
    ----------
    model_N, rival_N : held-out predictions, years. No NaN.
    age_N : ages, years.
    person_N : who each scan is of; a person is drawn with all scans.
    """
    if not len(age_N):
        return None
    value = float(np.abs(model_N - age_N).mean() - np.abs(rival_N - age_N).mean())
    found = bootstrap_difference(model_N, rival_N, age_N, person_N)
    low, high = (None, None) if found is None else (found.low, found.high)
    return PairedDifference(value=value, low=low, high=high)


def _calibrated(run: FinishedRun, info: ModelInfo) -> tuple[ModelInfo, tuple[Member, ...], TrainingRange]:
    """The description with the calibration, the members, and what the training people looked like."""
    on_gpu = info.config.training.device != "cpu" and torch.cuda.is_available()
    members = tuple(member.to("cuda" if on_gpu else "cpu").eval() for member in run.members)
    found = training_range(info, members, run.data, run.fold)
    found = found.to("cuda" if on_gpu else "cpu")
    calibration = calibrate(Bundle(info, members, training_range=found), run.data, run.fold)
    members = tuple(member.to("cpu") for member in members)
    return info.model_copy(update={"calibration": calibration}), members, found.to("cpu")


def _constant(predicted: np.ndarray, age: np.ndarray) -> Performance:
    """Errors of a constant age. It differs between folds; what that correlates with says nothing."""
    return performance(predicted, age).model_copy(update={"r": None})
