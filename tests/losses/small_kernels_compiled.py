"""Compiles all kernels down to a GPU's machine code, which takes no GPU.

The interpreter sees what a kernel computes; only the compiler sees whether it is one.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import triton
from latent_cases import case
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hpc_brainage.losses import adversarial_triton, latent_triton, multi_mse_triton
from hpc_brainage.model import philox_triton

UPSTREAM = dict.fromkeys(("Z_UP", "JOINED_UP", "KL_UP", "RATIO_UP"), True)


RECONS = tuple(f"{what}{k}" for what in ("recon", "gradient") for k in range(4))
WORDS = ("scans", "sexes", "words", "c0", "c1", "c2", "c3")
SINGLE = ("shares", "terms", "kl_up", "ratio_up", "weights", "partial", "factor")
NUMBERS = ("B", "step", "scans", "columns", "tiles")
LARGE = multi_mse_triton


def compiled(
    kernel: Any, constants: dict[str, Any], kind: str, architecture: int, aligned: tuple[str, ...] = ()
) -> str:
    """The kernel's assembly; `aligned` are arguments of which Triton shall know that 16 divides them."""
    of_losses = kernel.fn.__module__ == LARGE.__name__
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith("here"):
            signature[name] = "*u8"
        elif name in WORDS and not of_losses:
            signature[name] = "*i64"
        elif name in SINGLE:
            signature[name] = "*fp32"
        elif name in ("seed", "size"):
            signature[name] = "i64"
        elif name in NUMBERS or name.startswith("n") or name.endswith(("stride", "_row")):
            signature[name] = "i32"
        else:
            signature[name] = f"*{kind}"
    places = {name: place for place, name in enumerate(kernel.arg_names)}
    values = {(places[name],): value for name, value in constants.items()}
    divisible = {(places[name],): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, values, divisible)
    options = {"num_warps": LARGE._WARPS} if of_losses else {}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert len(made.asm["cubin"]) > 1000
    return made.asm["ptx"]


def wide(assembly: str, what: str) -> int:
    """How many instructions load ("ld") or store ("st") sixteen bytes at once."""
    return len(re.findall(rf"{what}\.global(?:\.\w+)*\.v4\.b32", assembly))


for architecture in (80, 90):
    for kind, count, squared in (("fp32", 2, True), ("bf16", 2, True), ("fp16", 4, False)):
        form = {"COUNT": count, "SQUARED": squared, "WRITES": True}
        flat = {**form, "COLUMNS": LARGE.FLAT}
        assembly = compiled(LARGE._flat, flat, kind, architecture, (*RECONS, "target"))
        # In a tile that is whole; the last one of all is masked, and may take its time.
        at_once = 2 if kind == "fp32" else 1
        assert wide(assembly, "ld") >= at_once * (count + 1), (kind, architecture)
        assert wide(assembly, "st") >= at_once * count, (kind, architecture)
        compiled(LARGE._rows, {**form, "COLUMNS": LARGE.COLUMNS}, kind, architecture)
    compiled(LARGE._flat, {**flat, "WRITES": False}, kind, architecture)
    compiled(LARGE._scale, {"COLUMNS": LARGE.COLUMNS}, kind, architecture)
    for kind, form in (
        ("fp32", {"shared": 16, "distinct": 16}),
        ("bf16", {"missing": "poe", "ratio": "l2", "ratio_on": "z", "kl_shared": True, "free_bits": 0.1}),
        ("fp16", {"modalities": 1, "draw_shared": False}),
    ):
        given = case(4, **form)
        width = given.mu[0].shape[1]
        call = latent_triton._Call(given.form, len(given.mu), width, True, torch.float32)
        compiled(latent_triton._forward, call.settings, kind, architecture)
        compiled(latent_triton._backward, call.settings | UPSTREAM, kind, architecture)
        logits = {"M": len(given.mu), "BLOCK": 64}
        compiled(adversarial_triton._terms, logits, kind, architecture)
    compiled(philox_triton._words, {"BLOCK": philox_triton.BLOCK}, "i64", architecture)
    print(architecture)
