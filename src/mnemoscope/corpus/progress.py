"""How far the preparation of a corpus has come: a bar on stderr, only in a terminal and after a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rich.progress import Progress

_PATIENCE_SECONDS = 2.0
_INTERVAL_SECONDS = 0.2


@final
class ProgressBar:
    """A bar of `total` bytes that shows itself once the work has lasted two seconds."""

    def __init__(self, label: str, *, total: int) -> None:
        self._label = label
        self._total = total
        self._bar: Progress | None = None
        self._next_seconds = time.monotonic() + _PATIENCE_SECONDS
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int) -> None:
        """Say that `done` of the total bytes are behind; cheap enough for every document."""
        if not self._is_terminal or time.monotonic() < self._next_seconds:
            return
        self._next_seconds = time.monotonic() + _INTERVAL_SECONDS
        if self._bar is None:
            self._bar = _start(self._label, self._total)
        self._bar.update(self._bar.task_ids[0], completed=done)


def _start(label: str, total: int) -> Progress:
    from rich.console import Console  # late: only once there is something to show
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(label, total=total)
    bar.start()
    return bar
