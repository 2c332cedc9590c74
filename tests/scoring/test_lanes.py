"""Lanes: the same work in several threads, in place of PyTorch's, which are given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from hpc_brainage.scoring.lanes import in_lanes


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "lanes"), [(1, 1), (2, 2), (4, 4), (9, 4)])
def test_there_is_a_lane_for_each_thread_if_there_is_work_for_it(most: int, lanes: int) -> None:
    together = threading.Barrier(lanes, timeout=30)
    threads: list[int] = []

    def work() -> None:
        together.wait()  # breaks if they come one after the other
        threads.append(torch.get_num_threads())

    in_lanes(work, most)
    assert threads == [1] * lanes
    assert torch.get_num_threads() == 4


def test_one_lane_is_the_thread_that_asks() -> None:
    asked: list[threading.Thread] = []
    in_lanes(lambda: asked.append(threading.current_thread()), 1)
    assert asked == [threading.current_thread()]


def test_an_error_of_one_lane_is_raised_when_the_others_are_done() -> None:
    first, others_done = threading.Lock(), []

    def work() -> None:
        if first.acquire(blocking=False):
            raise MemoryError("too much")
        threading.Event().wait(0.05)
        others_done.append(torch.get_num_threads())

    with pytest.raises(MemoryError, match="too much"):
        in_lanes(work, 3)
    assert others_done == [1, 1]
    assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]
