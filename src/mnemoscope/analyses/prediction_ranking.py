"""Weighted ROC-AUC, average precision and recall among the first flagged, for all resamples at once.

Items are sorted once into groups of equal score, from the highest on; what a resample changes is the weight of the
positives and the negatives in each group. Ties are treated as scikit-learn treats them: a group is passed as a whole.

Axes: B resamples, R sequences, I items of a sequence, G groups.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from mnemoscope.analyses.prediction_units import Bits, Floats, Integers

TINY: Final = 1e-300
"""Stands for a weight of zero where something is divided by it."""


class Groups(NamedTuple):
    """In which group each item is, int64 [R, I], 0 the highest score, and how many groups there are."""

    code_RI: Integers
    num_groups: int


class Masses(NamedTuple):
    """Weight of the positives and of the negatives by group, from the highest score on; float64 [B, G] each."""

    positive_BG: Floats
    negative_BG: Floats
    found_BG: Floats
    """Positives of a group and of those before it."""
    passed_BG: Floats
    """Negatives of a group and of those before it."""


def group_scores(score_RI: Floats, max_groups: int | None = None) -> Groups:
    """Groups of equal score; where there would be more than `max_groups`, of neighbouring scores, about equally many.

    Merging scores that differ loses what order they have among themselves.
    """
    distinct, rank = np.unique(-score_RI.ravel(), return_inverse=True)
    if max_groups is not None and len(distinct) > max_groups:
        before = np.cumsum(np.bincount(rank)) - 1
        _, merged = np.unique(before * max_groups // rank.size, return_inverse=True)
        rank = merged[rank]
    return Groups(rank.reshape(score_RI.shape).astype(np.int64), int(rank.max(initial=-1)) + 1)


def count_groups(groups: Groups, positive_RI: Bits) -> tuple[Floats, Floats]:
    """How many positives and how many negatives each sequence has in each group; float64 [R, G] each."""
    num_rows = len(groups.code_RI)
    place_RI = groups.code_RI + groups.num_groups * np.arange(num_rows)[:, None]
    size = num_rows * groups.num_groups
    positive, negative = (np.bincount(place_RI[some], minlength=size) for some in (positive_RI, ~positive_RI))
    shape = (num_rows, groups.num_groups)
    return positive.reshape(shape).astype(np.float64), negative.reshape(shape).astype(np.float64)


def add_up(positive_BG: Floats, negative_BG: Floats) -> Masses:
    """The masses of groups with these weights."""
    return Masses(positive_BG, negative_BG, np.cumsum(positive_BG, axis=1), np.cumsum(negative_BG, axis=1))


def sum_groups(groups: Groups, positive_R: Bits, weight_BR: Floats) -> Masses:
    """The masses where each sequence is one item: sequences in order of their groups, added up group by group."""
    code_R = groups.code_RI[:, 0]
    order = np.argsort(code_R, kind="stable")
    ordered_BR = weight_BR[:, order]
    positive_BR = ordered_BR * positive_R[order]
    negative_BR = ordered_BR - positive_BR
    if groups.num_groups == len(order):  # no ties: nothing to add up
        return add_up(positive_BR, negative_BR)
    starts = np.searchsorted(code_R[order], np.arange(groups.num_groups))
    return add_up(*(np.add.reduceat(some_BR, starts, axis=1) for some_BR in (positive_BR, negative_BR)))


def roc_auc(masses: Masses) -> Floats:
    """The chance that a positive is scored above a negative, ties half; float64 [B], NaN where a class is missing."""
    found_B, passed_B = masses.found_BG[:, -1], masses.passed_BG[:, -1]
    lost_B = np.einsum("bg,bg->b", masses.positive_BG, masses.passed_BG)
    tied_B = np.einsum("bg,bg->b", masses.positive_BG, masses.negative_BG)
    return _ratio(found_B * passed_B - lost_B + tied_B / 2, found_B * passed_B)


def average_precision(masses: Masses) -> Floats:
    """The area under the precision-recall steps, without interpolation; float64 [B], NaN without a positive."""
    precision_BG = masses.found_BG / np.maximum(masses.found_BG + masses.passed_BG, TINY)
    return _ratio(np.einsum("bg,bg->b", masses.positive_BG, precision_BG), masses.found_BG[:, -1])


def recall_among_first(masses: Masses, share: float) -> Floats:
    """The part of the positives' weight among the first `share` of all weight; float64 [B], NaN without a positive.

    Of a group in which the line falls the part before the line counts: the mean over all orders of its ties.
    """
    total_BG = masses.positive_BG + masses.negative_BG
    end_BG = masses.found_BG + masses.passed_BG
    room_BG = share * end_BG[:, -1:] - (end_BG - total_BG)
    part_BG = np.clip(room_BG / np.maximum(total_BG, TINY), 0, 1)
    return _ratio(np.einsum("bg,bg->b", part_BG, masses.positive_BG), masses.found_BG[:, -1])


def _ratio(top_B: Floats, bottom_B: Floats) -> Floats:
    return np.divide(top_B, bottom_B, out=np.full(bottom_B.shape, np.nan), where=bottom_B > TINY)
