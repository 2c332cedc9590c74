"""The one place that speaks to DeepSpeed: an engine around the objective.

The DeepSpeed configuration is derived from the run's settings. Whatever DeepSpeed would assume by itself
and that changes results (it clips gradients at 1 unless told otherwise) is stated here.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from hpc_brainage.config import TrainingConfig
from hpc_brainage.training.distributed import Processes, import_deepspeed
from hpc_brainage.training.objective import Batch, Objective
from hpc_brainage.training.optimizer import adamw, cosine, decayed


class Engine:
    """Steps an objective, on one process or many, at any ZeRO stage."""

    def __init__(
        self, objective: Objective, config: TrainingConfig, processes: Processes, total_steps: int
    ) -> None:
        deepspeed = import_deepspeed(processes.device.type == "cuda")
        self._deepspeed = deepspeed
        self._zero_stage = config.zero_stage
        objective.to(processes.device)
        optimizer = adamw(dict(objective.named_parameters()), decayed(objective), config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, total_steps))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine, *_ = deepspeed.initialize(
                model=objective,
                optimizer=optimizer,
                lr_scheduler=schedule,
                config=deepspeed_config(config, processes.world_size),
                dist_init_required=False,
            )

    def step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One optimizer step; returns the objective's value and its terms, detached."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            loss, terms = self._engine(batch)
            self._engine.backward(loss)
            self._engine.step()
        return loss.detach() / batch.processes, terms

    def model_state(self) -> dict[str, torch.Tensor]:
        """The SA-AVAE's parameters in full precision on the host, gathered if they are sharded."""
        objective: Objective = self._engine.module
        if self._zero_stage == 3:
            with self._deepspeed.zero.GatheredParameters(list(objective.parameters())):
                return _on_host(objective.model)
        return _on_host(objective.model)

    def train_mode(self, training: bool) -> None:
        self._engine.train(training)

    def close(self) -> None:
        self._engine.destroy()


def deepspeed_config(config: TrainingConfig, world_size: int) -> dict[str, Any]:
    """The DeepSpeed configuration that the settings imply."""
    return {
        "train_micro_batch_size_per_gpu": max(1, config.batch_size // world_size),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _on_host(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().float().cpu().clone() for name, value in module.state_dict().items()}
