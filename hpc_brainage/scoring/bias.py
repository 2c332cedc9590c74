"""The age bias of a brain-age gap, and taking it out.

Predictions regress to the mean: the young come out too old and the old too young, so the raw gap falls with
age. With the line ŷ ≈ a + b y fitted on held-out predictions of the training cohort, and the gap Δ = ŷ - y,

    beheshti:   Δ - (a + (b - 1) y)          (Beheshti et al. 2019; algebraically de Lange and Cole 2020)
    cole:       (ŷ - a) / b - y              (Cole et al. 2018), which is the former divided by b

The line is not fitted on a cohort that is scored for a study unless that is asked for: there, it takes out
part of the very effect that the study looks for. (Where the training cohort itself is scored, line and gaps
come from the same held-out predictions.) The raw gap is always kept beside the corrected one.

A corrected gap was made with the person's own age, and so was an age that is put together from it. Such
numbers are marked (`AgeUsing`), and nothing that measures accuracy takes them (Butler et al. 2021).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.numerals import many
from hpc_brainage.scoring.interpretation import available

Method = Literal["beheshti", "cole", "none"]
METHOD: Method = "beheshti"
EVERYONE = "everyone"
IN_COHORT = "in_cohort"
FEWEST_PEOPLE = 20
FEW_PEOPLE = FEWEST_OF_A_SEX = 50
"""Of fewer, a line may be years off towards the ends of their ages, and a sex has none of its own."""
WEAK_SLOPE = 0.3
"""Below this slope the predictions hardly follow age, and no correction makes them a brain age."""
STILL_A_TREND = 0.1
"""A corrected gap that correlates more with age still has a trend: the line does not fit these people."""


class AgeUsing(np.ndarray):
    """Numbers made with the age that is to be predicted; whatever is computed from them is of this kind."""


def refuse_age_using(*numbers: object) -> None:
    """Refuse to measure the accuracy of what was made with the age.

    Raises
    ------
    ScoringError : one of the arrays is marked.
    """
    if any(isinstance(one, AgeUsing) for one in numbers):
        raise ScoringError(
            "bias-corrected ages have no accuracy: they were made with the very age",
            expected="raw predictions (brain_age)",
            hint="regressing age out gives r >= 0.89 whatever the model is worth (Butler et al. 2021)",
        )


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
    around = float((p - intercept - slope * y).std(ddof=2))
    return BiasLine(intercept=float(intercept), slope=float(slope), n=len(y), r=r, residual_sd=around)


def fit_bias_lines(people: pd.DataFrame, modalities: np.ndarray) -> dict[str, BiasLine]:
    """A line for each set of modalities, of all predictions that were made from it, and one for everyone.

    Predictions from one modality regress to the mean more than those from two. Whoever has two has
    predictions from each alone as well, and is in all three lines, as in the norms and the intervals. There
    is no line of fewer than 20 people. Where at least 50 women and 50 men have a prediction, each sex has
    its own line beside the common one, as "smri+fmri, F".

    Parameters
    ----------
    people : columns `age`, `sex`, `brain_age` and, from one modality, `brain_age_<role>_only`; years.
    modalities : what each `brain_age` was predicted from, as "smri+fmri".
    """
    age, sex = people["age"].to_numpy(dtype=float), people["sex"].to_numpy(dtype=object)
    predictions = {EVERYONE: people["brain_age"]}
    for group in sorted({*modalities, *ROLES}):
        alone = people.get(f"brain_age_{group}_only")
        predictions[group] = people["brain_age"].where(modalities == group) if alone is None else alone
    lines: dict[str, BiasLine | None] = {}
    for group, brain_age in predictions.items():
        predicted = brain_age.to_numpy(dtype=float, na_value=np.nan)
        known = np.isfinite(age) & np.isfinite(predicted)
        lines[group] = fit_bias_line(age=age, predicted=predicted)
        of_sex = {one: known & (sex == one) for one in ("F", "M")}
        if min(own.sum() for own in of_sex.values()) >= FEWEST_OF_A_SEX:
            lines |= {
                _of_sex(group, one): fit_bias_line(age=age[own], predicted=predicted[own])
                for one, own in of_sex.items()
            }
    return {group: line for group, line in lines.items() if line is not None}


def line_names(table: pd.DataFrame, lines: Mapping[str, BiasLine]) -> pd.Series:
    """Which line each row is corrected by: of the same modalities, and of the sex where there is one.

    "" for a row that was not scored, and where there is no line.
    """
    chosen = np.full(len(table), "", dtype=object)
    scored, own = (table["status"] == "scored").to_numpy(), available(table)
    sexes = table["sex"].to_numpy(dtype=object)
    for group in set(own[scored]):
        for sex in set(sexes[scored]):
            wanted = (_of_sex(group, sex), group, _of_sex(EVERYONE, sex), EVERYONE)
            rows = scored & (own == group) & (sexes == sex)
            chosen[rows] = next((name for name in wanted if name in lines), "")
    return pd.Series(chosen, index=table.index, dtype=object)


def correct_table(
    table: pd.DataFrame, lines: Mapping[str, BiasLine], method: Method = METHOD, *, in_cohort: bool = False
) -> pd.DataFrame:
    """The score table with `bag_corrected`, `bias_method` and `bias_fit`; all else as it was.

    Parameters
    ----------
    lines : by group, see `fit_bias_lines`.
    in_cohort : whether they were fitted on the scans of this very table; then every row says so.

    Raises
    ------
    ScoringError : the method is Cole's, and the slope of a line that is needed is below 0.3.
    """
    names = line_names(table, lines) if method != "none" else pd.Series("", index=table.index, dtype=object)
    used = [name for name in lines if (names == name).any()]
    weak = [name for name in used if lines[name].slope < WEAK_SLOPE]
    if method == "cole" and weak:
        slopes = ", ".join(f"{lines[name].slope:.2f} of {name}" for name in weak)
        raise ScoringError(
            f"Cole's correction divides by the slope of predictions on age, and here that is {slopes}",
            where=f"{int(names.isin(weak).sum())} of {len(table)} scans",
            expected=f"at least {WEAK_SLOPE}: below it, dividing blows noise up into years",
            hint="--bias beheshti, and mind model_barely_follows_age; or leave these scans out",
        )
    corrected = np.full(len(table), np.nan)
    gap, age = (table[name].to_numpy(dtype=float, na_value=np.nan) for name in ("bag", "age"))
    for name in used:
        rows = (names == name).to_numpy()
        corrected[rows] = correct_gap(gap[rows], age[rows], lines[name], method)
    fit = [f"{lines[name].n:,} held-out training scans ({name})" if name else "" for name in names]
    return table.assign(
        bag_corrected=corrected,
        bias_method=np.where(names != "", method, "none").astype(object),
        bias_fit=IN_COHORT if in_cohort else fit,
    )


def correct_gap(gap: np.ndarray, age: np.ndarray, line: BiasLine, method: Method = METHOD) -> AgeUsing:
    """The gap without the line's trend in age, years; marked as made with the age."""
    without = gap - (line.intercept + (line.slope - 1.0) * age)
    return np.asarray(without / line.slope if method == "cole" else without).view(AgeUsing)


