"""Files of per-sequence scores, one per model, context and continuation: their names, and how they are read.

    memorization_evals_MODEL_K_K+N_STEP.csv     idx,score: row of the corpus, and num_matched / n
    ... .csv.gz, .csv.zst                       the same, compressed

A file is read in a stream into two arrays on disk; only one whose rows are out of order is sorted in memory, in about
20 bytes per row. Axes: R rows.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from mnemoscope.corpus.sources import Source, reason
from mnemoscope.errors import ConfigError, CorpusError

NAME_PATTERN: Final = "memorization_evals_MODEL_K_K+N_STEP.csv"
TOLERANCE_TOKENS: Final = 1e-3
"""How far score x n may be from a whole number: a score in float32 (up to n = 16,000), or printed with five decimals
(up to n = 200), stays below it."""
_HEAD_BYTES: Final = 4096
ROWS_AT_ONCE: Final = 1 << 20
_NAME: Final = re.compile(r"memorization_evals_(.+)_(\d{1,9})_(\d{1,9})_(\d{1,18}|final)\.csv")
_HEADERS: Final = (["idx", "score"], ["", "idx", "score"])
"""As it should be, and with the unnamed row numbers in front that pandas writes unless told otherwise."""
_MAX_CONTINUATION: Final = np.iinfo(np.uint16).max
_CONVERSION: Final = re.compile(r"Row #(\d+): CSV conversion error to (\w+): invalid value '(.*)'", re.DOTALL)
_WIDTH: Final = re.compile(r"Row #(\d+): (Expected \d+ columns, got \d+)")
_MEANINGS: Final = {"int64": ("idx", "a row of the corpus, 0 or more"), "double": ("score", "num_matched / n")}

IntArray = NDArray[np.int64]


class ScoreFileName(NamedTuple):
    """What a file's name says."""

    model: str
    step: int | None
    """Training step; None for `final`."""
    context: int
    continuation: int

    def __str__(self) -> str:
        step = "final" if self.step is None else self.step
        return f"memorization_evals_{self.model}_{self.context}_{self.context + self.continuation}_{step}.csv"


class FileScores(NamedTuple):
    """A file's rows by ascending sequence_id, memory-mapped."""

    address: str
    sequence_ids: IntArray
    """int64 [R]."""
    num_matched: NDArray[np.uint16]
    """uint16 [R]."""
    sha256: str
    """Of the two arrays: not of the order of rows, of line ends or compression."""


def parse_name(address: str) -> ScoreFileName:
    """What the name of a file says; ConfigError where it is not one of these."""
    name = posixpath.basename(address)
    found = _NAME.fullmatch(re.sub(r"\.(gz|zst)$", "", name, flags=re.IGNORECASE))
    if found is None:
        raise ConfigError(
            f"{address}: the name says no model and lengths; expected {NAME_PATTERN}, STEP 143000 or final"
        )
    model, context, window, step = found.group(1), int(found.group(2)), int(found.group(3)), found.group(4)
    if not 0 < window - context <= _MAX_CONTINUATION or context < 1:
        raise ConfigError(
            f"{address}: read as model {model!r}, k = {context}, k + n = {window}; expected {NAME_PATTERN} with k from "
            f"1 and n from 1 to {_MAX_CONTINUATION} (parts of one file must be joined first)"
        )
    return ScoreFileName(model, None if step == "final" else int(step), context, window - context)


def read_score_file(source: Source, *, continuation: int, folder: Path, stem: str) -> FileScores:
    """The rows of a file, kept in `folder` under `stem` while they are needed.

    CorpusError, naming the file, the line and what was expected, for what is no such table: another header, an idx
    that is negative, too large or there twice, a score that is not a whole number of matches over n, a damaged stream.
    """
    ids_path, matched_path = folder / f"{stem}.idx", folder / f"{stem}.matched"
    num_rows, last, is_ascending = 0, -1, True
    with ids_path.open("wb") as ids_file, matched_path.open("wb") as matched_file:
        for batch in _read_batches(source):
            ids_R = _check_ids(source, batch.column("idx").to_numpy(), num_rows)
            matched_R = _matches(source, batch.column("score").to_numpy(), continuation, num_rows)
            is_ascending = is_ascending and int(ids_R[0]) > last and bool((np.diff(ids_R) > 0).all())
            last, num_rows = int(ids_R[-1]), num_rows + len(ids_R)
            ids_R.tofile(ids_file)
            matched_R.tofile(matched_file)
    if not num_rows:
        raise CorpusError(f"{source.address}: no rows below the header; expected one per sequence")
    ids, matched = np.memmap(ids_path, np.int64, "r+"), np.memmap(matched_path, np.uint16, "r+")
    if not is_ascending:
        _sort(source, ids, matched)
    return FileScores(source.address, ids, matched, hash_arrays(ids, matched))


