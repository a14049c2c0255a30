"""How well states tell scores apart: silhouettes, and the held-out accuracy of a linear probe.

Two targets: the exact score (the kept groups), and memorized or not (as many of either, so that chance is one half).
Duplicates never stand on both sides of a split; in a silhouette each cluster has one row.

Axes: R rows, D width, B resamples.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.analyses.embedding_sample import EmbeddingSample, Floats, Integers, Singles, read_step
from mnemoscope.analyses.embedding_summary import Estimate
from mnemoscope.resampling import draw_multiplicities, percentile_interval

TARGETS: Final = ("num_matched", "memorized")
NUM_FOLDS: Final = 5
MAX_PROBE_CLUSTERS: Final = 2000
MAX_SILHOUETTE_ROWS: Final = 600
NUM_SHUFFLES: Final = 40
"""Random labellings behind a silhouette's baseline."""


class Separability(NamedTuple):
    """How far apart the classes of one target are at one step."""

    step: int
    target: str
    num_sequences: int
    num_clusters: int
    num_classes: int
    silhouette: Estimate
    random_silhouette: Estimate
    """Of shuffled labels."""
    accuracy: Estimate
    majority_accuracy: float
    """Share of the commonest class: a guess that knows the answer's frequency, which a held-out one would not."""
    excess_accuracy: Estimate
    """Accuracy less that of the majority, paired by row."""
    note: str


class _Problem(NamedTuple):
    """Rows and their classes."""

    rows_R: Integers
    class_R: Integers
    cluster_R: Integers


