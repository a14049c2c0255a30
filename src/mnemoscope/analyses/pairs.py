"""Two runs' stored scores, read side by side and reduced to joint counts of num_matched; parts add up to the whole.

Table by table in constant memory, but for the rows of duplicate clusters, which intervals need by cluster.
Axes: S sequences, C contexts, N continuations, D rows of clusters of two or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.agreement import NUM_CLASSES, class_of_scores, merge_scores
from mnemoscope.analyses.cluster_shares import count_classes
from mnemoscope.analyses.clusters import Membership, SequenceClusters, clusters_of
from mnemoscope.analyses.pair_phases import (
    NUM_KINDS,
    ObservedRows,
    OpenPairs,
    OpenSides,
    ResolvedTally,
    open_sides,
    resolve,
)
from mnemoscope.analyses.side_by_side import check_same_sequences, side_by_side
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError
from mnemoscope.identity import RunIdentity
from mnemoscope.open_counts import OpenCounts, count_open, open_rows
from mnemoscope.shards import num_known, num_matched

COLUMNS = ("sequence_id", "group", "context", "offset", "num_repeats", "first_mismatch", "matched")
"""The columns of `scores` that are read here."""
IMPORTED_COLUMNS = ("sequence_id", "group", "context", "num_repeats", "num_matched")
"""The same of imported scores, of which neither windows nor match bits are known."""

IntArray = NDArray[np.int64]
T = TypeVar("T")


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
    strata: NDArray[np.int8] | None = None
    """int8 [D]: of open sequences their stratum, -1 of the others; None but in mode `two-phase`, where rows whose class
    is not known are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTally:
    """Joint counts of a stratum, each int64 [n_from+1, n_to+1] by num_matched in the one run and the other; in mode
    `two-phase` without those in `open`.
    """

    rows: IntArray
    """Sequences scored."""
    copies: IntArray | None
    """Copies in the training stream, the sum of num_repeats; None where it is not known of every row."""
    unique: IntArray | None
    """Clusters of duplicates, each by its first row; None where clusters were not given."""
    duplicates: tuple[DuplicateRows, ...] | None
    """In parts, as they were read, and joined only when they are asked for; None where clusters were not given."""
    open: OpenPairs | None = None
    """Sequences that are open on one side or both, in mode `two-phase`."""
    memorized: PairTally | None = None
    """The same by full match or not, 1 or 0, of which the first phase of mode `two-phase` leaves nothing open; None in
    other modes.
    """

    def __add__(self, other: PairTally) -> PairTally:
        if (self.unique is None) != (other.unique is None):
            raise ConfigError("counts with and without clusters cannot be added; expected one kind")
        copies = None if self.copies is None or other.copies is None else self.copies + other.copies
        added = replace(self, rows=self.rows + other.rows, copies=copies)
        if self.open is not None:
            both = _known(self.memorized) + _known(other.memorized)
            added = replace(added, open=self.open + _known(other.open), memorized=both)
        if self.duplicates is None or other.duplicates is None:
            return added
        unique = _known(self.unique) + _known(other.unique)
        return replace(added, unique=unique, duplicates=self.duplicates + other.duplicates)

    def resolved(self) -> ResolvedTally | None:
        """What is counted, or estimated where not all is graded; None where too little is to say anything."""
        if self.open is None or not self.open.rows.is_complete:
            observed = self._observed_rows()
            if self.open is not None:
                memorized = None if self.memorized is None else self.memorized.resolved()
                return resolve(self.rows, self.copies, self.unique, self.open, observed, memorized=memorized)
            unique = None if self.unique is None else merge_scores(self.unique).ravel()
            classes = count_classes(merge_scores(self.rows).ravel(), unique, observed.clusters_D, observed.codes_D)
            return ResolvedTally(self.rows, self.copies, self.unique, classes)
        return self._closed(self.open).resolved()

    def _closed(self, whole: OpenPairs) -> PairTally:
        """The same where all open sequences are graded, with them counted like the others."""

        def total(decided: IntArray | None, graded: IntArray | None) -> IntArray | None:
            if decided is None or graded is None:
                return None
            return decided + graded.sum(axis=0).reshape(decided.shape)

        return PairTally(
            rows=_known(total(self.rows, whole.rows.graded)),
            copies=total(self.copies, whole.copies),
            unique=total(self.unique, None if whole.unique is None else whole.unique.graded),
            duplicates=self.duplicates,
        )

    def _observed_rows(self) -> ObservedRows:
        nothing = np.zeros((3, 0), np.int64)
        parts = [(each.clusters, each.codes, _strata_of(each)) for each in self.duplicates or ()]
        return ObservedRows(*np.concatenate([nothing, *(np.array(part, np.int64) for part in parts)], axis=1))


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
    probabilities: Sequence[float] = (),
) -> PairCounts:
    """The joint counts of two runs' `scores` tables, read once, however each is cut into tables.

    `clusters` names the duplicates by group, `probabilities` those with which sequences of mode `two-phase` are graded.
    StoreError, naming the row, where the tables do not tell of the
    same sequences in the same order, lack match bits or have another grid.
    """
    _check_cells(cells, grid)
    total: dict[PairStratum, PairTally] = {}
    start = 0
    for one, other in side_by_side(tables_from, tables_to, len(grid.contexts)):
        check_same_sequences(one, other, grid, start)
        for stratum, tally in _tally(one, other, grid, cells, clusters=clusters, probabilities=probabilities):
            total[stratum] = total[stratum] + tally if stratum in total else tally
        start += one.num_rows
    return PairCounts(dict(sorted(total.items(), key=_rank)))


