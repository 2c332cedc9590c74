"""A step on several processes: ours beside plain torch DDP and beside DeepSpeed as it comes.

    python tools/bench_scaling.py [--worlds 1,2,4] [--weak] [--rounds 5] [--steps 20] [--json FILE]

All three step the same objective on the same simulated people, in turn, round by round, in the same
processes; medians over the rounds are printed, of the slowest process. Ours is the engine of `brainage
train` with what watches over it: the agreement on stops after each step. DDP is
`torch.nn.parallel.DistributedDataParallel` with one fused AdamW. DeepSpeed as it comes has its AdamW and
all its defaults. With --weak each process has a whole batch, without it they share one.

Where there are fewer free cores than processes this says what a step costs beside the arithmetic, and
nothing about scaling.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

RECIPE = Path("configs/abide-multimodal.toml")
COMPONENTS = {"smri": 128, "fmri": 128}
WAYS = ("ours", "DDP", "DeepSpeed as it comes")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--worlds", default="1,2", help="numbers of processes")
    words.add_argument("--weak", action="store_true", help="a whole batch for each process")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--steps", type=int, default=20, help="of each way in a round")
    words.add_argument("--json", type=Path)
    said = words.parse_args()
    if "RANK" in os.environ:
        measure(said)
        return
    found = {}
    for world in map(int, said.worlds.split(",")):
        found[world] = launch(world, said)
        ours, ddp, naive = (found[world][way] for way in WAYS)
        print(
            f"{world} processes: ours {ours:.2f} ms, DDP {ddp:.2f} ms ({ours / ddp:.2f}),"
            f" DeepSpeed as it comes {naive:.2f} ms ({ours / naive:.2f});"
            f" the agreement on stops takes {found[world]['agreement']:.3f} ms of ours",
            flush=True,
        )
    if said.json:
        said.json.write_text(json.dumps(found, indent=2) + "\n")


def launch(world: int, said: argparse.Namespace) -> dict[str, float]:
    """Measure on so many processes: milliseconds a step, by way."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        result = Path(folder) / "result.json"
        words = ["--rounds", str(said.rounds), "--steps", str(said.steps), "--json", str(result)]
        processes = []
        for rank in range(world):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, *words, *(["--weak"] if said.weak else [])]
            processes.append(subprocess.Popen(command, env=os.environ | place))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit("a process has failed")
        measured: dict[str, float] = json.loads(result.read_text())
        return measured


def measure(said: argparse.Namespace) -> None:
    """One process's part: the rounds of all ways."""
    import torch

    from hpc_brainage.config import load_config
    from hpc_brainage.training.distributed import join_processes
    from hpc_brainage.training.stop import Agreement, Wish

    config = load_config(RECIPE)
    processes = join_processes("cpu")
    agreement = Agreement(processes, timedelta(minutes=5))
    batch_size = config.training.batch_size * (processes.world_size if said.weak else 1)
    batches = [simulated(step, batch_size, processes) for step in range(said.steps)]
    ways = dict(zip(WAYS, steppers(config, processes, agreement), strict=True))
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(said.rounds + 1):  # the first one warms up
        for way, step in ways.items():
            agreement.meet()
            started = time.perf_counter()
            for batch in batches:
                step(batch)
            agreement.meet()
            if number:
                times[way].append(1e3 * (time.perf_counter() - started) / said.steps)
    started = time.perf_counter()
    for _ in range(200):
        agreement.after_step(Wish.GO_ON)
    agreement.meet()
    found = {way: statistics.median(rounds) for way, rounds in times.items()}
    found["agreement"] = 1e3 * (time.perf_counter() - started) / 200
    if processes.is_first:
        said.json.write_text(json.dumps(found))
    torch.distributed.barrier()


def steppers(config: Any, processes: Any, agreement: Any) -> tuple[Callable[[Any], None], ...]:
    """What takes a step of a batch, in the order of `WAYS`."""
    import torch

    from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
    from hpc_brainage.training.distributed import import_deepspeed
    from hpc_brainage.training.engine import Engine
    from hpc_brainage.training.objective import Objective
    from hpc_brainage.training.stop import Wish

    torch.manual_seed(0)
    branches = {
        role: BranchSpec("mlp", config.modality(role).hidden, components=width)
        for role, width in COMPONENTS.items()
    }
    objective = Objective(SAAVAE(branches, config.model), config)
    for_ddp, for_naive = deepcopy(objective), deepcopy(objective)
    engine = Engine(objective, config.training, processes, 10_000)
    engine.train_mode(True)

    def ours(batch: Any) -> None:
        engine.step(batch)
        agreement.after_step(Wish.GO_ON)

    wrapped: torch.nn.Module = for_ddp
    if processes.world_size > 1:
        wrapped = torch.nn.parallel.DistributedDataParallel(for_ddp)
    optimizer = torch.optim.AdamW(for_ddp.parameters(), lr=1e-3, fused=True)

    def ddp(batch: Any) -> None:
        optimizer.zero_grad()
        loss, _ = wrapped(batch)
        loss.backward()
        optimizer.step()

    deepspeed = import_deepspeed(use_cuda=False)
    adamw = {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}
    naive_engine, *_ = deepspeed.initialize(
        model=for_naive,
        model_parameters=list(for_naive.parameters()),
        config={"train_micro_batch_size_per_gpu": 1, "optimizer": adamw},
        dist_init_required=False,
    )

    def naive(batch: Any) -> None:
        loss, _ = naive_engine(batch)
        naive_engine.backward(loss)
        naive_engine.step()

    return ours, ddp, naive


def simulated(step: int, size: int, processes: Any) -> Any:
    """This process's people of a step; 15 in 100 lack fMRI."""
    import torch

    from hpc_brainage.training.objective import Batch, step_counts

    draw = torch.Generator().manual_seed(step)
    own = slice(processes.rank, None, processes.world_size)
    x = {role: torch.randn(size, width, generator=draw) for role, width in COMPONENTS.items()}
    present = {
        "smri": torch.ones(size, dtype=torch.bool),
        "fmri": torch.rand(size, generator=draw) > 0.15,
    }
    sex = torch.arange(size) % 2
    counts = {name: int(count) for name, count in step_counts(present, sex).items()}
    return Batch(
        x={role: value[own] for role, value in x.items()},
        present={role: mask[own] for role, mask in present.items()},
        sex=sex[own],
        age=torch.randn(size, generator=draw)[own],
        scan=(torch.arange(size) + size * step)[own],
        counts=counts,
        seed=5,
        step=step,
        progress=0.5,
        processes=processes.world_size,
    )


if __name__ == "__main__":
    main()
