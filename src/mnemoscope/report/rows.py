"""The rows of a result that a reader sees first: final models, one reference cell, scores that can occur."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.matches import score_bin

Record = dict[str, Any]


def records(table: pa.Table) -> list[Record]:
    """The rows as dictionaries, that the caller may change."""
    return table.to_pylist()


def last_checkpoints(rows: Iterable[Record]) -> list[Record]:
    """Rows of each source's last step: intermediate ones have a table and a figure of their own."""
    kept = list(rows)
    last: dict[str, tuple[float, str]] = {}
    for row in kept:
        step = math.inf if row["training_step"] is None else float(row["training_step"])
        if row["source"] not in last or step > last[row["source"]][0]:
            last[row["source"]] = step, row["model"]
    return [row for row in kept if last[row["source"]][1] == row["model"]]


def at_reference(result: FactorsResult, rows: Iterable[Record]) -> list[Record]:
    """Rows of the cell that the finding speaks of."""
    return [row for row in at_reference_context(result, rows) if row["continuation"] == _length(result, "continuation")]


def at_reference_context(result: FactorsResult, rows: Iterable[Record]) -> list[Record]:
    """Rows of the context that the finding speaks of."""
    return [row for row in rows if row["context"] == _length(result, "context")]


def reference_cell(result: FactorsResult) -> str:
    """The cell that the finding speaks of, in words."""
    return f"k = {_length(result, 'context')}, n = {_length(result, 'continuation')}"


def along_both_lengths(rows: Iterable[Record]) -> list[Record]:
    """Of a grid the two edges: every n at the shortest k, every k at the shortest n."""
    kept = list(rows)
    context = min((row["context"] for row in kept), default=0)
    continuation = min((row["continuation"] for row in kept), default=0)
    return [row for row in kept if row["context"] == context or row["continuation"] == continuation]


def occurring_bins(rows: Sequence[Record]) -> list[Record]:
    """Rows of score bins that some num_matched falls into: with n = 8 no score lies between 0 and 0.1."""
    possible = {n: {score_bin(m, n) for m in range(n + 1)} for n in {row["continuation"] for row in rows}}
    return [row for row in rows if row["bin"] in possible[row["continuation"]] or row["num_chosen"]]


def source_name(row: Record) -> str:
    """The training run that checkpoints belong to: the last part of their source."""
    return str(row["source"]).rstrip("/").rsplit("/", 1)[-1]


def range_label(low: int, high: int) -> str:
    """A class of repeats: one number, or both ends."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _length(result: FactorsResult, name: str) -> object:
    return result.finding.figures.get(name)


def at_longest(rows: list[Record]) -> list[Record]:
    """The rows at the longest context and continuation among them."""
    last = max(((row["context"], row["continuation"]) for row in rows), default=None)
    return [row for row in rows if (row["context"], row["continuation"]) == last]
