"""A bundle's evidence: its errors on held-out people beside those of simple predictors.

A model whose errors are not told apart from those of one age for everybody has not been shown to read age
off a brain, and its gaps must not be used. Told apart is a difference whose interval excludes zero.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hpc_brainage.numerals import interval, number


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Performance(_Record):
    """Errors on held-out people, in years; never of bias-corrected ages."""

    n: int
    mae: float | None
    rmse: float | None
    r2: float | None
    r: float | None


class Comparison(_Record):
    """The model beside the simple predictors, on the same held-out people."""

    model: Performance
    ridge: Performance
    mean_predictor: Performance
    median_predictor: Performance

    @property
    def constant(self) -> Performance:
        """The mean or the median age, whichever errs less on these people."""
        both = (self.mean_predictor, self.median_predictor)
        return min(both, key=lambda one: float("inf") if one.mae is None else one.mae)


class PairedDifference(_Record):
    """MAE of the model minus another predictor's, on the same scans, years; below 0 the model errs less."""

    value: float
    low: float | None
    high: float | None
    """95 % percentile interval of a bootstrap over people with all their scans; None with fewer than 8."""

    @property
    def is_below_zero(self) -> bool:
        """Whether the model is told apart from the other, and errs less."""
        return self.high is not None and self.high < 0

    @property
    def is_above_zero(self) -> bool:
        """Whether the model is told apart from the other, and errs more."""
        return self.low is not None and self.low > 0

    @property
    def words(self) -> str:
        """ "−0.04, 95 % −0.12 to +0.04"."""
        if self.low is None or self.high is None:
            return f"{number(self.value, sign=True)}, too few people for an interval"
        return f"{number(self.value, sign=True)}, 95 % {interval(self.low, self.high, sign=True)}"


class Evidence(_Record):
    """Cross-validated errors on held-out people."""

    folds: int
    not_predicted: int = 0
    """Scans with too few features of every modality; they are in none of the comparisons."""
    ridge_predictor: str = "ridge, same inputs"
    """Which ridge stands in the comparisons: of those that predict everyone, that with the smallest MAE."""
    everyone: Comparison
    by_available: dict[str, Comparison] = Field(default_factory=dict)
    """By which modalities a person has ("smri+fmri", "smri", ...), where people differ in that."""
    minus_constant: PairedDifference | None = None
    """Of everyone, from the better of the mean and the median age; None in bundles of before version 4."""
    minus_ridge: PairedDifference | None = None
    """Of everyone, from the ridge; None in bundles of before version 4."""

    @property
    def doubt(self) -> str | None:
        """Why the model is not better than a constant age, as far as anybody can tell; None if it is.

        It has to err less and to explain something (R² above 0), and its advantage must not be chance: the
        interval of the paired difference excludes 0. Of a bundle without the difference the errors decide.
        """
        model, constant = self.everyone.model, self.everyone.constant
        if model.mae is None or model.r2 is None:
            return "too few people were held out to tell the model from a constant age"
        if constant.mae is None:
            return None
        found = f"mean absolute error {number(model.mae)} against {number(constant.mae)} years"
        if self.minus_constant is not None:
            found += f", difference {self.minus_constant.words}"
        if model.mae >= constant.mae:
            return f"the model is no better than a constant age ({found})"
        if model.r2 <= 0:
            return f"the model is no better than a constant age (R² {number(model.r2)}; {found})"
        if self.minus_constant is not None and not self.minus_constant.is_below_zero:
            return f"the model errs less than a constant age, but is not told apart from one ({found})"
        return None

    @property
    def beside_ridge(self) -> str | None:
        """How the model's error and the ridge's compare, in words; None where one is not known."""
        model, ridge, difference = self.everyone.model.mae, self.everyone.ridge.mae, self.minus_ridge
        if model is None or ridge is None:
            return None
        if self.is_behind_ridge:
            how = "errs less than the model"
        elif difference is not None and difference.is_below_zero:
            how = "errs more than the model"
        elif difference is None:
            how = "errs no less than the model"
        else:
            how = "is not told apart from the model"
        found = f"{number(ridge)} against {number(model)} years"
        if difference is not None:
            found += f"; model minus ridge {difference.words}"
        return f"a ridge regression on the same inputs ({self.ridge_predictor}) {how} ({found})"

    @property
    def is_behind_ridge(self) -> bool:
        """Whether the ridge errs less: beyond chance, where the bundle says what chance allows."""
        model, ridge = self.everyone.model.mae, self.everyone.ridge.mae
        if model is None or ridge is None:
            return False
        return ridge < model if self.minus_ridge is None else self.minus_ridge.is_above_zero
