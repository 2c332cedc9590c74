"""The discriminator's terms from its logits: the closed form against the definition."""

from __future__ import annotations

import pytest
import torch

from hpc_brainage.losses.adversarial_logits import closed, logit_reference, logit_terms
from hpc_brainage.losses.backends import using

Given = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[int]]


def logits(modalities: int = 2, scans: int = 9, spread: float = 3.0, chance: float = 0.7) -> Given:
    draw = torch.Generator().manual_seed(modalities * scans)
    both = spread * torch.randn(2, modalities, scans, generator=draw, dtype=torch.float64)
    fake, real = (one.requires_grad_() for one in both)
    here = list(torch.rand(modalities, scans, generator=draw) < chance)
    return fake, real, here, [int(mask.sum()) for mask in here]


@pytest.mark.parametrize(
    ("modalities", "scans", "chance"), [(1, 1, 1.0), (2, 7, 0.7), (2, 41, 0.5), (2, 5, 0.0)]
)
def test_the_closed_form_is_the_definition(modalities: int, scans: int, chance: float) -> None:
    given = logits(modalities, scans, chance=chance)
    expected = logit_reference(*given)
    with using("tiled"):
        found = logit_terms(*given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)
    slopes = torch.autograd.grad(1.7 * expected[0], given[:2])
    for one, other in zip(torch.autograd.grad(1.7 * found[0], given[:2]), slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("counts", [[9, 40], [1, 17]])
def test_shares_are_of_the_whole_step_not_of_the_scans_at_hand(counts: list[int]) -> None:
    fake, real, here, own = logits()
    assert counts != own
    expected = logit_reference(fake, real, here, counts)
    slopes = torch.autograd.grad(expected[0], (fake, real))
    found, found_slopes = closed(fake.detach(), real.detach(), here, counts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(found_slopes, torch.stack(slopes), rtol=1e-13, atol=1e-16)


def test_the_gradient_is_that_of_finite_differences() -> None:
    fake, real, here, counts = logits()
    with using("tiled"):
        assert torch.autograd.gradcheck(lambda f, r: logit_terms(f, r, here, counts)[0], (fake, real))


def test_a_discriminator_may_be_as_sure_as_it_likes() -> None:
    fake = torch.tensor([[1e4, -1e4, 90.0, -90.0]])
    everyone, four = [torch.ones(4, dtype=torch.bool)], [4]
    (loss, encoder, right), slopes = closed(fake, -fake, everyone, four)
    assert float(loss) == pytest.approx((2e4 + 180) / 4)
    assert float(encoder) == pytest.approx((1e4 + 90) / 4)
    assert float(right) == 0.5
    torch.testing.assert_close(slopes[0], torch.tensor([[0.25, 0, 0.25, 0]]), rtol=0, atol=1e-38)
    assert torch.equal(slopes[1], -slopes[0])


def test_nan_in_absent_rows_changes_no_bit_and_gets_no_gradient() -> None:
    fake, real, here, counts = logits()
    clean, slopes = closed(fake, real, here, counts)
    absent = ~torch.stack(here)
    for bad in (float("nan"), float("inf"), -float("inf")):
        dirty = [torch.where(absent, torch.full_like(one, bad), one) for one in (fake, real)]
        found, found_slopes = closed(*dirty, here, counts)
        assert all(torch.equal(one, other) for one, other in zip(found, clean, strict=True))
        assert torch.equal(found_slopes, slopes)
        assert not found_slopes[:, absent].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_stay_within_their_rounding(dtype: torch.dtype) -> None:
    fake, real, here, counts = logits(scans=41)
    fake, real = fake.detach().to(dtype), real.detach().to(dtype)
    expected, expected_slopes = closed(fake.double(), real.double(), here, counts)
    found, slopes = closed(fake, real, here, counts)
    step = torch.finfo(dtype).eps
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=8 * step, atol=0)
    torch.testing.assert_close(slopes.double(), expected_slopes, rtol=4 * step, atol=1e-7)


def test_what_has_no_gradient_refuses_to_give_one() -> None:
    given = logits()
    with using("tiled"):
        loss, encoder, right = logit_terms(*given)
    for term in (encoder, right):
        with pytest.raises(RuntimeError, match="does not require grad"):
            term.backward()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, given[0], create_graph=True)


def test_members_in_one_pass_take_the_definition() -> None:
    fake, real, here, counts = logits()
    several = torch.stack([fake, fake + 1]).detach()
    with using("tiled"):
        together = torch.func.vmap(lambda one: logit_terms(one, real, here, counts)[0])(several)
    for one, alone in zip(together, several, strict=True):
        torch.testing.assert_close(one, logit_reference(alone, real, here, counts)[0])
