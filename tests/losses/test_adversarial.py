"""The single pass over the bridge against two losses with two optimizers' gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hpc_brainage.losses.adversarial import adversarial_terms
from hpc_brainage.losses.backends import using
from hpc_brainage.model.networks import Discriminator

B, C, WEIGHT = 9, 4, 0.3


@pytest.fixture
def setting() -> dict:
    torch.manual_seed(0)
    discriminator = Discriminator(C, (16, 8)).double()
    encoder = torch.nn.Linear(6, C).double()
    present = {"smri": torch.ones(B, dtype=torch.bool), "fmri": torch.tensor([True, False, True] * 3)}
    return {
        "discriminator": discriminator,
        "encoder": encoder,
        "x": {role: torch.randn(B, 6, dtype=torch.float64) * 3 for role in present},
        "prior": {role: torch.randn(B, C, dtype=torch.float64) for role in present},
        "present": present,
        "counts": {role: int(mask.sum()) for role, mask in present.items()},
    }


def two_optimizers(s: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The textbook way: D's loss on detached codes, then the encoder's loss with D frozen."""
    d, e = s["discriminator"], s["encoder"]
    codes = {role: e(x) for role, x in s["x"].items()}
    loss_d = loss_e = torch.zeros((), dtype=torch.float64)
    for role, code in codes.items():
        here, n = s["present"][role], s["counts"][role]
        loss_d = (
            loss_d + 0.5 * (F.softplus(-d(s["prior"][role])) + F.softplus(d(code.detach())))[here].sum() / n
        )
        loss_e = loss_e + WEIGHT * 0.5 * F.softplus(-d(code))[here].sum() / n
    for_d = torch.autograd.grad(loss_d, list(d.parameters()))
    for_e = torch.autograd.grad(loss_e, list(e.parameters()))
    return list(for_d), list(for_e)


def single_pass(s: dict, weight: float = WEIGHT) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    d, e = s["discriminator"], s["encoder"]
    codes = {role: e(x) for role, x in s["x"].items()}
    terms = adversarial_terms(d, codes, s["prior"], s["present"], s["counts"], weight)
    parameters = [*d.parameters(), *e.parameters()]
    gradients = torch.autograd.grad(terms.discriminator, parameters)
    n_d = len(list(d.parameters()))
    return list(gradients[:n_d]), list(gradients[n_d:])


def test_one_pass_gives_both_networks_exactly_their_own_gradients(setting: dict) -> None:
    for one, two in zip(single_pass(setting), two_optimizers(setting), strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_the_gradients_agree_for_a_very_sure_discriminator(setting: dict) -> None:
    with torch.no_grad():
        setting["discriminator"].net[-1].weight.mul_(40)
    for one, two in zip(single_pass(setting), two_optimizers(setting), strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-15)


def test_the_discriminator_s_gradient_does_not_depend_on_the_encoder_s_weight(setting: dict) -> None:
    for a, b in zip(single_pass(setting, 0.01)[0], single_pass(setting, 5.0)[0], strict=True):
        assert torch.equal(a, b)


def test_absent_scans_do_not_reach_either_network(setting: dict) -> None:
    clean = single_pass(setting)
    setting["x"]["fmri"][~setting["present"]["fmri"]] = 1e3
    setting["prior"]["fmri"][~setting["present"]["fmri"]] = -1e3
    for one, two in zip(clean, single_pass(setting), strict=True):
        for a, b in zip(one, two, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-16)


def test_the_reported_terms_are_the_two_losses(setting: dict) -> None:
    s = setting
    codes = {role: s["encoder"](x) for role, x in s["x"].items()}
    terms = adversarial_terms(s["discriminator"], codes, s["prior"], s["present"], s["counts"], WEIGHT)
    expected = sum(
        0.5 * F.softplus(-s["discriminator"](code))[s["present"][role]].sum() / s["counts"][role]
        for role, code in codes.items()
    )
    torch.testing.assert_close(terms.encoder, expected.detach(), rtol=1e-13, atol=0)
    assert 0 <= float(terms.accuracy) <= 1


def test_a_second_backward_through_the_bridge_is_an_error_and_not_zero(setting: dict) -> None:
    s = setting
    code = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    with using("reference"):
        terms = adversarial_terms(
            s["discriminator"], {"smri": code}, s["prior"], s["present"], s["counts"], WEIGHT
        )
    (gradient,) = torch.autograd.grad(terms.discriminator, code, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
