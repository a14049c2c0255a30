"""The geometry of one side of one sample along its decoding steps: per pair of scores, and in five curves.

Axes: T steps, P pairs, B resamples, N random groupings, C groups, D width; `...` any trailing axes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.analyses.embedding_geometry import (
    Draws,
    Measures,
    Pairs,
    StepGrams,
    draw,
    measure,
    pairs_of,
    rank_correlation,
    step_grams,
)
from mnemoscope.analyses.embedding_sample import EmbeddingSample, Floats, Units, divide, read_units


class Spread(NamedTuple):
    """A number, what random groups of the same sizes give, and the number without noise; [T, P] each."""

    plain: Floats
    random: Floats
    random_low: Floats
    random_high: Floats
    corrected: Floats
    low: Floats
    high: Floats


class PairSpreads(NamedTuple):
    """What each pair's means have between them."""

    distance: Spread
    cosine: Spread
    centred_cosine: Spread


class Curve(NamedTuple):
    """One number per step."""

    plain_T: Floats
    corrected_T: Floats
    resampled_BT: Floats
    """Of the corrected number."""
    random_NT: Floats
    """The plain number of random groups."""
    random_corrected_NT: Floats


class Side(NamedTuple):
    """What the steps of one side say."""

    units: Units
    draws: Draws
    pairs: Pairs
    spreads: PairSpreads
    squared_distance: Curve
    """Mean over pairs."""
    shared_squared_distance: Curve
    """Mean over pairs of scores that every model of the study keeps; NaN where there is none."""
    cosine: Curve
    """Mean over pairs."""
    neighbour_cosine: Curve
    """Mean, over pairs of neighbouring groups, of the cosine without the grand mean."""
    order: Curve
    """Spearman's correlation of distance and score difference over pairs."""
    scatter_T: Floats
    mean_TCD: Floats


class _Step(NamedTuple):
    """One step's parts of `Side`."""

    spreads: PairSpreads
    curves: list[Curve]
    """With the step's axis left out."""
    scatter: float
    mean_CD: Floats


def walk(
    sample: EmbeddingSample, side: str, shared: Collection[int], *, level: float, num_resamples: int, seed: int
) -> Side | None:
    """All steps of one side; None where fewer than two groups have enough clusters.

    `shared` are the scores over which models are compared: a spread over other scores is another quantity.
    """
    units = divide(sample, side)
    if len(units.kept_C) < 2:
        return None
    draws, pairs = draw(units, num_resamples=num_resamples, seed=seed), pairs_of(units.kept_C)
    is_shared_C = np.isin(units.kept_C, list(shared))
    is_shared_P = is_shared_C[pairs.first_P] & is_shared_C[pairs.second_P]
    steps = [
        _step(step_grams(read_units(sample, units, step), units, draws), pairs, is_shared_P, level)
        for step in range(sample.num_steps)
    ]
    spreads = [_over_steps([step.spreads[index] for step in steps]) for index in range(3)]
    squared, shared_squared, cosine, neighbour, order = (
        _curve([step.curves[index] for step in steps]) for index in range(5)
    )
    return Side(
        units=units,
        draws=draws,
        pairs=pairs,
        spreads=PairSpreads(spreads[0], spreads[1], spreads[2]),
        squared_distance=squared,
        shared_squared_distance=shared_squared,
        cosine=cosine,
        neighbour_cosine=neighbour,
        order=order,
        scatter_T=np.array([step.scatter for step in steps]),
        mean_TCD=np.stack([step.mean_CD for step in steps]),
    )


def recentred_interval(estimate: Floats, resampled: Floats, level: float) -> tuple[Floats, Floats]:
    """The percentile interval of the resamples' [B, ...] deviations from their own mean, about the estimate [...].

    Resampling adds sampling noise a second time, which lowers cosines and rank correlations: their resamples lie
    around another place, with the right spread.
    """
    ends = quantiles(resampled, (1 - level) / 2, (1 + level) / 2)
    known = ~np.isnan(resampled)
    count = known.sum(axis=0)
    total = np.where(known, resampled, 0).sum(axis=0)
    center = np.divide(total, count, out=np.full(estimate.shape, np.nan), where=count > 0)
    return estimate + (ends[0] - center), estimate + (ends[1] - center)


def quantiles(values: Floats, *shares: float) -> list[Floats]:
    """Quantiles along the first axis, NaN left out: numpy's own with NaN is slower a hundred times."""
    ordered = np.sort(values, axis=0)
    last = np.maximum((~np.isnan(values)).sum(axis=0) - 1, 0)
    found: list[Floats] = []
    for share in shares:
        place = share * last
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, last)
        low, high = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in (below, above))
        found.append(low + (high - low) * (place - below))
    return found


def _step(grams: StepGrams, pairs: Pairs, is_shared_P: NDArray[np.bool_], level: float) -> _Step:
    every = [
        measure(gram, pairs)
        for gram in (
            *(grams.plain_CC, grams.corrected_CC, grams.resampled_BCC),
            *(grams.random_NCC, grams.random_corrected_NCC),
        )
    ]
    distance, cosine, centred = (
        _spread(Curve(*(measures[index] for measures in every)), level, bounded=index > 0) for index in range(3)
    )
    neighbours = pairs.second_P == pairs.first_P + 1
    summaries: tuple[Callable[[Measures], Floats], ...] = (
        lambda measures: _mean(measures.squared_distance),
        lambda measures: _mean(measures.squared_distance[..., is_shared_P]),
        lambda measures: _mean(measures.cosine),
        lambda measures: _mean(measures.centred_cosine[..., neighbours]),
        lambda measures: rank_correlation(measures.squared_distance, pairs.gap_P),
    )
    curves = [Curve(*(summary(measures) for measures in every)) for summary in summaries]
    return _Step(PairSpreads(distance, cosine, centred), curves, grams.scatter, grams.mean_CD)


def _spread(of_pairs: Curve, level: float, *, bounded: bool) -> Spread:
    """Of the pairs of one step; distances are squared until here, cosines bounded by one."""
    plain_P, corrected_P, resampled_BP, random_NP, _ = of_pairs
    low_P, high_P = recentred_interval(corrected_P, resampled_BP, level)
    random_NP = random_NP if bounded else np.sqrt(np.maximum(random_NP, 0))
    random_ends = quantiles(random_NP, (1 - level) / 2, (1 + level) / 2)
    if bounded:
        low_P, high_P = np.clip(low_P, -1, 1), np.clip(high_P, -1, 1)
    else:
        plain_P, corrected_P, low_P, high_P = (
            np.sqrt(np.maximum(values, 0)) for values in (plain_P, corrected_P, low_P, high_P)
        )
    return Spread(plain_P, random_NP.mean(axis=0), random_ends[0], random_ends[1], corrected_P, low_P, high_P)


def _mean(values: Floats) -> Floats:
    """Over the last axis, pairs without a value left out; NaN where none has one."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


def _over_steps(spreads: list[Spread]) -> Spread:
    return Spread(*(np.stack(values) for values in zip(*spreads, strict=True)))


def _curve(steps: list[Curve]) -> Curve:
    """The steps' numbers with the step as last axis."""
    plain, corrected, resampled, random, random_corrected = (
        np.stack([np.asarray(value) for value in values], axis=-1) for values in zip(*steps, strict=True)
    )
    return Curve(plain, corrected, resampled, random, random_corrected)
