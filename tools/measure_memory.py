"""How much memory one training step of a volume model takes on a GPU, computed without one.

    python tools/measure_memory.py [--scans 8] [--limit 40]

The whole objective runs forward and backward on PyTorch's meta device, where tensors have shapes and no
content. Counted are

- what the forward pass keeps for the backward pass: the storages that autograd saves, each once, without
  the parameters;
- the most that is alive at any moment of the step: inputs, what is kept, and the temporaries of each
  operation. A GPU's group norm wants channels first and its convolutions want channels last, so the copy
  that an operand in the other order costs is counted too;
- parameters, their gradients, and the two moments of AdamW in single precision.

Not counted: the CUDA context, workspaces of cuDNN, and what the allocator loses between blocks. A step
counts as fitting if it leaves a tenth of the device to them.

"bf16" is the encoder (and the decoder, if it rebuilds every voxel) with its weights and all that it
computes in bfloat16, and single precision everywhere else, optimizer states and master weights included.
"""

from __future__ import annotations

import argparse
import itertools
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_brainage.config import VOLUME_ENCODERS, load_config
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.model.volume_decoder import VolumeDecoder
from hpc_brainage.model.volume_encoders import VolumeEncoder
from hpc_brainage.training.objective import Batch, Objective

GRIDS = {"OpenBHB VBM": (121, 145, 121), "OpenBHB quasi-raw": (182, 218, 182)}
GIB = 2.0**30
FREE = 0.1

aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)
NORMS = (aten.native_group_norm.default, aten.native_group_norm_backward.default)


@dataclass(frozen=True)
class Memory:
    """Bytes of one step: kept for the backward pass, most alive at once, parameters and all of theirs."""

    kept: int
    peak: int
    states: int

    @property
    def total(self) -> int:
        return self.peak + self.states


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func in CONVOLUTIONS:  # on a GPU they give channels last if their weights have them so
            results = _each(results, _channels_last)
        _each(results, self.count)
        copies = 0
        if func in CONVOLUTIONS + NORMS:
            wanted = torch.channels_last_3d if func in CONVOLUTIONS else torch.contiguous_format
            volumes = [a for a in args if isinstance(a, torch.Tensor) and a.dim() == 5]
            copies = sum(_bytes(v) for v in volumes if not v.is_contiguous(memory_format=wanted))
        self.peak = max(self.peak, self.now + copies)
        return results

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" and id(storage) not in self.known:
            size, key = storage.nbytes(), id(storage)
            self.now += size
            self.known[key] = weakref.ref(storage, lambda _: self.forget(key, size))
        return tensor

    def forget(self, key: int, size: int) -> None:
        self.now -= size
        del self.known[key]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--scans", type=int, default=8, help="scans in the step")
    words.add_argument("--limit", type=float, default=40.0, help="memory of the device, GiB")
    said = words.parse_args()
    ways = list(itertools.product((False, True), (False, True)))
    print(f"{time.strftime('%Y-%m-%d')}, PyTorch {torch.__version__}, {said.scans} scans in the step")
    print("GiB at most (of it kept for the backward pass); bold does not fit into", f"{said.limit:g} GiB\n")
    print("| volume | encoder | rebuilt | fp32 | fp32, checkpointing | bf16 | bf16, checkpointing |")
    print("|---|---|---|---|---|---|---|")
    for (name, grid), encoder, decoder in itertools.product(
        GRIDS.items(), VOLUME_ENCODERS, ("coarse", "volume")
    ):
        cells = []
        for half, checkpointing in ways:
            found = measure(encoder, decoder, grid, said.scans, half=half, checkpointing=checkpointing)
            cell = f"{found.total / GIB:.1f} ({found.kept / GIB:.1f})"
            fits = found.total / GIB <= (1 - FREE) * said.limit
            cells.append(cell if fits else f"**{cell}**")
        print(f"| {name} | {encoder} | {decoder} | {' | '.join(cells)} |", flush=True)


def measure(
    encoder: str, decoder: str, grid: tuple[int, int, int], scans: int, *, half: bool, checkpointing: bool
) -> Memory:
    """Memory of one step with an sMRI volume of this grid, present in every scan."""
    config = load_config(
        None,
        [
            f"smri.encoder={encoder}", f"smri.decoder={decoder}",
            f"smri.checkpointing={str(checkpointing).lower()}", "model.shared=32", "model.distinct=32",
        ],
    )  # fmt: skip
    with torch.device("meta"):
        branch = BranchSpec(
            encoder, config.smri.hidden, grid=grid, checkpointing=checkpointing, decoder=decoder
        )
        objective = Objective(SAAVAE({"smri": branch}, config.model), config)
        if half:
            for module in objective.modules():
                if isinstance(module, (VolumeEncoder, VolumeDecoder)):
                    _in_bfloat16(module)
        own = {parameter.untyped_storage()._cdata for parameter in objective.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with Alive() as alive:
            batch = _batch(scans, grid)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = objective(batch)
            loss.backward()
    gradients = sum(_bytes(p.grad) for p in objective.parameters() if p.grad is not None)
    states = sum(_bytes(p) + 8 * p.numel() for p in objective.parameters())
    if half:  # master weights and gradients in single precision
        states += sum(8 * p.numel() for p in objective.parameters() if p.dtype == torch.bfloat16)
    # Gradients are among what is alive at the end of the step; most of a step they are not all there yet.
    assert alive.now >= gradients
    return Memory(sum(kept.values()), alive.peak, states)


def _batch(scans: int, grid: tuple[int, int, int]) -> Batch:
    everybody = torch.ones(scans, dtype=torch.bool)
    return Batch(
        x={"smri": torch.empty(scans, *grid)},
        present={"smri": everybody},
        sex=torch.zeros(scans, dtype=torch.int64),
        age=torch.zeros(scans),
        scan=torch.zeros(scans, dtype=torch.int64),
        counts={"smri": scans, "pair": 0, "scans": scans},
        seed=0,
        step=0,
        progress=0.5,
    )


def _in_bfloat16(module: torch.nn.Module) -> None:
    module.bfloat16()
    module.register_forward_pre_hook(lambda _, given: (given[0].bfloat16(), *given[1:]))
    module.register_forward_hook(lambda _, __, result: result.float())


def _each(results: Any, apply: Any) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, apply, results)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last_3d) if tensor.dim() == 5 else tensor


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    main()
