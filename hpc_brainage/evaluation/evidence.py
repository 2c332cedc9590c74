"""The numbers that a trained model must not be without: its held-out error beside simple predictors',
and the trend of its errors with age."""

from __future__ import annotations

import numpy as np

from hpc_brainage.evaluation.baselines import mean_predictor, ridge
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.model.bundle import Bundle, Comparison, Evidence, save_bundle
from hpc_brainage.scoring.bias import fit_bias_line
from hpc_brainage.training.run import FinishedRun


def complete(run: FinishedRun) -> Bundle:
    """Measure a finished run, write what was found into its bundle and mark the run as finished."""
    config = run.bundle.info.config
    age = run.data.age.astype(float)
    predicted = run.held_out["brain_age"].to_numpy()
    by_ridge = ridge(run.data, run.fold, age_scale=config.loss.age_scale)
    by_mean = mean_predictor(age, run.fold)

    def compare(rows: np.ndarray) -> Comparison:
        return Comparison(
            model=performance(predicted[rows], age[rows]),
            ridge=performance(by_ridge[rows], age[rows]),
            mean_predictor=performance(by_mean[rows], age[rows]),
        )

    available = run.held_out["available"].to_numpy()
    groups = sorted(set(available), key=lambda group: (-len(group), group))
    evidence = Evidence(
        folds=config.training.folds,
        everyone=compare(np.ones(len(age), dtype=bool)),
        by_available={str(group): compare(available == group) for group in groups if len(groups) > 1},
    )
    line = fit_bias_line(age=age, predicted=predicted)
    info = run.bundle.info.model_copy(update={"evidence": evidence, "bias": line})
    bundle = save_bundle(run.folder.model, info, run.bundle.members)
    run.folder.finish()
    return bundle
