"""Compiles the kernels of small operations down to a GPU's machine code, which takes no GPU.

The interpreter sees what a kernel computes; only the compiler sees whether it is one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from latent_cases import case
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hpc_brainage.losses import adversarial_triton, latent_triton
from hpc_brainage.model import philox_triton

UPSTREAM = dict.fromkeys(("Z_UP", "JOINED_UP", "KL_UP", "RATIO_UP"), True)


def compiled(kernel: Any, constants: dict[str, Any], kind: str, architecture: int) -> None:
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith("here"):
            signature[name] = "*u8"
        elif name in ("scans", "sexes", "words", "c0", "c1", "c2", "c3"):
            signature[name] = "*i64"
        elif name in ("shares", "terms", "kl_up", "ratio_up"):
            signature[name] = "*fp32"
        elif name in ("B", "step", "seed") or name.startswith("n") or name.endswith("stride"):
            signature[name] = "i64" if name == "seed" else "i32"
        else:
            signature[name] = f"*{kind}"
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    assert len(made.asm["cubin"]) > 1000


for architecture in (80, 90):
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
