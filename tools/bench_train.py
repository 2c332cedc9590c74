"""What a training step takes, part by part, beside the way it is usually written.

    python tools/bench_train.py [--store STORE] [--wide 519945] [--device cuda] [--json FILE]
    torchrun --nproc-per-node 2 tools/bench_train.py --wide 0

Two models are stepped: that of `configs/abide-multimodal.toml`, and a wide one without components, of so
many sMRI features and 64 hidden units. The usual way is plain PyTorch: a DataLoader over people, losses as
they are written down, one AdamW over all parameters. Ours is the engine that `brainage train` uses, with
the losses that `losses.backends` chooses. Both take the same steps on the same people, in turn, round by
round; medians are printed. With a store (its people, its features) members of the recipe are trained
stacked as well, as `brainage train` does it with tables on one process; a step's time is then that of all
members by their number.

On a CPU eager forms depend on the allocator more than on anything else: by default each large temporary is
mapped anew. `--keep-memory` starts over with an allocator that keeps what was freed, for both sides.
Simulated people: 15 in 100 lack fMRI.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
RECIPE = Path("configs/abide-multimodal.toml")
PARTS = ("data", "networks", "losses", "backward", "communication", "optimizer")
PEOPLE = 512


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--store", type=Path, help="with the people of the recipe, to train stacked as well")
    words.add_argument("--wide", type=int, default=519_945, help="features of the wide model; 0 for none")
    words.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--steps", type=int, default=20, help="steps of the recipe's model in a round")
    words.add_argument("--wide-steps", type=int, default=3)
    words.add_argument("--members", type=int, default=50, help="members that are trained stacked")
    words.add_argument("--keep-memory", action="store_true")
    words.add_argument("--json", type=Path)
    said = words.parse_args()
    if said.keep_memory and any(os.environ.get(name) != value for name, value in KEEPS_MEMORY.items()):
        os.environ |= KEEPS_MEMORY
        os.execv(sys.executable, [sys.executable, *sys.argv])

    import torch

    from hpc_brainage.config import load_config
    from hpc_brainage.training.distributed import join_processes

    processes = join_processes(said.device)
    recipe = load_config(RECIPE, [f"training.device={said.device}"])
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if said.device == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "processes": processes.world_size,
        "torch": torch.__version__,
        "allocator": "keeps memory" if said.keep_memory else "as it is",
    }
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    found["recipe"] = _compare("the recipe", recipe, (256, 128), said.rounds, said.steps, processes)
    if said.store:
        found["stacked"] = _stacked(said.store, recipe, said.members, processes)
        print(f"  ours, {said.members} members stacked: {1e3 * found['stacked']:.2f} ms a member's step")
    if said.wide:
        narrow = [f"{role}.{key}" for role in ("smri", "fmri") for key in ("components=0", "hidden=[64]")]
        wide = load_config(RECIPE, [*narrow, f"training.device={said.device}"])
        title = f"{said.wide:,} features, 64 hidden units"
        shape = (said.wide, 4005)
        found["wide"] = _compare(title, wide, shape, said.rounds, said.wide_steps, processes)
    if said.json and processes.is_first:
        said.json.write_text(json.dumps(found, indent=1) + "\n")


class Clock:
    """Seconds of each part of some steps."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._depth = 0

    @contextmanager
    def __call__(self, part: str, outer: str | None = None) -> Iterator[None]:
        """Time a part; what it takes within another part, `outer`, is not that one's."""
        self.wait()
        started = time.perf_counter()
        yield
        self.wait()
        taken = time.perf_counter() - started
        self.seconds[part] += taken
        if outer:
            self.seconds[outer] -= taken

    def networks_of(self, model: Any) -> None:
        """Time the networks within the forward pass: all linear layers, norms, and what is between."""
        from hpc_brainage.model.networks import MLP, Discriminator, Encoder
        from hpc_brainage.model.regressor import Regressor

        kinds = (MLP, Encoder, Discriminator, Regressor)
        began = [0.0]

        def before(*_: Any) -> None:
            self._depth += 1
            if self._depth == 1:
                self.wait()
                began[0] = time.perf_counter()

        def after(*_: Any) -> None:
            self._depth -= 1
            if self._depth == 0:
                self.wait()
                taken = time.perf_counter() - began[0]
                self.seconds["networks"] += taken
                self.seconds["losses"] -= taken

        last_layers = [getattr(decoder, "out", None) for decoder in model.model.decoders.values()]
        for module in model.modules():
            if isinstance(module, kinds) or any(module is one for one in last_layers):
                module.register_forward_pre_hook(before)
                module.register_forward_hook(after)

    def wrap(self, thing: Any, name: str, part: str, outer: str | None = None) -> None:
        """Time a method of an object."""
        inner = getattr(thing, name)

        def timed(*args: Any, **more: Any) -> Any:
            with self(part, outer):
                return inner(*args, **more)

        setattr(thing, name, timed)


