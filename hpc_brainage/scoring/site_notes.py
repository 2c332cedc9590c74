"""What is said of calibrated sites: on the screen, and in the sidecar."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.numerals import many, number
from hpc_brainage.scoring.interpretation import available
from hpc_brainage.scoring.site_calibration import Calibrated
from hpc_brainage.scoring.site_uncertainty import COLUMNS

_SHOWN, _NAMED = 10, 3
Z = COLUMNS[0]


def notes_on_sites(found: Calibrated) -> list[str]:
    """A line for each site, the largest offset first, and one on who was not calibrated, and why."""
    scored = found.table[found.table["status"] == "scored"]
    left = scored["site_offset"].isna()
    sites = [(str(site), rows) for site, rows in scored[~left].groupby("site")]
    sites.sort(key=lambda own: -own[1]["site_offset"].abs().max())
    notes = [_taken_out(site, rows, found) for site, rows in sites[:_SHOWN]]
    if len(sites) > _SHOWN:
        notes.append(f"{len(sites) - _SHOWN} more sites, of smaller offsets: see the sidecar")
    return notes + _not_calibrated(scored[left], len(scored))


def in_the_sidecar(name: str, found: Calibrated) -> dict[str, Any]:
    """All that was estimated, by site and modalities of scans; `name` is that of the controls' table."""
    return {
        "controls": name,
        "around_norms": {
            site: {
                of: asdict(one.shift) | {"widening": one.widening if np.isfinite(one.widening) else None}
                for of, one in here.items()
            }
            for site, here in found.norms.items()
        },
        "around_bias_line": {
            site: {of: asdict(shift) for of, shift in here.items()} for site, here in found.shifts.items()
        },
    }


def _taken_out(site: str, rows: pd.DataFrame, found: Calibrated) -> str:
    """Of each estimate that scans of the site take, that of most scans first."""
    said = []
    for from_whom in rows["site_calibration"].value_counts().index:
        own = rows[rows["site_calibration"] == from_whom]
        modalities, wider = available(own)[0], ""
        if Z in own and own[Z].notna().any():
            norms = found.norms[site][modalities]
            shift = norms.shift
            wider = f", intervals × {number(norms.widening)}" if np.isfinite(norms.widening) else ""
        else:
            shift = found.shifts[site][modalities]
        offset, raw = (number(years, sign=True) for years in (shift.offset, shift.raw_offset))
        said.append(
            f"{offset} y taken out of {many(len(own), 'scan')} ({raw} y before shrinking; spread ×"
            f" {number(shift.scale)}{wider}), from {from_whom}"
        )
    return f"site {site}: {'; '.join(said)}"


def _not_calibrated(left: pd.DataFrame, of_all: int) -> list[str]:
    """How many, where and why; the most frequent reason first."""
    if left.empty:
        return []
    said = []
    for reason, count in left["site_calibration"].value_counts().head(_SHOWN).items():
        sites = sorted(set(left["site"][left["site_calibration"] == reason]) - {""})
        where = ", ".join(sites) if len(sites) <= _NAMED else f"{len(sites)} sites"
        said.append(f"{count}{' at ' if where else ''}{where} ({str(reason).removeprefix('none: ')})")
    return [f"{len(left):,} of {many(of_all, 'scan')} are not calibrated: {', '.join(said)}"]
