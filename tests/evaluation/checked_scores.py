"""What is said of a planted score table, check by check."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scored_tables import SLOPE, sidecar

from hpc_brainage.evaluation.score_findings import Findings, score_findings


def bias_line(slope: float, intercept: float = 8.0, people: int = 400) -> dict[str, Any]:
    """A bias line as it stands in a sidecar."""
    return {"intercept": intercept, "slope": slope, "n": people, "r": None}


BIAS = {"everyone": bias_line(SLOPE)}


def judged(table: pd.DataFrame, **model: Any) -> tuple[str, dict[str, str]]:
    """The verdict, and the judgement of each check."""
    found = findings(table, **model)
    checks = found.tables["checks"]
    return found.verdict, dict(zip(checks["check"], checks["judgement"], strict=True))


def findings(table: pd.DataFrame, **model: Any) -> Findings:
    return score_findings(table, sidecar(table, **({"bias": BIAS} | model)))


def found_in(table: pd.DataFrame, question: str, **model: Any) -> tuple[str, str]:
    """Judgement and finding of a check."""
    row = findings(table, **model).tables["checks"].set_index("check").loc[question]
    return str(row["judgement"]), str(row["finding"])
