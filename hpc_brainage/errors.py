"""What can go wrong, in the user's words.

Every message says what is wrong, where (participant, session, file), what was expected and what to do
next. Bad input ends in one of these, never in a traceback; the command line turns the class into an
exit code.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the system's errors where a disk is full, or one's share of it."""


class ExitCode(IntEnum):
    """Exit codes of every `brainage` command."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    INPUT = 3
    SCANS_REFUSED = 4
    ENVIRONMENT = 5
    STOPPED = 75
    """EX_TEMPFAIL of sysexits.h: told to stop, and what is done is saved."""
    INTERRUPTED = 130


class BrainAgeError(Exception):
    """Base of all errors that a user can act on.

    Parameters
    ----------
    what : what is wrong, in one sentence.
    where : the participant, session, file or setting that it is about.
    expected : what would have been right.
    hint : what to do next.
    """

    exit_code = ExitCode.INPUT

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = expected
        self.hint = hint
        super().__init__(what, self.where, expected, hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """How an error travels whole from a worker process to the one that shows it."""
        return _again, (type(self), self.what, self.where, self.expected, self.hint)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:    {self.where}")
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  to do:    {self.hint}")
        return "\n".join(lines)


def _again(
    kind: type[BrainAgeError], what: str, where: str | None, expected: str | None, hint: str | None
) -> BrainAgeError:
    return kind(what, where=where, expected=expected, hint=hint)


class UsageError(BrainAgeError, ValueError):
    """The command line or a configuration file is wrong."""

    exit_code = ExitCode.USAGE


class CohortError(BrainAgeError, ValueError):
    """A cohort on disk cannot be read as it stands."""


class ScanRefused(BrainAgeError, ValueError):  # noqa: N818 - a verdict on one scan, the others go on
    """One scan cannot be taken; the reason goes into the account and the others go on."""


class StoreError(BrainAgeError, ValueError):
    """A store cannot be opened, read or trusted."""


class ModelError(BrainAgeError, ValueError):
    """A model bundle cannot be loaded, or does not fit the store that it meets."""


class TrainingError(BrainAgeError, RuntimeError):
    """A training run cannot start or go on."""


class ScoringError(BrainAgeError, RuntimeError):
    """A scoring run cannot start or go on."""


class EnvironmentLacks(BrainAgeError, RuntimeError):  # noqa: N818 - reads as the sentence it is
    """This machine lacks something that the command needs."""

    exit_code = ExitCode.ENVIRONMENT


def unusable(problem: OSError) -> EnvironmentLacks | None:
    """What the system refuses of a file or folder, or for lack of room; None if it is about neither."""
    if problem.filename is None and problem.errno not in NO_ROOM:
        return None
    return EnvironmentLacks(
        f"a file or folder cannot be used ({problem.strerror})",
        where=problem.filename,
        hint="look at the path, its permissions and the free space, then run the command again",
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the valid spelling closest to `name` but for case, or lists the valid ones."""
    choices = sorted(set(valid))
    spelling = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold(), spelling, n=1, cutoff=0.5)
    if close:
        return f"did you mean {spelling[close[0]]!r}?"
    shown = ", ".join(choices[:20]) + (", ..." if len(choices) > 20 else "")
    return f"known: {shown}" if choices else "none are known"
