"""How well a model predicted the ages of a cohort that it scored, and what is left of age in the gaps.

Everything about accuracy is of the raw `brain_age`. A prediction that was corrected with the person's own
age contains the answer, so no function here takes one (see `metrics`). Intervals are percentiles of a
bootstrap over sites, or over people where there are too few sites.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hpc_brainage.evaluation.intervals import (
    FEWEST_CLUSTERS,
    MEASURES,
    Interval,
    bootstrap_difference,
    bootstrap_errors,
    drawn_sums,
    percentiles,
)
from hpc_brainage.evaluation.metrics import performance

GAPS = {
    "bag": "raw gap, years",
    "bag_corrected": "corrected gap, years",
    "bag_site_calibrated": "gap calibrated at the site, years",
    "bag_z": "normative z of the gap",
    "bag_z_site_calibrated": "normative z, calibrated at the site",
}
"""What a gap is called in a table, by its column."""

MODEL, OWN_MEAN, TRAINING_MEAN = "this model", "their own mean age", "the training people's mean age"


def clusters(scans: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Who is drawn together, and what they are: "sites", or "people" where the sites are too few."""
    if scans["site"].nunique() >= FEWEST_CLUSTERS:
        return scans["site"].to_numpy(), "sites"
    return scans["participant_id"].to_numpy(), "people"


def accuracy(groups: Mapping[str, pd.DataFrame], training_mean: float | None) -> pd.DataFrame:
    """Errors of the model beside two predictors that know no brain, for each group of scans.

    Parameters
    ----------
    groups : by name, scored scans of known age.
    training_mean : the mean age of the people that the model was trained on, years.

    Returns
    -------
    Columns `people`, `predictor`, `n`, and `mae`, `rmse`, `r2`, `r`, each with `_low` and `_high` (95 %,
    NaN where there are too few sites and people). R² is against the mean age of the scans in question.
    """
    rows = []
    for name, scans in groups.items():
        age = scans["age"].to_numpy(dtype=float)
        constants = {OWN_MEAN: age.mean() if len(age) else None, TRAINING_MEAN: training_mean}
        said = {MODEL: scans["brain_age"].to_numpy(dtype=float)}
        said |= {word: np.full(len(age), value) for word, value in constants.items() if value is not None}
        for predictor, predicted in said.items():
            rows.append({"people": name, "predictor": predictor, **_errors(predicted, age, scans)})
    return pd.DataFrame(rows)


def advantage(scans: pd.DataFrame) -> Interval | None:
    """MAE of the model minus that of saying these people's own mean age; below 0 the model is better.

    The mean is a hard rival: whoever scores a cohort does not know it beforehand. None for too few people.
    """
    age = scans["age"].to_numpy(dtype=float)
    predicted = scans["brain_age"].to_numpy(dtype=float)
    if not len(age):
        return None
    return bootstrap_difference(predicted, np.full(len(age), age.mean()), age, clusters(scans)[0])


