"""Addresses of object stores, by fsspec: a file is there whole once its PUT has succeeded, and nothing is renamed.

Requests that fail for the moment are tried again (see `retries`). Many files are asked for at once, each by its name:
a bulk read of fsspec's own that leaves out what it cannot read would take a busy store's file for one that is absent.
Credentials and endpoints are for the store's own client to find, in its environment or configuration.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

from mnemoscope.errors import StoreError
from mnemoscope.retries import http_status, is_transient, persist, reason
from mnemoscope.storage import aside, has_credentials, without_credentials

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

NUM_AT_ONCE: Final = 32
"""Requests that are under way together."""
NUM_HASHED: Final = 8
PIECE_BYTES: Final = 1 << 26
"""Of so many files together, a piece each is held in memory while their checksums are taken."""
_EXTRAS: Final = {"s3": "'mnemoscope[s3]'", "s3a": "'mnemoscope[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
_IN_PLACE: Final = frozenset(
    {
        "local",
        "http",
        "https",
        "ftp",
        "sftp",
        "ssh",
        "smb",
        "hdfs",
        "webhdfs",
        "arrow_hdfs",
        "dbfs",
        "zip",
        "tar",
        "dir",
    }
)
"""Protocols of fsspec that write into files where they stand, or not at all."""
_S3: Final[dict[str, Any]] = {"config_kwargs": {"retries": {"total_max_attempts": 3, "mode": "standard"}}}
_OPTIONS: Final = {"s3": _S3, "s3a": _S3}
"""By protocol. The client of S3 tries again for itself, by its own measure so long that an endpoint that is down, or
misspelt, would be silent for minutes."""
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class ObjectStorage:
    """A prefix of an object store."""

    address: str

    @classmethod
    def at(cls, address: str) -> ObjectStorage:
        """The place of an address.

        StoreError for one that carries credentials, which would be written down; and for one of something else than an
        object store, whose files are there before they are whole.
        """
        if has_credentials(address):
            raise StoreError(
                f"{without_credentials(address)}: given with credentials or a query; expected the bare address: its "
                "client finds them in its environment or configuration"
            )
        protocol, _, rest = address.partition("://")
        if protocol in _IN_PLACE or "::" in protocol:
            raise StoreError(f"{address}: {protocol} is no object store; expected such as s3://bucket/x, or a folder")
        if not rest.strip("/"):
            raise StoreError(
                f"{address}: names no folder; expected one for the study, such as {protocol}://bucket/study"
            )
        return cls(address.rstrip("/"))

    def __str__(self) -> str:
        return self.address

    @property
    def has_locks(self) -> bool:
        """It has none."""
        return False

    def where(self, name: str) -> str:
        """The address of a file."""
        return f"{self.address}/{name}"

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of the files that are there, many at once."""
        return self._ask(names, lambda filesystem, path: cast(bytes, filesystem.cat_file(path)))

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """The sizes of the files that are there, many at once."""
        return self._ask(names, lambda filesystem, path: int(filesystem.info(path)["size"]))

    def hashes(self, names: Sequence[str]) -> Iterator[tuple[str, str | OSError]]:
        """Each name with its file's sha256, a few at once, in bounded memory."""
        for start in range(0, len(names), NUM_HASHED):
            some = names[start : start + NUM_HASHED]
            with ThreadPoolExecutor(NUM_HASHED) as pool:
                yield from zip(some, pool.map(self._hash, some), strict=True)

    def list_names(self, folder: str) -> list[str]:
        """The names below a prefix."""
        filesystem, root = self._open()
        with suppress(FileNotFoundError):
            place = self.where(folder)
            found = persist(partial(filesystem.ls, f"{root}/{folder}", detail=False), place)
            return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {"", folder})
        return []

    def write(self, name: str, content: bytes) -> None:
        """One PUT."""
        self._change(name, lambda filesystem, path: filesystem.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bytes:
        """One PUT on the condition that nothing is there, where the store knows conditions; else asked for before.

        An answer that is lost and asked for again finds its own content there.
        """
        try:
            self._change(name, lambda filesystem, path: _create(filesystem, path, content))
        except FileExistsError:
            return self.read_many([name]).get(name, content)
        return content

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        filesystem, root = self._open()
        with suppress(FileNotFoundError):
            persist(lambda: filesystem.rm_file(f"{root}/{name}"), self.where(name))

    def set_aside(self, names: Sequence[str]) -> None:
        """Copy files to NAME.damaged-1, or the first number that is free for all of them, and remove them."""
        number = next(number for number in count(1) if not self.sizes([aside(name, number) for name in names]))
        there = self.sizes(names)
        for name in names:
            if name in there:
                with suppress(FileNotFoundError):  # another driver does the same
                    self._copy(name, aside(name, number))
                self.remove(name)

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keeps nobody out."""
        return nullcontext()

    def upload(self, name: str, path: Path) -> None:
        """Put a file of this machine, whatever its size, whole or not at all."""
        self._change(name, lambda filesystem, target: filesystem.put_file(str(path), target))

    def download(self, name: str, path: Path) -> bool:
        """Write a file's content to a path of this machine; whether it is there."""
        filesystem, root = self._open()
        with suppress(FileNotFoundError):
            persist(partial(filesystem.get_file, f"{root}/{name}", str(path)), self.where(name))
            return True
        return False

    def _open(self) -> tuple[AbstractFileSystem, str]:
        """The filesystem, and the study's path in it."""
        return _filesystem(self.address, os.getpid())

    def _copy(self, name: str, other: str) -> None:
        filesystem, root = self._open()
        persist(lambda: cast(None, filesystem.cp_file(f"{root}/{name}", f"{root}/{other}")), self.where(name))

    def _hash(self, name: str) -> str | OSError:
        filesystem, root = self._open()
        path, place, digest = f"{root}/{name}", self.where(name), hashlib.sha256()
        try:
            size = int(persist(partial(filesystem.info, path), place)["size"])
            for start in range(0, size, PIECE_BYTES):
                stop = min(start + PIECE_BYTES, size)
                digest.update(cast(bytes, persist(partial(filesystem.cat_file, path, start=start, end=stop), place)))
        except FileNotFoundError:
            return FileNotFoundError(errno.ENOENT, "the file is gone")
        return digest.hexdigest()

    def _ask(self, names: Sequence[str], question: Callable[[AbstractFileSystem, str], _T]) -> dict[str, _T]:
        """The answers for the files that are there, by name."""
        filesystem, root = self._open()

        def ask(name: str) -> list[_T]:
            try:
                return [persist(lambda: question(filesystem, f"{root}/{name}"), self.where(name))]
            except FileNotFoundError:
                return []

        with _workers(len(names)) as pool:
            answers = list(pool.map(ask, names)) if pool else [ask(name) for name in names]
        return {name: answer[0] for name, answer in zip(names, answers, strict=True) if answer}

    def _change(self, name: str, change: Callable[[AbstractFileSystem, str], Any]) -> None:
        filesystem, root = self._open()
        try:
            persist(lambda: change(filesystem, f"{root}/{name}"), self.where(name))
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.where(name)}: cannot be written ({reason(error)}); expected a bucket that is there"
            ) from error


