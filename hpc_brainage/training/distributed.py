"""Who else is training: the processes of a run, on one machine or many.

A launcher (SLURM's srun, torchrun, or nobody) says through RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT who this process is. Without them it is alone, and trains by the very same code.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from hpc_brainage.errors import BrainAgeError, EnvironmentLacks, TrainingError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(minutes=10)
_LOST = re.compile(
    r"gloo|nccl|distbackenderror|distnetworkerror|diststoreerror"
    r"|connection (closed|re)|broken pipe|timed out",
    re.I,
)
"""What gloo, NCCL and torch's store say of a process that does not answer."""


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
        return self.words_of_the_first([value])[0]

    def words_of_the_first(self, values: Sequence[float]) -> list[float]:
        """The first process's values, as many as each process brings, in every process."""
        if self.world_size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return told.tolist()

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' values, in every process."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gathered(self, values: torch.Tensor) -> list[list[float]]:
        """Each process's values (n,), in order of their ranks, in every process."""
        rows = values.new_zeros((self.world_size, len(values)))
        rows[self.rank] = values
        return self.summed(rows).tolist()


class LostProcess(TrainingError):  # noqa: N818 - says what has happened
    """Another process of the run has ended, or does not answer; the reason stands in its log."""


def tells_of_a_loss(error: Exception) -> bool:
    """Whether an error only says that another process of the run is gone: that is no reason of its own."""
    if isinstance(error, BrainAgeError):
        return isinstance(error, LostProcess)
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError | OSError) and _LOST.search(said) is not None


@contextmanager
def others_may_be_lost(processes: Processes) -> Iterator[None]:
    """Say in the user's words when the others cannot be reached any more.

    Raises
    ------
    LostProcess : torch.distributed says so.
    """
    try:
        yield
    except BrainAgeError:
        raise
    except RuntimeError as problem:
        if processes.world_size == 1 or not tells_of_a_loss(problem):
            raise
        raise LostProcess(
            "another process of the run has ended or does not answer",
            where=f"rank {processes.rank} of {processes.world_size}",
            hint="the reason stands in that process's log; the same command goes on from the last"
            " checkpoint",
        ) from problem


def join_processes(device: str, timeout: timedelta = TIMEOUT) -> Processes:
    """Join the run's processes through DeepSpeed (gloo on CPU, NCCL on GPUs).

    Parameters
    ----------
    device : "auto", "cpu" or "cuda".
    timeout : how long the processes wait for one another before they give up.

    Raises
    ------
    TrainingError : only some of the launcher's variables are set.
    EnvironmentLacks : "cuda" was asked for and there is none, or fewer GPUs than processes on this node.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks(
            "this machine shows no CUDA device",
            where="training.device = 'cuda'",
            hint="ask for a GPU node, or leave training.device at 'auto'",
        )
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    launched = _launched()
    # DeepSpeed reads LOCAL_RANK at every turn.
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if use_cuda and local_rank >= (devices := torch.cuda.device_count()):
        raise EnvironmentLacks(
            f"process {local_rank + 1} of this node has no GPU of its own",
            where=f"LOCAL_RANK={local_rank}",
            expected=f"at most {devices} processes on this node",
            hint="start fewer processes, or --set training.device=cpu",
        )
    deepspeed = import_deepspeed(use_cuda)
    backend = "nccl" if use_cuda else "gloo"
    if not torch.distributed.is_initialized():
        if not launched:  # alone: no port and no network
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        deepspeed.init_distributed(
            dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout
        )
    if use_cuda:
        torch.cuda.set_device(local_rank)
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), chosen)


def limit_waiting(timeout: timedelta) -> None:
    """How long the processes wait for one another in any of their groups.

    DeepSpeed makes groups of its own, to which the time that it was given does not pass on: a process that
    hangs would hold the others for half an hour.
    """
    groups = torch.distributed.distributed_c10d
    for group in groups._world.pg_map:
        groups._set_pg_timeout(timeout, group)


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
