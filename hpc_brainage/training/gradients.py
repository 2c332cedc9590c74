"""The mean of all processes' gradients, added up while the backward pass is still under way.

Gradients are carried together, in a few buffers of some megabytes each, in the order in which a backward
pass makes them: from the last layer to the first. As soon as a buffer is full it is sent, and the pass goes
on meanwhile (Li et al. 2020, PyTorch Distributed). What comes back is the gradient of each parameter, as a
view into the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

BUFFER_BYTES = 25 << 20
"""Of one buffer: large ones are carried at the network's rate, small ones leave earlier."""


@dataclass
class _Buffer:
    """Gradients that are sent together.

    Attributes
    ----------
    flat : all of them, end to end.
    views : each in its parameter's shape.
    missing : how many the backward pass has not made yet.
    sent : the operation under way, once all are there.
    """

    parameters: list[torch.nn.Parameter]
    flat: torch.Tensor
    views: list[torch.Tensor]
    missing: int = 0
    sent: Any = None


@dataclass
class SharedGradients:
    """Adds up the gradients of parameters that every process has whole.

    Parameters
    ----------
    parameters : those that are trained, in an order that all processes know.
    world_size : number of processes.
    """

    parameters: Sequence[torch.nn.Parameter]
    world_size: int
    buffer_bytes: int = BUFFER_BYTES
    _buffers: list[_Buffer] = field(default_factory=list)
    _next: int = 0
    _is_last: bool = False

    def __post_init__(self) -> None:
        together: list[torch.nn.Parameter] = []
        size = 0
        for parameter in reversed(self.parameters):
            together.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= self.buffer_bytes:
                self._buffers.append(_buffer(together))
                together, size = [], 0
        if together:
            self._buffers.append(_buffer(together))
        for buffer in self._buffers:
            for parameter in buffer.parameters:
                parameter.register_post_accumulate_grad_hook(lambda _, buffer=buffer: self._made(buffer))

    def begin(self, *, is_last: bool) -> None:
        """Before a backward pass; `is_last` if its gradients complete those of a step."""
        self._is_last, self._next = is_last, 0
        for buffer in self._buffers:
            buffer.missing = len(buffer.parameters)

    def end(self) -> None:
        """After the last backward pass of a step: each parameter's gradient is the mean of all processes'.

        One that no process has used has a gradient of zeros.
        """
        while self._next < len(self._buffers):
            self._send(self._buffers[self._next])
        for buffer in self._buffers:
            buffer.sent.wait()
            buffer.sent = None
            buffer.flat.mul_(1 / self.world_size)
            for parameter, view in zip(buffer.parameters, buffer.views, strict=True):
                parameter.grad = view

    def _made(self, buffer: _Buffer) -> None:
        buffer.missing -= 1
        # Buffers leave in one order in all processes, or they would be added to others.
        while self._is_last and self._next < len(self._buffers) and not self._buffers[self._next].missing:
            self._send(self._buffers[self._next])

    def _send(self, buffer: _Buffer) -> None:
        self._next += 1
        # None: no scan of this process has used the parameter, though those of another may have; or nobody
        # does, since its term has no weight (decoders without any reconstruction). That adds nothing.
        made = [parameter.grad for parameter in buffer.parameters]
        if any(gradient is None for gradient in made):
            buffer.flat.zero_()
        pairs = [(view, one) for view, one in zip(buffer.views, made, strict=True) if one is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [one for _, one in pairs])
        for parameter in buffer.parameters:
            parameter.grad = None
        buffer.sent = torch.distributed.all_reduce(buffer.flat, async_op=True)


def _buffer(parameters: list[torch.nn.Parameter]) -> _Buffer:
    flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
    pieces = flat.split([parameter.numel() for parameter in parameters])
    # Laid out as the parameters are (channels last, for example): the optimizer walks through both at once.
    views = [
        piece.as_strided(one.size(), one.stride()) for piece, one in zip(pieces, parameters, strict=True)
    ]
    return _Buffer(parameters, flat, views)
