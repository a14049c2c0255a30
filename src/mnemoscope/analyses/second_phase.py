"""How far estimates from a sample of graded sequences may be off (see `open_counts` for the estimates).

What the second phase adds to the variance of an estimated sum of e over classes is, over strata g,

    sum_g  num_open_g^2 (1 / num_graded_g - 1 / num_open_g) S_g^2

with the variance S_g^2 of e among the graded (Cochran 1977, 5.3; Sarndal, Swensson and Wretman 1992, 9.4). Where none
of a few graded sequences is of a class, S_g^2 would say that none is at all: one sequence is added to each side that an
open one could be on (Agresti and Coull 1998, The American Statistician 52:119, add two).

Axes: G strata of open sequences, C classes, I shares, S sides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mnemoscope.open_counts import BoolArray, FloatArray, IntArray, OpenCounts


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
    # Where nobody is graded (and scores are lent, see `pair_phases`) as if one of very many were.
    unseen_G = 1 / np.maximum(num_graded, 1) - np.where(num_graded > 0, 1 / np.maximum(num_open, 1), 0)
    factors_G = num_open.astype(np.float64) ** 2 * unseen_G
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
