"""A member's predictions for scans of the training data: of its validation set, and of its fold."""

from __future__ import annotations

import numpy as np
import torch

from hpc_brainage.model.member import Member
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput, stream
from hpc_brainage.training.folds import batches
from hpc_brainage.training.preparation import columns_of

_SCANS_AT_ONCE = {"features": 4096, "volume": 8}


def predict_rows(member: Member, data: TrainingData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Ages in years for some scans: "age", and "age_<role>" from each role alone; NaN where there is none.

    Computed on the member's device.
    """
    member.eval()
    device = next(member.parameters()).device
    sources: dict[str, torch.Tensor | VolumeInput] = {}
    kind = "features"
    for role, source in data.inputs.items():
        if isinstance(source, FeatureInput):
            taken = source.x_NF[np.ix_(rows, columns_of(member, role, source))]
            sources[role] = torch.from_numpy(taken)
        else:
            sources[role] = source.take(rows)
            kind = "volume"
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("age", *(f"age_{r}" for r in member.roles))}
    sex = torch.from_numpy(data.sex[rows])
    pieces = batches(np.arange(len(rows)), _SCANS_AT_ONCE[kind]) if len(rows) else []
    for piece, x in stream(sources, pieces):
        here = {
            role: torch.from_numpy(source.present[rows[piece]]).to(device)
            for role, source in data.inputs.items()
        }
        on_device = {role: value.to(device) for role, value in x.items()}
        predicted = member.predict(on_device, here, sex[torch.from_numpy(piece)].to(device))
        found["age"].append(predicted.age.cpu().numpy())
        for role, age in predicted.age_by_role.items():
            found[f"age_{role}"].append(age.cpu().numpy())
    return {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in found.items()}


def mean_absolute_error(member: Member, data: TrainingData, rows: np.ndarray) -> float:
    """Years, over the scans that the member can predict; infinite if it can predict none."""
    error = np.abs(predict_rows(member, data, rows)["age"] - data.age[rows])
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")
