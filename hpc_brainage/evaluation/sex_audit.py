"""What a person's sex does to the predicted age, and how well the model serves either sex.

Everything is computed on held-out people: each scan is judged by the members that never saw the person,
whose predictions are averaged as a run's are; codes are asked of the first of them. Intervals are
percentiles over bootstrap draws of people, in which a person comes with all scans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from hpc_brainage.errors import UsageError
from hpc_brainage.evaluation.codes import code_report
from hpc_brainage.evaluation.intervals import drawn_sums, percentiles
from hpc_brainage.evaluation.splits import check_folds
from hpc_brainage.evaluation.tables import markdown_table
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.prediction import pieces

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_Draw = Callable[[np.ndarray], np.ndarray | None]
"""Sums of values (scans, K) over draws of people."""


@dataclass(frozen=True)
class SexAudit:
    """Errors and effects by sex, in years.

    Attributes
    ----------
    error : for each `sex`, `n` scans, `mean_age`, `mae` and mean `gap` (predicted minus true age) with 95 %
        intervals (`_low`, `_high`).
    difference : M minus F of the `measure`s "MAE", "gap", and "gap at the same age" (the sex's coefficient
        beside age and age squared; predictions are biased towards the mean age, so that sexes of
        different ages differ in their gap without sex playing any part), with 95 % intervals.
    flip : how the prediction moves when the other sex is said: by the true `sex` and `age` (a decade, or
        "all"), `n`, `mean`, `sd`, `mean_abs` and quantiles (`q05` to `q95`).
    unknown : by `sex` and for "all", the MAE where the sex is `known` to the model and where it is
        `unknown`, and what that `cost`s, with a 95 % interval.
    decodability : how well sex can be read out of each code; see `codes.CodeReport.probes`.
    left_out : scans that are in no table: of unknown sex, without a prediction, or held out by nobody.
    """

    error: pd.DataFrame
    difference: pd.DataFrame
    flip: pd.DataFrame
    unknown: pd.DataFrame
    decodability: pd.DataFrame
    left_out: int

    def markdown(self) -> str:
        """All tables, each under a heading."""
        parts = [
            ("Error by sex", self.error),
            ("Difference between the sexes, M minus F", self.difference),
            ("Had the other sex been said: change of the predicted age", self.flip),
            ("What an unknown sex costs", self.unknown),
            ("Sex in the codes", self.decodability),
        ]
        text = "\n\n".join(f"### {title}\n\n{markdown_table(table)}" for title, table in parts)
        return f"{text}\n\n{self.left_out} scans are in none of these tables."


def sex_audit(
    members: Sequence[Member],
    data: TrainingData,
    fold: np.ndarray,
    *,
    ensemble: int = 1,
    draws: int = 2000,
    shuffles: int = 20,
    seed: int = 0,
) -> SexAudit:
    """Audit what sex does in a model, on the people that its members held out.

    Parameters
    ----------
    members : `ensemble` for each fold, side by side; what is asked is their mean.
    fold : the fold in which each scan was held out, shape (scans,); -1 for none.
    ensemble : members of each fold.
    draws : bootstrap draws of people.
    shuffles : probes of the codes fitted on shuffled people, for the level of chance.

    Raises
    ------
    UsageError : the folds do not fit the members and the data, or only one sex is there.
    """
    first = members[::ensemble]
    check_folds(first, data, fold)
    said = _predictions(members, data, fold, ensemble)
    judged = (data.sex >= 0) & np.isfinite(said["age"])
    sexes = sorted(set(data.scans["sex"][judged]))
    if sexes != ["F", "M"]:
        raise UsageError(
            f"of known sex are: {', '.join(sexes) or 'none'}",
            expected="F and M among the held-out people",
        )
    scans = pd.DataFrame(
        {
            "sex": data.scans["sex"].to_numpy(),
            "age": data.age.astype(np.float64),
            "gap": said["age"] - data.age,
            "flip": said["other"] - said["age"],
            "gap_unknown": said["unknown"] - data.age,
        }
    )[judged].reset_index(drop=True)
    person = data.scans["participant_id"].to_numpy()[judged]
    draw = partial(drawn_sums, cluster_N=person, draws=draws, seed=seed)
    probes = code_report(first, data, fold, targets=("sex",), shuffles=shuffles, seed=seed).probes
    return SexAudit(
        error=_error(scans, draw),
        difference=_difference(scans, draw),
        flip=_flip(scans),
        unknown=_unknown(scans, draw),
        decodability=probes,
        left_out=int((~judged).sum()),
    )


def _predictions(
    members: Sequence[Member], data: TrainingData, fold: np.ndarray, ensemble: int
) -> dict[str, np.ndarray]:
    """Held-out ages, years: as told, as the other sex, and with the sex withheld; NaN where unknown."""
    said = {name: np.where(fold < 0, np.nan, 0.0) for name in ("age", "other", "unknown")}
    for index, member in enumerate(members):
        member.eval()
        for piece in pieces(member, data, np.flatnonzero(fold == index // ensemble)):
            told = member.predict(piece.x, piece.present, piece.sex)
            withheld = member.predict(piece.x, piece.present, torch.full_like(piece.sex, -1))
            said["age"][piece.rows] += told.age.cpu().numpy() / ensemble
            said["other"][piece.rows] += told.age_other_sex.cpu().numpy() / ensemble
            said["unknown"][piece.rows] += withheld.age.cpu().numpy() / ensemble
    return said


def _error(scans: pd.DataFrame, draw: _Draw) -> pd.DataFrame:
    rows = []
    for sex in ("F", "M"):
        own = (scans["sex"] == sex).to_numpy()
        gap = scans["gap"].to_numpy()
        row: dict[str, object] = {"sex": sex, "n": int(own.sum()), "mean_age": scans["age"][own].mean()}
        for name, value in (("mae", np.abs(gap)), ("gap", gap)):
            low, high = _interval(_drawn_mean(value, own, draw))
            row |= {name: float(value[own].mean()), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _difference(scans: pd.DataFrame, draw: _Draw) -> pd.DataFrame:
    gap, male = scans["gap"].to_numpy(), (scans["sex"] == "M").to_numpy()
    age = scans["age"].to_numpy()
    rows = []
    for measure, value in (("MAE", np.abs(gap)), ("gap", gap)):
        drawn = [_drawn_mean(value, own, draw) for own in (male, ~male)]
        apart = None if drawn[0] is None or drawn[1] is None else drawn[0] - drawn[1]
        low, high = _interval(apart)
        between = float(value[male].mean() - value[~male].mean())
        rows.append({"measure": measure, "M_minus_F": between, "low": low, "high": high})
    terms = _terms(gap, age, male)
    sums = draw(terms)
    low, high = _interval(None if sums is None else _coefficient_of_sex(sums))
    beside_age = float(_coefficient_of_sex(terms.sum(axis=0, keepdims=True))[0])
    rows.append({"measure": "gap at the same age", "M_minus_F": beside_age, "low": low, "high": high})
    return pd.DataFrame(rows)


def _terms(gap: np.ndarray, age: np.ndarray, male: np.ndarray) -> np.ndarray:
    """Of each scan, what `_coefficient_of_sex` needs the sums of, (scans, 16 + 4)."""
    z = (age - age.mean()) / max(float(age.std()), 1e-9)
    design = np.stack([male.astype(float), np.ones_like(z), z, z**2], axis=1)
    products = design[:, :, None] * design[:, None, :]
    return np.concatenate([products.reshape(len(z), 16), design * gap[:, None]], axis=1)


def _coefficient_of_sex(sums_D20: np.ndarray) -> np.ndarray:
    """Least-squares coefficient of being male, beside 1, age and age squared, for each draw (draws,)."""
    normal, right = sums_D20[:, :16].reshape(-1, 4, 4), sums_D20[:, 16:]
    # A draw without one of the sexes, or with three ages only, has no answer: the smallest one is taken.
    solved: np.ndarray = (np.linalg.pinv(normal) @ right[:, :, None])[:, 0, 0]
    return solved


def _flip(scans: pd.DataFrame) -> pd.DataFrame:
    decade = (scans["age"] // 10 * 10).astype(int)
    rows = []
    for sex in ("F", "M"):
        own = scans["sex"] == sex
        groups = {"all": own} | {f"{d}-{d + 9}": own & (decade == d) for d in sorted(set(decade[own]))}
        for age, chosen in groups.items():
            flip = scans["flip"][chosen].to_numpy()
            quantiles = np.quantile(flip, _QUANTILES)
            rows.append(
                {
                    "sex": sex,
                    "age": age,
                    "n": len(flip),
                    "mean": float(flip.mean()),
                    "sd": float(flip.std(ddof=1)) if len(flip) > 1 else np.nan,
                    "mean_abs": float(np.abs(flip).mean()),
                }
                | {f"q{100 * q:02.0f}": float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)}
            )
    return pd.DataFrame(rows)


def _unknown(scans: pd.DataFrame, draw: _Draw) -> pd.DataFrame:
    known, unknown = (np.abs(scans[name].to_numpy()) for name in ("gap", "gap_unknown"))
    rows = []
    for sex in ("all", "F", "M"):
        own = np.ones(len(scans), dtype=bool) if sex == "all" else (scans["sex"] == sex).to_numpy()
        cost = unknown - known
        low, high = _interval(_drawn_mean(cost, own, draw))
        rows.append(
            {
                "sex": sex,
                "n": int(own.sum()),
                "known": float(known[own].mean()),
                "unknown": float(unknown[own].mean()),
                "cost": float(cost[own].mean()),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def _drawn_mean(value_N: np.ndarray, own: np.ndarray, draw: _Draw) -> np.ndarray | None:
    """Mean over some scans in each draw of people (draws,); NaN for a draw of none of them."""
    sums = draw(np.stack([np.where(own, value_N, 0.0), own], axis=1))
    if sums is None:
        return None
    total, count = sums.T
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _interval(value_D: np.ndarray | None) -> tuple[float, float]:
    found = None if value_D is None else percentiles(value_D)
    return (float("nan"), float("nan")) if found is None else (found.low, found.high)
