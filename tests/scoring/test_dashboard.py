"""Dask's dashboard: seen where bokeh is installed, by this machine alone unless more is asked for."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from hpc_brainage.cluster.resources import Resources
from hpc_brainage.errors import EnvironmentLacks, UsageError
from hpc_brainage.scoring import dashboard
from hpc_brainage.scoring.crew import hired
from hpc_brainage.scoring.dashboard import dashboard_options, is_there
from hpc_brainage.scoring.fleet import Fleet
from hpc_brainage.scoring.slurm_crew import _job, _settings

pytestmark = pytest.mark.timeout(120)
needs_bokeh = pytest.mark.skipif(
    importlib.util.find_spec("bokeh") is None, reason="the dashboard needs bokeh"
)


@contextmanager
def taken_port() -> Iterator[int]:
    """A port where somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody.getsockname()[1]


def free_port() -> int:
    with taken_port() as port:
        return port


@needs_bokeh
def test_the_dashboard_of_a_crew_can_be_seen_while_it_is_at_work(tmp_path: Path) -> None:
    with hired(Fleet(workers=1), 1, tmp_path) as crew:
        assert crew.client.scheduler.address.startswith("tls://")
        assert urlsplit(crew.dashboard).hostname == "127.0.0.1"
        with urlopen(crew.dashboard, timeout=30) as page:
            assert page.status == 200
            assert b"bokeh" in page.read().lower()
    assert not is_there(crew.dashboard)


@needs_bokeh
def test_the_dashboard_is_where_it_was_asked_for(tmp_path: Path) -> None:
    asked = f"127.0.0.1:{free_port()}"
    with hired(Fleet(workers=1, dashboard=asked), 1, tmp_path) as crew:
        assert crew.dashboard == f"http://{asked}/status"
        assert is_there(crew.dashboard)


@needs_bokeh
@pytest.mark.parametrize("asked", ["{port}", ":{port}"])
def test_a_port_alone_is_one_of_this_machine_alone(asked: str) -> None:
    port = free_port()
    options = dashboard_options(asked.format(port=port))
    assert options == {"dashboard_address": f"127.0.0.1:{port}", "dashboard": True}


@needs_bokeh
@pytest.mark.parametrize("asked", ["abc", "127.0.0.1:99999", "127.0.0.1:-1", "192.0.2.1:8787", "a b:80"])
def test_an_address_where_nothing_can_listen_is_refused(asked: str) -> None:
    with pytest.raises(UsageError, match="cannot listen there"):
        dashboard_options(asked)


@needs_bokeh
def test_another_port_than_the_one_asked_for_is_never_taken() -> None:
    with taken_port() as port, pytest.raises(UsageError, match="in use"):
        dashboard_options(f"127.0.0.1:{port}")


def test_without_bokeh_a_dashboard_that_is_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_has_bokeh", lambda: False)
    assert dashboard_options(None)["dashboard"] is False
    with pytest.raises(EnvironmentLacks, match=r"hpc-brainage\[dashboard\]"):
        dashboard_options("127.0.0.1:8787")


def test_workers_on_nodes_show_nothing_of_their_own(tmp_path: Path) -> None:
    assert (
        "--no-dashboard" in _job(_settings(Resources(), 0), 0, Resources(), tmp_path)["worker_extra_args"]
    )


@needs_bokeh
@pytest.mark.parametrize("shows", [True, False])
def test_the_dashboard_of_a_scheduler_of_one_s_own_is_named_if_it_has_one(
    tmp_path: Path, shows: bool
) -> None:
    port, page = free_port(), free_port()
    words = ["--host", "127.0.0.1", "--port", port, "--dashboard-address", f"127.0.0.1:{page}"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *map(str, words)]
        + ([] if shows else ["--no-dashboard"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with hired(Fleet(scheduler=f"tcp://127.0.0.1:{port}"), 1, tmp_path) as crew:
            assert crew.dashboard == (f"http://127.0.0.1:{page}/status" if shows else "")
    finally:
        scheduler.terminate()
        scheduler.wait(20)