def _compare(
    title: str, config: Any, widths: tuple[int, int], rounds: int, steps: int, processes: Any
) -> dict[str, Any]:
    """Print and return milliseconds of a step by part, for the usual way and ours."""
    import torch

    sides = {"usual": _Usual(config, widths, processes), "ours": _Ours(config, widths, processes)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):  # the first warms up
        for name, side in sides.items():
            if processes.world_size > 1:
                torch.distributed.barrier()
            side.clock.seconds = dict.fromkeys(PARTS, 0.0)
            started = time.perf_counter()
            side.run(steps)
            side.clock.wait()
            total = time.perf_counter() - started
            if number:
                one = {"step": total, **side.clock.seconds}
                taken[name].append({part: 1e3 * value / steps for part, value in one.items()})
    ratio = statistics.median(
        a["step"] / b["step"] for a, b in zip(taken["usual"], taken["ours"], strict=True)
    )
    found: dict[str, Any] = {"times": round(ratio, 2)}
    for name, rows in taken.items():
        found[name] = {part: round(statistics.median(row[part] for row in rows), 3) for part in rows[0]}
    if processes.is_first:
        print(f"\n{title}, {widths[0]:,} + {widths[1]:,} numbers a scan; ms a step")
        print(f"  {'':8s}" + "".join(f"{part:>14s}" for part in ("step", *PARTS)))
        for name in sides:
            print(f"  {name:8s}" + "".join(f"{found[name][part]:14.2f}" for part in ("step", *PARTS)))
        print(f"  times as fast: {ratio:.2f}")
    return found


class _People:
    """Simulated people as a table: what the networks take, presence, sex and age."""

    def __init__(self, widths: Sequence[int], device: Any, many: int) -> None:
        import torch

        draw = torch.Generator().manual_seed(0)
        self.x = {
            role: torch.randn((many, width), generator=draw)
            for role, width in zip(("smri", "fmri"), widths, strict=True)
        }
        self.present = {
            "smri": torch.ones(many, dtype=torch.bool),
            "fmri": torch.rand(many, generator=draw) > 0.15,
        }
        self.sex = torch.randint(0, 2, (many,), generator=draw)
        self.age = torch.randn(many, generator=draw)
        self.device = device

    def batch(self, rows: Any, x: dict[str, Any], step: int, processes: int, whole: Any) -> Any:
        from hpc_brainage.training.objective import Batch, step_counts

        present = {role: here[rows].to(self.device) for role, here in self.present.items()}
        all_present = {role: here[whole] for role, here in self.present.items()}
        counts = {name: int(n) for name, n in step_counts(all_present, self.sex[whole]).items()}
        return Batch(
            x={role: value.to(self.device) for role, value in x.items()},
            present=present,
            sex=self.sex[rows].to(self.device),
            age=self.age[rows].to(self.device),
            scan=rows.to(self.device),
            counts=counts,
            seed=1,
            step=step,
            progress=0.5,
            processes=processes,
        )


class _Side:
    """One way to step a model."""

    def __init__(self, config: Any, widths: tuple[int, int], processes: Any) -> None:
        import torch

        from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
        from hpc_brainage.training.objective import Objective

        self.config, self.processes = config, processes
        many = PEOPLE if max(widths) < 100_000 else 2 * config.training.batch_size
        self.people = _People(widths, processes.device, many)
        torch.manual_seed(0)
        branches = {
            role: BranchSpec("mlp", tuple(config.modality(role).hidden), components=width)
            for role, width in zip(("smri", "fmri"), widths, strict=True)
        }
        self.objective = Objective(SAAVAE(branches, config.model, config.loss.age_form), config)
        self.objective.to(processes.device)
        cuda = processes.device.type == "cuda"
        self.clock = Clock(torch.cuda.synchronize if cuda else lambda: None)
        self.taken = 0

    def rows(self) -> Any:
        """Scans of the next step, on all processes."""
        import torch

        draw = torch.Generator().manual_seed(self.taken)
        return torch.randperm(len(self.people.age), generator=draw)[: self.config.training.batch_size]

    @property
    def mine(self) -> slice:
        return slice(self.processes.rank, None, self.processes.world_size)


