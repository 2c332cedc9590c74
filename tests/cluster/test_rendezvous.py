"""Where processes meet: a port that is free, stays so until torch comes, and is below the kernel's own."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_brainage.cluster import rendezvous
from hpc_brainage.cluster.rendezvous import own_address, reserve_port
from hpc_brainage.errors import EnvironmentLacks

LOWEST_EPHEMERAL = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
COMMON = LOWEST_EPHEMERAL >= 16000


@pytest.mark.skipif(not COMMON, reason="the kernel of this machine hands out low ports too")
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_a_port_lies_below_those_that_the_kernel_hands_out(job: int) -> None:
    port, held = reserve_port(job)
    with held:
        assert 15000 <= port < LOWEST_EPHEMERAL


@pytest.mark.parametrize(
    ("handed_out", "lowest", "highest"),
    [
        ("32768\t60999\n", 15000, 32767),
        ("15000 60999", 61000, 65535),
        ("10000 60000", 60001, 65535),
        ("1024 65535", 10000, 32767),
        ("15500 65000", 10000, 32767),
        ("no numbers", 15000, 32767),
    ],
)
def test_a_port_is_found_whatever_the_kernel_hands_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed_out: str, lowest: int, highest: int
) -> None:
    (tmp_path / "range").write_text(handed_out)
    monkeypatch.setattr(rendezvous, "_EPHEMERAL", tmp_path / "range")
    for job in range(5):
        port, held = reserve_port(4242 * job)
        held.close()
        assert lowest <= port <= highest


def test_of_many_who_want_one_port_at_once_one_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    port, held = reserve_port(4715)
    held.close()
    monkeypatch.setattr(rendezvous, "_candidates", lambda *of: iter([port]))
    for _ in range(50):
        got: list[socket.socket] = []
        together = threading.Barrier(4)

        def want(got: list[socket.socket] = got, together: threading.Barrier = together) -> None:
            together.wait()
            with contextlib.suppress(EnvironmentLacks):
                got.append(reserve_port(4715)[1])

        threads = [threading.Thread(target=want) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for held in got:
            held.close()
        assert len(got) == 1


def test_two_jobs_of_one_number_do_not_get_the_same_port() -> None:
    first, held = reserve_port(4711)
    with held:
        second, other = reserve_port(4711)
        other.close()
    assert first != second


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    port, held = reserve_port(4712)
    held.close()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", port))
        taken.listen()
        other, held = reserve_port(4712)
        held.close()
    assert other != port


def test_torch_can_listen_on_the_port_that_is_held_for_it() -> None:
    from torch.distributed import TCPStore

    port, held = reserve_port(4713)
    with held:
        store = TCPStore("127.0.0.1", port, world_size=1, is_master=True)
        store.set("word", "heard")
        assert store.get("word") == b"heard"


def test_without_any_free_port_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    port, held = reserve_port(4714)
    monkeypatch.setattr(rendezvous, "_candidates", lambda *of: iter([port]))
    with held, pytest.raises(EnvironmentLacks, match="no free port"):
        reserve_port(4714)


def test_an_address_is_an_interface_s_or_the_name_that_slurm_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert own_address(None) == "node7"
    assert own_address("lo") == "127.0.0.1"
    monkeypatch.delenv("SLURMD_NODENAME")
    assert own_address(None) == "127.0.0.1"


def test_an_interface_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(EnvironmentLacks, match="lo") as refused:
        own_address("ib9")
    assert "interface = 'ib9'" in str(refused.value)
