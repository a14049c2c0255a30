"""The sequences that a page carries: a probability sample, as even over strata as they allow, with design weights.

The strata are group x num_matched, under the largest final model at the context and continuation that were traced,
else at the longest; where there are more strata than seats, neighbours are merged. Sequences come from the traced
sample, so that there is something to show of each; a group without traces is scanned, shard by shard in memory by the
number of seats. Within a stratum those of the smallest hash under the seed are taken.

The weight of a sequence is the number of scored sequences that it stands for. A traced sequence has a weight already,
its own stratum's size over its sample's; within a stratum of this sample these are scaled to add up to the stratum's
size (the ratio estimator of Hajek, "Comment on an essay by D. Basu", 1971).

Axes: R candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.corpus.draws import hash_counters
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.report.explorer_sample import ExplorerSample
from mnemoscope.sampling import draw_sample, smallest_draws
from mnemoscope.sequence_facts import SequencePick
from mnemoscope.shards import num_matched
from mnemoscope.store import GROUPS, Group, Run, Study, final_runs, read_scores, step_rank
from mnemoscope.traces import has_traces, read_traces, traced_continuation

MIN_PER_STRATUM: Final = 2
"""Seats that a stratum should get: neighbours are merged until it does."""


_LARGEST: Final = np.uint64(2**64 - 1)


class _Cell(NamedTuple):
    """Where the matches are counted that make the strata."""

    run: Run
    context: int
    continuation: int


class _Candidates(NamedTuple):
    """Sequences of one group that may be taken, with the strata that they are of."""

    sequence_id: NDArray[np.int64]
    num_matched: NDArray[np.int64]
    """-1 where an import does not say."""
    weight: NDArray[np.float64]
    """Sequences of its num_matched that each stands for."""


def draw_explorer_sample(study: Study, *, num_sequences: int = 300, seed: int = 0) -> ExplorerSample:
    """A sample of at most `num_sequences` scored sequences; weights add up to the number of all of them.

    ConfigError for fewer seats than groups, StoreError where nothing has been scored.
    """
    groups: list[Group] = [group for group in GROUPS if group in study.config.groups]
    if num_sequences < len(groups):
        raise ConfigError(f"num_sequences: {num_sequences} given; expected at least one for each group ({len(groups)})")
    cell = _reference_cell(study, _reference_run(study))
    candidates: dict[Group, _Candidates] = {}
    for group in groups:
        rows = _traced(study, cell, group)
        if not len(rows.sequence_id) and cell.run.identity.mode == "two-phase":
            rows = _graded(study, cell, group, per_stratum=num_sequences, seed=seed)
        elif not len(rows.sequence_id):
            rows = _scan(_scored(study, cell, group), per_stratum=num_sequences, seed=seed)
        candidates[group] = rows
    kept: dict[Group, _Candidates] = {group: rows for group, rows in candidates.items() if len(rows.sequence_id)}
    if not kept:
        raise StoreError(f"{study.folder}: {cell.run.label} has scored no sequence; expected at least one")
    strata, sizes = _merge(list(kept.values()), num_sequences)
    picks = [SequencePick(group, int(own)) for group, rows in kept.items() for own in rows.sequence_id]
    weights = np.concatenate([rows.weight for rows in kept.values()])
    draws = np.concatenate([hash_counters(rows.sequence_id, seed=seed) for rows in kept.values()])
    seats = _seats(strata, draws, num_sequences)
    return ExplorerSample(
        picks=tuple(picks[row] for row in seats),
        strata=tuple(strata[seats].tolist()),
        traced_weights=tuple(weights[seats].tolist()),
        sizes=tuple(sizes),
        model=cell.run.label,
        context=cell.context,
        continuation=cell.continuation,
        seed=seed,
    )


def _reference_run(study: Study) -> Run:
    if not study.runs:
        raise StoreError(f"{study.folder}: no model has been scored; expected at least one")
    return max(
        final_runs(study),
        key=lambda run: (run.identity.model.num_non_embedding_parameters, step_rank(run.training_step)),
    )


def _reference_cell(study: Study, run: Run) -> _Cell:
    """The context and continuation whose matches make the strata: the traced ones, else the longest that are known."""
    for context in study.config.contexts:
        if has_traces(study.folder, run.label, context):
            return _Cell(run, context, traced_continuation(study.config))
    grid = run.identity.grid
    if run.identity.mode == "imported":
        for table in read_scores(study, run.label, columns=["context", "num_matched"], partial=True):
            is_known = num_matched(table, grid) >= 0
            contexts = table.column("context").to_numpy()
            for context in reversed(grid.contexts):
                known = is_known[contexts == context].any(axis=0)
                if known.any():
                    return _Cell(run, context, grid.continuations[int(np.flatnonzero(known)[-1])])
    return _Cell(run, grid.contexts[-1], grid.continuations[-1])


def _traced(study: Study, cell: _Cell, group: Group) -> _Candidates:
    """A group's traced sequences; none where it has no traces."""
    if not has_traces(study.folder, cell.run.label, cell.context):
        return _Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float64))
    columns = ("sequence_id", "group", "num_matched", "design_weight")
    table = read_traces(study.folder, cell.run.label, cell.context, columns=columns)
    table = table.filter(pa.array(np.array(table.column("group").to_pylist()) == group))
    ids, matched, weights = (table.column(name).to_numpy() for name in ("sequence_id", "num_matched", "design_weight"))
    return _Candidates(ids.astype(np.int64), matched.astype(np.int64), weights.astype(np.float64))


