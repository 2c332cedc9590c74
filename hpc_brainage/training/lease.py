"""One training at a time in a run's folder, without locks, which not every network file system has.

Whoever trains keeps a small file in the folder and touches it every few seconds. A second one that finds
it watches it: if it is touched, somebody is alive, and the second one refuses to start; if it stays as it
is, its owner is dead and the file is taken over. No clock of one machine is compared with that of another.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc_brainage.cluster.process import started_at
from hpc_brainage.errors import BrainAgeError, TrainingError
from hpc_brainage.files import read_json, write_json

BEAT = 3.0
"""Seconds between two touches."""
PATIENCE = 30.0
"""Seconds that a file must stay untouched until its owner counts as dead."""


class TakenOver(TrainingError):  # noqa: N818 - says what has happened
    """Somebody else trains in the folder now, and everything in it is theirs."""


class Lease:
    """The right to train in a folder, held while it is entered."""

    def __init__(self, path: Path, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self.path, self._beat, self._patience = path, beat, patience
        self._mine: dict[str, Any] = {
            "token": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "born": _born(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "start": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        }
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.is_lost = False
        """Whether somebody else has taken the folder, as if this process were dead."""

    def __enter__(self) -> Lease:
        """Take the lease.

        Raises
        ------
        TrainingError : another process holds it, and is alive.
        """
        while not self._made():
            found = self._found()
            if found is not None and not self._is_dead(found):
                self._watch(found)
            if self._found() == found:  # nobody else has taken it over meanwhile
                self._take_over()
                break
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if not self._is_taken():
            self.path.unlink(missing_ok=True)

    def refuse_if_held(self) -> None:
        """Make sure that nobody trains, without taking the lease; a file that may be a dead owner's is
        watched for as long as `patience`.

        Raises
        ------
        TrainingError : another process holds it, and is alive.
        """
        found = self._found()
        if found is not None and not self._is_dead(found):
            self._watch(found)

    def _made(self) -> bool:
        """Make the file, if there is none: of all who try, one succeeds."""
        written = self.path.with_name(f".{self.path.name}.{self._mine['token']}")
        write_json(written, self._mine)
        try:
            os.link(written, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links; two who come at once are told apart later
            if self.path.exists():
                return False
            os.replace(written, self.path)
        finally:
            written.unlink(missing_ok=True)
        return True

    def _take_over(self) -> None:
        write_json(self.path, self._mine)
        time.sleep(self._beat / 10)  # of two who do so in the same moment, the last one has it
        found = self._found()
        if found is not None and found["token"] != self._mine["token"]:
            raise self._refusal(found)

    def _keep(self) -> None:
        while not self._over.wait(self._beat):
            with suppress(OSError):  # a file server that is away for a moment
                if self._is_taken():
                    self.is_lost = True
                    return
                os.utime(self.path)

    def _is_taken(self) -> bool:
        found = self._found()
        return found is not None and found["token"] != self._mine["token"]

    def _found(self) -> dict[str, Any] | None:
        """What stands in the file; None if there is none, or nothing that anybody could have written."""
        try:
            found = read_json(self.path)
        except BrainAgeError:
            return None
        return found if isinstance(found, dict) and "token" in found else None

    def _is_dead(self, found: dict[str, Any]) -> bool:
        """Whether the owner cannot be alive: it is no process of this machine any more, or an earlier start
        of this very job, which the cluster ended before it started the job again."""
        if self._mine["machine"] is not None and found.get("machine") == self._mine["machine"]:
            born = _born(found.get("pid", 0))
            return born is None or born != found.get("born")
        same_job = self._mine["job"] is not None and found.get("job") == self._mine["job"]
        return same_job and found.get("start", 0) < self._mine["start"]

    def _watch(self, found: dict[str, Any]) -> None:
        """Wait until the owner counts as dead, or refuse as soon as it shows that it is not."""
        seen, until = self._touched(), time.monotonic() + self._patience
        while time.monotonic() < until and self._found() == found:
            time.sleep(self._beat / 5)
            if self._touched() not in (seen, None):
                raise self._refusal(found)

    def _touched(self) -> int | None:
        # Opened, since network file systems look anew at a file's times only then.
        try:
            with self.path.open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None

    def _refusal(self, found: dict[str, Any]) -> TrainingError:
        job = f", job {found['job']}" if found.get("job") else ""
        return TrainingError(
            f"another training is under way in this folder (process {found.get('pid')} on"
            f" {found.get('host')}{job})",
            where=self.path.parent,
            hint="wait for it or stop it; another run takes another --name",
        )


def holder_is_gone(path: Path) -> bool:
    """Whether a lease was left by a process of this machine that is there no more.

    Of a process of another machine that is not known: False.
    """
    found = _left_here(path)
    return found is not None and _born(found.get("pid", 0)) != found.get("born")


def holder_here(path: Path) -> int | None:
    """The process of this machine that holds a lease; None if there is none, or not on this machine."""
    found = _left_here(path)
    if found is None or holder_is_gone(path):
        return None
    return int(found["pid"])


def holding_job(path: Path) -> str | None:
    """The number of the SLURM job that has left a lease, or holds it; None of any other holder."""
    return _read(path).get("job")


def _left_here(path: Path) -> dict[str, Any] | None:
    """What a process of this machine wrote into a lease; None of any other, or without one."""
    found = _read(path)
    return found if found.get("machine") is not None and found["machine"] == _machine() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except BrainAgeError:
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str | None:
    """This machine since it was booted, and which of its containers; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process of this machine was started, in the kernel's count; None if there is none."""
    ticks = started_at(pid)
    return str(ticks) if ticks else None