def hash_arrays(*arrays: NDArray[np.generic]) -> str:
    """The sha256, hex, of arrays one after the other, read in parts."""
    hashed = hashlib.sha256()
    for array in arrays:
        for start in range(0, len(array), ROWS_AT_ONCE):
            part = array[start : start + ROWS_AT_ONCE]
            hashed.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())
    return hashed.hexdigest()


def _read_batches(source: Source) -> Iterator[pa.RecordBatch]:
    """The rows, a block of text at a time; none of the batches is empty."""
    _check_header(source)
    options = pa_csv.ConvertOptions(
        column_types={"": pa.string(), "idx": pa.int64(), "score": pa.float64()}, null_values=[]
    )
    try:
        with source.stream() as (stream, _):
            # One thread: only then does a complaint name the line.
            reader = pa_csv.open_csv(
                stream, read_options=pa_csv.ReadOptions(use_threads=False), convert_options=options
            )
            yield from (batch for batch in reader if batch.num_rows)
    except pa.ArrowException as error:
        raise _unreadable(source, error) from error


def _check_header(source: Source) -> None:
    with source.stream() as (stream, _):
        head = stream.read(_HEAD_BYTES)
    line = next(iter(head.decode("utf-8-sig", errors="replace").splitlines()), "")
    if [field.strip('"') for field in line.split(",")] not in _HEADERS:
        raise CorpusError(f"{source.address}: the first line is {line[:60]!a}; expected the header idx,score")


def _unreadable(source: Source, error: Exception) -> CorpusError:
    """What pyarrow says, in our words where it names a line; nothing of the file's text is shown unescaped."""
    if found := _CONVERSION.search(str(error)):
        name, expected = _MEANINGS.get(found.group(2), ("value", found.group(2)))
        value = ascii(found.group(3)[:40])
        return CorpusError(f"{source.address}, line {found.group(1)}: {name} {value}; expected {expected}")
    if found := _WIDTH.search(str(error)):
        what = found.group(2).replace("Expected", "expected")
        return CorpusError(f"{source.address}, line {found.group(1)}: not a row of idx,score ({what})")
    text = reason(error).encode("unicode_escape").decode()
    return CorpusError(f"{source.address}: not a readable CSV ({text}); expected the header idx,score and its rows")


def _check_ids(source: Source, ids_R: IntArray, num_before: int) -> IntArray:
    if ids_R.min() < 0:
        row = int(np.argmax(ids_R < 0))
        where = f"{source.address}, line {_line(num_before + row)}"
        raise CorpusError(f"{where}: idx {ids_R[row]}; expected a row of the corpus, 0 or more")
    return ids_R


def _matches(source: Source, scores_R: NDArray[np.float64], continuation: int, num_before: int) -> NDArray[np.uint16]:
    """The num_matched of scores, in integers."""
    with np.errstate(over="ignore", invalid="ignore"):
        matched_R = np.rint(scores_R * continuation)
        is_whole_R = np.abs(scores_R * continuation - matched_R) <= TOLERANCE_TOKENS
    wrong_R = ~(is_whole_R & (matched_R >= 0) & (matched_R <= continuation))  # NaN compares false
    if wrong_R.any():
        row = int(np.argmax(wrong_R))
        score = float(scores_R[row])
        raise CorpusError(
            f"{source.address}, line {_line(num_before + row)}: score {score!r} is {score * continuation:.6g} of "
            f"{continuation} tokens; expected a whole number of matches, 0 to {continuation}, over {continuation}"
        )
    return matched_R.astype(np.uint16)


def _sort(source: Source, ids: IntArray, matched: NDArray[np.uint16]) -> None:
    """Bring rows into order, in place; CorpusError for an idx that is there twice."""
    order_R = np.argsort(ids, kind="stable")
    sorted_R = ids[order_R]
    twice = np.flatnonzero(sorted_R[1:] == sorted_R[:-1])
    if len(twice):
        first, again = (_line(int(order_R[twice[0] + place])) for place in (0, 1))
        raise CorpusError(
            f"{source.address}, line {again}: idx {sorted_R[twice[0]]} again, first in line {first}; expected each once"
        )
    ids[:] = sorted_R
    matched[:] = matched[order_R]


def _line(row: int) -> int:
    """The line of a row, from 1; the header is the first, and blank lines are not counted."""
    return row + 2
