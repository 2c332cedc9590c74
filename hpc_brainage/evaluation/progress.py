"""How the evaluation says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Told how much of how much is done, and what comes next."""