def _rank(item: tuple[PairStratum, PairTally]) -> tuple[bool, str, PairedCell]:
    group, cell = item[0]
    return group != "member", group, cell


def _known(counts: T | None) -> T:
    assert counts is not None
    return counts


def _strata_of(rows: DuplicateRows) -> NDArray[np.int8]:
    return np.full(len(rows.codes), -1, np.int8) if rows.strata is None else rows.strata


def _check_cells(cells: Sequence[PairedCell], grid: Grid) -> None:
    for cell in cells:
        contexts, continuations = {cell.context_from, cell.context_to}, {cell.continuation_from, cell.continuation_to}
        if not (contexts <= set(grid.contexts) and continuations <= set(grid.continuations)):
            raise ConfigError(f"{cell}: outside the grid; expected contexts {grid.contexts}, n {grid.continuations}")


def _tally(
    one: pa.Table,
    other: pa.Table,
    grid: Grid,
    cells: Sequence[PairedCell],
    *,
    clusters: Mapping[str, SequenceClusters] | None,
    probabilities: Sequence[float],
) -> Iterator[tuple[PairStratum, PairTally]]:
    num_contexts = len(grid.contexts)
    from_, to = (_read_side(table, grid, probabilities) for table in (one, other))
    sides = _Sides(from_, to, len(set(probabilities)))
    group_S = one.column("group").to_numpy()[::num_contexts]
    ids_S = one.column("sequence_id").to_numpy()[::num_contexts]
    repeats = one.column("num_repeats")
    repeats_S = None if repeats.null_count else repeats.to_numpy().astype(np.int64)[::num_contexts]
    for group in np.unique(group_S.astype(str)).tolist():
        chosen_S = np.flatnonzero(group_S == group)
        known = None if clusters is None else _duplicates_among(clusters_of(clusters, group).look_up(ids_S[chosen_S]))
        for cell in cells:
            where = sides.at(chosen_S, grid, cell)
            if not probabilities and where.place_S.min() < 0:  # an import without this cell
                continue
            weights_S = None if repeats_S is None else repeats_S[chosen_S]
            tally = _tally_cell(where, cell, weights_S, known, sides.num_probabilities)
            if probabilities:
                whole = sides.full_at(chosen_S, grid, cell)
                full = cell._replace(continuation_from=1, continuation_to=1)
                tally = replace(tally, memorized=_tally_cell(whole, full, weights_S, known, 0))
            yield PairStratum(group, cell), tally


