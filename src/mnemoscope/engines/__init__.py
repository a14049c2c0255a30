"""Where it runs: an engine takes the shards still to do and a worker, and yields records as they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mnemoscope.shards import ShardRange
from mnemoscope.store import ShardRecord

Worker = Callable[[ShardRange], ShardRecord]
"""Scores a range and commits it; what it returns is its commit."""


class Engine(Protocol):
    """Where a run's shards are worked on, in any order and on any machine: the facts are the same."""

    def run(self, tasks: Sequence[ShardRange], worker: Worker) -> Iterator[ShardRecord]:
        """The record of each task, as it is done; an error of the worker is raised here."""
        ...
