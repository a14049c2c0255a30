"""Corpus -> how often the n-grams of sampled windows occur in it, and how many copies of each window it holds.

One pass over the corpus counts only what the sample asks for: memory grows with the sample. A corpus may be cut
into parts anywhere between rows; parts are counted apart and their counts added:

    plan_counts (windows) -> CountRequest -> count_rows, count_corpus (a part each) -> Counts + Counts -> counts_table

An n-gram is n consecutive tokens within one row of the corpus; no n-gram lies across rows. Overlapping occurrences
all count. Every count is exact.

Axes: R sampled sequences, W window tokens, P places of an n-gram in a window.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.corpus import Corpus
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.ngrams import HASHING, Hashing, NgramTable, Tally, index_ngrams

UNITS: Final[dict[str, str]] = {
    "sequence_id": "row of the corpus, from 0",
    "group": "member or control",
    "offset": "tokens from the start of the row to the window",
    "ngram_N": "occurrences in the corpus of the N tokens that end at this index of the window; null before index N-1",
    "num_copies": "other places in the corpus that hold the whole window, the place it was taken from left out",
    "cluster": "sampled sequences with the same window share it: their smallest sequence_id, "
    "or -1 - sequence_id where the window is in no member",
}
"""Every stored column and what it counts in."""
ROWS_AT_ONCE: Final = 1024
_MAX_TOKEN: Final = 2**31 - 1
_MAX_TOKENS: Final = 2**31 - 1
"""n-grams of a sample are numbered in 32 bits."""


class SampledRows(NamedTuple):
    """Which sequences the windows of a request were taken from."""

    sequence_ids: NDArray[np.int64]
    """int64 [R]."""
    groups: Sequence[str]
    """[R], member or control."""
    offsets: NDArray[np.int64]
    """int64 [R], in tokens."""


@final
@dataclass(frozen=True, eq=False)
class CountRequest:
    """What a sample asks of a corpus; the same for every part of it, on any machine."""

    ngram_sizes: tuple[int, ...]
    ngrams: tuple[NgramTable, ...]
    """One table per size."""
    windows: NgramTable
    """The table of the whole windows."""
    fingerprint: str
    """sha256, hex, of the windows and sizes."""

    @property
    def tables(self) -> tuple[NgramTable, ...]:
        """Every table, the windows' last."""
        return (*self.ngrams, self.windows)


@final
@dataclass(frozen=True, eq=False)
class Counts:
    """What a part of a corpus, or all of it, answers to a request; parts add up."""

    request: str
    """The request's fingerprint."""
    num_rows: int
    num_tokens: int
    occurrences: tuple[NDArray[np.int64], ...]
    """Per table of the request, int64 by the n-gram's number."""

    def __add__(self, other: Counts) -> Counts:
        """The counts of two parts together; ConfigError for answers to different requests."""
        if self.request != other.request:
            raise ConfigError(
                f"counts of request {self.request[:12]} and of {other.request[:12]} added; "
                "expected parts counted for one sample and the same n-gram sizes"
            )
        return Counts(
            self.request,
            self.num_rows + other.num_rows,
            self.num_tokens + other.num_tokens,
            tuple(left + right for left, right in zip(self.occurrences, other.occurrences, strict=True)),
        )


def plan_counts(
    tokens_RW: NDArray[np.integer], *, ngram_sizes: Sequence[int] = (1, 2), hashing: Hashing = HASHING
) -> CountRequest:
    """What to count for the sampled windows, integers [R, W]; `hashing` decides speed alone.

    Raises ConfigError for n-gram sizes that a window has no place for, CorpusError for ids of 2^31 and more.
    """
    windows_RW = _as_windows(tokens_RW)
    width = windows_RW.shape[1]
    if len(set(ngram_sizes)) != len(ngram_sizes) or not all(1 <= n <= width for n in ngram_sizes):
        raise ConfigError(f"ngram_sizes: {list(ngram_sizes)}; expected different sizes of 1 to {width} tokens (window)")
    hashed = hashlib.sha256(f"{windows_RW.shape} {tuple(ngram_sizes)}\n".encode())
    hashed.update(windows_RW.astype("<u4").tobytes())
    return CountRequest(
        tuple(ngram_sizes),
        tuple(index_ngrams(windows_RW, n, hashing=hashing) for n in ngram_sizes),
        index_ngrams(windows_RW, width, hashing=hashing),
        hashed.hexdigest(),
    )


