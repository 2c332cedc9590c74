"""The code that a job runs: what was there when it was submitted, whatever is edited afterwards."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hpc_brainage
from hpc_brainage.errors import EnvironmentLacks
from hpc_brainage.provenance import package_version

_PACKAGE = Path(hpc_brainage.__file__).parent
_NOT_CODE = "__pycache__"


@contextmanager
def room_for_a_job(folder: Path) -> Iterator[None]:
    """Say of a folder in which a job's files are kept that it cannot be written, and not of which file.

    Raises
    ------
    EnvironmentLacks : the disk is full, or the folder may not be written.
    """
    try:
        yield
    except OSError as problem:
        raise EnvironmentLacks(
            f"what a job needs cannot be written ({problem.strerror})",
            where=folder,
            hint="look at its permissions and the free space, then type the command again",
        ) from None


def keep_code(folder: Path, package: Path = _PACKAGE) -> Path | None:
    """Copy the package into `folder`, under a name made of its content, and say what Python has to look in.

    A package that was installed, and is not a checkout that somebody edits, is not copied: None. Code that
    has been kept before is not copied again.
    """
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
    if any(package.resolve().is_relative_to(place) for place in installed):
        return None
    files = sorted(
        path
        for path in package.rglob("*")
        if path.is_file() and _NOT_CODE not in path.relative_to(package).parts
    )
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    kept = folder / digest.hexdigest()[:12]
    if kept.is_dir():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        for path in files:
            copy = making / package.name / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        making.chmod(0o755)
        os.replace(making, kept)
    except OSError:
        shutil.rmtree(making, ignore_errors=True)
        if not kept.is_dir():  # else somebody else has kept the same meanwhile
            raise
    return kept


def line_for(code: Path) -> str:
    """The shell line that lets a job's Python look into kept code before anything else."""
    return f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"


def require_version(submitted: str, where: Path, *, hint: str) -> None:
    """Make sure that a job runs the package that it was submitted with.

    Raises
    ------
    EnvironmentLacks : another version was installed meanwhile.
    """
    if submitted != package_version():
        raise EnvironmentLacks(
            f"the job was submitted with version {submitted}, and {package_version()} is installed now",
            where=where,
            hint=hint,
        )
