"""A stratum's sequences by num_matched where only a sample of them is graded: estimated counts for intervals.

Axes: G strata of open sequences, C classes (scores), D rows of clusters of two or more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mnemoscope.analyses.cluster_shares import ClassCounts, estimate_classes
from mnemoscope.analyses.second_phase import SecondPhase
from mnemoscope.open_counts import FloatArray, IntArray, OpenCounts, count_open

UNKNOWN = ClassCounts(np.zeros(0, np.int64), None, None)
"""Of a stratum of which too little was graded to say anything."""


class ObservedDuplicates(NamedTuple):
    """Rows of clusters of two or more."""

    clusters_D: IntArray
    sequence_ids_D: IntArray
    codes_D: IntArray
    """The class; -1 of an open row that is not graded."""
    strata_D: IntArray
    """The open row's stratum; -1 where the first phase decides the class."""


def estimate_scores(decided_C: IntArray, counts: OpenCounts, duplicates: ObservedDuplicates | None) -> ClassCounts:
    """The estimated counts by score; without classes where nobody was graded of those who are open."""
    num_probabilities = len(counts.num_open)
    rows = counts.merged(num_probabilities)
    if not rows.is_estimable:
        return UNKNOWN
    possible_GC = np.ones(counts.graded.shape, np.bool_)
    possible_GC[:, -1] = False  # a full match is never open
    nothing = np.zeros(0, np.int64)
    told = duplicates or ObservedDuplicates(nothing, nothing, nothing, nothing)
    leads_decided_C, leads = _leads(decided_C, counts, told)
    observed_C = leads_decided_C + leads.graded.sum(axis=0)
    rows_C = as_floats(rows.estimate(decided_C))
    unique_C = None if duplicates is None else estimate_units(leads, leads_decided_C, rows, num_probabilities)
    second = SecondPhase(rows, possible_GC, decided_C, observed_C)
    is_known_D = told.codes_D >= 0
    strata_D = told.strata_D[is_known_D]
    weights_D = np.where(strata_D < 0, 1.0, rows.weights[np.maximum(strata_D, 0)])
    return estimate_classes(
        rows_C, unique_C, told.clusters_D[is_known_D], told.codes_D[is_known_D], weights_D, second=second
    )


def estimate_units(leads: OpenCounts, decided_X: IntArray, rows: OpenCounts, num_probabilities: int) -> FloatArray:
    """Unique sequences by place, from those that stand for their clusters; by the weights of all rows where the former
    alone are too few.
    """
    own = leads.merged(num_probabilities)
    if own.is_estimable:
        return as_floats(own.estimate(decided_X))
    return decided_X + rows.weights @ leads.graded


def as_floats(counts: IntArray | FloatArray) -> FloatArray:
    """Counts as estimates."""
    return np.asarray(counts, np.float64)


def _leads(decided_C: IntArray, counts: OpenCounts, told: ObservedDuplicates) -> tuple[IntArray, OpenCounts]:
    """The decided and the open counts of unique sequences, each cluster by its first row."""
    order = np.lexsort((told.sequence_ids_D, told.clusters_D))
    _, first = np.unique(told.clusters_D[order], return_index=True)
    is_other_D = np.ones(len(order), np.bool_)
    is_other_D[order[first]] = False
    strata, codes = told.strata_D[is_other_D], told.codes_D[is_other_D]
    others = count_open(strata, codes, num_strata=len(counts.num_open), num_places=len(decided_C))
    return decided_C - np.bincount(codes[strata < 0], minlength=len(decided_C)), counts - others
