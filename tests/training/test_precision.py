"""Training in bfloat16 stays near training in single precision, at every ZeRO stage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from processes import launch
from torch import nn

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.distributed import Processes, join_processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.objective import Batch, Objective

STEPS, B, GRID, WORLD = 8, 8, (10, 12, 9), 2
TABLE = BranchSpec("mlp", (16,), components=6)
COARSE = BranchSpec("sfcn", (8, 16, 8), grid=GRID, checkpointing=True)
BRANCHES = {"smri": COARSE, "fmri": TABLE}
SETTINGS = (
    "model.dropout=0.2", "model.shared=4", "model.distinct=4", "training.learning_rate=1e-3",
    "training.batch_size=8", "training.device=cpu", "loss.ratio_kind=l2",
)  # fmt: skip
TOLERANCE = 2e-2
"""Of a step's loss. A bfloat16 has 8 bits, so that a single product may be wrong by 0.4 %."""


def config(precision: str, stage: int = 0) -> RunConfig:
    return load_config(None, [*SETTINGS, f"training.precision={precision}", f"training.zero_stage={stage}"])


def objective(settings: RunConfig, volumes: BranchSpec = COARSE) -> Objective:
    torch.manual_seed(0)
    return Objective(SAAVAE({**BRANCHES, "smri": volumes}, settings.model), settings)


def batch(step: int, rank: int = 0, world: int = 1) -> Batch:
    """Scans whose age is in their volumes, for there to be something to learn."""
    draw = torch.Generator().manual_seed(step)
    age = torch.randn(B, generator=draw)
    volumes = torch.randn(B, *GRID, generator=draw)
    volumes[:, :5] += age[:, None, None, None]
    x = {"smri": volumes, "fmri": torch.randn(B, TABLE.components, generator=draw)}
    present = {"smri": torch.arange(B) % 5 > 0, "fmri": torch.arange(B) % 3 > 0}
    counts = {role: int(mask.sum()) for role, mask in present.items()}
    counts |= {"pair": int((present["smri"] & present["fmri"]).sum()), "scans": B}
    mine = slice(rank, None, world)
    return Batch(
        {role: value[mine] for role, value in x.items()},
        {role: mask[mine] for role, mask in present.items()},
        (torch.arange(B) % 2)[mine],
        age[mine],
        (torch.arange(B) + 100 * step)[mine],
        counts,
        5,
        step,
        step / STEPS,
        world,
    )


def train(settings: RunConfig, processes: Processes) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Parameters after some steps, and each step's loss over all processes."""
    engine = Engine(objective(settings), settings.training, processes, STEPS)
    losses = [
        engine.step(batch(step, processes.rank, processes.world_size))[0].reshape(1)
        for step in range(STEPS)
    ]
    state = engine.model_state()
    engine.close()
    return state, processes.summed(torch.cat(losses))


@pytest.fixture(scope="module")
def in_single() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return train(config("fp32"), join_processes("cpu"))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_at_every_stage_losses_are_those_of_single_precision_but_for_rounding(
    stage: int, in_single: tuple[dict[str, torch.Tensor], torch.Tensor]
) -> None:
    _, expected = in_single
    assert (expected[1:] - expected[:-1]).abs().max() > 5 * TOLERANCE * expected.abs().max()
    state, losses = train(config("bf16", stage), join_processes("cpu"))
    assert not torch.equal(losses, expected), "nothing was computed in bfloat16"
    torch.testing.assert_close(losses, expected, rtol=TOLERANCE, atol=0)
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_two_processes_that_shard_everything_agree_with_one_in_single_precision(
    tmp_path: Path, in_single: tuple[dict[str, torch.Tensor], torch.Tensor]
) -> None:
    launch(WORLD, __file__, str(tmp_path / "losses.pt"))
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    torch.testing.assert_close(losses, in_single[1], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("rebuilt", ["coarse", "volume"])
def test_only_encoders_and_decoders_are_lowered_and_the_gradient_is_near(rebuilt: str) -> None:
    volumes = BranchSpec("sfcn", (8, 16, 8), grid=GRID, decoder=rebuilt)
    given: dict[str, set[torch.dtype]] = {}
    gradients = {}
    for precision in ("fp32", "bf16"):
        one = objective(config(precision), volumes)
        if precision == "bf16":
            for name, module in one.named_modules():
                if not list(module.children()):
                    module.register_forward_hook(
                        lambda _, __, out, name=name: given.setdefault(name, set()).add(out.dtype)
                    )
        loss, terms = one(batch(0))
        loss.backward()
        assert {value.dtype for value in (loss, *terms.values())} == {torch.float32}
        gradients[precision] = {
            name: value.grad for name, value in one.named_parameters() if value.grad is not None
        }
    low = {name for name, types in given.items() if types == {torch.bfloat16}}
    trunk = "model.encoders.smri.trunk.encoder.blocks"
    assert {f"{trunk}.0.0", f"{trunk}.0.1", f"{trunk}.2.2", "model.encoders.fmri.trunk.0"} <= low
    assert ("model.decoders.smri.stages.0" in low) == (rebuilt == "volume")
    assert all(name.split(".")[1] in ("encoders", "decoders") for name in low)
    for last in ("model.encoders.smri.mu", "model.encoders.fmri.log_variance", "model.regressor.out"):
        assert given[last] == {torch.float32}
    # One by one they may differ: what is rounded has other largest voxels, which max pooling passes on.
    assert {value.dtype for value in gradients["bf16"].values()} == {torch.float32}
    assert gradients["bf16"].keys() == gradients["fp32"].keys()
    whole = {
        precision: torch.cat([value.flatten() for value in found.values()])
        for precision, found in gradients.items()
    }
    assert nn.functional.cosine_similarity(whole["bf16"], whole["fp32"], dim=0) > 0.99
    assert whole["bf16"].norm() == pytest.approx(float(whole["fp32"].norm()), rel=0.02)


if __name__ == "__main__":
    here = join_processes("cpu")
    _, found = train(config("bf16", 3), here)
    if here.is_first:
        torch.save(found, Path(sys.argv[1]))
