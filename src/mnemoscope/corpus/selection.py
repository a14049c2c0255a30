"""Which rows of a corpus a study scores: all, a random sample, or those that a file lists."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.config import CorpusConfig
from mnemoscope.corpus.corpus import Corpus
from mnemoscope.corpus.draws import sample_below
from mnemoscope.corpus.sources import Source, find_sources, reason
from mnemoscope.errors import CorpusError

_MAX_REPEATS: Final = 2**31 - 1
"""The scores hold them in 32 bits."""


@final
@dataclass(frozen=True)
class RowRange:
    """The ids 0 to num_rows, made only where they are asked for."""

    num_rows: int

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        """int64 ids of a slice."""
        return np.arange(*part.indices(self.num_rows), dtype=np.int64)


@final
@dataclass(frozen=True)
class Selection:
    """The rows to score, ascending."""

    sequence_ids: RowRange | NDArray[np.int64]
    """A slice of it is int64 ids."""
    num_repeats: NDArray[np.int64] | None
    """int64, aligned with sequence_ids, where the `sequences` file has that column."""
    fingerprint: str
    """sha256, hex, of the corpus's fingerprint, the ids and the repeats."""

    def __len__(self) -> int:
        return len(self.sequence_ids)


def select_sequences(config: CorpusConfig, corpus: Corpus, *, base: Path | None = None) -> Selection:
    """The rows that `sequences` or `sample` name, or all; in memory only where they are not all.

    Raises CorpusError for a sample larger than the corpus, and for a list that does not fit it.
    """
    if config.sequences is not None:
        ids, num_repeats = _read_sequences(config.sequences, len(corpus), base)
        return Selection(ids, num_repeats, _fingerprint(corpus, ids, num_repeats))
    if config.sample is None:
        return Selection(RowRange(len(corpus)), None, _fingerprint(corpus, None, None))
    if config.sample > len(corpus):
        raise CorpusError(
            f"sample: {config.sample} rows asked for; the corpus holds {len(corpus)} ({corpus.place(0)} on)"
        )
    ids = sample_below(len(corpus), count=config.sample, seed=config.seed)
    return Selection(ids, None, _fingerprint(corpus, ids, None))


def _fingerprint(corpus: Corpus, ids: NDArray[np.int64] | None, num_repeats: NDArray[np.int64] | None) -> str:
    hashed = hashlib.sha256(f"{corpus.fingerprint}\n".encode())
    for numbers in (ids, num_repeats):
        hashed.update(b"none\n" if numbers is None else f"{len(numbers)}\n".encode() + numbers.astype("<i8").tobytes())
    return hashed.hexdigest()


def _read_sequences(
    address: str, num_rows: int, base: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """The ids ascending, and the repeats in the same order."""
    source = find_sources([address], base=base)[0]
    table = _read_table(source)
    ids = _integers(source, table, "sequence_id")
    if not len(ids):
        raise CorpusError(f"{source.address}: lists no sequences; expected at least one row")
    outside = (ids < 0) | (ids >= num_rows)
    if outside.any():
        row = int(np.argmax(outside))
        raise CorpusError(
            f"{source.address}, row {row}: sequence_id {int(ids[row])}; the corpus holds rows 0 to {num_rows - 1}"
        )
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = np.flatnonzero(np.diff(ids) == 0)
    if len(twice):
        row = int(order[twice[0] + 1])
        raise CorpusError(f"{source.address}, row {row}: sequence_id {int(ids[twice[0]])} again; expected each once")
    return ids, _repeats(source, table)[order] if "num_repeats" in table.column_names else None


def _repeats(source: Source, table: pa.Table) -> NDArray[np.int64]:
    """The numbers of repeats, in the file's order; what the scores cannot hold is refused here."""
    num_repeats = _integers(source, table, "num_repeats")
    outside = (num_repeats < 0) | (num_repeats > _MAX_REPEATS)
    if outside.any():
        row = int(np.argmax(outside))
        raise CorpusError(
            f"{source.address}, row {row}: num_repeats {table.column('num_repeats')[row].as_py()}; "
            f"expected 0 to {_MAX_REPEATS}"
        )
    return num_repeats


def _read_table(source: Source) -> pa.Table:
    if source.suffix not in (".parquet", ".csv"):
        raise CorpusError(
            f"{source.address}: {source.suffix or 'no suffix'} given; expected a .parquet or .csv of sequences"
        )
    try:
        with source.stream() as (stream, _):
            if source.suffix == ".csv":
                return pa_csv.read_csv(stream)
            return pq.read_table(pa.BufferReader(stream.read()))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{source.address}: not a readable {source.suffix} ({reason(error)})") from error


def _integers(source: Source, table: pa.Table, name: str) -> NDArray[np.int64]:
    if name not in table.column_names:
        raise CorpusError(f"{source.address}: no column {name!r}; it has {', '.join(table.column_names)}")
    column: Any = table.column(name)
    if not pa.types.is_integer(column.type):
        raise CorpusError(f"{source.address}: column {name!r} holds {column.type}; expected integers")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise CorpusError(f"{source.address}, row {row}: {name} is null; expected an integer")
    return column.to_numpy().astype(np.int64)
