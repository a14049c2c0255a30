"""The tables of transitions, row by row from joint counts: levels, scores, tests, nulls, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses import agreement
from mnemoscope.analyses.agreement import merge_classes
from mnemoscope.analyses.columns import Row, Value, make_table
from mnemoscope.analyses.levels import LEVELS, NUM_LEVELS
from mnemoscope.analyses.paired_strata import (
    PAIR,
    RATE,
    Counts,
    PairedStratum,
    everyone,
    find_twins,
    intervals_of,
    place_of,
    rate,
    share_of,
    small_levels,
    whole,
)
from mnemoscope.analyses.transition_columns import ALL_COLUMNS
from mnemoscope.intervals import FloatArray

NESTED: Final = "by construction: a longer full match contains the shorter one, so nothing can be gained"
MOVED: Final = "other tokens of the sequence are continued: not the context's length alone differs"
SPARSE: Final = "some pairs of cells hold fewer than 10 sequences: the chi-square approximation is rough"
ALIKE: Final = "nothing is off the diagonal: nothing to test"
EMPTY: Final = "no sequences at this level"
SMALL: Final = "fewer than 30 unique sequences at this level: not to be averaged"

LEVEL_COLUMNS = (
    *(*PAIR, "level_from", "level_to", "num_chosen", "num_unique", "num_copies"),
    *("num_from", "share", "share_low", "share_high", "small_stratum"),
    *("num_to", "inverse_share", "inverse_low", "inverse_high", "inverse_small_stratum"),
    *("noise_share", "interval_method", "note"),
)
GRADED_COLUMN: Final = "num_known_from"
"""Where counts are estimates."""
SCORE_COLUMNS = (*PAIR, "num_matched_from", "num_matched_to", "num_chosen", "num_unique", "num_copies")
TEST_COLUMNS = (
    *(*PAIR, "test", "statistic", "degrees_of_freedom", "num_fell", "num_rose"),
    *("p_symmetric", "p_symmetric_holm", "unit", "note"),
)
NULL_COLUMNS = (
    *(*PAIR, "null", "correlation", "level_from", "level_to", "num_chosen", "expected"),
    *("share", "expected_share", "share_difference", "residual", "small_stratum"),
)
NOISE_COLUMNS = (*PAIR, "changed", "num_chosen", *RATE, "twin", "noise_share", "noise_low", "noise_high")


def level_table(strata: Sequence[PairedStratum], level: float) -> pa.Table:
    """Level by level: counts, P(to | from) and P(from | to) with intervals, beside the twin's share."""
    floors = find_twins(strata)
    rows = [row for item in strata for row in _level_rows(item, floors.get(place_of(item)), level)]
    is_estimated = any(item.counts.second is not None for item in strata)
    return make_table((*LEVEL_COLUMNS, *((GRADED_COLUMN,) if is_estimated else ())), rows, ALL_COLUMNS)


def score_table(strata: Sequence[PairedStratum]) -> pa.Table:
    """The exact cross-tabulation by num_matched, without its empty cells."""
    return make_table(SCORE_COLUMNS, [row for item in strata for row in _score_rows(item)], ALL_COLUMNS)


def symmetry_table(strata: Sequence[PairedStratum]) -> pa.Table:
    """Bowker's and McNemar's tests, Holm-adjusted within name and relation; over unique sequences where known."""
    rows = [row for item in strata for row in _test_rows(item)]
    families: dict[tuple[Value, Value], list[dict[str, Value]]] = {}
    for row in rows:
        if row["p_symmetric"] is not None:
            families.setdefault((row["test"], row["relation"]), []).append(row)
    for family in families.values():
        adjusted = intervals.holm([float(row["p_symmetric"] or 0) for row in family])
        for row, p_value in zip(family, adjusted.tolist(), strict=True):
            row["p_symmetric_holm"] = p_value
    return make_table(TEST_COLUMNS, rows, ALL_COLUMNS)