def expected_ages(table: pd.DataFrame, lines: Mapping[str, BiasLine]) -> np.ndarray:
    """What held-out training people of each row's age are predicted to be, by the row's line, years."""
    expected, age = np.full(len(table), np.nan), table["age"].to_numpy(dtype=float, na_value=np.nan)
    names = line_names(table, lines).to_numpy()
    for name in set(names) - {""}:
        rows = names == name
        expected[rows] = lines[name].intercept + lines[name].slope * age[rows]
    return expected


def expected_mean_gap(table: pd.DataFrame, lines: Mapping[str, BiasLine]) -> float | None:
    """The mean raw gap of held-out training people of these rows' ages and modalities, years.

    None where there is no line, or no age.
    """
    gap = expected_ages(table, lines) - table["age"].to_numpy(dtype=float, na_value=np.nan)
    known = gap[np.isfinite(gap)]
    return float(known.mean()) if len(known) else None


def doubtful_lines(table: pd.DataFrame, lines: Mapping[str, BiasLine]) -> str:
    """Which rows have a line of few people, or one of other modalities than theirs; "" for none."""
    mixed = {EVERYONE, *(_of_sex(EVERYONE, sex) for sex in ("F", "M"))}
    doubts = {
        name: "is of predictions from whatever each person had"
        if name in mixed
        else f"stands on {line.n} scans"
        for name, line in lines.items()
        if name in mixed or line.n < FEW_PEOPLE
    }
    rows = zip(available(table), line_names(table, lines), strict=True)
    scans = Counter((own, doubts[name]) for own, name in rows if name in doubts)
    return "; ".join(
        f"of {many(n, 'scan')} from {own} the line {doubt}" for (own, doubt), n in sorted(scans.items())
    )


def _of_sex(group: str, sex: str) -> str:
    return f"{group}, {sex}"
