"""A place for a study's files: a local folder, or an address of an object store; files by names relative to it.

What the store of shards asks of a place is little, so that a place may be any object store: a file that is there whole
or not at all, one that is put only where none is, and to be told by name what is there. Nothing is renamed, nothing
is found by listing alone, and no clock is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, final

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.files import hash_file, locked, telling_refusals, write_atomically

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_LOST_SLASH: Final = re.compile(r"[a-z][a-z0-9+-]+:/[^/]")
_CREDENTIALS: Final = re.compile(r":/+.*:.*@|[?&]")
"""In an address. A secret may have slashes, and even an @."""


class Storage(Protocol):
    """Where a study's files lie; it can be pickled. StoreError where the place refuses or cannot be reached."""

    @property
    def has_locks(self) -> bool:
        """Whether `locked` keeps other processes out; where not, whoever writes must be right without it."""
        ...

    def where(self, name: str) -> str:
        """What messages call a file."""
        ...

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of the files that are there, by name; of one that is there and cannot be read, nothing."""
        ...

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """The sizes in bytes of the files that are there, by name."""
        ...

    def hashes(self, names: Sequence[str]) -> Iterator[tuple[str, str | OSError]]:
        """Each name with the sha256, hex, of its file, or the reason why it cannot be read."""
        ...

    def list_names(self, folder: str) -> list[str]:
        """The names directly below a folder, sorted; none without a folder. It may come late and lack the newest."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a file, whole or not at all, in the place of what was there."""
        ...

    def create(self, name: str, content: bytes) -> bytes:
        """Put a file where none is, and what is there then: this content, or that of who came first."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def set_aside(self, names: Sequence[str]) -> None:
        """Give files, in this order, names that no reader takes for a table; those that are not there are left out."""
        ...

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keeps out every other process that asks for the same, if the place `has_locks`."""
        ...


@final
@dataclass(frozen=True)
class LocalStorage:
    """A folder of this machine, or one that several share."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def has_locks(self) -> bool:
        """They die with who holds them."""
        return True

    def where(self, name: str) -> str:
        """The path."""
        return str(self.folder / name)

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of the files that are there."""
        found: dict[str, bytes] = {}
        for name in names:
            try:
                found[name] = (self.folder / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                found[name] = b""
        return found

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """The sizes of the files that are there; -1 where not even that can be read."""
        found: dict[str, int] = {}
        for name in names:
            try:
                found[name] = (self.folder / name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                found[name] = -1
        return found

    def hashes(self, names: Sequence[str]) -> Iterator[tuple[str, str | OSError]]:
        """Each name with its file's sha256, one after the other, in constant memory."""
        for name in names:
            try:
                yield name, hash_file(self.folder / name)
            except OSError as error:
                yield name, error

    def list_names(self, folder: str) -> list[str]:
        """The names in a folder."""
        try:
            return sorted(path.name for path in (self.folder / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write(self, name: str, content: bytes) -> None:
        """By a temporary file, a sync and a rename."""
        write_atomically(self.folder / name, content)

    def create(self, name: str, content: bytes) -> bytes:
        """Put a file where none is; who calls this holds a lock."""
        there = self.read_many([name])
        if name not in there:
            self.write(name, content)
        return there.get(name, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = self.folder / name
        with telling_refusals(path):
            if path.exists():
                path.unlink(missing_ok=True)

    def set_aside(self, names: Sequence[str]) -> None:
        """Rename files to NAME.damaged-1, or the first number that is free for all of them."""
        paths = [self.folder / name for name in names]
        number = 1
        while any(Path(aside(str(path), number)).exists() for path in paths):
            number += 1
        for path in paths:
            with telling_refusals(path):
                if path.exists():
                    path.rename(aside(str(path), number))

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keeps out every other process of whatever machine that asks for the same."""
        return locked(self.folder / name)


def aside(name: str, number: int) -> str:
    """The name of a damaged file that was set aside."""
    return f"{name}.damaged-{number}"


def is_address(place: object) -> bool:
    """Whether a text is an address of an object store rather than a path of this machine."""
    return isinstance(place, str) and _ADDRESS.match(place) is not None and not place.startswith("file://")


def has_credentials(address: str) -> bool:
    """Whether an address carries a password, or a query, which may be signed."""
    return _CREDENTIALS.search(address) is not None


def without_credentials(address: str) -> str:
    """An address as messages may show it."""
    return re.sub(r"(:/+).*@", r"\1", address).partition("?")[0] if has_credentials(address) else address


Place = Path | str | Storage
"""What a study's folder may be given as."""


def storage_of(place: Place) -> Storage:
    """The place that a path, an address or a place itself stands for; nothing is asked of it yet.

    StoreError for an address that was made a path, which takes a slash from it.
    """
    if not isinstance(place, (Path, str)):
        return place
    if isinstance(place, str) and is_address(place):
        from mnemoscope.object_storage import ObjectStorage  # late: fsspec, for local folders in vain

        return ObjectStorage.at(place)
    if _LOST_SLASH.match(str(place)):
        shown = without_credentials(str(place))
        raise StoreError(f"{shown}: an address that was made a path; expected it as text, such as s3://bucket/study")
    return LocalStorage(local_path(place))


def local_folder(option: str, place: Path | str) -> Path:
    """The folder that an option names; ConfigError for an address, which not everything can be written to."""
    if is_address(place):
        raise ConfigError(f"{option}: {without_credentials(str(place))} given; expected a folder of this machine")
    return local_path(place)


def local_path(place: Path | str) -> Path:
    """A path of this machine."""
    return Path(str(place).removeprefix("file://")).expanduser() if isinstance(place, str) else place
