"""Which form of a fused loss is taken: the one place that chooses.

Every operation has a reference in plain torch, which is its definition, and fused forms that give the same
numbers but for rounding:

`tiled`     plain torch, tile by tile, so that a tile is still in the cache when its gradient is written;
            for any device and any floating type.
`compiled`  the same in one pass, in C for this processor (`multi_mse.c`); float32 on a CPU. Takes a C
            compiler with OpenMP, and half a second when it is first used in a process.
`triton`    one kernel on a GPU.

`auto` takes the fastest that this machine has for a tensor of that size. `BRAINAGE_LOSSES` names another,
and `using` does so for a while. Where no fused form can go (within `torch.func.vmap`, under a tracing
compiler, on meta tensors) the reference stays whatever is asked for.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast, get_args

import torch

from hpc_brainage.errors import EnvironmentLacks, UsageError, nearest
from hpc_brainage.losses import multi_mse_compiled, multi_mse_triton

Form = Literal["reference", "tiled", "compiled", "triton"]
Wish = Literal["auto", "reference", "tiled", "compiled", "triton"]

VARIABLE = "BRAINAGE_LOSSES"
"""Environment variable with the form that is wished for."""

WORTH_TILES = 1 << 17
"""Elements of all reconstructions together from which on tiles are no slower than the reference."""

WORTH_COMPILING = 1 << 18
"""Elements from which on some hundred steps save the half second that compiling the pass in C takes."""

_WISHES = frozenset(get_args(Wish))
_wished: ContextVar[Wish | None] = ContextVar("wished", default=None)
_LOG = logging.getLogger(__name__)


def choose(like: torch.Tensor, elements: int) -> Form:
    """The form for tensors of this kind.

    Parameters
    ----------
    like : a reconstruction, or what is made into one; says the type and the device.
    elements : of all reconstructions together.

    Raises
    ------
    UsageError : the environment variable names no form.
    EnvironmentLacks : a form is wished for that this machine, or the tensor's device, does not have.
    """
    if _untouchable(like):
        return "reference"
    wish = _wished.get() or _from_environment()
    form = _automatic(like, elements) if wish == "auto" else _granted(wish, like)
    _tell(form, wish, like.device.type)
    return form


@contextmanager
def using(wish: Wish) -> Iterator[None]:
    """Wish for a form until the end of the block, whatever the environment says."""
    before = _wished.set(_known(wish, "using"))
    try:
        yield
    finally:
        _wished.reset(before)


def refuse_second_derivative() -> None:
    """For the backward pass of a fused form, which is no graph itself.

    Raises
    ------
    RuntimeError : it is asked to make one.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a fused loss has no second derivative, so create_graph=True does not go through it; "
            "hpc_brainage.losses.backends.using('reference') has one"
        )


def _untouchable(like: torch.Tensor) -> bool:
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(like)
    return wrapped or like.is_meta or torch.compiler.is_compiling()


def _automatic(like: torch.Tensor, elements: int) -> Form:
    if like.device.type == "cuda":
        return "tiled" if like.dtype == torch.float64 or multi_mse_triton.lacks() else "triton"
    if elements < WORTH_TILES:
        return "reference"
    can_be_compiled = like.device.type == "cpu" and like.dtype == torch.float32
    if elements >= WORTH_COMPILING and can_be_compiled and not multi_mse_compiled.lacks():
        return "compiled"
    return "tiled"


def _granted(wish: Wish, like: torch.Tensor) -> Form:
    """The form that was wished for by name; of types that it does not take, `tiled` takes care."""
    lacking = ""
    if wish == "triton":
        if like.dtype == torch.float64:
            return "tiled"
        lacking = multi_mse_triton.lacks()
        if not lacking and like.device.type != "cuda" and not multi_mse_triton.INTERPRETED:
            lacking = "Triton's kernels run on a GPU"
    elif wish == "compiled":
        if like.device.type != "cpu" or like.dtype != torch.float32:
            return "tiled"
        lacking = multi_mse_compiled.lacks()
    if lacking:
        raise EnvironmentLacks(
            f"this machine lacks what the form {wish!r} of the losses needs",
            where=f"{VARIABLE}={wish}",
            expected=lacking,
            hint=f"unset {VARIABLE}, or set it to auto",
        )
    return cast(Form, wish)


def _from_environment() -> Wish:
    return _known(os.environ.get(VARIABLE, "auto"), VARIABLE)


def _known(wish: str, where: str) -> Wish:
    if wish not in _WISHES:
        raise UsageError(
            f"no form of the losses is called {wish!r}", where=where, hint=nearest(wish, _WISHES)
        )
    return cast(Wish, wish)


@functools.cache
def _tell(form: Form, wish: Wish, device: str) -> None:
    """Say once in a process what is taken."""
    why = f" ({multi_mse_compiled.compiler_name()})" if form == "compiled" else ""
    _LOG.info("losses on %s: %s%s, wished for: %s", device, form, why, wish)
