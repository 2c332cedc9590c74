"""Reports of planted score tables, made as the command makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scored_tables import score_table, sidecar, with_uncertainty

from hpc_brainage.evaluation.score_findings import score_findings
from hpc_brainage.reporting.score_report import score_report
from hpc_brainage.reporting.told import Told

HOSTILE = (
    "<script>alert('x')</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "",
    "$\\frac{1}{0}$",
    "日本語サイト",
    "سایت",
    "x" * 400,
    "a\x00b\x1b[31m",
    "\u202etxt.exe",
    "&amp;",
    "{{7*7}}",
    "</svg></style><script>alert(4)</script>",
    "fill: #000011",
    "-->",
    "]]>",
    "😀",
)
"""Names as nobody would have them, and some that somebody has."""


def report_on(
    table: pd.DataFrame,
    about: dict[str, Any] | None = None,
    *,
    group: str | None = None,
    contributions: pd.DataFrame | None = None,
    brain_maps: tuple[tuple[str, bytes], ...] = (),
) -> str:
    """The page about a table."""
    about = sidecar(table) if about is None else about
    found = score_findings(table, about, group)
    return score_report(Told(table, about, contributions, brain_maps, **vars(found)))


def whole_report() -> str:
    """A report in which every section has something to say."""
    table = with_uncertainty(score_table(300, sites=9))
    draw = np.random.default_rng(0)
    table["brain_age_smri_only"] = table["brain_age"] + draw.normal(0, 1, len(table))
    table["flags"] = np.where(np.arange(len(table)) % 20 == 0, "codes_far_from_training", "")
    table["qc_status"] = np.where(np.arange(len(table)) % 30 == 0, "flag", "pass")
    table["qc_reasons"] = np.where(np.arange(len(table)) % 30 == 0, "mean FD above 0.25 mm", "")
    errors = {"n": 300, "mae": 4.0, "rmse": 5.0, "r2": 0.8, "r": 0.9}
    predictors = ("model", "ridge", "mean_predictor", "median_predictor")
    model = {
        "card": "# planted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
        "evidence": {"folds": 5, "everyone": dict.fromkeys(predictors, errors)},
        "training": {"age_mean": 40.0},
        "calibration": {
            "controls": "dx == 'TC'",
            "coverage": {"everyone": 0.9, "F": 0.92},
            "coverage_n": {"everyone": 300, "F": 150},
            "uniformity": {"everyone": {"n": 300, "ks": 0.04, "p": 0.6, "skew": 0.2}},
        },
    }
    rows = [
        ("smri", f"lh_region{i}_thickness", group, years, abs(years), 150)
        for i, years in enumerate(draw.normal(0, 0.3, 40))
        for group in ("control", "patient")
    ]
    columns = [
        "role",
        "feature",
        "group",
        "mean_contribution_years",
        "mean_absolute_contribution_years",
        "n",
    ]
    return report_on(table, sidecar(table, **model), contributions=pd.DataFrame(rows, columns=columns))


def hostile_report() -> str:
    """A report on a cohort whose every text is an attack, or merely unusual."""
    table = score_table(len(HOSTILE) * 30, sites=len(HOSTILE))
    rows = np.arange(len(table))
    table["site"] = [HOSTILE[i % len(HOSTILE)] for i in rows]
    table["diagnosis"] = [("control", HOSTILE[0], HOSTILE[5], HOSTILE[13])[i % 4] for i in rows]
    table["participant_id"] = [f"{HOSTILE[i % 4]}{i}" for i in rows]
    table["flags"] = HOSTILE[1]
    about = sidecar(table, card=f"# {HOSTILE[0]}\n\n{HOSTILE[1]}\n")
    about |= {
        "store": {"name": HOSTILE[13]},
        "notes": [HOSTILE[0]],
        "where": HOSTILE[1],
        "columns": dict.fromkeys(table, HOSTILE[0]),
    }
    return report_on(table, about)
