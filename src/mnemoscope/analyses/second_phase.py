"""What a probability sample of graded sequences says of all of them: estimates, and how far they may be off.

In mode `two-phase` the first mismatch of every sequence is known. It decides num_matched of a cell where it is not
before the cell's last token: such sequences are counted. The others are *open* there: their num_matched is known of
those that were graded. Within a stratum of open sequences that were graded with one probability, a Poisson sample of a
given size is a simple random one, so that each graded sequence stands for open / graded of them: the poststratified
estimate (Holt and Smith 1979, Journal of the Royal Statistical Society A 142:33; Sarndal, Swensson and Wretman 1992,
sections 7.6 and 9.4). It leaves full matches, which are known, as they are, and is that of Horvitz and Thompson with
the probability replaced by the share that was really graded.

What the second phase adds to the variance of an estimated sum of e over classes is, over strata g,

    sum_g  num_open_g^2 (1 / num_graded_g - 1 / num_open_g) S_g^2

with the variance S_g^2 of e among the graded (Cochran 1977, 5.3; Sarndal et al., 9.4). Where none of a few graded
sequences is of a class, S_g^2 would say that none is at all: one sequence is added to each side that an open one
could be on (Agresti and Coull 1998, The American Statistician 52:119, use two).

Axes: G strata of open sequences, X places (scores, or pairs of them), C classes, I shares, D rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.errors import StoreError
from mnemoscope.shards import is_graded

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OpenCounts:
    """Open sequences by stratum, and the graded ones of them by place; `+` merges parts, in any order."""

    num_open: IntArray
    """int64 [G], graded or not."""
    graded: IntArray
    """int64 [G, X]."""

    def __add__(self, other: OpenCounts) -> OpenCounts:
        return OpenCounts(self.num_open + other.num_open, self.graded + other.graded)

    def __sub__(self, other: OpenCounts) -> OpenCounts:
        return OpenCounts(self.num_open - other.num_open, self.graded - other.graded)

    @property
    def num_graded(self) -> IntArray:
        """int64 [G]."""
        return self.graded.sum(axis=1)

    @property
    def is_complete(self) -> bool:
        """Whether every open sequence was graded: then everything is counted and nothing estimated."""
        return bool((self.num_open == self.num_graded).all())

    @property
    def is_estimable(self) -> bool:
        """Whether no stratum with open sequences lacks a graded one."""
        return not ((self.num_open > 0) & (self.num_graded == 0)).any()

    @property
    def weights(self) -> FloatArray:
        """Open sequences that a graded one stands for, float64 [G]; 0 in a stratum without any."""
        return self.num_open / np.maximum(self.num_graded, 1)

    def merged(self, num_probabilities: int) -> OpenCounts:
        """The same with what is open and has nobody graded put to the nearest probability that has, where one does.

        Strata are ordered by what else they were cut by, and then by probability.
        """
        num_open, num_graded = self.num_open.copy(), self.num_graded
        for g in np.flatnonzero((num_open > 0) & (num_graded == 0)).tolist():
            start = g - g % num_probabilities
            donors = start + np.flatnonzero(num_graded[start : start + num_probabilities])
            if len(donors):
                num_open[donors[np.argmin(np.abs(donors - g))]] += num_open[g]
                num_open[g] = 0
        return OpenCounts(num_open, self.graded)

    def estimate(self, decided_X: IntArray) -> FloatArray | IntArray:
        """All sequences by place, those that the first phase decides included: integers where nothing is estimated."""
        if self.is_complete:
            return decided_X + self.graded.sum(axis=0)
        return decided_X + self.weights @ self.graded


class OpenRows(NamedTuple):
    """Of R rows of scores of mode `two-phase`, from what they were drawn and whether they are graded."""

    stratum_R: IntArray
    """Index of the row's probability among all there are."""
    is_graded_R: BoolArray
    num_probabilities: int


def open_rows(table: pa.Table, probabilities: Sequence[float]) -> OpenRows:
    """What a table says of the second phase; `probabilities` are those of the study."""
    known = np.unique(probabilities)
    found_R = table.column("inclusion_probability").to_numpy()
    stratum_R = np.searchsorted(known, found_R).clip(max=len(known) - 1)
    if not np.array_equal(known[stratum_R], found_R):
        raise StoreError("scores have inclusion probabilities that are not the study's; expected those of one study")
    return OpenRows(stratum_R.astype(np.int64), is_graded(table), len(known))


