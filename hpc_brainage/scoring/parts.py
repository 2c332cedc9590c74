"""Scored parts on disk: what makes a run that is started again go on where it was.

    OUT.parts/run.json                      what the parts belong to: model, store, selection, software
              lock                          held by the command that is at work
              rows-000000000-000004096.parquet   the table of these rows of the store
              rows-000000000-000004096.json      its marker, written last: counts and hash
              logs/                         what workers on a cluster say

A part without its marker is not there, and neither is one whose table is not what the marker says. A part
covers whole parts of the store, and its name says which rows, so that it is the same part whichever run and
whichever worker made it.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_brainage.errors import ScoringError
from hpc_brainage.files import read_json, remove_tree, write_bytes, write_json

LOGS = "logs"
_RUN, _LOCK = "run.json", "lock"
_MARKER = re.compile(r"rows-(\d{9})-(\d{9})\.json")


@dataclass(frozen=True)
class PartRecord:
    """What is known of a part that is done.

    Attributes
    ----------
    first, stop : the rows of the store that it covers.
    scans : rows of its table: those of them that were chosen.
    scored, failed : how many have an age, and how many could not be read or computed.
    seconds : that reading, computing and writing took.
    sha256 : of the Parquet file.
    """

    first: int
    stop: int
    scans: int
    scored: int
    failed: int
    seconds: float
    sha256: str


def write_part(folder: Path, first: int, stop: int, table: pd.DataFrame, began: float) -> PartRecord:
    """Write a part's table and then its marker, each durably; `began` is in monotonic time.

    Raises
    ------
    ScoringError : the run that the part belongs to is over, and its folder is gone.
    """
    if not (folder / _RUN).is_file():
        raise ScoringError("the run that asked for this part is over", where=folder)
    content = BytesIO()
    table.to_parquet(content, index=False)
    counts = table["status"].value_counts()
    scored, failed = int(counts.get("scored", 0)), int(counts.get("failed", 0))
    write_bytes(_path(folder, first, stop, "parquet"), content.getvalue())
    seconds = time.monotonic() - began
    record = PartRecord(first, stop, len(table), scored, failed, seconds, _sha256(content.getvalue()))
    write_json(_path(folder, first, stop, "json"), asdict(record))
    return record


def part_record(folder: Path, first: int, stop: int) -> PartRecord | None:
    """The record of a part that is done; None where it is not, or its marker or table is damaged."""
    path = _path(folder, first, stop, "parquet")
    try:
        record = PartRecord(**read_json(_path(folder, first, stop, "json"), ScoringError))
        return record if _sha256(path.read_bytes()) == record.sha256 else None
    except (ScoringError, TypeError, OSError):
        return None


class PartFolder:
    """The folder of a run's parts."""

    def __init__(self, folder: Path, belongs_to: Mapping[str, Any]) -> None:
        """`belongs_to` says in JSON what the parts were made of and how; all other parts are foreign."""
        self.folder = folder
        self._belongs_to = dict(belongs_to)

    @property
    def logs(self) -> Path:
        return self.folder / LOGS

    @property
    def begun(self) -> bool:
        """Whether a run has begun here that is not finished."""
        return (self.folder / _RUN).is_file()

    @contextmanager
    def held(self, *, resume: bool = True) -> Iterator[None]:
        """The folder for this process alone, with the parts that an interrupted run of the same kind left.

        Parameters
        ----------
        resume : whether such parts are kept; otherwise everything that is there is thrown away.

        Raises
        ------
        ScoringError : the parts that are there belong to something else, or somebody else is at work.
        """
        marker, lock = self.folder / _RUN, self.folder / _LOCK
        if self.folder.exists() and not (marker.is_file() or lock.is_file()):
            raise ScoringError("the folder for unfinished parts is in use", where=self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ScoringError(
                    "another command is scoring into the same table",
                    where=self.folder,
                    hint="wait for it, or give this run another --out",
                ) from None
            if not resume:
                for path in (marker, *self.folder.glob("rows-*")):
                    path.unlink(missing_ok=True)
            if not marker.is_file():
                write_json(marker, self._belongs_to)
            self._check(read_json(marker, ScoringError))
            try:
                yield
            except BaseException:
                # Nothing to go on with, as where the workers that were asked for are refused.
                with suppress(OSError):
                    if {path.name for path in self.folder.iterdir()} <= {_RUN, _LOCK}:
                        self.remove()
                raise

    def _check(self, found: Any) -> None:
        if found == self._belongs_to:
            return
        known = found if isinstance(found, dict) else {}
        other = [name for name, value in self._belongs_to.items() if known.get(name) != value]
        raise ScoringError(
            f"an unfinished run with another {' and '.join(other) or 'setting'} left its parts here",
            where=self.folder,
            expected="; ".join(
                f"{name} {_said(self._belongs_to[name])}, and the parts are of {_said(known.get(name))}"
                for name in other
            ),
            hint="--no-resume throws them away and begins anew; or give this run another --out",
        )

    def done(self, parts: Sequence[range]) -> list[PartRecord]:
        """Parts that are done, each of whole parts of the store, none overlapping another, in order."""
        starts, stops = {part.start for part in parts}, {part.stop for part in parts}
        found: list[PartRecord] = []
        names = (_MARKER.fullmatch(path.name) for path in sorted(self.folder.glob("rows-*.json")))
        for first, stop in ((int(name[1]), int(name[2])) for name in names if name):
            if first not in starts or stop not in stops or (found and first < found[-1].stop):
                continue
            record = part_record(self.folder, first, stop)
            if record is not None:
                found.append(record)
        return found

    def read(self, record: PartRecord) -> pd.DataFrame:
        """The table of a part that is done.

        Raises
        ------
        ScoringError : the file is not the one that was written.
        """
        path = _path(self.folder, record.first, record.stop, "parquet")
        content = path.read_bytes() if path.is_file() else b""
        if _sha256(content) != record.sha256:
            raise ScoringError(
                "a scored part is not what was written",
                where=path,
                hint="remove it with its .json, and run the same command again",
            )
        return pd.read_parquet(BytesIO(content))

    def remove(self) -> None:
        remove_tree(self.folder)


def _said(value: Any) -> str:
    return "everything" if value is None else repr(value)


def _path(folder: Path, first: int, stop: int, suffix: str) -> Path:
    return folder / f"rows-{first:09d}-{stop:09d}.{suffix}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
