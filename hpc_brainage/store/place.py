"""Where a store lies: a folder on a disk, or a prefix of an object store.

Everything in a store is a file with a name (a key such as `smri_vbm/c.0.0.0.0`) that appears whole or not
at all. That is all this room asks of a place, so that a store is the same bytes wherever it lies.

Whoever writes, writes *through* a work folder inside the store that belongs to one plan. If somebody else
takes the store away meanwhile, the work folder goes with it, and the write fails instead of landing in
the store of another plan. That is why no lock is needed: locks hang on some network file systems and mean
nothing on others, while a rename either finds its file or does not.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import ClassVar

from hpc_brainage.errors import EnvironmentLacks, StoreError
from hpc_brainage.files import new_file, remove_tree, sweep, sync_directory, write_text

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ATTEMPTS = 20
_OF_THE_ENVIRONMENT = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTCONN,
)  # fmt: skip


class Place(ABC):
    """A folder of files, on a disk or not. Keys are relative, with `/` between their parts.

    Every method may raise `OSError`; what is not there is a `FileNotFoundError`.
    """

    label: Path | str
    """What messages call it, and what opens it again."""

    depends_on: ClassVar[str]
    """What a user looks at if it cannot be written or read."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its path."""

    @abstractmethod
    def absolute(self) -> str:
        """Its path or URL, wherever the one who reads it works."""

    @abstractmethod
    def file(self, key: str) -> Path | str:
        """What messages call one file of it."""

    @abstractmethod
    def is_free(self) -> bool:
        """Whether nothing is there, or an empty folder."""

    @abstractmethod
    def is_folder(self) -> bool:
        """Whether files can be below it; a file itself is none."""

    @abstractmethod
    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Key and bytes of every file whose key begins with `prefix`, in any order."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """A file, or `length` bytes of it from byte `start`: fewer if it ends before."""

    @abstractmethod
    def read_into(self, key: str, start: int, out: memoryview) -> int:
        """Fill `out` with the bytes from `start` on; returns how many there were."""

    @abstractmethod
    def write(self, key: str, pieces: Sequence[bytes], *, through: str, begin: bool = False) -> None:
        """Make a file of `pieces`, one after the other, appear in one step.

        Its content is on the device then; that it has its name is only sure after `settle`.

        Raises
        ------
        FileNotFoundError : the work folder `through` is not there. `begin` makes it.
        """

    @abstractmethod
    def settle(self) -> None:
        """Make sure that all files that were written keep their names, even after a power cut."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def withdraw(self, key: str, *, through: str, content: bytes | None = None) -> None:
        """Remove a file of a place that somebody else may have taken meanwhile.

        Parameters
        ----------
        content : what it holds, as far as is known; a file that holds anything else stays.

        Raises
        ------
        FileNotFoundError : the file, or the work folder `through`, is not there.
        """

    @abstractmethod
    def clear(self, prefix: str = "", last: str = "") -> None:
        """Remove every file whose key begins with `prefix`, a folder of the place, or all of it.

        The file `last` goes last: as long as it is there, something may be left.
        """

    @abstractmethod
    def beside(self, name: str) -> Path | str:
        """The path of a file called `name` that lies next to this place."""

    @abstractmethod
    def write_beside(self, name: str, content: str) -> None:
        """Write a text file next to this place, in one step."""

    @abstractmethod
    def read_beside(self, name: str) -> str | None:
        """A text file next to this place, if it is there."""

    def below(self, prefix: str) -> Place:
        """A folder of this place, as a place of its own."""
        return place_at(self.label / prefix if isinstance(self.label, Path) else f"{self.label}/{prefix}")

    def files(self, prefix: str = "") -> Iterator[str]:
        """The keys of all files, as `sizes`."""
        return (key for key, _ in self.sizes(prefix))


def place_at(where: Place | Path | str) -> Place:
    """The place that a path or a URL names.

    Parameters
    ----------
    where : a path, or a URL that fsspec knows, such as `s3://bucket/cohort.zarr`. Credentials are taken
        from the environment; a URL that holds some is refused, since it would be printed and kept.

    Raises
    ------
    StoreError : no software for this kind of URL is installed, or it holds credentials.
    """
    if isinstance(where, Place):
        return where
    text = str(where)
    if text.lower().startswith("file://"):
        return LocalPlace(Path(text[len("file://") :]))
    if not _URL.match(text):
        return LocalPlace(Path(where))
    from hpc_brainage.store.object_place import ObjectPlace

    return ObjectPlace(text)


def is_url(where: object) -> bool:
    """Whether this names an object store and no path of this machine."""
    return bool(_URL.match(str(where))) and not str(where).lower().startswith("file://")


@contextmanager
def writing_to(place: Place) -> Iterator[None]:
    """Say in our words when the disk does not take what is written."""
    try:
        yield
    except OSError as problem:
        kind = EnvironmentLacks if problem.errno in _OF_THE_ENVIRONMENT else StoreError
        raise kind(
            f"the store cannot be written ({problem.strerror or problem})",
            where=place.label,
            hint=f"look at {place.depends_on}, then run the same command again: it goes on where it "
            "stopped",
        ) from problem


