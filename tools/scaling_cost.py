"""What training on many GPUs costs beside the arithmetic: computed, not measured.

    python tools/scaling_cost.py [--teraflops 30] [--latency 20]

Parameters and operations of each recipe's objective are counted on PyTorch's meta device; links and GPUs
are taken at their word. docs/scaling.md says what follows from the tables that this prints.

Seconds of a step on R processes, of B scans in all:

    compute(R)       = max(floor, ceil(B / R) * operations of a scan / operations in a second)
    communication(R) = v (R - 1) / R * 4 P / bandwidth + 2 (R - 1) * latency

P are parameters, four bytes each. v is 2 at ZeRO stages 0, 1 and 2: an all-reduce, or a reduce-scatter of
gradients and an all-gather of parameters. At stage 3 it is 3: parameters are gathered for the forward pass
and again for the backward pass. A ring passes each link once in each direction, so that it is as fast as
its slowest link, which is the network between nodes wherever there is more than one (Patarasuk and Yuan
2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations"). The two do not overlap.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from hpc_brainage.config import load_config
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.objective import Batch, Objective, step_counts

LINKS = {"25 Gbit/s": 25e9 / 8, "100": 100e9 / 8, "200": 200e9 / 8, "400": 400e9 / 8, "NVLink": 200e9}
"""Bytes in a second, in each direction. NVLink: what rings within a node of A100 reach, of 300 GB/s."""
RANKS = (1, 2, 4, 8, 16, 32, 64)
FLOOR = 5e-3
"""Seconds of a step that launches about a thousand operations, however small they are."""
ALL_REDUCE, STAGE_3 = 2, 3
VBM, QUASIRAW = (121, 145, 121), (182, 218, 182)
RECIPES: dict[str, tuple[str, tuple[str, ...], dict[str, int | tuple[int, int, int]]]] = {
    "ABIDE, tables": ("abide-multimodal", (), {"smri": 256, "fmri": 128}),
    "OpenBHB, region tables": ("openbhb-roi", (), {"smri": 512, "fmri": 256}),
    "OpenBHB, VBM, SFCN": ("openbhb-vbm", (), {"smri": VBM}),
    "OpenBHB, VBM, ResNet-18": ("openbhb-vbm", ("smri.encoder=resnet18_3d",), {"smri": VBM}),
    "OpenBHB, quasi-raw, SFCN": ("openbhb-quasiraw", (), {"smri": QUASIRAW}),
}


@dataclass(frozen=True)
class Recipe:
    """A recipe's parameters, scans of a step, and operations that a step spends on one of them."""

    parameters: int
    batch_size: int
    operations: float

    def compute(self, ranks: int, per_second: float, weak: bool = False) -> float:
        """Seconds of arithmetic in a step; with `weak` every process has a whole batch."""
        scans = self.batch_size if weak else math.ceil(self.batch_size / ranks)
        return max(FLOOR, scans * self.operations / per_second)

    def communication(
        self, ranks: int, bandwidth: float, latency: float, volumes: int = ALL_REDUCE
    ) -> float:
        """Seconds in which gradients, or parameters, are sent."""
        sent = volumes * (ranks - 1) / ranks * 4 * self.parameters
        return sent / bandwidth + 2 * (ranks - 1) * latency


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--teraflops", type=float, default=30.0, help="that a GPU reaches on these networks")
    words.add_argument("--latency", type=float, default=20.0, help="of a message, in microseconds")
    said = words.parse_args()
    per_second, latency = 1e12 * said.teraflops, 1e-6 * said.latency
    recipes = {name: counted(*how) for name, how in RECIPES.items()}
    print("| recipe | parameters | an all-reduce | operations of a scan | a step's arithmetic on 1 GPU |")
    print("|---|---|---|---|---|")
    for name, recipe in recipes.items():
        print(
            f"| {name} | {recipe.parameters:,} | {4e-6 * recipe.parameters:.1f} MB"
            f" | {1e-9 * recipe.operations:,.3g} G | {1e3 * recipe.compute(1, per_second):,.0f} ms |"
        )
    print(f"\nMilliseconds of the all-reduce on {RANKS[-1]} processes; at ZeRO stage 3 in brackets\n")
    print(f"| recipe | {' | '.join(LINKS)} |\n|---|{'---|' * len(LINKS)}")
    for name, recipe in recipes.items():
        cells = [
            " ({:.1f})".join(["{:.1f}", ""]).format(
                *(1e3 * recipe.communication(RANKS[-1], b, latency, v) for v in (ALL_REDUCE, STAGE_3))
            )
            for b in LINKS.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    for weak in (False, True):
        shared = "each process has a whole batch" if weak else "all processes share one batch"
        print(f"\nShare of a step that is arithmetic at 100 Gbit/s, per cent; {shared}\n")
        print(f"| recipe | {' | '.join(map(str, RANKS))} | communication exceeds arithmetic from |")
        print(f"|---|{'---|' * len(RANKS)}---|")
        for name, recipe in recipes.items():
            shares = {}
            for ranks in range(1, 1025):
                working = recipe.compute(ranks, per_second, weak)
                sending = recipe.communication(ranks, LINKS["100"], latency)
                shares[ranks] = working / (working + sending)
            over = next((ranks for ranks, share in shares.items() if share < 0.5), None)
            # Every process needs a scan of each step.
            cells = [
                f"{100 * shares[ranks]:.0f}" if weak or ranks <= recipe.batch_size else "-"
                for ranks in RANKS
            ]
            crossed = over is not None and (weak or over <= recipe.batch_size)
            print(f"| {name} | {' | '.join(cells)} | {over if crossed else 'never'} |")


def counted(
    recipe: str, settings: tuple[str, ...], widths: dict[str, int | tuple[int, int, int]]
) -> Recipe:
    """Count a recipe's parameters and operations, with people who have every modality."""
    config = load_config(Path("configs") / f"{recipe}.toml", settings)
    scans = 4
    with torch.device("meta"):
        branches = {}
        for role, width in widths.items():
            own = config.modality(role)
            what = {"components": width} if isinstance(width, int) else {"grid": width}
            branches[role] = BranchSpec(
                own.encoder, own.hidden, checkpointing=own.checkpointing, decoder=own.decoder, **what
            )
        objective = Objective(SAAVAE(branches, config.model, config.loss.age_form), config)
        present = {role: torch.ones(scans, dtype=torch.bool) for role in branches}
        shapes = {
            role: (spec.components,) if spec.grid is None else spec.grid for role, spec in branches.items()
        }
        sex = torch.zeros(scans, dtype=torch.int64)
        batch = Batch(
            x={role: torch.empty(scans, *shape) for role, shape in shapes.items()},
            present=present,
            sex=sex,
            age=torch.zeros(scans),
            scan=torch.arange(scans),
            counts=dict.fromkeys(step_counts(present, sex), scans),
            seed=0,
            step=0,
            progress=0.5,
        )
        with FlopCounterMode(display=False) as counter:
            objective(batch)[0].backward()
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    return Recipe(parameters, config.training.batch_size, counter.get_total_flops() / scans)


if __name__ == "__main__":
    main()
