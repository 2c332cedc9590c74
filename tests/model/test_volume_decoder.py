"""The decoder for volumes: exact odd grids, and every voxel reached by the code."""

from __future__ import annotations

import math

import pytest
import torch

from hpc_brainage.model.volume_decoder import VolumeDecoder


@pytest.mark.parametrize(
    ("grid", "smaller"),
    [
        ((121, 145, 121), ((4, 5, 4), (8, 10, 8), (16, 19, 16), (31, 37, 31), (61, 73, 61))),
        ((182, 218, 182), ((6, 7, 6), (12, 14, 12), (23, 28, 23), (46, 55, 46), (91, 109, 91))),
        ((9, 7, 8), ((5, 4, 4),)),
        ((5, 6, 1), ()),
    ],
)  # fmt: skip
def test_grids_double_up_to_exactly_that_of_the_volume(
    grid: tuple[int, int, int], smaller: tuple[tuple[int, int, int], ...]
) -> None:
    with torch.device("meta"):
        decoder = VolumeDecoder(8, grid)
        assert decoder(torch.empty(2, 8)).shape == (2, math.prod(grid))
    assert decoder.grids == (*smaller, grid)


def test_it_has_the_parameters_of_its_layers() -> None:
    decoder = VolumeDecoder(10, (121, 145, 121))
    linear = (10 + 1) * 128 * 4 * 5 * 4
    convolutions = 27 * (128 * 64 + 64 * 32 + 32 * 16 + 16 * 8 + 8 * 1) + 64 + 32 + 16 + 8 + 1
    assert sum(p.numel() for p in decoder.parameters()) == linear + convolutions


@pytest.mark.parametrize("grid", [(13, 18, 15), (9, 7, 8), (5, 6, 1)])
def test_every_voxel_and_every_parameter_takes_part(grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    decoder = VolumeDecoder(6, grid)
    code = torch.randn(2, 6, requires_grad=True)
    volume = decoder(code)
    assert volume.shape == (2, math.prod(grid))
    volume.square().mean().backward()
    assert code.grad is not None
    assert code.grad.abs().min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    moved = decoder(code + 1.0) - decoder(code)
    assert (moved.abs() > 0).float().mean() > 0.99


def test_doubling_repeats_each_voxel() -> None:
    """Convolutions that only copy give the code's grid back, each voxel twice along each axis."""
    torch.manual_seed(0)
    decoder = VolumeDecoder(6, (13, 10, 9))
    with torch.no_grad():
        for stage in decoder.stages:
            stage.weight.zero_()
            stage.weight[0, 0, 1, 1, 1] = 1.0
        code = torch.randn(2, 6)
        start = decoder.first(code).unflatten(1, (128, *decoder.grids[0]))[:, 0].relu()
        found = decoder(code).unflatten(1, (13, 10, 9))
    expected = start
    for axis, length in ((1, 13), (2, 10), (3, 9)):
        expected = expected.repeat_interleave(2, dim=axis).narrow(axis, 0, length)
    assert decoder.grids[0] == (7, 5, 5)
    torch.testing.assert_close(found, expected)


def test_a_scan_s_volume_does_not_depend_on_the_rest_of_the_batch() -> None:
    torch.manual_seed(0)
    decoder = VolumeDecoder(6, (13, 18, 15)).eval()
    code = torch.randn(3, 6)
    with torch.no_grad():
        together = decoder(code)
        alone = torch.cat([decoder(code[i : i + 1]) for i in range(3)])
        assert torch.equal(together, decoder(code))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_it_learns_to_rebuild_a_volume_with_its_level() -> None:
    """Two volumes that differ in their level alone: nothing in the decoder takes the level away."""
    torch.manual_seed(0)
    decoder = VolumeDecoder(2, (9, 11, 9))
    pattern = torch.randn(3, 4, 3).repeat_interleave(3, 0).repeat_interleave(3, 1).repeat_interleave(3, 2)
    target = torch.stack([pattern[:, :11], pattern[:, :11] + 2.0]).flatten(1)
    code = torch.eye(2)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(80):
        loss = (decoder(code) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.var()
