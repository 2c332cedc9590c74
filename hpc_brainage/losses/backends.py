"""Which form of a fused loss is taken: the one place that chooses.

Every operation has a reference in plain torch, which is its definition, and fused forms that give the same
numbers but for rounding:

`tiled`     plain torch, tile by tile, so that a tile is still in the cache when its gradient is written;
            for any device and any floating type.
`compiled`  the same in one pass, in C for this processor (`multi_mse.c`); float32 on a CPU. Takes a C
            compiler with OpenMP, and half a second when it is first used in a process.
`triton`    one kernel on a GPU.

`auto` takes the fastest that this machine has for a tensor of that size. `BRAINAGE_LOSSES` names another,
and `using` does so for a while. Where no fused form can go (within a `torch.func` transform, under a
tracing compiler, on meta tensors) the reference stays whatever is asked for; but the fused layer knows its
way through `vmap` over members on a CPU (`linear_mse_members`).
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
from torch._subclasses.fake_tensor import FakeTensor

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
    return "reference" if untouchable(like) else _chosen(like, elements)


def choose_of_members(like: torch.Tensor, elements: int) -> tuple[Form, bool]:
    """As `choose`, for an operation with a rule for `torch.func.vmap`: the form, and whether by the rule.

    `elements` are those of one member. On a GPU members in one pass take the reference: one launch for all.
    """
    if not untouchable(like):
        return _chosen(like, elements), False
    if torch.compiler.is_compiling() or like.is_meta or like.device.type != "cpu" or not _in_one_vmap():
        return "reference", False
    form = _chosen(like, elements)
    return form, form != "reference"


def _chosen(like: torch.Tensor, elements: int) -> Form:
    wish = _wished.get() or _from_environment()
    form, why = _automatic(like, elements) if wish == "auto" else _granted(wish, like)
    _tell(form, wish, like.device.type, why)
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


def untouchable(like: torch.Tensor) -> bool:
    """Whether only plain torch can go there: nobody may ask this tensor where its memory is."""
    # The compiler first: it cannot trace the other questions.
    if torch.compiler.is_compiling():
        return True
    return like.is_meta or torch._C._are_functorch_transforms_active() or isinstance(like, FakeTensor)


def _in_one_vmap() -> bool:
    """Whether one `vmap` is under way and no other transform of `torch.func`."""
    under_way = torch._C._functorch.get_interpreter_stack() or []
    return [one.key() for one in under_way] == [torch._C._functorch.TransformType.Vmap]


def _automatic(like: torch.Tensor, elements: int) -> tuple[Form, str]:
    """The fastest form, and what a faster one lacks."""
    if like.device.type == "cuda":
        if like.dtype == torch.float64:
            return "tiled", ""
        lacking = multi_mse_triton.lacks()
        return ("tiled", lacking) if lacking else ("triton", "")
    if elements < WORTH_TILES:
        return "reference", ""
    if elements >= WORTH_COMPILING and like.device.type == "cpu" and like.dtype == torch.float32:
        lacking = multi_mse_compiled.lacks()
        return ("tiled", lacking) if lacking else ("compiled", "")
    return "tiled", ""


def _granted(wish: Wish, like: torch.Tensor) -> tuple[Form, str]:
    """The form that was wished for by name; of types that it does not take, `tiled` takes care."""
    lacking = ""
    if wish == "triton":
        if like.dtype == torch.float64:
            return "tiled", "any type but float64"
        lacking = multi_mse_triton.lacks()
        if not lacking and like.device.type != "cuda" and not multi_mse_triton.INTERPRETED:
            lacking = "Triton's kernels run on a GPU"
    elif wish == "compiled":
        if like.device.type != "cpu" or like.dtype != torch.float32:
            return "tiled", "float32 on a CPU"
        lacking = multi_mse_compiled.lacks()
    if lacking:
        raise EnvironmentLacks(
            f"this machine lacks what the form {wish!r} of the losses needs",
            where=f"{VARIABLE}={wish}",
            expected=lacking,
            hint=f"unset {VARIABLE}, or set it to auto",
        )
    return cast(Form, wish), ""


def _from_environment() -> Wish:
    return _known(os.environ.get(VARIABLE, "auto"), VARIABLE)


def _known(wish: str, where: str) -> Wish:
    if wish not in _WISHES:
        raise UsageError(
            f"no form of the losses is called {wish!r}", where=where, hint=nearest(wish, _WISHES)
        )
    return cast(Wish, wish)


@functools.cache
def _tell(form: Form, wish: Wish, device: str, lacking: str) -> None:
    """Say once in a process what is taken, and what is missing for what would have been."""
    by = f" ({multi_mse_compiled.compiler_name()})" if form == "compiled" else ""
    why = f"; a faster one takes {lacking}" if lacking and wish == "auto" else ""
    why = f"; that takes {lacking}" if lacking and wish != "auto" else why
    _LOG.info("losses on %s: %s%s, wished for: %s%s", device, form, by, wish, why)
