"""Gradients of two processes are added up while they are made, and nobody waits for one that is not."""

from __future__ import annotations

import sys

import pytest
import torch
from processes import launch

from hpc_brainage.training.distributed import join_processes
from hpc_brainage.training.gradients import SharedGradients

WORLD = 2
WIDTH = 6
EVERYTHING = 1 << 20
ONE_LAYER = 4 * WIDTH * WIDTH
"""Bytes of a buffer that holds a layer's weights; of its gradients some come back in the next one."""


class Branches(torch.nn.Module):
    """A trunk, and two branches of which each process may use one; of the last layer nobody makes use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(WIDTH, WIDTH)
        self.branches = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.unused = torch.nn.Linear(WIDTH, WIDTH)
        # As convolutions on a GPU keep theirs: not in the order of the dimensions.
        self.turned = torch.nn.Parameter(torch.randn(WIDTH, WIDTH).t())

    def forward(self, x: torch.Tensor, branch: int) -> torch.Tensor:
        return (self.branches[branch](self.trunk(x).tanh()) @ self.turned).square().mean()


def people(rank: int, part: int) -> torch.Tensor:
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(10 * rank + part))


def expected(parts: int) -> dict[str, torch.Tensor]:
    """The mean of all processes' gradients, of one process that has everybody."""
    net = Branches()
    total = sum(net(people(rank, part), rank) for rank in range(WORLD) for part in range(parts))
    (total / WORLD).backward()
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in net.named_parameters()
    }


@pytest.mark.timeout(100)
def test_each_gradient_is_the_mean_of_all_processes_whatever_they_use() -> None:
    launch(WORLD, __file__)


def check(rank: int, parts: int, buffer_bytes: int) -> None:
    net, whole = Branches(), expected(parts)
    shared = SharedGradients(list(net.parameters()), WORLD, buffer_bytes)
    for _ in range(2):  # the second step finds buffers that were used
        net.zero_grad()
        for part in range(parts):
            shared.begin(is_last=part == parts - 1)
            net(people(rank, part), rank).backward()
        shared.end()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.stride() == parameter.stride(), name
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-6, atol=1e-7, msg=name)


if __name__ == "__main__":
    here = join_processes("cpu")
    for parts in (1, 2):
        for size in (EVERYTHING, ONE_LAYER, 1):
            check(here.rank, parts, size)
    sys.exit(0)
