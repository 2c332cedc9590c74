"""What intervals, z and p become at a site that the model never saw, from the site's local controls.

A gap is looked at as the norms look at it: what it exceeds the mean gap of the model's controls of the same
age and sex by, over their spread there. Of the local controls this has an offset and a scale, shrunk as
those of `site_calibration`; both are taken out before a gap becomes a z, and the p is that of the new z.

An interval is moved by the offset, and made as many times as wide as it takes to hold the ages of nine in
ten local controls, each moved by the offset of the others (split-conformal; see `uncertainty`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.model.calibration import Calibration, Norms
from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.normative import against_norms, p_accelerated, z_of
from hpc_brainage.scoring.site_calibration import FEWEST_CONTROLS, SiteShift, site_shifts
from hpc_brainage.scoring.uncertainty import conformal_quantile

COLUMNS = tuple(f"{name}_site_calibrated" for name in ("bag_z", "p_accelerated", "pi90_lo", "pi90_hi"))


@dataclass(frozen=True)
class SiteNorms:
    """How a site differs from the model's norms.

    Attributes
    ----------
    shift : offset and scale of the gap around the norms, of the site's controls.
    widening : how many times as wide as the model's its intervals are; NaN where the controls have none.
    """

    shift: SiteShift
    widening: float


def calibrate_uncertainty(
    table: pd.DataFrame, controls: pd.DataFrame, calibration: Calibration
) -> tuple[pd.DataFrame, dict[str, SiteNorms]]:
    """Add `COLUMNS` to a score table; all else stays as it was.

    They are empty of sites that the model knows, of sites with fewer than 20 controls of an age that the
    norms speak of, and where the model's own z or interval is.

    Parameters
    ----------
    table : of everybody who is scored for the study.
    controls : score table rows of the local controls, other people, by the same model, one for each person.
    """
    found = _of_sites(controls, calibration)
    own = [
        None if seen else found.get(site)
        for site, seen in zip(table["site"], table["site_seen"], strict=True)
    ]
    offset = np.array([one.shift.offset if one else np.nan for one in own])
    scale = np.array([one.shift.scale if one else np.nan for one in own])
    widening = np.array([one.widening if one else np.nan for one in own])
    z, p = np.full(len(table), np.nan), np.full(len(table), np.nan)
    excess, spread = _around_norms(table, calibration)
    for norms, rows in _by_norms(table, calibration):
        z[rows] = z_of(norms, (excess[rows] - offset[rows]) / (scale[rows] * spread[rows]))
        p[rows] = p_accelerated(norms, z[rows])
    middle, half = _numbers(table, "brain_age") - offset, widening * _half_widths(table)
    columns = dict(zip(COLUMNS, (z, p, middle - half, middle + half), strict=True))
    return table.assign(**columns), found


def _of_sites(controls: pd.DataFrame, calibration: Calibration) -> dict[str, SiteNorms]:
    excess, spread = _around_norms(controls, calibration)
    known, site = np.isfinite(excess), controls["site"].to_numpy(dtype=object)
    shifts = site_shifts(excess[known], site[known], spread[known])
    gap, half = _numbers(controls, "bag"), _half_widths(controls)
    found = {}
    for name, shift in shifts.items():
        own = known & (site == name)
        kept = shift.offset / shift.raw_offset if shift.raw_offset else 0.0
        others = (excess[own].sum() - excess[own]) / (own.sum() - 1)
        score = np.abs(gap[own] - kept * others) / half[own]
        score = score[np.isfinite(score)]
        enough = len(score) >= FEWEST_CONTROLS
        found[name] = SiteNorms(shift, conformal_quantile(score) if enough else float("nan"))
    return found


def _around_norms(table: pd.DataFrame, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """What each row's gap exceeds the norms' mean by, and their SD, years; NaN where there are none."""
    excess, spread = np.full(len(table), np.nan), np.full(len(table), np.nan)
    gap, age = _numbers(table, "bag"), _numbers(table, "age")
    sex = table["sex"].to_numpy(dtype=object)
    for norms, rows in _by_norms(table, calibration):
        excess[rows], spread[rows] = against_norms(norms, gap[rows], age[rows], sex[rows])
    return excess, spread


def _by_norms(table: pd.DataFrame, calibration: Calibration) -> Iterator[tuple[Norms, np.ndarray]]:
    """The norms of each set of modalities, with the places of the rows that were scored from it."""
    scored, names = (table["status"] == "scored").to_numpy(), available(table)
    for name, group in calibration.groups.items():
        if group.norms is not None:
            yield group.norms, np.flatnonzero(scored & (names == name))


def _half_widths(table: pd.DataFrame) -> np.ndarray:
    return (_numbers(table, "pi90_hi") - _numbers(table, "pi90_lo")) / 2


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return table[column].to_numpy(dtype=float, na_value=np.nan)