def _create(filesystem: AbstractFileSystem, path: str, content: bytes) -> None:
    """FileExistsError where a file is there."""
    try:
        filesystem.pipe_file(path, content, mode="create")
    except NotImplementedError:  # fsspec's word for a store without conditional puts
        _put_unless_there(filesystem, path, content)
    except FileExistsError:
        raise
    except Exception as error:
        status = http_status(error)
        if status == 412:
            raise FileExistsError(path) from error
        if status != 501 or is_transient(error):
            raise
        _put_unless_there(filesystem, path, content)  # a store that knows no conditions


def _put_unless_there(filesystem: AbstractFileSystem, path: str, content: bytes) -> None:
    with suppress(FileNotFoundError):
        filesystem.info(path)  # not `exists`, which takes any failure for absence
        raise FileExistsError(path)
    filesystem.pipe_file(path, content)


@contextmanager
def _workers(number: int) -> Generator[ThreadPoolExecutor | None]:
    """Threads for so many requests; none where there is one, or nothing to wait for."""
    if number < 2:
        yield None
        return
    with ThreadPoolExecutor(min(NUM_AT_ONCE, number)) as pool:
        yield pool


@cache
def _filesystem(address: str, process: int) -> tuple[AbstractFileSystem, str]:
    """Of this process, for all of its threads. Nothing that was listed is remembered: others write there, too."""
    import fsspec.core

    protocol = address.partition("://")[0]
    try:
        filesystem, root = fsspec.core.url_to_fs(address, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
    except ImportError as error:
        package = _EXTRAS.get(protocol)
        advice = f"pip install {package}" if package else reason(error)
        raise StoreError(f"{address}: {protocol} needs a package that is not installed; {advice}") from error
    except (OSError, TypeError, ValueError) as error:
        raise StoreError(
            f"{address}: no place for results ({reason(error)}); expected such as s3://bucket/x"
        ) from error
    if protocol in _OPTIONS:
        filesystem.retries = 1  # s3fs would make five of each of our tries
    return filesystem, root.rstrip("/")