def count_rows(request: CountRequest, rows: Sequence[NDArray[np.integer]] | NDArray[np.integer]) -> Counts:
    """What the rows, 1-D arrays of any lengths or one [rows, tokens], answer to a request.

    Raises CorpusError for ids outside 0 to 2^31 - 1.
    """
    count = _Count(request)
    count.add(rows)
    return count.counts()


def count_corpus(
    request: CountRequest,
    corpus: Corpus,
    *,
    start: int = 0,
    stop: int | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Callable[[int, int], None] | None = None,
) -> Counts:
    """What rows start to stop of a corpus (all by default) answer, `rows_at_once` of them in memory.

    `progress` is told the rows done and all rows. Raises CorpusError as `corpus.tokens` does.
    """
    stop = len(corpus) if stop is None else stop
    count = _Count(request)
    for first in range(start, stop, rows_at_once):
        end = min(first + rows_at_once, stop)
        count.add(corpus.tokens(first, end))
        if progress is not None:
            progress(end - start, stop - start)
    return count.counts()


def find_clusters(tokens_RW: NDArray[np.integer]) -> NDArray[np.int64]:
    """Of each window, int64 [R], the first row with the same tokens; a row that is like none before is its own."""
    windows_RW = _as_windows(tokens_RW)
    table = index_ngrams(windows_RW, windows_RW.shape[1])
    return _first_rows(table)


