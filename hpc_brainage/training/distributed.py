"""Who else is training: the processes of a run, on one machine or many.

A launcher (SLURM's srun, torchrun, or nobody) says through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT who this process is. Without them it is alone, and trains by the very same code.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from hpc_brainage.errors import EnvironmentLacks, TrainingError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def word_of_the_first(self, value: float) -> float:
        """The first process's value, in every process; all of them must ask at the same point."""
        if self.world_size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' values, in every process."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values


def join_processes(device: str) -> Processes:
    """Join the run's processes through DeepSpeed (gloo on CPU, NCCL on GPUs).

    Parameters
    ----------
    device : "auto", "cpu" or "cuda".

    Raises
    ------
    TrainingError : only some of the launcher's variables are set.
    EnvironmentLacks : "cuda" was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks(
            "this machine shows no CUDA device",
            where="training.device = 'cuda'",
            hint="ask for a GPU node, or leave training.device at 'auto'",
        )
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    launched = _launched()
    deepspeed = import_deepspeed(use_cuda)
    backend = "nccl" if use_cuda else "gloo"
    if not torch.distributed.is_initialized():
        if not launched:  # alone: no port and no network
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    # DeepSpeed reads LOCAL_RANK at every turn.
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if use_cuda:
        torch.cuda.set_device(local_rank)
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), chosen)


def import_deepspeed(use_cuda: bool) -> Any:
    """DeepSpeed without its chatter and, on CPU, without a compiler.

    On CPU it would compile a shared-memory all-reduce on first use, which takes up to a minute and needs
    a C++ compiler; gloo serves these model sizes, so the operation is marked as not available.
    """
    if not use_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if not use_cuda:
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _launched() -> bool:
    """Whether a launcher has started this process among others; LOCAL_RANK by itself says nothing."""
    missing = [name for name in _VARIABLES if name not in os.environ]
    if set(missing) >= set(_VARIABLES) - {"LOCAL_RANK"}:
        return False
    if missing:
        raise TrainingError(
            "the launcher has set only some of its variables",
            where=f"environment: missing {', '.join(missing)}",
            expected="all of " + ", ".join(_VARIABLES) + ", or none of them",
        )
    return True
