"""Folders that are whole or not there: built under a temporary name, sealed by checksums, then renamed.

Any process may be killed at any instant, and any number may build the same folder at once: what stands under
the final name is complete, and `is_whole` says whether its bytes are still those that were written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnemoscope.errors import StoreError

CHECKSUMS = "checksums.json"
_TEMPORARY = ".tmp-"
_ABANDONED_SECONDS = 6 * 3600
"""Age at which a temporary folder belongs to nobody: no build of ours takes hours."""


def cache_folder() -> Path:
    """The folder for what can be made again: $MNEMOSCOPE_CACHE, or mnemoscope in the user's cache folder."""
    chosen = os.environ.get("MNEMOSCOPE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnemoscope"


def is_whole(folder: Path) -> bool:
    """Whether `folder` is sealed and every file has the checksum it was sealed with."""
    try:
        sealed = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(sealed) and sealed == _checksums(folder)
    except (OSError, ValueError):
        return False


@contextmanager
def building(folder: Path) -> Generator[Path, None, None]:
    """A temporary folder to fill; it takes the name `folder` when the block ends well, and goes otherwise.

    A damaged folder of that name makes way. Of several processes that build the same folder, the first to
    finish names it; the others find it whole and drop their copy. Raises StoreError where the disk refuses.
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        with _in_use(temporary):
            yield temporary
            (temporary / CHECKSUMS).write_text(json.dumps(_checksums(temporary), indent=1), encoding="utf-8")
            _take_name(temporary, folder)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{folder}: cannot be written ({reason}); free the disk or set MNEMOSCOPE_CACHE") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`, unless a whole one stands there already."""
    if is_whole(folder):
        return
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        with suppress(FileNotFoundError):  # another process moved it aside first
            folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_whole(folder):  # anything but another process's copy, made in the meantime
            raise


def _checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder` but the seal itself, by its path inside, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_abandoned(parent: Path) -> None:
    """Remove temporary folders that killed processes left behind long ago, by this machine's clock; none in use."""
    for left in parent.glob(_TEMPORARY + "*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                with _in_use(left):
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _in_use(folder: Path) -> Generator[None]:
    """Keeps a temporary folder from being removed, whatever time the clocks tell; a dead process's hold ends with it.

    OSError where another process has it in use. Where folders cannot be locked, age alone decides.
    """
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        yield
    finally:
        os.close(number)
