"""A member before its first step: front ends fitted on its training people, and inputs for its network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hpc_brainage.config import VOLUME_ENCODERS, RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.front_end import FrontEnd, fit_front_end
from hpc_brainage.model.member import Member, VolumeScaler
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput

_VOLUMES_TO_SCALE_BY = 32
FEWEST_PEOPLE = 2


def check_settings(data: TrainingData, config: RunConfig, training: Mapping[str, np.ndarray]) -> None:
    """Refuse, before anything is trained, what would fail in the middle of a run.

    Parameters
    ----------
    training : by what is held out, as "fold 0", the rows that are trained on.

    Raises
    ------
    TrainingError : an encoder does not fit its input, or too few people with a modality are trained on.
    """
    if float(np.ptp(data.age)) == 0:
        raise TrainingError(
            f"everybody is {data.age[0]:g} years old: there is no age to learn", where=data.store.path
        )
    for role, source in data.inputs.items():
        settings = config.modality(role)
        if isinstance(source, FeatureInput) and settings.encoder in VOLUME_ENCODERS:
            raise TrainingError(
                "feature tables need the encoder mlp, or frozen if they are embeddings",
                where=f"{role}.encoder = {settings.encoder!r}",
            )
        if isinstance(source, VolumeInput) and settings.encoder not in VOLUME_ENCODERS:
            raise TrainingError(
                "a volume needs a convolutional encoder",
                where=f"{role}.encoder = {settings.encoder!r}, {role}.tables = {list(settings.tables)}",
                expected=f"one of {', '.join(VOLUME_ENCODERS)}",
                hint=f"--set {role}.encoder=sfcn --set {role}.hidden=[8,16,32,64] is a small one",
            )
        for held_out, rows in training.items():
            n = int(source.present[rows].sum())
            if n < FEWEST_PEOPLE:
                raise TrainingError(
                    f"only {n} scans with {role} are left to train on when {held_out} is held out",
                    expected=f"at least {FEWEST_PEOPLE}",
                    hint=f"use fewer folds, or leave it out with --set {role}.use=false",
                )


def new_member(data: TrainingData, rows: np.ndarray, config: RunConfig) -> Member:
    """Front ends and age scale fitted on `rows` alone, and a network with fresh parameters."""
    front_ends: dict[str, FrontEnd | VolumeScaler] = {}
    for role, source in data.inputs.items():
        here = rows[source.present[rows]]
        settings = config.modality(role)
        if isinstance(source, FeatureInput):
            front_ends[role] = fit_front_end(
                source.x_NF[here],
                source.names,
                components=settings.components,
                clip_sd=settings.clip_sd,
                max_missing=settings.max_missing,
            )
        else:
            front_ends[role] = _fit_volume_scaler(source, here)
    age = torch.from_numpy(data.age[rows])
    return Member(front_ends, AgeScale.fit(age, config.loss.age_scale), config)


def network_inputs(
    member: Member, data: TrainingData, device: torch.device
) -> tuple[dict[str, torch.Tensor | VolumeInput], dict[str, torch.Tensor]]:
    """What the network takes of every scan, and which scans have it, bool (scans,) by role.

    Components are computed once and kept on the device. Volumes stay in the store; they are scaled when
    they have been read (`scaled`).
    """
    inputs: dict[str, torch.Tensor | VolumeInput] = {}
    present: dict[str, torch.Tensor] = {}
    for role, source in data.inputs.items():
        here = torch.from_numpy(source.present)
        if isinstance(source, FeatureInput):
            x = torch.from_numpy(source.x_NF[:, columns_of(member, role, source)])
            prepared, present[role], _ = member.prepare_role(role, x, here)
            inputs[role] = prepared.to(device)
        else:
            inputs[role], present[role] = source, here
    return inputs, present


def scaled(member: Member, role: str, x: torch.Tensor) -> torch.Tensor:
    """A batch of `network_inputs` as the network takes it, on the member's device."""
    front_end = member.front_ends[role]
    return front_end(x) if isinstance(front_end, VolumeScaler) else x


def columns_of(member: Member, role: str, source: FeatureInput) -> np.ndarray:
    """The columns of the input that the member takes, in its order."""
    place = {name: index for index, name in enumerate(source.names)}
    return np.array([place[name] for name in member.features(role)], dtype=np.int64)


def _fit_volume_scaler(source: VolumeInput, rows: np.ndarray) -> VolumeScaler:
    scaler = VolumeScaler(source.grid)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _VOLUMES_TO_SCALE_BY)).astype(int)]
    volumes = source.read(np.unique(chosen)).double()
    sd = float(volumes.std())
    if not sd > 0:
        raise TrainingError("the training volumes are the same everywhere", where=source.key)
    scaler.mean.fill_(float(volumes.mean()))
    scaler.sd.fill_(sd)
    return scaler
