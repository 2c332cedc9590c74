"""The Triton kernels of the reconstruction losses, in Triton's interpreter, against plain torch.

The interpreter is chosen when triton is imported, so the cases run in a process of their own, all in one.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from unittest import mock

import pytest
import torch

from hpc_brainage.losses import backends, multi_mse_triton
from hpc_brainage.losses.linear_mse import linear_multi_mse
from hpc_brainage.losses.multi_mse import masked_multi_mse

TOLERANCES = {torch.float32: (1e-6, 1e-6), torch.bfloat16: (1e-6, 4e-3), torch.float16: (1e-6, 5e-4)}
"""Loss relative, gradient relative to its norm, against float64 of the same inputs."""


def draw(
    K: int, B: int, F: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(K + B + F)
    recons = torch.randn(K, B, F, generator=generator).to(dtype)
    target = torch.randn(B, F, generator=generator).to(dtype)
    weights = torch.rand(K, B, generator=generator) * (torch.rand(K, B, generator=generator) > 0.3)
    return recons, target, weights


def both(
    recons: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, error: str = "squared"
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Loss, errors and gradient by the kernel, and by plain torch in float64."""
    found = []
    for form, exact in (("triton", False), ("reference", True)):
        leaf = (recons.double() if exact else recons.clone()).requires_grad_()
        with backends.using(form):  # type: ignore[arg-type]
            loss, errors = masked_multi_mse(leaf, target.double() if exact else target, weights, error)  # type: ignore[arg-type]
        loss.backward()
        assert leaf.grad is not None
        found.append([loss.detach(), errors, leaf.grad])
    return found[0], found[1]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    of_loss, of_gradient = TOLERANCES[dtype]
    torch.testing.assert_close(found[0].double(), expected[0], rtol=of_loss, atol=1e-30)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=2 * of_loss, atol=1e-30)
    for one, other in zip(found[2:], expected[2:], strict=True):
        assert (one.double() - other).norm() <= of_gradient * other.norm()


def odd_shapes() -> None:
    for error in ("squared", "absolute"):
        for K, B, F in [(1, 1, 1), (2, 3, 7), (3, 2, 41), (4, 2, 401), (2, 3, 1271), (2, 2, 4097)]:
            found, expected = both(*draw(K, B, F), error)
            assert_close(found, expected, torch.float32)


def more_reconstructions_than_a_kernel_takes() -> None:
    for K in (5, 9):
        assert_close(*both(*draw(K, 2, 50)), torch.float32)


def each_type() -> None:
    for dtype in TOLERANCES:
        found, expected = both(*draw(3, 4, 600, dtype))
        assert found[2].dtype == dtype
        assert_close(found, expected, dtype)


def strides() -> None:
    recons, target, weights = draw(2, 3, 41)
    _, expected = both(recons, target, weights)
    within = torch.full((2, 6, 90), float("nan"))
    within[:, ::2, 20:61] = recons
    for one in (within[:, ::2, 20:61], recons.transpose(1, 2).contiguous().transpose(1, 2)):
        assert_close(both(one, target.t().contiguous().t(), weights)[0], expected, torch.float32)


def absent_scans() -> None:
    for error in ("squared", "absolute"):
        recons, target, weights = draw(3, 5, 300)
        weights[:, 2] = 0
        clean, _ = both(recons, target, weights, error)
        for poison in (float("nan"), float("inf")):
            recons[weights == 0] = poison
            target[2] = poison
            poisoned, _ = both(recons, target, weights, error)
            assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))
            assert not poisoned[2][weights == 0].any()
        nobody, _ = both(recons, target, torch.zeros_like(weights), error)
        assert all(not one.any() for one in nobody)


def nan_in_a_scan_that_counts() -> None:
    recons, target, weights = draw(2, 3, 30)
    weights = weights + 1
    recons[1, 2, 7] = float("nan")
    (loss, errors, gradient), _ = both(recons, target, weights)
    assert torch.isnan(loss)
    assert torch.isnan(errors).nonzero().tolist() == [[1, 2]]
    assert torch.isnan(gradient).nonzero().tolist() == [[1, 2, 7]]


def the_same_bits() -> None:
    given = draw(2, 3, 9000)
    one, other = both(*given)[0], both(*given)[0]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def overwriting_and_no_gradient() -> None:
    recons, target, weights = draw(2, 3, 500)
    (loss, errors, gradient), _ = both(recons, target, weights)
    leaf = recons.clone().requires_grad_()
    with backends.using("triton"):
        again = masked_multi_mse(leaf + 0, target, weights, overwrite=True)
        again[0].backward()
        with torch.no_grad():
            only = masked_multi_mse(recons, target, weights)
    assert torch.equal(leaf.grad, gradient)
    for pair in (again, only):
        assert torch.equal(pair[0].detach(), loss)
        assert torch.equal(pair[1], errors)


