"""What a site that the model never saw adds to everybody's gap, from local controls, and taking it out.

The controls are other people than those who are scored for the study (`local_controls`), and were scored
before, by the same model. Offset and scale of a site are shrunk as far as they are noise (`site_shifts`). A
gap becomes (gap - offset) / scale, in a column of its own.

Which gap is decided once for each row: the one around the norms, which z and p are made of, where the
model's norms speak of the person and of enough of the site's controls (`site_uncertainty`), and the one
around the bias line elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.model.calibration import Calibration
from hpc_brainage.scoring.bias import Method, correct_table, line_names
from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.local_controls import usable_controls
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.site_shifts import FEWEST_CONTROLS, BySite, SiteShift, shifts_by_modalities
from hpc_brainage.scoring.site_uncertainty import FILLED, SiteNorms, calibrate_uncertainty
from hpc_brainage.scoring.table import numbers


@dataclass(frozen=True)
class Calibrated:
    """The table with its new columns, the controls that were used, what was found, and what to mind.

    Attributes
    ----------
    shifts, norms : around the bias line, and around the norms, which need not be known.
    """

    table: pd.DataFrame
    controls: pd.DataFrame
    shifts: BySite[SiteShift]
    norms: BySite[SiteNorms]
    notes: tuple[str, ...]


def calibrate_sites(
    table: pd.DataFrame,
    local: SavedScores,
    lines: Mapping[str, BiasLine],
    method: Method,
    calibration: Calibration | None = None,
) -> Calibrated:
    """Add `FILLED` to a score table: what is taken out of each row's gap, or why nothing is, and the rest.

    With a calibration of the model also z, p and intervals (`calibrate_uncertainty`). Only sites that the
    model has not seen are calibrated. The gap around the bias line is `bag_corrected`, or `bag` where there
    is no correction; that of the controls is corrected by the same lines and in the same way.

    Raises
    ------
    ScoringError : none of the controls can be used.
    UsageError : one of them is also among the scored, under another name.
    """
    controls, notes = usable_controls(local, table)
    controls = correct_table(controls, lines, method)
    shifts = shifts_by_modalities(
        _gap(controls),
        controls["site"].to_numpy(dtype=object),
        available(controls),
        _spread(controls, lines, method),
    )
    norms: BySite[SiteNorms] = {}
    table = table.assign(site_calibration="", **dict.fromkeys(FILLED[1:], np.nan))
    if calibration is not None:
        table, norms = calibrate_uncertainty(table, controls, calibration)
    table = _around_the_line(table, controls, shifts)
    notes += _ages_beyond(table, controls)
    return Calibrated(table, controls, shifts, norms, tuple(notes))


def _around_the_line(
    table: pd.DataFrame, controls: pd.DataFrame, shifts: BySite[SiteShift]
) -> pd.DataFrame:
    """The table with rows that have no offset yet filled; one that gets none says why."""
    there = {
        site: Counter(which) for site, which in pd.Series(available(controls)).groupby(controls["site"])
    }
    said, offset, scale = (table[name].to_numpy(copy=True) for name in FILLED[:3])
    left = (table["status"] == "scored").to_numpy() & np.isnan(offset)
    own_modalities, site, seen = available(table), table["site"].to_numpy(), table["site_seen"].to_numpy()
    for row in np.flatnonzero(left):
        shift = shifts.get(site[row], {}).get(own_modalities[row])
        if shift is not None and not seen[row]:
            said[row] = f"{shift.from_whom} around the bias line"
            offset[row], scale[row] = shift.offset, shift.scale
        else:
            said[row] = _why_none(site[row], own_modalities[row], seen[row], there)
    gap = np.where(left, (_gap(table) - offset) / scale, table["bag_site_calibrated"])
    return table.assign(**dict(zip(FILLED, (said, offset, scale, gap), strict=True)))


def _why_none(site: str, modalities: str, seen: bool, there: Mapping[str, Counter[str]]) -> str:
    if seen:
        return "none: the model knows the site"
    if not site:
        return "none: the site is unknown"
    controls = there.get(site, Counter())
    if controls.total() < FEWEST_CONTROLS:
        return f"none: {controls.total()} local controls, {FEWEST_CONTROLS} are needed"
    return f"none: {controls[modalities]} of {controls.total()} local controls with {modalities}, too few"


def _gap(table: pd.DataFrame) -> np.ndarray:
    raw = (table["bias_method"] == "none").to_numpy()
    return np.where(raw, numbers(table, "bag"), numbers(table, "bag_corrected"))


def _spread(controls: pd.DataFrame, lines: Mapping[str, BiasLine], method: Method) -> np.ndarray:
    """SD of training people's corrected gaps around the line of each row; NaN where it is not known."""
    found = {
        name: (line.residual_sd or np.nan) / (line.slope if method == "cole" else 1.0)
        for name, line in lines.items()
    }
    if method == "none":
        found = {}
    return np.array([found.get(name, np.nan) for name in line_names(controls, lines)])


def _ages_beyond(table: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    ages = controls.groupby("site")["age"].agg(["min", "max"])
    low, high = (table["site"].map(ages[end]).to_numpy(dtype=float) for end in ("min", "max"))
    age = numbers(table, "age")
    beyond = table["site_offset"].notna().to_numpy() & ((age < low) | (age > high))
    if not beyond.any():
        return []
    return [f"of calibrated scans, {int(beyond.sum())} younger or older than all controls of their site"]
