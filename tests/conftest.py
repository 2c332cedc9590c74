"""What all tests share: where the real data lies, and a room without a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
