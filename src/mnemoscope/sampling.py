"""Stored scores -> a probability sample of sequences, stratified by the number of matched tokens.

Each stratum keeps the sequences whose hash under the seed is smallest: a simple random sample without replacement
that needs one pass, constant memory, and gives the same sequences however the scores are sharded. The design weight
of a sampled sequence is the number of sequences that it stands for, its stratum's size over its sample's.

In mode `two-phase` those are drawn from whose num_matched is known: all where the first mismatch decides it, else the
graded, each of which stands for some itself (see `open_counts`). A stratum's size is then estimated, and sampled
sequences share it by these weights.

Axes: R rows of a table, S sampled sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.config import Grid
from mnemoscope.corpus.draws import hash_counters
from mnemoscope.open_counts import OpenCounts, count_open, open_rows
from mnemoscope.shards import num_known, num_matched


class Sample(NamedTuple):
    """Sampled sequences of one group at one context, by num_matched and then by sequence_id; int64 [S] each."""

    sequence_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    num_repeats: NDArray[np.int64]
    """-1 where unknown."""
    num_matched: NDArray[np.int64]
    """Matches among the first n of the reference continuation: the stratum."""
    num_stratum: NDArray[np.int64]
    """Sequences in the stratum, sampled or not; an estimate, rounded, in mode `two-phase`."""
    design_weight: NDArray[np.float64]
    """The stratum's size over its sample's, in mode `two-phase` by the weights of its sequences."""

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
    """-1 where unknown; such rows are no candidates."""
    open_stratum: NDArray[np.int64]
    """From what it was graded where it is open, else -1."""
    draw: NDArray[np.uint64]

    @classmethod
    def none(cls) -> _Candidates:
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, nothing, nothing, np.zeros(0, np.uint64))

    def joined(self, other: _Candidates) -> _Candidates:
        joined: list[NDArray[Any]] = [np.concatenate(both) for both in zip(self, other, strict=True)]
        return _Candidates(*joined)

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> _Candidates:
        chosen: list[NDArray[Any]] = [values[rows] for values in self]
        return _Candidates(*chosen)


def draw_sample(
    tables: Iterable[pa.Table],
    *,
    context: int,
    grid: Grid,
    continuation: int,
    per_stratum: int,
    seed: int,
    probabilities: Sequence[float] = (),
) -> Sample:
    """A sample of at most `per_stratum` sequences for each num_matched 0 .. n, from one group's `scores` tables.

    `probabilities` are those with which sequences of mode `two-phase` are graded.
    """
    place, num_scores = grid.continuations.index(continuation), continuation + 1
    num_strata = len(set(probabilities))
    decided = np.zeros(num_scores, np.int64)
    counts = OpenCounts(np.zeros(num_strata, np.int64), np.zeros((num_strata, num_scores), np.int64))
    kept = _Candidates.none()
    for table in tables:
        rows = _read(table, grid, context=context, place=place, seed=seed, probabilities=probabilities)
        decided += np.bincount(rows.num_matched[rows.open_stratum < 0], minlength=num_scores)
        counts += count_open(rows.open_stratum, rows.num_matched, num_strata=num_strata, num_places=num_scores)
        kept = _smallest(kept.joined(rows.at(rows.num_matched >= 0)), per_stratum)
    kept = kept.at(np.lexsort((kept.sequence_id, kept.num_matched)))
    counts = counts.merged(max(num_strata, 1))
    sizes = counts.estimate(decided)
    weight = np.where(kept.open_stratum < 0, 1.0, np.append(counts.weights, 1.0)[kept.open_stratum])
    num_sampled = np.bincount(kept.num_matched, weights=weight, minlength=num_scores)
    return Sample(
        sequence_id=kept.sequence_id,
        offset=kept.offset,
        num_repeats=kept.num_repeats,
        num_matched=kept.num_matched,
        num_stratum=np.rint(sizes).astype(np.int64)[kept.num_matched],
        design_weight=sizes[kept.num_matched] / num_sampled[kept.num_matched] * weight,
    )


def _read(
    table: pa.Table, grid: Grid, *, context: int, place: int, seed: int, probabilities: Sequence[float]
) -> _Candidates:
    table = table.filter(pa.array(table["context"].to_numpy() == context))
    sequence_id = table["sequence_id"].to_numpy().astype(np.int64)
    open_stratum = np.full(len(sequence_id), -1)
    if probabilities:
        decided = num_known(table["first_mismatch"].to_numpy(), grid.continuations[place])
        open_stratum = np.where(decided < 0, open_rows(table, probabilities).stratum_R, -1)
    return _Candidates(
        sequence_id=sequence_id,
        offset=table["offset"].to_numpy().astype(np.int64),
        num_repeats=table["num_repeats"].cast(pa.int64()).fill_null(-1).to_numpy(),
        num_matched=num_matched(table, grid)[:, place],
        open_stratum=open_stratum,
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
