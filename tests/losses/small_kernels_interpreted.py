"""The kernels of the latent block and of the discriminator's logits, in Triton's interpreter.

Not collected by itself: the interpreter has to be asked for before Triton is imported, so
`test_small_kernels.py` runs this file in a process of its own.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from latent_cases import FORMS, case, outputs

from hpc_brainage.losses import adversarial_triton, latent_triton
from hpc_brainage.losses.adversarial_logits import closed, logit_terms
from hpc_brainage.losses.backends import using
from hpc_brainage.losses.latent_block import latent_block, latent_reference
from hpc_brainage.losses.latent_triton import latent_fused
from hpc_brainage.model.noise import Draws, philox
from hpc_brainage.model.philox_triton import philox_words

# Largest errors against double precision on the same inputs as rounded: of the terms, relative to them; of
# codes, relative to the largest; of gradients, in norm. A draw is rounded once, as it is stored.
TOLERANCES = {
    torch.float64: (1e-13, 1e-13, 1e-12),
    torch.float32: (1e-6, 1e-6, 1e-5),
    torch.bfloat16: (1e-5, 2**-7, 8e-3),  # the interpreter cuts digits off where a GPU rounds
    torch.float16: (1e-5, 2**-11, 1e-3),
}


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a large tile as for a small one."""
    monkeypatch.setattr(latent_triton, "TILE", 2048)


def assert_close(found: tuple, expected: tuple, dtype: torch.dtype) -> None:
    terms, codes, slopes = TOLERANCES[dtype]
    for name, one in expected[0].items():
        largest = terms if name in ("kl", "ratio") else codes
        error = (found[0][name].double() - one).abs().max()
        assert error <= largest * one.abs().max(), (name, float(error))
    for one, other in zip(found[1], expected[1], strict=True):
        assert (one.double() - other).norm() <= slopes * other.norm() + 1e-300


@pytest.mark.parametrize("name", FORMS)
def test_the_kernels_compute_what_the_reference_does(name: str) -> None:
    given = case(7, **FORMS[name])
    assert_close(outputs(latent_fused, given), outputs(latent_reference, given), torch.float64)


@pytest.mark.parametrize("scans", [1, 41])
def test_several_programs_do_what_one_does(scans: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_triton, "TILE", 128)
    given = case(scans, missing="poe")
    assert_close(outputs(latent_fused, given), outputs(latent_reference, given), torch.float64)


@pytest.mark.parametrize("here", ["all", "one", "nobody"])
@pytest.mark.parametrize("name", ["as it is", "product of experts", "of sums"])
def test_whoever_is_there(name: str, here: str) -> None:
    given = case(9, here=here, **FORMS[name])
    found, expected = outputs(latent_fused, given), outputs(latent_reference, given)
    assert_close(found, expected, torch.float64)
    if here == "nobody":
        assert float(found[0]["kl"]) == float(found[0]["ratio"]) == 0
        assert all(not slope.any() for slope in found[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["product of experts", "roots", "wide"])
def test_every_precision_keeps_its_tolerance(name: str, dtype: torch.dtype) -> None:
    rounded = case(41, **FORMS[name]).to(dtype)
    # What arrives from behind is rounded too: it enters in the precision of the codes.
    exact = outputs(_with_rounded_upstream(dtype), rounded.to(torch.float64))
    assert_close(outputs(latent_fused, rounded), exact, dtype)


def _with_rounded_upstream(dtype: torch.dtype):
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, upstream):
            return upstream.to(dtype).to(upstream)

    def block(*given: object):
        made = latent_reference(*given)
        return replace(made, z=Rounded.apply(made.z), joined=Rounded.apply(made.joined))

    return block


@pytest.mark.parametrize("name", ["as it is", "product of experts", "of sums"])
def test_nan_in_absent_rows_changes_no_bit_and_the_same_bits_come_out_again(name: str) -> None:
    given = case(9, **FORMS[name]).to(torch.float32)
    clean = outputs(latent_fused, given)
    dirty = given.to(torch.float32)
    with torch.no_grad():
        for tensors in (dirty.mu, dirty.log_variance):
            for one, mask in zip(tensors, dirty.present, strict=True):
                one[~mask] = float("nan")
    for again in (outputs(latent_fused, given), outputs(latent_fused, dirty)):
        assert all(torch.equal(again[0][part], clean[0][part]) for part in clean[0])
        assert all(torch.equal(a, b) for a, b in zip(again[1], clean[1], strict=True))


