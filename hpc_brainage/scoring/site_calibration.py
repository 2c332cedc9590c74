"""What a site that the model never saw adds to everybody's gap, from local controls, and taking it out.

The controls are other people than those who are scored for the study (`local_controls`), and were scored
before, by the same model. Offset and scale of a site are shrunk as far as they are noise (`site_shifts`). A
gap becomes (gap - offset) / scale, in a column of its own.

The gap here is the one around the bias line. Where the model's norms speak of the person and of 20 of the
site's controls, `site_uncertainty` puts the gap around the norms in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.scoring.bias import Method, correct_table, line_names
from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.local_controls import usable_controls
from hpc_brainage.scoring.saved import SavedScores
from hpc_brainage.scoring.site_shifts import (
    ALL,
    FEWEST_CONTROLS,
    BySite,
    SiteShift,
    of_a_scan,
    shifts_by_modalities,
)
from hpc_brainage.scoring.table import numbers

BY_LINE = " around the bias line"
"""What a row's `site_calibration` says of the gap that was calibrated."""


@dataclass(frozen=True)
class Calibrated:
    """The table with its new columns, the controls that were used, what was found, and what to mind."""

    table: pd.DataFrame
    controls: pd.DataFrame
    shifts: BySite[SiteShift]
    notes: tuple[str, ...]


def calibrate_sites(
    table: pd.DataFrame, local: SavedScores, lines: Mapping[str, BiasLine], method: Method
) -> Calibrated:
    """Add `site_calibration`, `site_offset`, `site_scale` and `bag_site_calibrated` to a score table.

    All are of the gap around the bias line.

    Only sites that the model has not seen are calibrated. The gap is `bag_corrected`, or `bag` where there
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
    calibrated = _without_the_site(table, controls, shifts)
    if calibrated["site_offset"].isna().all():
        notes.append(
            f"no site is calibrated: {'; '.join(sorted(set(calibrated['site_calibration']) - {''}))}"
        )
    notes += _ages_beyond(calibrated, controls)
    return Calibrated(calibrated, controls, shifts, tuple(notes))


def controls_said(count: int, of: str, around: str) -> str:
    """What a calibrated row says: from how many controls, of which modalities, around what."""
    return f"{count} local controls {'of' if of == ALL else 'with'} {of}{around}"


def _without_the_site(
    table: pd.DataFrame, controls: pd.DataFrame, shifts: BySite[SiteShift]
) -> pd.DataFrame:
    """The table with the four columns; a row that is not calibrated says why."""
    counts = controls["site"].value_counts()
    said, offset, scale = [], np.full(len(table), np.nan), np.full(len(table), np.nan)
    rows = zip(table["site"], available(table), table["site_seen"], table["status"], strict=True)
    for place, (site, modalities, seen, status) in enumerate(rows):
        found = of_a_scan(shifts, site, modalities)
        if status != "scored":
            said.append("")
        elif seen:
            said.append("none: the model knows the site")
        elif not site:
            said.append("none: the site is unknown")
        elif found is None:
            said.append(f"none: {counts.get(site, 0)} local controls, {FEWEST_CONTROLS} are needed")
        else:
            of, shift = found
            said.append(controls_said(shift.controls, of, BY_LINE))
            offset[place], scale[place] = shift.offset, shift.scale
    return table.assign(
        site_calibration=said, site_offset=offset, site_scale=scale,
        bag_site_calibrated=(_gap(table) - offset) / scale,
    )  # fmt: skip


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
