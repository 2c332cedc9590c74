"""Being told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end what is done here as Ctrl-C does.

    Workers and jobs are let go and a word is said; at once, they would be left to notice it themselves.
    What is ignored, as under nohup, stays so; only a process's main thread can be told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, signal.default_int_handler) for each in told}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
