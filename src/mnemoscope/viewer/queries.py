"""DuckDB within bounds: memory, threads, the folder of one study's scores, and nothing else of the machine."""

from __future__ import annotations

import glob
import threading
from pathlib import Path
from typing import Any, Final, final

import duckdb

from mnemoscope.errors import StoreError
from mnemoscope.viewer.statements import Statement

MEMORY_LIMIT: Final = "512MB"
NUM_THREADS: Final = 2


class Stopped(Exception):  # noqa: N818  it is asked for, and nothing went wrong
    """Somebody stopped the session: its time was up, or nobody waits for the answer."""


@final
class Session:
    """A request's own connection, which another thread may stop."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._is_stopped = threading.Event()
        self._lock = threading.Lock()
        self._is_closed = False

    def ask(self, statement: Statement) -> list[tuple[Any, ...]]:
        """The rows of an answer; Stopped once it is stopped, StoreError for shards that cannot be read."""
        self.check()
        try:
            return self._connection.execute(statement.sql, statement.parameters).fetchall()
        except duckdb.InterruptException:
            raise Stopped from None
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            raise StoreError(f"the scores cannot be read ({said}); `mnemoscope status --verify` says more") from error

    def check(self) -> None:
        """Stopped, if it is."""
        if self._is_stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """End what it does now, and let it begin nothing more."""
        with self._lock:
            self._is_stopped.set()
            if not self._is_closed:
                self._connection.interrupt()

    def close(self) -> None:
        """Give the connection back; by the thread that asks, when it asks no more."""
        with self._lock:
            self._is_closed = True
            self._connection.close()


@final
class Database:
    """DuckDB without tables of its own, over the scores in a study's folder."""

    def __init__(self, folder: Path) -> None:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": NUM_THREADS,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": "",  # nothing is spilled
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._connection = duckdb.connect(":memory:", config=settings)
        scores = str(folder.resolve() / "scores")
        allowed = [scores, glob.escape(scores)]  # a path is checked as it is written, before its escapes are undone
        self._connection.execute("SET allowed_directories = $folders", {"folders": allowed})
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def session(self) -> Session:
        """A connection for one request."""
        return Session(self._connection.cursor())
