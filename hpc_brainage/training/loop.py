"""Training one member: everything it learns from comes from its fold's training people."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hpc_brainage.config import RunConfig, TrainingConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.model.age_scale import AgeScale
from hpc_brainage.model.front_end import FrontEnd, fit_front_end
from hpc_brainage.model.member import Member, VolumeScaler
from hpc_brainage.model.noise import uniform
from hpc_brainage.training.checkpoint import MemberCheckpoints
from hpc_brainage.training.data import FeatureInput, TrainingData, VolumeInput, stream
from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.folds import batches, epoch_order, hold_back
from hpc_brainage.training.objective import STREAM_MODALITY, Batch, Objective

_PREDICTION_BATCH = {"features": 4096, "volume": 8}
_VOLUMES_TO_SCALE_BY = 32

EpochReport = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class MemberTask:
    """Which member: its number, the rows it may learn from, and the seed of its draws."""

    index: int
    train_rows: np.ndarray
    seed: int


def train_member(
    data: TrainingData,
    task: MemberTask,
    config: RunConfig,
    processes: Processes,
    checkpoints: MemberCheckpoints,
    report: EpochReport,
) -> tuple[Member, dict[str, Any]]:
    """Train a member on its rows and return it with a summary of how it went.

    With `training.validation` set, a share of the fold's training people is held back, the epoch with
    the smallest validation error is kept, and training stops after `patience` epochs without a better
    one. Otherwise all epochs are run and the last state is kept.
    """
    settings = config.training
    held_back = hold_back(data.scans, task.train_rows, settings.validation, task.seed)
    rows = np.setdiff1d(task.train_rows, held_back)
    torch.manual_seed(task.seed)
    member = _new_member(data, rows, config)
    inputs, present = _network_inputs(member, data, processes.device)
    member.to(processes.device)
    objective = Objective(deepcopy(member.network), config, task.seed)
    # Draws from here on (dropout) differ between processes; the parameters above must not.
    torch.manual_seed(task.seed * 7919 + processes.rank)
    groups = np.unique(data.availability, return_inverse=True)[1][rows]
    steps_per_epoch = len(batches(rows, settings.batch_size))
    total_steps = settings.epochs * steps_per_epoch
    if len(batches(rows, settings.batch_size)[-1]) < processes.world_size:
        raise TrainingError(
            f"{len(rows)} training scans are too few for {processes.world_size} processes",
            hint="use fewer processes",
        )
    engine = Engine(objective, settings, processes, total_steps)
    sex, age = torch.from_numpy(data.sex), torch.from_numpy(data.age)
    best, best_epoch, step, epoch = np.inf, -1, 0, 0
    for epoch in range(settings.epochs):
        started = time.perf_counter()
        engine.train_mode(True)
        whole = batches(rows[epoch_order(groups, task.seed, epoch)], settings.batch_size)
        mine = [batch[processes.rank :: processes.world_size] for batch in whole]
        sums: dict[str, torch.Tensor] = {}
        for batch_rows, (local_rows, x) in zip(whole, stream(inputs, mine), strict=True):
            index = torch.from_numpy(local_rows)
            seen = hide_modalities(present, batch_rows, settings, seed=task.seed, step=step)
            mine_of_whole = slice(processes.rank, None, processes.world_size)
            batch = Batch(
                x={role: value.to(processes.device) for role, value in x.items()},
                present={role: mask[mine_of_whole].to(processes.device) for role, mask in seen.items()},
                sex=sex[index].to(processes.device),
                age=member.age_scale.to_scale(age[index]).to(processes.device),
                scan=index.to(processes.device),
                counts=_counts(seen),
                step=step,
                progress=step / total_steps,
                processes=processes.world_size,
            )
            loss, terms = engine.step(batch)
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            step += 1
        record = {name: value / len(whole) for name, value in _over_processes(sums, processes).items()}
        if not np.isfinite(record["loss"]):
            raise TrainingError(
                f"the loss is {record['loss']} in epoch {epoch}",
                where=f"member {task.index}",
                hint="lower training.learning_rate or set training.gradient_clipping to 1.0",
            )
        if len(held_back):
            member.network.load_state_dict(engine.model_state())
            record["validation_mae"] = _mean_absolute_error(member, data, held_back)
            if record["validation_mae"] < best:
                best, best_epoch = record["validation_mae"], epoch
                if processes.is_first:
                    checkpoints.save_best(member.network.state_dict())
        seconds = round(time.perf_counter() - started, 3)
        report({"member": task.index, "epoch": epoch, "step": step, **record, "seconds": seconds})
        if len(held_back) and epoch - best_epoch >= settings.patience:
            break
    member.network.load_state_dict(engine.model_state())
    engine.close()
    if len(held_back):
        if processes.world_size > 1:
            torch.distributed.barrier()
        member.network.load_state_dict(checkpoints.load_best())
    member.to("cpu").eval()
    summary: dict[str, Any] = {
        "epochs": epoch + 1,
        "steps": step,
        "train_scans": len(rows),
        "validation_scans": len(held_back),
    }
    if len(held_back):
        summary |= {"best_epoch": best_epoch, "validation_mae": best}
    if processes.is_first:
        checkpoints.save_finished(member, summary)
    return member, summary


def predict_rows(member: Member, data: TrainingData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions of a member for some scans: "age" and "age_<role>" for each role alone, in years."""
    member.eval()
    device = next(member.parameters()).device
    sources: dict[str, torch.Tensor | VolumeInput] = {}
    kind = "features"
    for role, source in data.inputs.items():
        if isinstance(source, FeatureInput):
            sources[role] = torch.from_numpy(source.x_NF[:, _columns(member, role, source)])
        else:
            sources[role] = source
            kind = "volume"
    parts: list[dict[str, torch.Tensor]] = []
    sex = torch.from_numpy(data.sex)
    pieces = batches(rows, _PREDICTION_BATCH[kind]) if len(rows) else []
    for piece, x in stream(sources, pieces):
        here = {r: torch.from_numpy(source.present[piece]).to(device) for r, source in data.inputs.items()}
        x = {role: value.to(device) for role, value in x.items()}
        predicted = member.predict(x, here, sex[torch.from_numpy(piece)].to(device))
        alone = {f"age_{role}": value.cpu() for role, value in predicted.age_by_role.items()}
        parts.append({"age": predicted.age.cpu(), **alone})
    names = ["age", *(f"age_{role}" for role in member.roles)]
    return {
        name: np.concatenate([part[name].numpy() for part in parts]) if parts else np.empty(0)
        for name in names
    }


