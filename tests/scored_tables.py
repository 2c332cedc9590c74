"""Score tables with a planted truth, as `brainage score` would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpc_brainage.files import write_json

SLOPE, INTERCEPT = 0.8, 8.0
"""Of the planted line of predicted on true age; what `bag_corrected` takes out."""


def score_table(people: int = 200, seed: int = 0, *, sites: int = 4, noise: float = 4.0) -> pd.DataFrame:
    """People of 10 to 80 years at sites in turn, half of them cases whose brains are 3 years older."""
    draw = np.random.default_rng(seed)
    age = draw.uniform(10, 80, people)
    case = draw.random(people) < 0.5
    predicted = INTERCEPT + SLOPE * age + 3 * case + draw.normal(0, noise, people)
    table = pd.DataFrame(
        {
            "participant_id": [f"{i:05d}" for i in range(people)],
            "session_id": "",
            "run": "",
            "age": age,
            "sex": draw.choice(["F", "M"], people) if people else np.empty(0, dtype=object),
            "site": [f"site {i % sites}" for i in range(people)],
            "split": "",
            "diagnosis": np.where(case, "patient", "control"),
            "status": "scored",
            "reason": "",
            "brain_age": predicted,
            "bag": predicted - age,
            "bag_corrected": predicted - INTERCEPT - SLOPE * age,
            "bias_method": "beheshti",
            "bias_fit": "400 held-out training scans (smri)",
            "in_training": False,
            "has_smri": True,
            "has_fmri": False,
            "age_in_training_range": pd.array([True] * people, dtype="boolean"),
            "site_seen": True,
            "flags": "",
            "model": "planted",
            "model_sha256": "a" * 64,
            "store_sha256": "b" * 64,
        }
    )
    texts = ("site", "diagnosis", "sex", "flags", "reason", "status", "participant_id")
    return table.astype(dict.fromkeys(texts, object))


def with_uncertainty(table: pd.DataFrame, noise: float = 4.0) -> pd.DataFrame:
    """The table with intervals, z and centiles that hold for the people who are no cases."""
    from scipy.stats import norm

    z = table["bag_corrected"] / noise
    age = table["brain_age"] - table["bag_corrected"]  # what the line says for this age
    shift = (age - INTERCEPT) / SLOPE - age
    return table.assign(
        pi90_lo=table["brain_age"] + shift - 1.645 * noise,
        pi90_hi=table["brain_age"] + shift + 1.645 * noise,
        bag_z=z,
        bag_centile=100 * norm.cdf(z),
        p_accelerated=norm.sf(z),
        mahalanobis=1.0,
    )


def not_scored(table: pd.DataFrame, rows: list[int], reason: str = "cannot be read") -> pd.DataFrame:
    """The table with some rows failed."""
    failed = table.copy()
    numbers = [name for name in ("brain_age", "bag", "bag_corrected") if name in failed]
    failed.loc[rows, numbers] = np.nan
    failed.loc[rows, "status"] = "failed"
    failed.loc[rows, "reason"] = reason
    return failed


def sidecar(table: pd.DataFrame, **model: Any) -> dict[str, Any]:
    """What stands in OUT.json."""
    return {
        "schema_version": 3,
        "model": {"name": "planted", "sha256": "a" * 64, **model},
        "store": {"name": "cohort", "sha256": "b" * 64},
        "where": None,
        "notes": ["4 features of the store are not used"],
        "software": {"hpc-brainage": "0.1.0"},
        "summary": {"scans": len(table)},
        "columns": {name: f"meaning of {name}" for name in table},
    }


def written(folder: Path, table: pd.DataFrame, about: dict[str, Any] | None = None) -> Path:
    """Write the table and its sidecar; returns OUT."""
    table.to_parquet(folder / "scores.parquet", index=False)
    write_json(folder / "scores.json", sidecar(table) if about is None else about)
    return folder / "scores"
