"""Distances and cosines between the mean states of groups, from their Gram matrix alone.

A mean of few states is noisy, and noise drives means apart: the expected squared distance of two means is that of the
truth plus the two means' variances. So three Gram matrices are kept at each step: the plain one (what is published),
the corrected one (each mean's estimated variance taken off the diagonal, which makes squared distances unbiased), and
those of random groups of the same sizes. Resampling adds the same noise a second time; resampled matrices are moved
so that their mean is the corrected one.

Removing the step's grand mean (the mean of the group means, each counted once: weighted by frequency it would lie in
the commonest score) changes cosines, not distances.

Axes: U units, D width, C groups, P pairs of groups, B resamples, N random groupings; `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from mnemoscope.analyses.embedding_sample import Floats, Integers, Singles, Units
from mnemoscope.resampling import draw_multiplicities

CHUNK_NUMBERS = 2**24
"""Numbers in a block of resampled means: 64 MiB in float32, whatever the width."""


class Draws(NamedTuple):
    """The randomness of one side of one sample, the same at every step."""

    multiplicity_BU: Singles
    """How often each unit stands in each resample; clusters are drawn within their group."""
    order_NU: Integers
    """Random orders of the units: random group c has the units that then stand where group c's stood."""


class StepGrams(NamedTuple):
    """Inner products of the group means at one step."""

    plain_CC: Floats
    corrected_CC: Floats
    resampled_BCC: Floats
    """About the corrected one."""
    random_NCC: Floats
    random_corrected_NCC: Floats
    scatter: float
    """Root mean squared distance of a unit from its group's mean, groups counted alike."""
    mean_CD: Floats


class Pairs(NamedTuple):
    """Indices of the two groups of each pair, the first the lower, and the difference of their scores."""

    first_P: Integers
    second_P: Integers
    gap_P: Integers


class Measures(NamedTuple):
    """What a Gram matrix says of each pair, [..., P]; NaN where a corrected length is not above zero."""

    squared_distance: Floats
    """May be below zero when corrected."""
    cosine: Floats
    centred_cosine: Floats
    """Cosine after the grand mean was taken off."""


def draw(units: Units, *, num_resamples: int, seed: int) -> Draws:
    """The resamples and the random groupings of one side, `num_resamples` of each."""
    multiplicity_BU = np.empty((num_resamples, len(units.group_U)), np.float32)
    # A cluster with rows in several groups is drawn with the first of them, and its units stay together.
    clusters, first_U, index_U = np.unique(units.cluster_U, return_index=True, return_inverse=True)
    home = units.group_U[first_U]
    drawn = np.empty((num_resamples, len(clusters)), np.float32)
    for group in np.unique(home):
        members = np.flatnonzero(home == group)
        drawn[:, members] = draw_multiplicities(members, num_resamples=num_resamples, seed=seed + int(group))
    multiplicity_BU[:] = drawn[:, index_U.reshape(-1)]
    generator = np.random.default_rng([seed, 1])
    order_NU = generator.permuted(np.tile(np.arange(len(units.group_U)), (num_resamples, 1)), axis=1)
    return Draws(multiplicity_BU, order_NU)


def pairs_of(scores_C: Integers) -> Pairs:
    """All pairs of groups, in order."""
    first_P, second_P = np.triu_indices(len(scores_C), k=1)
    return Pairs(first_P, second_P, scores_C[second_P] - scores_C[first_P])


def measure(gram: Floats, pairs: Pairs) -> Measures:
    """Squared distances and cosines [..., P] from inner products [..., C, C]."""
    centred = _centre(gram)
    return Measures(_squared_distance(gram, pairs), _cosine(gram, pairs), _cosine(centred, pairs))