def _new_member(data: TrainingData, rows: np.ndarray, config: RunConfig) -> Member:
    """Front ends and age scale fitted on `rows`, and a network with fresh parameters."""
    front_ends: dict[str, FrontEnd | VolumeScaler] = {}
    for role, source in data.inputs.items():
        settings = config.modality(role)
        here = rows[source.present[rows]]
        if not len(here):
            raise TrainingError(
                f"no training person has {role}",
                hint=f"leave it out with --set {role}.use=false",
            )
        if isinstance(source, FeatureInput):
            if settings.encoder != "mlp":
                raise TrainingError(
                    "feature tables need the encoder mlp",
                    where=f"{role}.encoder = {settings.encoder!r}",
                )
            front_ends[role] = fit_front_end(
                source.x_NF[here],
                source.names,
                components=settings.components,
                clip_sd=settings.clip_sd,
                max_missing=settings.max_missing,
            )
        else:
            if settings.encoder == "mlp":
                raise TrainingError(
                    "a volume needs a convolutional encoder",
                    where=f"{role}.encoder = 'mlp', {role}.tables = {list(settings.tables)}",
                    hint=f"--set {role}.encoder=sfcn --set {role}.hidden=[8,16,32,64]",
                )
            front_ends[role] = _fit_volume_scaler(source, here)
    age = torch.from_numpy(data.age[rows])
    return Member(front_ends, AgeScale.fit(age, config.loss.age_scale), config)


def _fit_volume_scaler(source: VolumeInput, rows: np.ndarray) -> VolumeScaler:
    scaler = VolumeScaler(source.grid)
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _VOLUMES_TO_SCALE_BY)).astype(int)]
    volumes = source.read(np.unique(chosen)).double()
    scaler.mean.fill_(float(volumes.mean()))
    scaler.sd.fill_(float(volumes.std()))
    return scaler


def _network_inputs(
    member: Member, data: TrainingData, device: torch.device
) -> tuple[dict[str, torch.Tensor | VolumeInput], dict[str, torch.Tensor]]:
    """Components of every scan, computed once and kept on the device; volumes stay in the store."""
    inputs: dict[str, torch.Tensor | VolumeInput] = {}
    present: dict[str, torch.Tensor] = {}
    for role, source in data.inputs.items():
        here = torch.from_numpy(source.present)
        if isinstance(source, FeatureInput):
            x = torch.from_numpy(source.x_NF[:, _columns(member, role, source)])
            prepared, seen, _ = member.prepare_role(role, x, here)
            inputs[role], present[role] = prepared.to(device), seen
        else:
            inputs[role] = replace(source, scale=member.front_ends[role])
            present[role] = here
    return inputs, present


def _columns(member: Member, role: str, source: FeatureInput) -> np.ndarray:
    place = {name: index for index, name in enumerate(source.names)}
    return np.array([place[name] for name in member.features(role)], dtype=np.int64)


def hide_modalities(
    present: dict[str, torch.Tensor], rows: np.ndarray, settings: TrainingConfig, *, seed: int, step: int
) -> dict[str, torch.Tensor]:
    """Presence of each modality for the whole step's scans, bool (rows,) by role.

    With `modality_training = "dropout"` some people who have both lose one of them for this step. The
    draw depends on the scan and the step, so every process knows it for the whole step.
    """
    index = torch.from_numpy(rows)
    masks = {role: mask[index] for role, mask in present.items()}
    if settings.modality_training != "dropout" or len(masks) < 2:
        return masks
    pair = masks["smri"] & masks["fmri"]
    u = uniform(index, 1, seed=seed, step=step, stream=STREAM_MODALITY)[:, 0]
    return {
        "smri": masks["smri"] & ~(pair & (u > 1 - settings.drop_smri)),
        "fmri": masks["fmri"] & ~(pair & (u < settings.drop_fmri)),
    }


def _counts(masks: dict[str, torch.Tensor]) -> dict[str, int]:
    """Scans of the whole step by modality; every process can tell, for all know the whole step."""
    counts = {role: int(mask.sum()) for role, mask in masks.items()}
    everyone = torch.stack(list(masks.values()))
    counts["pair"] = int(everyone.all(dim=0).sum()) if len(masks) == 2 else 0
    counts["scans"] = everyone.shape[1]
    return counts


def _over_processes(sums: dict[str, torch.Tensor], processes: Processes) -> dict[str, float]:
    """Each process holds its scans' share of every mean over the step; together they are the mean."""
    values = torch.stack([value.float() for value in sums.values()])
    if processes.world_size > 1:
        torch.distributed.all_reduce(values)
    return dict(zip(sums, values.tolist(), strict=True))


def _mean_absolute_error(member: Member, data: TrainingData, rows: np.ndarray) -> float:
    return float(np.nanmean(np.abs(predict_rows(member, data, rows)["age"] - data.age[rows])))