class _Usual(_Side):
    """Plain PyTorch, one scan after the other out of a DataLoader; DistributedDataParallel on several."""

    def __init__(self, config: Any, widths: tuple[int, int], processes: Any) -> None:
        super().__init__(config, widths, processes)
        import torch

        self.model: Any = self.objective
        if processes.world_size > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(
                self.objective, find_unused_parameters=True
            )
        self.optimizer = torch.optim.AdamW(
            self.objective.parameters(),
            lr=config.training.learning_rate,
            weight_decay=config.training.weight_decay,
        )
        self.clock.networks_of(self.objective)

    def run(self, steps: int) -> None:
        from torch.utils.data import DataLoader, TensorDataset

        from hpc_brainage.losses import backends

        order = []
        for _ in range(steps):
            order.append(self.rows()[self.mine].tolist())
            self.taken += 1
        self.taken -= steps
        data = TensorDataset(*self.people.x.values())
        loader = iter(DataLoader(data, batch_sampler=order))
        with backends.using("reference"):
            for own in order:
                self._step(loader, own)

    def _step(self, loader: Iterator[Any], own: list[int]) -> None:
        import torch

        with self.clock("data"):
            x = dict(zip(self.people.x, next(loader), strict=True))
            batch = self.people.batch(
                torch.tensor(own), x, self.taken, self.processes.world_size, self.rows()
            )
        with self.clock("losses"):
            loss, _ = self.model(batch)
        with self.clock("backward"):
            loss.backward()
        with self.clock("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.taken += 1


class _Ours(_Side):
    """The engine of `brainage train`."""

    def __init__(self, config: Any, widths: tuple[int, int], processes: Any) -> None:
        super().__init__(config, widths, processes)
        from hpc_brainage.training.engine import Engine

        self.engine = Engine(self.objective, config.training, processes, total_steps=10**6)
        self.clock.networks_of(self.objective)
        inner = self.engine._engine
        self.clock.wrap(inner, "forward", "losses")
        self.clock.wrap(inner, "backward", "backward")
        self.clock.wrap(inner, "allreduce_gradients", "communication", outer="backward")
        self.clock.wrap(inner, "step", "optimizer")
        self.engine.train_mode(True)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            with self.clock("data"):
                whole = self.rows()
                own = whole[self.mine]
                x = {role: value[own] for role, value in self.people.x.items()}
                batch = self.people.batch(own, x, self.taken, self.processes.world_size, whole)
            self.engine.step(batch)
            self.taken += 1


def _stacked(store: Path, config: Any, members: int, processes: Any) -> float:
    """Median seconds of a member's step where all are trained in one pass, front ends left out."""
    import numpy as np

    from hpc_brainage.store.reader import Store
    from hpc_brainage.training.data import load_training_data
    from hpc_brainage.training.folds import assign_folds
    from hpc_brainage.training.loop import MemberTask
    from hpc_brainage.training.stacked import train_stacked

    settings = config.training.model_copy(update={"epochs": 4})
    config = config.model_copy(update={"training": settings})
    data = load_training_data(Store.open(store), config)
    fold = assign_folds(data.scans, data.availability, 5, 0)
    tasks = [MemberTask(k, np.flatnonzero(fold != k % 5), k) for k in range(members)]
    records: list[dict[str, Any]] = []
    for _ in train_stacked([data] * members, tasks, config, processes.device, records.append):
        pass
    first = [record for record in records if record["member"] == 0]
    steps = [b["step"] - a["step"] for a, b in pairwise(first)]
    return statistics.median(
        record["seconds"] / taken for record, taken in zip(first[1:], steps, strict=True)
    )


if __name__ == "__main__":
    main()
