"""Parquet and Arrow files, a batch at a time: forward within a row group, at random between them.

A row group may be larger than memory, so it is never held whole: reading goes forward from where it last was,
and begins the row group again only to go back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.corpus.columns import ColumnKind
from mnemoscope.corpus.sources import Source, reason
from mnemoscope.errors import CorpusError

TABLE_SUFFIXES = (".parquet", ".arrow", ".feather", ".ipc")
_BATCH_ROWS = 256
_ERRORS = (pa.ArrowException, OSError, ValueError, EOFError, OverflowError)


@final
class Table:
    """A Parquet file, or an Arrow file in file or stream format."""

    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self._read_footer()
        except _ERRORS as error:
            raise self._damaged(error) from error
        self._stops = list(accumulate(self._unit_rows))

    def _read_footer(self) -> None:
        self._file = self._open()
        if self.source.suffix == ".parquet":
            self._reader: Any = pq.ParquetFile(self._file, buffer_size=1 << 20, pre_buffer=False)
            self.schema: pa.Schema = self._reader.schema_arrow
            groups = range(self._reader.num_row_groups)
            self._unit_rows = [self._reader.metadata.row_group(group).num_rows for group in groups]
            return
        try:
            self._reader = pa.ipc.open_file(self._file)
            batches = range(self._reader.num_record_batches)
            self._unit_rows = [self._reader.get_batch(batch).num_rows for batch in batches]
        except pa.ArrowInvalid:  # the stream format, which has no footer: one unit
            self._reader = None
            self._file.seek(0)
            stream = pa.ipc.open_stream(self._file)
            self._unit_rows = [sum(batch.num_rows for batch in stream)]
            self.schema = stream.schema
            return
        self.schema = self._reader.schema

    def _open(self) -> pa.NativeFile:
        if self.source.filesystem is not None:
            return pa.PythonFile(self.source.filesystem.open(self.source.path, "rb"), mode="r")
        if self.source.suffix == ".parquet":
            return pa.OSFile(self.source.path, mode="r")
        return pa.memory_map(self.source.path, mode="r")

    @property
    def num_rows(self) -> int:
        """Rows that the file says it has."""
        return self._stops[-1] if self._stops else 0

    @property
    def num_units(self) -> int:
        """Row groups of a Parquet file, or batches of an Arrow file."""
        return len(self._stops)

    @property
    def fields(self) -> dict[str, ColumnKind | None]:
        """What each column holds."""
        return {field.name: _kind(field.type) for field in self.schema}

    def unit_of(self, row: int) -> tuple[int, int]:
        """The row group or batch that holds a row, and its own first row."""
        unit = bisect_right(self._stops, row)
        return unit, self._stops[unit] - self._unit_rows[unit]

    def blocks(self, column: str, *, unit: int) -> Iterator[pa.Array]:
        """The column's arrays of one row group or batch, in order; a null or damage is a CorpusError."""
        row = self._stops[unit] - self._unit_rows[unit]
        try:
            for batch in self._batches(column, unit):
                block = batch.column(batch.schema.get_field_index(column))
                if block.null_count:
                    null = row + int(np.argmax(block.is_null().to_numpy(zero_copy_only=False)))
                    raise CorpusError(f"{self.source.address}, row {null}: column {column!r} is null; expected a value")
                yield block
                row += len(block)
        except _ERRORS as error:
            raise self._damaged(error, row) from error
        if row != self._stops[unit]:
            raise CorpusError(f"{self.source.address}: {row} rows found; its footer says {self._stops[unit]}")

    def _batches(self, column: str, unit: int) -> Iterator[pa.RecordBatch]:
        if self.source.suffix == ".parquet":
            yield from self._reader.iter_batches(_BATCH_ROWS, row_groups=[unit], columns=[column], use_threads=False)
        elif self._reader is not None:
            yield self._reader.get_batch(unit)
        else:
            self._file.seek(0)
            yield from pa.ipc.open_stream(self._file)

    def _damaged(self, error: BaseException, row: int | None = None) -> CorpusError:
        kind = "Parquet" if self.source.suffix == ".parquet" else "Arrow"
        place = self.source.address if row is None else f"{self.source.address}, row {row} or later"
        return CorpusError(f"{place}: truncated or damaged {kind} data ({reason(error)}); expected a complete file")


@final
class TableRows:
    """The token lists of one table's column."""

    def __init__(self, table: Table, *, column: str) -> None:
        self._table = table
        self._column = column
        self._unit = -1
        self._blocks: Iterator[pa.Array] = iter(())
        self._rows: list[NDArray[np.integer]] = []
        self._first = 0

    def __len__(self) -> int:
        return self._table.num_rows

    def tokens(self, start: int, stop: int) -> Sequence[NDArray[np.integer]]:
        """Rows start to stop; quickest in ascending order."""
        rows: list[NDArray[np.integer]] = []
        while start < stop:
            self._seek(start)
            found = self._rows[start - self._first : stop - self._first]
            rows.extend(found)
            start += len(found)
        return rows

    def place(self, row: int) -> str:
        """The file and row that messages name."""
        return f"{self._table.source.address}, row {row}"

    def _seek(self, row: int) -> None:
        unit, first = self._table.unit_of(row)
        if unit != self._unit or row < self._first:
            self._unit, self._first, self._rows = unit, first, []
            self._blocks = self._table.blocks(self._column, unit=unit)
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            block = next(self._blocks, None)
            if block is None:
                self._unit = -1
                raise CorpusError(f"{self.place(row)}: not found; the file's own count of rows says it is there")
            self._rows = list_arrays(block, place=self.place, first_row=self._first)


def list_arrays(block: pa.Array, *, place: Callable[[int], str], first_row: int) -> list[NDArray[np.integer]]:
    """One array per list of a block without null lists; a null inside a list is a CorpusError."""
    values = block.flatten()
    lengths: Any = pc.call_function("list_value_length", [block])
    stops = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
    if values.null_count:
        null = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise CorpusError(
            f"{place(first_row + bisect_right(stops.tolist(), null))}: a token is null; expected integers"
        )
    return np.split(values.to_numpy(zero_copy_only=False), stops[:-1])


def _kind(found: pa.DataType) -> ColumnKind | None:
    types = pa.types
    if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
        return "text"
    is_list = types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)
    return "tokens" if is_list and types.is_integer(found.value_type) else None
