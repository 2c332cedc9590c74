"""What intervals, z and p become at a site that the model never saw, from the site's local controls.

A gap is looked at as the norms look at it: what it exceeds the mean gap of the model's controls of the same
age and sex by, over their spread there. Of the local controls this has an offset and a scale, shrunk as
those of `site_calibration`; both are taken out before a gap becomes a z, and the p is that of the new z.
The calibrated gap, years, is the same gap, so that it says what z says.

Offset and scale are what the model's own held-out controls do not have: theirs are found in the same way,
from gaps cut off at 3 SDs as in the norms' fit, and are no site's. So a site that does not differ keeps its
z, however long the tails are, and a few controls with an absurd gap do not move everybody else.

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
from hpc_brainage.scoring.normative import (
    MOST_SDS,
    against_norms,
    p_accelerated,
    standardised_controls,
    z_of,
)
from hpc_brainage.scoring.site_calibration import (
    BY_LINE,
    FEWEST_CONTROLS,
    SiteShift,
    middle_and_scale,
    site_shifts,
)
from hpc_brainage.scoring.uncertainty import conformal_quantile

BY_NORMS = " around the norms"
_SHOWN = 3
COLUMNS = tuple(f"{name}_site_calibrated" for name in ("bag_z", "p_accelerated", "pi90_lo", "pi90_hi"))


@dataclass(frozen=True)
class SiteNorms:
    """How a site differs from the model's norms.

    Attributes
    ----------
    shift : offset and scale of the gap around the norms, of the site's controls.
    of_modalities : how many of these controls were scored from what, as "smri+fmri".
    widening : how many times as wide as the model's its intervals are; NaN where the controls have none.
    """

    shift: SiteShift
    of_modalities: dict[str, int]
    widening: float


def calibrate_uncertainty(
    table: pd.DataFrame, controls: pd.DataFrame, calibration: Calibration
) -> tuple[pd.DataFrame, dict[str, SiteNorms]]:
    """Add `COLUMNS` to a score table that `calibrate_sites` made.

    Where there is a z of them, `bag_site_calibrated` becomes the gap around the norms, and `site_offset`,
    `site_scale` and `site_calibration` speak of it; all else stays as it was.

    `COLUMNS` are empty of sites that the model knows, of sites with fewer than 20 controls of an age that
    the norms speak of, and where the model's own z or interval is.

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
    gap = np.full(len(table), np.nan)
    excess, spread = _around_norms(table, calibration)
    for norms, rows in _by_norms(table, calibration):
        middle, _ = _of_training(norms)
        usual = middle * spread[rows]
        gap[rows] = usual + (excess[rows] - usual - offset[rows]) / scale[rows]
        z[rows] = z_of(norms, gap[rows] / spread[rows])
        p[rows] = p_accelerated(norms, z[rows])
    centre, half = _numbers(table, "brain_age") - offset, widening * _half_widths(table)
    columns = dict(zip(COLUMNS, (z, p, centre - half, centre + half), strict=True))
    said = np.array([f"{one.shift.controls} local controls{BY_NORMS}" if one else "" for one in own])
    by_norms = {
        "bag_site_calibrated": gap, "site_offset": offset, "site_scale": scale, "site_calibration": said,
    }  # fmt: skip
    known = np.isfinite(z)
    for name, values in by_norms.items():
        columns[name] = np.where(known, values, table[name].to_numpy(dtype=values.dtype.kind))
    return table.assign(**columns), found


def notes_on_sites(
    table: pd.DataFrame, shifts: dict[str, SiteShift], norms: dict[str, SiteNorms]
) -> list[str]:
    """What was taken out at each site of a calibrated table, and from whom it is known.

    Parameters
    ----------
    shifts, norms : what `calibrate_sites` and `calibrate_uncertainty` found; the latter may be empty.
    """
    notes, calibrated = [], table[table["site_offset"].notna()]
    around_norms = calibrated["site_calibration"].str.endswith(BY_NORMS)
    sites = sorted(set(calibrated["site"]))
    for name in sites[:_SHOWN]:
        here = around_norms[calibrated["site"] == name]
        if here.any():
            one = norms[name]
            made_of = ", ".join(f"{n} {role}" for role, n in one.of_modalities.items())
            wider = f", intervals {one.widening:.2f} times as wide" if np.isfinite(one.widening) else ""
            notes.append(_note(f"site {name}", one.shift, f"{BY_NORMS} ({made_of})") + wider)
        if not here.all():
            who = f"site {name}" + (
                f", {(~here).sum()} scans that the norms say nothing of" if here.any() else ""
            )
            notes.append(_note(who, shifts[name], BY_LINE))
    if len(sites) > _SHOWN:
        notes.append(
            f"{len(sites) - _SHOWN} more sites are calibrated: see site_calibration in the sidecar"
        )
    return notes


def _note(who: str, shift: SiteShift, around: str) -> str:
    return (
        f"{who}: {shift.offset:+.2f} y taken out (before shrinking {shift.raw_offset:+.2f} y), spread"
        f" {shift.scale:.2f} times the training's; from {shift.controls} local controls{around}"
    )


def _of_sites(controls: pd.DataFrame, calibration: Calibration) -> dict[str, SiteNorms]:
    excess, spread = _around_norms(controls, calibration)
    known, site = np.isfinite(excess), controls["site"].to_numpy(dtype=object)
    names = available(controls)
    for norms, rows in _by_norms(controls, calibration):
        middle, scale = _of_training(norms)
        excess[rows] -= middle * spread[rows]
        spread[rows] *= scale
    shifts = site_shifts(excess[known], site[known], spread[known], most_sds=MOST_SDS)
    gap, half = _numbers(controls, "bag"), _half_widths(controls)
    found = {}
    for name, shift in shifts.items():
        own = known & (site == name)
        kept = shift.offset / shift.raw_offset if shift.raw_offset else 0.0
        others = _without_each(excess[own], spread[own])
        score = np.abs(gap[own] - kept * others) / half[own]
        score = score[np.isfinite(score)]
        widening = conformal_quantile(score) if len(score) >= FEWEST_CONTROLS else float("nan")
        roles, counts = np.unique(names[own].astype(str), return_counts=True)
        found[name] = SiteNorms(shift, dict(zip(roles.tolist(), counts.tolist(), strict=True)), widening)
    return found


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
