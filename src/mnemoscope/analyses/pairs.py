"""Two runs' stored scores, read side by side and reduced to joint counts of num_matched; parts add up to the whole.

Table by table in constant memory, but for the rows of duplicate clusters, which intervals need by cluster.
Axes: S sequences, C contexts, N continuations, D rows of clusters of two or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.agreement import NUM_CLASSES, class_of_scores, merge_scores
from mnemoscope.analyses.cluster_shares import ClassCounts, count_classes
from mnemoscope.analyses.clusters import Membership, SequenceClusters, clusters_of
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.identity import RunIdentity
from mnemoscope.shards import num_matched

ROWS_AT_ONCE = 1 << 16
COLUMNS = ("sequence_id", "group", "context", "offset", "num_repeats", "first_mismatch", "matched")
"""The columns of `scores` that are read here."""
IMPORTED_COLUMNS = ("sequence_id", "group", "context", "num_repeats", "num_matched")
"""The same of imported scores, of which neither windows nor match bits are known."""

IntArray = NDArray[np.int64]


class PairedCell(NamedTuple):
    """Which cell of the one run is set against which of the other, in tokens."""

    context_from: int
    continuation_from: int
    context_to: int
    continuation_to: int


class PairStratum(NamedTuple):
    """Sequences counted together."""

    group: str
    cell: PairedCell


class DuplicateRows(NamedTuple):
    """The rows of clusters of two or more sequences."""

    clusters: IntArray
    """int64 [D]; one array for all cells, which is what memory goes to."""
    codes: NDArray[np.uint8]
    """uint8 [D]: class in the one run x 6 + class in the other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTally:
    """Joint counts of a stratum, each int64 [n_from+1, n_to+1] by num_matched in the one run and the other."""

    rows: IntArray
    """Sequences scored."""
    copies: IntArray | None
    """Copies in the training stream, the sum of num_repeats; None where it is not known of every row."""
    unique: IntArray | None
    """Clusters of duplicates, each by its first row; None where clusters were not given."""
    duplicates: tuple[DuplicateRows, ...] | None
    """In parts, as they were read, and joined only when they are asked for; None where clusters were not given."""

    def __add__(self, other: PairTally) -> PairTally:
        if (self.unique is None) != (other.unique is None):
            raise ConfigError("counts with and without clusters cannot be added; expected one kind")
        copies = None if self.copies is None or other.copies is None else self.copies + other.copies
        added = replace(self, rows=self.rows + other.rows, copies=copies)
        if self.duplicates is None or other.duplicates is None:
            return added
        unique = _known(self.unique) + _known(other.unique)
        return replace(added, unique=unique, duplicates=self.duplicates + other.duplicates)

    def class_counts(self) -> ClassCounts:
        """The sequences by class in the one run x 6 + class in the other."""
        unique = None if self.unique is None else merge_scores(self.unique).ravel()
        nothing = DuplicateRows(np.zeros(0, np.int64), np.zeros(0, np.uint8))
        parts = zip(nothing, *(self.duplicates or ()), strict=True)
        clusters, codes = (np.concatenate(arrays).astype(np.int64) for arrays in parts)
        return count_classes(merge_scores(self.rows).ravel(), unique, clusters, codes)


@dataclass(frozen=True)
class PairCounts:
    """Joint counts of two runs by stratum; `+` merges parts, in any order."""

    strata: Mapping[PairStratum, PairTally]

    def __add__(self, other: PairCounts) -> PairCounts:
        total = dict(self.strata)
        for stratum, tally in other.strata.items():
            total[stratum] = total[stratum] + tally if stratum in total else tally
        return PairCounts(dict(sorted(total.items(), key=_rank)))


def same_cells(grid: Grid) -> list[PairedCell]:
    """Each cell with itself: for two models, two checkpoints, or a run and its twin."""
    return [PairedCell(k, n, k, n) for k in grid.contexts for n in grid.continuations]


