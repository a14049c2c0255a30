"""Joint counts of two runs of which only samples are graded: which cell a sequence is open in, and what is estimated.

Each side is decided by its own first mismatch or open (see `open_counts`). A sequence that is open on either side is
known where every open side is graded: permanent random numbers make that the smallest of their probabilities. Open
sequences are counted apart by whether the first side, or the second, is a full match, which is known of all: so that
what becomes of the memorized set is counted and not estimated, whatever was drawn.

Axes: S sequences, G strata of open sequences, X places (pairs of scores), D rows of clusters of two or more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.analyses.agreement import NUM_CLASSES, merge_scores
from mnemoscope.analyses.cluster_shares import ClassCounts, estimate_classes
from mnemoscope.analyses.estimated_classes import as_floats, estimate_units
from mnemoscope.analyses.second_phase import SecondPhase
from mnemoscope.open_counts import BoolArray, IntArray, OpenCounts

NUM_KINDS: Final = 3
"""Of open sequences: no full match on either side, one on the second, one on the first."""


@dataclass(frozen=True, eq=False)
class OpenPairs:
    """The open sequences of a stratum; `+` merges parts."""

    rows: OpenCounts
    """By kind and then probability, [G]; graded by num_matched in the one run and the other, [G, X]."""
    unique: OpenCounts | None
    """The same of sequences that stand for their clusters."""
    copies: IntArray | None
    """int64 [G, X]: copies in the training stream of the graded; None where not known of every row."""

    def __add__(self, other: OpenPairs) -> OpenPairs:
        unique = None if self.unique is None or other.unique is None else self.unique + other.unique
        copies = None if self.copies is None or other.copies is None else self.copies + other.copies
        return OpenPairs(self.rows + other.rows, unique, copies)


class OpenSides(NamedTuple):
    """Where sequences stand in a cell."""

    stratum_S: IntArray
    """Kind x probabilities + probability; -1 where both sides are decided."""
    place_S: IntArray
    """Which pair of scores; -1 where it is not known."""


class ObservedRows(NamedTuple):
    """The rows of clusters of two or more whose class is known."""

    clusters_D: IntArray
    codes_D: IntArray
    strata_D: IntArray
    """-1 of decided rows."""


class ResolvedTally(NamedTuple):
    """Counts of a stratum, [n_from+1, n_to+1] by num_matched; floats where they are estimated."""

    rows: NDArray[Any]
    copies: NDArray[Any] | None
    unique: NDArray[Any] | None
    classes: ClassCounts
    """By class in the one run x 6 + class in the other."""
    memorized: ResolvedTally | None = None
    """Counts by full match or not, [2, 2], where the others are estimated."""


def open_sides(
    scores: tuple[IntArray, IntArray],
    decided: tuple[IntArray, IntArray],
    probabilities: tuple[IntArray, IntArray],
    continuations: tuple[int, int],
    *,
    num_probabilities: int,
) -> OpenSides:
    """Where sequences stand, from their scores and decided scores (-1 where unknown) and probabilities' indexes."""
    is_open = decided[0] < 0, decided[1] < 0
    chances = (np.where(side, own, num_probabilities) for side, own in zip(is_open, probabilities, strict=True))
    kind_S = 2 * (decided[0] == continuations[0]) + (decided[1] == continuations[1])
    stratum_S = np.where(is_open[0] | is_open[1], kind_S * num_probabilities + np.minimum(*chances), -1)
    is_known_S = (scores[0] >= 0) & (scores[1] >= 0)
    return OpenSides(stratum_S, np.where(is_known_S, scores[0] * (continuations[1] + 1) + scores[1], -1))


