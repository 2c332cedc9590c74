"""Two processes at every ZeRO stage, with and without parts, take the very steps of one plain process.

With plain gradient descent, that is: AdamW divides by gradients that may be next to nothing, and makes
rounding errors large.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import launch
from training.test_engine import SETTINGS, STEPS, batch, objective

from hpc_brainage.config import RunConfig, load_config
from hpc_brainage.training import engine as engine_room
from hpc_brainage.training.distributed import Processes, join_processes
from hpc_brainage.training.engine import Engine
from hpc_brainage.training.objective import Batch

WORLD = 2
RATE = 1e-2
WAYS = [(stage, parts) for stage in (0, 1, 2, 3) for parts in (1, 2)]


def one_sided(step: int, part: int = 0, shares: int = 1) -> Batch:
    """A step of which only the first process's scans have any fMRI."""
    whole, mine = batch(step), batch(step, part, shares)
    first = torch.arange(len(whole.age)) % WORLD == 0
    present = {**whole.present, "fmri": first}
    counts = {**whole.counts, "fmri": int(first.sum()), "pair": int((whole.present["smri"] & first).sum())}
    return replace(
        mine, present={role: mask[part::shares] for role, mask in present.items()}, counts=counts
    )


STEPS_OF = {"both": batch, "one": one_sided}
"""Who has fMRI: people of both processes, or of one."""


def config(stage: int, parts: int) -> RunConfig:
    return load_config(
        None,
        [*SETTINGS, "model.dropout=0.0", f"training.zero_stage={stage}", f"training.accumulation={parts}"],
    )


def plain_descent(parameters: dict[str, torch.Tensor], *_: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(parameters.values()), lr=RATE)


def learn(
    processes: Processes, stage: int, parts: int, of_step: Callable[..., Batch]
) -> dict[str, torch.Tensor]:
    """The network after some steps of the engine, of which each is computed in `parts`."""
    settings = config(stage, parts)
    engine = Engine(objective(settings), settings.training, processes, STEPS)
    world = processes.world_size
    for step in range(STEPS):
        for part in range(parts):
            engine.step(of_step(step, processes.rank + part * world, world * parts))
    state = engine.model_state()
    engine.close()
    return state


@pytest.mark.timeout(200)
def test_two_processes_and_parts_of_steps_change_nothing_at_any_stage_whoever_has_fmri(
    tmp_path: Path,
) -> None:
    launch(WORLD, __file__, str(tmp_path))
    for who, of_step in STEPS_OF.items():
        check(tmp_path, who, of_step)


def check(folder: Path, who: str, of_step: Callable[..., Batch]) -> None:
    settings = config(0, 1)
    plain = objective(settings)
    optimizer = plain_descent(dict(plain.named_parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: engine_room.cosine(step, STEPS))
    began = {name: value.clone() for name, value in plain.model.state_dict().items()}
    for step in range(STEPS):
        optimizer.zero_grad()
        plain(of_step(step))[0].backward()
        optimizer.step()
        schedule.step()
    expected = plain.model.state_dict()
    assert any((expected[name] - began[name]).abs().max() > 1e-3 for name in began), "nothing was learned"
    for stage, parts in WAYS:
        state = torch.load(folder / f"{who}-{stage}-{parts}.pt", weights_only=True)
        for name, value in expected.items():
            what = f"fMRI in {who}, stage {stage}, {parts} parts: {name}"
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6, msg=what)


if __name__ == "__main__":
    engine_room.adamw = plain_descent
    here = join_processes("cpu")
    for who, of_step in STEPS_OF.items():
        for stage, parts in WAYS:
            found = learn(here, stage, parts, of_step)
            if here.is_first:
                torch.save(found, Path(sys.argv[1]) / f"{who}-{stage}-{parts}.pt")
    # A process whose peers close their connections while its own threads still listen may abort at its end.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