def context_cells(grid: Grid) -> list[PairedCell]:
    """Each context with the next longer one, at the same continuation: for a run with itself."""
    steps = pairwise(grid.contexts)
    return [PairedCell(short, n, long, n) for short, long in steps for n in grid.continuations]


def continuation_cells(grid: Grid) -> list[PairedCell]:
    """Each continuation with the next longer one, at the same context: for a run with itself."""
    steps = list(pairwise(grid.continuations))
    return [PairedCell(k, short, k, long) for k in grid.contexts for short, long in steps]


def check_comparable(one: RunIdentity, other: RunIdentity) -> None:
    """ConfigError, naming what differs, where two runs are not over the same sequences and grid in mode graded."""
    differences = [text for text in one.study_differences(other) if not text.startswith("shard_rows:")]
    if differences:
        raise ConfigError(
            f"the runs cannot be compared ({'; '.join(differences)}); expected the same corpora, selection and grid: "
            "score both in one study"
        )
    if one.mode == "exact":
        raise ConfigError("the runs have no scores below 1 (mode 'exact'); score in mode 'graded' to compare levels")


def count_pairs(
    tables_from: Iterable[pa.Table],
    tables_to: Iterable[pa.Table],
    *,
    grid: Grid,
    cells: Sequence[PairedCell],
    clusters: Mapping[str, SequenceClusters] | None = None,
) -> PairCounts:
    """The joint counts of two runs' `scores` tables, read once, however each is cut into tables.

    `clusters` names the duplicates by group. StoreError, naming the row, where the tables do not tell of the
    same sequences in the same order, lack match bits or have another grid.
    """
    _check_cells(cells, grid)
    total: dict[PairStratum, PairTally] = {}
    start = 0
    for one, other in _side_by_side(tables_from, tables_to, len(grid.contexts)):
        _check_same_sequences(one, other, grid, start)
        for stratum, tally in _tally(one, other, grid, cells, clusters):
            total[stratum] = total[stratum] + tally if stratum in total else tally
        start += one.num_rows
    return PairCounts(dict(sorted(total.items(), key=_rank)))


def _rank(item: tuple[PairStratum, PairTally]) -> tuple[bool, str, PairedCell]:
    group, cell = item[0]
    return group != "member", group, cell


def _known(counts: IntArray | None) -> IntArray:
    assert counts is not None
    return counts


def _check_cells(cells: Sequence[PairedCell], grid: Grid) -> None:
    for cell in cells:
        contexts, continuations = {cell.context_from, cell.context_to}, {cell.continuation_from, cell.continuation_to}
        if not (contexts <= set(grid.contexts) and continuations <= set(grid.continuations)):
            raise ConfigError(f"{cell}: outside the grid; expected contexts {grid.contexts}, n {grid.continuations}")


