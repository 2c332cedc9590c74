"""What a network says beside the age: the spread of its codes, and how well it rebuilds a scan."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.config import ModelConfig
from hpc_brainage.model.close_look import log_rebuilding_errors, spread_from_codes
from hpc_brainage.model.noise import Draws
from hpc_brainage.model.sa_avae import SAAVAE, BranchSpec

B = 7
BRANCHES = {"smri": BranchSpec("mlp", (6,), components=5), "fmri": BranchSpec("mlp", (6,), components=4)}


def model(**settings: object) -> SAAVAE:
    torch.manual_seed(0)
    made = SAAVAE(BRANCHES, ModelConfig(shared=3, distinct=2, dropout=0.0, **settings))  # type: ignore[arg-type]
    return made.eval()


def batch() -> tuple[dict, dict, torch.Tensor]:
    torch.manual_seed(1)
    x = {role: torch.randn(B, spec.components) for role, spec in BRANCHES.items()}
    present = {"smri": torch.arange(B) < 5, "fmri": torch.arange(B) > 2}
    return x, present, torch.arange(B) % 2


@pytest.mark.parametrize("missing", ["borrow", "poe"])
def test_the_spread_is_that_of_many_draws_of_the_codes(missing: str) -> None:
    network, (x, present, sex), times = model(missing=missing, linear_path=False), batch(), 2000
    with torch.no_grad():
        for role in BRANCHES:  # narrow codes: first order is then exact
            network.encoders[role].log_variance.bias.fill_(-6.0)
        found = spread_from_codes(network, network.encode(x, present), x, present, sex)
        many = {role: value.repeat(times, 1) for role, value in x.items()}
        here = {role: mask.repeat(times) for role, mask in present.items()}
        draws = Draws(torch.arange(B * times), 5, 0)
        codes = network.encode(many, here, draws)
        ages = network.regress(codes, many, here, sex.repeat(times), draws).mean
    torch.testing.assert_close(found, ages.view(times, B).std(dim=0), rtol=0.06, atol=1e-6)


def test_the_prior_of_a_product_of_experts_counts() -> None:
    network, (x, present, sex) = model(missing="poe", linear_path=False), batch()
    codes = network.encode(x, present)
    found = spread_from_codes(network, codes, x, present, sex)
    leaf = {role: code.mu.detach().clone() for role, code in codes.items()}
    product = network._product(codes, present, None).detach().requires_grad_()
    with torch.enable_grad():
        parts = []
        distinct = {}
        for role in network.roles:
            here = present[role][:, None]
            distinct[role] = leaf[role][:, 3:].requires_grad_()
            parts += [product, torch.where(here, distinct[role], 0.0)]
        parts.append(torch.stack([present[role] for role in network.roles], dim=1).float())
        joined = torch.cat(parts, dim=1)
        codes_BR, presence = joined.tensor_split([-2], dim=1)
        columns = torch.stack([sex == 0, sex == 1], dim=1).float()
        r = torch.cat([codes_BR, columns, presence], dim=1)
        age = network.regress_joined(r, {}, present, sex).mean.sum()
        slope, *own = torch.autograd.grad(age, [product, *distinct.values()])
    precision = 1 + sum(
        torch.where(present[role][:, None], torch.exp(-code.log_variance[:, :3]), 0.0)
        for role, code in codes.items()
    )
    variance = (slope.square() / precision).sum(dim=1)
    for role, gradient in zip(network.roles, own, strict=True):
        spread = torch.where(present[role][:, None], codes[role].log_variance[:, 3:].exp(), 0.0)
        variance = variance + (gradient.square() * spread).sum(dim=1)
    torch.testing.assert_close(found, variance.sqrt().detach())


def test_a_model_that_draws_nothing_has_no_spread() -> None:
    network, (x, present, sex) = model(sample="never"), batch()
    assert spread_from_codes(network, network.encode(x, present), x, present, sex).isnan().all()


def test_the_spread_leaves_no_gradient_behind_and_works_where_none_is_kept() -> None:
    network, (x, present, sex) = model(), batch()
    with torch.no_grad():
        found = spread_from_codes(network, network.encode(x, present), x, present, sex)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_rebuilding_error_is_of_a_scan_alone_and_nan_where_it_lacks_the_modality() -> None:
    network, (x, present, sex) = model(), batch()
    with torch.no_grad():
        codes = network.encode(x, present)
        found = log_rebuilding_errors(network, codes, x, present, sex)
        whole = network.decode("smri", codes["smri"].shared, codes["smri"].distinct, sex)
    assert found["smri"].isnan().tolist() == (~present["smri"]).tolist()
    expected = (whole[2] - x["smri"][2]).square().mean().log()
    torch.testing.assert_close(found["smri"][2], expected)
