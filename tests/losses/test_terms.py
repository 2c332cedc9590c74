"""Every term against its formula and its closed-form gradient, in float64."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.losses.age import age_loss
from hpc_brainage.losses.kl import kl_loss
from hpc_brainage.losses.multi_mse import masked_multi_mse
from hpc_brainage.losses.ratio import EPSILON, RATIO_KINDS, ratio_loss
from hpc_brainage.losses.reconstruction import scan_weights

B, D, F = 7, 5, 11


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def reconstruction_loss(
    rebuilt: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, n: int
) -> torch.Tensor:
    """The term of one reconstruction."""
    weights = scan_weights(mask, n, rebuilt.shape[1], rebuilt.dtype)
    return masked_multi_mse([rebuilt], target.detach(), weights[None])[0]


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.tensor([True, False, True, True, False, True, True])


def test_reconstruction_is_the_masked_mean_square_with_its_gradient(mask: torch.Tensor) -> None:
    rebuilt, target = draw(B, F), draw(B, F, seed=1).detach()
    n = int(mask.sum())
    loss = reconstruction_loss(rebuilt, target, mask, n)
    by_hand = sum(((rebuilt[i] - target[i]) ** 2).sum() for i in range(B) if mask[i]) / (n * F)
    torch.testing.assert_close(loss, by_hand, rtol=1e-14, atol=0)
    loss.backward()
    expected = 2 * (rebuilt - target).detach() * mask[:, None] / (n * F)
    torch.testing.assert_close(rebuilt.grad, expected, rtol=1e-13, atol=1e-16)


def test_kl_has_its_closed_form_gradient(mask: torch.Tensor) -> None:
    mu, log_variance = draw(B, D), draw(B, D, seed=1)
    n = int(mask.sum())
    loss = kl_loss(mu, log_variance, mask, n)
    prior = torch.distributions.Normal(torch.zeros(D, dtype=torch.float64), 1.0)
    posterior = torch.distributions.Normal(mu, (0.5 * log_variance).exp())
    by_torch = torch.distributions.kl_divergence(posterior, prior).sum(1)[mask].sum() / n
    torch.testing.assert_close(loss, by_torch, rtol=1e-13, atol=0)
    loss.backward()
    here = mask[:, None]
    torch.testing.assert_close(mu.grad, (mu * here / n).detach(), rtol=1e-13, atol=1e-16)
    expected = 0.5 * (log_variance.exp() - 1) * here / n
    torch.testing.assert_close(log_variance.grad, expected.detach(), rtol=1e-13, atol=1e-16)


def test_kl_does_not_change_when_the_batch_is_doubled() -> None:
    mu, log_variance = draw(B, D).detach(), draw(B, D, seed=1).detach()
    everyone = torch.ones(B, dtype=torch.bool)
    once = kl_loss(mu, log_variance, everyone, B)
    twice = kl_loss(mu.repeat(2, 1), log_variance.repeat(2, 1), everyone.repeat(2), 2 * B)
    torch.testing.assert_close(once, twice, rtol=1e-14, atol=0)


def closed_form(
    kind: str, dc: torch.Tensor, du: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients with respect to the first modality's shared and distinct code."""
    a, n, e = mask[:, None].double(), int(mask.sum()), EPSILON
    p2 = (dc**2).sum(1, keepdim=True)
    q2 = (du**2).sum(1, keepdim=True)
    if kind == "l2":
        return (
            a / n * dc / ((p2 + e).sqrt() * (q2 + e).sqrt()),
            -a / n * (p2 + e).sqrt() * (q2 + e) ** -1.5 * du,
        )
    if kind == "sq":
        return 2 * a / n * dc / (q2 + e), -2 * a / n * p2 / (q2 + e) ** 2 * du
    if kind == "batch_sq":
        P, Q = (a * p2).sum(), (a * q2).sum()
        return 2 * a * dc / (Q + e), -2 * a * P / (Q + e) ** 2 * du
    if kind == "log":
        return a / n * dc / (p2 + e), -a / n * du / (q2 + e)
    total = p2 + q2 + e
    return 2 * a / n * (q2 + e) * dc / total**2, -2 * a / n * p2 * du / total**2