def _side_by_side(
    tables_from: Iterable[pa.Table], tables_to: Iterable[pa.Table], num_contexts: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Pieces of equal length, whole sequences each; StoreError where one side has more rows."""
    left, right = _pieces(tables_from), _pieces(tables_to)
    at_once = max(ROWS_AT_ONCE // num_contexts, 1) * num_contexts
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        size = min(one.num_rows, other.num_rows, at_once)
        yield one.slice(0, size), other.slice(0, size)
        one = one.slice(size) if size < one.num_rows else next(left, None)
        other = other.slice(size) if size < other.num_rows else next(right, None)
    if one is not None or other is not None:
        longer = "first" if one is not None else "second"
        raise StoreError(f"the {longer} run has more rows than the other; expected two runs over the same sequences")


def _pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    return (table for table in tables if table.num_rows)


def _check_same_sequences(one: pa.Table, other: pa.Table, grid: Grid, start: int) -> None:
    expected = np.resize(np.asarray(grid.contexts), one.num_rows)
    for table in (one, other):
        wrong = np.flatnonzero(table.column("context").to_numpy() != expected)
        if wrong.size or table.num_rows % len(grid.contexts):
            row = start + int(wrong[0] if wrong.size else table.num_rows)
            raise StoreError(f"row {row}: not in the order of the contexts {list(grid.contexts)}; expected that grid")
    for name in ("sequence_id", "offset", "group"):
        if name in one.column_names and name in other.column_names:
            here, there = (table.column(name).to_numpy() for table in (one, other))
            wrong = np.flatnonzero(here != there)
            if wrong.size:
                row = int(wrong[0])
                raise StoreError(
                    f"row {start + row}: {name} {here[row]} in the first run, {there[row]} in the second; "
                    "expected two runs over the same sequences in the same order"
                )


def _tally(
    one: pa.Table,
    other: pa.Table,
    grid: Grid,
    cells: Sequence[PairedCell],
    clusters: Mapping[str, SequenceClusters] | None,
) -> Iterator[tuple[PairStratum, PairTally]]:
    num_contexts, num_lengths = len(grid.contexts), len(grid.continuations)
    scores_SCN, scores_other_SCN = (
        num_matched(table, grid).reshape(-1, num_contexts, num_lengths) for table in (one, other)
    )
    group_S = one.column("group").to_numpy()[::num_contexts]
    ids_S = one.column("sequence_id").to_numpy()[::num_contexts]
    repeats = one.column("num_repeats")
    repeats_S = None if repeats.null_count else repeats.to_numpy().astype(np.int64)[::num_contexts]
    for group in np.unique(group_S.astype(str)).tolist():
        chosen_S = np.flatnonzero(group_S == group)
        known = None if clusters is None else _duplicates_among(clusters_of(clusters, group).look_up(ids_S[chosen_S]))
        for cell in cells:
            matched_S = _at(scores_SCN, chosen_S, grid, cell.context_from, cell.continuation_from)
            matched_other_S = _at(scores_other_SCN, chosen_S, grid, cell.context_to, cell.continuation_to)
            if min(matched_S.min(), matched_other_S.min()) < 0:  # an import without this cell
                continue
            weights_S = None if repeats_S is None else repeats_S[chosen_S]
            yield PairStratum(group, cell), _tally_cell(matched_S, matched_other_S, cell, weights_S, known)


def _at(scores_SCN: IntArray, chosen_S: IntArray, grid: Grid, context: int, continuation: int) -> IntArray:
    return scores_SCN[chosen_S, grid.contexts.index(context), grid.continuations.index(continuation)]


class _Known(NamedTuple):
    """Which of some sequences stand for their clusters, which have duplicates, and the clusters of those."""

    leads_S: NDArray[np.bool_]
    shared_D: IntArray
    cluster_D: IntArray


def _duplicates_among(membership: Membership) -> _Known:
    shared_D = np.flatnonzero(~membership.alone_S)
    return _Known(membership.leads_S, shared_D, membership.cluster_S[shared_D])


def _tally_cell(
    one_S: IntArray, other_S: IntArray, cell: PairedCell, weights_S: IntArray | None, known: _Known | None
) -> PairTally:
    shape = cell.continuation_from + 1, cell.continuation_to + 1
    place_S = one_S * shape[1] + other_S

    def joint(chosen_S: IntArray, weights_S: IntArray | None = None) -> IntArray:
        counts = np.bincount(chosen_S, weights=weights_S, minlength=shape[0] * shape[1])
        return counts.astype(np.int64).reshape(shape)

    copies = None if weights_S is None else joint(place_S, weights_S)
    if known is None:
        return PairTally(rows=joint(place_S), copies=copies, unique=None, duplicates=None)
    from_D, to_D = one_S[known.shared_D], other_S[known.shared_D]
    codes_D = class_of_scores(shape[0] - 1)[from_D] * NUM_CLASSES + class_of_scores(shape[1] - 1)[to_D]
    duplicates = (DuplicateRows(known.cluster_D, codes_D.astype(np.uint8)),) if len(codes_D) else ()
    unique = joint(place_S[known.leads_S])
    return PairTally(rows=joint(place_S), copies=copies, unique=unique, duplicates=duplicates)
