"""The numbers that a trained model must not be without: its held-out error beside simple predictors',
and the trend of its errors with age."""

from __future__ import annotations

import numpy as np

from hpc_brainage.evaluation.baselines import Constant, Regression
from hpc_brainage.evaluation.learners import Ridge
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.evaluation.pipelines import held_out
from hpc_brainage.evaluation.splits import by_label
from hpc_brainage.model.bundle import Bundle, Comparison, Evidence, save_bundle
from hpc_brainage.scoring.bias import fit_bias_lines
from hpc_brainage.training.run import FinishedRun


def complete(run: FinishedRun) -> Bundle:
    """Measure a finished run, write its bundle and mark the run as finished.

    All predictors are compared on the same people: those whom the model could predict.
    """
    config = run.info.config
    age = run.data.age.astype(float)
    predicted = run.held_out["brain_age"].to_numpy()
    available = run.held_out["available"].to_numpy()
    splits = by_label(run.fold)
    side_by_side = Regression(Ridge(), config, tuple(run.data.inputs), config.loss.age_scale)
    by_ridge, by_mean, by_median = (
        held_out(pipeline, run.data, splits)[0]
        for pipeline in (side_by_side, Constant("mean", np.mean), Constant("median", np.median))
    )

    def compare(rows: np.ndarray) -> Comparison:
        return Comparison(
            model=performance(predicted[rows], age[rows]),
            ridge=performance(by_ridge[rows], age[rows]),
            mean_predictor=performance(by_mean[rows], age[rows]),
            median_predictor=performance(by_median[rows], age[rows]),
        )

    known = np.isfinite(predicted)
    groups = sorted(set(available[known]), key=lambda group: (-len(group), group))
    evidence = Evidence(
        folds=config.training.folds,
        not_predicted=int((~known).sum()),
        everyone=compare(known),
        by_available={str(g): compare(known & (available == g)) for g in groups if len(groups) > 1},
    )
    lines = fit_bias_lines(age=age, predicted=predicted, available=available)
    info = run.info.model_copy(update={"evidence": evidence, "bias": lines})
    bundle = save_bundle(run.folder.model, info, run.members)
    run.folder.finish()
    return bundle
