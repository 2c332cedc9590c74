"""Image quality, as far as a cohort brings figures of it: pass, flag or fail, and why. Nothing is dropped.

==============  ===================================================  ==================  ==================
figure          columns of the cohort (case, `_` and `.` are one)    flag                fail
==============  ===================================================  ==================  ==================
CAT12's IQR     `cat12_IQR`, a mark                                  above 3 (75 %)      above 5.5 (50 %)
Euler number    `lh_euler` and `rh_euler`, their mean, or `euler`    below the site's    below -217
                                                                     median - 2 MAD
mean FD, mm     `mean_fd`, `fd_mean`, `func_mean_fd`                 above 0.25          above 0.55
moved volumes   `fd_perc`, `func_perc_fd`: % with FD above 0.2 mm    above 20            -
==============  ===================================================  ==================  ==================

CAT12's mark m stands for 105 - 10 m per cent; below 75 % is worse than C+, below 50 % its lowest grade. A
surface with h holes has the Euler number 2 - 2 h (Rosen et al. 2018, NeuroImage 169:407, also for -217);
the median absolute deviation (MAD) is scaled to be an SD of normal numbers. Limits of framewise
displacement (FD) are the strict and the lenient ones of Parkes et al. (2018, NeuroImage 171:415).

Figures of structural MRI speak of scans that were scored with it, those of functional MRI likewise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.scoring.table import numbers

EULER_FAIL = -217.0
FEWEST_AT_A_SITE = 20
"""With fewer scans at a site, its median and MAD are no measure of what is usual there."""
_HIGHEST_EULER = 2.0
_TO_SD = 1.4826


@dataclass(frozen=True)
class _Limit:
    """A figure that is worse the larger it is."""

    what: str
    unit: str
    role: str
    columns: tuple[str, ...]
    flag: float
    fail: float


_LIMITS = (
    _Limit("CAT12 IQR mark", "", "smri", ("cat12iqr",), 3.0, 5.5),
    _Limit(
        "mean FD", " mm", "fmri",
        ("meanfd", "fdmean", "funcmeanfd", "meanframewisedisplacement", "framewisedisplacementmean"),
        0.25, 0.55,
    ),
    _Limit("volumes with FD above 0.2 mm", " %", "fmri", ("fdperc", "percfd", "funcpercfd"), 20.0, np.inf),
)  # fmt: skip
_EULER = (("lheuler", "rheuler"), ("lheulernumber", "rheulernumber"), ("euler",), ("eulernumber",))


@dataclass(frozen=True)
class Quality:
    """What the cohort's figures say of each row.

    Attributes
    ----------
    status : "pass", "flag" or "fail"; "" for a row without a figure.
    reasons : what is beyond its limit, separated by semicolons.
    figures : the columns that were looked at.
    notes : figures that could not be used, and why.
    """

    status: pd.Series
    reasons: pd.Series
    figures: tuple[str, ...]
    notes: tuple[str, ...]


def judge_quality(table: pd.DataFrame) -> Quality:
    """Judge the rows of a whole score table by the quality columns that its cohort brought.

    Needed are `status`, `site`, `has_smri` and `has_fmri`. The Euler number is compared with that of the
    site's other scans in this table, if there are at least 20.
    """
    names = {_plain(str(name)): str(name) for name in reversed(table.columns)}
    reasons: list[list[str]] = [[] for _ in range(len(table))]
    level = np.full(len(table), -1)  # -1: no figure, 0: pass, 1: flag, 2: fail
    figures: list[str] = []
    notes: list[str] = []

    def looked_at(rows: np.ndarray, flagged: np.ndarray, failed: np.ndarray, why: np.ndarray) -> None:
        level[rows] = np.maximum(level[rows], np.where(failed, 2, np.where(flagged, 1, 0))[rows])
        for row in np.flatnonzero(rows & (flagged | failed)):
            reasons[row].append(str(why[row]))

    for limit in _LIMITS:
        column = next((names[one] for one in limit.columns if one in names), None)
        if column is None or not _is_number(table, column, notes):
            continue
        figures.append(column)
        value = numbers(table, column)
        rows = _used(table, limit.role) & np.isfinite(value)
        flagged, failed = value > limit.flag, value > limit.fail
        beyond = np.where(failed, limit.fail, limit.flag)
        why = [f"{limit.what} {v:.3g}{limit.unit} above {b:g}" for v, b in zip(value, beyond, strict=True)]
        looked_at(rows, flagged, failed, np.array(why, dtype=object))
    columns = next((own for own in _EULER if all(one in names for one in own)), ())
    own = [names[one] for one in columns]
    if own and all(_is_number(table, column, notes) for column in own):
        sides = np.stack([numbers(table, column) for column in own])
        euler = sides.mean(axis=0)
        rows = _used(table, "smri") & np.isfinite(euler)
        if (sides[:, rows] > _HIGHEST_EULER).any():
            notes.append(
                f"{' and '.join(own)}: no surface has an Euler number above 2; if these are holes, give"
                " 2 - 2 holes. They were not used"
            )
        else:
            figures += own
            lowest = _usual_at_site(euler, rows, table["site"].to_numpy(dtype=object))
            flagged, failed = euler < lowest, euler < EULER_FAIL
            beyond = np.where(failed, EULER_FAIL, lowest)
            why = [
                f"Euler number {v:.0f} below {'' if f else 'the usual of the site, '}{b:.0f}"
                if np.isfinite(v) and np.isfinite(b)
                else ""
                for v, b, f in zip(euler, beyond, failed, strict=True)
            ]
            looked_at(rows, flagged, failed, np.array(why, dtype=object))
    words = np.array(["", "pass", "flag", "fail"], dtype=object)
    return Quality(
        pd.Series(words[level + 1], index=table.index, dtype=object),
        pd.Series(["; ".join(own) for own in reasons], index=table.index, dtype=object),
        tuple(figures),
        tuple(notes),
    )


def _usual_at_site(euler: np.ndarray, rows: np.ndarray, site: np.ndarray) -> np.ndarray:
    """Median - 2 MAD of each row's site; minus infinity where the site is unknown or has too few scans."""
    lowest = np.full(len(euler), -np.inf)
    for name in set(site[rows]) - {""}:
        there = rows & (site == name)
        if there.sum() >= FEWEST_AT_A_SITE:
            middle = np.median(euler[there])
            lowest[there] = middle - 2 * _TO_SD * np.median(np.abs(euler[there] - middle))
    return lowest


def _used(table: pd.DataFrame, role: str) -> np.ndarray:
    return ((table["status"] == "scored") & table[f"has_{role}"].astype(bool)).to_numpy()


def _plain(name: str) -> str:
    return re.sub(r"[\s._\-]+", "", name.casefold())


def _is_number(table: pd.DataFrame, column: str, notes: list[str]) -> bool:
    if pd.api.types.is_numeric_dtype(table[column]):
        return True
    notes.append(f"{column} is no number, and says nothing of image quality")
    return False
