"""The last layer and its loss in one: tiles and Gram matrices against a reconstruction in full."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hpc_brainage.losses import backends, linear_mse_tiles, multi_mse_compiled
from hpc_brainage.losses.linear_mse import linear_multi_mse
from hpc_brainage.losses.linear_mse_gram import BEST_FIT, gram_pass

COMPILED = pytest.param(
    "compiled", marks=pytest.mark.skipif(bool(multi_mse_compiled.lacks()), reason="no C compiler")
)
everywhere = pytest.mark.parametrize("form", [pytest.param("reference"), pytest.param("tiled"), COMPILED])
forms = pytest.mark.parametrize("form", [pytest.param("tiled"), COMPILED])

TOLERANCES = {  # loss relative, gradients relative to their norm; stored in the type of the inputs
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (1e-5, 4e-3),
    torch.float16: (1e-5, 5e-4),
}


def draw(
    K: int,
    B: int,
    H: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    absent: float = 0.3,
    seed: int = 0,
) -> list[torch.Tensor]:
    """Hidden units, weight, bias, target and weights of scans."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(K, B, H, generator=generator).to(dtype)
    W = (torch.randn(width, H, generator=generator) * H**-0.5).to(dtype)
    b = (0.3 * torch.randn(width, generator=generator)).to(dtype)
    target = torch.randn(B, width, generator=generator).to(dtype)
    here = torch.rand(K, B, generator=generator) >= absent
    weights = torch.where(here, 0.5 + torch.rand(K, B, generator=generator), 0.0)
    return [hidden, W, b, target, weights]


