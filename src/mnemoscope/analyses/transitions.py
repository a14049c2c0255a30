"""Transitions: what a sequence's level under one model says of its level under the next.

Joint counts of two runs in, tables with intervals and one finding out. P(level in the second | level in the
first) alone does not tell persistence from chance, so three other matrices stand beside each observed one:

- `regression`: is it more than regression to the mean? Two normally distributed traits, cut so that both models have
  the level counts they have, with the one correlation that fits best. Whoever is chosen for a high score then scores
  lower again, by the same factor at every level. What exceeds it at a level is persistence of that level.
- `symmetric`: has it a direction? The two models exchangeable: as many fall as rise between each two levels. Bowker
  tests it on the levels, McNemar on the memorized set.
- `independent`: does the first model say anything at all? The mean over all permutations of the second's sequences.

Between contexts of one run the continuation moves along: it begins after the context, so the same sequence is scored
on other tokens, and what changes is not the context's length alone.

A twin run (the same model in another precision, or of another seed) adds the floor: what measuring again changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa

from mnemoscope.analyses import Finding
from mnemoscope.analyses import transition_tables as tables
from mnemoscope.analyses.columns import tables_of
from mnemoscope.analyses.memorized_set import fate_table, prediction_table
from mnemoscope.analyses.paired_strata import (
    OWN_RELATIONS,
    PairedRun,
    Relation,
    RunPair,
    memorized_strata,
    strata_of_pairs,
)
from mnemoscope.analyses.transition_finding import find_persistence
from mnemoscope.errors import ConfigError

__all__ = ["PairedRun", "PlannedPair", "RunPair", "TransitionsResult", "plan_pairs", "transitions"]


class PlannedPair(NamedTuple):
    """Two runs that are worth comparing."""

    relation: Relation
    run_from: PairedRun
    run_to: PairedRun


@dataclass(frozen=True, kw_only=True)
class TransitionsResult:
    """Tables with intervals, and the finding computed from them."""

    levels: pa.Table
    """Level by level: P(to | from) and P(from | to)."""
    scores: pa.Table
    """The exact cross-tabulation by num_matched; cells without sequences are left out."""
    kept_gained_lost: pa.Table
    """What became of the memorized set."""
    tests: pa.Table
    """Bowker and McNemar."""
    regression: pa.Table
    """The matrices that nulls would give."""
    noise: pa.Table
    """Changed shares beside a twin's; empty without a twin."""
    prediction: pa.Table
    """Precision, recall and F1 of the second run's memorized set by the first's, and the base rate."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return tables_of(self)


def transitions(pairs: Sequence[RunPair], *, level: float = 0.95) -> TransitionsResult:
    """All tables of this perspective, pairs in the order given."""
    if not pairs:
        raise ConfigError("no pairs of runs given; expected the joint counts of at least one")
    strata = strata_of_pairs(pairs)
    memorized = memorized_strata(pairs, strata)
    levels, nulls = tables.level_table(strata, level), tables.null_table(strata)
    prediction, noise = prediction_table(memorized, level), tables.noise_table(strata, level)
    sizes = {run.label: run.num_non_embedding_parameters for pair in pairs for run in (pair.run_from, pair.run_to)}
    return TransitionsResult(
        levels=levels,
        scores=tables.score_table(strata),
        kept_gained_lost=fate_table(memorized, level),
        tests=tables.symmetry_table(strata),
        regression=nulls,
        noise=noise,
        prediction=prediction,
        finding=find_persistence(levels, nulls, prediction, noise, sizes=sizes, level=level),
    )


def plan_pairs(runs: Sequence[PairedRun]) -> list[PlannedPair]:
    """The comparisons that runs of one study call for, each pair once.

    Consecutive sizes among final models; consecutive checkpoints of a source; every other checkpoint with its
    final model; runs of one source and step, which are twins; and each final model with itself, between contexts and
    between continuations.
    """
    runs_by_place: dict[tuple[str, float], list[PairedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.num_non_embedding_parameters, run.source, _step_rank(run))):
        runs_by_place.setdefault((run.source, _step_rank(run)), []).append(run)
    checkpoints: dict[str, list[PairedRun]] = {}
    for (source, _), twins in runs_by_place.items():
        checkpoints.setdefault(source, []).append(twins[0])
    finals = [series[-1] for series in checkpoints.values()]
    planned = [PlannedPair("size", *pair) for pair in pairwise(finals)]
    for series in checkpoints.values():
        planned += [PlannedPair("step", *pair) for pair in pairwise(series)]
        planned += [PlannedPair("final", run, series[-1]) for run in series[:-2]]
    twins = [PlannedPair("twin", same[0], other) for same in runs_by_place.values() for other in same[1:]]
    own = [PlannedPair(relation, run, run) for relation in OWN_RELATIONS for run in finals]
    return planned + twins + own


def _step_rank(run: PairedRun) -> float:
    return math.inf if run.training_step is None else run.training_step
