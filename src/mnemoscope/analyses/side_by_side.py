"""Two runs' tables of scores in pieces of equal length, over the same sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from mnemoscope.config import Grid
from mnemoscope.errors import StoreError

ROWS_AT_ONCE: Final = 1 << 16


def side_by_side(
    tables_from: Iterable[pa.Table], tables_to: Iterable[pa.Table], num_contexts: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Pieces of equal length, whole sequences each; StoreError where one side has more rows."""
    left, right = _pieces(tables_from), _pieces(tables_to)
    at_once = max(ROWS_AT_ONCE // num_contexts, 1) * num_contexts
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        size = min(one.num_rows, other.num_rows, at_once)
        yield one.slice(0, size), other.slice(0, size)
        one = one.slice(size) if size < one.num_rows else next(left, None)
        other = other.slice(size) if size < other.num_rows else next(right, None)
    if one is not None or other is not None:
        longer = "first" if one is not None else "second"
        raise StoreError(f"the {longer} run has more rows than the other; expected two runs over the same sequences")


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    return (table for table in tables if table.num_rows)


def check_same_sequences(one: pa.Table, other: pa.Table, grid: Grid, start: int) -> None:
    """StoreError where two pieces, whose first row is number `start`, do not tell of the same sequences in order."""
    expected = np.resize(np.asarray(grid.contexts), one.num_rows)
    for table in (one, other):
        wrong = np.flatnonzero(table.column("context").to_numpy() != expected)
        if wrong.size or table.num_rows % len(grid.contexts):
            row = start + int(wrong[0] if wrong.size else table.num_rows)
            raise StoreError(f"row {row}: not in the order of the contexts {list(grid.contexts)}; expected that grid")
    for name in ("sequence_id", "offset", "group"):
        if name in one.column_names and name in other.column_names:
            here, there = (table.column(name).to_numpy() for table in (one, other))
            wrong = np.flatnonzero(here != there)
            if wrong.size:
                row = int(wrong[0])
                raise StoreError(
                    f"row {start + row}: {name} {here[row]} in the first run, {there[row]} in the second; "
                    "expected two runs over the same sequences in the same order"
                )
