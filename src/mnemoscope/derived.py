"""Tables derived from a study's scores: a few files with a record, all there and current, or not there.

    NAME.parquet, NAME.npy ...     the files
    NAME.json                      written last: what they follow from (the key), sizes and checksums

What follows from other facts than it did is replaced, not refused: unlike scores it can be had again in minutes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

from mnemoscope.files import TEMPORARY_SUFFIX, hash_file, locked, sync_folder, telling_refusals, write_atomically


@final
@dataclass(frozen=True)
class Derived:
    """A set of files in a folder that belong together, by the stem of their names."""

    folder: Path
    stem: str

    def path(self, suffix: str) -> Path:
        """Where the file with this suffix lies."""
        return self.folder / f"{self.stem}{suffix}"

    @property
    def key(self) -> str | None:
        """What the files follow from, as their record says; None where they are not all there."""
        try:
            return json.loads(self.path(".json").read_bytes())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def has(self, suffix: str) -> bool:
        """Whether a whole set is there and the file with this suffix is one of it."""
        try:
            return suffix in json.loads(self.path(".json").read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def is_current(self, key: str) -> bool:
        """Whether the files are there, undamaged, and follow from what the key stands for."""
        return self.key == key and self.find_fault() is None

    def find_fault(self) -> str | None:
        """What is wrong with the files, None where nothing is; reads them all."""
        try:
            files: dict[str, dict[str, Any]] = json.loads(self.path(".json").read_bytes())["files"]
            for suffix, facts in files.items():
                path = self.path(suffix)
                if not path.is_file():
                    return f"{path.name} is gone"
                if path.stat().st_size != facts["bytes"]:
                    return f"{path.name} has {path.stat().st_size} bytes, {facts['bytes']} were written"
                if hash_file(path) != facts["sha256"]:
                    return f"{path.name}: its checksum is not the one it was written with"
        except FileNotFoundError:
            return "not there"
        except (OSError, ValueError, KeyError, TypeError):
            return "cannot be read"
        return None

    def write(self, key: str, suffixes: Sequence[str], fill: Callable[[Mapping[str, Path]], None]) -> None:
        """Let `fill` write a file for each suffix under a temporary name, then put all in place, the record last.

        Of several processes that would write the same, the first does, and the others wait and find it there: a set
        that one has told of is never gone again while another writes it anew.
        """
        with locked(self.path(".json")):
            if not self.is_current(key):
                self._write(key, suffixes, fill)

    def _write(self, key: str, suffixes: Sequence[str], fill: Callable[[Mapping[str, Path]], None]) -> None:
        record = self.path(".json")
        with telling_refusals(record):
            record.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files = {suffix: stack.enter_context(self._temporary(suffix)) for suffix in suffixes}
            stack.enter_context(telling_refusals(record))
            fill({suffix: Path(file.name) for suffix, file in files.items()})
            facts = {suffix: self._put_in_place(suffix, file) for suffix, file in files.items()}
        sync_folder(self.folder)
        write_atomically(record, (json.dumps({"key": key, "files": facts}, indent=1) + "\n").encode())

    @contextmanager
    def _temporary(self, suffix: str) -> Generator[BinaryIO]:
        """An empty file to write, locked so that nobody takes it for a dead run's; gone in the end."""
        path = self.path(suffix)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        with telling_refusals(path), temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                temporary.unlink(missing_ok=True)

    def _put_in_place(self, suffix: str, file: BinaryIO) -> dict[str, int | str]:
        """The size and checksum of a file that now has its own name."""
        temporary = Path(file.name)
        os.fsync(file.fileno())
        facts: dict[str, int | str] = {"bytes": temporary.stat().st_size, "sha256": hash_file(temporary)}
        temporary.replace(self.path(suffix))
        return facts


def find_derived(folder: Path) -> list[Derived]:
    """Every set of a study's folder that has a record."""
    records = sorted(
        path for kind in ("traces/*", "counts", "predictions/*", "flips/*") for path in folder.glob(f"{kind}/*.json")
    )
    return [Derived(path.parent, path.stem) for path in records if "." not in path.stem]


def reserve(path: Path) -> None:
    """Have the disk set a file's whole size aside now: a mapped file meets a full disk with a signal, not an error."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def key_of(*facts: Any) -> str:
    """A hash of what something follows from, given as JSON's kinds of values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