def count_open(stratum_R: IntArray, place_R: IntArray, *, num_strata: int, num_places: int) -> OpenCounts:
    """The open rows among some: those with a stratum, not -1; graded where they have a place."""
    stratum, place = stratum_R[stratum_R >= 0], place_R[stratum_R >= 0]
    cell = (stratum * num_places + place)[place >= 0]
    return OpenCounts(
        np.bincount(stratum, minlength=num_strata),
        np.bincount(cell, minlength=num_strata * num_places).reshape(num_strata, num_places),
    )


class SecondPhase(NamedTuple):
    """What the intervals of estimated shares need."""

    open: OpenCounts
    """By class, [G, C]."""
    possible_GC: BoolArray
    """Classes that an open sequence of a stratum can be of."""
    decided_C: IntArray
    """Sequences whose class the first phase decides."""
    observed_unique_C: IntArray
    """Unique sequences whose class is known, of either kind: what a small stratum goes by."""

    @property
    def observed_C(self) -> IntArray:  # noqa: N802  an axis suffix
        """Sequences whose class is known."""
        return self.decided_C + self.open.graded.sum(axis=0)

    def are_open(self, tops_CI: IntArray) -> BoolArray:
        """Of which of some sums of classes the open sequences decide something, bool [I]."""
        possible_C = (self.possible_GC & (self.open.num_open > 0)[:, None]).any(axis=0)
        return (possible_C @ tops_CI) > 0


def added_variance(phase: SecondPhase, share_I: FloatArray, tops_CI: IntArray, bottoms_CI: IntArray) -> FloatArray:
    """What the second phase adds to the variance of sum(top) - share x sum(bottom), float64 [I]."""
    num_open, num_graded = phase.open.num_open, phase.open.num_graded
    factors_G = num_open.astype(np.float64) ** 2 * (1 / np.maximum(num_graded, 1) - 1 / np.maximum(num_open, 1))
    factors_G[num_open == 0] = 0
    variance_I = np.zeros(len(share_I))
    residual_CI = tops_CI - share_I * bottoms_CI
    on_top_CI, below_CI = (tops_CI > 0), (bottoms_CI > 0) & (tops_CI == 0)
    sides = (on_top_CI, below_CI, ~on_top_CI & ~below_CI)
    for g in np.flatnonzero(factors_G > 0).tolist():
        counts_SI = np.stack([phase.open.graded[g] @ side_CI for side_CI in sides])
        can_be_SI = np.stack([phase.possible_GC[g] @ side_CI for side_CI in sides]) > 0
        values_SI = np.stack([_value_of(residual_CI, side_CI) for side_CI in sides])
        # Only where more than one side is possible is there anything to add: a certain side has no variance.
        smoothed_SI = counts_SI + (can_be_SI & (can_be_SI.sum(axis=0) > 1))
        total_I = np.maximum(smoothed_SI.sum(axis=0), 1)
        mean_I = (smoothed_SI * values_SI).sum(axis=0) / total_I
        variance_I += factors_G[g] * (smoothed_SI * (values_SI - mean_I) ** 2).sum(axis=0) / total_I
    return variance_I


def _value_of(residual_CI: FloatArray, side_CI: BoolArray) -> FloatArray:
    """The residual on a side, where all of its classes have the same; float64 [I]."""
    return np.where(side_CI.any(axis=0), np.take_along_axis(residual_CI, side_CI.argmax(axis=0)[None], axis=0)[0], 0.0)


def independent_rows(phase: SecondPhase, bottoms_CI: IntArray) -> FloatArray:
    """The n of independent sequences that the unequal weights leave of each bottom, float64 [I].

    (sum of weights)^2 / (sum of squared weights): Kish, Survey Sampling (1965), 11.7.
    """
    decided_I, graded_GI = phase.decided_C @ bottoms_CI, phase.open.graded @ bottoms_CI
    weights_G = phase.open.weights
    sum_I, squares_I = decided_I + weights_G @ graded_GI, decided_I + weights_G**2 @ graded_GI
    return sum_I**2 / np.maximum(squares_I, 1)
