"""Scans before the members that never saw them: the only people by whom a member may be judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.errors import UsageError
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


def check_folds(members: Sequence[Member], data: TrainingData, fold: np.ndarray) -> None:
    """Refuse folds by which a person could be judged by a member that was trained on them.

    Parameters
    ----------
    members : member k was trained on all scans of `data` whose fold is not k, and on no others.
    fold : the fold of each scan, shape (scans,); -1 for scans that all members were trained on and that
        nobody may be judged by.

    Raises
    ------
    UsageError : the folds are not one for each scan, name a member that is not there, or split a person.
    """
    if fold.shape != (len(data.scans),):
        raise UsageError(
            f"{fold.size} folds for {len(data.scans)} scans", expected="the fold of each scan of the data"
        )
    if len(fold) and not (fold.min() >= -1 and fold.max() < len(members)):
        raise UsageError(
            f"folds {fold.min()} to {fold.max()} for {len(members)} members",
            expected="folds that count the members from 0, and -1 for nobody",
        )
    roles = sorted({role for member in members for role in member.roles} - set(data.inputs))
    if roles:
        raise UsageError(f"the members take {', '.join(roles)}, and the data has none of it")
    person = data.scans["participant_id"].to_numpy()
    first = dict(zip(person, fold, strict=True))
    split = sorted({str(who) for who, index in zip(person, fold, strict=True) if first[who] != index})
    if split:
        raise UsageError(
            f"scans of {len(split)} people lie in several folds",
            where=split[0],
            expected="all scans of a person in one fold",
        )


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


def people_draws(participant: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Bootstrap draws of people: how often each draw has each scan, float64 (draws, scans).

    As many people as there are, drawn with replacement; a person comes with all scans. A mean over the
    scans of a draw is `weights @ value / weights.sum(axis=1)`.
    """
    _, who = np.unique(participant, return_inverse=True)
    people = int(who.max()) + 1
    counts = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=draws)
    return counts[:, who].astype(np.float64)
