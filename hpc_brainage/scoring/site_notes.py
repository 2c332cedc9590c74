"""What is said of calibrated sites: on the screen, and in the sidecar."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.site_calibration import BY_LINE, controls_said
from hpc_brainage.scoring.site_shifts import ALL, BySite, SiteShift
from hpc_brainage.scoring.site_uncertainty import BY_NORMS, SiteNorms

_SHOWN = 3


def notes_on_sites(
    table: pd.DataFrame, controls: pd.DataFrame, shifts: BySite[SiteShift], norms: BySite[SiteNorms]
) -> list[str]:
    """What was taken out at each site of a calibrated table, and from whom it is known.

    Parameters
    ----------
    controls : the local controls that were used.
    shifts, norms : what `calibrate_sites` and `calibrate_uncertainty` found; the latter may be empty.
    """
    calibrated = table[table["site_offset"].notna()]
    sites = sorted(set(calibrated["site"]))
    notes = []
    for name in sites[:_SHOWN]:
        said = calibrated["site_calibration"][calibrated["site"] == name]
        for of, one in norms.get(name, {}).items():
            made_of = ", ".join(f"{n} {which}" for which, n in one.of_modalities.items())
            wider = f", intervals {one.widening:.2f} times as wide" if np.isfinite(one.widening) else ""
            more = (f" ({made_of})" if of == ALL else "") + wider
            notes += _note(name, one.shift, controls_said(one.shift.controls, of, BY_NORMS), said, more)
        for of, shift in shifts.get(name, {}).items():
            notes += _note(name, shift, controls_said(shift.controls, of, BY_LINE), said)
    if len(sites) > _SHOWN:
        notes.append(
            f"{len(sites) - _SHOWN} more sites are calibrated: see site_calibration in the sidecar"
        )
    return notes + _of_a_minority(calibrated, controls)


def in_the_sidecar(name: str, shifts: BySite[SiteShift], norms: BySite[SiteNorms]) -> dict[str, Any]:
    """All that was estimated, by site and modalities; `name` is that of the controls' table."""
    return {
        "controls": name,
        "around_norms": {
            site: {of: _plain(one) for of, one in here.items()} for site, here in norms.items()
        },
        "around_bias_line": {
            site: {of: asdict(shift) for of, shift in here.items()} for site, here in shifts.items()
        },
    }


def _note(site: str, shift: SiteShift, from_whom: str, said: pd.Series, more: str = "") -> list[str]:
    """A line if rows of the site say so."""
    rows = said == from_whom
    if not rows.any():
        return []
    count = int(rows.sum())
    who = f"site {site}" if rows.all() else f"site {site}, {count} {'scan' if count == 1 else 'scans'}"
    return [
        f"{who}: {shift.offset:+.2f} y taken out (before shrinking {shift.raw_offset:+.2f} y), spread"
        f" {shift.scale:.2f} times the training's; from {from_whom}{more}"
    ]


def _of_a_minority(calibrated: pd.DataFrame, controls: pd.DataFrame) -> list[str]:
    """Whether there are scans whose site was calibrated mostly with people of other modalities."""
    site, which = controls["site"].to_numpy(dtype=object), available(controls)
    pooled = calibrated[calibrated["site_calibration"].str.contains(f" of {ALL}", regex=False)]
    few = [
        ((site == name) & (which == own)).sum() < 0.5 * (site == name).sum()
        for name, own in zip(pooled["site"], available(pooled), strict=True)
    ]
    if not any(few):
        return []
    return [
        f"{sum(few)} calibrated scans have other modalities than most controls of their site, and fewer"
        " than 20 controls have theirs: what the site adds to such scans may be something else"
    ]


def _plain(one: SiteNorms) -> dict[str, Any]:
    return asdict(one.shift) | {
        "of_modalities": one.of_modalities,
        "widening": one.widening if np.isfinite(one.widening) else None,
    }
