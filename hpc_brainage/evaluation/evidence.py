"""The numbers that a trained model must not be without: its held-out error beside simple predictors', the
trend of its errors with age, and a calibration. Errors are everybody's, the latter two the controls'."""

from __future__ import annotations

import numpy as np
import torch

from hpc_brainage.evaluation.baselines import Constant, ridges
from hpc_brainage.evaluation.calibration import calibrate, controls_of, training_range
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.pipelines import predict_held_out
from hpc_brainage.evaluation.splits import by_label
from hpc_brainage.model.bundle import Bundle, Comparison, Evidence, ModelInfo, Performance, save_bundle
from hpc_brainage.model.member import Member
from hpc_brainage.model.training_range import TrainingRange
from hpc_brainage.scoring.bias import fit_bias_lines
from hpc_brainage.training.run import FinishedRun


def complete(run: FinishedRun) -> Bundle:
    """Measure a finished run, write its bundle and mark the run as finished.

    All predictors are compared on the same people: those whom the model could predict. Of the ridges that
    predict all of them, the one with the smallest error is the bar: it is chosen against the model.
    """
    config = run.info.config
    age = run.data.age.astype(float)
    predicted = run.held_out["brain_age"].to_numpy()
    available = run.held_out["available"].to_numpy()
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

    groups = sorted(set(available[known]), key=lambda group: (-len(group), group))
    evidence = Evidence(
        folds=config.training.folds,
        not_predicted=int((~known).sum()),
        ridge_predictor=strongest,
        everyone=compare(known),
        by_available={str(g): compare(known & (available == g)) for g in groups if len(groups) > 1},
    )
    controls = controls_of(run.data, run.info)
    lines = fit_bias_lines(
        age=age[controls],
        predicted=predicted[controls],
        available=available[controls],
        sex=run.data.scans["sex"].to_numpy(dtype=object)[controls],
    )
    info = run.info.model_copy(update={"evidence": evidence, "bias": lines})
    bundle = save_bundle(run.folder.model, *_calibrated(run, info))
    run.folder.finish()
    return bundle


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
