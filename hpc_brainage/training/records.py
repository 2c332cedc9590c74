"""A run's folder: what is being done, and what has come of it.

runs/<name>/config.toml    the resolved settings
            status.json    what the run is and how far it got
            metrics.jsonl  a line for each epoch of each member
            held_out.tsv   each training person's prediction by the member that never saw them
            checkpoints/   members, finished and under way
            model/         the bundle
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.config import RunConfig, parse_config, read_toml, to_toml
from hpc_brainage.errors import TrainingError
from hpc_brainage.files import read_json, write_json, write_text

LATEST = "latest"


class RunFolder:
    """Paths and records of one training run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.metrics = path / "metrics.jsonl"
        self.held_out = path / "held_out.tsv"

    def start(self, config: RunConfig, store: Path, where: str | None, *, resume_with: str) -> None:
        """Prepare the folder.

        Raises
        ------
        TrainingError : it holds another run (other settings, store or selection).
        """
        status = self.status()
        if status and status.get("key") != resume_with:
            raise TrainingError(
                "this run folder holds a run with other settings or another store",
                where=self.path,
                hint="give the new run another --name, or remove the folder",
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.toml", to_toml(config))
        record = {"state": "running", "key": resume_with, "store": str(store), "where": where}
        write_json(self.path / "status.json", record | {"started": _now()})

    def finish(self) -> None:
        """Mark the run as finished, and as the newest one beside it."""
        self.update(state="finished", finished=_now())
        link = self.path.parent / LATEST
        if link.is_symlink() or not link.exists():
            fresh = self.path.parent / f".{LATEST}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path.name)
            os.replace(fresh, link)

    def update(self, **changes: Any) -> None:
        write_json(self.path / "status.json", (self.status() or {}) | changes)

    def status(self) -> dict[str, Any] | None:
        path = self.path / "status.json"
        return read_json(path, TrainingError) if path.is_file() else None

    def config(self) -> RunConfig:
        path = self.path / "config.toml"
        return parse_config(read_toml(path), where=path)

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_held_out(self, table: pd.DataFrame) -> None:
        write_text(self.held_out, table.to_csv(sep="\t", index=False))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
