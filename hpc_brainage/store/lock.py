"""Locks between processes that build the same store: one file each, held with `flock`.

A lock is given back when its holder ends, however it ends. Where a file system has no such locks (some
network ones), nothing is held off and the work goes on: every file still appears whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSUPPORTED = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`, which is made if it is not there.

    Parameters
    ----------
    shared : whether others may hold it in the same way; otherwise nobody else holds it at all.
    wait : whether to wait for others to let go of it.

    Raises
    ------
    BlockingIOError : somebody else holds it, and `wait` is false.
    FileNotFoundError : its folder is not there, or was removed during the wait.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    descriptor = _hold(path, how)
    try:
        yield
    finally:
        os.close(descriptor)


def _hold(path: Path, how: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, how)
            except OSError as problem:
                if problem.errno not in _UNSUPPORTED:
                    raise
            if _is_still_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file while we waited: whoever comes now has another


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
