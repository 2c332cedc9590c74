"""The starts of a run's job: where its processes meet, and what they leave when they fail.

A job that was cut off is queued again, so one run has many starts. Each has a folder of its own in the
run's `logs/`, named after the job and after how often it was started before:

    logs/1234-0/rendezvous.json   where the processes meet
                failed-3.json     what rank 3 failed of, if it did
                lost-0.json       that rank 0 has lost another process, and no reason of its own
    starts.jsonl                  one line for each start, with how far the run was
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_brainage.errors import TrainingError
from hpc_brainage.files import read_json, sha256_of, write_json

LOGS = "logs"
MOST_STARTS_WITHOUT_PROGRESS = 4
UNRECORDED = 200
"""Exit code of a process that finds no room to write down what it failed of. It is above that of any
signal, since srun ends with the highest one of all."""
_MEETING = "rendezvous.json"
_STARTS = "starts.jsonl"
_PATIENCE = 600.0  # seconds until rank 0 must have come: nodes of one job may boot one after the other
_GLANCE = 0.2


@dataclass(frozen=True)
class Failure:
    """What a process failed of."""

    rank: int
    node: str
    what: str
    seconds: float
    """When, since the epoch."""
    is_loss: bool
    """Whether it only says that another process is gone."""


@dataclass(frozen=True)
class Start:
    """One start of a run's job."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder.parent.parent

    @property
    def job(self) -> int:
        """A number that no other start on these nodes has: the job's, or the launching process's."""
        digits = self.folder.name.partition("-")[0]
        return int(digits) if digits.isdecimal() else 0

    def meet_here(self, address: str, port: int) -> None:
        """Tell the others where to meet."""
        write_json(self.folder / _MEETING, {"address": address, "port": port})

    def meeting(self) -> tuple[str, int]:
        """Wait for rank 0 to say where to meet: an address and a port.

        Raises
        ------
        TrainingError : it has failed, or has not said so for ten minutes.
        """
        until = time.monotonic() + _PATIENCE
        while True:
            # The folder is listed: network file systems remember for a minute that a file is not there.
            there = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
            if _MEETING in there:
                found = read_json(self.folder / _MEETING, TrainingError)
                return found["address"], found["port"]
            if any(name.startswith("failed-0") for name in there) or time.monotonic() > until:
                raise TrainingError(
                    "rank 0 has not come to where the processes of the run meet",
                    where=self.folder,
                    hint="see what its log says, logs/rank-0.log; all nodes must see the run's folder",
                )
            time.sleep(_GLANCE)

    def note(self) -> None:
        """Note this start, and refuse to go on where the ones before came no further.

        Raises
        ------
        TrainingError : the job was started several times without any progress.
        """
        job = self.folder.name.rpartition("-")[0]
        progress = progress_of(self.run)
        before = [start for start in starts_of(self.run) if start["job"] == job]
        line = {"job": job, "start": self.folder.name, "at": round(time.time(), 1), "progress": progress}
        path = self.run / _STARTS
        # What a start that was cut off left of its own line must not spoil this one.
        is_cut = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a") as file:
            file.write(("\n" if is_cut else "") + json.dumps(line) + "\n")
        same = 0
        while same < len(before) and before[-1 - same]["progress"] == progress:
            same += 1
        if same >= MOST_STARTS_WITHOUT_PROGRESS:
            raise TrainingError(
                f"the job was started {same} times and came no further than before",
                where=self.run,
                expected="a checkpoint or a finished member between two starts",
                hint="see logs/ for what ends it; a longer time or more memory may be what it needs; then"
                " brainage resume",
            )

    def record(self, rank: int, what: str, *, is_loss: bool) -> None:
        """Write down why a process ends before its work is done."""
        kind = "lost" if is_loss else "failed"
        content = {"node": socket.gethostname(), "what": what, "seconds": time.time()}
        write_json(self.folder / f"{kind}-{rank}.json", content)

    def failures(self) -> list[Failure]:
        """What was written down, first by cause: those that name a reason, and the earliest."""
        found = []
        for path in self.folder.glob("*-*.json"):
            kind, _, rank = path.stem.partition("-")
            if kind not in ("failed", "lost") or not rank.isdecimal():
                continue
            content = read_json(path, TrainingError)
            found.append(
                Failure(int(rank), content["node"], content["what"], content["seconds"], kind == "lost")
            )
        return sorted(found, key=lambda failure: (failure.is_loss, failure.seconds))


def starts_of(run: Path) -> list[dict[str, Any]]:
    """The starts of a run's jobs that got as far as rank 0, in order; not a line that was cut off."""
    path, found = run / _STARTS, []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [start for start in found if isinstance(start, dict) and {"job", "progress"} <= start.keys()]


def newest_start(run: Path, job: str = "") -> Start | None:
    """The start that was made last, whether or not it got far; one of this job, if it was ever started."""
    folders = [path for path in (run / LOGS).glob("*-*") if path.is_dir()]
    folders = [path for path in folders if path.name.rpartition("-")[0] == job] or folders
    return Start(max(folders, key=lambda path: path.stat().st_mtime_ns)) if folders else None


def progress_of(run: Path) -> str:
    """How far a run is, as a word that is another one as soon as anything more is kept of it."""
    kept = run / "checkpoints"
    return sha256_of(sorted(str(path.relative_to(kept)) for path in kept.rglob("*.json")))[:16]
