"""The age bias of a brain-age gap, and taking it out.

Predictions regress to the mean: the young come out too old and the old too young, so the raw gap falls
with age. With the line ŷ ≈ a + b y fitted on held-out predictions of the training cohort, the corrected
gap is Δ - (a + (b - 1) y). This is the correction of Beheshti et al. (2019), which is algebraically the
one of de Lange and Cole (2020).

The line is never fitted on a cohort that is scored for a study: there, it would take out the very effect
that the study looks for. (Where the training cohort itself is scored, line and gaps come from the same
held-out predictions.) The raw gap is always kept beside the corrected one.
"""

from __future__ import annotations

import numpy as np

from hpc_brainage.model.bundle import BiasLine, ModelInfo

METHOD = "beheshti"
EVERYONE = "everyone"
FEWEST_PEOPLE = 20
WEAK_SLOPE = 0.3
"""Below this slope the predictions hardly follow age, and no correction makes them a brain age."""


def fit_bias_line(*, age: np.ndarray, predicted: np.ndarray) -> BiasLine | None:
    """The least-squares line of held-out predictions on age, both in years.

    Returns None for fewer than 20 people or if their ages do not vary: then there is nothing to fit.
    """
    known = np.isfinite(age) & np.isfinite(predicted)
    y, p = age[known], predicted[known]
    if len(y) < FEWEST_PEOPLE or np.ptp(y) == 0:
        return None
    slope, intercept = np.polyfit(y, p, 1)
    gap = p - y
    r = float(np.corrcoef(gap, y)[0, 1]) if np.ptp(gap) > 0 else None
    return BiasLine(intercept=float(intercept), slope=float(slope), n=len(y), r=r)


def fit_bias_lines(*, age: np.ndarray, predicted: np.ndarray, available: np.ndarray) -> dict[str, BiasLine]:
    """A line for everyone, and one for each group of people who have the same modalities.

    Predictions from one modality regress to the mean more than those from two. Groups of fewer than 20
    people have no line of their own.
    """
    lines = {EVERYONE: fit_bias_line(age=age, predicted=predicted)}
    for group in sorted(set(available)):
        rows = available == group
        lines[str(group)] = fit_bias_line(age=age[rows], predicted=predicted[rows])
    return {group: line for group, line in lines.items() if line is not None}


def mean_held_out_gap(info: ModelInfo) -> float | None:
    """The mean raw gap of the training people, each held out, years: what a cohort's is compared with.

    A least-squares line passes through the means of what it was fitted on. None where there is no line.
    """
    line = info.bias.get(EVERYONE)
    return None if line is None else line.intercept + (line.slope - 1.0) * info.training.age_mean


def correct_gap(gap: np.ndarray, age: np.ndarray, line: BiasLine) -> np.ndarray:
    """The gap without the line's trend in age, years."""
    return gap - (line.intercept + (line.slope - 1.0) * age)