def rank_correlation(values: Floats, other_P: Integers) -> Floats:
    """Spearman's correlation of each row of [..., P] with one vector [P]; NaN where either does not vary."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    ranks, other = stats.rankdata(values, axis=-1), stats.rankdata(other_P)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    other = other - other.mean()
    scale = np.sqrt((ranks * ranks).sum(axis=-1) * (other @ other))
    return np.divide(ranks @ other, scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def step_grams(states_UD: Singles, units: Units, draws: Draws) -> StepGrams:
    """All Gram matrices of one step."""
    center_D = states_UD.mean(axis=0, dtype=np.float64)
    # Around a common centre float32 keeps the digits that matter; the centre is added back for the plain cosine.
    around_UD = states_UD - center_D.astype(np.float32)
    center_D = center_D.astype(np.float32).astype(np.float64)
    mean_CD = _means(around_UD, units)
    variance_C, scatter = _variances(around_UD, mean_CD, units)
    plain_CC = _gram(mean_CD, center_D)
    corrected_CC = plain_CC - np.diag(variance_C)
    resampled_BCC = _gathered(_resampled_means(around_UD, units, draws.multiplicity_BU), center_D)
    resampled_BCC += corrected_CC - np.nanmean(resampled_BCC, axis=0)
    random = [(_gram(means, center_D), noise) for means, noise in _random_groups(around_UD, units, draws.order_NU)]
    random_NCC = np.concatenate([gram for gram, _ in random])
    noise_NC = np.concatenate([noise for _, noise in random])
    random_corrected_NCC = random_NCC - noise_NC[:, :, None] * np.eye(len(mean_CD))
    return StepGrams(
        plain_CC, corrected_CC, resampled_BCC, random_NCC, random_corrected_NCC, scatter, mean_CD + center_D
    )


def _squared_distance(gram: Floats, pairs: Pairs) -> Floats:
    first, second = pairs.first_P, pairs.second_P
    return gram[..., first, first] + gram[..., second, second] - 2 * gram[..., first, second]


def _cosine(gram: Floats, pairs: Pairs) -> Floats:
    first, second = pairs.first_P, pairs.second_P
    lengths = np.diagonal(gram, axis1=-2, axis2=-1)
    lengths = np.sqrt(np.where(lengths > 0, lengths, np.nan))
    return np.clip(gram[..., first, second] / (lengths[..., first] * lengths[..., second]), -1, 1)


def _centre(gram: Floats) -> Floats:
    rows = gram.mean(axis=-1, keepdims=True)
    return gram - rows - np.swapaxes(rows, -1, -2) + rows.mean(axis=-2, keepdims=True)


def _gram(mean_CD: NDArray[np.floating], center_D: Floats) -> Floats:
    """Inner products of `mean + center`, [..., C, C], in float64."""
    inner: Floats = (mean_CD @ np.swapaxes(mean_CD, -1, -2)).astype(np.float64)
    offset = np.asarray(mean_CD @ center_D, np.float64)
    return inner + offset[..., :, None] + offset[..., None, :] + center_D @ center_D


def _gathered(blocks: Iterator[Singles], center_D: Floats) -> Floats:
    return np.concatenate([_gram(block, center_D) for block in blocks])


def _means(states_UD: Singles, units: Units) -> Floats:
    groups = range(len(units.kept_C))
    slices = [units.slice_of(group) for group in groups]
    means = [np.average(states_UD[some], axis=0, weights=units.weight_U[some]) for some in slices]
    return np.stack(means).astype(np.float64)


def _variances(states_UD: Singles, mean_CD: Floats, units: Units) -> tuple[Floats, float]:
    """Each mean's variance summed over D, [C], and the scatter of units within groups.

    The variance of a ratio estimator over independent units, with the G / (G - 1) correction. Cochran, Sampling
    Techniques (1977), 6.4.
    """
    deviation_U = np.square(states_UD - mean_CD[units.group_U].astype(np.float32)).sum(axis=1, dtype=np.float64)
    return _noise(deviation_U, units), float(np.sqrt(np.mean(_scatter(deviation_U, units))))


def _scatter(deviation_U: Floats, units: Units) -> Floats:
    num_C = np.diff(units.start_C)
    weight_C = np.bincount(units.group_U, units.weight_U)
    return np.bincount(units.group_U, units.weight_U * deviation_U) / weight_C * num_C / (num_C - 1)


def _noise(deviation_U: Floats, units: Units) -> Floats:
    num_C = np.diff(units.start_C)
    weight_C = np.bincount(units.group_U, units.weight_U)
    squares_C = np.bincount(units.group_U, units.weight_U**2 * deviation_U)
    return squares_C / weight_C**2 * num_C / (num_C - 1)


def _resampled_means(states_UD: Singles, units: Units, multiplicity_BU: Singles) -> Iterator[Singles]:
    """Blocks [b, C, D] of resampled means; NaN where a group stayed empty."""
    num_groups, width = len(units.kept_C), states_UD.shape[1]
    weight_U = units.weight_U.astype(np.float32)
    for rows in _blocks(len(multiplicity_BU), num_groups * width):
        means_bCD = np.empty((len(multiplicity_BU[rows]), num_groups, width), np.float32)
        for group in range(num_groups):
            some = units.slice_of(group)
            weight_bU = multiplicity_BU[rows, some] * weight_U[some]
            total_b = weight_bU.sum(axis=1, keepdims=True)
            means_bCD[:, group] = weight_bU @ states_UD[some] / np.where(total_b > 0, total_b, np.nan)
        yield means_bCD


def _random_groups(states_UD: Singles, units: Units, order_NU: Integers) -> Iterator[tuple[Singles, Floats]]:
    """Blocks of the means [b, C, D] of random groups, and of those means' variances [b, C]."""
    num_groups, width = len(units.kept_C), states_UD.shape[1]
    weight_U = units.weight_U.astype(np.float32)
    length_U: Floats = np.square(states_UD).sum(axis=1, dtype=np.float64)
    even = bool(np.ptp(weight_U) == 0)
    for rows in _blocks(len(order_NU), num_groups * width * (1 if even else 2)):
        order_bU = order_NU[rows]
        total_bC = _group_sums(units.weight_U[order_bU], units)
        mean_bCD = _sums(states_UD, weight_U, order_bU, units) / total_bC[..., None].astype(np.float32)
        squared_bC = _group_sums(np.square(units.weight_U)[order_bU], units)
        # Sum of w^2 |x - mean|^2, multiplied out; with even weights the sum of w^2 x is w^2 G mean.
        moment_bCD = (
            mean_bCD * squared_bC[..., None] if even else _sums(states_UD, np.square(weight_U), order_bU, units)
        )
        deviation_bC = _group_sums((np.square(units.weight_U) * length_U)[order_bU], units)
        deviation_bC -= 2 * np.einsum("bcd,bcd->bc", mean_bCD, moment_bCD)
        deviation_bC += squared_bC * np.einsum("bcd,bcd->bc", mean_bCD, mean_bCD)
        num_C = np.diff(units.start_C)
        yield mean_bCD, deviation_bC / total_bC**2 * num_C / (num_C - 1)


def _sums(states_UD: Singles, weight_U: Singles, order_bU: Integers, units: Units) -> Singles:
    """Weighted sums [b, C, D] over random groups."""
    num_orders, num_units = order_bU.shape
    starts = (np.arange(num_orders)[:, None] * num_units + units.start_C[:-1]).ravel()
    pointers = np.append(starts, num_orders * num_units)
    order = order_bU.ravel()
    select = sparse.csr_matrix((weight_U[order], order, pointers), shape=(len(starts), num_units))
    return (select @ states_UD).reshape(num_orders, -1, states_UD.shape[1])


def _group_sums(values_bU: Floats, units: Units) -> Floats:
    return np.add.reduceat(values_bU, units.start_C[:-1], axis=1)


def _blocks(total: int, numbers_each: int) -> Iterator[slice]:
    size = max(1, CHUNK_NUMBERS // max(1, numbers_each))
    return (slice(start, start + size) for start in range(0, total, size))
