"""Reading ahead: the next block is read while the present one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Block = TypeVar("Block")
Content = TypeVar("Content")


def read_ahead(
    blocks: Iterable[Block], read: Callable[[Block], Content], ahead: int = 1
) -> Iterator[tuple[Block, Callable[[], Content]]]:
    """Each block with what gives its content, in order, while a thread reads the blocks that follow.

    What `read` raises is raised by the function that would have given the content, and the blocks after it
    are read all the same. At most `ahead` + 1 contents are alive, as long as the caller lets go of one
    before it asks for the next. Where the caller stops early, the block that is being read is read to its
    end, and no other is begun.

    Parameters
    ----------
    read : called in one thread of its own, one block after the other.
    ahead : blocks that are read before they are asked for; 0 reads each when it is its turn.
    """
    coming = iter(blocks)
    if ahead < 1:
        for block in coming:
            yield block, lambda block=block: read(block)  # type: ignore[misc]
        return
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as reader:
        waiting: deque[tuple[Block, Future[Content]]] = deque()
        try:
            for block in islice(coming, ahead):
                waiting.append((block, reader.submit(read, block)))
            while waiting:
                block, content = waiting.popleft()
                for following in islice(coming, 1):
                    waiting.append((following, reader.submit(read, following)))
                yield block, content.result
                del content
        finally:
            for _, content in waiting:
                content.cancel()