def resolve(
    decided_rows: IntArray,
    decided_copies: IntArray | None,
    decided_unique: IntArray | None,
    open_pairs: OpenPairs,
    observed: ObservedRows,
    *,
    memorized: ResolvedTally | None,
) -> ResolvedTally | None:
    """The estimates; None where nobody was graded of those who are open."""
    shape = decided_rows.shape
    num_probabilities = len(open_pairs.rows.num_open) // NUM_KINDS
    own = open_pairs.rows.merged(num_probabilities)
    lenders_G = _lenders(own, num_probabilities)
    rows = OpenCounts(own.num_open, _lend(own.graded, lenders_G, shape))
    if not rows.is_estimable:
        return None
    unique = None
    if open_pairs.unique is not None and decided_unique is not None:
        leads = open_pairs.unique.merged(num_probabilities)
        leads = OpenCounts(leads.num_open, _lend(leads.graded, _lenders(leads, num_probabilities), shape))
        unique = estimate_units(leads, decided_unique.ravel(), rows, num_probabilities).reshape(shape)
    copies = None
    if decided_copies is not None and open_pairs.copies is not None:
        copies = decided_copies + (rows.weights @ _lend(open_pairs.copies, lenders_G, shape)).reshape(shape)
    estimated = as_floats(rows.estimate(decided_rows.ravel())).reshape(shape)
    second = _second_phase(decided_rows, decided_unique, open_pairs, own)  # what is lent is no evidence
    weights_D = np.where(observed.strata_D < 0, 1.0, rows.weights[np.maximum(observed.strata_D, 0)])
    classes = estimate_classes(
        as_floats(merge_scores(estimated)).ravel(),
        None if unique is None else as_floats(merge_scores(unique)).ravel(),
        observed.clusters_D,
        observed.codes_D,
        weights_D,
        second=second,
    )
    return ResolvedTally(estimated, copies, unique, classes, memorized)


def _second_phase(
    decided_rows: IntArray, decided_unique: IntArray | None, open_pairs: OpenPairs, rows: OpenCounts
) -> SecondPhase:
    shape = decided_rows.shape
    leads, units = open_pairs.unique or open_pairs.rows, decided_rows if decided_unique is None else decided_unique
    graded_GC = np.stack([merge_scores(each.reshape(shape)).ravel() for each in rows.graded])
    observed = units + leads.graded.sum(axis=0).reshape(shape)
    return SecondPhase(
        OpenCounts(rows.num_open, graded_GC),
        np.repeat(_possible_classes(), len(rows.num_open) // NUM_KINDS, axis=0),
        merge_scores(decided_rows).ravel(),
        merge_scores(observed).ravel(),
    )


def _possible_classes() -> BoolArray:
    """Which classes an open sequence of each kind can be of, bool [kinds, classes]."""
    is_full = np.arange(NUM_CLASSES) == NUM_CLASSES - 1
    sides = ((~is_full, ~is_full), (~is_full, is_full), (is_full, ~is_full))
    return np.stack([np.outer(one, other).ravel() for one, other in sides])


def _lenders(counts: OpenCounts, num_probabilities: int) -> IntArray:
    """From which stratum without a full match each one borrows in which nobody is graded, int64 [G]; -1 where it need
    not, or cannot. Few are of a kind with a full match on one side, and which side is full is known of each.
    """
    can_lend = np.flatnonzero(counts.num_graded[:num_probabilities])
    lenders_G = np.full(len(counts.num_open), -1)
    for g in np.flatnonzero((counts.num_open > 0) & (counts.num_graded == 0)).tolist():
        if g >= num_probabilities and len(can_lend):
            lenders_G[g] = can_lend[np.argmin(np.abs(can_lend - g % num_probabilities))]
    return lenders_G


def _lend(values_GX: IntArray, lenders_G: IntArray, shape: tuple[int, ...]) -> IntArray:
    """The same with the lenders' scores of the open side, beside the other's full match, where somebody borrows."""
    lent_GX = values_GX.copy()
    for g in np.flatnonzero(lenders_G >= 0).tolist():
        own = np.zeros(shape, np.int64)
        of_lender: IntArray = values_GX[lenders_G[g]].reshape(shape)
        if g < 2 * len(lenders_G) // NUM_KINDS:  # the second side is full
            own[:, -1] = of_lender.sum(axis=1)
        else:
            own[-1, :] = of_lender.sum(axis=0)
        lent_GX[g] = own.ravel()
    return lent_GX