def test_neither_the_order_of_a_batch_nor_who_else_is_in_it_changes_a_scan() -> None:
    given = case(9).to(torch.float32)
    whole, _ = outputs(latent_fused, given)
    for rows in (torch.tensor([4, 0, 8, 2, 1, 3, 5, 6, 7]), torch.tensor([5])):
        part, _ = outputs(latent_fused, given.among(rows))
        assert torch.equal(part["z"], whole["z"][:, rows])
        assert torch.equal(part["joined"], whole["joined"][:, rows])


def test_inputs_may_be_parts_of_other_tensors() -> None:
    given = case(7)
    for wide in (
        torch.randn(7, 12, dtype=torch.float64)[:, 3:8],
        torch.randn(5, 14, dtype=torch.float64).T[::2],
    ):
        strided = replace(given, mu=[wide.requires_grad_(), given.mu[1]])
        assert not wide.is_contiguous()
        assert_close(outputs(latent_fused, strided), outputs(latent_reference, strided), torch.float64)


def test_rows_may_lie_further_apart_than_32_bits_count() -> None:
    far = torch.empty(2**31 + 8, dtype=torch.float16)  # of which only two rows are ever touched
    rows = far.as_strided((2, 5), (2**31, 1))
    rows.copy_(torch.randn(2, 5))
    given = case(2, here="all").to(torch.float16)
    near = replace(given, mu=[rows.clone().requires_grad_(), given.mu[1]])
    distant = replace(given, mu=[rows.detach().requires_grad_(), given.mu[1]])
    found, expected = outputs(latent_fused, distant), outputs(latent_fused, near)
    assert all(torch.equal(found[0][part], expected[0][part]) for part in expected[0])


@triton.jit
def _uniforms(scans, out, step, seed, STREAM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)[None, :]
    scan = tl.load(scans + row) + tl.zeros((1, 1), tl.int64)
    found = latent_triton._uniform(scan, step, seed, STREAM, column)
    tl.store(out + row * WIDTH + column, found, mask=column < WIDTH)


@pytest.mark.parametrize(
    ("seed", "stream", "step"), [(0, 0, 0), (11, 1, 2**31 - 1), (2**31 + 5, 8, 17), (2**40 + 3, 1, 2**31)]
)
def test_the_noise_is_the_model_s_integer_for_integer(seed: int, stream: int, step: int) -> None:
    scans = torch.tensor([0, 5, 2**31 - 1, 2**31 + 7, 2**32 + 1, 2**45 + 3])
    for width in (1, 4, 7):
        out = torch.empty(len(scans), width, dtype=torch.float64)
        _uniforms[(len(scans),)](scans, out, step, seed, STREAM=stream, WIDTH=width, BLOCK=8)
        assert torch.equal(out, Draws(scans, seed, step).uniform(width, stream))


