"""A store on object storage: a bucket of S3 or of whatever else fsspec reaches.

An object appears whole when its upload ends, which is all that a store asks for. Nothing there can be
renamed, so that a work folder that was taken away is noticed just before a write and not in the same step:
`finalise` compares the sizes of all shards with what their writers said.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hpc_brainage.errors import StoreError
from hpc_brainage.store.marker import MARKER, plan_key, work_folder
from hpc_brainage.store.place import Place
from hpc_brainage.store.schema import FORMAT

_Result = TypeVar("_Result")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_NO_PLAN = "0" * 64
_REMOVERS = 8  # that wait for answers at once


class ObjectPlace(Place):
    """A prefix of an object store, named by a URL."""

    depends_on = "the bucket, and the credentials and the endpoint in the environment"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise StoreError(
                "the address of the store holds more than its place",
                where=f"{parts.scheme}://.../{parts.path.strip('/')}",
                expected=f"{parts.scheme}://bucket/NAME.zarr",
                hint="credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, "
                "AWS_ENDPOINT_URL, ...) or from the tools of your provider",
            )
        if not parts.path.strip("/"):
            raise StoreError(
                "the address names no store", where=url, expected=f"{url.rstrip('/')}/NAME.zarr"
            )
        self.label = f"{parts.scheme}:{url.partition(':')[2].rstrip('/')}"
        self._client, self._root = _file_system(self.label)

    def __reduce__(self) -> tuple[type[ObjectPlace], tuple[str]]:
        return ObjectPlace, (str(self.label),)

    @property
    def name(self) -> str:
        return self._root.rpartition("/")[2]

    def absolute(self) -> str:
        return str(self.label)

    def file(self, key: str) -> str:
        return f"{self.label}/{key}"

    def is_free(self) -> bool:
        return self._kind_of(self._root) is None

    def is_folder(self) -> bool:
        return self._kind_of(self._root) == "directory"

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        start = f"{self._root}/{prefix}".rpartition("/")[0]
        try:
            found: dict[str, Any] = self._said(lambda: self._client.find(start, detail=True))
        except FileNotFoundError:
            return
        for path, described in found.items():
            key = path.removeprefix(f"{self._root}/")
            if key != path and key.startswith(prefix):
                yield key, int(described["size"])

    def has(self, key: str) -> bool:
        return self._kind_of(self._path(key)) == "file"

    def size(self, key: str) -> int:
        return int(self._said(lambda: self._client.info(self._path(key)))["size"])

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        stop = None if length is None else start + length
        content: bytes = self._said(
            lambda: self._client.cat_file(self._path(key), start=start or None, end=stop)
        )
        return content

    def read_into(self, key: str, start: int, out: memoryview) -> int:
        content = self.read(key, start, len(out))
        out[: len(content)] = content
        return len(content)

    def write(self, key: str, pieces: Sequence[bytes], *, through: str, begin: bool = False) -> None:
        if not begin:
            self._require(through)
        self._said(lambda: self._client.pipe_file(self._path(key), b"".join(pieces)))

    def settle(self) -> None:
        """Nothing is left to do: an object that was uploaded is there."""

    def remove(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._said(lambda: self._client.rm_file(self._path(key)))

    def withdraw(self, key: str, *, through: str, content: bytes | None = None) -> None:
        self._require(through)
        if content is None or self.read(key) == content:
            self.remove(key)

    def clear(self, prefix: str = "", last: str = "") -> None:
        keys = set(self.files(prefix))
        if keys and not prefix:
            last = plan_key(work_folder(_NO_PLAN))  # whoever finds the rest knows by it whose it is
            self._said(
                lambda: self._client.pipe_file(self._path(last), json.dumps({"format": FORMAT}).encode())
            )
            self.remove(MARKER)  # first, since nobody shall read half of a store
        with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="remove") as removers:
            list(removers.map(self.remove, sorted(keys - {MARKER, last})))
        if last:
            self.remove(last)

    def beside(self, name: str) -> str:
        return f"{str(self.label).rpartition('/')[0]}/{name}"

    def write_beside(self, name: str, content: str) -> None:
        folder = self._root.rpartition("/")[0]
        self._said(lambda: self._client.pipe_file(f"{folder}/{name}", content.encode()))

    def read_beside(self, name: str) -> str | None:
        folder = self._root.rpartition("/")[0]
        try:
            content: bytes = self._said(lambda: self._client.cat_file(f"{folder}/{name}"))
        except FileNotFoundError:
            return None
        return content.decode("utf-8")

    def _require(self, work: str) -> None:
        if self._kind_of(self._path(work)) is None:
            raise FileNotFoundError(errno.ENOENT, "the work folder is not there", self.file(work))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _kind_of(self, path: str) -> str | None:
        """ "file", "directory" (something is below it), or None if nothing is there."""
        try:
            kind: str = self._said(lambda: self._client.info(path))["type"]
        except FileNotFoundError:
            return None
        return kind

    def _said(self, ask: Callable[[], _Result]) -> _Result:
        """What the object store answers; whatever its client raises is an `OSError` from here on."""
        try:
            return ask()
        except FileNotFoundError as problem:
            raise FileNotFoundError(errno.ENOENT, _reason(problem), self.label) from None
        except PermissionError as problem:
            raise PermissionError(errno.EACCES, _reason(problem), self.label) from None
        except OSError as problem:
            raise OSError(problem.errno or errno.EIO, _reason(problem), self.label) from None
        except Exception as problem:  # each client has errors of its own for what never got an answer
            raise OSError(errno.ENOTCONN, _reason(problem), self.label) from None


def _reason(problem: Exception) -> str:
    said = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return f"the object store says: {str(said).splitlines()[0]}"


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = urlsplit(url).scheme
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as problem:
        package = _PACKAGES.get(scheme)
        hint = f"install {package}: pip install {package}" if package else None
        if scheme == "s3":
            hint = "install what it needs: pip install 'hpc-brainage[s3]'"
        raise StoreError(f"{scheme}:// cannot be reached ({problem})", where=url, hint=hint) from None
    return files, str(root).rstrip("/")
