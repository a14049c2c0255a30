"""Membership signals of passages, from the same pass: how well they tell training passages from held-out ones.

A signal is larger for what the model knows better. Taken over all tokens of a passage but its first, which nothing
predicts:

- loss: minus the mean negative log-probability;
- zlib ratio: the same over the bytes of the text as zlib compresses it (Carlini et al. 2021);
- Min-K%: the mean of the lowest fifth of log-probabilities (Shi et al. 2024);
- Min-K%++: the same of log-probabilities as standard scores of the model's own distribution (Zhang et al. 2025).

Axes: R passages, W tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.facts import AuditFacts
from mnemoscope.audit.result import Signal
from mnemoscope.audit.separation import measure_area, measure_rate
from mnemoscope.audit.units import Units

LOWEST_PERCENT: Final = 20
_LEAST_DEVIATION: Final = 1e-6
"""In nats: below, a model is certain, and a standard score would divide rounding errors by one another."""
Floats = NDArray[np.float64]


def measure_signals(facts: AuditFacts, units: Units, text_of: Callable[[NDArray[np.int32]], str]) -> tuple[Signal, ...]:
    """Each signal's separation of members from held-out passages, one passage of each unit."""
    rows = representatives(facts, units)
    is_member = facts.passages.is_member_R[rows]
    return tuple(
        _signal(name, values[is_member], values[~is_member])
        for name, values in signal_values(facts, rows, text_of).items()
    )


def _signal(name: str, member_M: Floats, control_H: Floats) -> Signal:
    member_M, control_H = member_M[~np.isnan(member_M)], control_H[~np.isnan(control_H)]
    return Signal(
        name=name,
        auc=measure_area(member_M, control_H),
        tpr_at_1=measure_rate(member_M, control_H, 0.01),
        tpr_at_01=measure_rate(member_M, control_H, 0.001),
        num_member=len(member_M),
        num_control=len(control_H),
    )


def representatives(facts: AuditFacts, units: Units) -> NDArray[np.int64]:
    """One passage of each document, its start or first turn, and one document of each unit of duplicates; rows."""
    passages = facts.passages
    rows = np.flatnonzero(units.is_kept_R & (passages.length_R > 1))
    order = rows[np.lexsort((passages.start_R[rows], passages.document_R[rows], ~passages.is_member_R[rows]))]
    keys = np.column_stack([passages.is_member_R[order], passages.document_R[order]])
    _, first = np.unique(keys, axis=0, return_index=True)
    return units.first_of_each(order[np.sort(first)])


def signal_values(
    facts: AuditFacts, rows: NDArray[np.integer], text_of: Callable[[NDArray[np.int32]], str]
) -> dict[str, Floats]:
    """Each signal of some passages, by name; NaN where a fact is."""
    passages, tokens = facts.passages, facts.tokens
    names = "loss", "zlib ratio", f"Min-{LOWEST_PERCENT}%", f"Min-{LOWEST_PERCENT}%++"
    values = np.full((len(names), len(rows)), np.nan)
    for at, row in enumerate(np.asarray(rows).tolist()):
        length = int(passages.length_R[row])
        log_p, mean, deviation = (
            np.asarray(part[row, 1:length], np.float64)
            for part in (tokens.log_probability_RW, tokens.mean_RW, tokens.deviation_RW)
        )
        score = (log_p - mean) / np.maximum(deviation, _LEAST_DEVIATION)
        num_bytes = len(zlib.compress(text_of(passages.tokens_RW[row, :length]).encode()))
        values[:, at] = log_p.mean(), log_p.mean() / num_bytes, mean_of_lowest(log_p), mean_of_lowest(score)
    return dict(zip(names, values, strict=True))


def mean_of_lowest(values: Floats) -> float:
    """The mean of the lowest fifth, rounded down, of one value or more; NaN where one is."""
    if np.isnan(values).any():
        return float("nan")
    num = max(1, len(values) * LOWEST_PERCENT // 100)
    return float(np.partition(values, num - 1)[:num].mean())
