"""Which form of the losses is taken, what the compiled one needs, and what is said about it."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpc_brainage.errors import EnvironmentLacks, UsageError
from hpc_brainage.losses import backends, multi_mse_compiled


def test_the_choice_follows_size_type_environment_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    here = torch.empty(1)
    small, large = backends.WORTH_TILES - 1, backends.WORTH_COMPILING
    assert backends.choose(here, small) == "reference"
    assert backends.choose(here, backends.WORTH_TILES) == "tiled"
    assert backends.choose(here.double(), large) == "tiled"
    monkeypatch.setenv(backends.VARIABLE, "reference")
    assert backends.choose(here, large) == "reference"
    with backends.using("tiled"):
        assert backends.choose(here, small) == "tiled"
        assert backends.choose(here.to("meta"), large) == "reference"
        assert torch.func.vmap(lambda one: one * (backends.choose(one, large) == "reference"))(
            torch.ones(3)
        ).all()
    assert backends.choose(here, large) == "reference"
    monkeypatch.setenv(backends.VARIABLE, "tilde")
    with pytest.raises(UsageError, match="did you mean 'tiled'"):
        backends.choose(here, large)
    monkeypatch.setenv(backends.VARIABLE, "triton")
    with pytest.raises(EnvironmentLacks, match="'triton'"):
        backends.choose(here, large)


def test_without_a_compiler_tiles_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    large = backends.WORTH_COMPILING
    for compiler, says in (("", "a C compiler"), ("false", "false says")):
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr(shutil, "which", lambda name: None)
        multi_mse_compiled._compiled.cache_clear()
        try:
            with backends.using("auto"):
                assert backends.choose(torch.empty(1), large) == "tiled"
            with backends.using("compiled"):
                with pytest.raises(EnvironmentLacks, match=says):
                    backends.choose(torch.empty(1), large)
                assert backends.choose(torch.empty(1).double(), large) == "tiled"
        finally:
            multi_mse_compiled._compiled.cache_clear()


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    multi_mse_compiled._compiled.cache_clear()
    yield
    multi_mse_compiled._compiled.cache_clear()


@pytest.mark.usefixtures("compiled_anew")
def test_without_a_folder_for_what_is_compiled_tiles_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with backends.using("auto"):
        assert backends.choose(torch.empty(1), backends.WORTH_COMPILING) == "tiled"
    assert "none" in multi_mse_compiled.lacks()


@pytest.mark.skipif(bool(multi_mse_compiled.lacks()), reason="no C compiler")
@pytest.mark.usefixtures("compiled_anew")
def test_a_folder_that_cannot_be_removed_again_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on NFS, where an open library leaves a file behind."""

    def not_empty(*where: object, **how: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "rmdir", not_empty)
    with backends.using("auto"):
        assert backends.choose(torch.empty(1), backends.WORTH_COMPILING) == "compiled"
    assert list(tmp_path.iterdir())


@pytest.mark.skipif(bool(multi_mse_compiled.lacks()), reason="no C compiler")
@pytest.mark.usefixtures("compiled_anew")
def test_the_compiler_s_name_may_have_words_and_spaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "my tools" / "cc"
    compiler.parent.mkdir()
    compiler.symlink_to(shutil.which(shlex.split(multi_mse_compiled.compiler_name())[0]) or "")
    monkeypatch.setenv("CC", f"'{compiler}' -O1")
    assert multi_mse_compiled.lacks() == ""
    multi_mse_compiled._compiled.cache_clear()
    monkeypatch.setenv("CC", f"'{compiler}")
    assert "quotation" in multi_mse_compiled.lacks()


def test_what_was_chosen_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._tell.cache_clear()
    with caplog.at_level(logging.INFO, logger="hpc_brainage.losses.backends"), backends.using("tiled"):
        for _ in range(3):
            backends.choose(torch.empty(1), 10)
    assert [record.message for record in caplog.records] == ["losses on cpu: tiled, wished for: tiled"]


@pytest.mark.usefixtures("compiled_anew")
def test_what_was_missing_for_a_faster_form_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends._tell.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.INFO, logger="hpc_brainage.losses.backends"):
        with backends.using("auto"):
            backends.choose(torch.empty(1), backends.WORTH_COMPILING)
        with backends.using("compiled"):
            backends.choose(torch.empty(1).double(), 1)
    by_size, by_type = (record.message for record in caplog.records)
    assert "a faster one takes a C compiler" in by_size
    assert "no-such-compiler" in by_size
    assert by_type == "losses on cpu: tiled, wished for: compiled; that takes float32 on a CPU"


def test_torch_alone_is_enough_to_import_it() -> None:
    code = (
        "import sys; import hpc_brainage.losses.linear_mse as m; "
        "print(sorted(set(sys.modules) & {'pydantic', 'deepspeed', 'zarr', 'pandas', 'sklearn', 'dask'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"
