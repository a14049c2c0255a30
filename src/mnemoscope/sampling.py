"""Stored scores -> a probability sample of sequences, stratified by the number of matched tokens.

Each stratum keeps the sequences whose hash under the seed is smallest: a simple random sample without replacement
that needs one pass, constant memory, and gives the same sequences however the scores are sharded. The design weight
of a sampled sequence is the number of sequences that it stands for, its stratum's size over its sample's.

Axes: R rows of a table, S sampled sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.corpus.draws import hash_counters
from mnemoscope.shards import matched_bits


class Sample(NamedTuple):
    """Sampled sequences of one group at one context, by num_matched and then by sequence_id; int64 [S] each."""

    sequence_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    num_repeats: NDArray[np.int64]
    """-1 where unknown."""
    num_matched: NDArray[np.int64]
    """Matches among the first n of the reference continuation: the stratum."""
    num_stratum: NDArray[np.int64]
    """Sequences in the stratum, sampled or not."""
    design_weight: NDArray[np.float64]
    """num_stratum over the stratum's sample."""

    def part(self, rows: slice) -> Sample:
        """Some of its sequences."""
        return Sample(
            sequence_id=self.sequence_id[rows],
            offset=self.offset[rows],
            num_repeats=self.num_repeats[rows],
            num_matched=self.num_matched[rows],
            num_stratum=self.num_stratum[rows],
            design_weight=self.design_weight[rows],
        )


class _Candidates(NamedTuple):
    sequence_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    num_repeats: NDArray[np.int64]
    num_matched: NDArray[np.int64]
    draw: NDArray[np.uint64]

    @classmethod
    def none(cls) -> _Candidates:
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, nothing, np.zeros(0, np.uint64))

    def joined(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            np.concatenate([self.sequence_id, other.sequence_id]),
            np.concatenate([self.offset, other.offset]),
            np.concatenate([self.num_repeats, other.num_repeats]),
            np.concatenate([self.num_matched, other.num_matched]),
            np.concatenate([self.draw, other.draw]),
        )

    def at(self, rows: NDArray[np.int64]) -> _Candidates:
        return _Candidates(
            self.sequence_id[rows], self.offset[rows], self.num_repeats[rows], self.num_matched[rows], self.draw[rows]
        )


def draw_sample(
    tables: Iterable[pa.Table], *, context: int, continuation: int, n_max: int, per_stratum: int, seed: int
) -> Sample:
    """A sample of at most `per_stratum` sequences for each num_matched 0 .. n, from one group's `scores` tables."""
    sizes = np.zeros(continuation + 1, np.int64)
    kept = _Candidates.none()
    for table in tables:
        rows = _read(table, context=context, continuation=continuation, n_max=n_max, seed=seed)
        sizes += np.bincount(rows.num_matched, minlength=continuation + 1)
        kept = _smallest(kept.joined(rows), per_stratum)
    order = np.lexsort((kept.sequence_id, kept.num_matched))
    num_matched = kept.num_matched[order]
    num_sampled = np.bincount(num_matched, minlength=continuation + 1)
    return Sample(
        sequence_id=kept.sequence_id[order],
        offset=kept.offset[order],
        num_repeats=kept.num_repeats[order],
        num_matched=num_matched,
        num_stratum=sizes[num_matched],
        design_weight=sizes[num_matched] / num_sampled[num_matched],
    )


def _read(table: pa.Table, *, context: int, continuation: int, n_max: int, seed: int) -> _Candidates:
    table = table.filter(pa.array(table["context"].to_numpy() == context))
    sequence_id = table["sequence_id"].to_numpy().astype(np.int64)
    return _Candidates(
        sequence_id=sequence_id,
        offset=table["offset"].to_numpy().astype(np.int64),
        num_repeats=table["num_repeats"].cast(pa.int64()).fill_null(-1).to_numpy(),
        num_matched=matched_bits(table, n_max)[:, :continuation].sum(axis=1, dtype=np.int64),
        draw=hash_counters(sequence_id, seed=seed),
    )


def smallest_draws(
    sequence_id: NDArray[np.int64], draw: NDArray[np.uint64], stratum: NDArray[np.int64], *, per_stratum: int
) -> NDArray[np.int64]:
    """The rows with the smallest draws of each stratum, by stratum and draw; ties, if any, go by sequence_id."""
    order = np.lexsort((sequence_id, draw, stratum))
    _, first, count = np.unique(stratum[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, count)
    return order[place < per_stratum]


def _smallest(rows: _Candidates, per_stratum: int) -> _Candidates:
    return rows.at(smallest_draws(rows.sequence_id, rows.draw, rows.num_matched, per_stratum=per_stratum))
