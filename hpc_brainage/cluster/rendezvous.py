"""Where the processes of a run meet: an address of rank 0's node, and a port that nobody else has."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from hpc_brainage.errors import EnvironmentLacks

_LOWEST, _HIGHEST = 15000, 65535
_ENOUGH = 1000
_ANYWHERE = (10000, 32767)
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIED = 200
_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux
_NAME_BYTES = 15


def reserve_port(job: int) -> tuple[int, socket.socket]:
    """A free port of this node, and what keeps it from others as long as it is not closed.

    The first one tried is derived from the job's number: two jobs of a node start at different ones. All
    lie below those that the kernel hands out by itself, or above them, so that no connection of anybody
    sits on it; on a node whose kernel hands out nearly all, they lie anywhere.

    Raises
    ------
    EnvironmentLacks : none of the ports tried is free.
    """
    lowest, highest = _range()
    for port in _candidates(job, lowest, highest):
        held = socket.socket()
        try:
            # Without SO_REUSEADDR, so that of two who want a port, one gets it.
            held.bind(("", port))
        except OSError:
            held.close()
            continue
        # Said afterwards, and of a socket that does not listen, it lets another one that says so listen on
        # the port: torch's, which comes minutes later.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return port, held
    raise EnvironmentLacks(
        f"no free port on {socket.gethostname()}",
        expected=f"one of {_TRIED} between {lowest} and {highest}",
    )


def _candidates(job: int, lowest: int, highest: int) -> Iterator[int]:
    # Steps of a prime: jobs one after the other do not run into each other's ports.
    count = highest - lowest + 1
    yield from (lowest + (job + 7919 * attempt) % count for attempt in range(_TRIED))


def _range() -> tuple[int, int]:
    """The lowest and the highest port to try: where the kernel hands out none by itself."""
    try:
        first, last = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        first, last = 32768, 60999
    if first - _LOWEST >= _ENOUGH:
        return _LOWEST, first - 1
    if _HIGHEST - last >= _ENOUGH:
        return last + 1, _HIGHEST
    return _ANYWHERE


def own_address(interface: str | None) -> str:
    """How the other nodes reach this one: through an interface, or by the name that SLURM knows.

    Raises
    ------
    EnvironmentLacks : there is no such interface, or it has no IPv4 address.
    """
    if interface is None:
        return os.environ.get("SLURMD_NODENAME") or "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            name = struct.pack("256s", interface.encode()[:_NAME_BYTES])
            answer = fcntl.ioctl(any_socket.fileno(), _ADDRESS_OF_INTERFACE, name)
    except OSError as problem:
        raise EnvironmentLacks(
            f"the network interface cannot be used ({problem.strerror})",
            where=f"interface = {interface!r} on {socket.gethostname()}",
            expected=f"one of {', '.join(name for _, name in socket.if_nameindex())}",
            hint="mend interface in the TOML that --cluster names, or leave it out",
        ) from None
    return socket.inet_ntoa(answer[20:24])


def address_towards(host: str) -> str | None:
    """The address of this machine from which another one is reached; None if it cannot be.

    A datagram socket that is connected sends nothing: the system only looks up the way.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            any_socket.connect((host, 9))
            return str(any_socket.getsockname()[0])
    except OSError:
        return None
