"""The engine against plain torch, and one process against several."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import launch

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.errors import TrainingError
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec
from hpc_brainage.training.distributed import Processes, join_processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.objective import Batch, Objective

STEPS, B = 12, 16
BRANCHES = {"smri": BranchSpec("mlp", (16,), components=10), "fmri": BranchSpec("mlp", (8,), components=6)}
SETTINGS = (
    "model.dropout=0.2", "model.shared=4", "model.distinct=4", "training.learning_rate=1e-2",
    "training.weight_decay=0.1", "training.batch_size=16", "loss.ratio_kind=l2",
)  # fmt: skip


def objective(config: RunConfig) -> Objective:
    torch.manual_seed(0)
    return Objective(SAAVAE(BRANCHES, config.model), config)


def batch(step: int, rank: int = 0, world: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(step)
    x = {role: torch.randn(B, spec.components, generator=draw) for role, spec in BRANCHES.items()}
    present = {
        "smri": torch.rand(B, generator=draw) < 0.8,
        "fmri": torch.rand(B, generator=draw) < 0.6,
    }
    counts = {role: int(mask.sum()) for role, mask in present.items()}
    counts |= {"pair": int((present["smri"] & present["fmri"]).sum()), "scans": B}
    mine = slice(rank, None, world)
    return Batch(
        {role: value[mine] for role, value in x.items()},
        {role: mask[mine] for role, mask in present.items()},
        (torch.arange(B) % 2)[mine],
        torch.randn(B, generator=draw)[mine],
        (torch.arange(B) + 100 * step)[mine],
        counts,
        5,
        step,
        step / STEPS,
        world,
    )


def train(config: RunConfig, processes: Processes) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Parameters after some steps of the engine, and each step's loss on this process."""
    engine = Engine(objective(config), config.training, processes, STEPS)
    losses = [
        float(engine.step(batch(step, processes.rank, processes.world_size))[0]) for step in range(STEPS)
    ]
    state = engine.model_state()
    engine.close()
    return state, losses


@pytest.mark.parametrize(
    ("stage", "clipping"), [(0, 0.0), (0, 0.5), (1, 0.0), (2, 0.5), (3, 0.0), (3, 0.5)]
)
def test_the_engine_takes_the_steps_of_plain_torch(stage: int, clipping: float) -> None:
    settings = [f"training.zero_stage={stage}", f"training.gradient_clipping={clipping}"]
    config = load_config(None, [*SETTINGS, *settings])
    state, losses = train(config, join_processes("cpu"))

    plain = objective(config)
    held = [p for n, p in plain.named_parameters() if p.dim() > 1 and not n.startswith("discriminators.")]
    free = [p for p in plain.parameters() if not any(p is one for one in held)]
    optimizer = torch.optim.AdamW(
        [
            {"params": held, "weight_decay": config.training.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=config.training.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    for step in range(STEPS):
        loss, _ = plain(batch(step))
        assert float(loss.detach()) == pytest.approx(losses[step], rel=2e-5)
        optimizer.zero_grad()
        loss.backward()
        if clipping:
            norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), clipping)
            assert norm > clipping, "nothing was clipped, so nothing is tested"
        optimizer.step()
        schedule.step()
    for name, expected in plain.model.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=2e-4, atol=2e-5)


def test_a_lone_process_hands_no_rank_and_no_port_to_its_children() -> None:
    train(load_config(None, SETTINGS), join_processes("cpu"))
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(os.environ)
    code = "from hpc_brainage.training.distributed import join_processes; join_processes('cpu')"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_half_of_a_launcher_s_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TrainingError, match="only some of its variables"):
        join_processes("cpu")


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_learn_what_one_does(world: int, tmp_path: Path) -> None:
    """Every term is a mean over global counts, so splitting the batch changes nothing but rounding."""
    launch(world, __file__, str(tmp_path))
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    losses = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    alone, losses_alone = train(load_config(None, SETTINGS), join_processes("cpu"))
    for name, expected in alone.items():
        for state in states:
            torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5)
    for step in range(STEPS):
        together = sum(part[step] for part in losses)
        assert together == pytest.approx(losses_alone[step], rel=1e-5)


if __name__ == "__main__":
    here = join_processes("cpu")
    found, curve = train(load_config(None, SETTINGS), here)
    folder = Path(sys.argv[1])
    torch.save(found, folder / f"{here.rank}.pt")
    (folder / f"{here.rank}.json").write_text(json.dumps(curve))
