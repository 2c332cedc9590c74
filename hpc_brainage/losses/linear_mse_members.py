"""The fused layer of many members at once: what `torch.func.vmap` makes of it.

Plain torch's matrix products over members are fast where a layer is narrow, and there they stay. Where it
is wide, memory decides as it does for one member, and one fused pass after the other is faster than the
reference for all together. Each member's numbers are, to the bit, those that it gets alone.

Shapes: M members, K reconstructions, B scans, H hidden units, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hpc_brainage.losses.gradient_memory import gradient_like
from hpc_brainage.losses.linear_mse_tiles import layer_pass
from hpc_brainage.losses.multi_mse import Error, hand_over, refuse_negative


class OfMembers(torch.autograd.Function):
    """The fused layer within `vmap`, which asks for the rule and nothing else."""

    @staticmethod
    def forward(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("only for members in one pass of torch.func.vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing: the members' own function knows how to go back."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Sequence[int | None],
        form: str,
        error: Error,
        gram: bool,
        *tensors: torch.Tensor | None,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
        stacked = [
            None if one is None else _members_first(one, dim, info.batch_size)
            for one, dim in zip(tensors, in_dims[3:], strict=True)
        ]
        *learning, _, weights = stacked
        assert weights is not None
        refuse_negative(weights)
        wanted = [torch.is_grad_enabled() and one is not None and one.requires_grad for one in learning]
        found: tuple[torch.Tensor, torch.Tensor] = _Members.apply(form, error, gram, wanted, *stacked)
        return found, (0, 0)


def _members_first(one: torch.Tensor, dim: int | None, members: int) -> torch.Tensor:
    return one.expand(members, *one.shape) if dim is None else one.movedim(dim, 0)


class _Members(torch.autograd.Function):
    """Each member's fused layer; as for one, the gradients are there after the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        form: str,
        error: Error,
        gram: bool,
        wanted: Sequence[bool],
        hidden_MKBH: torch.Tensor,
        W_MFH: torch.Tensor,
        b_MF: torch.Tensor | None,
        target_MBF: torch.Tensor,
        weights_MKB: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_hidden, of_W, of_b = wanted
        dW_MFH = gradient_like(W_MFH) if of_W or of_b else None
        losses, errors = [], []
        dh = torch.zeros_like(hidden_MKBH) if of_hidden else None
        db = torch.zeros_like(b_MF) if of_b and b_MF is not None else None
        for m in range(len(hidden_MKBH)):
            loss, errors_KB, gradients = layer_pass(
                form,
                error,
                gram,
                hidden_MKBH[m],
                W_MFH[m],
                None if b_MF is None else b_MF[m],
                target_MBF[m],
                weights_MKB[m],
                (of_hidden, of_W, of_b),
                None if dW_MFH is None else dW_MFH[m],
            )
            losses.append(loss)
            errors.append(errors_KB)
            for whole, own in zip((dh, None, db), gradients or (), strict=False):
                if whole is not None and own is not None:
                    whole[m] = own
        errors_MKB = torch.stack(errors)
        ctx.gradients = [dh, dW_MFH if of_W else None, db] if any(wanted) else None
        ctx.mark_non_differentiable(errors_MKB)
        return torch.stack(losses), errors_MKB

    @staticmethod
    def backward(ctx: Any, upstream_M: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, None, None, *hand_over(ctx.gradients, upstream_M), None, None)
