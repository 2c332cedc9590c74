"""When training is saved, and how it goes on: snapshots taken between two steps, written behind its back.

What a checkpoint holds is copied into a buffer on the host, which is all that training waits for. A thread
writes the buffer to the disk. A checkpoint that cannot be written is said and left out; the run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from hpc_brainage.training.distributed import Processes
from hpc_brainage.training.engine import Piece
from hpc_brainage.training.lease import Lease, TakenOver
from hpc_brainage.training.of_stack import Stacks
from hpc_brainage.training.snapshot import Snapshot, Snapshots
from hpc_brainage.training.stop import Agreement, Signals, Stopped, Wish

_NONE = -1
"""The step of a checkpoint that is not there."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What training needs to go on from a step.

    Attributes
    ----------
    step : steps taken.
    pieces : this process's, on any device; views that the next step changes.
    fixed : whole tensors on the host that no step changes any more; the first process's count.
    sizes : numbers in each whole tensor of `pieces`.
    record : JSON of the rest; the first process's counts.
    """

    step: int
    pieces: Mapping[str, Piece]
    fixed: Mapping[str, torch.Tensor]
    sizes: Mapping[str, int]
    record: Mapping[str, Any]


@dataclass
class Keeper:
    """Saves what is being trained in a run's folder, and ends all processes together when told to.

    Parameters
    ----------
    folder : the run's checkpoints.
    key : by what the run is trained.
    seconds : between two checkpoints.
    lease : of the first process.
    """

    folder: Path
    key: str
    processes: Processes
    signals: Signals
    agreement: Agreement
    seconds: float
    lease: Lease | None = None
    _stacks: Stacks = field(init=False)
    _snapshots: Snapshots | None = None
    _spared: bool = False
    _last: float = 0.0
    _saved: int = _NONE
    _has_failed: bool = False
    _buffer: torch.Tensor | None = None
    _writing: Future[None] | None = None
    _writer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
    )

    def __post_init__(self) -> None:
        self._stacks = Stacks(self.folder, self.key)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()

    def has_begun(self, name: str) -> bool:
        """Whether this process finds a checkpoint of what is called `name`."""
        return Snapshots(self.folder / name, self.key).newest() is not None

    def begin(self, name: str, member: int | None = None) -> Snapshot | None:
        """Begin, or go on with, what is called `name`: the newest checkpoint of it, if there is one.

        Where there is none, a member of this number goes on from its share of what was saved of many
        members together, if it was one of them.
        """
        self._snapshots = Snapshots(self.folder / name, self.key)
        newest = self._snapshots.newest() if self.processes.is_first else None
        told = self.processes.word_of_the_first(newest.step if newest else _NONE)
        step = None if told == _NONE else int(told)
        if self.processes.is_first:
            self._snapshots.forget_unless(step)
        self._last, self._saved, self._has_failed = time.monotonic(), _NONE, False
        if step is not None:
            return newest or self._snapshots.read(step)
        return None if member is None else self._share(member)

    def _share(self, member: int) -> Snapshot | None:
        found = self._stacks.newest_with(member) if self.processes.is_first else None
        first, last, step = map(int, self.processes.words_of_the_first(found or [_NONE] * 3))
        return None if step == _NONE else self._stacks.share(first, last, step, member)

    def after_step(self, state: Callable[[], State]) -> None:
        """Save, if it is time to or the run shall stop; all processes call this after the same step.

        Raises
        ------
        Stopped : a process was told to stop; everything is saved.
        KeyboardInterrupt : a person has pressed Ctrl-C; everything is saved.
        TakenOver : another training has taken the run's folder.
        TrainingError : `state` finds that there is nothing worth saving.
        """
        if self.lease is not None and self.lease.is_lost:
            raise TakenOver(
                "another training has taken this folder, as if this one were dead", where=self.folder.parent
            )
        due = Wish.SAVE if self._is_due() else Wish.GO_ON
        wish = self.agreement.after_step(max(due, self.signals.wish))
        if wish == Wish.GO_ON:
            return
        self.save(state())
        if wish == Wish.SAVE:
            return
        self._wait()
        # A launcher may end the others as soon as the first one is gone.
        self._end_if_told(self.agreement.meet(wish))

    def save(self, state: State) -> None:
        """Take a snapshot, to be written in the background."""
        self._wait()
        assert self._snapshots is not None, "nothing was begun"
        pieces = self._copied(state.pieces)
        sizes = dict(state.sizes)
        if self.processes.is_first:
            for name, tensor in state.fixed.items():
                pieces[name], sizes[name] = Piece(0, tensor.reshape(-1)), tensor.numel()
        told = torch.tensor([float(bool(pieces)), float(self._has_failed)], device=self.processes.device)
        holders, failures = self.processes.summed(told).tolist()
        # At ZeRO stage 0 the first process has everything, and writes alone.
        writers = self.processes.world_size if holders > 1 else 1
        # What others have written of a checkpoint that is not whole would fill the disk for good.
        half = self._saved if failures and self.processes.is_first else _NONE
        self._last, self._saved, self._has_failed = time.monotonic(), state.step, False
        if self.processes.rank < writers:
            self._writing = self._writer.submit(
                self._write, self._snapshots, state, pieces, sizes, writers, half
            )

    def spare(self) -> None:
        """What was begun cannot be kept elsewhere: its checkpoints stay, and training can go on from them.

        The first process's word counts.
        """
        self._spared = True

    def end(self) -> None:
        """What was begun is finished: its checkpoints are removed, unless nothing else is left of it.

        Raises
        ------
        Stopped, KeyboardInterrupt : a process was told to, after the last step.
        """
        self._wait()
        wish = self.agreement.meet(self.signals.wish)
        if self.processes.is_first and self._snapshots is not None and not self._spared:
            self._snapshots.remove()
        self._snapshots, self._spared = None, False
        self._end_if_told(wish)

    def _end_if_told(self, wish: Wish) -> None:
        if wish == Wish.INTERRUPT:
            raise KeyboardInterrupt
        if wish == Wish.STOP:
            raise Stopped(self.folder.parent)

    def _is_due(self) -> bool:
        """Whether the first process's clock says so; it asks once."""
        idle = self._writing is None or self._writing.done()
        due = self.processes.is_first and idle and time.monotonic() - self._last > self.seconds
        if due:
            self._last = time.monotonic()
        return due

    def _copied(self, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
        """The pieces in the buffer on the host, which is made once and used again."""
        needed = sum(piece.values.numel() for piece in pieces.values())
        if self._buffer is None or len(self._buffer) < needed:
            self._buffer = torch.empty(needed, pin_memory=self.processes.device.type == "cuda")
        copied, end = {}, 0
        for name, piece in pieces.items():
            begin, end = end, end + piece.values.numel()
            copied[name] = Piece(piece.start, self._buffer[begin:end])
        for name, piece in pieces.items():
            copied[name].values.copy_(piece.values, non_blocking=True)
        if self.processes.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return copied

    def _write(
        self,
        snapshots: Snapshots,
        state: State,
        pieces: Mapping[str, Piece],
        sizes: Mapping[str, int],
        writers: int,
        half: int,
    ) -> None:
        try:
            if half != _NONE:
                snapshots.forget(half)
            snapshots.write(state.step, self.processes.rank, writers, pieces, sizes, state.record)
        except OSError as problem:
            self._has_failed = True
            _LOG.warning(
                "the checkpoint of step %d could not be saved, and training goes on (%s: %s)",
                state.step, snapshots.folder, problem.strerror,
            )  # fmt: skip
            return
        if self.processes.is_first:
            with suppress(OSError):  # what cannot be removed now is removed after the next one
                snapshots.prune()

    def _wait(self) -> None:
        """Until what is being written is on the disk, or was said not to be."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
