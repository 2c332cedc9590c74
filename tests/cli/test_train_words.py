"""What `brainage train` says of its held-out errors."""

from __future__ import annotations

from hpc_brainage.cli.train import warnings
from hpc_brainage.model.bundle import Comparison, Evidence, Performance


def evidence(model: float, ridge: float, *, r2: float = 0.5) -> Evidence:
    """A constant age errs by 5 years."""

    def of(mae: float) -> Performance:
        return Performance(n=100, mae=mae, rmse=mae, r2=r2, r=0.5)

    everyone = Comparison(model=of(model), ridge=of(ridge), mean_predictor=of(5), median_predictor=of(5))
    return Evidence(folds=5, everyone=everyone, ridge_predictor="ridge, smri")


def test_a_model_that_is_best_needs_no_warning() -> None:
    assert warnings(evidence(3, 4)) == []


def test_a_ridge_that_is_as_good_is_named() -> None:
    (said,) = warnings(evidence(4, 3.5))
    assert said == "note: 'ridge, smri' is as good or better here, by 0.50 years"


def test_a_model_that_misses_what_a_ridge_reads_is_told_so() -> None:
    (said,) = warnings(evidence(5.4, 4.9))
    assert said.startswith("WARNING: the model is no better than a constant age")
    assert said.endswith("('ridge, smri' errs by 4.90 years, it by 5.40)")
    assert "ridge" not in warnings(evidence(5.4, 5.2))[0]
