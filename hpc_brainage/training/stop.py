"""Stopping together: a signal to any one process ends all of them after the same step, and all is saved.

A cluster says that time is up by SIGUSR2 or SIGTERM, and not always to every process; a person says it with
Ctrl-C. The signal only leaves a note. After each step the processes agree on what has been asked of any of
them. The answer is read one step later, so that nobody waits for it.
"""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from enum import IntEnum
from types import FrameType, TracebackType
from typing import Any

import torch

from hpc_brainage.errors import ExitCode, TrainingError
from hpc_brainage.training.distributed import Processes

STOPPED_EXIT = ExitCode.STOPPED
"""Exit code of a process that was told to stop, has saved, and goes on when it is started again
(EX_TEMPFAIL of sysexits.h)."""


class Wish(IntEnum):
    """What a process would do after a step; of all processes' wishes the largest is done."""

    GO_ON = 0
    SAVE = 1
    INTERRUPT = 2
    """Save and end, since a person has pressed Ctrl-C."""
    STOP = 3
    """Save and end, since the cluster has said so."""


class Stopped(TrainingError):  # noqa: N818 - it is no mistake of anybody's
    """A run was told to stop and has saved how far it is."""

    exit_code = ExitCode.STOPPED

    def __init__(self, where: object) -> None:
        super().__init__(
            "training was told to stop, and has saved how far it is",
            where=where,
            hint="the same command again goes on where this one stopped",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Stopped, (self.where,)


class Signals:
    """Notes SIGUSR2, SIGTERM, SIGHUP and the first Ctrl-C while it is entered.

    Then what was before holds again.

    A second Ctrl-C ends the process at once, as without this. Only the main thread of a process can be
    told by signals; in another one nothing is noted.
    """

    def __init__(self) -> None:
        self.wish = Wish.GO_ON
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            ignored = signal.getsignal(number) == signal.SIG_IGN
            # In the background, or under nohup: Ctrl-C, or the end of the terminal, is not for it.
            if number in (signal.SIGINT, signal.SIGHUP) and ignored:
                continue
            self._before[number] = signal.signal(number, self._noted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.wish = max(self.wish, Wish.INTERRUPT)
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        else:
            self.wish = Wish.STOP


class Agreement:
    """What all processes of a run do after a step; all of them make one at the same point.

    It has a channel of its own over the network, beside the one of the gradients, and never touches a GPU.
    """

    def __init__(self, processes: Processes, timeout: timedelta) -> None:
        self._group: Any = None
        self._asked: tuple[Any, torch.Tensor] | None = None
        if processes.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def after_step(self, mine: Wish) -> Wish:
        """Say what this process wishes, and learn what all of them wished a step ago.

        A process that is alone gets its own wish at once.
        """
        if self._group is None:
            return mine
        agreed = self._answer()
        told = torch.tensor(int(mine))
        work = torch.distributed.all_reduce(
            told, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._asked = work, told
        return agreed

    def meet(self, mine: Wish) -> Wish:
        """Wait until all processes have come here, and learn what they wish now; what they wished before is
        forgotten."""
        if self._group is None:
            return mine
        self._answer()
        told = torch.tensor(int(mine))
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self._group)
        return Wish(int(told))

    def _answer(self) -> Wish:
        if self._asked is None:
            return Wish.GO_ON
        work, told = self._asked
        self._asked = None
        work.wait()
        return Wish(int(told))
