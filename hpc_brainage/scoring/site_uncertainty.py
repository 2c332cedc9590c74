"""What intervals, z and p become at a site that the model never saw, from the site's local controls.

A gap is looked at as the norms look at it: what it exceeds the mean gap of the model's controls of the same
age and sex by, over their spread there. Of the local controls this has an offset and a scale, by modalities
and shrunk (`site_shifts`); both are taken out before a gap becomes a z, and the p is that of the new z.
The calibrated gap, years, is the same gap, so that it says what z says.

Offset and scale are what the model's own held-out controls do not have: theirs are found in the same way,
from gaps cut off at 3 SDs as in the norms' fit, and are no site's. So a site that does not differ keeps its
z, however long the tails are, and a few controls with an absurd gap do not move everybody else.

An interval is moved by the offset, and made as many times as wide as it takes to hold the ages of nine in
ten local controls, each moved by the offset of the others (split-conformal; see `uncertainty`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.model.calibration import Calibration, Norms
from hpc_brainage.scoring.interpretation import available, by_modalities
from hpc_brainage.scoring.normative import (
    MOST_SDS,
    against_norms,
    p_accelerated,
    standardised_controls,
    z_of,
)
from hpc_brainage.scoring.site_shifts import (
    FEWEST_CONTROLS,
    BySite,
    SiteShift,
    middle_and_scale,
    shifts_by_modalities,
)
from hpc_brainage.scoring.table import numbers
from hpc_brainage.scoring.uncertainty import conformal_quantile

COLUMNS = tuple(f"{name}_site_calibrated" for name in ("bag_z", "p_accelerated", "pi90_lo", "pi90_hi"))
FILLED = ("site_calibration", "site_offset", "site_scale", "bag_site_calibrated")


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
) -> tuple[pd.DataFrame, BySite[SiteNorms]]:
    """Add `COLUMNS` to a score table, and fill `FILLED` where there is a z of them.

    `COLUMNS` are empty of sites that the model knows, where the model's own z or interval is, and of scans
    that too few controls of their site are like (`site_shifts`), not counting controls of whose age the
    norms say nothing.

    Parameters
    ----------
    table : of everybody who is scored for the study, with `FILLED`.
    controls : score table rows of the local controls, other people, by the same model, one for each person.
    """
    found = _of_sites(controls, calibration)
    own = [
        None if seen else found.get(site, {}).get(modalities)
        for site, modalities, seen in zip(table["site"], available(table), table["site_seen"], strict=True)
    ]
    offset = np.array([one.shift.offset if one else np.nan for one in own])
    scale = np.array([one.shift.scale if one else np.nan for one in own])
    widening = np.array([one.widening if one else np.nan for one in own])
    said = np.array([f"{one.shift.from_whom} around the norms" if one else "" for one in own], dtype=object)
    z, p, gap = (np.full(len(table), np.nan) for _ in range(3))
    excess, spread = _around_norms(table, calibration)
    for norms, rows in _norms_of(table, calibration):
        middle, _ = _of_training(norms)
        usual = middle * spread[rows]
        gap[rows] = usual + (excess[rows] - usual - offset[rows]) / scale[rows]
        z[rows] = z_of(norms, gap[rows] / spread[rows])
        p[rows] = p_accelerated(norms, z[rows])
    centre, half = numbers(table, "brain_age") - offset, widening * _half_widths(table)
    made = table.assign(**dict(zip(COLUMNS, (z, p, centre - half, centre + half), strict=True)))
    known = np.isfinite(z)
    for name, values in zip(FILLED, (said, offset, scale, gap), strict=True):
        made.loc[known, name] = values[known]
    return made, found


def _of_sites(controls: pd.DataFrame, calibration: Calibration) -> BySite[SiteNorms]:
    excess, spread = _around_norms(controls, calibration)
    known, site = np.isfinite(excess), controls["site"].to_numpy(dtype=object)
    modalities = available(controls)
    for norms, rows in _norms_of(controls, calibration):
        middle, scale = _of_training(norms)
        excess[rows] -= middle * spread[rows]
        spread[rows] *= scale
    shifts = shifts_by_modalities(
        excess[known], site[known], modalities[known], spread[known], most_sds=MOST_SDS
    )
    gap, half = numbers(controls, "bag"), _half_widths(controls)

    def at(name: str, shift: SiteShift) -> SiteNorms:
        own = known & (site == name) & np.isin(modalities.astype(str), list(shift.of_modalities))
        kept = shift.offset / shift.raw_offset if shift.raw_offset else 0.0
        others = _without_each(excess[own], spread[own])
        score = np.abs(gap[own] - kept * others) / half[own]
        score = score[np.isfinite(score)]
        widening = conformal_quantile(score) if len(score) >= FEWEST_CONTROLS else float("nan")
        return SiteNorms(shift, widening)

    return {name: {of: at(name, shift) for of, shift in here.items()} for name, here in shifts.items()}


def _of_training(norms: Norms) -> tuple[float, float]:
    """Middle and scale of the model's own controls, in spreads, found as those of a site."""
    u = standardised_controls(norms)
    middle, _, scale = middle_and_scale(u, np.ones(len(u)), MOST_SDS)
    return middle, scale


def _without_each(excess: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The site's offset, years, from all of its controls but one, for each one."""
    middle, _, scale = middle_and_scale(excess, spread, MOST_SDS)
    most = MOST_SDS * scale * spread
    cut = np.clip(excess, middle - most, middle + most)
    others: np.ndarray = (cut.sum() - cut) / (len(cut) - 1)
    return others


def _around_norms(table: pd.DataFrame, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """What each row's gap exceeds the norms' mean by, and their SD, years; NaN where there are none."""
    excess, spread = np.full(len(table), np.nan), np.full(len(table), np.nan)
    gap, age = numbers(table, "bag"), numbers(table, "age")
    sex = table["sex"].to_numpy(dtype=object)
    for norms, rows in _norms_of(table, calibration):
        excess[rows], spread[rows] = against_norms(norms, gap[rows], age[rows], sex[rows])
    return excess, spread


def _norms_of(table: pd.DataFrame, calibration: Calibration) -> list[tuple[Norms, np.ndarray]]:
    """The norms of each set of modalities that has some, with the rows that were scored from it."""
    scored = np.where(table["status"] == "scored", available(table), "")
    return [
        (group.norms, rows) for group, rows in by_modalities(calibration, scored) if group.norms is not None
    ]


def _half_widths(table: pd.DataFrame) -> np.ndarray:
    return (numbers(table, "pi90_hi") - numbers(table, "pi90_lo")) / 2
