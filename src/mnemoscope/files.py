"""Bytes -> a file that is there whole or not at all, whatever kills the writer.

A file is written under a temporary name, synced, renamed, and its folder synced. The writer holds a lock on
its temporary file, which dies with it: a temporary file that nobody locks belongs to a dead run and may go.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from mnemoscope.errors import StoreError

TEMPORARY_SUFFIX: Final = ".tmp"
_READ_ONLY: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`; StoreError, with nothing left behind, where the folder or the disk refuses."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write that takes its place at `path` in the end, and leaves nothing behind where an error comes first.

    StoreError where the folder or the disk refuses.
    """
    with telling_refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_file(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        sync_folder(path.parent)


@contextmanager
def telling_refusals(path: Path) -> Generator[None]:
    """Turns the system's refusal to write at `path` into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        advice = (
            "free space and run again; what is stored stays and is taken up"
            if error.errno in _FULL
            else "choose a results folder that can be written"
        )
        raise StoreError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Keeps every other process out that asks for the same; a dead one's lock ends with it.

    The lock lies on a file beside `path`, gone in the end. Where nothing can be written there is nothing to guard.
    """
    name = path.with_name(f".{path.name}.lock{TEMPORARY_SUFFIX}")
    with telling_refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = _lock(name)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise StoreError(f"{name}: cannot be locked ({error.strerror or error})") from error
        yield
        return
    with file:
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


def _lock(name: Path) -> BinaryIO:
    while True:
        file = name.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its last holder removed it while this one waited


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files that dead runs left in a folder; those of living runs stay."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
            path.unlink()


def hash_file(path: Path) -> str:
    """The sha256, hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _temporary_file(path: Path) -> Generator[BinaryIO]:
    """A locked file beside `path`, open for writing; removed on the way out unless it was renamed."""
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        with name.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:  # another run tidied it up before it was locked
                continue
            try:
                yield file
            finally:
                name.unlink(missing_ok=True)
            return
