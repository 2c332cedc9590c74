"""Every term against plain loops in numpy, float64, with scans missing in any pattern."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from hpc_brainage.losses.adversarial import adversarial_terms
from hpc_brainage.losses.age import HUBER_DELTA, age_loss, gaussian_nll, soft_label_loss, soft_labels
from hpc_brainage.losses.kl import kl_loss
from hpc_brainage.losses.multi_mse import masked_multi_mse
from hpc_brainage.losses.ratio import EPSILON, RATIO_KINDS, ratio_loss
from hpc_brainage.losses.reconstruction import scan_weights
from hpc_brainage.losses.sex import reversed_gradient, sex_loss
from hpc_brainage.model.networks import Discriminator

B, D, F = 7, 4, 6
masks = st.lists(st.booleans(), min_size=B, max_size=B).map(np.array)
seeds = st.integers(0, 10_000)
fast = settings(deadline=None, max_examples=40)


def close(found: torch.Tensor, expected: float) -> None:
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def reconstruction_loss(
    rebuilt: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, n: int
) -> torch.Tensor:
    """The term of one reconstruction."""
    weights = scan_weights(mask, n, rebuilt.shape[1], rebuilt.dtype)
    return masked_multi_mse([rebuilt], target.detach(), weights[None])[0]


@fast
@given(masks, seeds)
def test_reconstruction_and_kl(mask: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(2, B, F))
    mu, log_variance = draw.normal(size=(2, B, D))
    here = torch.from_numpy(mask)
    n = max(int(mask.sum()), 1)
    rows = [i for i in range(B) if mask[i]]
    close(
        reconstruction_loss(*tensors(x, y), here, n),
        sum((x[i, f] - y[i, f]) ** 2 for i in rows for f in range(F)) / (n * F),
    )
    for bits in (0.0, 0.3):
        total = 0.0
        for i in rows:
            for j in range(D):
                m, variance = mu[i, j], math.exp(log_variance[i, j])
                total += max(0.5 * (m**2 + variance - 1 - math.log(variance)), bits)
        close(kl_loss(*tensors(mu, log_variance), here, n, bits), total / n)


@fast
@given(masks, seeds)
def test_ratios(mask: np.ndarray, seed: int) -> None:
    c1, c2, u1, u2 = np.random.default_rng(seed).normal(size=(4, B, D))
    n, here = max(int(mask.sum()), 1), torch.from_numpy(mask)
    p2 = [float(((c1[i] - c2[i]) ** 2).sum()) for i in range(B) if mask[i]]
    q2 = [float(((u1[i] - u2[i]) ** 2).sum()) for i in range(B) if mask[i]]
    e = EPSILON
    single = {
        "l2": lambda p, q: math.sqrt(p + e) / math.sqrt(q + e),
        "sq": lambda p, q: p / (q + e),
        "log": lambda p, q: 0.5 * (math.log(p + e) - math.log(q + e)),
        "bounded": lambda p, q: p / (p + q + e),
    }
    for kind in RATIO_KINDS:
        found = ratio_loss(tuple(tensors(c1, c2)), tuple(tensors(u1, u2)), here, n, kind)  # type: ignore[arg-type]
        if kind == "batch_sq":
            close(found, sum(p2) / (sum(q2) + e))
        else:
            close(found, sum(single[kind](p, q) for p, q in zip(p2, q2, strict=True)) / n)


@fast
@given(masks, seeds)
def test_age_errors(mask: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    predicted, log_variance, target = draw.normal(size=(3, B))
    n, here = max(int(mask.sum()), 1), torch.from_numpy(mask)
    error = [predicted[i] - target[i] for i in range(B) if mask[i]]

    def huber(e: float) -> float:
        inside = abs(e) <= HUBER_DELTA
        return 0.5 * e * e if inside else HUBER_DELTA * (abs(e) - 0.5 * HUBER_DELTA)

    forms = {"l1": abs, "mse": lambda e: e * e, "huber": huber}
    for form, value in forms.items():
        found = age_loss(*tensors(predicted, target), here, n, form)  # type: ignore[arg-type]
        close(found, sum(map(value, error)) / n)
    likelihood = sum(
        -norm.logpdf(target[i], predicted[i], math.exp(log_variance[i] / 2)) - 0.5 * math.log(2 * math.pi)
        for i in range(B)
        if mask[i]
    )
    close(gaussian_nll(*tensors(predicted, log_variance, target), here, n), likelihood / n)


@fast
@given(masks, seeds)
def test_soft_labels(mask: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    centres = np.linspace(-2, 2, 21)
    logits, target = draw.normal(size=(B, 21)), draw.normal(size=B)
    n, total = max(int(mask.sum()), 1), 0.0
    for i in range(B):
        edges = np.r_[-np.inf, (centres[1:] + centres[:-1]) / 2, np.inf]
        label = np.diff(norm.cdf(edges, target[i], 0.2))
        found = soft_labels(*tensors(target[i : i + 1], centres))[0].numpy()
        np.testing.assert_allclose(found, label, rtol=0, atol=1e-14)
        if mask[i]:
            predicted = np.exp(logits[i]) / np.exp(logits[i]).sum()
            kept = label > 0
            total += (label[kept] * np.log(label[kept] / predicted[kept])).sum()
    found = soft_label_loss(*tensors(logits, centres, target), torch.from_numpy(mask), n)
    assert float(found) == pytest.approx(total / n, rel=1e-9, abs=1e-12)


@fast
@given(masks, seeds)
def test_sex(mask: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logit, sex = draw.normal(size=B) * 3, draw.integers(-1, 2, B)
    known = [i for i in range(B) if mask[i] and sex[i] >= 0]
    n, total = max(len(known), 1), 0.0
    for i in known:
        male = 1 / (1 + math.exp(-logit[i]))
        total -= math.log(male) if sex[i] == 1 else math.log(1 - male)
    close(sex_loss(*tensors(logit, sex), torch.from_numpy(mask), n), total / n)


@pytest.mark.parametrize("single_pass", [True, False])
@fast
@given(masks, seeds)
def test_adversarial_terms(single_pass: bool, mask: np.ndarray, seed: int) -> None:
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = Discriminator(D, (5,)).double()
    codes = {role: draw.normal(size=(B, D)) for role in ("smri", "fmri")}
    prior = {role: draw.normal(size=(B, D)) for role in codes}
    present = {"smri": mask, "fmri": ~mask}

    def logit(x: np.ndarray) -> float:
        first, last = network.net[0], network.net[2]
        h = first.weight.detach().numpy() @ x + first.bias.detach().numpy()
        h = np.where(h > 0, h, 0.2 * h)
        return float(last.weight.detach().numpy()[0] @ h + last.bias.detach().numpy()[0])

    def softplus(value: float) -> float:
        return math.log(1 + math.exp(value))

    for_d = for_e = right = 0.0
    for role, code in codes.items():
        n = max(int(present[role].sum()), 1)
        for i in np.flatnonzero(present[role]):
            fake, real = logit(code[i]), logit(prior[role][i])
            for_d += (softplus(-real) + softplus(fake)) / n / 2
            for_e += softplus(-fake) / n / 2
            right += 0.5 * ((real > 0) + (fake <= 0)) / n / 2
    found = adversarial_terms(
        network,
        {role: torch.from_numpy(code) for role, code in codes.items()},
        {role: torch.from_numpy(draws) for role, draws in prior.items()},
        {role: torch.from_numpy(here) for role, here in present.items()},
        {role: int(here.sum()) for role, here in present.items()},
        0.3,
        single_pass,
    )
    close(found.discriminator, for_d)
    close(found.encoder, for_e)
    close(found.accuracy, right)


# -- gradients -------------------------------------------------------------------------------------


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


MASK = torch.tensor([True, False, True, True, False, True, True])
N = int(MASK.sum())


def test_the_likelihood_has_its_closed_form_gradient() -> None:
    mean, log_variance, target = leaf(B), leaf(B, seed=1), leaf(B, seed=2).detach()
    gaussian_nll(mean, log_variance, target, MASK, N).backward()
    e, precision = (mean - target).detach(), torch.exp(-log_variance.detach())
    torch.testing.assert_close(mean.grad, e * precision * MASK / N, rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(
        log_variance.grad, 0.5 * (1 - e**2 * precision) * MASK / N, rtol=1e-13, atol=1e-16
    )


def test_huber_s_gradient_is_the_error_up_to_its_limit() -> None:
    predicted, target = leaf(B), leaf(B, seed=1).detach()
    age_loss(predicted, target, MASK, N, "huber").backward()
    expected = (predicted.detach() - target).clamp(-HUBER_DELTA, HUBER_DELTA) * MASK / N
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-13, atol=1e-16)


def test_the_soft_label_s_gradient_is_the_difference_of_the_distributions() -> None:
    logits, target, centres = leaf(B, 9), leaf(B, seed=1).detach(), torch.linspace(-2, 2, 9).double()
    soft_label_loss(logits, centres, target, MASK, N).backward()
    expected = (torch.softmax(logits.detach(), 1) - soft_labels(target, centres)) * MASK[:, None] / N
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-16)


def test_free_bits_leave_small_divergences_alone() -> None:
    mu, log_variance = leaf(B, D), leaf(B, D, seed=1)
    kl_loss(mu, log_variance, MASK, N, 0.4).backward()
    divergence = (0.5 * (mu**2 + log_variance.exp() - 1 - log_variance)).detach()
    above = (divergence > 0.4) & MASK[:, None]
    assert 0 < int(above.sum()) < int(MASK.sum()) * D, "both cases are tested"
    torch.testing.assert_close(mu.grad, mu.detach() * above / N, rtol=1e-13, atol=1e-16)


def test_a_reversed_gradient_is_the_gradient_times_minus_the_weight() -> None:
    x, y = leaf(B, D), leaf(B, D)
    assert torch.equal(reversed_gradient(x, 0.3), x)
    (reversed_gradient(x, 0.3).sin().sum()).backward()
    y.sin().sum().backward()
    torch.testing.assert_close(x.grad, -0.3 * y.grad, rtol=1e-15, atol=0)


def test_absent_rows_and_unknown_sexes_reach_no_new_term() -> None:
    def gradients(poison: float | None) -> list[torch.Tensor]:
        mean, log_variance, logits = leaf(B).detach(), leaf(B, seed=1).detach(), leaf(B, 9).detach()
        target, sex = leaf(B, seed=2).detach(), torch.tensor([0, 1, -1, 1, 0, 0, 1])
        if poison is not None:
            for tensor in (mean, log_variance, logits, target):
                tensor[~MASK] = poison
            sex[~MASK] = -1
        leaves = [tensor.requires_grad_(True) for tensor in (mean, log_variance, logits)]
        total = gaussian_nll(mean, log_variance, target, MASK, N)
        total = total + age_loss(mean, target, MASK, N, "huber")
        total = total + soft_label_loss(logits, torch.linspace(-2, 2, 9).double(), target, MASK, N)
        total = total + sex_loss(mean, sex, MASK, N) + kl_loss(logits, logits, MASK, N, 0.2)
        total.backward()
        return [total.detach(), *(tensor.grad for tensor in leaves if tensor.grad is not None)]

    clean = gradients(None)
    for poison in (float("nan"), float("inf"), 1e300):
        for one, other in zip(clean, gradients(poison), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("wrong", [leaf(B, 1), leaf(1)])
def test_shapes_that_would_be_broadcast_are_refused(wrong: torch.Tensor) -> None:
    right = leaf(B)
    with pytest.raises(ValueError, match="differ in shape"):
        gaussian_nll(wrong, right, right, MASK, N)
    with pytest.raises(ValueError, match="differ in shape"):
        gaussian_nll(right, wrong, right, MASK, N)
    with pytest.raises(ValueError, match="differ in shape"):
        age_loss(wrong, right, MASK, N, "huber")
    with pytest.raises(ValueError, match="differ in shape"):
        sex_loss(wrong, torch.zeros(B), MASK, N)
    with pytest.raises(ValueError, match="are not those of"):
        soft_label_loss(right[:, None], torch.linspace(-1, 1, 9).double(), right, MASK, N)
