"""A run's folder: what shall be done, how far it is, and what has come of it.

runs/<name>/config.toml    the resolved settings
            request.json   the store and the selection
            status.json    how far the run got
            metrics.jsonl  a line for each epoch of each member
            held_out.tsv   each training person's prediction by the member that never saw them
            lease.json     who is training at this moment
            checkpoints/   members, finished and under way
            model/         the bundle
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.config import RunConfig, parse_config, read_toml, to_toml
from hpc_brainage.errors import BrainAgeError, TrainingError
from hpc_brainage.files import read_json, remove_tree, write_json, write_text
from hpc_brainage.store.reader import Store
from hpc_brainage.training.chosen import choose_scans
from hpc_brainage.training.lease import Lease, TakenOver

LATEST = "latest"
LEASE = "lease.json"
PASSED_OVER = "what was saved by other settings or other software is passed over, and trained anew"
_PREPARED = "prepared"
_LEFT = re.compile(r"\.\.?(lease|config|status|request|checkpoints)\..+")
"""Names under which a preparation writes and removes, and which a kill leaves."""
_NO_NUMBER = {"training": {"device", "zero_stage", "accumulation", "checkpoint_minutes", "timeout_minutes"}}
"""Settings that say how a run is computed, and not what: with others it is the same run."""
_BETWEEN_NOTES = 5.0  # seconds between two changes of status.json while epochs go by
_LOG = logging.getLogger(__name__)


class RunFolder:
    """Paths and records of one training run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.metrics = path / "metrics.jsonl"
        self.held_out = path / "held_out.tsv"
        self._newest: dict[str, Any] = {}
        self._unlogged = ""
        self._noted = 0.0

    @classmethod
    def prepare(cls, path: Path, config: RunConfig, store: Path | str, where: str | None) -> RunFolder:
        """Write down what the run shall do; the same request again is the same run.

        A run of which nothing was saved yet may be prepared anew. Settings that decide no number (where and
        in how many parts is computed, how often is saved) may change until the run is finished.

        Raises
        ------
        StoreError : there is no store at this path.
        UsageError : the selection is not understood, or matches nobody.
        TrainingError : nobody in the store can be trained on by these settings; the folder holds members or
            checkpoints of a run with other settings, other scans or another selection, or the name is
            taken, or the run is being trained at this moment.
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
            before = run.config()
            if run.request() == request and what_is_computed(before) == what_is_computed(config):
                if before != config and not run.is_finished:
                    with Lease(path / LEASE):
                        write_text(path / "config.toml", to_toml(config))
                return run
            # A run that never saved anything holds nothing that a correction could spoil.
            if run.model.exists() or run.has_checkpoints:
                raise TrainingError(
                    "this folder holds a run with other settings, another selection or another store",
                    where=path,
                    hint="give the new run another --name, or remove the folder",
                )
        elif path.exists() and not _is_half_prepared(path):
            raise TrainingError(
                "this folder is not a run of hpc_brainage", where=path, hint="choose a --name"
            )
        choose_scans(opened, config, where)  # what can never be trained leaves no folder behind
        path.mkdir(parents=True, exist_ok=True)
        with Lease(path / LEASE):  # nobody may be training by what is about to be changed
            remove_tree(run.checkpoints)
            run.checkpoints.mkdir()
            run.metrics.unlink(missing_ok=True)
            write_json(path / "status.json", {"state": _PREPARED, "updated": _now()})
            write_text(path / "config.toml", to_toml(config))
            write_json(path / "request.json", request)  # the last one: it makes the folder a run
        return run

    @property
    def has_checkpoints(self) -> bool:
        """Whether there are members to go on from, finished or under way."""
        return any(self.checkpoints.glob("member-*.json")) or any(self.checkpoints.glob("member*/step-*"))

    def check_store(self, opened: Store) -> None:
        """Make sure that a store, wherever it lies now, is the one that the run was prepared with.

        Raises
        ------
        TrainingError : its content is another.
        """
        request = self.request()
        if opened.content_sha256 == request["content_sha256"]:
            return
        done = "trained" if self.is_finished else "prepared"
        same_place = opened.place.absolute() == request["store"]
        raise TrainingError(
            f"the store has changed since the run was {done}"
            if same_place
            else f"this is not the store that the run was {done} on",
            where=opened.path,
            hint="bring back the store as it was, or train again under another --name",
        )

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
        """Mark the run as finished, and as the newest one beside it; it needs no checkpoints under way, and
        nothing that kills have left half written or half removed."""
        for left in self.checkpoints.iterdir():
            if left.is_dir():
                remove_tree(left)
            elif left.suffix == ".tmp":
                left.unlink()
        self.update(state="finished")
        link = self.path.parent / LATEST
        if link.is_symlink() or not link.exists():
            fresh = self.path.parent / f".{LATEST}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(self.path.name)
            os.replace(fresh, link)

    @contextmanager
    def under_way(self, processes: int, key: str) -> Iterator[None]:
        """Note in status.json that the run is trained, by what `key` stands for, and how that ended.

        `state` is "running" meanwhile and afterwards, until the model is written, unless training was
        told to stop ("stopped") or failed ("failed", with the reason under `error`). `restarts` counts
        how often it went on, and `passed_over` whether not all that was saved is gone on with.
        """
        from hpc_brainage.training.stop import Stopped  # with torch, which preparing a run does not need

        before = self.status()
        restarts = before["restarts"] + 1 if "restarts" in before else 0
        passed_over = PASSED_OVER if self._holds_others(key) else None
        self.update(
            state="running", processes=processes, restarts=restarts, error=None, passed_over=passed_over
        )
        try:
            yield
        except (Stopped, KeyboardInterrupt):
            self.note(state="stopped")
            raise
        except TakenOver:
            raise  # what stands there now is somebody else's
        except Exception as problem:
            self.note(state="failed", error=str(problem))
            raise
        self.note()

    def _holds_others(self, key: str) -> bool:
        """Whether some of what is saved was trained by something else than `key` stands for."""
        for path in self.checkpoints.rglob("*.json"):
            with suppress(BrainAgeError, KeyError, TypeError):  # damaged: that is said where it is read
                if read_json(path)["key"] != key:
                    return True
        return False

    def keep_metrics(self, members: Collection[int], epoch: int) -> None:
        """Drop what was logged of members from an epoch on, since that will be trained anew; and a last
        line of which only half was written."""
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text().splitlines()
        kept = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["member"] not in members or record["epoch"] < epoch:
                kept.append(line)
        if kept != lines:
            write_text(self.metrics, "".join(f"{line}\n" for line in kept))

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, and say in status.json how far the run is.

        A line for which the disk has no room is written with the next one.
        """
        self._unlogged += json.dumps(record) + "\n"
        length = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with self.metrics.open("a") as file:
                file.write(self._unlogged)
            self._unlogged = ""
        except OSError as problem:
            with suppress(OSError):
                os.truncate(self.metrics, length)  # half a line would spoil the next one
            _LOG.warning("metrics.jsonl could not be written (%s: %s)", self.path, problem.strerror)
        self._newest = {name: record.get(name) for name in ("member", "epoch", "step", "validation_mae")}
        if time.monotonic() - self._noted > _BETWEEN_NOTES:
            self.note()

    def note(self, **changes: Any) -> None:
        """Note how far the run is, unless the disk is full: that must not end it."""
        self._noted = time.monotonic()
        try:
            self.update(**changes, **self._newest)
        except OSError as problem:
            _LOG.warning("status.json could not be written (%s: %s)", self.path, problem.strerror)

    def write_held_out(self, table: pd.DataFrame) -> None:
        write_text(self.held_out, table.to_csv(sep="\t", index=False))


def runs_in(folder: Path) -> list[Path]:
    """The runs that a folder holds, finished or not, by name; not the link to the newest one."""
    return [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (path / "request.json").is_file() and not path.is_symlink()
    ]


def what_is_computed(config: RunConfig) -> dict[str, Any]:
    """The settings that decide a run's numbers, as JSON."""
    return config.model_dump(mode="json", exclude=_NO_NUMBER)


def _is_half_prepared(folder: Path) -> bool:
    """Whether a folder without a request is empty, or what a preparation left that was killed."""
    found = {path.name for path in folder.iterdir() if not _LEFT.fullmatch(path.name)}
    if not found <= {LEASE, "checkpoints", "status.json", "config.toml"}:
        return False
    if "checkpoints" in found and any((folder / "checkpoints").iterdir()):
        return False
    # Settings lie there after the status only; alone they are somebody's own.
    return "config.toml" not in found or RunFolder(folder).status().get("state") == _PREPARED


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
