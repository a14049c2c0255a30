"""Counts of sequences by num_matched where nothing else is known of them: scores that were computed elsewhere.

What `matches` counts of scores made here and these cannot tell stays None: first mismatches, near-ties, duplicates.
Axes: R rows, N continuation lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.matches import NUM_BINS, MatchCounts, Stratum, StratumCounts, score_bin, sorted_strata
from mnemoscope.config import Grid
from mnemoscope.shards import num_matched

COLUMNS: Final = ("group", "context", "num_matched")
"""The columns of imported scores that are read here."""

IntArray = NDArray[np.int64]


def count_scores(tables: Iterable[pa.Table], grid: Grid) -> MatchCounts:
    """The counts of one model's imported scores, read once; cells of the grid that it does not have are left out."""
    tallies: dict[Stratum, IntArray] = {}
    for table in tables:
        for stratum, tally in _tally(table, grid):
            tallies[stratum] = tallies[stratum] + tally if stratum in tallies else tally
    return MatchCounts({stratum: _counts_of(tally, stratum) for stratum, tally in sorted_strata(tallies)})


def _tally(table: pa.Table, grid: Grid) -> Iterator[tuple[Stratum, IntArray]]:
    """Per stratum: sequences by num_matched, int64 [n+1]."""
    matched_RN = num_matched(table, grid)
    contexts_R = table.column("context").to_numpy()
    groups = table.column("group").cast(pa.string()).combine_chunks().dictionary_encode()
    codes_R = groups.indices.to_numpy()
    for code, group in enumerate(groups.dictionary.to_pylist()):
        for context in grid.contexts:
            chosen_RN = matched_RN[(codes_R == code) & (contexts_R == context)]
            for continuation, matched_R in zip(grid.continuations, chosen_RN.T, strict=True):
                known_R = matched_R[matched_R >= 0]
                if len(known_R):
                    tally = np.bincount(known_R, minlength=continuation + 1)
                    yield Stratum(group, None, context, continuation), tally


def _counts_of(tally: IntArray, stratum: Stratum) -> StratumCounts:
    counts: list[int] = tally.tolist()
    binned = [0] * NUM_BINS
    for matched, count in enumerate(counts):
        binned[score_bin(matched, stratum.continuation)] += count
    return StratumCounts(
        num_sequences=sum(counts), num_memorized=counts[-1], matched=tuple(counts), binned=tuple(binned)
    )