def null_table(strata: Sequence[PairedStratum]) -> pa.Table:
    """Beside each matrix of levels, the ones that nulls would give (see `transitions`)."""
    return make_table(NULL_COLUMNS, [row for item in strata for row in _null_rows(item)], ALL_COLUMNS)


def noise_table(strata: Sequence[PairedStratum], level: float) -> pa.Table:
    """Shares that changed, of pairs that have a twin of one side, beside the twin's; empty without a twin."""
    floors = find_twins(strata)
    rows = [row for item in strata for row in _noise_rows(item, floors.get(place_of(item)), level)]
    return make_table(NOISE_COLUMNS, rows, ALL_COLUMNS)


def _level_rows(item: PairedStratum, twin: PairedStratum | None, level: float) -> Iterator[Row]:
    counts = item.levels
    forward = intervals_of(item, merge_classes, lambda c: merge_classes(c).sum(axis=-1, keepdims=True), level)
    inverse = intervals_of(item, merge_classes, lambda c: merge_classes(c).sum(axis=-2, keepdims=True), level)
    floor = None if twin is None else twin.levels
    unique = None if item.unique is None else merge_classes(item.unique)
    copies = None if item.tally.copies is None else merge_classes(agreement.merge_scores(item.tally.copies))
    num_from, num_to = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    rounded = _rounded(counts)
    small_from, small_to = small_levels(item)
    known_from = _known_levels(item).sum(axis=1).tolist()
    for i, j in np.ndindex(NUM_LEVELS, NUM_LEVELS):
        count = float(counts[i, j])
        yield {
            **item.keys,
            "level_from": LEVELS[i],
            "level_to": LEVELS[j],
            "num_chosen": int(rounded[i, j]),
            "num_unique": None if unique is None else whole(unique[i, j]),
            "num_copies": None if copies is None else whole(copies[i, j]),
            "num_from": int(rounded[i].sum()),
            "share": share_of(count, num_from[i]),
            "share_low": float(forward.low[i, j]),
            "share_high": float(forward.high[i, j]),
            "small_stratum": small_from[i],
            "num_to": int(rounded[:, j].sum()),
            "inverse_share": share_of(count, num_to[j]),
            "inverse_low": float(inverse.low[i, j]),
            "inverse_high": float(inverse.high[i, j]),
            "inverse_small_stratum": small_to[j],
            "noise_share": None if floor is None else share_of(float(floor[i, j]), float(floor[i].sum())),
            "interval_method": forward.method,
            "note": EMPTY if not num_from[i] else SMALL if small_from[i] else None,
            GRADED_COLUMN: known_from[i],
        }


def _rounded(counts: Counts) -> Counts:
    """Counts as they are; estimates up or down to a whole number, such that they add up to all sequences."""
    sums = np.rint(np.cumsum(counts, dtype=np.float64)).astype(np.int64)
    return np.diff(sums, prepend=0).reshape(counts.shape)


def _known_levels(item: PairedStratum) -> Counts:
    """Rows by level whose levels are known, int64 [L, L]: all, but where they are estimates."""
    second = item.counts.second
    return item.levels if second is None else merge_classes(second.observed_C.reshape(item.rows.shape))


def _score_rows(item: PairedStratum) -> Iterator[Row]:
    rows, unique, copies = item.tally.rows, item.tally.unique, item.tally.copies
    for i, j in np.argwhere(rows).tolist():
        yield {
            **item.keys,
            "num_matched_from": i,
            "num_matched_to": j,
            "num_chosen": whole(rows[i, j]),
            "num_unique": None if unique is None else whole(unique[i, j]),
            "num_copies": None if copies is None else whole(copies[i, j]),
        }


