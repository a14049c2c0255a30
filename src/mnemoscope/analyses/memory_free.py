"""The memory-free null: tokens drawn independently, a hit decided by the token's own value alone.

A value is a token's corpus frequency, or the entropy of the distribution that predicts it. The chance of a hit by
decile of the value comes from the traces: on the true path from inside the context, and off it (after the first
mismatch, where generated and true text have parted) from the continuation. Nothing in it knows what a model was
trained on. Its mean curve given `num_matched` is computed exactly, not simulated: with p and q the mean chances on
and off the path, P(first mismatch t, m matches) = p^t (1 - p) C(n - t - 1, m - t) q^(m - t) (1 - q)^(n - m - 1).

Axes: P positions, V kinds of value, I token indices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from mnemoscope.analyses.samples import Bools, Floats, Integers, Traced

NUM_CLASSES = 10


class MemoryFree(NamedTuple):
    """Chances of a hit and mean values given hit and miss, on the true path and off it."""

    hit_share: float
    """p: the chance of a hit on the true path."""
    off_hit_share: float
    """q: the chance of a hit after the first mismatch."""
    mean_V: Floats
    hit_V: Floats
    """Mean values given a hit on the path."""
    miss_V: Floats
    off_hit_V: Floats
    off_miss_V: Floats


def fit_memory_free(traced: Traced, predictor_RI: Floats, values_VRI: Floats, *, start: int) -> MemoryFree | None:
    """The null fitted to a sample's members, by design weight; None where nothing in the context is known.

    Positions are those inside the context from `start` on, and those after the first mismatch.
    """
    member_R = traced.group_R == "member"
    hit_RI, weight_RI = traced.hit_RI[member_R], np.broadcast_to(traced.weight_R[:, None], traced.hit_RI.shape)
    weight_RI, predictor_RI, values_VRI = weight_RI[member_R], predictor_RI[member_R], values_VRI[:, member_R]
    index_I = np.arange(hit_RI.shape[1])
    known_RI = ~np.isnan(predictor_RI) & ~np.isnan(values_VRI).any(0)
    inside_RI = known_RI & (index_I >= start) & (index_I < traced.context)
    if not inside_RI.any():
        return None
    edges = np.unique(np.quantile(predictor_RI[inside_RI], np.arange(1, NUM_CLASSES) / NUM_CLASSES))
    class_RI = np.searchsorted(edges, predictor_RI, side="right").astype(np.int64)
    off_RI = known_RI & _after_first_mismatch(hit_RI, traced.context)
    inside = class_RI[inside_RI], hit_RI[inside_RI], weight_RI[inside_RI]
    chances, shares = _hit_chances(*inside, len(edges) + 1)
    off_chances, _ = _hit_chances(class_RI[off_RI], hit_RI[off_RI], weight_RI[off_RI], len(edges) + 1)
    means_VC = _class_means(values_VRI[:, inside_RI], inside[0], inside[2], len(edges) + 1)
    return MemoryFree(
        float(chances @ shares),
        float(off_chances @ shares),
        means_VC @ shares,
        *_given(chances, shares, means_VC),
        *_given(off_chances, shares, means_VC),
    )


def _after_first_mismatch(hit_RI: Bools, context: int) -> Bools:
    on_path_RI = np.logical_and.accumulate(hit_RI[:, context:], axis=1)
    before_RI = np.pad(on_path_RI[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return np.pad(~before_RI, ((0, 0), (context, 0)), constant_values=False)


def _hit_chances(class_P: Integers, hit_P: Bools, weight_P: Floats, num_classes: int) -> tuple[Floats, Floats]:
    """The share of hits in each class (the overall share where a class is empty), and each class's share."""
    totals = np.bincount(class_P, weight_P, num_classes)
    hits = np.bincount(class_P, weight_P * hit_P, num_classes)
    overall = hits.sum() / totals.sum() if totals.sum() > 0 else 0.0
    chances = np.divide(hits, totals, out=np.full(num_classes, overall), where=totals > 0)
    return chances, totals / max(totals.sum(), 1e-300)


def _class_means(values_VP: Floats, class_P: Integers, weight_P: Floats, num_classes: int) -> Floats:
    totals = np.maximum(np.bincount(class_P, weight_P, num_classes), 1e-300)
    return np.stack([np.bincount(class_P, weight_P * values_P, num_classes) / totals for values_P in values_VP])


def _given(chances: Floats, shares: Floats, means_VC: Floats) -> tuple[Floats, Floats]:
    """Mean values given a hit and given a miss; the overall mean where one never happens."""
    hits, misses = chances * shares, (1 - chances) * shares
    hits, misses = (part / part.sum() if part.sum() > 0 else shares for part in (hits, misses))
    return means_VC @ hits, means_VC @ misses


def null_curves(fit: MemoryFree, num_matched: int, *, context: int, continuation: int) -> Floats | None:
    """The expected values at each index given `num_matched`, float64 [V, I]; None where it cannot happen."""
    chance_T = _joint_chances(fit, num_matched, continuation)
    if chance_T.sum() <= 0:
        return None
    chance_T = chance_T / chance_T.sum()
    first_T = np.arange(continuation + 1)
    num_after_T = continuation - first_T - 1
    # Matches after the first mismatch stand anywhere there with equal chance.
    hit_share_T = np.divide(num_matched - first_T, num_after_T, out=np.zeros(len(first_T)), where=num_after_T > 0)
    before_J = 1 - np.cumsum(chance_T)[:-1]
    passed_J, passed_hit_J = (np.cumsum(part)[:-1] - part[:-1] for part in (chance_T, chance_T * hit_share_T))
    weights_JS = np.stack([before_J, chance_T[:-1], passed_hit_J, passed_J - passed_hit_J], axis=1)
    states_SV = np.stack([fit.hit_V, fit.miss_V, fit.off_hit_V, fit.off_miss_V])
    context_VK = np.repeat(fit.mean_V[:, None], context, axis=1)
    return np.hstack([context_VK, (weights_JS @ states_SV).T])


def _joint_chances(fit: MemoryFree, num_matched: int, continuation: int) -> Floats:
    """P(first mismatch t, num_matched matches) for t = 0 .. n, the last without any mismatch."""
    first_T = np.arange(continuation)
    on_path_T = fit.hit_share**first_T * (1 - fit.hit_share)
    off_path_T = stats.binom.pmf(num_matched - first_T, continuation - first_T - 1, fit.off_hit_share)
    return np.append(on_path_T * off_path_T, fit.hit_share**continuation if num_matched == continuation else 0.0)
