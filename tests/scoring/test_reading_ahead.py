"""Reading ahead: the same blocks in the same order, and never more of them alive than promised."""

from __future__ import annotations

import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.scoring.reading import read_ahead


class Content:
    def __init__(self, block: int) -> None:
        self.block = block


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(), max_size=12), st.integers(0, 3))
def test_every_block_is_read_once_and_in_order(blocks: list[int], ahead: int) -> None:
    read: list[int] = []
    found = [
        (block, content()) for block, content in read_ahead(blocks, lambda b: read.append(b) or -b, ahead)
    ]  # type: ignore[func-returns-value]
    assert found == [(block, -block) for block in blocks]
    assert read == blocks


def test_the_next_block_is_read_while_the_present_one_is_used() -> None:
    begun = {number: threading.Event() for number in range(3)}

    def read(number: int) -> int:
        begun[number].set()
        return number

    blocks = read_ahead(range(3), read)
    for number in range(3):
        assert next(blocks)[1]() == number
        if number < 2:
            assert begun[number + 1].wait(10)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_no_more_contents_are_alive_than_promised(ahead: int) -> None:
    alive: weakref.WeakSet[Content] = weakref.WeakSet()
    most = 0

    def read(block: int) -> Content:
        nonlocal most
        content = Content(block)
        alive.add(content)
        most = max(most, len(alive))
        return content

    for block, content in read_ahead(range(20), read, ahead):
        assert content().block == block
        del content
    assert most <= ahead + 1


def test_a_block_that_cannot_be_read_fails_alone_and_in_its_turn() -> None:
    def read(block: int) -> int:
        if block == 1:
            raise OSError("damaged")
        return block

    found = []
    for _, content in read_ahead(range(4), read):
        try:
            found.append(content())
        except OSError:
            found.append(None)  # type: ignore[arg-type]
    assert found == [0, None, 2, 3]


def test_a_caller_that_stops_early_leaves_no_thread_behind() -> None:
    blocks = read_ahead(range(100), lambda block: block)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading")]