def _test_rows(item: PairedStratum) -> Iterator[dict[str, Value]]:
    rows, unique = item.rows, item.unique
    classes = rows if unique is None else unique
    shared = {**item.keys, "p_symmetric_holm": None, "unit": "rows" if unique is None else "unique sequences"}
    levels = merge_classes(classes)
    fell, rose = whole(np.tril(levels, -1).sum()), whole(np.triu(levels, 1).sum())
    levels = levels if item.counts.second is None else levels * item.evidence
    moved = (levels + levels.T)[np.triu_indices(NUM_LEVELS, 1)]
    note = SPARSE if ((moved > 0) & (moved < 10)).any() else None if moved.any() else ALIKE
    yield {**shared, "test": "Bowker", "num_fell": fell, "num_rose": rose, **_test(agreement.bowker(levels), note)}
    full = item.memorized
    classes = full.rows if full.unique is None else full.unique
    lost, gained = int(classes[-1, :-1].sum()), int(classes[:-1, -1].sum())
    test, note = agreement.mcnemar(lost, gained), ALIKE if lost + gained == 0 else None
    if item.pair.relation == "continuation":
        test, note = test._replace(p_value=None), NESTED
    elif item.pair.relation == "context" and note is None:
        note = MOVED
    yield {**shared, "test": "McNemar", "num_fell": lost, "num_rose": gained, **_test(test, note)}


def _test(test: agreement.SymmetryTest, note: str | None) -> dict[str, Value]:
    return {
        "statistic": test.statistic,
        "degrees_of_freedom": test.degrees_of_freedom,
        "p_symmetric": test.p_value,
        "note": note,
    }


def _null_rows(item: PairedStratum) -> Iterator[Row]:
    regression = agreement.regressed(item.levels)
    yield from _expected_rows(item, "regression", regression.expected, regression.correlation)
    yield from _expected_rows(item, "symmetric", agreement.symmetric(item.levels), None)
    yield from _expected_rows(item, "independent", agreement.independent(item.levels), None)


def _expected_rows(item: PairedStratum, null: str, expected: FloatArray, correlation: float | None) -> Iterator[Row]:
    counts, num_from, num_expected = item.levels, item.levels.sum(axis=1).tolist(), expected.sum(axis=1).tolist()
    small_from, _ = small_levels(item)
    for i, j in np.ndindex(NUM_LEVELS, NUM_LEVELS):
        count, chance = float(counts[i, j]), float(expected[i, j])
        share = share_of(count, num_from[i])
        expected_share = chance / num_expected[i] if num_expected[i] > 0 else None
        yield {
            **item.keys,
            "null": null,
            "correlation": correlation,
            "level_from": LEVELS[i],
            "level_to": LEVELS[j],
            "num_chosen": whole(count),
            "expected": chance,
            "share": share,
            "expected_share": expected_share,
            "share_difference": None if share is None or expected_share is None else share - expected_share,
            "residual": (count - chance) * item.evidence**0.5 / chance**0.5 if chance > 0 else None,
            "small_stratum": small_from[i],
        }


def _changed_level(classes: Counts) -> Counts:
    levels = merge_classes(classes)
    return levels.sum(axis=(-2, -1)) - np.trace(levels, axis1=-2, axis2=-1)


def _changed_memorized(classes: Counts) -> Counts:
    return classes[..., -1, :-1].sum(axis=-1) + classes[..., :-1, -1].sum(axis=-1)


def _noise_rows(item: PairedStratum, twin: PairedStratum | None, level: float) -> Iterator[Row]:
    if twin is None:
        return
    for name, top in (("level", _changed_level), ("memorized", _changed_memorized)):
        if name == "memorized":
            item, twin = item.memorized, twin.memorized
        rows, floor_rows = item.rows, twin.rows
        floor = intervals_of(twin, top, everyone, level)
        one, other = twin.pair.run_from.label, twin.pair.run_to.label
        yield {
            **item.keys,
            "changed": name,
            "num_chosen": whole(top(rows)),
            **rate(item, top, everyone, level),
            "twin": one if other in (item.pair.run_from.label, item.pair.run_to.label) else other,
            "noise_share": share_of(float(top(floor_rows)), float(everyone(floor_rows))),
            "noise_low": float(floor.low),
            "noise_high": float(floor.high),
        }
