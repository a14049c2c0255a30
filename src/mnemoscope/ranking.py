"""A ranking of sequences by the risk that a model recites them, and what it cost to know.

Costs are token forwards: tokens that go through the network.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, final

import pyarrow as pa
from pyarrow import csv

from mnemoscope.errors import ConfigError
from mnemoscope.files import write_atomically
from mnemoscope.store import encode_table

COLUMNS: Final[dict[str, tuple[pa.DataType, str]]] = {
    "sequence_id": (pa.int64(), "row of the corpus, from 0"),
    "offset": (pa.int64(), "tokens from the start of the row to the context"),
    "full_match_probability": (pa.float32(), "that the whole continuation will be recited"),
    "expected_matched": (pa.float32(), "tokens of the continuation that will match"),
}


class Forwards(NamedTuple):
    """Token forwards of N sequences: what prediction spends, and what it saves."""

    predicted: int
    """k each: the context alone."""
    exact: int
    """k + n - 1 each: the teacher-forced pass of mode `exact`, from which every full match is read. Plain `generate()`
    spends as many, in n steps one after the other."""

    @property
    def saved_share(self) -> float:
        """Of the forwards of the cheapest way to decide the same by decoding."""
        return 1 - self.predicted / self.exact if self.exact else 0.0


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """Sequences by falling risk."""

    table: pa.Table
    """`COLUMNS`, one row per sequence; of equal risk, in the corpus's order."""
    label: str
    """The model whose recitation is predicted."""
    context: int
    continuation: int
    forwards: Forwards
    num_short: int
    """Rows that are shorter than the context, and left out."""


def count_forwards(num_sequences: int, *, context: int, continuation: int) -> Forwards:
    """What reading contexts costs, and what deciding the same by decoding would cost."""
    return Forwards(predicted=num_sequences * context, exact=num_sequences * (context + continuation - 1))


def save_ranking(ranking: Ranking, path: Path) -> None:
    """Write the ranking as Parquet, or as CSV where the name says so; ConfigError for another ending."""
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{path}: expected a name that ends in .parquet or .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        write_atomically(path, encode_table(ranking.table))
        return
    content = io.BytesIO()
    csv.write_csv(ranking.table, content)
    write_atomically(path, content.getvalue())
