"""Out of its depth: scans unlike anything the model has learned from, and tables that make no sense.

A scan's flags compare it with held-out people of the training, whom the members asked had not seen either:
beyond the 99th percentile of theirs it is flagged. About one scan in a hundred is, in a cohort like the
training's. A table is refused as a whole where most of its scans lie so far out that something must be
wrong with the data: another unit, another preprocessing, features in each other's places.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.scoring.answers import Answers

IMPLAUSIBLE_YEARS = (0.0, 120.0)
FAR_SHARE = 0.25
"""A scan with a larger share of a modality's features beyond the training people's is far out."""
EQUAL_YEARS = 0.01
"""Predictions whose standard deviation is below this are all the same."""
CONSTANT_SHARE = 0.05
"""Predictions that differ by less than this share of the training ages' SD are nearly constant."""
_FEWEST_SCANS = 10  # fewer may be alike, or far out, by chance
_FEWEST_TO_JUDGE = 3
NEARLY_CONSTANT = "predictions_nearly_constant"
OVERRIDE = "--accept-implausible"


def depth_flags(said: Answers, recon_z: dict[str, np.ndarray], info: ModelInfo) -> dict[str, np.ndarray]:
    """By flag, which scans lie beyond what was usual for held-out people.

    Parameters
    ----------
    said : what the members say of the scans.
    recon_z : by role, z of the log reconstruction error.
    """
    calibration, scans = info.calibration, len(said)
    flags = {"codes_far_from_training": np.zeros(scans, dtype=bool)}
    if calibration is None:
        return flags
    groups = said.available
    for name, group in calibration.groups.items():
        if group.far is not None:
            flags["codes_far_from_training"] |= (groups == name) & (said.mahalanobis > group.far)
    for role, depth in calibration.depth.items():
        if depth.poor is not None:
            flags[f"reconstruction_poor_{role}"] = recon_z[role] > depth.poor
        if depth.beyond is not None:
            flags[f"features_out_of_range_{role}"] = said.out_of_range[role] > depth.beyond
    return flags


def judge_table(table: pd.DataFrame, info: ModelInfo, accept: bool = False) -> tuple[str, ...]:
    """Look at a finished table as a whole; returns what is wrong with it, in words.

    Rows of a table of nearly constant predictions get a flag, in place.

    Raises
    ------
    ScoringError : most of the table makes no sense, and that is not accepted.
    """
    scored = (table["status"] == "scored").to_numpy()
    predicted = table["brain_age"].to_numpy(dtype=float)[scored]
    if len(predicted) < _FEWEST_TO_JUDGE:
        return ()
    problems = [*_far_out(table[scored], info), *_implausible(predicted)]
    spread = float(predicted.std())
    constant = len(predicted) >= _FEWEST_SCANS and spread < CONSTANT_SHARE * info.training.age_sd
    if constant and spread < EQUAL_YEARS:
        problems.append(f"all {len(predicted)} scans get the same age ({predicted.mean():.2f} years)")
    if problems and not accept:
        raise ScoringError(
            f"this table makes no sense: {'; '.join(problems)}",
            where=f"{int(scored.sum())} scored scans",
            expected="scans like those that the model was trained on",
            hint="check the units, the preprocessing and atlas, and that every feature stands under its own"
            f" name; {OVERRIDE} writes the table all the same",
        )
    notes = [f"WARNING: {problem}" for problem in problems]
    if constant:
        notes.append(
            f"WARNING: the predictions hardly differ (SD {spread:.2f} y, of the training people's ages"
            f" {info.training.age_sd:.2f} y): {NEARLY_CONSTANT}"
        )
        before = table.loc[scored, "flags"]
        table.loc[scored, "flags"] = before.where(before == "", before + ";") + NEARLY_CONSTANT
    return tuple(notes)


def _far_out(table: pd.DataFrame, info: ModelInfo) -> list[str]:
    found = []
    for role in ROLES:
        counts = table[f"out_of_range_{role}"].dropna()
        features = len(info.features.get(role, ()))
        far = counts > FAR_SHARE * features
        if len(counts) >= _FEWEST_TO_JUDGE and far.mean() > 0.5:
            found.append(
                f"of {int(far.sum())} of {len(counts)} scans more than {FAR_SHARE:.0%} of the {role}"
                f" features lie beyond all of the training (median {counts.median():.0f} of {features})"
            )
    return found


def _implausible(predicted: np.ndarray) -> list[str]:
    low, high = IMPLAUSIBLE_YEARS
    strange = (predicted < low) | (predicted > high)
    if strange.mean() <= 0.5:
        return []
    return [f"{int(strange.sum())} of {len(predicted)} brain ages are of no human (below 0 or above 120)"]
