"""Where a result comes from: versions, and hashes of what went in.

Only facts that are the same whenever the same work is done again are kept here, so that a store or a
bundle that is made twice has the same bytes. Dates and machine names belong into logs.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hpc_brainage.files import sha256_of, sha256_of_file

PACKAGE = "hpc-brainage"


def package_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def software(*packages: str) -> dict[str, str]:
    """Versions of this package, Python and the named packages, without importing them."""
    versions = {PACKAGE: package_version(), "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def code_sha256(*rooms: str) -> str:
    """Hash of the source files of some rooms of this package, as in `code_sha256("model", "losses")`."""
    package = Path(__file__).parent
    files = sorted(path for room in rooms for path in (package / room).rglob("*.py"))
    return sha256_of([[path.relative_to(package).as_posix(), sha256_of_file(path)] for path in files])


def input_file(path: Path) -> dict[str, Any]:
    """Name, size and hash of an input; the folder it lay in is private and left out."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
