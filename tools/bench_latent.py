"""What the many small operations of a training step take: reference against one kernel.

    PYTHONPATH=. python tools/bench_latent.py [--device cuda] [--json FILE]

The latent block and the discriminator's terms, forward and backward, and the noise of a step. Sizes are of
the recipe for tables: what counts is how many operations there are. Ways take turns, medians over rounds
after a warm-up. On a GPU also how many kernels each way launches, and how far its results are from double
precision on the same inputs. Needs torch alone, and on a GPU Triton, which comes with it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hpc_brainage.losses.adversarial_logits import logit_terms
from hpc_brainage.losses.backends import Wish, using
from hpc_brainage.losses.latent_block import LatentForm, latent_block
from hpc_brainage.model.noise import Draws

SIZES = ((64, 16, 16), (256, 30, 30), (1024, 64, 64))
"""Scans in a step, shared and distinct width."""

Way = Callable[[], list[torch.Tensor]]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    words.add_argument("--rounds", type=int, default=100)
    words.add_argument("--json", type=Path)
    asked = words.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else platform.processor()
    print(f"{name}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    found = []
    fused: Wish = "triton" if asked.device == "cuda" else "tiled"
    for scans, shared, distinct in SIZES:
        for what, make in (("latent block", latent_way), ("discriminator's terms", logits_way)):
            way = make(scans, shared, distinct, torch.float32, asked.device)
            exact = make(scans, shared, distinct, torch.float64, asked.device)
            found.append(compared(f"{what} {scans} x {shared}+{distinct}", way, exact, fused, asked))
    draws = torch.arange(256, device=asked.device)
    median = timed({"": lambda: [Draws(draws, 7, 3).normals(32, (0, 1))]}, asked)[""]
    print(f"noise of 2 x 256 x 32: {median:.0f} us")
    found.append({"what": "noise", "us": median})
    if asked.json:
        asked.json.write_text(json.dumps({"machine": name, "torch": torch.__version__, "rows": found}))


def compared(
    what: str, way: Way, exact: Way, fused: Wish, asked: argparse.Namespace
) -> dict[str, float | str]:
    def as_wished(wish: Wish) -> Way:
        def run() -> list[torch.Tensor]:
            with using(wish):
                return way()

        return run

    ways = {"reference": as_wished("reference"), fused: as_wished(fused)}
    medians = timed(ways, asked)
    with using("reference"):
        truth = exact()
    row: dict[str, float | str] = {"what": what}
    for name, run in ways.items():
        error = max(
            float((one.double() - other).norm() / other.norm().clamp(min=1e-30))
            for one, other in zip(run(), truth, strict=True)
        )
        row |= {f"{name} us": medians[name], f"{name} error": error}
        if asked.device == "cuda":
            row[f"{name} kernels"] = launches(run)
    print(", ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value)
                    for key, value in row.items()), flush=True)  # fmt: skip
    return row


def timed(ways: dict[str, Way], asked: argparse.Namespace) -> dict[str, float]:
    """Median of each way in microseconds, host and device together."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(20 + asked.rounds):
        for name, way in ways.items():
            if asked.device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            way()
            if asked.device == "cuda":
                torch.cuda.synchronize()
            if number >= 20:
                taken[name].append(1e6 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def launches(way: Way) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        way()
        torch.cuda.synchronize()
    return float(sum(event.count for event in profile.key_averages()))


def latent_way(scans: int, shared: int, distinct: int, dtype: torch.dtype, device: str) -> Way:
    draw = torch.Generator().manual_seed(0)
    gaussians = torch.randn(4, scans, shared + distinct, generator=draw).to(device, dtype)
    leaves = [one.clone().requires_grad_() for one in gaussians]
    present = list((torch.rand(2, scans, generator=draw) > 0.1).to(device))
    counts = [int(mask.sum()) for mask in (*present, present[0] & present[1])]
    sex = torch.randint(-1, 2, (scans,), generator=draw).to(device)
    noise = Draws(torch.arange(scans, device=device), 7, 3)
    form = LatentForm(shared, distinct, (0, 1), 8, subsets=((True, True), (True, False), (False, True)))

    def way() -> list[torch.Tensor]:
        made = latent_block(leaves[:2], leaves[2:], present, sex, noise, counts, form)
        loss = made.kl + made.ratio + made.z.square().sum() + made.joined.square().sum()
        codes = [made.z.detach(), made.joined.detach(), made.kl.detach(), made.ratio.detach()]
        return [*codes, *torch.autograd.grad(loss, leaves)]

    return way


def logits_way(scans: int, shared: int, distinct: int, dtype: torch.dtype, device: str) -> Way:
    draw = torch.Generator().manual_seed(0)
    both = torch.randn(2, 2, scans, generator=draw).to(device, dtype)
    fake, real = (one.clone().requires_grad_() for one in both)
    present = list((torch.rand(2, scans, generator=draw) > 0.1).to(device))
    counts = [int(mask.sum()) for mask in present]

    def way() -> list[torch.Tensor]:
        terms = logit_terms(fake, real, present, counts)
        return [*(term.detach() for term in terms), *torch.autograd.grad(terms[0], (fake, real))]

    return way


if __name__ == "__main__":
    main()
