"""Stored scores reduced to integer counts by group, number of repeats, context and continuation.

Table by table in constant memory, but for the rows of duplicates, which intervals need by cluster; counts of parts
add up to the counts of the whole, so that parts may be counted anywhere.
Axes: R rows, N continuation lengths, D rows of clusters of two or more, b bytes of match bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.cluster_shares import ClassCounts, count_classes, count_leads
from mnemoscope.analyses.clusters import SequenceClusters
from mnemoscope.analyses.estimated_classes import ObservedDuplicates, estimate_scores
from mnemoscope.analyses.score_rows import DuplicatePlaces, ScoredMode, ScoreRows, read_rows
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.open_counts import OpenCounts
from mnemoscope.shards import num_known

NUM_BINS = 12
FRAGILE_MARGIN_LOGITS = 1e-3
"""A top-1 to top-2 margin that float32 arithmetic in another order (batch shape, kernel) can turn around."""
ROWS_AT_ONCE = 1 << 16

IntArray = NDArray[np.int64]
T = TypeVar("T")


class Stratum(NamedTuple):
    """Sequences counted together."""

    group: str
    """`member` or `control`."""
    num_repeats: int | None
    """How often the sequence stands in the training stream; None where unknown."""
    context: int
    """Tokens."""
    continuation: int
    """Tokens."""


class DuplicateScores(NamedTuple):
    """The rows of a stratum that have duplicates, in the order of reading."""

    clusters: IntArray
    """int64 [D]; this array and the next are shared by all continuations."""
    sequence_ids: IntArray
    """int64 [D]."""
    num_matched: NDArray[np.int32]
    """int32 [D]; 0 in mode `exact`, -1 where unknown in mode `two-phase`."""
    first_mismatch: NDArray[np.int32]
    """int32 [D]."""
    open_stratum: NDArray[np.int32] | None = None
    """int32 [D]: of open sequences their stratum, -1 of the others; None but in mode `two-phase`."""


@dataclass(frozen=True, kw_only=True)
class StratumCounts:
    """Integer counts of the sequences of a stratum; None where the source does not say."""

    num_sequences: int
    """Sequences scored."""
    num_memorized: int
    """Sequences whose whole continuation matched: M = 1."""
    num_fragile: int | None = None
    """Sequences with a margin under the threshold somewhere along the path."""
    num_fragile_memorized: int | None = None
    """Those of them that are memorized."""
    matched: tuple[int, ...] | None = None
    """Sequences by num_matched, 0 to n; None in mode `exact`, without those in `open` in mode `two-phase`."""
    open: OpenCounts | None = field(default=None, compare=False)
    """Sequences whose num_matched the first phase leaves open, in mode `two-phase`."""
    first_mismatch: tuple[int, ...] | None = None
    """Sequences by index of the first mismatch, 0 to n; n where there is none."""
    binned: tuple[int, ...] | None = None
    """Sequences by score bin; None in mode `exact`."""
    duplicates: tuple[DuplicateScores, ...] | None = field(default=None, compare=False, repr=False)
    """In parts, as they were read, and joined only when they are asked for; None where clusters are unknown."""

    def __add__(self, other: StratumCounts) -> StratumCounts:
        return StratumCounts(
            num_sequences=self.num_sequences + other.num_sequences,
            num_memorized=self.num_memorized + other.num_memorized,
            num_fragile=_add_known(self.num_fragile, other.num_fragile),
            num_fragile_memorized=_add_known(self.num_fragile_memorized, other.num_fragile_memorized),
            matched=_add_histograms(self.matched, other.matched),
            open=self.open if other.open is None else other.open if self.open is None else self.open + other.open,
            first_mismatch=_add_histograms(self.first_mismatch, other.first_mismatch),
            binned=_add_histograms(self.binned, other.binned),
            duplicates=_add_duplicates(self.duplicates, other.duplicates),
        )

    def by_class(self, name: Literal["num_matched", "first_mismatch"]) -> ClassCounts:
        """The sequences by num_matched or by first mismatch, with what intervals by cluster need."""
        histogram = self.matched if name == "num_matched" else self.first_mismatch
        rows_C = np.array(histogram or (), np.int64)
        if name == "num_matched" and self.open is not None:
            if not self.open.is_complete:
                return estimate_scores(rows_C, self.open, self._observed_duplicates())
            rows_C = rows_C + self.open.graded.sum(axis=0)
        if self.duplicates is None or histogram is None:
            return ClassCounts(rows_C, None, None)
        parts = [(part.clusters, part.sequence_ids, getattr(part, name)) for part in self.duplicates]
        nothing = np.zeros(0, np.int64)
        clusters_D, ids_D, codes_D = (np.concatenate(arrays) for arrays in zip((nothing,) * 3, *parts, strict=True))
        codes_D = codes_D.astype(np.int64)
        alone_C = rows_C - np.bincount(codes_D, minlength=len(rows_C))
        return count_classes(
            rows_C, alone_C + count_leads(clusters_D, ids_D, codes_D, len(rows_C)), clusters_D, codes_D
        )

    def _observed_duplicates(self) -> ObservedDuplicates | None:
        """The rows with duplicates, by num_matched; None where clusters are unknown."""
        if self.duplicates is None:
            return None
        nothing = np.zeros((4, 0), np.int64)
        parts = [(each.clusters, each.sequence_ids, each.num_matched, each.open_stratum) for each in self.duplicates]
        return ObservedDuplicates(*np.concatenate([nothing, *(np.array(part, np.int64) for part in parts)], axis=1))


@dataclass(frozen=True)
class MatchCounts:
    """Counts of one model by stratum; `+` merges parts, in any order."""

    strata: Mapping[Stratum, StratumCounts]

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return _sum_strata([*self.strata.items(), *other.strata.items()])

    def over_repeats(self) -> MatchCounts:
        """The same counts with the number of repeats left out: sequences of every number together."""
        return _sum_strata((stratum._replace(num_repeats=None), counts) for stratum, counts in self.strata.items())


class BinCounts(NamedTuple):
    """A published cell: counts of the 12 score bins, {0}, (0, 0.1), [0.1, 0.2) ... [0.9, 1), {1}."""

    context: int
    continuation: int
    counts: tuple[int, ...]


class MemorizedCount(NamedTuple):
    """A published cell of which only the number of memorized sequences is known."""

    context: int
    continuation: int
    num_memorized: int
    num_sequences: int


def score_bin(num_matched: int, continuation: int) -> int:
    """The score bin, 0 to 11, of num_matched hits in n tokens, in integers: floats misplace borders."""
    if num_matched == 0:
        return 0
    return NUM_BINS - 1 if num_matched == continuation else 1 + 10 * num_matched // continuation


def count_matches(
    tables: Iterable[pa.Table],
    grid: Grid,
    mode: ScoredMode,
    *,
    fragile_margin_logits: float = FRAGILE_MARGIN_LOGITS,
    clusters: Mapping[str, SequenceClusters] | None = None,
    probabilities: Sequence[float] = (),
) -> MatchCounts:
    """The counts of one model's `scores` tables, read once; `clusters` names the duplicates by group, `probabilities`
    those with which sequences of mode `two-phase` are graded.

    Raises ConfigError where a sequence has no cluster, StoreError where a row has a context outside the grid, lacks
    its match bits in mode `graded`, or has bits that contradict its first mismatch.
    """
    tallies: dict[Stratum, IntArray] = {}
    duplicates: defaultdict[Stratum, list[DuplicateScores]] = defaultdict(list)
    for table in tables:
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            rows = read_rows(table.slice(start, ROWS_AT_ONCE), grid, mode, clusters, probabilities)
            for index, continuation in enumerate(grid.continuations):
                fragile_R = rows.smallest_margin_RN[:, index] < fragile_margin_logits
                for stratum, tally, shared in _tally_continuation(rows, continuation, fragile_R):
                    tallies[stratum] = tallies[stratum] + tally if stratum in tallies else tally
                    if shared is not None:
                        duplicates[stratum].append(shared)
    return MatchCounts(
        {
            stratum: _counts_of(tally, stratum, mode, None if clusters is None else tuple(duplicates[stratum]))
            for stratum, tally in sorted_strata(tallies)
        }
    )


def from_bins(cells: Iterable[BinCounts | MemorizedCount], *, group: str = "member") -> MatchCounts:
    """Counts from published tables, which then pass through the same statistics as stored scores."""
    strata: dict[Stratum, StratumCounts] = {}
    for cell in cells:
        stratum = Stratum(group, None, cell.context, cell.continuation)
        if stratum in strata:
            raise ConfigError(f"k = {cell.context}, n = {cell.continuation} is given twice; expected each cell once")
        strata[stratum] = _published_counts(cell)
    return MatchCounts(dict(sorted_strata(strata)))


def sorted_strata(strata: Mapping[Stratum, T]) -> list[tuple[Stratum, T]]:
    """The strata by group (members first), context, continuation and number of repeats (unknown first)."""

    def rank(item: tuple[Stratum, T]) -> tuple[bool, str, int, int, int]:
        group, num_repeats, context, continuation = item[0]
        return group != "member", group, context, continuation, -1 if num_repeats is None else num_repeats

    return sorted(strata.items(), key=rank)


def _published_counts(cell: BinCounts | MemorizedCount) -> StratumCounts:
    if isinstance(cell, MemorizedCount):
        if not 0 <= cell.num_memorized <= cell.num_sequences:
            raise ConfigError(f"{cell}: expected num_memorized from 0 to num_sequences")
        return StratumCounts(num_sequences=cell.num_sequences, num_memorized=cell.num_memorized)
    if len(cell.counts) != NUM_BINS or min(cell.counts) < 0:
        raise ConfigError(f"{cell}: expected {NUM_BINS} counts of 0 or more, one per score bin")
    return StratumCounts(num_sequences=sum(cell.counts), num_memorized=cell.counts[-1], binned=tuple(cell.counts))


def _tally_continuation(
    rows: ScoreRows, continuation: int, fragile_R: NDArray[np.bool_]
) -> Iterable[tuple[Stratum, IntArray, DuplicateScores | None]]:
    """Per stratum: counts by num_matched (0 in `exact`), by first mismatch, fragile, fragile memorized, and in mode
    `two-phase` open ones and the graded of them by num_matched; duplicates.
    """
    size, num_strata = continuation + 1, len(rows.strata)
    first_R = np.minimum(rows.first_mismatch_R, continuation)
    memorized_R = first_R == continuation

    def histogram(value_R: IntArray, width: int, chosen: NDArray[np.bool_] | None = None) -> IntArray:
        place_R = rows.stratum_R * width + value_R
        place_R = place_R if chosen is None else place_R[chosen]
        return np.bincount(place_R, minlength=num_strata * width).reshape(num_strata, width)

    matched = np.zeros((num_strata, size), np.int64)
    num_matched_R, open_R = np.zeros_like(first_R), None
    if rows.matched_Rb is not None:
        num_matched_R = _num_matched(rows.matched_Rb, continuation)
        if rows.second is not None:
            decided_R = num_known(rows.first_mismatch_R, continuation)
            open_R = np.where(decided_R < 0, rows.second.stratum_R, -1)
            num_matched_R = np.where(rows.second.is_graded_R, num_matched_R, decided_R)
        if not np.array_equal(num_matched_R == continuation, memorized_R):
            raise StoreError(f"scores' match bits contradict first_mismatch at n = {continuation}; score again")
        matched = histogram(num_matched_R, size, None if open_R is None else open_R < 0)
    nothing_R = np.zeros_like(first_R)
    fragile = histogram(nothing_R, 1, fragile_R)
    parts = [matched, histogram(first_R, size), fragile, histogram(nothing_R, 1, fragile_R & memorized_R)]
    if open_R is not None and rows.second is not None:
        num_open, is_open_R = rows.second.num_probabilities, open_R >= 0
        cell_R = open_R * size + num_matched_R
        parts += [
            histogram(open_R, num_open, is_open_R),
            histogram(cell_R, num_open * size, is_open_R & (num_matched_R >= 0)),
        ]
    for place, (group, num_repeats, context) in enumerate(rows.strata):
        tally = np.concatenate([part[place] for part in parts])
        shared = _scores_of(rows.duplicates[place], num_matched_R, first_R, open_R)
        yield Stratum(group, num_repeats, context, continuation), tally, shared


def _scores_of(
    shared: DuplicatePlaces | None, num_matched_R: IntArray, first_R: IntArray, open_R: IntArray | None
) -> DuplicateScores | None:
    if shared is None:
        return None
    values = (num_matched_R, first_R) if open_R is None else (num_matched_R, first_R, open_R)
    scores = (value_R[shared.places].astype(np.int32) for value_R in values)
    return DuplicateScores(shared.clusters, shared.sequence_ids, *scores)


def _num_matched(matched_Rb: NDArray[np.uint8], continuation: int) -> IntArray:
    """Set bits among the first n; the mask cuts off longer continuations and the padding of the last byte."""
    mask_b = np.packbits(np.arange(matched_Rb.shape[1] * 8) < continuation)
    return np.bitwise_count(matched_Rb & mask_b).sum(axis=1, dtype=np.int64)


def _counts_of(
    tally: IntArray, stratum: Stratum, mode: ScoredMode, duplicates: tuple[DuplicateScores, ...] | None
) -> StratumCounts:
    size = stratum.continuation + 1
    values: list[int] = tally.tolist()
    matched, first_mismatch = tuple(values[:size]), tuple(values[size : 2 * size])
    binned = [0] * NUM_BINS
    for num_matched, count in enumerate(matched):
        binned[score_bin(num_matched, stratum.continuation)] += count
    return StratumCounts(
        num_sequences=sum(first_mismatch),
        num_memorized=first_mismatch[-1],
        num_fragile=values[2 * size],
        num_fragile_memorized=values[2 * size + 1],
        matched=None if mode == "exact" else matched,
        open=_open_counts(tally[2 * size + 2 :], size) if mode == "two-phase" else None,
        first_mismatch=first_mismatch,
        binned=tuple(binned) if mode == "graded" else None,
        duplicates=duplicates,
    )


def _open_counts(tally: IntArray, num_scores: int) -> OpenCounts:
    num_probabilities = len(tally) // (num_scores + 1)
    graded = tally[num_probabilities:].reshape(num_probabilities, num_scores)
    return OpenCounts(tally[:num_probabilities], graded)


def _sum_strata(items: Iterable[tuple[Stratum, StratumCounts]]) -> MatchCounts:
    parts: defaultdict[Stratum, list[StratumCounts]] = defaultdict(list)
    for stratum, counts in items:
        parts[stratum].append(counts)
    total = {stratum: _sum_counts(counts) for stratum, counts in parts.items()}
    return MatchCounts(dict(sorted_strata(total)))


def _sum_counts(counts: list[StratumCounts]) -> StratumCounts:
    total = counts[0]
    for part in counts[1:]:
        total += part
    return total


def _add_known(left: int | None, right: int | None) -> int | None:
    """Refuses to add what is known to what is not: half a count would pass for a whole one."""
    if left is None or right is None:
        if left is not right:
            raise ConfigError("counts with and without fragile rows cannot be added; expected one kind of source")
        return None
    return left + right


def _add_histograms(left: tuple[int, ...] | None, right: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if left is None or right is None:
        if left is not right:
            raise ConfigError("counts of modes 'exact' and 'graded' cannot be added; expected one mode")
        return None
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _add_duplicates(
    left: tuple[DuplicateScores, ...] | None, right: tuple[DuplicateScores, ...] | None
) -> tuple[DuplicateScores, ...] | None:
    if left is None or right is None:
        if left is not right:
            raise ConfigError("counts with and without clusters cannot be added; expected one kind")
        return None
    return left + right
