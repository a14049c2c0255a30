"""The member passages that a model recites or nearly recites, most exposed first.

Axes: R passages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.exposure import NearFacts, is_known, samples_needed, sum_continuation
from mnemoscope.audit.facts import AuditFacts
from mnemoscope.audit.result import Exposed
from mnemoscope.audit.units import Units

LIMIT: Final = 200
HALF: Final = 0.5
Tokens = NDArray[np.int32]
Bools = NDArray[np.bool_]


class Described(NamedTuple):
    """A passage for readers: as text, as far as it may be shown, and what its continuation has of private things."""

    context: str
    continuation: str
    private: tuple[str, ...] = ()
    """Kinds."""


Describe = Callable[[Tokens, Tokens], Described]
"""Of a passage's context and continuation."""


class Cells(NamedTuple):
    """The cell at which each passage is shown: the reference, else the longest that it has room for; -1 for none."""

    context_R: NDArray[np.int64]
    """Index of the context."""
    continuation_R: NDArray[np.int64]
    """n, in tokens."""
    is_full_R: Bools
    """Whether it is recited there."""


class _Measured(NamedTuple):
    """Of all passages, what a row is made of."""

    cells: Cells
    near: NearFacts
    log_R: NDArray[np.float64]
    """Log-probability of the continuation at each one's cell, in nats."""
    needed: dict[str, NDArray[np.float64]]


def exposed(
    facts: AuditFacts,
    units: Units,
    near: NearFacts,
    copies_R: NDArray[np.int64],
    *,
    least_similarity: float,
    describe: Describe,
    limit: int = LIMIT,
) -> tuple[Exposed, ...]:
    """At most `limit` different member passages: the recited, then the near-verbatim; in each those that are likeliest
    to be sampled first, and of equals those with most copies. Too short ones are shown at a shorter cell if recited.
    """
    measured = _measure(facts, near)
    cells, log_R = measured.cells, measured.log_R
    is_shown_R = facts.passages.is_member_R & units.is_kept_R & (cells.is_full_R | near.is_near(least_similarity))
    rows = np.flatnonzero(is_shown_R)
    _, first = np.unique(units.window_R[rows], return_index=True)
    rows = rows[np.sort(first)]
    order = np.lexsort((rows, -copies_R[rows], -log_R[rows], ~cells.is_full_R[rows]))
    shown = rows[order][:limit]
    return tuple(
        _row(facts, measured, row, cluster=int(units.cluster_R[row]), num_copies=int(copies_R[row]), describe=describe)
        for row in shown.tolist()
    )


def _measure(facts: AuditFacts, near: NearFacts) -> _Measured:
    cells = own_cells(facts)
    needed = {
        sampling.name: samples_needed(_by_cell(facts, cells, facts.tokens.sampled_RSW[:, number]), HALF)
        for number, sampling in enumerate(facts.samplings)
    }
    return _Measured(cells, near, _by_cell(facts, cells, facts.tokens.log_probability_RW), needed)


def own_cells(facts: AuditFacts) -> Cells:
    """The cell of each passage; after the reference, longer continuations come first, then longer contexts."""
    num = len(facts.passages.length_R)
    context_R, continuation_R, is_full_R = np.full(num, -1), np.full(num, -1), np.zeros(num, np.bool_)
    contexts = range(len(facts.context_labels))
    shorter = [(context, n) for n in sorted(facts.continuations, reverse=True) for context in reversed(contexts)]
    for context, n in (facts.reference, *shorter):
        is_open_R = (context_R < 0) & is_known(facts, context, n)
        context_R[is_open_R], continuation_R[is_open_R] = context, n
        is_full_R[is_open_R] = facts.is_recited(context, n)[is_open_R]
    return Cells(context_R, continuation_R, is_full_R)


def _by_cell(facts: AuditFacts, cells: Cells, values_RW: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums over each passage's continuation at its own cell; NaN where it has none."""
    sum_R = np.full(len(cells.context_R), np.nan)
    pairs = np.column_stack([cells.context_R, cells.continuation_R])
    for context, n in np.unique(pairs, axis=0).tolist():
        if context >= 0:
            own_R = (pairs == (context, n)).all(1)
            sum_R[own_R] = sum_continuation(facts, values_RW, context, n)[own_R]
    return sum_R


def _row(
    facts: AuditFacts, measured: _Measured, row: int, *, cluster: int, num_copies: int, describe: Describe
) -> Exposed:
    passages, cells, near = facts.passages, measured.cells, measured.near
    n, is_full = int(cells.continuation_R[row]), bool(cells.is_full_R[row])
    context = int(passages.context_RC[row, cells.context_R[row]])
    true = passages.tokens_RW[row, context : context + n]
    num_recited = n if is_full else int(np.logical_and.accumulate(facts.path_Rn[row, :n] == true).sum())
    described = describe(passages.tokens_RW[row, :context], true)
    return Exposed(
        passage=row,
        line=int(passages.line_R[row]),
        kind=passages.kind_R[row],
        start=int(passages.start_R[row]),
        context=context,
        continuation=n,
        num_recited=num_recited,
        is_full=is_full,
        similarity=1.0 if is_full else float(near.similarity_R[row]),
        longest_run=n if is_full else int(near.longest_run_R[row]),
        shortest_context=int(facts.trigger_R[row]) if facts.trigger_R[row] >= 0 else None,
        log_probability=_finite(measured.log_R[row]),
        samples_needed={name: _finite(values_R[row]) for name, values_R in measured.needed.items()},
        num_copies=num_copies,
        cluster=cluster,
        private=described.private,
        context_text=described.context,
        continuation_text=described.continuation,
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
