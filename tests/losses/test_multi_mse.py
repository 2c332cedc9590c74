"""Several reconstructions in one pass: every form against plain torch, on whatever shapes there are."""

from __future__ import annotations

import itertools
import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_brainage.losses import backends, gradient_memory, multi_mse_compiled
from hpc_brainage.losses.multi_mse import masked_multi_mse

TILED = pytest.param("tiled")
COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(bool(multi_mse_compiled.lacks()), reason="no C compiler")
)
forms = pytest.mark.parametrize("form", [TILED, COMPILED])
everywhere = pytest.mark.parametrize("form", [pytest.param("reference"), TILED, COMPILED])

TOLERANCES = {  # loss relative, gradient relative to its norm
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-6, 1e-6),
    torch.bfloat16: (1e-6, 4e-3),
    torch.float16: (1e-6, 5e-4),
}
"""Against float64 of the same inputs. Sums are float32, so only the stored gradient is rounded coarsely."""


def draw(
    K: int, B: int, F: int, dtype: torch.dtype = torch.float32, absent: float = 0.3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reconstructions, target and weights, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    recons = torch.randn(K, B, F, generator=generator).to(dtype)
    target = torch.randn(B, F, generator=generator).to(dtype)
    here = torch.rand(K, B, generator=generator) >= absent
    weights = torch.where(here, 0.5 + torch.rand(K, B, generator=generator), 0.0)
    return recons, target, weights


def in_double(
    recons: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, error: str, upstream: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, errors and gradient by hand, in float64."""
    here = weights != 0
    w = weights.double()
    difference = torch.where(here[..., None], recons.double() - target.double(), 0.0)
    errors = (difference.square() if error == "squared" else difference.abs()).sum(dim=2)
    slope = 2 * difference if error == "squared" else difference.sign()
    return (w * errors).sum(), errors, upstream * w[..., None] * slope


def found_by(
    form: str,
    recons: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    error: str = "squared",
    upstream: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    leaf = recons.detach().requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        loss, errors = masked_multi_mse(leaf, target, weights, error)  # type: ignore[arg-type]
        (loss * upstream).backward()
    assert leaf.grad is not None
    return loss.detach(), errors, leaf.grad


def assert_close(found: tuple, expected: tuple, dtype: torch.dtype, roundings: int = 1) -> None:
    of_loss, of_gradient = TOLERANCES[dtype]
    torch.testing.assert_close(found[0].double(), expected[0], rtol=of_loss, atol=1e-30)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=2 * of_loss, atol=1e-30)
    distance = (found[2].double() - expected[2]).norm()
    assert distance <= roundings * of_gradient * expected[2].norm()


@everywhere
@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("F", [1, 7, 41, 401, 1271, 4097, 8193])
def test_loss_errors_and_gradients_are_those_of_the_formula(form: str, error: str, F: int) -> None:
    for K, B in [(1, 1), (2, 7), (3, 41), (4, 2)]:
        given_ = draw(K, B, F, seed=F)
        assert_close(found_by(form, *given_, error), in_double(*given_, error), torch.float32)


@forms
def test_a_row_of_several_tiles_is_the_sum_of_them(form: str) -> None:
    given_ = draw(2, 3, 300_001)
    assert_close(found_by(form, *given_), in_double(*given_, "squared"), torch.float32)


@everywhere
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_each_type_keeps_to_its_tolerance(form: str, dtype: torch.dtype) -> None:
    given_ = draw(3, 9, 2000, dtype)
    found = found_by(form, *given_)
    assert found[2].dtype == dtype
    assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(found, in_double(*given_, "squared"), dtype)


@everywhere
@pytest.mark.parametrize("upstream", [0.0, -2.5, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_upstream_gradient_multiplies(form: str, upstream: float, dtype: torch.dtype) -> None:
    given_ = draw(2, 7, 401, dtype)
    expected = in_double(*given_, "squared", upstream)
    assert_close(found_by(form, *given_, upstream=upstream), expected, dtype, roundings=2)


@everywhere
def test_columns_that_are_not_dense_and_rows_that_are_far_apart(form: str) -> None:
    recons, target, weights = draw(2, 7, 401)
    expected = in_double(recons, target, weights, "squared")
    by_column = recons.transpose(1, 2).contiguous().transpose(1, 2)
    within = torch.full((2, 14, 500), float("nan"))
    within[:, ::2, 50:451] = recons
    wide_target = torch.full((7, 900), float("nan"))
    wide_target[:, 3:404] = target
    spaced_weights = torch.zeros(2, 14)
    spaced_weights[:, ::2] = weights
    for one in (by_column, within[:, ::2, 50:451]):
        for goal in (wide_target[:, 3:404], target.t().contiguous().t()):
            found = found_by(form, one, goal, spaced_weights[:, ::2])
            assert_close(found, expected, torch.float32)
    alike = target[:1].expand(7, 401)
    assert_close(
        found_by(form, recons, alike, weights), in_double(recons, alike, weights, "squared"), torch.float32
    )


@everywhere
def test_a_list_of_reconstructions_is_as_good_as_a_stack(form: str) -> None:
    recons, target, weights = draw(3, 7, 41)
    leaves = [recon.clone().requires_grad_() for recon in recons]
    with backends.using(form):  # type: ignore[arg-type]
        loss, errors = masked_multi_mse(leaves, target, weights)
        loss.backward()
    whole = found_by(form, recons, target, weights)
    assert torch.equal(loss.detach(), whole[0])
    assert torch.equal(errors, whole[1])
    assert torch.equal(torch.stack([leaf.grad for leaf in leaves]), whole[2])


@everywhere
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_what_stands_in_an_absent_scan_changes_no_bit(form: str, poison: float, error: str) -> None:
    recons, target, weights = draw(3, 9, 1271)
    weights[:, 4] = 0
    clean = found_by(form, recons, target, weights, error, upstream=3.0)
    recons[weights == 0] = poison
    target[4] = poison
    poisoned = found_by(form, recons, target, weights, error, upstream=3.0)
    for one, other in zip(clean, poisoned, strict=True):
        assert torch.equal(one, other)
    gradient_of_absent = poisoned[2][weights == 0]
    assert torch.equal(gradient_of_absent, torch.zeros_like(gradient_of_absent))


@everywhere
def test_nan_in_a_scan_that_counts_is_not_hidden(form: str) -> None:
    for error in ("squared", "absolute"):
        recons, target, weights = draw(2, 5, 41, absent=0.0)
        recons[1, 2, 7] = float("nan")
        loss, errors, gradient = found_by(form, recons, target, weights, error)
        assert torch.isnan(loss)
        assert torch.isnan(errors).nonzero().tolist() == [[1, 2]]
        if error == "squared":
            assert torch.isnan(gradient).nonzero().tolist() == [[1, 2, 7]]


@everywhere
def test_nobody_and_one_scan(form: str) -> None:
    recons, target, weights = draw(2, 7, 401)
    nobody = found_by(form, recons, target, torch.zeros_like(weights))
    assert all(not one.any() for one in nobody)
    one = torch.zeros_like(weights)
    one[1, 3] = 0.25
    found = found_by(form, recons, target, one)
    assert_close(found, in_double(recons, target, one, "squared"), torch.float32)
    assert found[1].count_nonzero() == 1


@pytest.mark.parametrize("form", ["reference", "tiled"])
def test_gradcheck_in_float64(form: str) -> None:
    recons, target, weights = draw(2, 4, 5, torch.float64)
    leaf = recons.requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda r: masked_multi_mse(r, target, weights)[0], [leaf])


@forms
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3000), st.integers(0, 999), st.floats(0, 1))
def test_any_shape_and_any_pattern_of_absence(
    form: str, K: int, B: int, F: int, seed: int, absent: float
) -> None:
    given_ = draw(K, B, F, absent=absent, seed=seed)
    assert_close(found_by(form, *given_), in_double(*given_, "squared"), torch.float32)


@forms
def test_the_same_bits_come_again_and_with_any_number_of_threads(form: str) -> None:
    given_ = draw(3, 16, 20_000)
    before = torch.get_num_threads()
    first = found_by(form, *given_)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            again = found_by(form, *given_)
            assert torch.equal(again[2], first[2])
            if form == "compiled":
                assert torch.equal(again[0], first[0])
                assert torch.equal(again[1], first[1])
    finally:
        torch.set_num_threads(before)
    again = found_by(form, *given_)
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@forms
def test_more_elements_than_32_bits_can_count(form: str) -> None:
    """Rows four gigabytes apart: of memory that is only promised, a few pages are touched."""
    apart = 2**30 + 8
    promised = mmap.mmap(-1, 4 * (2 * apart + 16), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    far = torch.frombuffer(promised, dtype=torch.float32)
    rows = far.as_strided((3, 16), (apart, 1))
    goal = torch.arange(48.0).view(3, 16)
    for given_ in ((rows, goal), (goal, rows)):
        loss, errors, gradient = found_by(form, given_[0][None], given_[1], torch.ones(1, 3))
        expected = in_double(given_[0][None], given_[1], torch.ones(1, 3), "squared")
        assert_close((loss, errors, gradient), expected, torch.float32)


# -- what has no gradient, and whose memory it is ---------------------------------------------------


@everywhere
def test_a_gradient_that_there_is_none_of_is_refused(form: str) -> None:
    recons, target, weights = draw(2, 3, 5)
    with backends.using(form):  # type: ignore[arg-type]
        for wrong in (
            (target.clone().requires_grad_(), weights),
            (target, weights.clone().requires_grad_()),
        ):
            with pytest.raises(ValueError, match="detach"):
                masked_multi_mse(recons, *wrong)
        errors = masked_multi_mse(recons.requires_grad_(), target, weights)[1]
    assert not errors.requires_grad


@forms
def test_a_second_derivative_raises(form: str) -> None:
    recons, target, weights = draw(2, 3, 5)
    leaf = recons.requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = masked_multi_mse(leaf, target, weights)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaf, create_graph=True)


@forms
def test_a_graph_that_is_kept_gives_the_same_gradient_again(form: str) -> None:
    recons, target, weights = draw(2, 3, 5)
    leaf = recons.requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = masked_multi_mse(leaf, target, weights)
    (3 * loss).backward(retain_graph=True)
    once = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, once * 4 / 3)
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


@forms
def test_without_gradients_nothing_is_written(form: str) -> None:
    recons, target, weights = draw(2, 7, 401)
    before = recons.clone()
    with backends.using(form), torch.no_grad():  # type: ignore[arg-type]
        loss, errors = masked_multi_mse(recons.clone().requires_grad_(), target, weights)
        again = masked_multi_mse(recons, target, weights, overwrite=True)
    assert not loss.requires_grad
    assert torch.equal(recons, before)
    assert torch.equal(loss, again[0])
    expected = in_double(recons, target, weights, "squared")[1]
    torch.testing.assert_close(errors.double(), expected, rtol=1e-6, atol=0)


@forms
def test_overwriting_gives_the_same_bits_and_takes_no_memory(form: str) -> None:
    recons, target, weights = draw(2, 7, 1271)
    leaf = recons.clone().requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        rebuilt = leaf + 0
        loss, errors = masked_multi_mse(rebuilt, target, weights, overwrite=True)
    kept = found_by(form, recons, target, weights)
    assert torch.equal(rebuilt.detach(), kept[2]), "the gradient lies where the reconstruction was"
    loss.backward()
    for one, other in zip((loss.detach(), errors, leaf.grad), kept, strict=True):
        assert torch.equal(one, other)


@forms
def test_whoever_needs_an_overwritten_reconstruction_finds_out(form: str) -> None:
    recons, target, weights = draw(2, 7, 41)
    with backends.using(form):  # type: ignore[arg-type]
        rebuilt = recons.clone().requires_grad_().exp()  # its gradient is itself
        loss, _ = masked_multi_mse(rebuilt, target, weights, overwrite=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@everywhere
def test_nobody_s_parameter_input_or_constant_is_overwritten(form: str) -> None:
    recons, target, weights = draw(2, 7, 41)
    parameter = recons.clone().requires_grad_()
    rebuilt, constant = recons[0].clone().requires_grad_() + 0, recons[1].clone()
    views = [parameter.view_as(parameter), parameter.unbind(0), [rebuilt, constant], [rebuilt, constant[:]]]
    with backends.using(form):  # type: ignore[arg-type]
        for slabs in (parameter, *views):
            with pytest.raises(ValueError, match="leaf"):
                masked_multi_mse(slabs, target, weights, overwrite=True)
        with torch.no_grad():  # then nothing is written
            masked_multi_mse(parameter, target, weights, overwrite=True)
    assert torch.equal(parameter, recons)
    assert torch.equal(constant, recons[1])


def test_what_lies_in_the_same_memory_is_not_overwritten() -> None:
    recons, target, weights = draw(2, 7, 41)
    rebuilt = recons.clone().requires_grad_() + 0
    one = rebuilt[0]
    for slabs, goal in (([one, one], target), ([rebuilt, one], target), ([one, rebuilt[1]], one.detach())):
        of_each = torch.ones(sum(len(slab.view(-1, 7, 41)) for slab in slabs), 7)
        with pytest.raises(ValueError, match="same memory"):
            masked_multi_mse(slabs, goal, of_each, overwrite=True)
    masked_multi_mse(list(rebuilt.unbind(0)), target, weights, overwrite=True)
    side_by_side = torch.randn(7, 82).requires_grad_() + 0
    masked_multi_mse([side_by_side[:, :41], side_by_side[:, 41:]], target, weights, overwrite=True)


@forms
def test_negative_weights_are_refused(form: str) -> None:
    recons, target, weights = draw(2, 7, 41)
    weights[1, 3] = -1e-3
    with backends.using(form), pytest.raises(ValueError, match="negative"):  # type: ignore[arg-type]
        masked_multi_mse(recons, target, weights)


@forms
def test_the_gradients_of_two_graphs_that_live_at_once_do_not_mix(form: str) -> None:
    F = gradient_memory.SMALLEST // 8
    one, other = draw(1, 2, F, absent=0.0), draw(1, 2, F, absent=0.0, seed=1)
    leaves = [one[0].requires_grad_(), other[0].requires_grad_()]
    with backends.using(form):  # type: ignore[arg-type]
        losses = [
            masked_multi_mse(leaf, x, w)[0] for leaf, (_, x, w) in zip(leaves, (one, other), strict=True)
        ]
    for loss in losses:
        loss.backward()
    for leaf, (recons, target, weights) in zip(leaves, (one, other), strict=True):
        torch.testing.assert_close(leaf.grad, 2 * weights[..., None] * (recons - target).detach())


# -- what is refused, and what only plain torch can do ----------------------------------------------


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    recons, target, weights = draw(2, 3, 5)
    mixed = [recons[0], recons[1].double()]
    wrong: dict[str, list] = {
        "differ in shape": [
            (recons, target[:, :1], weights),
            (recons, target[:2], weights),
            (recons[:, :, 0], target, weights),
        ],
        "no reconstruction": [([], target, weights)],
        "one floating type": [(mixed, target, weights), (recons.int(), target, weights)],
        "are not those of": [(recons, target, weights[:1]), (recons, target, weights.t())],
    }
    for message, cases in wrong.items():
        for case in cases:
            with pytest.raises(ValueError, match=message):
                masked_multi_mse(*case)
    with pytest.raises(ValueError, match="neither squared nor absolute"):
        masked_multi_mse(recons, target, weights, "cubed")  # type: ignore[arg-type]


@everywhere
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_lies_on_another_device_is_refused(form: str, place: int) -> None:
    """In C its address would be nobody's memory."""
    given_ = list(draw(2, 3, 5))
    given_[place] = given_[place].to("meta")
    with backends.using(form), pytest.raises(ValueError, match="one device"):  # type: ignore[arg-type]
        masked_multi_mse(*given_)


@everywhere
def test_signs_that_torch_has_only_made_a_note_of_are_heeded(form: str) -> None:
    recons, target, weights = draw(2, 7, 41)
    noted = [torch._neg_view(recons), torch._neg_view(target), torch._neg_view(-weights)]
    expected = in_double(-recons, -target, weights, "squared")
    assert_close(found_by(form, *noted), expected, torch.float32)
    leaf = recons.clone().requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = masked_multi_mse(torch._neg_view(leaf + 0), *noted[1:], overwrite=True)
        loss.backward()
    torch.testing.assert_close(leaf.grad.double(), -expected[2], rtol=1e-6, atol=1e-6)


@forms
def test_a_tracing_compiler_takes_the_reference_without_a_break(form: str) -> None:
    recons, target, weights = draw(2, 7, 401)
    leaf = recons.requires_grad_()
    traced = torch.compile(
        lambda r, x, w: masked_multi_mse(r * 1.0, x, w, overwrite=True)[0],
        fullgraph=True,
        backend="aot_eager",
    )
    with backends.using(form):  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(traced(leaf, target, weights), leaf)
    assert torch.equal(gradient, found_by("reference", recons, target, weights)[2])


def test_a_tensor_that_only_pretends_to_be_there_takes_the_reference() -> None:
    with FakeTensorMode(), backends.using("tiled"):
        recons, target, weights = draw(2, 7, 41)
        loss, errors = masked_multi_mse(recons.requires_grad_(), target, weights)
    assert loss.shape == ()
    assert errors.shape == (2, 7)


def test_forms_agree_with_each_other_on_a_wide_target() -> None:
    given_ = draw(2, 4, 70_001, absent=0.25)
    both = [found_by(form, *given_) for form in ("reference", "tiled")]
    if not multi_mse_compiled.lacks():
        both.append(found_by("compiled", *given_))
    for one, other in itertools.pairwise(both):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-6)
