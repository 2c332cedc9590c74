"""What a job of an array runs: one command of `brainage`, in the folder that it was typed in.

`python -m hpc_brainage.cli.task WORK TASK` is started once by each job of a submission (see
`hpc_brainage.cluster.array`). WORK is the folder of the submission, which says what is to be typed; TASK is
the job's number in the array, or "last".

It ends as the command does. When it is told to stop (SIGUSR2 or SIGTERM) it ends at once with exit code 75,
and the job is queued again: the command goes on where it was cut off. After its time was up ten times, it
ends with exit code 5, and is not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hpc_brainage.errors import BrainAgeError, ExitCode, UsageError

MOST_TIMEOUTS = 10
"""A command that never ends in its time must not come back for ever."""
_BEFORE_THE_END = 180.0
"""Seconds before its time is up from which on a job is told to stop for that reason, and not since it is
preempted: SLURM says so 90 seconds before, and up to a minute earlier."""


def main(arguments: list[str]) -> int:
    """Entry point of a job of an array; returns its exit code, or ends as the command does."""
    began = time.monotonic()
    try:
        if len(arguments) != 2:
            raise UsageError(
                "a folder and a task are needed", expected="python -m hpc_brainage.cli.task WORK TASK"
            )
        folder, task = Path(arguments[0]), arguments[1]
        from hpc_brainage.cluster.array import note_timeout, work_in

        work = work_in(folder)
        words = work.words(task)

        def stop(number: int, frame: FrameType | None) -> NoReturn:
            is_up = time.monotonic() - began > 60 * work.minutes - _BEFORE_THE_END
            times = note_timeout(folder, task) if is_up else 0
            said = f"told to stop by {signal.Signals(number).name}; what is finished is kept\n"
            if times >= MOST_TIMEOUTS:
                said += f"the time was up {times} times: ask for a longer one\n"
            os.write(2, said.encode())
            os._exit(ExitCode.ENVIRONMENT if times >= MOST_TIMEOUTS else ExitCode.STOPPED)

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, stop)
        os.chdir(work.folder)
        from hpc_brainage.cli.main import run
    except BrainAgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    sys.argv = ["brainage", *words]
    try:
        run()
    finally:  # it is over, and a signal that comes while Python ends is too late
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