def in_double(
    hidden: torch.Tensor,
    W: torch.Tensor,
    b: torch.Tensor | None,
    target: torch.Tensor,
    weights: torch.Tensor,
    error: str = "squared",
) -> list[torch.Tensor]:
    """Loss, errors and gradients by autograd through the reconstruction, in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (hidden, W, b) if x is not None]
    here = (weights != 0)[..., None]
    rebuilt = F.linear(torch.where(here, leaves[0], 0.0), *leaves[1:])
    difference = torch.where(here, rebuilt - target.double(), 0.0)
    errors = (difference.square() if error == "squared" else difference.abs()).sum(dim=2)
    loss = (weights.double() * errors).sum()
    return [loss.detach(), errors.detach(), *torch.autograd.grad(loss, leaves)]


def found_by(form: str, given_: list, error: str = "squared", gram: bool = False) -> list[torch.Tensor]:
    hidden, W, b, target, weights = given_
    leaves = [x.detach().requires_grad_() for x in (hidden, W, b) if x is not None]
    with backends.using(form):  # type: ignore[arg-type]
        loss, errors = linear_multi_mse(
            leaves[0], leaves[1], leaves[2] if b is not None else None, target, weights, error, gram
        )  # type: ignore[arg-type]
    assert not errors.requires_grad
    return [loss.detach(), errors, *torch.autograd.grad(loss, leaves)]


def assert_close(found: list, expected: list, of_loss: float, of_gradient: float) -> None:
    torch.testing.assert_close(found[0].double(), expected[0], rtol=of_loss, atol=1e-30)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=3 * of_loss, atol=1e-30)
    for one, other in zip(found[2:], expected[2:], strict=True):
        assert (one.double() - other).norm() <= of_gradient * other.norm()


@everywhere
@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("width", [1, 7, 41, 401, 1271, 4097])
def test_loss_errors_and_gradients_are_those_of_the_formula(form: str, error: str, width: int) -> None:
    for K, B, H in [(1, 1, 1), (2, 7, 5), (3, 5, 16)]:
        given_ = draw(K, B, H, width, torch.float64, seed=width)
        assert_close(found_by(form, given_, error), in_double(*given_, error), *TOLERANCES[torch.float64])
    given_ = draw(4, 3, 8, width, seed=width)
    assert_close(found_by(form, given_), in_double(*given_), *TOLERANCES[torch.float32])


@forms
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_each_type_keeps_to_its_tolerance_over_several_tiles(
    form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_mse_tiles, "NARROWEST", 64)
    monkeypatch.setattr(linear_mse_tiles, "TILE", 64)
    given_ = draw(2, 6, 16, 1000, dtype)
    found = found_by(form, given_)
    assert all(gradient.dtype == dtype for gradient in found[2:])
    assert_close(found, in_double(*given_), *TOLERANCES[dtype])


@everywhere
def test_a_layer_without_bias_a_list_of_hidden_units_and_strides(form: str) -> None:
    hidden, W, _, target, weights = draw(2, 7, 8, 401, torch.float64)
    expected = in_double(hidden, W, None, target, weights)
    assert_close(found_by(form, [hidden, W, None, target, weights]), expected, 1e-12, 1e-12)
    far = [hidden.transpose(1, 2).contiguous().transpose(1, 2), W.t().contiguous().t(), None]
    assert_close(found_by(form, [*far, target.t().contiguous().t(), weights]), expected, 1e-12, 1e-12)
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = linear_multi_mse(list(hidden), W, None, target, weights)
    torch.testing.assert_close(loss, expected[0], rtol=1e-12, atol=0)


@everywhere
def test_a_target_whose_columns_lie_apart(form: str) -> None:
    hidden, W, b, target, weights = draw(2, 7, 8, 401)
    apart = torch.full((7, 802), float("nan"))
    apart[:, ::2] = target
    expected = in_double(hidden, W, b, target, weights)
    for one in (apart[:, ::2], target.t().contiguous().t()):
        assert_close(found_by(form, [hidden, W, b, one, weights]), expected, *TOLERANCES[torch.float32])


@everywhere
@pytest.mark.parametrize("gram", [False, True])
def test_signs_that_torch_has_only_made_a_note_of_are_heeded(form: str, gram: bool) -> None:
    given_ = draw(2, 7, 8, 401)
    expected = in_double(*[-one for one in given_[:4]], given_[4])
    noted = [torch._neg_view(one) for one in (*given_[:4], -given_[4])]
    assert_close(found_by(form, noted, gram=gram), expected, *TOLERANCES[torch.float32])


@everywhere
@pytest.mark.parametrize("gram", [False, True])
def test_an_autocast_does_not_reach_the_layer(form: str, gram: bool) -> None:
    given_ = draw(2, 7, 8, 401)
    leaves = [one.clone().requires_grad_() for one in given_[:3]]
    with torch.autocast("cpu", torch.bfloat16), backends.using(form):  # type: ignore[arg-type]
        loss, errors = linear_multi_mse(*leaves, *given_[3:], gram=gram)
    found = [loss.detach(), errors, *torch.autograd.grad(loss, leaves)]
    assert_close(found, in_double(*given_), *TOLERANCES[torch.float32])


@forms
@pytest.mark.parametrize("gram", [False, True])
def test_a_tracing_compiler_takes_the_reference_without_a_break(form: str, gram: bool) -> None:
    given_ = draw(2, 7, 8, 401)
    leaves = [one.clone().requires_grad_() for one in given_[:3]]
    traced = torch.compile(
        lambda *given: linear_multi_mse(*given, gram=gram)[0], fullgraph=True, backend="aot_eager"
    )
    with backends.using(form):  # type: ignore[arg-type]
        gradients = torch.autograd.grad(traced(*leaves, *given_[3:]), leaves)
    for one, other in zip(gradients, found_by("reference", given_)[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@everywhere
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("gram", [False, True])
def test_what_stands_in_an_absent_scan_changes_no_bit(form: str, poison: float, gram: bool) -> None:
    given_ = draw(3, 9, 8, 1271)
    hidden, _, _, target, weights = given_
    weights[:, 4] = 0
    clean = found_by(form, given_, gram=gram)
    hidden[weights == 0] = poison
    target[4] = poison
    poisoned = found_by(form, given_, gram=gram)
    for one, other in zip(clean, poisoned, strict=True):
        assert torch.equal(one, other)
    assert not poisoned[2][weights == 0].any()


@everywhere
@pytest.mark.parametrize("gram", [False, True])
def test_nobody_and_one_scan(form: str, gram: bool) -> None:
    given_ = draw(2, 7, 8, 401)
    given_[4] = torch.zeros(2, 7)
    assert all(not one.any() for one in found_by(form, given_, gram=gram))
    given_[4][1, 3] = 0.25
    assert_close(found_by(form, given_, gram=gram), in_double(*given_), *TOLERANCES[torch.float32])


@forms
@pytest.mark.parametrize("gram", [False, True])
def test_the_same_bits_come_again_and_the_upstream_gradient_multiplies(form: str, gram: bool) -> None:
    given_ = draw(2, 16, 32, 5000)
    first = found_by(form, given_, gram=gram)
    assert all(torch.equal(a, b) for a, b in zip(first, found_by(form, given_, gram=gram), strict=True))
    leaves = [x.clone().requires_grad_() for x in given_[:3]]
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = linear_multi_mse(*leaves, *given_[3:], gram=gram)
    (4 * loss).backward(retain_graph=True)
    for leaf, gradient in zip(leaves, first[2:], strict=True):
        assert torch.equal(leaf.grad, 4 * gradient)
    loss.backward()
    for leaf, gradient in zip(leaves, first[2:], strict=True):
        torch.testing.assert_close(leaf.grad, 5 * gradient)
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


@pytest.mark.parametrize("form", ["reference", "tiled"])
@pytest.mark.parametrize("gram", [False, True])
def test_gradcheck_in_float64(form: str, gram: bool) -> None:
    hidden, W, b, target, weights = draw(2, 3, 2, 5, torch.float64)
    leaves = [x.requires_grad_() for x in (hidden, W, b)]
    with backends.using(form):  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(
            lambda *own: linear_multi_mse(*own, target, weights, gram=gram)[0], leaves
        )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(1, 700), st.integers(0, 999),
       st.floats(0, 1), st.booleans())  # fmt: skip
def test_any_shape_and_any_pattern_of_absence(
    K: int, B: int, H: int, width: int, seed: int, absent: float, gram: bool
) -> None:
    given_ = draw(K, B, H, width, torch.float64, absent, seed)
    assert_close(found_by("tiled", given_, gram=gram), in_double(*given_), 1e-9, 1e-9)


@forms
@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_only_the_gradients_that_are_wanted_are_made(form: str, frozen: tuple[int, ...]) -> None:
    given_ = draw(2, 7, 8, 401)
    expected = found_by(form, given_)
    leaves = [x.clone().requires_grad_(place not in frozen) for place, x in enumerate(given_[:3])]
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = linear_multi_mse(*leaves, *given_[3:])
    torch.testing.assert_close(loss.detach(), expected[0])
    if len(frozen) < 3:
        loss.backward()
    for place, leaf in enumerate(leaves):
        if place in frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, expected[2 + place])
    with torch.no_grad(), backends.using(form):  # type: ignore[arg-type]
        assert not linear_multi_mse(*leaves, *given_[3:])[0].requires_grad


# -- the Gram form and its guard ---------------------------------------------------------------------


def fitted(explained: float) -> list[torch.Tensor]:
    """Targets of which the layer explains a share."""
    hidden, W, b, _, weights = draw(2, 20, 8, 3000, absent=0.0)
    hidden[1] = hidden[0]
    signal = F.linear(hidden[0], W)
    noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(5))
    noise = noise * (signal.norm() / noise.norm()) * ((1 - explained) / explained) ** 0.5
    return [hidden, W, b, signal + b + noise, weights]


@pytest.mark.parametrize("explained", [0.3, 0.9])
def test_a_moderate_fit_is_taken_from_gram_matrices_within_a_thousandth(explained: float) -> None:
    given_ = fitted(explained)
    assert gram_pass(*given_, (True, True)) is not None  # type: ignore[arg-type]
    found, expected = found_by("tiled", given_, gram=True), in_double(*given_)
    assert_close(found, expected, 1e-4, 1e-3)


@pytest.mark.parametrize("explained", [0.97, 0.99999])
def test_a_fit_too_good_for_gram_matrices_goes_through_tiles(explained: float) -> None:
    assert explained > BEST_FIT
    given_ = fitted(explained)
    assert gram_pass(*given_, (True, True)) is None  # type: ignore[arg-type]
    guarded, tiled = found_by("tiled", given_, gram=True), found_by("tiled", given_)
    assert all(torch.equal(a, b) for a, b in zip(guarded, tiled, strict=True))


@pytest.mark.parametrize(("alike", "taken"), [(1.0, True), (0.01, False), (0.001, False)])
def test_hidden_units_that_cancel_each_other_go_through_tiles(alike: float, taken: bool) -> None:
    """Nearly the same number in all hidden units, and weights whose sum is nearly 0."""
    generator = torch.Generator().manual_seed(0)
    K, B, H, width = 2, 20, 16, 3000
    hidden = torch.randn(K, B, 1, generator=generator) + alike * torch.randn(K, B, H, generator=generator)
    W = torch.randn(width, 1, generator=generator) * torch.randn(1, H, generator=generator)
    W = W - W.mean(dim=1, keepdim=True) + 0.3 * alike * torch.randn(width, H, generator=generator)
    target = torch.randn(B, width, generator=generator) * F.linear(hidden, W).std()
    given_ = [hidden, W, torch.zeros(width), target, torch.full((K, B), 1 / (B * width))]
    assert (gram_pass(*given_, (True, True)) is not None) == taken  # type: ignore[arg-type]
    assert_close(found_by("tiled", given_, gram=True), in_double(*given_), 3e-4, 1e-3)


def test_one_scan_that_fits_well_is_enough_to_go_through_tiles() -> None:
    hidden, W, b, target, weights = draw(1, 20, 8, 3000, absent=0.0)
    target[3] = F.linear(hidden[0, 3], W, b)
    given_ = [hidden, W, b, target, weights]
    assert gram_pass(*given_, (True, True)) is None  # type: ignore[arg-type]
    weights[0, 3] = 0
    assert gram_pass(*given_, (True, True)) is not None, "nobody counts what it fits"  # type: ignore[arg-type]


def test_what_all_people_have_in_common_does_not_cancel() -> None:
    """A target far from zero, and a bias that takes it away."""
    hidden, W, b, target, weights = draw(2, 20, 8, 3000)
    given_ = [hidden, W, b + 1000, target + 1000, weights]
    assert gram_pass(*given_, (True, True)) is not None  # type: ignore[arg-type]
    assert_close(found_by("tiled", given_, gram=True), in_double(*given_), 1e-5, 1e-4)


def test_what_is_not_finite_goes_through_tiles_too() -> None:
    given_ = draw(2, 5, 4, 50, absent=0.0)
    given_[1][3, 1] = float("nan")
    assert gram_pass(*given_, (True, True)) is None  # type: ignore[arg-type]


def test_the_cost_of_the_gram_form_does_not_grow_with_the_number_of_reconstructions() -> None:
    """Multiplications within matrix products, counted as torch sees them."""

    def flops(K: int, gram: bool) -> int:
        with FlopCounterMode(display=False) as counted:
            found_by("tiled", draw(K, 32, 8, 20_000), gram=gram)
        return counted.get_total_flops()

    assert flops(4, gram=False) > 3.9 * flops(1, gram=False)
    assert flops(4, gram=True) < 1.01 * flops(1, gram=True)


# -- memory, and what is refused ---------------------------------------------------------------------


class LargestMade(TorchDispatchMode):
    """The most elements of any tensor that operations make, but for views of what there was before."""

    def __init__(self, before: list[torch.Tensor]) -> None:
        super().__init__()
        self.before = {tensor.untyped_storage().data_ptr() for tensor in before}
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in self.before:
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return made


@everywhere
def test_the_reconstruction_is_never_formed(form: str) -> None:
    K, B, H, width = 3, 64, 2, 20_000
    hidden, W, b, target, weights = draw(K, B, H, width)
    leaves = [x.requires_grad_() for x in (hidden, W, b)]
    with backends.using(form), LargestMade([*leaves, target, weights]) as largest:  # type: ignore[arg-type]
        loss, _ = linear_multi_mse(*leaves, target, weights)
        loss.backward()
    if form == "reference":
        assert largest.elements == K * B * width
    else:
        assert largest.elements <= linear_mse_tiles.TILE < B * width


@everywhere
@pytest.mark.parametrize("place", range(5))
def test_what_lies_on_another_device_is_refused(form: str, place: int) -> None:
    given_ = draw(2, 3, 4, 5)
    given_[place] = given_[place].to("meta")
    with backends.using(form), pytest.raises(ValueError, match="one device"):  # type: ignore[arg-type]
        linear_multi_mse(*given_)


def test_what_does_not_fit_is_refused() -> None:
    hidden, W, b, target, weights = draw(2, 3, 4, 5)
    wrong: dict[str, list] = {
        "hidden units": [(hidden[0], W, b, target, weights), (hidden[..., :3], W, b, target, weights)],
        "bias": [(hidden, W, b[:4], target, weights)],
        "differ in shape": [(hidden, W, b, target[:, :4], weights), (hidden, W, b, target[:2], weights)],
        "are not those of": [(hidden, W, b, target, weights[0])],
        "detach": [(hidden, W, b, target.clone().requires_grad_(), weights)],
    }
    for message, cases in wrong.items():
        for case in cases:
            with pytest.raises(ValueError, match=message):
                linear_multi_mse(*case)
    with pytest.raises(ValueError, match="squared errors"):
        linear_multi_mse(hidden, W, b, target, weights, "absolute", gram=True)


@forms
def test_a_second_derivative_raises(form: str) -> None:
    given_ = draw(2, 3, 4, 5)
    leaves = [x.requires_grad_() for x in given_[:3]]
    with backends.using(form):  # type: ignore[arg-type]
        loss, _ = linear_multi_mse(*leaves, *given_[3:])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaves, create_graph=True)


# -- members in one pass -----------------------------------------------------------------------------


def members(M: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.stack(own) for own in zip(*[draw(*shape, dtype, seed=m) for m in range(M)], strict=True)]


def found_in_one_pass(form: str, given_: list, gram: bool = False, upstream: float = 1.0) -> list:
    leaves = [one.clone().requires_grad_() for one in given_[:3]]
    with backends.using(form):  # type: ignore[arg-type]
        losses, errors = torch.func.vmap(lambda *own: linear_multi_mse(*own, gram=gram))(
            *leaves, *given_[3:]
        )
    (upstream * losses).sum().backward()
    return [losses.detach(), errors, *(leaf.grad for leaf in leaves)]


@forms
@pytest.mark.parametrize("gram", [False, True])
def test_members_in_one_pass_get_to_the_bit_what_each_gets_alone(form: str, gram: bool) -> None:
    given_ = members(3, 2, 7, 8, 1271)
    found = found_in_one_pass(form, given_, gram)
    for m in range(3):
        alone = found_by(form, [one[m] for one in given_], gram=gram)
        assert all(torch.equal(one[m], other) for one, other in zip(found, alone, strict=True))


@forms
def test_members_in_one_pass_get_what_the_reference_gives_them(form: str) -> None:
    given_ = members(3, 2, 7, 8, 1271)
    found = found_in_one_pass(form, given_, upstream=-2.5)
    expected = found_in_one_pass("reference", given_, upstream=-2.5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@forms
def test_members_may_share_a_target_and_lie_along_any_axis(form: str) -> None:
    hidden, W, b, target, weights = members(3, 2, 7, 8, 401)
    together = torch.func.vmap(linear_multi_mse, in_dims=(2, 1, None, None, 0))
    with backends.using(form):  # type: ignore[arg-type]
        losses, errors = together(hidden.movedim(0, 2), W.movedim(0, 1), b[0], target[0], weights)
    for m in range(3):
        alone = found_by(form, [hidden[m], W[m], b[0], target[0], weights[m]])
        assert torch.equal(losses[m], alone[0])
        assert torch.equal(errors[m], alone[1])


def test_members_in_one_pass_are_fused_where_one_is_large_enough() -> None:
    like, seen = torch.ones(2, 3), []

    def asked(one: torch.Tensor, elements: int) -> torch.Tensor:
        seen.append(backends.choose_of_members(one, elements))
        return one

    with backends.using("auto"):
        torch.func.vmap(lambda one: asked(one, backends.WORTH_TILES - 1))(like)
        torch.func.vmap(lambda one: asked(one, backends.WORTH_TILES))(like)
        torch.func.vmap(torch.func.vmap(lambda one: asked(one, backends.WORTH_TILES)))(like)
        torch.func.grad(lambda one: asked(one, backends.WORTH_TILES).sum())(like)
    assert seen == [("reference", False), ("tiled", True), ("reference", False), ("reference", False)]


@forms
def test_members_of_frozen_layers_and_negative_weights(form: str) -> None:
    given_ = members(2, 2, 7, 8, 401)
    leaf = given_[0].clone().requires_grad_()
    with backends.using(form):  # type: ignore[arg-type]
        losses, _ = torch.func.vmap(linear_multi_mse)(leaf, *given_[1:])
        losses.sum().backward()
        assert torch.equal(leaf.grad, found_in_one_pass(form, given_)[2])
        with torch.no_grad():
            assert not torch.func.vmap(linear_multi_mse)(leaf, *given_[1:])[0].requires_grad
        given_[4][1, 0, 2] = -1.0
        with pytest.raises(ValueError, match="negative"):
            torch.func.vmap(linear_multi_mse)(*given_)