def separate(
    sample: EmbeddingSample, side: str, kept_C: Integers, *, level: float, num_resamples: int, seed: int
) -> list[Separability]:
    """Both targets at the first, the middle and the last step."""
    steps = sorted({0, sample.num_steps // 2, sample.num_steps - 1})
    found: list[Separability] = []
    for target in TARGETS:
        problem = _problem(sample, side, kept_C, target, np.random.default_rng([seed, 2]))
        for step in steps:
            if problem is None:
                found.append(_nothing(step, target))
                continue
            states_RD = read_step(sample, problem.rows_R, step)
            found.append(
                _separability(
                    states_RD, problem, step=step, target=target, level=level, num_resamples=num_resamples, seed=seed
                )
            )
    return found


def split(cluster_R: Integers, *, seed: int) -> Integers:
    """Each row's fold, 0 to NUM_FOLDS - 1; the rows of a cluster have one fold."""
    _, index_R = np.unique(cluster_R, return_inverse=True)
    order = np.random.default_rng([seed, 3]).permutation(int(index_R.max(initial=-1)) + 1)
    return order[index_R.reshape(-1)] % NUM_FOLDS


def probe(states_RD: Singles, class_R: Integers, fold_R: Integers) -> NDArray[np.bool_]:
    """Whether each row's class was predicted by a probe fitted to the other folds.

    A ridge classifier on standardised states, its penalty the width: the features' total variance.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    hit_R = np.zeros(len(class_R), bool)
    for fold in range(NUM_FOLDS):
        test, train = fold_R == fold, fold_R != fold
        if not test.any() or len(np.unique(class_R[train])) < 2:
            continue
        scaler = StandardScaler().fit(states_RD[train])
        classifier = RidgeClassifier(alpha=states_RD.shape[1])
        classifier.fit(scaler.transform(states_RD[train]), class_R[train])
        hit_R[test] = classifier.predict(scaler.transform(states_RD[test])) == class_R[test]
    return hit_R


def silhouettes(states_RD: Singles, class_R: Integers, *, seed: int) -> tuple[Floats, Floats]:
    """Each row's silhouette [R], and the mean silhouettes of shuffled classes."""
    from sklearn.metrics import pairwise_distances, silhouette_samples

    distances = pairwise_distances(states_RD.astype(np.float64))
    generator = np.random.default_rng([seed, 4])
    shuffled = [
        np.mean(silhouette_samples(distances, generator.permutation(class_R), metric="precomputed"))
        for _ in range(NUM_SHUFFLES)
    ]
    return silhouette_samples(distances, class_R, metric="precomputed"), np.array(shuffled)


def _problem(
    sample: EmbeddingSample, side: str, kept_C: Integers, target: str, generator: np.random.Generator
) -> _Problem | None:
    """At most MAX_PROBE_CLUSTERS clusters of the classes; None where one has fewer clusters than there are folds."""
    rows = np.flatnonzero((sample.group == side) & np.isin(sample.num_matched, kept_C))
    if target == "memorized":
        rows = np.flatnonzero(sample.group == side)
        rows = _even(sample, rows, generator)
        class_R = (sample.num_matched[rows] == sample.num_steps).astype(np.int64)
    else:
        class_R = sample.num_matched[rows]
    cluster_R = sample.cluster[rows]
    clusters = np.unique(cluster_R)
    if len(clusters) > MAX_PROBE_CLUSTERS:
        chosen = generator.choice(clusters, MAX_PROBE_CLUSTERS, replace=False)
        keep = np.isin(cluster_R, chosen)
        rows, class_R, cluster_R = rows[keep], class_R[keep], cluster_R[keep]
    sizes = [len(np.unique(cluster_R[class_R == value])) for value in np.unique(class_R)]
    if len(sizes) < 2 or min(sizes) < NUM_FOLDS:
        return None
    return _Problem(rows, np.unique(class_R, return_inverse=True)[1].reshape(-1), cluster_R)


def _even(sample: EmbeddingSample, rows: Integers, generator: np.random.Generator) -> Integers:
    """Rows of as many clusters memorized as not; a cluster with both counts as memorized, and drops its other rows."""
    full_R = sample.num_matched[rows] == sample.num_steps
    full = np.unique(sample.cluster[rows[full_R]])
    rest = np.setdiff1d(np.unique(sample.cluster[rows[~full_R]]), full)
    size = min(len(full), len(rest), MAX_PROBE_CLUSTERS // 2)
    full, rest = generator.choice(full, size, replace=False), generator.choice(rest, size, replace=False)
    cluster_R = sample.cluster[rows]
    return rows[(full_R & np.isin(cluster_R, full)) | (~full_R & np.isin(cluster_R, rest))]


def _separability(
    states_RD: Singles, problem: _Problem, *, step: int, target: str, level: float, num_resamples: int, seed: int
) -> Separability:
    silhouette, random = _silhouette(states_RD, problem, level, num_resamples, seed)
    hit_R = probe(states_RD, problem.class_R, split(problem.cluster_R, seed=seed)).astype(np.float64)
    majority_R = problem.class_R == np.bincount(problem.class_R).argmax()
    drawn_BR = draw_multiplicities(problem.cluster_R, num_resamples=num_resamples, seed=seed)
    return Separability(
        step,
        target,
        len(problem.rows_R),
        len(np.unique(problem.cluster_R)),
        int(problem.class_R.max()) + 1,
        silhouette,
        random,
        _mean(hit_R, drawn_BR, level),
        float(majority_R.mean()),
        _mean(hit_R - majority_R, drawn_BR, level),
        "",
    )


def _silhouette(
    states_RD: Singles, problem: _Problem, level: float, num_resamples: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Of one row of each cluster, of MAX_SILHOUETTE_ROWS at most; a class left with one row counts as zero."""
    _, first = np.unique(problem.cluster_R, return_index=True)
    rows = np.sort(np.random.default_rng([seed, 5]).permutation(first)[:MAX_SILHOUETTE_ROWS])
    class_R = problem.class_R[rows]
    if not 2 <= len(np.unique(class_R)) < len(rows):
        return _UNKNOWN, _UNKNOWN
    values_R, shuffled = silhouettes(states_RD[rows], class_R, seed=seed)
    drawn_BR = draw_multiplicities(np.arange(len(rows)), num_resamples=num_resamples, seed=seed)
    random = Estimate(float(shuffled.mean()), *percentile_interval(shuffled, level))
    return _mean(values_R, drawn_BR, level), random


def _mean(values_R: Floats, drawn_BR: Floats, level: float) -> Estimate:
    resampled_B = drawn_BR @ values_R / drawn_BR.sum(axis=1)
    return Estimate(float(values_R.mean()), *percentile_interval(resampled_B, level))


_UNKNOWN: Final = Estimate(float("nan"), float("nan"), float("nan"))


def _nothing(step: int, target: str) -> Separability:
    note = "too few clusters of some class to separate"
    return Separability(step, target, 0, 0, 0, _UNKNOWN, _UNKNOWN, _UNKNOWN, float("nan"), _UNKNOWN, note)
