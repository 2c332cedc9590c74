"""Work in a child process that may be killed; for programs that fork and have started no thread."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable


def in_a_process(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run `work` in a child; whether it came to its end. Any other end than SIGKILL is an error."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a child ended with status {status}")
    return status == 0
