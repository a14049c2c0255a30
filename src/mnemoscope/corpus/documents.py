"""Text files -> documents, one at a time: lines of JSON, rows of a table, or a whole .txt.

Only the document at hand is in memory; one .txt is one document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.columns import Column, ColumnKind
from mnemoscope.corpus.sources import Source, reason
from mnemoscope.corpus.tables import TABLE_SUFFIXES, Table, list_arrays
from mnemoscope.errors import CorpusError

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".json")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """One document: text, or tokens where the file has them."""

    line: int
    """Its line in JSON lines, from 1; its row in a table, from 0; 0 for a whole file."""
    content: str | NDArray[np.int64]
    position: int
    """Bytes of the file read so far, for the progress bar."""


def read_documents(source: Source, *, column: Column | None) -> Iterator[Document]:
    """The documents of one file in order; a damaged one is a CorpusError that names its place."""
    if source.suffix in TABLE_SUFFIXES:
        assert column is not None
        return _read_table(source, column)
    if source.suffix in JSON_LINES_SUFFIXES:
        assert column is not None
        return _read_json_lines(source, column)
    return _read_whole(source)


def place_document(source: Source, line: int) -> str:
    """The file and line, or row, that messages name."""
    if source.suffix in TABLE_SUFFIXES:
        return f"{source.address}, row {line}"
    return f"{source.address}, line {line}" if source.suffix in JSON_LINES_SUFFIXES else source.address


def read_fields(source: Source) -> dict[str, ColumnKind | None]:
    """What each field of the first line of JSON lines holds."""
    kinds: Mapping[type, ColumnKind] = {str: "text", list: "tokens"}
    for _, record, _ in read_records(source):
        return {name: kinds.get(type(value)) for name, value in record.items()}
    raise CorpusError(f"{source.address}: holds no line of JSON; expected one object per line")


def read_records(source: Source) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Each line of JSON lines, from 1, its object, and the bytes of the file read so far; blank lines have none.

    CorpusError for a line that is no object.
    """
    for number, line, position in _lines(source):
        yield number, _parse(line, place_document(source, number)), position


def _lines(source: Source) -> Iterator[tuple[int, bytes, int]]:
    with source.stream() as (stream, below):
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield number, text, below.tell()


def _read_json_lines(source: Source, column: Column) -> Iterator[Document]:
    take: Callable[[object, str], str | NDArray[np.int64]] = _text if column.kind == "text" else _tokens
    for number, record, position in read_records(source):
        place = place_document(source, number)
        if column.name not in record:
            raise CorpusError(f"{place}: has no field {column.name!r}; expected it on every line")
        yield Document(number, take(record[column.name], f"{place}: field {column.name!r}"), position)


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not valid JSON ({reason(error)}); expected one object per line") from error
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: a JSON {type(record).__name__} given; expected an object")
    return cast(dict[str, Any], record)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        what = "null" if value is None else type(value).__name__
        raise CorpusError(f"{place} is {what}; expected a string")
    return value


def _tokens(value: object, place: str) -> NDArray[np.int64]:
    if not isinstance(value, list):
        raise CorpusError(f"{place} is {type(value).__name__}; expected a list of token ids")
    try:
        tokens = np.asarray(value) if value else np.empty(0, np.int64)
    except (ValueError, OverflowError) as error:
        raise CorpusError(f"{place} is no list of token ids ({reason(error)})") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise CorpusError(f"{place} holds other things than integers; expected a flat list of token ids")
    return check_ids(tokens, place)


def check_ids(tokens: NDArray[np.integer], place: str) -> NDArray[np.int64]:
    """The ids as int64; one below 0 or above the largest int32 is a CorpusError."""
    wrong = (tokens < 0) | (tokens > np.iinfo(np.int32).max)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise CorpusError(f"{place}: token id {int(tokens[first])} at index {first}; expected 0 to 2147483647")
    return tokens.astype(np.int64)


def _read_table(source: Source, column: Column) -> Iterator[Document]:
    table = Table(source)
    row = 0
    for unit in range(table.num_units):
        for block in table.blocks(column.name, unit=unit):
            contents: list[Any]
            if column.kind == "text":
                contents = block.to_pylist()
            else:
                contents = list_arrays(block, place=lambda at: place_document(source, at), first_row=row)
            for content in contents:
                checked = content if isinstance(content, str) else check_ids(content, place_document(source, row))
                yield Document(row, checked, source.size * row // table.num_rows)
                row += 1


def _read_whole(source: Source) -> Iterator[Document]:
    with source.stream() as (stream, _):
        content = stream.read()
    try:
        text = content.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{source.address}: byte {error.start} is not UTF-8 ({error.reason}); expected UTF-8 text"
        ) from error
    yield Document(0, text, source.size)