@pytest.mark.parametrize("kind", RATIO_KINDS)
def test_each_ratio_has_its_closed_form_gradient(kind: str, mask: torch.Tensor) -> None:
    c1, c2, u1, u2 = (draw(B, D, seed=s) for s in range(4))
    ratio_loss((c1, c2), (u1, u2), mask, int(mask.sum()), kind).backward()  # type: ignore[arg-type]
    for_c, for_u = closed_form(kind, (c1 - c2).detach(), (u1 - u2).detach(), mask)
    torch.testing.assert_close(c1.grad, for_c, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(c2.grad, -for_c, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(u1.grad, for_u, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(u2.grad, -for_u, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("kind", RATIO_KINDS)
def test_each_ratio_stays_finite_where_codes_coincide(kind: str) -> None:
    c, u = draw(B, D), draw(B, D, seed=1)
    everyone = torch.ones(B, dtype=torch.bool)
    loss = ratio_loss((c, c.detach()), (u, u.detach()), everyone, B, kind)  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(c.grad).all()
    assert torch.isfinite(u.grad).all()


def test_the_ratio_divides_by_the_widths_where_they_differ(mask: torch.Tensor) -> None:
    c1, c2, u1, u2 = draw(B, 2), draw(B, 2, seed=1), draw(B, 8, seed=2), draw(B, 8, seed=3)
    n = int(mask.sum())
    p2, q2 = ((c1 - c2) ** 2).sum(1) / 2, ((u1 - u2) ** 2).sum(1) / 8
    expected = (p2 / (q2 + EPSILON))[mask].sum() / n
    torch.testing.assert_close(ratio_loss((c1, c2), (u1, u2), mask, n, "sq"), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("form", "slope"), [("l1", 1.0), ("mse", None)])
def test_age_loss_has_its_gradient(form: str, slope: float | None, mask: torch.Tensor) -> None:
    predicted, target = draw(B), draw(B, seed=1).detach()
    n = int(mask.sum())
    age_loss(predicted, target, mask, n, form).backward()  # type: ignore[arg-type]
    error = (predicted - target).detach()
    expected = (error.sign() if slope else 2 * error) * mask / n
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-13, atol=1e-16)


def test_a_column_against_a_row_is_refused_and_not_broadcast(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        age_loss(draw(B, 1), draw(B), mask, B)
    with pytest.raises(ValueError, match="differ in shape"):
        reconstruction_loss(draw(B, F), draw(B, 1), mask, B)


def test_a_term_without_scans_is_zero_in_value_and_gradient() -> None:
    nobody = torch.zeros(B, dtype=torch.bool)
    x, y, u = draw(B, D), draw(B, D, seed=1), draw(B, D, seed=2)
    terms = [
        reconstruction_loss(x, y, nobody, 0),
        kl_loss(x, y, nobody, 0),
        age_loss(x[:, 0], y[:, 0], nobody, 0),
        *(ratio_loss((x, y), (u, x), nobody, 0, kind) for kind in RATIO_KINDS),  # type: ignore[arg-type]
    ]
    assert all(float(term.detach()) == 0.0 for term in terms)
    sum(terms).backward()  # type: ignore[union-attr]
    for tensor in (x, y, u):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_nan_in_absent_rows_changes_no_bit(mask: torch.Tensor) -> None:
    def gradients(poison: bool) -> list[torch.Tensor]:
        x, y, u = draw(B, D).detach(), draw(B, D, seed=1).detach(), draw(B, D, seed=2).detach()
        if poison:
            x[~mask], y[~mask] = float("nan"), float("inf")
        x.requires_grad_(True)
        n = int(mask.sum())
        total = reconstruction_loss(x, y, mask, n) + age_loss(x[:, 0], y[:, 0], mask, n)
        for kind in RATIO_KINDS:
            total = total + ratio_loss((x, u), (y, u), mask, n, kind)  # type: ignore[arg-type]
        total.backward()
        return [total.detach(), x.grad]

    for clean, poisoned in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(clean, poisoned)
