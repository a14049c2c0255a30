"""The strata of pairs of runs by class, and what all of their tables need.

Axes: L levels, I shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.analyses.agreement import NUM_CLASSES, merge_classes
from mnemoscope.analyses.cluster_shares import ClassCounts, ShareIntervals, share_intervals
from mnemoscope.analyses.columns import Value
from mnemoscope.analyses.factors import SMALL_STRATUM
from mnemoscope.analyses.pair_phases import ResolvedTally
from mnemoscope.analyses.pairs import PairCounts, PairStratum
from mnemoscope.analyses.second_phase import independent_rows

Relation = Literal["size", "step", "final", "context", "continuation", "twin"]
OWN_RELATIONS: Final[tuple[Relation, ...]] = ("context", "continuation")
"""Those of a run with itself."""
Counts = NDArray[Any]
"""Integers where sequences were counted, floats where their number is estimated."""
Sum = Callable[[Counts], Counts]
"""Sums over parts of a table of classes [..., 6, 6]; for one table, or for many at once."""
Place = tuple[str, str, PairStratum]

PAIR = (
    *("relation", "model_from", "model_to", "group"),
    *("context_from", "continuation_from", "context_to", "continuation_to"),
)
RATE = ("num_sequences", "share", "share_low", "share_high", "interval_method", "small_stratum")


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
    """A stratum of a pair of runs."""

    pair: RunPair
    stratum: PairStratum
    tally: ResolvedTally

    @property
    def memorized(self) -> PairedStratum:
        """The same for what hangs on full matches alone: counted, even where scores are estimated."""
        return self if self.tally.memorized is None else self._replace(tally=self.tally.memorized)

    @property
    def counts(self) -> ClassCounts:
        """By class in the one run x 6 + class in the other."""
        return self.tally.classes

    @property
    def keys(self) -> dict[str, Value]:
        """The columns that name it."""
        names = self.pair.relation, self.pair.run_from.label, self.pair.run_to.label, self.stratum.group
        return dict(zip(PAIR, (*names, *self.stratum.cell), strict=True))

    @property
    def rows(self) -> Counts:
        """Rows by class in the one run and the other, [6, 6]."""
        return self.counts.rows.reshape(NUM_CLASSES, NUM_CLASSES)

    @property
    def unique(self) -> Counts | None:
        """The same of unique sequences; None where clusters are unknown."""
        return None if self.counts.unique is None else self.counts.unique.reshape(NUM_CLASSES, NUM_CLASSES)

    @property
    def units(self) -> Counts:
        """What a stratum's smallness goes by: unique sequences, rows where clusters are unknown; of estimates those
        whose classes are known.
        """
        units = self.counts.observed_unique
        return self.rows if units is None else units.reshape(NUM_CLASSES, NUM_CLASSES)

    @property
    def evidence(self) -> float:
        """Independent sequences over sequences: what tests scale estimated counts by; 1 where sequences were counted.

        Rao and Scott (1981), Journal of the American Statistical Association 76:221: the mean design effect.
        """
        second = self.counts.second
        if second is None:
            return 1.0
        everyone_C1 = np.ones((NUM_CLASSES**2, 1), np.int64)
        return float(independent_rows(second, everyone_C1)[0] / max(float(self.rows.sum()), 1.0))

    @property
    def levels(self) -> Counts:
        """Rows by level in the one run and the other, [L, L]."""
        return merge_classes(self.rows)


def strata_of_pairs(pairs: Iterable[RunPair]) -> list[PairedStratum]:
    """Every stratum of every pair of which enough is known."""
    resolved = ((pair, stratum, tally.resolved()) for pair in pairs for stratum, tally in pair.counts.strata.items())
    return [PairedStratum(pair, stratum, tally) for pair, stratum, tally in resolved if tally is not None]


def memorized_strata(pairs: Iterable[RunPair], strata: Iterable[PairedStratum]) -> list[PairedStratum]:
    """Every stratum of every pair, for what hangs on full matches alone: these are known whatever was graded.

    `strata` are those of which enough is known for more.
    """
    known = {(item.pair.relation, *place_of(item)): item for item in strata}
    found: list[PairedStratum] = []
    for pair in pairs:
        for stratum, tally in pair.counts.strata.items():
            item = known.get((pair.relation, pair.run_from.label, pair.run_to.label, stratum))
            own = None if item is not None or tally.memorized is None else tally.memorized.resolved()
            if item is not None:
                found.append(item)
            elif own is not None:
                found.append(PairedStratum(pair, stratum, own))
    return found


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
    """Intervals of top / bottom, by cluster where there are duplicates; ends as `top` gives them."""
    units = np.eye(NUM_CLASSES**2, dtype=np.int64).reshape(-1, NUM_CLASSES, NUM_CLASSES)
    tops = np.asarray(top(units))
    bottoms = np.broadcast_to(bottom(units), tops.shape)
    low, high, method = share_intervals(
        item.counts, tops.reshape(len(units), -1), bottoms.reshape(len(units), -1), level
    )
    return ShareIntervals(low.reshape(tops.shape[1:]), high.reshape(tops.shape[1:]), method)


def small_levels(item: PairedStratum) -> tuple[list[bool], list[bool]]:
    """Of each level, whether too few are at it in the one run to be told from, and in the other."""
    levels = merge_classes(item.units)
    return (levels.sum(axis=1) < SMALL_STRATUM).tolist(), (levels.sum(axis=0) < SMALL_STRATUM).tolist()


def everyone(classes: Counts) -> Counts:
    """All sequences of a table of classes."""
    return classes.sum(axis=(-2, -1))


def share_of(count: float, n: float) -> float | None:
    """Count / n; None where n is zero."""
    return count / n if n else None


def whole(count: float | Counts) -> int:
    """A count as it is, an estimate rounded."""
    return round(float(count))


def rate(item: PairedStratum, top: Sum, bottom: Sum, level: float) -> dict[str, Value]:
    """The columns `RATE` of top / bottom."""
    found = intervals_of(item, top, bottom, level)
    n, is_small = float(bottom(item.rows)), int(bottom(item.units)) < SMALL_STRATUM
    share = share_of(float(top(item.rows)), n)
    return dict(zip(RATE, (whole(n), share, float(found.low), float(found.high), found.method, is_small), strict=True))
