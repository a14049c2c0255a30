"""When a request may leave: spaced by the minute's limit, and not while the server wants to be left alone."""

from __future__ import annotations

import time
from threading import Event, Lock
from typing import Final, final

_LONGEST_NAP_SECONDS: Final = 5.0


@final
class Pace:
    """Shared by the threads that ask one endpoint."""

    def __init__(self, requests_per_minute: float | None, stop: Event) -> None:
        self._space_seconds = 0.0 if requests_per_minute is None else 60 / requests_per_minute
        self._stop = stop
        self._lock = Lock()
        self._next = self._held = 0.0

    def enter(self) -> bool:
        """Wait for a request's turn; False where everything is to stop instead."""
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                at = max(self._next, self._held)
                if at <= now:
                    self._next = now + self._space_seconds
                    return True
            self._stop.wait(min(at - now, _LONGEST_NAP_SECONDS))
        return False

    def hold(self, seconds: float) -> None:
        """Let nothing leave for so long."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)
