"""The answers of an endpoint, one line of JSON each, on disk before they count.

    {"sent": KEY, "tokens": N}                  a request leaves; N is what it may cost
    {"failed": KEY, "tokens": N}                it came to nothing; N is what it may have cost
    {"refused": KEY, "reason": TEXT}            the server will never answer this one
    {"answered": KEY, "text": TEXT, "tokens": N}

The last line may be torn: it is cut off. Lines of requests come before the requests, so that a budget holds however
often an audit is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, NamedTuple, final

from mnemoscope.errors import StoreError
from mnemoscope.files import sync_folder, telling_refusals

JOURNAL_NAME: Final = "answers.jsonl"


class Spending(NamedTuple):
    """What was asked for so far, by this and earlier calls."""

    num_requests: int
    num_tokens: int
    """Of prompts and answers: as told by the server, else as estimated."""


@final
class Journal:
    """The answers in a folder; for several threads of one process, and for one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, str] = {}
        """Texts by question."""
        self.refusals: dict[str, str] = {}
        """Reasons by question."""
        self._path = folder / JOURNAL_NAME
        self._lock, self._is_open = Lock(), True
        self._num_requests = self._num_tokens = 0
        self._pending: dict[str, int] = {}
        with telling_refusals(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            # What a model recites may be private: for the owner alone.
            self._number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                self._begin(folder)
            except BaseException:
                os.close(self._number)
                raise

    def _begin(self, folder: Path) -> None:
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{self._path}: another process is asking; wait for it, or choose another folder"
            ) from None
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            self._replay(line, number)
        if whole < len(content):
            os.ftruncate(self._number, whole)
            os.fsync(self._number)
        sync_folder(folder)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_open = False
            os.close(self._number)

    @property
    def spending(self) -> Spending:
        """Requests and tokens so far."""
        return Spending(self._num_requests, self._num_tokens)

    def send(self, key: str, tokens: int, *, max_requests: int | None, max_tokens: int | None) -> bool:
        """Whether the budget has room for a request, which is then counted."""
        with self._lock:
            if max_requests is not None and self._num_requests >= max_requests:
                return False
            if max_tokens is not None and self._num_tokens + tokens > max_tokens:
                return False
            self._append({"sent": key, "tokens": tokens})
            return True

    def fail(self, key: str, tokens: int) -> None:
        """A request came to nothing, and may have cost so many tokens."""
        with self._lock:
            self._append({"failed": key, "tokens": tokens})

    def refuse(self, key: str, reason: str) -> None:
        """A question that is never answered, at no cost."""
        with self._lock:
            self._append({"refused": key, "reason": reason})

    def answer(self, key: str, text: str, tokens: int) -> None:
        """An answer, and what it has cost."""
        with self._lock:
            self._append({"answered": key, "text": text, "tokens": tokens})

    def _append(self, record: dict[str, Any]) -> None:
        """Write and count; nothing where the journal is closed: what comes in too late has nobody to count it."""
        if not self._is_open:
            return
        line = json.dumps(record).encode() + b"\n"
        with telling_refusals(self._path):
            start = os.fstat(self._number).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._number, line[written:])
                os.fsync(self._number)
            except OSError:
                os.ftruncate(self._number, start)  # a torn line before others would spoil the file
                raise
        self._count(record)

    def _replay(self, line: bytes, number: int) -> None:
        try:
            self._count(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{self._path}: line {number} is damaged ({type(error).__name__}); remove the line, or the file to ask "
                "everything again"
            ) from error

    def _count(self, record: dict[str, Any]) -> None:
        match record:
            case {"sent": str(key), "tokens": int(tokens)}:
                self._num_requests += 1
                self._num_tokens += tokens
                self._pending[key] = tokens
            case {"failed": str(key), "tokens": int(tokens)}:
                self._settle(key, tokens)
            case {"refused": str(key), "reason": str(reason)}:
                self._settle(key, 0)
                self.refusals[key] = reason
            case {"answered": str(key), "text": str(text), "tokens": int(tokens)}:
                self._settle(key, tokens)
                self.answers[key] = text
            case _:
                raise ValueError(record)

    def _settle(self, key: str, tokens: int) -> None:
        """Of a request that is over: what it has cost instead of what it might have."""
        self._num_tokens += tokens - self._pending.pop(key, 0)
