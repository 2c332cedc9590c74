"""Lanes: the same work in several threads, each of which computes on one core.

A network on a table of features is many short steps. Cut into pieces for several threads, each step waits
for the slowest of them; threads that have rows of their own wait for nobody. What a lane computes does not
depend on how many there are, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_lanes(work: Callable[[], None], most: int) -> None:
    """Call `work` once in each of as many threads as PyTorch has, at most `most`, and wait for all of them.

    What one of them raises is raised here, when the others are done.
    """
    threads = torch.get_num_threads()
    lanes = min(threads, most)
    torch.set_num_threads(1)
    try:
        if lanes <= 1:
            work()
            return
        with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
            running = [pool.submit(work) for _ in range(lanes)]
        for lane in running:
            lane.result()
    finally:
        torch.set_num_threads(threads)
