"""What a bundle's errors come to: a model has to be told apart from a constant age."""

from __future__ import annotations

import pytest

from hpc_brainage.model.evidence import Comparison, Evidence, PairedDifference, Performance

Limits = tuple[float, float]


def evidence(
    model: float | None,
    ridge: float = 9.0,
    *,
    r2: float = 0.5,
    constant: Limits | None = None,
    behind: Limits | None = None,
) -> Evidence:
    """The mean age errs by 4.5 years, the median by 4.4; the limits are those of the paired differences."""

    def of(mae: float | None, r2: float | None = 0.0) -> Performance:
        return Performance(n=90, mae=mae, rmse=mae, r2=r2 if mae is not None else None, r=0.1)

    def minus(rival: float, limits: Limits | None) -> PairedDifference | None:
        if limits is None or model is None:
            return None
        return PairedDifference(value=model - rival, low=limits[0], high=limits[1])

    everyone = Comparison(
        model=of(model, r2), ridge=of(ridge), mean_predictor=of(4.5), median_predictor=of(4.4)
    )
    return Evidence(
        folds=5,
        everyone=everyone,
        ridge_predictor="ridge, smri",
        minus_constant=minus(4.4, constant),
        minus_ridge=minus(ridge, behind),
    )


@pytest.mark.parametrize(
    ("mae", "r2", "doubted"), [(2.0, 0.5, False), (2.0, -0.1, True), (5.0, 0.2, True), (4.3, 0.2, False)]
)
def test_the_errors_of_an_older_bundle_decide_by_themselves(mae: float, r2: float, doubted: bool) -> None:
    assert (evidence(mae, r2=r2).doubt is not None) is doubted


def test_an_advantage_that_may_be_chance_is_none() -> None:
    said = evidence(4.3, constant=(-0.31, 0.1)).doubt
    assert said == (
        "the model errs less than a constant age, but is not told apart from one (mean absolute error 4.30"
        " against 4.40 years, difference −0.10, 95 % −0.31 to +0.10)"
    )
    assert evidence(4.3, constant=(-0.31, -0.01)).doubt is None


def test_the_model_is_held_against_the_better_of_the_two_constants() -> None:
    assert evidence(4.45).doubt is not None


def test_an_error_that_explains_nothing_of_age_is_no_better_whatever_its_interval() -> None:
    said = evidence(4.0, r2=-0.04, constant=(-0.6, -0.2)).doubt
    assert said is not None
    assert said.startswith("the model is no better than a constant age (R² −0.04;")


def test_too_few_people_for_an_interval_tell_nothing_apart() -> None:
    few = evidence(2.0).model_copy(
        update={"minus_constant": PairedDifference(value=-2.4, low=None, high=None)}
    )
    assert few.doubt is not None
    assert "too few people for an interval" in few.doubt
    assert evidence(None).doubt == "too few people were held out to tell the model from a constant age"


@pytest.mark.parametrize(
    ("ridge", "limits", "behind", "words"),
    [
        (1.8, (0.05, 0.35), True, "errs less than the model (1.80 against 2.00 years; model minus ridge"),
        (1.8, (-0.05, 0.45), False, "is not told apart from the model"),
        (3.0, (-1.2, -0.8), False, "errs more than the model"),
        (1.8, None, True, "errs less than the model (1.80 against 2.00 years)"),
        (3.0, None, False, "errs no less than the model"),
    ],
)  # fmt: skip
def test_a_ridge_that_errs_less_is_said_to(
    ridge: float, limits: Limits | None, behind: bool, words: str
) -> None:
    found = evidence(2.0, ridge, behind=limits)
    assert found.is_behind_ridge is behind
    assert found.beside_ridge is not None
    assert words in found.beside_ridge
    assert "(ridge, smri)" in found.beside_ridge


def test_a_ridge_of_unknown_error_is_not_spoken_of() -> None:
    unknown = evidence(None)
    assert unknown.beside_ridge is None
    assert not unknown.is_behind_ridge
