"""A queued job runs the code of when it was submitted."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import hpc_brainage
from hpc_brainage.cluster.code import keep_code


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout of a package that says what it is."""
    folder = tmp_path / "checkout" / "said"
    (folder / "inner" / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "word.py").write_text("print('old')\n")
    (folder / "inner" / "__pycache__" / "word.pyc").write_bytes(b"compiled")
    return folder


def said(kept: Path, folder: Path) -> str:
    """What a job says that runs the kept code, in a folder that has newer code."""
    words = [sys.executable, "-P", "-m", "said.inner.word"]
    env = os.environ | {"PYTHONPATH": str(kept)}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def test_editing_a_checkout_does_not_change_what_is_kept(package: Path, tmp_path: Path) -> None:
    kept = keep_code(tmp_path / "code", package)
    assert kept is not None
    (package / "inner" / "word.py").write_text("print('new')\n")
    assert said(kept, package.parent) == "old\n"
    newer = keep_code(tmp_path / "code", package)
    assert newer is not None
    assert said(newer, tmp_path) == "new\n"
    assert said(kept, package.parent) == "old\n"


def test_the_same_code_is_kept_once(package: Path, tmp_path: Path) -> None:
    first = keep_code(tmp_path / "code", package)
    assert first is not None
    marked = first / "said" / "mark"
    marked.touch()
    assert keep_code(tmp_path / "code", package) == first
    assert marked.exists()
    assert [path.name for path in (tmp_path / "code").iterdir()] == [first.name]
    assert not list(first.rglob("*.pyc"))


def test_a_package_that_was_installed_is_not_copied(tmp_path: Path) -> None:
    installed = Path(sysconfig.get_path("purelib")) / "pip"
    assert keep_code(tmp_path / "code", installed) is None
    assert not (tmp_path / "code").exists()


def test_this_package_is_kept_whole(tmp_path: Path) -> None:
    package = Path(hpc_brainage.__file__).parent
    kept = keep_code(tmp_path, package)
    if kept is None:
        pytest.skip("this package is installed, not a checkout")
    copies = {path.relative_to(kept / "hpc_brainage") for path in kept.rglob("*") if path.is_file()}
    assert {path.relative_to(package) for path in package.rglob("*.py")} <= copies
