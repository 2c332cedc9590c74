"""Many members in one pass.

Members for tables of features are small: most of a step is the overhead of its few hundred operations, not
their arithmetic. Here the parameters of many members are stacked, and one operation does for all of them
what it did for one (`torch.func.vmap`). Each member still has its own people, its own order of them, its
own draws and its own parameters, and ends with what it would have become alone, but for rounding.

Members are stacked if their networks have the same shapes and they take equally many steps. Where one has
fewer scans in a step than another, the rest is filled with scans of no modality, which no term counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, stack_module_state, vmap

from hpc_brainage.config import RunConfig, TrainingConfig
from hpc_brainage.model.member import Member
from hpc_brainage.model.noise import Draws
from hpc_brainage.training.data import FeatureInput, TrainingData
from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import MOMENTS, Piece
from hpc_brainage.training.folds import batches, epoch_order, presence_groups
from hpc_brainage.training.keeper import Keeper, State
from hpc_brainage.training.loop import (
    EpochReport,
    MemberTask,
    check_ages,
    check_loss,
)
from hpc_brainage.training.mixing import mixed, mixing
from hpc_brainage.training.objective import Batch, Objective, step_counts
from hpc_brainage.training.of_stack import stack_name
from hpc_brainage.training.optimizer import adamw, cosine, decayed
from hpc_brainage.training.preparation import network_inputs, new_member
from hpc_brainage.training.progress import Progress
from hpc_brainage.training.steps import hide_modalities

AT_ONCE = 64
"""Members in one stack; more are no faster on a processor, and cost memory."""

_BYTES_PER_PARAMETER = 16  # itself, its gradient, and two moments
_BYTES_PER_INPUT = 8  # float32, as it was made and as it is stacked
_MOST_BYTES = 4 << 30


def can_be_stacked(data: TrainingData, config: RunConfig, processes: Processes, fits: int) -> bool:
    """Whether these members can be trained in one pass: tables only, on one process, to the last epoch,
    in single precision.

    And only if what their networks take fits into memory as often as front ends are fitted: once for each
    of `fits` choices of training people. Where it does not, a step is long enough to be taken alone.
    """
    settings = config.training
    if processes.world_size > 1 or settings.validation or settings.zero_stage:
        return False
    # Both are asked for to save memory, of which a stack takes more.
    if settings.accumulation > 1 or settings.precision != "fp32":
        return False
    width = 0
    for role, source in data.inputs.items():
        if not isinstance(source, FeatureInput):
            return False
        width += min(config.modality(role).components or len(source.names), len(source.names))
    return fits * len(data.scans) * width * _BYTES_PER_INPUT <= _MOST_BYTES


def train_stacked(
    data: Sequence[TrainingData],
    tasks: Sequence[MemberTask],
    config: RunConfig,
    device: torch.device,
    report: EpochReport,
    done: Collection[int] = (),
    keeper: Keeper | None = None,
    on_begin: Callable[[Sequence[int], int], None] | None = None,
) -> Iterator[tuple[int, Member, dict[str, Any]]]:
    """Train members, as many at once as fit, each on its own rows of its own data.

    Parameters
    ----------
    data : of each task, the scans that it takes rows of; may be the same for all.
    tasks : rows and seeds.
    report : told about each epoch of each member.
    done : places of tasks that need not be trained any more. The others are stacked as if these were not
        done, so that an interruption changes no bit.
    keeper : saves how far training is, and goes on from what it has saved.
    on_begin : told of members, and of the first epoch that will be reported of them; those before were
        reported earlier.

    Yields
    ------
    The place of a task, its trained member on the host, and a summary, stack by stack.
    """
    learners = _learners(data, tasks, config)
    wanted = {task.index for place, task in enumerate(tasks) if place not in done}

    def report_wanted(record: dict[str, Any]) -> None:
        if record["member"] in wanted:
            report(record)

    for together in _stacks(learners, config.training):
        if set(together) <= set(done):
            continue
        stack = _Stack([learners[place] for place in together], config, device)
        stack.go_on(keeper)
        if on_begin:
            on_begin(
                [index for place in together if (index := tasks[place].index) in wanted],
                stack.progress.epoch,
            )
        stack.train(report_wanted, keeper)
        for place, (member, summary) in zip(together, stack.finished(), strict=True):
            if place not in done:
                yield place, member, summary
        if keeper:
            keeper.end()


@dataclass(frozen=True)
class _Inputs:
    """What members that learn from the same people share: fitted front ends, and what comes out of them.

    Attributes
    ----------
    first : a member with those front ends.
    x : by role, components (scans, P).
    present : by role, bool (scans,).
    sex, age : (scans,), the age on the regression's scale.
    """

    first: Member
    x: dict[str, torch.Tensor]
    present: dict[str, torch.Tensor]
    sex: torch.Tensor
    age: torch.Tensor

    @classmethod
    def fitted(cls, data: TrainingData, rows: np.ndarray, config: RunConfig) -> _Inputs:
        first = new_member(data, rows, config)
        x, present = network_inputs(first, data, torch.device("cpu"))
        tables = {role: value for role, value in x.items() if isinstance(value, torch.Tensor)}
        age = first.age_scale.to_scale(torch.from_numpy(data.age))
        return cls(first, tables, present, torch.from_numpy(data.sex), age)

    def member(self, config: RunConfig) -> Member:
        """A member with these front ends, and a network with fresh parameters."""
        front_ends = {role: deepcopy(one) for role, one in self.first.front_ends.items()}
        return Member(front_ends, self.first.age_scale, config)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Learner:
    """A member before its first step, and what it learns from.

    `inputs` are shared by the members that learn from the same people.
    """

    task: MemberTask
    data: TrainingData
    inputs: _Inputs
    member: Member
    objective: Objective
    rows: np.ndarray
    groups: np.ndarray

    def steps(self, batch_size: int) -> int:
        """In an epoch."""
        return len(batches(self.rows, batch_size))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(parameter.shape) for parameter in self.objective.parameters())


def _learners(
    data: Sequence[TrainingData], tasks: Sequence[MemberTask], config: RunConfig
) -> list[_Learner]:
    fitted: dict[tuple[int, bytes], _Inputs] = {}
    learners = []
    for own, task in zip(data, tasks, strict=True):
        key = (id(own), task.train_rows.tobytes())
        if key not in fitted:
            fitted[key] = _Inputs.fitted(own, task.train_rows, config)
        inputs = fitted[key]
        torch.manual_seed(task.seed)
        member = inputs.member(config)
        objective = Objective(deepcopy(member.network), config, single_pass=False)
        rows, groups = presence_groups(inputs.present, task.train_rows)
        learners.append(_Learner(task, own, inputs, member, objective, rows, groups))
    return learners


def _stacks(learners: Sequence[_Learner], settings: TrainingConfig) -> list[list[int]]:
    """Places of the learners that are trained together."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, learner in enumerate(learners):
        alike.setdefault((learner.shapes, learner.steps(settings.batch_size)), []).append(place)
    stacks = []
    for (shapes, _), places in alike.items():
        size = _BYTES_PER_PARAMETER * sum(int(np.prod(shape)) for shape in shapes)
        at_once = min(AT_ONCE, max(1, _MOST_BYTES // size))
        pieces = -(-len(places) // at_once)
        stacks += [piece.tolist() for piece in np.array_split(np.array(places), pieces)]
    return stacks


class _Stack:
    """Members that take each step together."""

    def __init__(self, learners: Sequence[_Learner], config: RunConfig, device: torch.device) -> None:
        self.learners, self.config, self.device = learners, config, device
        settings = config.training
        self.steps_per_epoch = learners[0].steps(settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        objectives = [learner.objective.to(device) for learner in learners]
        self.parameters, self.buffers = stack_module_state(objectives)
        self.base = deepcopy(objectives[0]).to("meta")
        self.optimizer = adamw(self.parameters, decayed(objectives[0]), settings)
        self.seeds = torch.tensor([learner.task.seed for learner in learners], device=device)
        inputs = list({id(learner.inputs): learner.inputs for learner in learners}.values())
        place = {id(one): number for number, one in enumerate(inputs)}
        self.source = torch.tensor([place[id(learner.inputs)] for learner in learners], device=device)
        longest = max(len(one.age) for one in inputs)

        def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            """(inputs, scans + 1, ...): the last row of each is nobody's, and all zeros."""
            together = tensors[0].new_zeros((len(tensors), longest + 1, *tensors[0].shape[1:]))
            for number, tensor in enumerate(tensors):
                together[number, : len(tensor)] = tensor
            return together.to(device)

        roles = learners[0].member.roles
        self.x = {role: stacked([one.x[role] for one in inputs]) for role in roles}
        self.present = {role: stacked([one.present[role] for one in inputs]) for role in roles}
        self.sex = stacked([one.sex + 1 for one in inputs]) - 1  # nobody's is unknown
        self.age = stacked([one.age for one in inputs])
        self.nobody = longest
        self.progress = Progress()

    def train(self, report: EpochReport, keeper: Keeper | None = None) -> None:
        """Take all steps of all epochs that were not taken yet.

        Raises
        ------
        TrainingError : the loss of a member is not finite.
        """
        settings, progress = self.config.training, self.progress
        while progress.epoch < settings.epochs:
            started, epoch = time.perf_counter(), progress.epoch
            for rows in islice(self._epoch(epoch), progress.taken, None):
                step = progress.step
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.learning_rate * cosine(step, self.total_steps)
                losses, terms = self._step(rows, step)
                progress.add({"loss": losses, **terms})
                if keeper:
                    keeper.after_step(self._state)
            means = {name: (value / self.steps_per_epoch).tolist() for name, value in progress.sums.items()}
            seconds = round((time.perf_counter() - started) / len(self.learners), 3)
            for number, learner in enumerate(self.learners):
                record = {name: value[number] for name, value in means.items()}
                check_loss(record["loss"], epoch, learner.task)
                report(
                    {"member": learner.task.index, "epoch": epoch, "step": progress.step, **record}
                    | {"seconds": seconds, "stacked": len(self.learners)}
                )
            progress.next_epoch()

    @property
    def _members(self) -> list[int]:
        return [learner.task.index for learner in self.learners]

    def go_on(self, keeper: Keeper | None) -> None:
        """Put back what was saved of these members, if anything was."""
        name = stack_name(self._members[0], self._members[-1])
        found = keeper.begin(name) if keeper else None
        if found is None:
            return
        for name, parameter in self.parameters.items():
            parameter.data.copy_(found.tensors[f"parameter/{name}"].view_as(parameter))
            if f"step/{name}" in found.tensors:
                state = {
                    key: found.tensors[f"{key}/{name}"].view_as(parameter).to(self.device, copy=True)
                    for key in MOMENTS
                }
                steps = found.tensors[f"step/{name}"].reshape(()).to(self.device, copy=True)
                self.optimizer.state[parameter] = {"step": steps, **state}
        sums = {
            name: found.tensors[f"sums/{name}"].to(self.device, copy=True) for name in found.record["terms"]
        }
        record = found.record
        self.progress = Progress(record["epoch"], record["step"], record["taken"], sums)

    def _state(self) -> State:
        """What a checkpoint holds of these members.

        Raises
        ------
        TrainingError : the loss of one is not finite, and nothing can go on from here.
        """
        for learner, loss in zip(self.learners, self.progress.sums["loss"].tolist(), strict=True):
            check_loss(loss, self.progress.epoch, learner.task)
        pieces: dict[str, Piece] = {}
        for name, parameter in self.parameters.items():
            held = {"parameter": parameter.detach()} | self.optimizer.state.get(parameter, {})
            pieces |= {f"{key}/{name}": Piece(0, value.reshape(-1)) for key, value in held.items()}
        sums = {f"sums/{name}": value.cpu() for name, value in self.progress.sums.items()}
        return State(
            step=self.progress.step,
            pieces=pieces,
            fixed=sums,
            sizes={key: piece.values.numel() for key, piece in pieces.items()},
            record={**self.progress.describe([]), "members": self._members},
        )

    def finished(self) -> Iterator[tuple[Member, dict[str, Any]]]:
        """Each member with its parameters, in evaluation mode on the host, and a summary."""
        for number, learner in enumerate(self.learners):
            state = {
                name.removeprefix("model."): value[number].detach().cpu().clone()
                for name, value in {**self.parameters, **self.buffers}.items()
                if name.startswith("model.")
            }
            learner.member.network.load_state_dict(state)
            check_ages(learner.member, learner.data, learner.rows, learner.task)
            summary = {
                "epochs": self.config.training.epochs,
                "steps": self.total_steps,
                "train_scans": len(learner.rows),
                "validation_scans": 0,
            }
            yield learner.member.eval(), summary

    def _epoch(self, epoch: int) -> Iterator[torch.Tensor]:
        """Rows of each step, int64 (members, scans); `nobody` where a member has fewer scans."""
        own = [
            batches(
                learner.rows[epoch_order(learner.groups, learner.task.seed, epoch)],
                self.config.training.batch_size,
            )
            for learner in self.learners
        ]
        for together in zip(*own, strict=True):
            rows = np.full((len(own), max(map(len, together))), self.nobody)
            for number, of_member in enumerate(together):
                rows[number, : len(of_member)] = of_member
            yield torch.from_numpy(rows).to(self.device)

    def _step(self, rows_MB: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One optimizer step of every member; returns losses and terms, each (members,)."""
        whose = self.source[:, None]

        def loss(
            parameters: Mapping[str, torch.Tensor],
            buffers: Mapping[str, torch.Tensor],
            x: dict[str, torch.Tensor],
            present: dict[str, torch.Tensor],
            sex: torch.Tensor,
            age: torch.Tensor,
            scan: torch.Tensor,
            seed: torch.Tensor,
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            draws = Draws(scan, seed, step)
            present = hide_modalities(present, self.config.training, draws)
            if largest := self.config.training.mixup:
                partner, share = mixing(present, sex, draws, largest)
                x = {role: mixed(own, own[partner], share) for role, own in x.items()}
                age = mixed(age, age[partner], share)
            batch = Batch(
                x=x,
                present=present,
                sex=sex,
                age=age,
                scan=scan,
                counts=step_counts(present, sex),
                seed=seed,
                step=step,
                progress=step / self.total_steps,
            )
            found: tuple[torch.Tensor, dict[str, torch.Tensor]] = functional_call(
                self.base, (dict(parameters), dict(buffers)), (batch,)
            )
            return found

        self.optimizer.zero_grad()
        losses, terms = vmap(loss)(
            self.parameters,
            self.buffers,
            {role: x[whose, rows_MB] for role, x in self.x.items()},
            {role: here[whose, rows_MB] for role, here in self.present.items()},
            self.sex[whose, rows_MB],
            self.age[whose, rows_MB],
            rows_MB,
            self.seeds,
        )
        losses.sum().backward()
        if self.config.training.gradient_clipping:
            self._clip(self.config.training.gradient_clipping)
        self.optimizer.step()
        return losses.detach(), terms

    def _clip(self, largest: float) -> None:
        """Scale the gradients of each member to a norm of at most `largest`."""
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        squares = torch.stack([g.square().flatten(1).sum(dim=1) for g in gradients]).sum(dim=0)
        factor = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *([1] * (gradient.dim() - 1))))
