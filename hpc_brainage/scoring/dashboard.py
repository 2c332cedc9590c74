"""Dask's dashboard: a page that shows the workers at their work, where bokeh is installed.

Workers talk TLS to their scheduler; the page is plain HTTP for whoever reaches its address, and lets nobody
change anything. So it is for this machine alone, unless another address is asked for.
"""

from __future__ import annotations

import importlib.util
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from hpc_brainage.errors import EnvironmentLacks, UsageError

THIS_MACHINE = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")
_PATIENCE = 3.0  # seconds


def dashboard_options(asked: str | None) -> dict[str, Any]:
    """What a scheduler is told of its dashboard.

    Parameters
    ----------
    asked : `HOST:PORT`, or a port of this machine alone; None for any that is free.

    Raises
    ------
    EnvironmentLacks : it is asked for, and bokeh is not installed.
    UsageError : nothing can listen there.
    """
    if asked is None:
        return {"dashboard_address": f"{THIS_MACHINE}:0", "dashboard": _has_bokeh()}
    if not _has_bokeh():
        raise EnvironmentLacks(
            "there is no dashboard without bokeh",
            where=f"--dashboard {asked}",
            hint="install it with: pip install 'hpc-brainage[dashboard]'",
        )
    host, _, port = asked.rpartition(":")
    host = host or THIS_MACHINE
    # Dask itself would take another port, which a tunnel that is there already does not lead to.
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, ValueError, OverflowError) as problem:
        raise UsageError(
            f"the dashboard cannot listen there ({problem})",
            where=f"--dashboard {asked}",
            expected="an address of this machine with a free port, as in 127.0.0.1:8787",
        ) from None
    return {"dashboard_address": f"{host}:{port}", "dashboard": True}


def link_of(cluster: Any) -> str:
    """Where the dashboard of a cluster's scheduler is seen from this machine; "" where it has none.

    Dask takes the host that workers reach the scheduler at, where its dashboard need not listen.
    """
    if not _has_bokeh():
        return ""
    server = cluster.scheduler.http_server
    listens = THIS_MACHINE if server.address in _EVERYWHERE else server.address
    reached = urlsplit(cluster.scheduler_address).hostname
    return str(cluster.dashboard_link).replace(f"//{reached}:", f"//{listens}:", 1)


def is_there(link: str) -> bool:
    """Whether a page can be seen from here: a scheduler of somebody else's need not have a dashboard."""
    try:
        with urlopen(link, timeout=_PATIENCE) as page:
            return bool(page.status == 200)
    except (OSError, ValueError):
        return False


def _has_bokeh() -> bool:
    return importlib.util.find_spec("bokeh") is not None
