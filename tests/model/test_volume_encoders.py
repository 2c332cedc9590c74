"""Encoders for volumes: published shapes, and features that are a function of the scan alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpc_brainage.config import SFCN_CHANNELS
from hpc_brainage.errors import ModelError
from hpc_brainage.model import volume_encoders
from hpc_brainage.model.volume_encoders import SFCN, DenseNet121, ResNet18, VolumeEncoder, volume_encoder

GRID = (17, 20, 15)
OPENBHB = (121, 145, 121)
NAMES = ("sfcn", "resnet18_3d", "densenet121_3d")


def made(name: str, checkpointing: bool = False) -> VolumeEncoder:
    torch.manual_seed(0)
    return volume_encoder(name, GRID, (4, 6, 10) if name == "sfcn" else (), checkpointing)


def volumes(scans: int, grid: tuple[int, int, int] = GRID) -> torch.Tensor:
    return torch.randn(scans, *grid, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_sfcn_has_the_parameters_of_the_paper() -> None:
    # 27 weights for each pair of channels (1 in the last block), a bias for each channel after.
    convolutions = 27 * (1 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 256) + 256 * 64
    channels = 32 + 64 + 128 + 256 + 256 + 64
    norms = 2 * channels
    assert convolutions + channels + norms == 2_950_336
    assert parameters(SFCN(SFCN_CHANNELS)) == 2_950_336
    # With the paper's classifier of 40 age bins: the "3 million" that it states.
    assert round((2_950_336 + 64 * 40 + 40) / 1e6, 1) == 3.0


def test_resnet18_has_the_parameters_of_its_table_with_a_third_dimension() -> None:
    stem = 7**3 * 1 * 64 + 2 * 64
    total = stem + 4 * (27 * 64 * 64 + 2 * 64)  # two blocks of two convolutions, each with its norm
    for before, after in ((64, 128), (128, 256), (256, 512)):
        total += 27 * before * after + 3 * 27 * after * after + 4 * 2 * after
        total += before * after + 2 * after  # the shortcut's projection
    assert total == 33_160_000
    assert parameters(ResNet18()) == total
    layers = [m for m in ResNet18().modules() if isinstance(m, nn.Conv3d) and m.kernel_size != (1, 1, 1)]
    assert len(layers) + 1 == 18  # with the classifier that is not here


def test_densenet121_has_the_parameters_of_its_table_with_a_third_dimension() -> None:
    total = 7**3 * 1 * 64 + 2 * 64
    channels = 64
    for place, layers in enumerate((6, 12, 24, 16)):
        if place:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
        for _ in range(layers):
            total += 2 * channels + channels * 128 + 2 * 128 + 27 * 128 * 32
            channels += 32
    total += 2 * channels
    assert channels == 1024
    assert total == 11_242_624
    assert parameters(DenseNet121()) == total
    convolutions = [m for m in DenseNet121().modules() if isinstance(m, nn.Conv3d)]
    assert len(convolutions) + 1 == 121  # with the classifier that is not here


@pytest.mark.parametrize(
    ("name", "features", "grid"),
    [("sfcn", 64, (3, 4, 3)), ("resnet18_3d", 512, (4, 5, 4)), ("densenet121_3d", 1024, (3, 4, 3))],
)
def test_an_openbhb_volume_comes_down_to_the_published_grid(
    name: str, features: int, grid: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        network = volume_encoder(name, OPENBHB, SFCN_CHANNELS if name == "sfcn" else ())
        seen: list[torch.Size] = []
        network.blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out.shape))
        assert network(torch.empty(2, *OPENBHB)).shape == (2, features)
    assert network.width == features
    assert seen == [torch.Size([2, features, *grid])]


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_grid_gives_finite_features_and_a_gradient_for_every_parameter(name: str) -> None:
    network = made(name)
    features = network(volumes(2))
    assert features.shape == (2, network.width)
    assert torch.isfinite(features).all()
    features.square().sum().backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.any(), path


@pytest.mark.parametrize(("name", "grid"), [("sfcn", (7, 5, 1)), ("resnet18_3d", (8, 9, 8))])
def test_a_small_grid_is_halved_while_it_can_be(name: str, grid: tuple[int, int, int]) -> None:
    features = made(name)(volumes(2, grid))
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", ["resnet18_3d", "densenet121_3d"])
def test_a_grid_smaller_than_the_first_kernel_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="8 x 7 x 9 voxels are too small"):
        volume_encoder(name, (8, 7, 9), ())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("one_by_one", [10**9, 64])
def test_checkpointing_changes_no_gradient_and_keeps_less(
    name: str, one_by_one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether blocks are computed a second time with all scans at once or, on large grids, one by one."""
    monkeypatch.setattr(volume_encoders, "ONE_BY_ONE", one_by_one)
    gradients, kept = [], []
    for checkpointing in (False, True):
        network = made(name, checkpointing).double()
        saved: dict[int, int] = {}

        def keep(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = network(volumes(2).double())
        kept.append(sum(saved.values()) - 8 * parameters(network))
        features.square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert recomputed is not None
        torch.testing.assert_close(recomputed, plain, rtol=1e-9, atol=1e-9 * float(plain.abs().max()))
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_scan_s_features_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    network = made(name)
    x = volumes(3)
    with torch.no_grad():
        together = network(x)
        alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
        beside_others = network(torch.cat([x[:1], 100 * x[1:]]))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(beside_others[0], together[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_and_evaluation_are_the_same_function_without_a_state(name: str) -> None:
    network = made(name)
    assert not list(network.buffers())
    x = volumes(2)
    with torch.no_grad():
        training = network.train()(x)
        evaluated = network.eval()(x)
        assert torch.equal(evaluated, network(x))
    assert torch.equal(training, evaluated)


@pytest.mark.parametrize(
    ("device", "trains", "layout"),
    [
        ("cpu", True, torch.contiguous_format),
        ("cpu", False, torch.channels_last_3d),
        ("meta", True, torch.channels_last_3d),
    ],
)
def test_convolutions_compute_with_the_channels_last_but_in_training_on_a_cpu(
    device: str, trains: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = made("sfcn").to(device)
    convolve, found = torch.nn.functional.conv3d, []

    def watched(h: torch.Tensor, weight: torch.Tensor, *others: object) -> torch.Tensor:
        found.append(weight.is_contiguous(memory_format=layout))
        return convolve(h, weight, *others)

    monkeypatch.setattr(torch.nn.functional, "conv3d", watched)
    with torch.set_grad_enabled(trains):
        network(volumes(2).to(device))
    assert found == [True, True, True]
    assert all(parameter.is_contiguous() for parameter in network.parameters())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("name", NAMES)
def test_a_scan_has_the_same_features_in_scoring_however_many_there_are(name: str, count: int) -> None:
    network = made(name)
    x = volumes(count)
    with torch.no_grad():
        together = network(x)
    torch.testing.assert_close(together, network(x), rtol=1e-4, atol=1e-5)
    assert together.shape == (count, network.width)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_axes_is_that_of_the_volume(name: str) -> None:
    """A volume in the store's memory order, axes reversed, is the same volume."""
    network = made(name)
    x = volumes(2)
    stored = x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not stored.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(network(stored), network(x), rtol=1e-6, atol=1e-6)
