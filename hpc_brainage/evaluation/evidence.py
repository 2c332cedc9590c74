"""The numbers that a trained model must not be without: its held-out error beside simple predictors',
and the trend of its errors with age."""

from __future__ import annotations

from hpc_brainage.evaluation.baselines import mean_predictor, ridge
from hpc_brainage.evaluation.metrics import performance
from hpc_brainage.model.bundle import Bundle, Evidence, save_bundle
from hpc_brainage.scoring.bias import fit_bias_line
from hpc_brainage.training.run import FinishedRun


def complete(run: FinishedRun) -> Bundle:
    """Measure a finished run, write what was found into its bundle and mark the run as finished."""
    age = run.data.age.astype(float)
    predicted = run.held_out["brain_age"].to_numpy()
    available = run.held_out["available"].to_numpy()
    groups = sorted(set(available), key=len, reverse=True)
    evidence = Evidence(
        folds=run.bundle.info.config.training.folds,
        model=performance(predicted, age),
        by_available={
            str(group): performance(predicted[available == group], age[available == group])
            for group in groups
            if len(groups) > 1
        },
        mean_predictor=performance(mean_predictor(age, run.fold), age),
        ridge=performance(
            ridge(run.data, run.fold, age_scale=run.bundle.info.config.loss.age_scale), age
        ),
    )
    info = run.bundle.info.model_copy(
        update={"evidence": evidence, "bias": fit_bias_line(age=age, predicted=predicted)}
    )
    bundle = save_bundle(run.folder.model, info, run.bundle.members)
    run.folder.finish()
    return bundle
