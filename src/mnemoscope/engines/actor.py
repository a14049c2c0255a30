"""The far side of a cluster's engine: what works in an actor's process, and what it has to say.

Everything crosses as pickled bytes.
"""

from __future__ import annotations

import gc
import logging
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple, final

from mnemoscope.engines.processes import portable
from mnemoscope.errors import EngineError
from mnemoscope.version import __version__


class News(NamedTuple):
    """What an actor has to say."""

    num_begun: int
    """Tasks that it has begun, the present one among them."""
    num_told: int
    """Of its task."""
    warnings: list[str]


class Answer(NamedTuple):
    """What has become of a task."""

    result: Any
    error: Exception | None
    news: News


@final
class Actor:
    """The worker in its process; made with a stage's first task, so that an error in making it comes back as one."""

    def __init__(self, versions: dict[str, str]) -> None:
        self._versions = versions
        self._lock = threading.Lock()
        self._stage = ""
        self._worker: Callable[[Any], Any] | None = None
        self._num_begun = self._num_told = 0
        self._warnings: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self._warnings.append(f"{socket.gethostname()}: {record.getMessage()}")
        logging.getLogger("mnemoscope").addHandler(handler)

    def work(self, stage: str, recipe: bytes, task: bytes) -> bytes:
        """The pickled answer for a pickled task; every error is one of the answers."""
        self._num_told = 0
        self._num_begun += 1
        try:
            result = self._worker_of(stage, recipe)(pickle.loads(task))
            return pickled(Answer(result, None, self._news()))
        except Exception as error:
            return pickled(Answer(None, portable(error), self._news()))

    def _worker_of(self, stage: str, recipe: bytes) -> Callable[[Any], Any]:
        with self._lock:
            if self._worker is None or self._stage != stage:
                _check_versions(self._versions)
                self._worker = None  # before another model is loaded
                self._stage, self._worker = stage, pickle.loads(recipe)(self._hear)
            assert self._worker is not None
            return self._worker

    def rest(self, stage: str) -> None:
        """Let go of a stage's worker, and of its memory on a device: another process may need it."""
        with self._lock:
            if self._stage != stage:
                return  # the next stage has begun
            self._worker = None
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def listen(self, seconds: float) -> bytes:
        """The pickled news after a while."""
        time.sleep(seconds)
        return pickled(self._news())

    def _hear(self, number: int) -> None:
        self._num_told += number

    def _news(self) -> News:
        warnings, self._warnings = self._warnings, []
        return News(self._num_begun, self._num_told, warnings)


def versions() -> dict[str, str]:
    """The versions that facts follow from."""
    return {"mnemoscope": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _check_versions(expected: dict[str, str]) -> None:
    for name, wanted in expected.items():
        if (found := versions()[name]) != wanted:
            raise EngineError(
                f"{socket.gethostname()}: {name} {found} is installed there, {wanted} here; "
                "expected the same versions on every machine"
            )


def pickled(value: Any) -> bytes:
    """As it crosses."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