def test_philox_in_one_kernel_gives_the_words_of_tensor_operations() -> None:
    draw = torch.Generator().manual_seed(0)
    counter = torch.randint(0, 2**32, (4, 3, 5, 100), generator=draw).unbind()
    for seed in (0, 7, 2**40 + 3, 2**63 - 1):
        for one, other in zip(philox_words(counter, seed), philox(counter, seed), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_a_standard_code_is_the_model_s_noise(distinct: int) -> None:
    given = case(6, here="all", distinct=distinct)
    zeros = [torch.zeros_like(one) for one in given.mu]
    for dtype, largest in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        own = replace(given, mu=zeros, log_variance=zeros).to(dtype)
        found, _ = outputs(latent_fused, own)
        noise = given.noise.normals(3 + distinct, [0, 1])
        assert (found["z"].double() - noise).abs().max() <= largest * 4


def test_the_backward_pass_has_no_backward_pass_and_terms_alone_have_a_gradient() -> None:
    given = case(5)
    made = latent_fused(*(getattr(given, name) for name in given.__dataclass_fields__))
    (alone,) = torch.autograd.grad(made[2], given.mu[0], retain_graph=True)
    reference = latent_reference(*(getattr(given, name) for name in given.__dataclass_fields__))
    torch.testing.assert_close(alone, torch.autograd.grad(reference.kl, given.mu[0])[0])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(made[0].sum(), given.mu[0], create_graph=True)


def test_the_one_place_that_chooses_takes_the_kernels_if_they_are_wished_for() -> None:
    given = case(5).to(torch.float32)
    with using("triton"):
        made = latent_block(*(getattr(given, name) for name in given.__dataclass_fields__))
    assert "_LatentBlock" in type(made.z.grad_fn).__name__


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []

    def device_of(tensor: torch.Tensor) -> nullcontext[None]:
        asked.append(tensor)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    given = case(5).to(torch.float32)
    outputs(latent_fused, given)
    assert len(asked) == 2, "forward and backward"
    here, counts = given.present, [5, 5]
    adversarial_triton.one_pass(torch.randn(2, 5), torch.randn(2, 5), here, counts)
    philox_words(torch.zeros(4, 3, dtype=torch.int64).unbind(), 1)
    assert len(asked) == 4


# -- the discriminator's logits --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("modalities", "scans"), [(1, 1), (2, 7), (2, 1500)])
def test_the_logits_kernel_computes_what_the_closed_form_does(
    modalities: int, scans: int, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(scans)
    fake, real = (20 * torch.randn(2, modalities, scans, generator=draw, dtype=torch.float64)).to(dtype)
    here = list(torch.rand(modalities, scans, generator=draw) > 0.3)
    counts = [int(mask.sum()) for mask in here]
    expected, expected_slopes = closed(fake.double(), real.double(), here, counts)
    for bad in (0.0, float("nan"), float("inf")):
        for one in (fake, real):
            one[~torch.stack(here)] = bad
        terms, slopes = adversarial_triton.one_pass(fake, real, here, counts)
        precision = torch.finfo(terms[0].dtype).eps
        for one, other in zip(terms, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=4 * precision, atol=1e-10)
        torch.testing.assert_close(
            slopes.double(), expected_slopes, rtol=2 * torch.finfo(dtype).eps, atol=1e-12
        )
        assert not slopes[:, ~torch.stack(here)].any()


def test_of_no_scans_the_logits_make_nothing() -> None:
    nobody = torch.zeros(2, 0, requires_grad=True)
    with using("triton"):
        terms = logit_terms(nobody, nobody, [torch.zeros(0, dtype=torch.bool)] * 2, [0, 0])
        terms[0].backward()
    assert [float(term.detach()) for term in terms] == [0, 0, 0]
    assert nobody.grad is not None
    assert nobody.grad.shape == (2, 0)


def test_shares_are_of_the_whole_step_not_of_the_scans_at_hand() -> None:
    fake, real = torch.randn(2, 2, 7, dtype=torch.float64)
    here, counts = [torch.arange(7) < 4, torch.arange(7) > 1], [40, 17]
    found, slopes = adversarial_triton.one_pass(fake, real, here, counts)
    expected, expected_slopes = closed(fake, real, here, counts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-13, atol=0)


@pytest.mark.parametrize("sure", [0.0, 1.0, 10.0, 20.0, 30.0, 36.0, 40.0, 700.0])
def test_the_little_that_a_sure_discriminator_errs_keeps_all_its_digits(sure: float) -> None:
    fake = torch.tensor([[-sure]], dtype=torch.float64)
    (loss, _, _), _ = adversarial_triton.one_pass(fake, -fake, [torch.ones(1, dtype=torch.bool)], [1])
    assert float(loss) == pytest.approx(2 * math.log1p(math.exp(-sure)), rel=1e-14, abs=0)


def test_signs_that_torch_has_only_made_a_note_of_are_heeded() -> None:
    given = case(5)
    noted = replace(given, mu=[torch._neg_view(-one) for one in given.mu])
    torch.testing.assert_close(outputs(latent_fused, noted)[0], outputs(latent_fused, given)[0])
    fake, everyone = torch.randn(1, 5), [torch.ones(5, dtype=torch.bool)]
    found, _ = adversarial_triton.one_pass(torch._neg_view(fake), torch._neg_view(fake), everyone, [5])
    expected, _ = adversarial_triton.one_pass(-fake, -fake, everyone, [5])
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