def counts_schema(ngram_sizes: Sequence[int], *, fingerprint: str) -> pa.Schema:
    """The columns of a counts table, with the run's fingerprint and units as metadata."""
    per_index = pa.list_(pa.field("element", pa.int64()))
    units = {name: unit for name, unit in UNITS.items() if name != "ngram_N"}
    units |= {f"ngram_{n}": UNITS["ngram_N"].replace("N", str(n)) for n in ngram_sizes}
    columns = [
        pa.field("sequence_id", pa.int64(), nullable=False),
        pa.field("group", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        *(pa.field(f"ngram_{n}", per_index, nullable=False) for n in ngram_sizes),
        pa.field("num_copies", pa.int64(), nullable=False),
        pa.field("cluster", pa.int64(), nullable=False),
    ]
    metadata = {
        "table": "counts",
        "fingerprint": fingerprint,
        "ngram_sizes": json.dumps(list(ngram_sizes)),
        "units": json.dumps({field.name: units[field.name] for field in columns}, ensure_ascii=False),
    }
    return pa.schema(columns, metadata)


def counts_table(
    request: CountRequest, counts: Counts, rows: SampledRows, *, fingerprint: str, own_group: str = "member"
) -> pa.Table:
    """One row per sampled sequence, in the request's order; `own_group` was taken from the corpus counted.

    The schema's metadata says how many rows and tokens were counted. Raises ConfigError for counts or rows of
    another request, and CorpusError where an own window does not occur in what was counted.
    """
    if counts.request != request.fingerprint or len(rows.sequence_ids) != len(request.windows.number_RP):
        raise ConfigError(
            f"counts of request {counts.request[:12]} and {len(rows.sequence_ids)} rows given for request "
            f"{request.fingerprint[:12]} of {len(request.windows.number_RP)} windows; expected what belongs together"
        )
    is_own = np.array([group == own_group for group in rows.groups], np.bool_)
    columns = {
        "sequence_id": pa.array(rows.sequence_ids, pa.int64()),
        "group": pa.array(rows.groups, pa.string()).dictionary_encode(),
        "offset": pa.array(rows.offsets, pa.int64()),
        **{
            f"ngram_{table.n}": _per_index(table, occurrences)
            for table, occurrences in zip(request.ngrams, counts.occurrences, strict=False)
        },
        "num_copies": pa.array(_count_copies(request, counts, rows, is_own), pa.int64()),
        "cluster": pa.array(_name_clusters(request, rows, is_own), pa.int64()),
    }
    schema = counts_schema(request.ngram_sizes, fingerprint=fingerprint)
    counted = {"num_corpus_rows": str(counts.num_rows), "num_corpus_tokens": str(counts.num_tokens)}
    return pa.table(columns, schema=schema.with_metadata({**(schema.metadata or {}), **counted}))


@final
class _Count:
    """The tallies of a request while rows go by."""

    def __init__(self, request: CountRequest) -> None:
        self._request = request
        self._tallies = tuple(Tally(table) for table in request.tables)
        self._num_rows = 0
        self._num_tokens = 0

    def add(self, rows: Sequence[NDArray[np.integer]] | NDArray[np.integer]) -> None:
        tokens = _join(rows)
        starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        for tally in self._tallies:
            tally.add(tokens, starts)
        self._num_rows += len(rows)
        self._num_tokens += len(tokens)

    def counts(self) -> Counts:
        occurrences = tuple(tally.counts() for tally in self._tallies)
        return Counts(self._request.fingerprint, self._num_rows, self._num_tokens, occurrences)


def _as_windows(tokens_RW: NDArray[np.integer]) -> NDArray[np.uint32]:
    if tokens_RW.ndim != 2 or not tokens_RW.shape[1]:
        raise ConfigError(f"windows of shape {list(tokens_RW.shape)}; expected [rows, tokens] with one token or more")
    if tokens_RW.size > _MAX_TOKENS:
        raise ConfigError(f"{len(tokens_RW)} windows of {tokens_RW.size} tokens; expected at most {_MAX_TOKENS}")
    return _join(tokens_RW).reshape(tokens_RW.shape)


def _join(rows: Sequence[NDArray[np.integer]] | NDArray[np.integer]) -> NDArray[np.uint32]:
    """The rows end to end; narrow unsigned tokens cannot be out of range and are not looked at."""
    if isinstance(rows, np.ndarray):
        tokens = rows.reshape(-1)
    elif len({row.dtype for row in rows}) == 1:
        tokens = np.concatenate(rows)
    else:
        tokens = np.concatenate([np.empty(0, np.int64), *rows], dtype=np.int64, casting="unsafe")
    is_narrow = tokens.dtype.kind == "u" and tokens.dtype.itemsize <= 2
    if not is_narrow and tokens.size and (tokens.min() < 0 or tokens.max() > _MAX_TOKEN):
        first = tokens[np.argmax((tokens < 0) | (tokens > _MAX_TOKEN))]
        raise CorpusError(f"token id {int(first)}; expected 0 to {_MAX_TOKEN}")
    return tokens.astype(np.uint32)


def _per_index(table: NgramTable, occurrences: NDArray[np.int64]) -> pa.Array:
    """Lists of W counts; null where no n-gram of the window ends."""
    num_rows, num_places = table.number_RP.shape
    width = num_places + table.n - 1
    values_RW, is_missing_RW = np.zeros((num_rows, width), np.int64), np.zeros((num_rows, width), np.bool_)
    values_RW[:, table.n - 1 :] = occurrences[table.number_RP]
    is_missing_RW[:, : table.n - 1] = True
    values = pa.array(values_RW.reshape(-1), pa.int64(), mask=is_missing_RW.reshape(-1))
    return pa.ListArray.from_arrays(
        pa.array(np.arange(num_rows + 1) * width, pa.int32()),
        values,
        type=pa.list_(pa.field("element", pa.int64())),
    )


def _count_copies(
    request: CountRequest, counts: Counts, rows: SampledRows, is_own: NDArray[np.bool_]
) -> NDArray[np.int64]:
    copies = counts.occurrences[-1][request.windows.number_RP[:, 0]] - is_own
    if (copies < 0).any():
        row = int(np.argmax(copies < 0))
        raise CorpusError(
            f"the window of {rows.groups[row]} sequence {int(rows.sequence_ids[row])} at offset "
            f"{int(rows.offsets[row])} is nowhere in the {counts.num_rows} rows counted; "
            "expected the counts of the whole corpus that it was taken from"
        )
    return copies


def _first_rows(windows: NgramTable) -> NDArray[np.int64]:
    """The first row with the same window, int64 [R]."""
    return windows.first_places[windows.number_RP[:, 0]] // windows.n


def _name_clusters(request: CountRequest, rows: SampledRows, is_own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ids of other groups are below zero, so that row 5 of two corpora are two clusters unless their windows agree."""
    number_R = request.windows.number_RP[:, 0]
    ids = np.asarray(rows.sequence_ids, np.int64)
    smallest = np.full((2, len(request.windows)), np.iinfo(np.int64).max)
    np.minimum.at(smallest[0], number_R[is_own], ids[is_own])
    np.minimum.at(smallest[1], number_R[~is_own], ids[~is_own])
    is_own_cluster = smallest[0] < np.iinfo(np.int64).max
    return np.where(is_own_cluster, smallest[0], -1 - smallest[1])[number_R]
