"""An epoch's steps, from rows to the engine: what of whom is seen in each, and by which process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hpc_brainage.config import TrainingConfig
from hpc_brainage.model.member import Member
from hpc_brainage.model.noise import Draws, Stream
from hpc_brainage.training.data import TrainingData, VolumeInput, stream
from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.mixing import mixed, mixing
from hpc_brainage.training.objective import Batch, step_counts
from hpc_brainage.training.preparation import scaled
from hpc_brainage.training.progress import Progress


@dataclass(frozen=True)
class _Plan:
    """A step as all processes know it.

    Attributes
    ----------
    rows : the scans of the step, on all processes.
    present : by role, bool (scans,), what is seen of them in this step.
    partners : rows that they are mixed with, and `share` how much of those; None without mixup.
    """

    rows: np.ndarray
    present: dict[str, torch.Tensor]
    partners: np.ndarray | None
    share: torch.Tensor | None


@dataclass
class Steps:
    """An epoch's steps, from rows to the engine."""

    data: TrainingData
    member: Member
    inputs: dict[str, torch.Tensor | VolumeInput]
    present: dict[str, torch.Tensor]
    seed: int
    settings: TrainingConfig
    processes: Processes
    progress: Progress
    total_steps: int

    def run(
        self, engine: Engine, whole: list[np.ndarray], after_step: Callable[[], None]
    ) -> dict[str, float]:
        """Take a step for each batch of rows of which none was taken yet; returns each term's mean over
        the whole epoch."""
        engine.train_mode(True)
        ahead = whole[self.progress.taken :]
        plans = [self._plan(rows, self.progress.step + number) for number, rows in enumerate(ahead)]
        parts = [(plan, part) for plan in plans for part in range(self.settings.accumulation)]
        inputs = stream(self.inputs, [self._taken(plan, self._mine(part)) for plan, part in parts])
        sums: dict[str, torch.Tensor] = {}
        for (plan, part), (_, x) in zip(parts, inputs, strict=True):
            loss, terms = engine.step(self._batch(plan, self._mine(part), x))
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums[name] + value if name in sums else value
            if part == self.settings.accumulation - 1:
                self.progress.add(sums)
                sums = {}
                after_step()
        # Each process holds its scans' share of every mean over the step; together they are the mean.
        own = self.progress.sums
        together = self.processes.summed(torch.stack([value.float() for value in own.values()]))
        taken = self.progress.taken  # more than `whole`, if another number of processes has begun the epoch
        return {name: value / taken for name, value in zip(own, together.tolist(), strict=True)}

    def _mine(self, part: int) -> slice:
        """The scans of a step that this process takes in a part of it."""
        world, parts = self.processes.world_size, self.settings.accumulation
        return slice(self.processes.rank + part * world, None, world * parts)

    def _plan(self, rows: np.ndarray, step: int) -> _Plan:
        index = torch.from_numpy(rows)
        draws = Draws(index, self.seed, step)
        present = {role: mask[index] for role, mask in self.present.items()}
        seen = hide_modalities(present, self.settings, draws)
        if not self.settings.mixup:
            return _Plan(rows, seen, None, None)
        sex = torch.from_numpy(self.data.sex[rows])
        partner, share = mixing(seen, sex, draws, self.settings.mixup)
        return _Plan(rows, seen, rows[partner.numpy()], share)

    def _taken(self, plan: _Plan, own: slice) -> np.ndarray:
        """The rows that this process reads for a step: its own, then those that they are mixed with."""
        mine = plan.rows[own]
        return mine if plan.partners is None else np.concatenate([mine, plan.partners[own]])

    def _batch(self, plan: _Plan, own: slice, x: dict[str, torch.Tensor]) -> Batch:
        device, mine = self.processes.device, plan.rows[own]
        sex = self.data.sex[plan.rows]
        x = {role: scaled(self.member, role, value.to(device)) for role, value in x.items()}
        years = torch.from_numpy(self.data.age[self._taken(plan, own)])
        age = self.member.age_scale.to_scale(years).to(device)
        if plan.share is not None:
            share = plan.share[own].to(device)
            n = len(mine)
            x = {role: mixed(value[:n], value[n:], share) for role, value in x.items()}
            age = mixed(age[:n], age[n:], share)
        return Batch(
            x=x,
            present={role: mask[own].to(device) for role, mask in plan.present.items()},
            sex=torch.from_numpy(sex[own]).to(device),
            age=age,
            scan=torch.from_numpy(mine).to(device),
            counts={name: int(n) for name, n in step_counts(plan.present, torch.from_numpy(sex)).items()},
            seed=self.seed,
            step=self.progress.step,
            progress=self.progress.step / self.total_steps,
            processes=self.processes.world_size * self.settings.accumulation,
        )


def hide_modalities(
    present: Mapping[str, torch.Tensor], settings: TrainingConfig, draws: Draws
) -> dict[str, torch.Tensor]:
    """Presence of each modality in a step, bool (scans,) by role, after some have been dropped.

    With `modality_training = "dropout"` some people who have both lose one of them for this step. The
    draw depends on the scan and the step, so every process knows it for the whole step.
    """
    masks = dict(present)
    if settings.modality_training != "dropout" or len(masks) < 2:
        return masks
    pair = masks["smri"] & masks["fmri"]
    u = draws.uniform(1, Stream.MODALITY)[:, 0]
    return {
        "smri": masks["smri"] & ~(pair & (u > 1 - settings.drop_smri)),
        "fmri": masks["fmri"] & ~(pair & (u < settings.drop_fmri)),
    }