def age_line(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The least-squares line of predicted on true age, and the mean gap, for each group of scans.

    Returns
    -------
    Columns `people`, `n`, `intercept` (years), `slope`, `mean_gap` (years), each with `_low` and `_high`,
    and `sd_gap`. Slope 1 and intercept 0 are without bias; regression to the mean gives a slope below 1.
    """
    rows = []
    for name, scans in groups.items():
        x, y = scans["age"].to_numpy(dtype=float), scans["brain_age"].to_numpy(dtype=float)
        row: dict[str, object] = {"people": name, "n": len(x)}
        for measure, (value, interval) in straight_line(x, y, clusters(scans)[0]).items():
            if measure != "r":
                row |= _with_limits(measure, value, interval)
        gap = y - x
        row["sd_gap"] = float(gap.std(ddof=1)) if len(gap) > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def gap_against_age(scans: pd.DataFrame) -> pd.DataFrame:
    """What is left of age in each kind of gap: its correlation with age, and its change over a decade.

    Returns
    -------
    Columns `column`, `around` ("norms" or "bias line" of a gap calibrated at the site, else ""), `gap` (its
    name in words), `n`, `mean`, `sd`, `r`, `per_decade`; `mean`, `r` and `per_decade` with `_low` and
    `_high`, and `p_mean` of the t test that the mean is 0. Of people, each with the mean of their scans:
    `explained`, the share of the variance that age and age squared explain together, `p` of the F test that
    they explain nothing, and `p_bend` of the one that age squared adds nothing to age. A row for each of
    `GAPS` that the table has and that is known for somebody; gaps around the norms and around the bias line
    do not compare, and have a row each.
    """
    rows = []
    kinds = [(column, *kind) for column in GAPS for kind in _by_kind(scans, column)]
    for column, around, known in kinds:
        name = f"{GAPS[column]}, around the {around}" if around else GAPS[column]
        x, y = known["age"].to_numpy(dtype=float), known[column].to_numpy(dtype=float)
        found = straight_line(x, y, clusters(known)[0])
        spread = float(y.std(ddof=1)) if len(y) > 1 else np.nan
        slope, limits = found["slope"]
        decade = None if limits is None else Interval(10 * limits.low, 10 * limits.high)
        rows.append(
            {"column": column, "around": around, "gap": name, "n": len(y), "sd": spread,
             "p_mean": _mean_by_chance(y, clusters(known)[0])}
            | _with_limits("mean", float(y.mean()), _mean_limits(y, clusters(known)[0]))
            | _with_limits("r", *found["r"])
            | _with_limits("per_decade", 10 * slope, decade)
            | _explained_by_age(known.groupby("participant_id")[["age", column]].mean())
        )  # fmt: skip
    return pd.DataFrame(rows)


def _by_kind(scans: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """Those of the scans that have a gap, by what it is around where it is calibrated at the site."""
    known = scans[scans[column].notna()] if column in scans else scans.head(0)
    kinds = [("", known)]
    if column == "bag_site_calibrated":  # around the norms where z is, too
        has_z = known.reindex(columns=["bag_z_site_calibrated"]).notna().all(axis=1)
        kinds = [("norms", known[has_z]), ("bias line", known[~has_z])]
    return [(around, own) for around, own in kinds if len(own)]


def beside(scans: pd.DataFrame) -> pd.DataFrame:
    """The predictions from one modality, or for the other sex, next to the main one, on the same scans.

    Returns
    -------
    Columns `prediction`, `n`, `mae` and `mae_main` (errors of it and of the main one, NaN for the other
    sex), `mean_difference` and `mean_absolute_difference` from the main one, years.
    """
    words = {
        "brain_age_smri_only": "structural MRI alone",
        "brain_age_fmri_only": "functional MRI alone",
        "brain_age_other_sex": "had the person been of the other sex",
    }
    rows: list[dict[str, object]] = []
    for column, word in words.items():
        if column not in scans or not (there := scans[column].notna().to_numpy()).any():
            continue
        own, main, age = (scans[name].to_numpy(dtype=float)[there] for name in (column, "brain_age", "age"))
        if np.array_equal(own, main):  # of a model of one modality
            continue
        of_the_scan = column != "brain_age_other_sex"
        rows.append(
            {
                "prediction": word,
                "n": len(own),
                "mae": float(np.abs(own - age).mean()) if of_the_scan else np.nan,
                "mae_main": float(np.abs(main - age).mean()) if of_the_scan else np.nan,
                "mean_difference": float((own - main).mean()),
                "mean_absolute_difference": float(np.abs(own - main).mean()),
            }
        )
    return pd.DataFrame(rows)


def straight_line(
    x_N: np.ndarray, y_N: np.ndarray, cluster_N: np.ndarray
) -> dict[str, tuple[float, Interval | None]]:
    """`intercept`, `slope` and `r` of y on x, and `mean_gap`, the mean of y - x, with bootstrap intervals.

    NaN where it is not defined: for fewer than three, or where x (for r: or y) does not vary.
    """
    words = ("intercept", "slope", "mean_gap", "r")
    if not len(x_N):
        return dict.fromkeys(words, (np.nan, None))
    at_x, at_y = float(x_N.mean()), float(y_N.mean())
    x, y = x_N - at_x, y_N - at_y  # so that large sums lose no digits
    columns = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    tiny = (
        1e-12 * max(float(np.square(x_N).max()), 1e-300),
        1e-12 * max(float(np.square(y_N).max()), 1e-300),
    )
    drawn = drawn_sums(columns, cluster_N)
    point = _line(columns.sum(axis=0, keepdims=True), at_x, at_y, tiny)
    several = {} if drawn is None else _line(drawn, at_x, at_y, tiny)
    few = len(x_N) < 3
    return {
        word: (
            np.nan if few and word != "mean_gap" else float(point[word][0]),
            percentiles(several[word]) if several and not few else None,
        )
        for word in words
    }


def _line(
    sums_D6: np.ndarray, at_x: float, at_y: float, tiny: tuple[float, float]
) -> dict[str, np.ndarray]:
    n, x, y, xx, xy, yy = sums_D6.T
    mean_x, mean_y = x / n, y / n
    spread_x, spread_y = xx / n - mean_x**2, yy / n - mean_y**2
    together = xy / n - mean_x * mean_y
    varies = spread_x > tiny[0]
    both = varies & (spread_y > tiny[1])
    slope, r = np.full(len(n), np.nan), np.full(len(n), np.nan)
    slope[varies] = together[varies] / spread_x[varies]
    r[both] = together[both] / np.sqrt(spread_x[both] * spread_y[both])
    return {
        "intercept": mean_y + at_y - slope * (mean_x + at_x),
        "slope": slope,
        "mean_gap": mean_y + at_y - mean_x - at_x,
        "r": r,
    }


def _mean_limits(y_N: np.ndarray, cluster_N: np.ndarray) -> Interval | None:
    """The interval of a mean, whole clusters drawn."""
    sums = drawn_sums(np.stack([y_N, np.ones_like(y_N)], axis=1), cluster_N)
    return None if sums is None else percentiles(sums[:, 0] / sums[:, 1])


def _mean_by_chance(y_N: np.ndarray, cluster_N: np.ndarray) -> float:
    """p of the t test that the mean is 0, its error by clusters (Liang and Zeger 1986); NaN with few."""
    from scipy.stats import t as student

    _, index = np.unique(cluster_N, return_inverse=True)
    away = np.bincount(index, weights=y_N - y_N.mean())
    if len(away) < FEWEST_CLUSTERS or not away.any():
        return np.nan
    error = np.sqrt(len(away) / (len(away) - 1) * float(away @ away)) / len(y_N)
    return float(2 * student.sf(abs(y_N.mean()) / error, len(away) - 1))


def _explained_by_age(people: pd.DataFrame) -> dict[str, float]:
    """What age and age squared explain of a gap, one row a person: `explained`, adjusted for their being
    two and at least 0, and the F tests `p` and `p_bend`."""
    from scipy.stats import f

    x, y = people.to_numpy(dtype=float).T
    if len(x) < 5 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return dict.fromkeys(("explained", "p", "p_bend"), np.nan)
    design = (x - x.mean())[:, None] ** np.arange(3)
    constant, line, curve = (_left_by(design[:, :columns], y) for columns in (1, 2, 3))
    freedom = len(x) - 3
    noise = max(curve / freedom, 1e-300)  # of gaps that lie on the curve
    return {
        "explained": max(0.0, 1 - noise / (constant / (len(x) - 1))),
        "p": float(f.sf((constant - curve) / 2 / noise, 2, freedom)),
        "p_bend": float(f.sf((line - curve) / noise, 1, freedom)),
    }


def _left_by(design_NK: np.ndarray, y_N: np.ndarray) -> float:
    """The sum of squares of y that least squares leaves."""
    left = y_N - design_NK @ np.linalg.lstsq(design_NK, y_N, rcond=None)[0]
    return float(left @ left)


def _errors(predicted: np.ndarray, age: np.ndarray, scans: pd.DataFrame) -> dict[str, object]:
    found = performance(predicted, age)
    limits: dict[str, Interval | None] = dict.fromkeys(MEASURES)
    if len(age):
        limits = bootstrap_errors(predicted, age, clusters(scans)[0])
    row: dict[str, object] = {"n": found.n}
    for measure in MEASURES:
        value = getattr(found, measure)
        row |= _with_limits(
            measure, np.nan if value is None else value, None if value is None else limits[measure]
        )
    return row


def _with_limits(name: str, value: float, limits: Interval | None) -> dict[str, float]:
    low, high = (np.nan, np.nan) if limits is None else (limits.low, limits.high)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
