"""Several reconstructions in one pass: every form against plain torch, on whatever shapes there are."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import logging
import mmap
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.errors import EnvironmentLacks, UsageError
from hpc_brainage.losses import backends, gradient_memory, multi_mse_compiled
from hpc_brainage.losses.gradient_memory import free_gradient_memory, gradient_like
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
        with pytest.raises(ValueError, match="leaf"):
            masked_multi_mse(recons.requires_grad_(), target, weights, overwrite=True)


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


def test_large_gradients_use_memory_again_and_never_that_of_a_living_one() -> None:
    free_gradient_memory()
    like = torch.empty(gradient_memory.SMALLEST // 4 + 3)
    first, second = gradient_like(like), gradient_like(like)
    assert first.data_ptr() != second.data_ptr()
    place, view = first.data_ptr(), first[5:].view(torch.int32)
    del first
    gc.collect()
    third = gradient_like(like)
    assert third.data_ptr() != place, "a view keeps the memory"
    del view
    assert gradient_like(like).data_ptr() == place
    kept = gradient_memory.kept_bytes()
    assert kept == 3 * 4 * like.numel()
    free_gradient_memory()
    second.fill_(1)
    third.fill_(2)
    assert bool((second == 1).all()), "memory that is lent out outlives the list of it"
    assert gradient_like(torch.empty(10)).numel() == 10
    assert gradient_memory.kept_bytes() == 0, "small ones are the allocator's business"


@pytest.mark.parametrize("uncounted", [-1, 0, 1, 2])
def test_memory_is_lent_once_however_python_counts_references(
    uncounted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda thing: count(thing) - uncounted)
    spec = importlib.util.spec_from_file_location("another_gradient_memory", gradient_memory.__file__)
    assert spec is not None
    assert spec.loader is not None
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    like = torch.empty(memory.SMALLEST)
    first, second = memory.gradient_like(like), memory.gradient_like(like)
    assert first.data_ptr() != second.data_ptr()
    place = first.data_ptr()
    del first
    assert memory.gradient_like(like).data_ptr() == place


def test_memory_of_a_size_that_is_not_asked_for_any_more_is_given_up_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_gradient_memory()
    monkeypatch.setattr(gradient_memory, "MOST", 10 * gradient_memory.SMALLEST)
    monkeypatch.setattr(gradient_memory, "_FORGOTTEN", 3)
    old, new = (torch.empty(n * gradient_memory.SMALLEST // 4) for n in (8, 4))
    used = gradient_like(old).fill_(1)
    for _ in range(3):
        gradient_like(new)
        assert gradient_memory.kept_bytes() == 4 * old.numel(), "it may be asked for in the next step"
    gradient_like(new)
    assert gradient_memory.kept_bytes() == 4 * new.numel()
    assert bool((used == 1).all()), "what is lent out outlives it"
    free_gradient_memory()


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


# -- what is refused, and who chooses ----------------------------------------------------------------


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


def test_the_choice_follows_size_type_environment_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    here = torch.empty(1)
    small, large = backends.WORTH_TILES - 1, backends.WORTH_COMPILING
    assert backends.choose(here, small) == "reference"
    assert backends.choose(here, backends.WORTH_TILES) == "tiled"
    assert backends.choose(here.double(), large) == "tiled"
    monkeypatch.setenv(backends.VARIABLE, "reference")
    assert backends.choose(here, large) == "reference"
    with backends.using("tiled"):
        assert backends.choose(here, small) == "tiled"
        assert backends.choose(here.to("meta"), large) == "reference"
        assert torch.func.vmap(lambda one: one * (backends.choose(one, large) == "reference"))(
            torch.ones(3)
        ).all()
    assert backends.choose(here, large) == "reference"
    monkeypatch.setenv(backends.VARIABLE, "tilde")
    with pytest.raises(UsageError, match="did you mean 'tiled'"):
        backends.choose(here, large)
    monkeypatch.setenv(backends.VARIABLE, "triton")
    with pytest.raises(EnvironmentLacks, match="'triton'"):
        backends.choose(here, large)


def test_without_a_compiler_tiles_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    large = backends.WORTH_COMPILING
    for compiler, says in (("", "a C compiler"), ("false", "false says")):
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        multi_mse_compiled._compiled.cache_clear()
        try:
            with backends.using("auto"):
                assert backends.choose(torch.empty(1), large) == "tiled"
            with backends.using("compiled"):
                with pytest.raises(EnvironmentLacks, match=says):
                    backends.choose(torch.empty(1), large)
                assert backends.choose(torch.empty(1).double(), large) == "tiled"
        finally:
            multi_mse_compiled._compiled.cache_clear()


def test_what_was_chosen_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._tell.cache_clear()
    with caplog.at_level(logging.INFO, logger="hpc_brainage.losses.backends"), backends.using("tiled"):
        for _ in range(3):
            backends.choose(torch.empty(1), 10)
    assert [record.message for record in caplog.records] == ["losses on cpu: tiled, wished for: tiled"]


def test_torch_alone_is_enough_to_import_it() -> None:
    code = (
        "import sys; import hpc_brainage.losses.linear_mse as m; "
        "print(sorted(set(sys.modules) & {'pydantic', 'deepspeed', 'zarr', 'pandas', 'sklearn', 'dask'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"


def test_forms_agree_with_each_other_on_a_wide_target() -> None:
    given_ = draw(2, 4, 70_001, absent=0.25)
    both = [found_by(form, *given_) for form in ("reference", "tiled")]
    if not multi_mse_compiled.lacks():
        both.append(found_by("compiled", *given_))
    for one, other in itertools.pairwise(both):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-6)
