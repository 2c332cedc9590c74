"""What the reconstruction losses take, each beside the ways of writing them in plain torch.

    PYTHONPATH=. python tools/bench_losses.py [--device cuda] [--json FILE]
    PYTHONPATH=. python tools/bench_losses.py --shapes 64x4005,64x19900 --keep-memory

Forward and backward of K reconstructions against one target: three eager forms, torch.compile of the first
of them, `masked_multi_mse`, and an autograd function that computes nothing, which is the least that any
fused form can take; then a last layer with its loss: eager, torch.compile, `linear_multi_mse`. All ways
take turns, round by round, with the caches flushed before each; medians over the rounds after the warm-up.
Bytes are those that must be moved at least: each reconstruction and the target read, each gradient
written. Their rate is set against a copy's, measured in the same rounds. Needs torch alone, and on a GPU
Triton, which comes with it.

Eager forms on a CPU depend on the allocator more than on anything else: by default each large temporary is
mapped anew. `--keep-memory` starts over with an allocator that keeps what was freed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from hpc_brainage.losses import backends
from hpc_brainage.losses.gradient_memory import free_gradient_memory, gradient_like
from hpc_brainage.losses.linear_mse import linear_multi_mse
from hpc_brainage.losses.multi_mse import masked_multi_mse

KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
SHAPES = "64x4005,64x19900,256x55278,8x2122945,64x519945"
LAYERS = "64x4005x64,256x55278x128,64x519945x64"
FLUSHED = 256 << 20
"""Bytes that are written between two measurements: more than any cache holds."""

Way = Callable[[], object]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    words.add_argument("--shapes", help="scans x features, with commas; '' for none")
    words.add_argument("--layers", default=LAYERS, help="scans x features x hidden units; '' for none")
    words.add_argument("--recons", type=int, default=2, help="reconstructions of one target")
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--warm-up", type=int, default=20)
    words.add_argument("--keep-memory", action="store_true")
    words.add_argument("--json", type=Path)
    said = words.parse_args()
    if said.keep_memory and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPS_MEMORY})
    gpu = said.device == "cuda"
    shapes = said.shapes if said.shapes is not None else SHAPES + (",64x3659572" if gpu else "")
    torch._dynamo.config.recompile_limit = 64
    found = {"machine": machine(said), "rows": []}
    print(json.dumps(found["machine"]), flush=True)
    print(
        f"{'':20s} {'':32s} {'ms':>9s} {'of naive':>9s} {'of compile':>10s} {'GB/s':>7s} "
        f"{'of copy':>8s} {'extra MB':>9s}"
    )
    for words_of in (shapes, said.layers):
        for shape in filter(None, words_of.split(",")):
            sizes = tuple(map(int, shape.split("x")))
            ways, least = (losses if len(sizes) == 2 else layers)(*sizes, said.recons, said.device)
            found["rows"] += measured(shape, ways, least, said)
            del ways
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()
            if said.json:
                said.json.write_text(json.dumps(found, indent=1) + "\n")


def machine(said: argparse.Namespace) -> dict:
    gpu = said.device == "cuda"
    with backends.using("auto"):
        form = backends.choose(torch.empty(1, device=said.device), backends.WORTH_COMPILING)
    try:
        import triton

        with_triton = triton.__version__
    except ImportError:
        with_triton = None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": with_triton,
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads",
        "ours": form,
        "allocator": "CUDA" if gpu else "keeps memory" if said.keep_memory else "default",
        "recons": said.recons,
        "rounds": said.rounds,
        "warm_up": said.warm_up,
    }


# -- what is compared ------------------------------------------------------------------------------


def naive(recons: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return sum(
        ((((r - x) ** 2) * w_B[:, None]).sum() for r, w_B in zip(recons, w, strict=True)), x.new_zeros(())
    )


def mse_times_mask(recons: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    each = (
        (F.mse_loss(r, x, reduction="none") * w_B[:, None]).sum() for r, w_B in zip(recons, w, strict=True)
    )
    return sum(each, x.new_zeros(()))


def mse_mean(recons: list[torch.Tensor], x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return sum((F.mse_loss(r, x) for r in recons), x.new_zeros(()))


def naive_layer(
    h: torch.Tensor, W: torch.Tensor, b: torch.Tensor, x: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    return naive(list(F.linear(h, W, b).unbind(0)), x, w)


class _Nothing(torch.autograd.Function):
    """A loss that is not computed, with gradients that nobody writes: what calling it takes by itself."""

    @staticmethod
    def forward(ctx: Any, *recons: torch.Tensor) -> torch.Tensor:
        ctx.gradients = [gradient_like(recon) for recon in recons]
        return recons[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = tuple(ctx.gradients)
        ctx.gradients.clear()  # else a copy would be made for each leaf
        return given


class _Rebuilt(torch.autograd.Function):
    """The numbers of a leaf as a network's output would have them: neither a leaf nor a view of one."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor) -> torch.Tensor:
        return torch.empty(0, dtype=leaf.dtype, device=leaf.device).set_(leaf.detach())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def data(B: int, columns: int, K: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A target, and weights with which one scan in eight counts for nothing."""
    x = torch.randn(B, columns, device=device)
    w = torch.full((K, B), 1 / (B * columns), device=device)
    w[:, ::8] = 0
    return x, w


def losses(B: int, columns: int, K: int, device: str) -> tuple[dict[str, Way], int]:
    """Ways to the gradients of reconstructions, and the bytes that must be moved at least."""
    x, w = data(B, columns, K, device)
    recons = [torch.randn(B, columns, device=device, requires_grad=True) for _ in range(K)]
    copied = torch.empty_like(x)
    compiled = torch.compile(naive, dynamic=False)

    def way(loss: Callable[..., torch.Tensor]) -> Way:
        def run() -> None:
            for recon in recons:
                recon.grad = None
            loss(recons, x, w).backward()

        return run

    def ours(recons: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return masked_multi_mse(recons, x, w)[0]

    def overwriting(recons: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return masked_multi_mse([_Rebuilt.apply(r) for r in recons], x, w, overwrite=True)[0]

    def tiled(recons: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with backends.using("tiled"):
            return ours(recons, x, w)

    def nothing(recons: list[torch.Tensor], *_: torch.Tensor) -> torch.Tensor:
        return _Nothing.apply(*recons)

    ways = {
        "copy": lambda: copied.copy_(x),
        "eager, (r - x)² · mask": way(naive),
        "eager, mse_loss · mask": way(mse_times_mask),
        "eager, mse_loss mean, no mask": way(mse_mean),
        "torch.compile": way(compiled),
        "ours, tiles in plain torch": way(tiled),
        "ours": way(ours),
        "ours, overwriting": way(overwriting),
        "autograd alone": way(nothing),
    }
    return ways, (2 * K + 1) * x.numel() * x.element_size()


def layers(B: int, columns: int, hidden: int, K: int, device: str) -> tuple[dict[str, Way], int]:
    """Ways to the gradients of a last layer and of what it takes; bytes: target, W read, dW written."""
    x, w = data(B, columns, K, device)
    h = torch.randn(K, B, hidden, device=device, requires_grad=True)
    W = torch.randn(columns, hidden, device=device).mul_(hidden**-0.5).requires_grad_()
    b = torch.zeros(columns, device=device, requires_grad=True)
    copied = torch.empty_like(x)
    compiled = torch.compile(naive_layer, dynamic=False)

    def way(loss: Callable[..., torch.Tensor]) -> Way:
        def run() -> None:
            for leaf in (h, W, b):
                leaf.grad = None
            loss(h, W, b, x, w).backward()

        return run

    ways = {
        "copy": lambda: copied.copy_(x),
        "layer: eager": way(naive_layer),
        "layer: torch.compile": way(compiled),
        "layer: ours": way(lambda *given: linear_multi_mse(*given)[0]),
        "layer: ours, Gram": way(lambda *given: linear_multi_mse(*given, gram=True)[0]),
    }
    return ways, (x.numel() + 2 * W.numel()) * x.element_size()


# -- how it is measured ----------------------------------------------------------------------------


def measured(shape: str, ways: dict[str, Way], least: int, said: argparse.Namespace) -> list[dict]:
    gpu = said.device == "cuda"
    flushed = torch.empty(FLUSHED // 4, device=said.device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(said.warm_up + said.rounds):
        for name, way in ways.items():
            if number >= said.warm_up:
                flushed.fill_(number)
            taken = on_gpu(way) if gpu else on_cpu(way)
            if number >= said.warm_up:
                seconds[name].append(taken)
    del flushed
    median = {name: statistics.median(each) for name, each in seconds.items()}
    extra = {name: extra_memory(way, gpu) for name, way in ways.items() if name != "copy"}
    scans, columns = map(int, shape.split("x")[:2])
    copy = 2 * 4 * scans * columns / median["copy"]
    first, compiled = (next(t for n, t in median.items() if word in n) for word in ("eager", "compile"))
    rows = []
    for name, taken in median.items():
        rate = {"copy": copy, "autograd alone": math.nan}.get(name, least / taken)
        row = {
            "shape": shape, "way": name, "ms": 1e3 * taken, "fastest_ms": 1e3 * min(seconds[name]),
            "times_naive": first / taken, "times_compile": compiled / taken,
            "GB_per_s": rate / 1e9, "share_of_copy": rate / copy, "extra_MB": extra.get(name, 0) / 1e6,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{shape:20s} {name:32s} {row['ms']:9.3f} {row['times_naive']:8.2f}x "
            f"{row['times_compile']:9.2f}x "
            f"{row['GB_per_s']:7.1f} {row['share_of_copy']:8.0%} {row['extra_MB']:9.1f}",
            flush=True,
        )
    return rows


def on_cpu(way: Way) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def on_gpu(way: Way) -> float:
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    way()
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended) / 1e3


def extra_memory(way: Way, gpu: bool) -> float:
    """Bytes at the peak beyond what goes in and the gradients that come out, which are there before.

    On a CPU of the process as a whole, which says little below some megabytes, and nothing with an
    allocator that keeps memory.
    """
    way()
    gc.collect()
    if gpu:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    free_gradient_memory()
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if "MALLOC_TOP_PAD_" in os.environ or not clear.exists():
        return float("nan")
    before = kilobytes(status.read_text(), "VmRSS")
    clear.write_text("5")  # the peak starts again from here
    way()
    return 1024.0 * (kilobytes(status.read_text(), "VmHWM") - before)


def kilobytes(status: str, name: str) -> int:
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))


if __name__ == "__main__":
    main()
