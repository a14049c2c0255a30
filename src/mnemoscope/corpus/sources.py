"""Addresses -> the files they stand for: local paths and fsspec addresses, globs, lists.

A path is relative to the study file's folder unless absolute. Whether a file is read by mapping (local) or by
ranges (remote) is decided by who reads it; here a file only knows its name, its size and how to give bytes.
"""

from __future__ import annotations

import difflib
import glob
import posixpath
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast, final

from mnemoscope.corpus.compression import Compression, decompress
from mnemoscope.errors import CorpusError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_COMPRESSIONS: Final[dict[str, Compression]] = {".gz": "gz", ".zst": "zst"}
_GLOB_CHARACTERS = frozenset("*?[")


def reason(error: BaseException) -> str:
    """An exception's text on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@final
@dataclass(frozen=True)
class Source:
    """One file of a corpus, local or remote."""

    address: str
    """The name that messages show."""
    path: str
    """The name by which its filesystem knows it."""
    size: int
    """Bytes on disk, compressed as it is."""
    filesystem: AbstractFileSystem | None = None
    """An fsspec filesystem; None for the local disk."""
    is_unpacked: bool = False
    """Whether `path` is the decompressed copy of a file whose address ends in .gz or .zst."""

    @property
    def is_local(self) -> bool:
        """Whether it can be memory-mapped."""
        return self.filesystem is None

    @property
    def compression(self) -> Compression | None:
        """How the whole file is compressed, by its name's last suffix."""
        return None if self.is_unpacked else _COMPRESSIONS.get(posixpath.splitext(self.address)[1].lower())

    @property
    def plain_name(self) -> str:
        """Its address without the suffix of a compression."""
        stem, last = posixpath.splitext(self.address)
        return stem if last.lower() in _COMPRESSIONS else self.address

    @property
    def suffix(self) -> str:
        """The suffix that tells its format, such as `.jsonl` of `x.jsonl.gz`; lower case."""
        return posixpath.splitext(self.plain_name)[1].lower()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start to stop of the file as it is on disk; fewer than asked for is a CorpusError."""
        try:
            if self.filesystem is not None:
                found = cast(bytes, self.filesystem.cat_file(self.path, start=start, end=stop))
            else:
                with Path(self.path).open("rb") as file:
                    file.seek(start)
                    found = file.read(stop - start)
        except OSError as error:
            raise CorpusError(f"{self.address}: cannot be read ({reason(error)})") from error
        if len(found) != stop - start:
            raise CorpusError(f"{self.address}: bytes {start} to {stop} expected; {len(found)} of them found")
        return found

    @contextmanager
    def open(self) -> Generator[BinaryIO]:
        """The file as it is on disk, as a stream."""
        try:
            remote = self.filesystem
            stream = Path(self.path).open("rb") if remote is None else remote.open(self.path, "rb")  # noqa: SIM115
        except OSError as error:
            raise CorpusError(f"{self.address}: cannot be opened ({reason(error)})") from error
        with stream:
            yield cast(BinaryIO, stream)

    @contextmanager
    def stream(self) -> Generator[tuple[BinaryIO, BinaryIO]]:
        """The decompressed bytes as a stream, and the stream below, whose position tells how far it is."""
        with self.open() as below:
            how = self.compression
            yield (decompress(below, compression=how, name=self.address) if how else below), below


def find_sources(addresses: Sequence[str], *, base: Path | None = None) -> list[Source]:
    """The files that addresses stand for, in the order given, each glob's in the order of their names.

    Raises CorpusError for a missing or empty file, a folder, or a glob without a match.
    """
    if not addresses:
        raise CorpusError("path: no file given; expected a file, a glob, an address, or a list of them")
    found = [source for address in addresses for source in _expand(address, base)]
    for source in found:
        if source.size == 0:
            raise CorpusError(f"{source.address}: the file is empty (0 bytes); expected data")
    return found


def find_sibling(source: Source, names: Sequence[str]) -> Source | None:
    """The first of the full addresses that exists on the filesystem of `source`; None where none does."""
    for name in names:
        if source.filesystem is None:
            if Path(name).is_file():
                return _local_source(Path(name))
        elif source.filesystem.exists(name):
            return _remote_source(source.filesystem, name, name)
    return None


def _expand(address: str, base: Path | None) -> list[Source]:
    if "://" in address and not address.startswith("file://"):
        return _expand_remote(address)
    path = Path(address.removeprefix("file://")).expanduser()
    path = path if path.is_absolute() or base is None else base / path
    if not path.exists() and _GLOB_CHARACTERS & set(address):
        names = [name for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]  # noqa: PTH207
        return [_local_source(Path(name)) for name in _matched(names, address)]
    return [_local_source(path)]


def _local_source(path: Path) -> Source:
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else None
        raise _missing(str(path), path.name, near)
    if path.is_dir():
        raise CorpusError(f"{path}: is a folder; expected a file, or a glob such as {path}/*.parquet")
    if not path.is_file():
        raise CorpusError(f"{path}: is not a regular file; expected one whose bytes can be read again")
    return Source(address=str(path), path=str(path), size=path.stat().st_size)


def _expand_remote(address: str) -> list[Source]:
    import fsspec.core  # late: a third of the start-up time, for local files in vain

    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        if _GLOB_CHARACTERS & set(path) and not filesystem.exists(path):
            names = [str(name) for name in sorted(filesystem.glob(path)) if filesystem.isfile(name)]
            return [
                _remote_source(filesystem, name, filesystem.unstrip_protocol(name)) for name in _matched(names, address)
            ]
        return [_remote_source(filesystem, path, address)]
    except CorpusError:
        raise
    except (ImportError, ValueError) as error:
        raise CorpusError(f"{address}: no filesystem for this address ({reason(error)})") from error
    except Exception as error:  # each store has its own errors, for credentials that are missing and the like
        raise CorpusError(f"{address}: cannot be reached ({reason(error)})") from error


def _remote_source(filesystem: AbstractFileSystem, path: str, address: str) -> Source:
    if not filesystem.exists(path):
        parent = posixpath.dirname(path)
        listed = filesystem.ls(parent, detail=False) if filesystem.exists(parent) else None
        near = None if listed is None else [posixpath.basename(str(name)) for name in listed]
        raise _missing(address, posixpath.basename(path), near)
    if filesystem.isdir(path):
        raise CorpusError(f"{address}: is a folder; expected a file, or a glob such as {address}/*.parquet")
    size = filesystem.size(path)
    if size is None:
        raise CorpusError(f"{address}: its filesystem does not tell its size; expected a file of known size")
    return Source(address=address, path=path, size=int(size), filesystem=filesystem)


def _matched(names: list[str], address: str) -> list[str]:
    if not names:
        raise CorpusError(f"{address}: this glob matches no file; expected at least one")
    return names


def _missing(address: str, name: str, near: list[str] | None) -> CorpusError:
    if near is None:
        return CorpusError(f"{address}: no such file, nor its folder; expected an existing file")
    close = difflib.get_close_matches(name, near, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "expected an existing file"
    return CorpusError(f"{address}: no such file; {hint}")
