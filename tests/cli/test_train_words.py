"""What `brainage train` says of its held-out errors."""

from __future__ import annotations

from hpc_brainage.cli.train import warnings
from hpc_brainage.model.evidence import Comparison, Evidence, PairedDifference, Performance


def evidence(model: float, ridge: float, *, surely: float = 0.5) -> Evidence:
    """A constant age errs by 5 years; differences are known to within `surely` years."""

    def of(mae: float) -> Performance:
        return Performance(n=100, mae=mae, rmse=mae, r2=0.5, r=0.5)

    def minus(rival: float) -> PairedDifference:
        value = model - rival
        return PairedDifference(value=value, low=value - surely, high=value + surely)

    everyone = Comparison(model=of(model), ridge=of(ridge), mean_predictor=of(5), median_predictor=of(5))
    return Evidence(
        folds=5,
        everyone=everyone,
        ridge_predictor="ridge, smri",
        minus_constant=minus(5),
        minus_ridge=minus(ridge),
    )


def test_a_model_that_is_best_needs_no_warning() -> None:
    assert warnings(evidence(3, 4)) == []
    assert warnings(evidence(3, 3.1)) == []


def test_a_ridge_that_errs_less_is_named_with_the_interval() -> None:
    (said,) = warnings(evidence(4, 3))
    assert said == (
        "note: a ridge regression on the same inputs (ridge, smri) errs less than the model (3.00 against"
        " 4.00 years; model minus ridge +1.00, 95 % +0.50 to +1.50)"
    )
    (said,) = warnings(evidence(4, 3.8))
    assert "is not told apart from the model (3.80 against 4.00 years" in said


def test_a_model_that_is_not_told_apart_from_a_constant_age_is_warned_of() -> None:
    (said,) = warnings(evidence(4.8, 4.9))
    assert said.startswith("WARNING: the model errs less than a constant age, but is not told apart")
    assert said.endswith("; do not use its brain ages")
    assert warnings(evidence(4.8, 4.9, surely=0.1)) == []


def test_a_model_that_misses_what_a_ridge_reads_is_told_so() -> None:
    warning, note = warnings(evidence(5.4, 4.9))
    assert warning.startswith("WARNING: the model is no better than a constant age")
    assert note.startswith("note: a ridge regression")
