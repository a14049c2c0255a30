"""The strata of pairs of runs, counted and resampled, and what all of their tables need.

Axes: L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from mnemoscope.analyses.agreement import merge_classes
from mnemoscope.analyses.cluster_shares import Resamples, ShareIntervals, resample, share_intervals
from mnemoscope.analyses.columns import Value
from mnemoscope.analyses.factors import SMALL_STRATUM
from mnemoscope.analyses.pairs import IntArray, PairCounts, PairStratum, PairTally

Relation = Literal["size", "step", "final", "context", "continuation", "twin"]
Sum = Callable[[IntArray], IntArray]
"""Counts out of a table of classes [..., 6, 6], or out of a table per resample."""
Place = tuple[str, str, PairStratum]

PAIR = (
    *("relation", "model_from", "model_to", "group"),
    *("context_from", "continuation_from", "context_to", "continuation_to"),
)
RATE = ("num_sequences", "share", "share_low", "share_high", "small_stratum")


@dataclass(frozen=True, kw_only=True)
class PairedRun:
    """A model or checkpoint as one side of a comparison."""

    label: str
    """The run's name in tables and figures."""
    source: str
    """Where the model came from; several checkpoints of one source are one training run."""
    num_non_embedding_parameters: int
    """Parameters but for the embeddings: the order of sizes."""
    training_step: int | None = None
    """The checkpoint's training step; None for the final model, or where unknown."""


@dataclass(frozen=True, kw_only=True)
class RunPair:
    """Two runs, what differs between them, and their joint counts."""

    relation: Relation
    run_from: PairedRun
    run_to: PairedRun
    counts: PairCounts


class PairedStratum(NamedTuple):
    """A stratum of a pair of runs, counted and resampled."""

    pair: RunPair
    stratum: PairStratum
    tally: PairTally
    resamples: Resamples

    @property
    def keys(self) -> dict[str, Value]:
        """The columns that name it."""
        names = self.pair.relation, self.pair.run_from.label, self.pair.run_to.label, self.stratum.group
        return dict(zip(PAIR, (*names, *self.stratum.cell), strict=True))

    @property
    def levels(self) -> IntArray:
        """Rows by level in the one run and the other, int64 [L, L]."""
        return merge_classes(self.resamples.rows)


def resample_all(pairs: Iterable[RunPair], *, num_resamples: int, seed: int) -> list[PairedStratum]:
    """Every stratum of every pair with its resamples, which are the same however often they are asked for."""
    return [
        PairedStratum(pair, stratum, tally, resample(tally, num_resamples=num_resamples, seed=seed))
        for pair in pairs
        for stratum, tally in pair.counts.strata.items()
    ]


def place_of(item: PairedStratum) -> Place:
    """What tells a stratum of a pair from the others."""
    return item.pair.run_from.label, item.pair.run_to.label, item.stratum


def find_twins(strata: Sequence[PairedStratum]) -> dict[Place, PairedStratum]:
    """The twin stratum that is each stratum's noise floor: of the first run's twin, else of the second's."""
    twins = {
        (label, item.stratum): item
        for item in strata
        if item.pair.relation == "twin"
        for label in (item.pair.run_from.label, item.pair.run_to.label)
    }
    found = {place_of(item): [twins.get((label, item.stratum)) for label in place_of(item)[:2]] for item in strata}
    return {place: next(twin for twin in both if twin) for place, both in found.items() if any(both)}


def intervals_of(item: PairedStratum, top: Sum, bottom: Sum, level: float) -> ShareIntervals:
    """Intervals of top / bottom, by cluster where clusters are known."""
    rows, unique, drawn = item.resamples
    drawn_counts = None if drawn is None else (np.asarray(top(drawn)), np.asarray(bottom(drawn)))
    unique_n = np.asarray(bottom(rows if unique is None else unique))
    return share_intervals((np.asarray(top(rows)), np.asarray(bottom(rows))), drawn_counts, unique_n, level)


def everyone(classes: IntArray) -> IntArray:
    """All sequences of a table of classes."""
    return classes.sum(axis=(-2, -1))


def share_of(count: int, n: int) -> float | None:
    """Count / n; None where n is zero."""
    return count / n if n else None


def rate(count: int, n: int, found: ShareIntervals) -> dict[str, Value]:
    """The columns `RATE` of a share."""
    ends = float(found.low), float(found.high)
    return dict(zip(RATE, (n, share_of(count, n), *ends, n < SMALL_STRATUM), strict=True))
