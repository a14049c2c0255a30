"""The memorized set from one run to the next: what is kept, lost, gained; how well one predicts the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from mnemoscope.analyses.agreement import merge_scores
from mnemoscope.analyses.columns import Row, make_table
from mnemoscope.analyses.factors import SMALL_STRATUM
from mnemoscope.analyses.paired_strata import (
    PAIR,
    RATE,
    Counts,
    PairedStratum,
    Sum,
    everyone,
    intervals_of,
    rate,
    share_of,
    whole,
)
from mnemoscope.analyses.transition_columns import ALL_COLUMNS

FATE_COLUMNS = (*PAIR, "fate", "num_chosen", "num_unique", "num_copies", *RATE)
PREDICTION_COLUMNS = (
    *(*PAIR, "measure", "num_chosen", "num_sequences"),
    *("value", "value_low", "value_high", "lift", "small_stratum", "interval_method"),
)


def _both(classes: Counts) -> Counts:
    return classes[..., -1, -1]


def _before(classes: Counts) -> Counts:
    return classes[..., -1, :].sum(axis=-1)


def _after(classes: Counts) -> Counts:
    return classes[..., :, -1].sum(axis=-1)


def _lost(classes: Counts) -> Counts:
    return _before(classes) - _both(classes)


def _gained(classes: Counts) -> Counts:
    return _after(classes) - _both(classes)


def _others(classes: Counts) -> Counts:
    return everyone(classes) - _before(classes)


def _either(classes: Counts) -> Counts:
    return _before(classes) + _gained(classes)


FATES: Final[tuple[tuple[str, Sum, Sum], ...]] = (
    ("kept", _both, _before),
    ("lost", _lost, _before),
    ("gained", _gained, _others),
    ("new", _gained, _after),
)
"""Name, numerator and denominator."""
MEASURES: Final[tuple[tuple[str, Sum, Sum], ...]] = (
    ("precision", _both, _before),
    ("recall", _both, _after),
    ("F1", _both, _either),
    ("base rate", _after, everyone),
)
"""Name, numerator and denominator; F1's are those of the Jaccard index."""


def fate_table(strata: Sequence[PairedStratum], level: float) -> pa.Table:
    """What became of the memorized set: kept, lost, gained, new."""
    return make_table(FATE_COLUMNS, [row for item in strata for row in _fate_rows(item.memorized, level)], ALL_COLUMNS)


def prediction_table(strata: Sequence[PairedStratum], level: float) -> pa.Table:
    """How well the first run's memorized set predicts the second's, for pairs of models."""
    models = [item for item in strata if item.pair.relation in ("size", "step", "final")]
    return make_table(
        PREDICTION_COLUMNS, [row for item in models for row in _prediction_rows(item.memorized, level)], ALL_COLUMNS
    )


def _fate_rows(item: PairedStratum, level: float) -> Iterator[Row]:
    copies = None if item.tally.copies is None else merge_scores(item.tally.copies)
    rows, unique = item.rows, item.unique
    for name, top, bottom in FATES:
        yield {
            **item.keys,
            "fate": name,
            "num_chosen": whole(top(rows)),
            "num_unique": None if unique is None else whole(top(unique)),
            "num_copies": None if copies is None else whole(top(copies)),
            **rate(item, top, bottom, level),
        }


def _prediction_rows(item: PairedStratum, level: float) -> Iterator[Row]:
    rows = item.rows
    base = share_of(float(rows[:, -1].sum()), float(rows.sum()))
    for name, top, bottom in MEASURES:
        found = intervals_of(item, top, bottom, level)
        count, n = float(top(rows)), float(bottom(rows))
        value, ends = share_of(count, n), (float(found.low), float(found.high))
        if name == "F1":  # F1 rises with the share of the union that both hold, and takes its interval along
            value, ends = (None if value is None else _f1(value)), (_f1(ends[0]), _f1(ends[1]))
        yield {
            **item.keys,
            "measure": name,
            "num_chosen": whole(count),
            "num_sequences": whole(n),
            "value": value,
            "value_low": ends[0],
            "value_high": ends[1],
            "lift": value / base if name == "precision" and value is not None and base else None,
            "small_stratum": int(bottom(item.units)) < SMALL_STRATUM,
            "interval_method": found.method,
        }


def _f1(jaccard: float) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) from TP / (TP + FP + FN)."""
    return 2 * jaccard / (1 + jaccard)
