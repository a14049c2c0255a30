"""Shards one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from mnemoscope.engines import Worker
from mnemoscope.shards import ShardRange
from mnemoscope.store import ShardRecord


@final
class LocalEngine:
    """The engine of one process; the model's own threads or device do the work."""

    def run(self, tasks: Sequence[ShardRange], worker: Worker) -> Iterator[ShardRecord]:
        """The records in the tasks' order."""
        return (worker(task) for task in tasks)
