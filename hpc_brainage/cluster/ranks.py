"""What a process of a run has to know before torch is imported: which one it is, and where the others are.

SLURM's srun says so in words of its own, `brainage train --cluster local` and torchrun in torch's.
Afterwards the environment says the same everywhere.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from hpc_brainage.cluster.rendezvous import own_address, reserve_port
from hpc_brainage.cluster.starts import Start

START = "BRAINAGE_START"
"""Environment variable: the folder of this start of the job; see `starts`."""
SCRATCH = "BRAINAGE_SCRATCH"
"""Environment variable: a folder on each node's own disk."""
INTERFACE = "BRAINAGE_INTERFACE"
"""Environment variable: the network interface between the nodes, where one was named."""
_OF_SRUN = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class Joined:
    """A process that knows its place; None of a start that nobody keeps a folder of."""

    rank: int
    start: Start | None
    port: socket.socket | None = None
    """Keeps rank 0's port for torch."""


def started() -> tuple[int, Start | None]:
    """Which process this is, and the start of the job that it belongs to; None where nobody keeps one."""
    of_srun = os.environ.get("SLURM_PROCID", "0") if "SLURM_STEP_ID" in os.environ else "0"
    folder = os.environ.get(START)
    return int(os.environ.get("RANK", of_srun)), Start(Path(folder)) if folder else None


def join() -> Joined:
    """Find out which process this is, meet the others, and set the environment for torch.

    A process that torchrun or nobody started finds everything as it should be already.

    Raises
    ------
    TrainingError : rank 0 does not come; or, in rank 0, the job was started again and again for nothing.
    EnvironmentLacks : there is no free port, or no such interface as was named.
    """
    keep_caches_on_this_node()
    if "SLURM_STEP_ID" in os.environ and "RANK" not in os.environ:
        for name, word in _OF_SRUN.items():
            os.environ[name] = os.environ[word]
        _only_devices_that_are_there()
    rank, start = started()
    if start is None:
        return Joined(rank, None)
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    if interface := os.environ.get(INTERFACE):
        os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    port = None
    if rank == 0:
        start.note()
        number, port = reserve_port(start.job)
        start.meet_here(own_address(interface), number)
    address, number = start.meeting()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(number)}
    return Joined(rank, start, port)


def keep_caches_on_this_node() -> None:
    """Let kernels be compiled into a folder of this node: on a shared disk, nodes spoil each other's."""
    named = os.environ.get(SCRATCH) or os.environ.get("TMPDIR") or "/tmp"
    folder = Path(os.path.expandvars(named)) / f"brainage-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    if folder.stat().st_uid != os.getuid():  # what is compiled there is run: it must be nobody else's
        return
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(folder / "torch-extensions"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))


def _only_devices_that_are_there() -> None:
    """Where SLURM shows each process only its own GPU, that one is device 0, whatever the local rank."""
    if shown := os.environ.get("CUDA_VISIBLE_DEVICES"):
        devices = len(shown.split(","))
        os.environ["LOCAL_RANK"] = str(int(os.environ["LOCAL_RANK"]) % devices)
