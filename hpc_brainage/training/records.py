"""A run's folder: what shall be done, how far it is, and what has come of it.

runs/<name>/config.toml    the resolved settings
            request.json   the store and the selection
            status.json    how far the run got
            metrics.jsonl  a line for each epoch of each member
            held_out.tsv   each training person's prediction by the member that never saw them
            checkpoints/   members, finished and under way
            model/         the bundle
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.config import RunConfig, parse_config, read_toml, to_toml
from hpc_brainage.errors import TrainingError
from hpc_brainage.files import read_json, write_json, write_text
from hpc_brainage.store.reader import Store

LATEST = "latest"


class RunFolder:
    """Paths and records of one training run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.metrics = path / "metrics.jsonl"
        self.held_out = path / "held_out.tsv"

    @classmethod
    def prepare(cls, path: Path, config: RunConfig, store: Path | str, where: str | None) -> RunFolder:
        """Write down what the run shall do; the same request again is the same run.

        A run that has not finished any member yet may be prepared anew.

        Raises
        ------
        StoreError : there is no store at this path.
        TrainingError : the folder holds members of a run with other settings, other scans or another
            selection, or the name is taken.
        """
        run = cls(path)
        if path.name == LATEST:
            raise TrainingError(
                f"a run cannot be called {LATEST!r}", where=path, hint="choose another --name"
            )
        opened = Store.open(store)
        request = {
            "store": opened.place.absolute(),
            "content_sha256": opened.content_sha256,
            "where": where,
        }
        if (path / "request.json").is_file():
            same = run.request() == request and run.config() == config
            if same:
                return run
            # A run that never finished a member holds nothing that a correction could spoil.
            if any(run.checkpoints.glob("*.json")) or run.model.exists():
                raise TrainingError(
                    "this folder holds a run with other settings, another selection or another store",
                    where=path,
                    hint="give the new run another --name, or remove the folder",
                )
        elif path.exists() and any(path.iterdir()):
            raise TrainingError(
                "this folder is not a run of hpc_brainage", where=path, hint="choose a --name"
            )
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.metrics.unlink(missing_ok=True)
        write_text(path / "config.toml", to_toml(config))
        write_json(path / "request.json", request)
        run.update(state="prepared")
        return run

    def request(self) -> dict[str, Any]:
        """The store and the selection that the run was prepared with."""
        return read_json(self.path / "request.json", TrainingError)

    def config(self) -> RunConfig:
        path = self.path / "config.toml"
        return parse_config(read_toml(path), where=path)

    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return read_json(path, TrainingError) if path.is_file() else {}

    def update(self, **changes: Any) -> None:
        """Note how far the run is."""
        write_json(self.path / "status.json", self.status() | changes | {"updated": _now()})

    @property
    def is_finished(self) -> bool:
        return self.status().get("state") == "finished"

    def finish(self) -> None:
        """Mark the run as finished, and as the newest one beside it."""
        self.update(state="finished")
        link = self.path.parent / LATEST
        if link.is_symlink() or not link.exists():
            fresh = self.path.parent / f".{LATEST}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path.name)
            os.replace(fresh, link)

    def keep_metrics(self, members: Collection[int]) -> None:
        """Drop the lines of members that will be trained anew."""
        if self.metrics.is_file():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["member"] in members]
            write_text(self.metrics, "".join(f"{line}\n" for line in kept))

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_held_out(self, table: pd.DataFrame) -> None:
        write_text(self.held_out, table.to_csv(sep="\t", index=False))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
