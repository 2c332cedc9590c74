"""Scans before a member: in pieces as it takes them, and the ages that it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.model.member import Member
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput, stream
from hpc_brainage.training.folds import batches
from hpc_brainage.training.preparation import columns_of

_SCANS_AT_ONCE = {"features": 1024, "volume": 8}


@dataclass(frozen=True)
class Piece:
    """Some scans as a member takes them, on its device.

    Attributes
    ----------
    rows : their rows in the training data.
    x : by role, features in their own units (rows, features), NaN where missing, or volumes.
    present : by role, bool (rows,).
    sex : (rows,) 0 for F, 1 for M, -1 for unknown.
    """

    rows: np.ndarray
    x: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    sex: torch.Tensor


def pieces(member: Member, data: TrainingData, rows: np.ndarray) -> Iterator[Piece]:
    """The rows in pieces that fit into memory, in their order; volumes are read one piece ahead."""
    device = next(member.parameters()).device
    kind = "features"
    sources: dict[str, torch.Tensor | VolumeInput] = {}
    for role in member.roles:
        source = data.inputs[role]
        if isinstance(source, FeatureInput):
            taken = source.x_NF[np.ix_(rows, columns_of(member, role, source))]
            sources[role] = torch.from_numpy(taken)
        else:
            sources[role] = source.take(rows)
            kind = "volume"
    cuts = batches(np.arange(len(rows)), _SCANS_AT_ONCE[kind]) if len(rows) else []
    sex = torch.from_numpy(data.sex[rows])
    for places, x in stream(sources, cuts):
        chosen = rows[places]
        yield Piece(
            chosen,
            {role: value.to(device) for role, value in x.items()},
            {role: torch.from_numpy(data.inputs[role].present[chosen]).to(device) for role in member.roles},
            sex[torch.from_numpy(places)].to(device),
        )


def predict_rows(member: Member, data: TrainingData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Ages in years for some scans: "age", and "age_<role>" from each role alone; NaN where there is none.

    Computed on the member's device.
    """
    member.eval()
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("age", *(f"age_{r}" for r in member.roles))}
    for piece in pieces(member, data, rows):
        predicted = member.predict(piece.x, piece.present, piece.sex)
        found["age"].append(predicted.age.cpu().numpy())
        for role, age in predicted.age_by_role.items():
            found[f"age_{role}"].append(age.cpu().numpy())
    return {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in found.items()}


def mean_absolute_error(member: Member, data: TrainingData, rows: np.ndarray) -> float:
    """Years, over the scans that the member can predict; infinite if it can predict none."""
    error = np.abs(predict_rows(member, data, rows)["age"] - data.age[rows])
    return float(np.nanmean(error)) if np.isfinite(error).any() else float("inf")