def who_needs_an_overwritten_reconstruction_finds_out() -> None:
    recons, target, weights = draw(2, 3, 500)
    with backends.using("triton"):
        rebuilt = recons.clone().requires_grad_().exp()  # its gradient is itself
        loss, _ = masked_multi_mse(rebuilt, target, weights, overwrite=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def no_scans_and_no_features() -> None:
    for shape in ((2, 0, 5), (2, 5, 0), (2, 0, 3000)):
        found, expected = both(torch.zeros(shape), torch.zeros(shape[1:]), torch.ones(shape[:2]))
        assert float(found[0]) == float(expected[0]) == 0
        assert found[2].shape == shape


def signs_that_torch_has_only_made_a_note_of() -> None:
    for columns in (40, 3000):
        recons, target, weights = draw(2, 3, columns)
        noted = [torch._neg_view(one) for one in (recons, target, -weights)]
        found = both(noted[0], noted[1], noted[2])[0]
        assert_close(found, both(-recons, -target, weights)[1], torch.float32)


def dense_rows_and_rows_apart_give_the_same_gradient() -> None:
    """Tiles that are cut without regard to scans, and tiles of one scan."""
    flat = multi_mse_triton.FLAT
    for error in ("squared", "absolute"):
        for K, B, F in [
            (1, 1, flat),
            (2, 5, flat),
            (2, 3, flat + 1),
            (5, 4, 2 * flat - 1),
            (2, 4, 3 * flat + 7),
        ]:
            recons, target, weights = draw(K, B, F)
            (loss, errors, gradient), expected = both(recons, target, weights, error)
            assert_close([loss, errors, gradient], expected, torch.float32)
            apart = torch.zeros(B, F + 3)
            apart[:, :F] = target
            rows, _ = both(recons, apart[:, :F], weights, error)
            assert torch.equal(rows[2], gradient)
            torch.testing.assert_close(rows[1], errors, rtol=1e-6, atol=0)
            recons[weights == 0] = float("nan")
            poisoned, _ = both(recons, target, weights, error)
            for one, other in zip(poisoned, (loss, errors, gradient), strict=True):
                assert torch.equal(one, other)
            with torch.no_grad(), backends.using("triton"):
                assert torch.equal(masked_multi_mse(recons, target, weights, error)[0], loss)  # type: ignore[arg-type]
    rounded = draw(3, 4, flat + 5, torch.bfloat16)
    assert_close(*both(*rounded), torch.bfloat16)


def the_device_of_the_tensors_is_the_one_that_is_launched_on() -> None:
    """`latent_triton` and its like are asked in `small_kernels_interpreted.py`."""
    recons, target, weights = draw(2, 3, 41)
    with mock.patch.object(torch.cuda, "device_of", wraps=torch.cuda.device_of) as guard:
        both(recons, target, weights)
        assert guard.call_count == 1
        multi_mse_triton.scale_unless_one(recons, torch.tensor(2.0))
        assert guard.call_count == 2


def more_elements_than_32_bits_can_count() -> None:
    apart = 2**30 + 8
    promised = mmap.mmap(-1, 4 * (2 * apart + 16), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    rows = torch.frombuffer(promised, dtype=torch.float32).as_strided((3, 16), (apart, 1))
    rows[2] = 5.0
    goal, weights = torch.arange(48.0).view(3, 16), torch.ones(1, 3)
    for one, other in ((rows, goal), (goal, rows)):
        found, expected = both(one[None], other, weights)
        assert_close(found, expected, torch.float32)
    with torch.no_grad():  # and gradients that far apart, written over the reconstruction
        multi_mse_triton.one_pass([rows], goal, weights, True, [rows])
    torch.testing.assert_close(rows[2], 2 * (5.0 - goal[2]))


def scaling_by_what_is_known_on_the_device_only() -> None:
    values = torch.randn(9001)
    for factor in (1.0, -0.5):
        scaled = values.clone()
        multi_mse_triton.scale_unless_one(scaled, torch.tensor(factor))
        assert torch.equal(scaled, values * factor)


def the_fused_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, W, b = (torch.randn(shape, generator=generator) for shape in ((2, 5, 8), (700, 8), (700,)))
    _, target, weights = draw(2, 5, 700)
    found = []
    for form, exact in (("triton", False), ("reference", True)):
        leaves = [(x.double() if exact else x.clone()).requires_grad_() for x in (hidden, W, b)]
        with backends.using(form):  # type: ignore[arg-type]
            loss, errors = linear_multi_mse(*leaves, target.double() if exact else target, weights)
        loss.backward()
        found.append([loss.detach(), errors, *(leaf.grad for leaf in leaves)])
    assert_close(found[0], found[1], torch.float32)


CASES: list[Callable[[], None]] = [
    odd_shapes, more_reconstructions_than_a_kernel_takes, each_type, strides, absent_scans,
    nan_in_a_scan_that_counts, the_same_bits, overwriting_and_no_gradient,
    who_needs_an_overwritten_reconstruction_finds_out, no_scans_and_no_features,
    signs_that_torch_has_only_made_a_note_of, dense_rows_and_rows_apart_give_the_same_gradient,
    the_device_of_the_tensors_is_the_one_that_is_launched_on, more_elements_than_32_bits_can_count,
    scaling_by_what_is_known_on_the_device_only, the_fused_layer,
]  # fmt: skip


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str]:
    """What each case says in a process with the interpreter: "" if it holds."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_kernel_does_what_plain_torch_does(
    case: Callable[[], None], interpreted: dict[str, str]
) -> None:
    assert interpreted[case.__name__] == ""


def test_a_kernel_is_refused_where_there_is_no_gpu() -> None:
    if not multi_mse_triton.lacks() and not multi_mse_triton.INTERPRETED:
        with backends.using("triton"), pytest.raises(backends.EnvironmentLacks, match="run on a GPU"):
            masked_multi_mse(*draw(2, 3, 4))


def run_all() -> dict[str, str]:
    said = {}
    for case in CASES:
        try:
            case()
            said[case.__name__] = ""
        except Exception:
            said[case.__name__] = traceback.format_exc()
    return said


if __name__ == "__main__":
    print(json.dumps(run_all()))