def _graded(study: Study, cell: _Cell, group: Group, *, per_stratum: int, seed: int) -> _Candidates:
    """Sequences of a group whose num_matched is known in mode `two-phase`, with how many each stands for."""
    settings = cell.run.identity.graded_sample
    sample = draw_sample(
        read_scores(study, cell.run.label, group=group, partial=True),
        context=cell.context,
        grid=cell.run.identity.grid,
        continuation=cell.continuation,
        per_stratum=per_stratum,
        seed=seed,
        probabilities=() if settings is None else settings.probabilities,
    )
    return _Candidates(sample.sequence_id, sample.num_matched, sample.design_weight)


def _scored(study: Study, cell: _Cell, group: Group) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The ids and num_matched of a group's sequences at a cell, shard by shard.

    In mode `exact` the matches before the first mismatch, since no others are known.
    """
    run, context, continuation = cell
    grid, mode = run.identity.grid, run.identity.mode
    fact = {"exact": "first_mismatch", "imported": "num_matched"}.get(mode, "matched")
    place = grid.continuations.index(continuation)
    for table in read_scores(study, run.label, columns=["sequence_id", "context", fact], group=group, partial=True):
        rows = table.filter(pa.array(table.column("context").to_numpy() == context))
        if not rows.num_rows:
            continue
        if mode == "exact":
            matched = np.minimum(rows.column(fact).to_numpy(), continuation).astype(np.int64)
        else:
            matched = num_matched(rows, grid)[:, place]
        yield rows.column("sequence_id").to_numpy().astype(np.int64), matched


def _scan(parts: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], *, per_stratum: int, seed: int) -> _Candidates:
    """Of each num_matched at most `per_stratum` sequences, and how many each stands for; in constant memory."""
    sizes: Counter[int] = Counter()
    last_draws: dict[int, np.uint64] = {}
    ids_R, matched_R = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for ids, matched in parts:
        levels, level_of, counts = np.unique(matched, return_inverse=True, return_counts=True)
        sizes.update(dict(zip(levels.tolist(), counts.tolist(), strict=True)))
        limits = np.array([last_draws.get(level, _LARGEST) for level in levels.tolist()], np.uint64)
        is_near = hash_counters(ids, seed=seed) <= limits[level_of]  # others cannot be among the smallest any more
        if not is_near.any():
            continue
        ids_R, matched_R = np.concatenate([ids_R, ids[is_near]]), np.concatenate([matched_R, matched[is_near]])
        draws_R = hash_counters(ids_R, seed=seed)
        rows = smallest_draws(ids_R, draws_R, matched_R, per_stratum=per_stratum)
        ids_R, matched_R, draws_R = ids_R[rows], matched_R[rows], draws_R[rows]
        last = np.flatnonzero(np.append(matched_R[1:] != matched_R[:-1], True))  # rows are by stratum and draw
        full = last[np.diff(last, prepend=-1) == per_stratum]
        last_draws = dict(zip(matched_R[full].tolist(), draws_R[full], strict=True))
    num_kept = Counter(matched_R.tolist())
    weights = [sizes[level] / num_kept[level] for level in matched_R.tolist()]
    return _Candidates(ids_R, matched_R, np.array(weights, np.float64))


def _merge(groups: list[_Candidates], num_sequences: int) -> tuple[NDArray[np.int64], list[int]]:
    """The stratum of each candidate, int64 [R], counted through all groups; and the size of each stratum."""
    strata: list[NDArray[np.int64]] = []
    sizes: list[int] = []
    most = max(1, num_sequences // (MIN_PER_STRATUM * len(groups)))
    for rows in groups:
        _, rank = np.unique(rows.num_matched, return_inverse=True)
        num_levels = int(rank.max()) + 1
        merged = rank if num_levels <= most else rank * most // num_levels
        weights = np.bincount(merged, weights=rows.weight)
        strata.append(merged.astype(np.int64) + len(sizes))
        sizes += np.diff(np.rint(np.cumsum(weights)), prepend=0).astype(int).tolist()  # estimates add up, too
    return np.concatenate(strata), sizes


def _seats(strata: NDArray[np.int64], draws: NDArray[np.uint64], num_seats: int) -> NDArray[np.int64]:
    """The candidates that get a seat, in their order: each seat goes to the stratum that has the fewest so far."""
    order = np.lexsort((draws, strata))
    sizes = np.bincount(strata)
    round_of = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    by_round = order[np.lexsort((strata[order], round_of))]
    return by_round[:num_seats]
