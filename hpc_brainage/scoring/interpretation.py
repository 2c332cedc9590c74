"""What the members' numbers mean, by the calibration that comes with the bundle: the later columns.

Whatever cannot be said is NaN: bundles of format 1 have no calibration, and a model that was trained on few
people has less of it. Everything is by which modalities a scan was scored from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from hpc_brainage.modality import ROLES
from hpc_brainage.model.bundle import ModelInfo
from hpc_brainage.model.calibration import Calibration, Group
from hpc_brainage.scoring.age_support import are_few
from hpc_brainage.scoring.answers import Answers, modalities_named
from hpc_brainage.scoring.normative import centile, normative_z, outside, p_accelerated
from hpc_brainage.scoring.uncertainty import Predicted, half_widths

COLUMNS = ("pi90_lo", "pi90_hi", "bag_z", "bag_centile", "p_accelerated")


def available(table: pd.DataFrame) -> np.ndarray:
    """Which modalities each row of a score table was scored from, as "smri+fmri"; "" for none."""
    return modalities_named({role: table[f"has_{role}"].to_numpy() for role in ROLES})


def by_modalities(
    calibration: Calibration | None, modalities: np.ndarray
) -> Iterator[tuple[Group, np.ndarray]]:
    """What is known of each set of modalities, with the places of the scans that were scored from it.

    Parameters
    ----------
    modalities : what each scan was scored from, as "smri+fmri"; "" for none.
    """
    if calibration is not None:
        for name, group in calibration.groups.items():
            yield group, np.flatnonzero(modalities == name)


def interpret(said: Answers, age: np.ndarray, sex: np.ndarray, info: ModelInfo) -> dict[str, np.ndarray]:
    """The columns that a calibration gives, each (scans,).

    Parameters
    ----------
    said : what the members say of the scans.
    age : years, NaN where unknown.
    sex : "F", "M" or "U".
    """
    made = {name: np.full(len(age), np.nan) for name in COLUMNS}
    made |= {f"recon_z_{role}": rebuilding_z(said, role, info) for role in ROLES}
    made["modality_delta"] = said.brain_age_alone["smri"] - said.brain_age_alone["fmri"]
    predicted = said.brain_age
    for group, rows in by_modalities(
        info.calibration, np.where(np.isfinite(predicted), said.available, "")
    ):
        sd, nobodys = said.sd_aleatoric[rows], np.full(len(rows), -1)
        scans = Predicted(predicted[rows], age[rows], sd, sex[rows], nobodys)
        half = half_widths(group.intervals, scans)
        made["pi90_lo"][rows], made["pi90_hi"][rows] = predicted[rows] - half, predicted[rows] + half
        if group.norms is not None:
            z = normative_z(group.norms, predicted[rows] - age[rows], age[rows], sex[rows])
            made["bag_z"][rows], made["bag_centile"][rows] = z, centile(z)
            made["p_accelerated"][rows] = p_accelerated(group.norms, z)
    return made


def rebuilding_z(said: Answers, role: str, info: ModelInfo) -> np.ndarray:
    """z of the log reconstruction error against held-out people's; NaN where there is none."""
    depth = info.calibration.depth.get(role) if info.calibration else None
    if depth is None or depth.log_error_mean is None or not depth.log_error_sd:
        return np.full(len(said), np.nan)
    return (said.log_error[role] - depth.log_error_mean) / depth.log_error_sd


def outside_norms(said: Answers, age: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Of which scans the age lies outside those of the controls that the model is calibrated on, or has
    too few of them near."""
    beyond = np.zeros(len(age), dtype=bool)
    for group, rows in by_modalities(info.calibration, said.available):
        if group.norms is not None:
            beyond[rows] = outside(group.norms, age[rows])
    return beyond


def of_a_rare_age(age: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Of which scans the age is one near which fewer than 20 people of the training are."""
    ages = info.calibration.ages if info.calibration else None
    return np.zeros(len(age), dtype=bool) if ages is None else are_few(ages, age)
