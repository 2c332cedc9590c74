"""A command in a folder of its own, and a folder in which a model was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.commands import TINY, Answer, Brainage, type_command
from planted import planted_store
from pretended_slurm import pretend_slurm


@pytest.fixture
def brainage(tmp_path: Path) -> Brainage:
    """Type a command in the test's own folder."""
    return lambda *words: type_command(tmp_path, *words)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A folder in which openbhb.zarr was trained on with tiny settings, and what that said."""
    folder = tmp_path_factory.mktemp("trained")
    planted_store(folder, people=60, name="openbhb")
    settings = [word for setting in TINY for word in ("--set", setting)]
    return folder, type_command(folder, "train", *settings)


@pytest.fixture
def openbhb(tmp_path: Path) -> Path:
    """A store in the test's own folder, openbhb.zarr."""
    return planted_store(tmp_path, people=40, name="openbhb")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a SLURM that only pretends keeps what it is asked for."""
    return pretend_slurm(tmp_path, monkeypatch)
