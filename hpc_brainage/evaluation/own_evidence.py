"""What a model brings of its own held-out errors, out of the sidecar of the scores that it made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from hpc_brainage.evaluation.scored_coverage import wilson
from hpc_brainage.model.bundle import BiasLine
from hpc_brainage.model.evidence import Evidence

_MEASURED = ("mae", "rmse", "r2", "r")


def evidence_of(about: Mapping[str, Any]) -> Evidence | None:
    """The evidence in a sidecar; None where it brings none that is known here."""
    try:
        return Evidence.model_validate((about.get("model") or {}).get("evidence"))
    except ValidationError:
        return None


def bias_lines(lines: Mapping[str, Any] | None) -> dict[str, BiasLine]:
    """Bias lines as they stand in a sidecar; none where they are not known here."""
    try:
        return {name: BiasLine.model_validate(line) for name, line in (lines or {}).items()}
    except ValidationError:
        return {}


def own_errors(evidence: Evidence | None) -> pd.DataFrame:
    """The model's errors on held-out people of its training, beside the simple predictors'.

    Returns
    -------
    Columns `people`, `predictor`, `n`, `mae`, `rmse`, `r2` and `r`, NaN where not defined.
    """
    if evidence is None:
        return pd.DataFrame()
    rows = []
    parts = {"everyone": evidence.everyone}
    parts |= {f"with {name}": part for name, part in evidence.by_available.items()}
    for people, part in parts.items():
        for predictor, own in (
            ("this model", part.model),
            (evidence.ridge_predictor, part.ridge),
            ("the mean age", part.mean_predictor),
            ("the median age", part.median_predictor),
        ):
            known = own.model_dump(include=set(_MEASURED))
            numbers = {name: np.nan if known[name] is None else known[name] for name in _MEASURED}
            rows.append({"people": people, "predictor": predictor, "n": own.n, **numbers})
    return pd.DataFrame(rows)


def own_coverage(about: Mapping[str, Any]) -> pd.DataFrame:
    """How often the model's own 90 % interval held the age of people held out in training."""
    calibration = _calibration(about)
    share, count = calibration.get("coverage") or {}, calibration.get("coverage_n") or {}
    rows = []
    for name in share:
        if n := count.get(name):
            low, high = wilson(round(share[name] * n), n)
            rows.append({"people": name, "n": n, "coverage": share[name], "low": low, "high": high})
    return pd.DataFrame(rows)


def own_uniformity(about: Mapping[str, Any]) -> pd.DataFrame:
    """How even the centiles of the gap of people held out in training were."""
    found = _calibration(about).get("uniformity") or {}
    return pd.DataFrame([{"people": name, **one} for name, one in found.items()])


def _calibration(about: Mapping[str, Any]) -> Mapping[str, Any]:
    return (about.get("model") or {}).get("calibration") or {}
