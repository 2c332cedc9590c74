"""How far a predicted age may be off: intervals that held 90 % of held-out controls' ages.

Normalised split-conformal prediction (Papadopoulos et al. 2002; Lei et al. 2018). The score of a held-out
control is |age - predicted| divided by the error to be expected of such a prediction, which is a smooth
function of the predicted age and, where the model predicts a standard deviation, of that. The interval of a
new scan reaches as many expected errors to both sides as the ⌈(n + 1) 0.9⌉-th smallest score of n controls.
If the scan and the controls are exchangeable it holds the age with a chance of at least 90 %, whatever the
distribution of the errors.

What goes into the expected error is computed for a new scan exactly as for a held-out one. The spread over
members is left out: a held-out person has only the members of one fold. The true age is left out as well,
for it may be unknown; thirds are of the predicted age. A new person's age is the mean over more members
than a held-out person's, and errs a little less: the interval is, if anything, too wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpc_brainage.model.calibration import Intervals, Quantile
from hpc_brainage.scoring.splines import Curve, basis, columns, log_mean, place_knots

LEVEL = 0.9
FEWEST_PEOPLE = 20
"""Fewer held-out controls calibrate nothing."""
FEWEST_IN_A_CELL = 100
"""Of a sex, or of a sex and a third of the predicted ages, that has a quantile of its own."""
EVERYONE = "everyone"
THIRDS = ("low", "middle", "high")
_SPLINE_PEOPLE = (200, 60)  # for four and for three degrees of freedom
_MARGIN = 0.25  # how far beyond the outer knots the expected error still changes, in their distance


@dataclass(frozen=True)
class Predicted:
    """People with a prediction, all from the same modalities; arrays of one length.

    Attributes
    ----------
    predicted, age : years.
    sd : the standard deviation that the model predicts, years; NaN where it predicts none.
    sex : "F", "M" or "U".
    fold : the fold in which each was held out, -1 for somebody new.
    """

    predicted: np.ndarray
    age: np.ndarray
    sd: np.ndarray
    sex: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.age)

    def take(self, rows: np.ndarray) -> Predicted:
        return Predicted(*(a[rows] for a in (self.predicted, self.age, self.sd, self.sex, self.fold)))


def conformal_quantile(scores: np.ndarray, level: float = LEVEL) -> float:
    """The ⌈(n + 1) level⌉-th smallest of n scores; infinite where n is too small for the level."""
    place = math.ceil((len(scores) + 1) * level)
    return float("inf") if place > len(scores) else float(np.partition(scores, place - 1)[place - 1])


def fit_intervals(people: Predicted) -> Intervals | None:
    """Expected errors and quantiles; None for fewer than 20 people.

    A person's score is of an expected error that was fitted without the person's fold.
    """
    if len(people) < FEWEST_PEOPLE:
        return None
    uses_sd = bool(np.isfinite(people.sd).all())
    expected = without_own_fold(
        people, lambda others, own: expected_error(_fit_error(others, uses_sd), uses_sd, own)
    )
    scores = np.abs(people.age - people.predicted) / expected
    low, high = np.quantile(people.predicted, [1 / 3, 2 / 3])
    whole = Intervals(
        expected_error=_fit_error(people, uses_sd),
        uses_sd=uses_sd,
        tertiles=(float(low), float(high)),
        quantiles={},
    )
    cells = _cells(whole, people)
    quantiles = {EVERYONE: Quantile(q=conformal_quantile(scores), n=len(people))}
    for names in cells[:-1]:
        for name in sorted(set(names) - {""}):
            rows = names == name
            if rows.sum() >= FEWEST_IN_A_CELL:
                quantiles[str(name)] = Quantile(q=conformal_quantile(scores[rows]), n=int(rows.sum()))
    return whole.model_copy(update={"quantiles": quantiles})


def half_widths(intervals: Intervals, people: Predicted) -> np.ndarray:
    """Half the width of the 90 % interval of each scan, years; of people, age and fold are not looked at.

    Each takes the quantile of the smallest cell that it lies in and that has one: sex and third of the
    predicted ages, sex, everyone. NaN where something that the expected error takes is not known.
    """
    q = np.full(len(people), np.nan)
    for names in reversed(_cells(intervals, people)):
        for name, quantile in intervals.quantiles.items():
            q[names == name] = quantile.q
    return q * expected_error(intervals.expected_error, intervals.uses_sd, people)


def expected_error(curve: Curve, uses_sd: bool, people: Predicted) -> np.ndarray:
    """The error to be expected of each prediction, years."""
    width = len(basis(np.zeros(1), curve.knots)[0]) + uses_sd
    assert width == len(curve.weights), "a curve has a weight for each of its columns"
    return np.exp(_error_columns(people, curve.knots, uses_sd) @ np.array(curve.weights))


def covered_without_own_fold(people: Predicted, parts: np.ndarray | None = None) -> np.ndarray:
    """Whether the 90 % interval that was fitted without a person's fold holds the age; 0, 1 or NaN.

    Parameters
    ----------
    parts : without a person's part in this division, say the site, instead of the fold.
    """

    def check(others: Predicted, own: Predicted) -> np.ndarray:
        fitted = fit_intervals(others)
        if fitted is None:
            return np.full(len(own), np.nan)
        return (np.abs(own.age - own.predicted) <= half_widths(fitted, own)).astype(float)

    return without_own_fold(people, check, parts)


def without_own_fold(
    people: Predicted, say: Callable[[Predicted, Predicted], np.ndarray], parts: np.ndarray | None = None
) -> np.ndarray:
    """For each person a number that was computed from the people of the other folds, `say(others, own)`;
    or of the other parts of another division. Where there is one only, from itself."""
    parts = people.fold if parts is None else parts
    found = np.full(len(people), np.nan)
    for part in sorted(set(parts.tolist())):
        own = parts == part
        others = people.take(~own) if not own.all() else people
        found[own] = say(others, people.take(own))
    return found


def _fit_error(people: Predicted, uses_sd: bool) -> Curve:
    knots = place_knots(people.predicted, *_SPLINE_PEOPLE)
    weights = log_mean(_error_columns(people, knots, uses_sd), np.abs(people.age - people.predicted))
    return Curve(knots=knots, weights=tuple(weights.tolist()))


def _error_columns(people: Predicted, knots: tuple[float, ...], uses_sd: bool) -> np.ndarray:
    predicted = people.predicted
    if knots:
        margin = _MARGIN * (knots[-1] - knots[0])
        predicted = np.clip(predicted, knots[0] - margin, knots[-1] + margin)
    others = (np.log(np.maximum(people.sd, 1e-6)),) if uses_sd else ()
    return columns(predicted, knots, *others)


def _cells(intervals: Intervals, people: Predicted) -> list[np.ndarray]:
    """Names of the cells that each person lies in, the smallest first; "" for none."""
    third = np.array(THIRDS, dtype=object)[np.searchsorted(intervals.tertiles, people.predicted)]
    sex = np.where(np.isin(people.sex, ("F", "M")), people.sex, "").astype(object)
    both = np.where(sex == "", "", sex + " " + third)
    return [both, sex, np.full(len(people), EVERYONE, dtype=object)]