class _Side(NamedTuple):
    """What a run says of S sequences; -1 for unknown scores."""

    scores_SCN: IntArray
    decided_SCN: IntArray
    """By the first mismatch alone; the scores themselves but in mode `two-phase`."""
    probability_S: IntArray
    """Index of the probability with which it is graded."""

    def at(
        self, chosen_S: IntArray, grid: Grid, context: int, continuation: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Scores, decided scores and probabilities of some sequences at a cell."""
        place = chosen_S, grid.contexts.index(context), grid.continuations.index(continuation)
        return self.scores_SCN[place], self.decided_SCN[place], self.probability_S[chosen_S]


class _Sides(NamedTuple):
    one: _Side
    other: _Side
    num_probabilities: int

    def at(self, chosen_S: IntArray, grid: Grid, cell: PairedCell) -> OpenSides:
        """Where some sequences stand in a cell."""
        one = self.one.at(chosen_S, grid, cell.context_from, cell.continuation_from)
        other = self.other.at(chosen_S, grid, cell.context_to, cell.continuation_to)
        scores, decided, chances = zip(one, other, strict=True)
        lengths = cell.continuation_from, cell.continuation_to
        return open_sides(scores, decided, chances, lengths, num_probabilities=self.num_probabilities)

    def full_at(self, chosen_S: IntArray, grid: Grid, cell: PairedCell) -> OpenSides:
        """The same by full match or not, which is decided of all."""
        _, one_S, _ = self.one.at(chosen_S, grid, cell.context_from, cell.continuation_from)
        _, other_S, _ = self.other.at(chosen_S, grid, cell.context_to, cell.continuation_to)
        place_S = 2 * (one_S == cell.continuation_from) + (other_S == cell.continuation_to)
        return OpenSides(np.full(len(chosen_S), -1), place_S)


def _read_side(table: pa.Table, grid: Grid, probabilities: Sequence[float]) -> _Side:
    num_contexts, num_lengths = len(grid.contexts), len(grid.continuations)
    scores_RN = num_matched(table, grid)
    decided_RN, probability_R = scores_RN, np.zeros(len(scores_RN), np.int64)
    if probabilities:
        first_R1 = table.column("first_mismatch").to_numpy()[:, None]
        decided_RN = num_known(first_R1, np.array(grid.continuations))
        probability_R = open_rows(table, probabilities).stratum_R
    shape = (-1, num_contexts, num_lengths)
    return _Side(scores_RN.reshape(shape), decided_RN.reshape(shape), probability_R[::num_contexts])


class _Known(NamedTuple):
    """Which of some sequences stand for their clusters, which have duplicates, and the clusters of those."""

    leads_S: NDArray[np.bool_]
    shared_D: IntArray
    cluster_D: IntArray


def _duplicates_among(membership: Membership) -> _Known:
    shared_D = np.flatnonzero(~membership.alone_S)
    return _Known(membership.leads_S, shared_D, membership.cluster_S[shared_D])


def _tally_cell(
    where: OpenSides, cell: PairedCell, weights_S: IntArray | None, known: _Known | None, num_probabilities: int
) -> PairTally:
    shape = cell.continuation_from + 1, cell.continuation_to + 1
    is_decided_S = where.stratum_S < 0

    def joint(chosen_S: NDArray[np.bool_], weights_S: IntArray | None = None) -> IntArray:
        weights = None if weights_S is None else weights_S[chosen_S]
        counts = np.bincount(where.place_S[chosen_S], weights=weights, minlength=shape[0] * shape[1])
        return counts.astype(np.int64).reshape(shape)

    copies = None if weights_S is None else joint(is_decided_S, weights_S)
    open_pairs = None
    if num_probabilities:
        open_pairs = _open_pairs(where, weights_S, known, NUM_KINDS * num_probabilities, shape[0] * shape[1])
    if known is None:
        return PairTally(rows=joint(is_decided_S), copies=copies, unique=None, duplicates=None, open=open_pairs)
    rows = _duplicate_rows(where, cell, known)
    return PairTally(
        rows=joint(is_decided_S),
        copies=copies,
        unique=joint(is_decided_S & known.leads_S),
        duplicates=(rows,) if len(rows.codes) else (),
        open=open_pairs,
    )


def _open_pairs(
    where: OpenSides, weights_S: IntArray | None, known: _Known | None, num_strata: int, num_places: int
) -> OpenPairs:
    """The open ones of some sequences."""

    def count(stratum_S: IntArray, place_S: IntArray) -> OpenCounts:
        return count_open(stratum_S, place_S, num_strata=num_strata, num_places=num_places)

    leads = None if known is None else count(where.stratum_S[known.leads_S], where.place_S[known.leads_S])
    copies = None
    if weights_S is not None:
        is_graded_S = (where.stratum_S >= 0) & (where.place_S >= 0)
        cells_S = (where.stratum_S * num_places + where.place_S)[is_graded_S]
        copies = np.bincount(cells_S, weights=weights_S[is_graded_S], minlength=num_strata * num_places)
        copies = copies.astype(np.int64).reshape(num_strata, num_places)
    return OpenPairs(count(where.stratum_S, where.place_S), leads, copies)


def _duplicate_rows(where: OpenSides, cell: PairedCell, known: _Known) -> DuplicateRows:
    """The rows with duplicates whose class is known."""
    place_D, stratum_D = where.place_S[known.shared_D], where.stratum_S[known.shared_D]
    is_known_D = place_D >= 0
    from_D, to_D = np.divmod(place_D[is_known_D], cell.continuation_to + 1)
    codes_D = class_of_scores(cell.continuation_from)[from_D] * NUM_CLASSES
    codes_D += class_of_scores(cell.continuation_to)[to_D]
    return DuplicateRows(known.cluster_D[is_known_D], codes_D.astype(np.uint8), stratum_D[is_known_D].astype(np.int8))