class LocalPlace(Place):
    """A folder of a file system. A link to a folder is followed, so that the link stays."""

    depends_on = "the free space and the permissions"

    def __init__(self, path: Path) -> None:
        self.path = path.resolve() if path.is_symlink() and path.is_dir() else path
        self.label = self.path
        self._unsettled: set[Path] = set()

    @property
    def name(self) -> str:
        return self.path.name

    def absolute(self) -> str:
        return str(self.path.absolute())

    def file(self, key: str) -> Path:
        return self.path / key

    def is_free(self) -> bool:
        if not self.path.exists():
            return not self.path.is_symlink()
        return self.path.is_dir() and next(self.files(), None) is None

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        start = self.path / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(start):
            for name in names:
                found = Path(folder, name)
                key = found.relative_to(self.path).as_posix()
                if not key.startswith(prefix):
                    continue
                try:
                    size = found.lstat().st_size
                except FileNotFoundError:  # what somebody else was writing has its own name by now
                    continue
                yield key, size

    def has(self, key: str) -> bool:
        return (self.path / key).is_file()

    def size(self, key: str) -> int:
        return (self.path / key).stat().st_size

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with _opened(self.path / key) as descriptor:
            there = max(os.fstat(descriptor).st_size - start, 0)
            left = there if length is None else min(length, there)
            content = os.pread(descriptor, left, start)
            while more := os.pread(descriptor, left - len(content), start + len(content)):
                content += more  # one call gives 2 GiB at most
            return content

    def read_into(self, key: str, start: int, out: memoryview) -> int:
        with _opened(self.path / key) as descriptor:
            return _fill(descriptor, start, out)

    def write(self, key: str, pieces: Sequence[bytes], *, through: str, begin: bool = False) -> None:
        work, target = self.path / through, self.path / key
        new_folder = not target.parent.is_dir()
        if begin:
            sweep(self.path)
            work.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = new_file(work)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file.fileno(), piece)
                os.fsync(file.fileno())
            for above in reversed(PurePosixPath(key).parents[:-1] if new_folder else ()):
                _make_folder(self.path / above)  # but not the store itself, if it was removed
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._unsettled.add(target.parent)
        if new_folder or begin:
            self._unsettled |= {self.path, *(self.path / above for above in PurePosixPath(key).parents)}

    def settle(self) -> None:
        for folder in tuple(self._unsettled):
            self._unsettled.discard(folder)
            with suppress(FileNotFoundError):  # it was taken away meanwhile
                sync_directory(folder)

    def remove(self, key: str) -> None:
        target = self.path / key
        if target.exists() or target.is_symlink():
            target.unlink(missing_ok=True)
            sync_directory(target.parent)

    def withdraw(self, key: str, *, through: str, content: bytes | None = None) -> None:
        target, taken = self.path / key, self.path / through / f"{secrets.token_hex(4)}.tmp"
        if content is not None and target.read_bytes() != content:
            return
        os.replace(target, taken)
        if content is not None and taken.read_bytes() != content:  # replaced at that very moment
            os.replace(taken, target)
        taken.unlink(missing_ok=True)
        sync_directory(target.parent)

    def clear(self, prefix: str = "", last: str = "") -> None:
        if not prefix:
            sweep(self.path)
            remove_tree(self.path)
            return
        for found in list((self.path / prefix).glob("*")):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            elif found != self.path / last:
                found.unlink(missing_ok=True)
        for _ in range(_ATTEMPTS):  # somebody may put a file there while the others are removed
            shutil.rmtree(self.path / prefix, ignore_errors=True)
            if not (self.path / prefix).exists():
                break
        above = (self.path / prefix).parent
        with suppress(OSError):  # it holds more, or is gone already
            above.rmdir()
        sync_directory(self.path)

    def beside(self, name: str) -> Path:
        return self.path.parent / name

    def write_beside(self, name: str, content: str) -> None:
        sweep(self.beside(name))
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # swept away by somebody who writes the same file
                write_text(self.beside(name), content)
                return
        raise FileNotFoundError(errno.ENOENT, "others keep removing the file", str(self.beside(name)))

    def read_beside(self, name: str) -> str | None:
        path = self.beside(name)
        return path.read_text(encoding="utf-8") if path.is_file() else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor to read from; what is no file, and may never end or never begin, is an `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _fill(descriptor: int, start: int, out: memoryview) -> int:
    """Read until `out` is full or the file ends; one call gives 2 GiB at most."""
    filled = 0
    while filled < len(out):
        got = os.preadv(descriptor, [out[filled:]], start + filled)
        if not got:
            break
        filled += got
    return filled


def _make_folder(folder: Path) -> None:
    """Make a folder of the store, unless it is there.

    Raises
    ------
    FileNotFoundError : the store has been removed, be it between the refusal of `mkdir` and a look at why.
    """
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        if folder.exists():
            raise  # a file is in its way
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from None


def _write_all(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]
