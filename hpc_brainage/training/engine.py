"""The one place that speaks to DeepSpeed: an engine around the objective.

The DeepSpeed configuration is derived from the run's settings. Whatever DeepSpeed would assume by itself
and that changes results (it clips gradients at 1 unless told otherwise) is stated here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import torch

from hpc_brainage.config import TrainingConfig
from hpc_brainage.training.distributed import Processes, import_deepspeed, limit_waiting
from hpc_brainage.training.gradients import SharedGradients
from hpc_brainage.training.objective import Batch, Objective
from hpc_brainage.training.optimizer import adamw, cosine, decayed

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square."""


class Piece(NamedTuple):
    """A part of a flattened tensor: where it begins, and its values, a view into the engine's memory."""

    start: int
    values: torch.Tensor


class Engine:
    """Steps an objective, on one process or many, at any ZeRO stage.

    Parameters
    ----------
    objective : what is trained; the engine works on this very module.
    total_steps : of the whole training, from which the learning rate follows.
    first_step : steps that were taken before, by an engine that is no more.
    found : what that engine's processes held, put together, as `pieces` names it.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        processes: Processes,
        total_steps: int,
        first_step: int = 0,
        found: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        deepspeed = import_deepspeed(processes.device.type == "cuda")
        self._deepspeed = deepspeed
        self._zero_stage = config.zero_stage
        self._rank = processes.rank
        if found:  # before the engine makes its own copies, and shards them
            for name, parameter in objective.named_parameters():
                parameter.data.copy_(found[f"parameter/{name}"].view_as(parameter))
        objective.to(processes.device)
        optimizer = adamw(dict(objective.named_parameters()), decayed(objective), config)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(first_step + step, total_steps)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine, *_ = deepspeed.initialize(
                model=objective,
                optimizer=optimizer,
                lr_scheduler=schedule,
                config=deepspeed_config(config, processes.world_size),
                dist_init_required=False,
            )
        self._gradients: SharedGradients | None = None
        if config.zero_stage == 0:
            # DeepSpeed would carry all gradients through its buckets once the backward pass is over, also
            # where there is nobody to add them to.
            self._engine.enable_backward_allreduce = False
            if processes.world_size > 1:
                self._gradients = SharedGradients(list(objective.parameters()), processes.world_size)
        limit_waiting(timedelta(minutes=config.timeout_minutes))
        self._adamw = optimizer
        if found:
            self._put_moments(found)

    def step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Learn from this process's scans of a step, or from one of the `training.accumulation` parts of
        them, of which the last moves the parameters.

        Returns the objective's value and its terms, detached; those of all parts and processes add up to
        those of the step.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            loss, terms = self._engine(batch)
            is_last = self._engine.is_gradient_accumulation_boundary()
            if self._gradients:
                self._gradients.begin(is_last=is_last)
            self._engine.backward(loss)
            if self._gradients and is_last:
                self._gradients.end()
            self._engine.step()
        return loss.detach() / batch.processes, terms

    def model_state(self) -> dict[str, torch.Tensor]:
        """The SA-AVAE's parameters in full precision on the host, gathered if they are sharded."""
        objective: Objective = self._engine.module
        if self._zero_stage == 3:
            with self._deepspeed.zero.GatheredParameters(list(objective.parameters())):
                return _on_host(objective.model)
        return _on_host(objective.model)

    def pieces(self) -> dict[str, Piece]:
        """What this process must keep so that training can go on elsewhere, on any number of processes.

        By "parameter/NAME", "exp_avg/NAME", "exp_avg_sq/NAME" and "step/NAME" (one number) pieces of the
        flattened float32 tensors; the pieces of all processes together are whole. At ZeRO stage 0 every
        process holds everything, and the first one alone speaks.
        """
        if self._zero_stage == 0 and self._rank:
            return {}
        held = {}
        for name, parameter in self._parameters():
            for key in (None, *MOMENTS):
                if piece := self._piece(parameter, key):
                    held[f"{key or 'parameter'}/{name}"] = piece
            steps = self._state_of(parameter).get("step")
            if steps is not None and self._rank == 0:
                held[f"step/{name}"] = Piece(0, steps.reshape(1))
        return held

    def sizes(self) -> dict[str, int]:
        """How many numbers each parameter has, by name."""
        return {name: self._numel(parameter) for name, parameter in self._parameters()}

    def train_mode(self, training: bool) -> None:
        self._engine.train(training)

    def close(self) -> None:
        self._engine.destroy()

    # -- where DeepSpeed keeps things --------------------------------------------------------------

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return iter(self._engine.module.named_parameters())

    def _numel(self, parameter: torch.nn.Parameter) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    def _flat(self) -> list[torch.Tensor]:
        """What AdamW steps from stage 1 on: this process's part of many parameters, end to end."""
        optimizer = self._engine.optimizer
        if self._zero_stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return list(optimizer.single_partition_of_fp32_groups)

    def _state_of(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """AdamW's state that counts the steps of a parameter; empty before its first one."""
        if self._zero_stage == 0:
            return dict(self._adamw.state.get(parameter, {}))
        return next((dict(self._adamw.state[flat]) for flat in self._flat()), {})

    def _piece(self, parameter: torch.nn.Parameter, key: str | None) -> Piece | None:
        """This process's piece of a parameter, or of one of its moments."""
        if self._zero_stage == 0:
            values = parameter.data if key is None else self._adamw.state.get(parameter, {}).get(key)
            return None if values is None else Piece(0, values.view(-1))
        if self._zero_stage == 3:
            optimizer = self._engine.optimizer
            values, _ = optimizer._get_fp32_opt_state_partition(parameter, True, key)
            start = self._rank * values.numel()  # the last one is filled up with zeros
            values = values.detach()[: max(0, self._numel(parameter) - start)]
            return Piece(start, values) if values.numel() else None
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return None
        # DeepSpeed's own view of the moments knows those of the first group of parameters only.
        flat = self._flat()[mapping.param_group_index]
        values = flat if key is None else self._adamw.state[flat][key]
        place = mapping.get_hp_fragment_address()
        return Piece(mapping.lp_fragment_address.start, values.narrow(0, place.start, place.numel).detach())

    def _put_moments(self, found: Mapping[str, torch.Tensor]) -> None:
        """Make AdamW's state as if it had taken the steps before."""
        named = dict(self._parameters())
        steps = {name: found[f"step/{name}"] for name in named if f"step/{name}" in found}
        if self._zero_stage == 0:
            stepped: list[tuple[torch.Tensor, torch.Tensor]] = [(named[n], steps[n]) for n in steps]
        else:
            most = max(steps.values(), key=float)
            stepped = [(flat, most) for flat in self._flat()]
        for tensor, count in stepped:
            moments = {key: torch.zeros_like(tensor) for key in MOMENTS}
            # A fused AdamW counts on the device.
            self._adamw.state[tensor] = {"step": count.reshape(()).clone().to(tensor.device), **moments}
        for name in steps:
            for key in MOMENTS:
                if piece := self._piece(named[name], key):
                    whole = found[f"{key}/{name}"].view(-1)
                    piece.values.copy_(whole[piece.start : piece.start + piece.values.numel()])


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """The DeepSpeed configuration that the settings imply."""
    return {
        "train_micro_batch_size_per_gpu": max(1, config.batch_size // world_size),
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _on_host(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().float().cpu().clone() for name, value in module.state_dict().items()}
