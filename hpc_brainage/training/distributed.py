"""Who else is training: the processes of a run, on one machine or many.

A launcher (SLURM's srun, torchrun, or nobody) says through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT who this process is. Without them it is alone, and trains by the very same code.
"""

from __future__ import annotations

import logging
import os
import socket
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
    _complete_environment()
    deepspeed = import_deepspeed(use_cuda)
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if use_cuda else "gloo", auto_mpi_discovery=False, verbose=False
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    if use_cuda:
        torch.cuda.set_device(local_rank)
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), chosen)


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


def _complete_environment() -> None:
    """Make a process that nobody launched a run of one."""
    given = [name for name in _VARIABLES if name in os.environ]
    if not given:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = ("0", "1", "0", "127.0.0.1", str(port))
        os.environ.update(dict(zip(_VARIABLES, alone, strict=True)))
    elif len(given) < len(_VARIABLES):
        missing = sorted(set(_VARIABLES) - set(given))
        raise TrainingError(
            "the launcher has set only some of its variables",
            where=f"environment: missing {', '.join(missing)}",
            expected="all of " + ", ".join(_VARIABLES) + ", or none of them",
        )
