"""What all tests share: where the real data lies, and a room without a network."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_THIS_MACHINE = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> Iterator[None]:
    """A script starts `tools/test &` deaf to Ctrl-C, and so would be all that tests start and interrupt."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Nothing in the package contacts the internet: a connection beyond this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        # A datagram socket that is "connected" sends nothing; it is how a program learns its own address.
        is_internet = self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM
        if is_internet and not str(address[0]).startswith(_THIS_MACHINE):
            pytest.fail(f"a connection to {address} was attempted")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public research data, from BRAINAGE_REAL_DATA; the test is skipped without it."""
    named = os.environ.get("BRAINAGE_REAL_DATA")
    if not named:
        pytest.skip("BRAINAGE_REAL_DATA is not set: this test needs real data")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"BRAINAGE_REAL_DATA points at {folder}, which is not there")
    return folder
