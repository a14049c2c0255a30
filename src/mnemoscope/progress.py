"""How far a run is, on stderr: a bar in a terminal, a line now and then in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, TextIO, final

Progress = Callable[[str, int, int], None]
"""Told a model's name, its sequences done and all its sequences; first with what earlier runs have done."""

_INTERVAL_SECONDS: Final = 30.0


@contextmanager
def show_progress(stream: TextIO) -> Generator[Progress]:
    """Something to hand to `run_study`: a bar per model if `stream` is a terminal, plain lines otherwise."""
    if not stream.isatty():
        yield _Lines(stream)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class _Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} sequences/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream), speed_estimate_period=60) as bars:
        tasks = {}

        def tell(label: str, num_done: int, num_sequences: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, completed=num_done, total=num_sequences)
            bars.update(tasks[label], completed=num_done)

        yield tell


@final
class _Lines:
    """Plain lines: at a model's start and end, and every half minute in between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._label = ""
        self._first = (0.0, 0)
        self._next_seconds = 0.0
        self._last = -1

    def __call__(self, label: str, num_done: int, num_sequences: int) -> None:
        now = time.monotonic()
        if label != self._label:
            self._label, self._first = label, (now, num_done)
        elif num_done == self._last or (num_done < num_sequences and now < self._next_seconds):
            return
        self._last = num_done
        self._next_seconds = now + _INTERVAL_SECONDS
        self._stream.write(
            f"{label}: {num_done} of {num_sequences} sequences{self._rate(now, num_done, num_sequences)}\n"
        )
        self._stream.flush()

    def _rate(self, now: float, num_done: int, num_sequences: int) -> str:
        seconds, scored = now - self._first[0], num_done - self._first[1]
        if seconds <= 0 or scored <= 0:
            return ""
        left = (num_sequences - num_done) * seconds / scored
        return f", {scored / seconds:.1f} sequences per second, {left:.0f} seconds left"
