"""Training one member: everything it learns from comes from its fold's training people.

Every process of a run goes through the same steps at the same time. Where something has to be decided
(which epoch is best, whether to stop) the first process decides, and tells the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_brainage.config import RunConfig
from hpc_brainage.errors import TrainingError
from hpc_brainage.model.member import Member
from hpc_brainage.training.data import TrainingData
from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.folds import batches, epoch_order, hold_back, presence_groups
from hpc_brainage.training.keeper import Keeper, State
from hpc_brainage.training.objective import Objective
from hpc_brainage.training.prediction import mean_absolute_error, predict_rows
from hpc_brainage.training.preparation import network_inputs, new_member
from hpc_brainage.training.progress import Progress
from hpc_brainage.training.snapshot import Snapshot
from hpc_brainage.training.steps import Steps

_LOG = logging.getLogger(__name__)
_CHECKED = 64
"""Training scans whose ages a trained member must be able to say."""
_CALM_DOWN = "lower training.learning_rate or set training.gradient_clipping to 1.0"

EpochReport = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class MemberTask:
    """Which member: its number, the rows it may learn from, and the seed of its draws."""

    index: int
    train_rows: np.ndarray
    seed: int


def member_seed(run_seed: int, index: int) -> int:
    """The seed of a run's member: no two members have the same, of one run or of runs of other seeds.

    Thousands of `index` stand above the 41 bits that the largest run seed takes with its thousand members.
    """
    return run_seed * 1000 + index % 1000 + (index // 1000 << 41)


def train_member(
    data: TrainingData,
    task: MemberTask,
    config: RunConfig,
    processes: Processes,
    report: EpochReport,
    keeper: Keeper | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> tuple[Member, dict[str, Any]]:
    """Train a member on its rows and return it, on the run's device, with a summary of how it went.

    With `training.validation` set, a share of the fold's training people is held back, the epoch with
    the smallest validation error is kept, and training stops after `patience` epochs without a better
    one. Otherwise all epochs are run and the last state is kept.

    Parameters
    ----------
    keeper : saves how far training is, and goes on from what it has saved.
    on_begin : told the first epoch that will be reported; those before were reported earlier.
    """
    settings = config.training
    validation = hold_back(data.scans, task.train_rows, settings.validation, task.seed)
    rows = np.setdiff1d(task.train_rows, validation)
    torch.manual_seed(task.seed)
    member = new_member(data, rows, config)
    inputs, present = network_inputs(member, data, processes.device)
    rows, groups = presence_groups(present, rows)
    member.to(processes.device)
    objective = Objective(deepcopy(member.network), config)
    shares = processes.world_size * settings.accumulation
    if len(rows) < shares:
        raise TrainingError(f"{len(rows)} training scans are too few to be shared out in {shares} parts")
    steps_alone = len(batches(rows, settings.batch_size))
    total_steps = settings.epochs * len(batches(rows, settings.batch_size, shares))
    if total_steps != settings.epochs * steps_alone and processes.is_first:
        _LOG.warning(
            "member %d: the last scans of an epoch are fewer than the %d parts of a step and join the step"
            " before, so it learns in other steps than one process would", task.index, shares,
        )  # fmt: skip
    found = keeper.begin(_name(task), task.index) if keeper else None
    progress = _progress(found, member, processes)
    if on_begin:
        on_begin(progress.epoch)
    engine = Engine(
        objective, settings, processes, total_steps, progress.step, found.tensors if found else None
    )

    def after_step() -> None:
        if keeper:
            keeper.after_step(lambda: _state(engine, progress, processes, task))

    steps = Steps(data, member, inputs, present, task.seed, settings, processes, progress, total_steps)
    best = progress.best
    while progress.epoch < settings.epochs:
        started, epoch = time.perf_counter(), progress.epoch
        order = rows[epoch_order(groups, task.seed, epoch)]
        record = steps.run(engine, batches(order, settings.batch_size, shares), after_step)
        check_loss(record["loss"], epoch, task)
        if len(validation):
            state = engine.model_state()
            error = float("inf")
            if processes.is_first:
                member.network.load_state_dict(state)
                error = mean_absolute_error(member, data, validation)
            error = processes.word_of_the_first(error)
            record["validation_mae"] = error
            best.offer(error, epoch, state)
        seconds = round(time.perf_counter() - started, 3)
        report({"member": task.index, "epoch": epoch, "step": progress.step, **record, "seconds": seconds})
        progress.next_epoch()
        if len(validation) and epoch - best.epoch >= settings.patience:
            break
    member.network.load_state_dict(best.state or engine.model_state())
    engine.close()
    if processes.is_first:
        check_ages(member, data, rows, task)
    summary: dict[str, Any] = {
        "epochs": progress.epoch,
        "steps": progress.step,
        "train_scans": len(rows),
        "validation_scans": len(validation),
    }
    if len(validation):
        summary |= {"best_epoch": best.epoch, "validation_mae": best.error}
    return member.eval(), summary


def has_begun(task: MemberTask, keeper: Keeper) -> bool:
    """Whether a checkpoint of this member alone is there, from which `train_member` goes on."""
    return keeper.has_begun(_name(task))


def _name(task: MemberTask) -> str:
    return f"member-{task.index}"


def _state(engine: Engine, progress: Progress, processes: Processes, task: MemberTask) -> State:
    """What a checkpoint holds of a member; all processes make it at the same step.

    Raises
    ------
    TrainingError : the loss is not finite, and nothing can go on from here.
    """
    shares = processes.gathered(torch.stack(list(progress.sums.values())).float())
    check_loss(float(np.sum(shares, axis=0)[list(progress.sums).index("loss")]), progress.epoch, task)
    sizes = engine.sizes()
    pieces = engine.pieces()
    best = {f"best/{name}": value for name, value in (progress.best.state or {}).items()}
    return State(
        step=progress.step,
        pieces=pieces,
        fixed=best,
        sizes={key: 1 if key.startswith("step/") else sizes[key.partition("/")[2]] for key in pieces},
        record=progress.describe(shares),
    )


def _progress(found: Snapshot | None, member: Member, processes: Processes) -> Progress:
    """Where a member's training stands: at a checkpoint, or at the beginning."""
    if found is None:
        return Progress()
    shapes = {f"best/{name}": value.shape for name, value in member.network.state_dict().items()}
    best = {
        name.removeprefix("best/"): value.view(shapes[name])
        for name, value in found.tensors.items()
        if name in shapes
    }
    return Progress.from_record(found.record, best, processes.rank, processes.world_size, processes.device)


def check_loss(loss: float, epoch: int, task: MemberTask) -> None:
    """Stop where the loss of an epoch is not a number any more.

    Raises
    ------
    TrainingError : it is not finite.
    """
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch}", where=f"member {task.index}", hint=_CALM_DOWN
        )


def check_ages(member: Member, data: TrainingData, rows: np.ndarray, task: MemberTask) -> None:
    """Make sure that a trained member can say the ages of people whom it learned from.

    Raises
    ------
    TrainingError : an age is not finite.
    """
    if not np.isfinite(predict_rows(member, data, rows[:_CHECKED])["age"]).all():
        raise TrainingError(
            "training has diverged: the ages are not finite any more",
            where=f"member {task.index}",
            hint=_CALM_DOWN,
        )
