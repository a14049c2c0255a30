"""What an endpoint has said of passages -> the rows of a result, as a model at hand gets them.

Axes: R passages, C contexts, N continuations.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.black_box.endpoint_facts import EndpointFacts
from mnemoscope.audit.exposed import LIMIT, Describe
from mnemoscope.audit.exposure import FULL_MATCH, LONG_RUN_TOKENS
from mnemoscope.audit.result import Compared, Exposed
from mnemoscope.audit.shares import compare, kinds_of
from mnemoscope.audit.units import Units

_ROUNDING: Final = 1e-12


def endpoint_recited(facts: EndpointFacts, units: Units) -> tuple[Compared, ...]:
    """Full matches in every cell that was asked about, by kind and for all kinds."""
    return tuple(
        compare(
            facts.recited_RCN[:, column, place],
            facts.known_RCN[:, column, place],
            facts.passages,
            units,
            what=FULL_MATCH,
            kind=kind,
            context=label,
            n=n,
        )
        for column, label in enumerate(facts.context_labels)
        for place, n in enumerate(facts.continuations)
        for kind in kinds_of(facts.passages)
    )


def endpoint_near(
    facts: EndpointFacts, units: Units, *, context: int, continuation: int, least_similarity: float
) -> tuple[Compared, ...]:
    """Near-verbatim answers in one cell - `context` an index among the facts' contexts - by the audit's criteria."""
    place, half = facts.continuation_index(continuation), (continuation + 1) // 2
    known_R = facts.known_RCN[:, context, place]
    similarity_R = np.nan_to_num(facts.similarity_RCN[:, context, place], nan=-1.0)
    run_R = facts.longest_run_RCN[:, context, place]
    criteria = [
        (f"edit similarity of {least_similarity:g} or more", similarity_R >= least_similarity - _ROUNDING),
        (f"common run of {half} tokens or more", run_R >= half),
    ]
    if continuation >= LONG_RUN_TOKENS:
        criteria.append((f"common run of {LONG_RUN_TOKENS} tokens or more", run_R >= LONG_RUN_TOKENS))
    label = facts.context_labels[context]
    return tuple(
        compare(hits_R, known_R, facts.passages, units, what=what, kind=kind, context=label, n=continuation)
        for what, hits_R in criteria
        for kind in kinds_of(facts.passages)
    )


def endpoint_exposed(
    facts: EndpointFacts,
    units: Units,
    copies_R: NDArray[np.int64],
    *,
    context: int,
    continuation: int,
    least_similarity: float,
    describe: Describe,
    limit: int = LIMIT,
) -> tuple[Exposed, ...]:
    """At most `limit` different member passages of one cell: the recited, then the likest; of equals those with most
    copies first.

    How likely a sample is, and which shorter context would do, an endpoint does not tell.
    """
    place = facts.continuation_index(continuation)
    full_R, similarity_R = facts.recited_RCN[:, context, place], facts.similarity_RCN[:, context, place]
    is_near_R = full_R | (np.nan_to_num(similarity_R, nan=-1.0) >= least_similarity - _ROUNDING)
    rows = np.flatnonzero(facts.passages.is_member_R & units.is_kept_R & facts.known_RCN[:, context, place] & is_near_R)
    _, first = np.unique(units.window_R[rows], return_index=True)
    rows = rows[np.sort(first)]
    shown = rows[np.lexsort((rows, -copies_R[rows], -similarity_R[rows], ~full_R[rows]))][:limit]
    return tuple(
        _exposed_row(
            facts,
            (row, context, place),
            cluster=int(units.cluster_R[row]),
            num_copies=int(copies_R[row]),
            describe=describe,
        )
        for row in shown.tolist()
    )


def _exposed_row(
    facts: EndpointFacts, at: tuple[int, int, int], *, cluster: int, num_copies: int, describe: Describe
) -> Exposed:
    row, context, place = at
    passages, n = facts.passages, facts.continuations[place]
    k, is_full = int(passages.context_RC[row, facts.contexts[context]]), bool(facts.recited_RCN[at])
    described = describe(passages.tokens_RW[row, :k], passages.tokens_RW[row, k : k + n])
    return Exposed(
        passage=row,
        line=int(passages.line_R[row]),
        kind=passages.kind_R[row],
        start=int(passages.start_R[row]),
        context=k,
        continuation=n,
        num_recited=n if is_full else min(int(facts.num_recited_RCN[at]), n - 1),
        is_full=is_full,
        similarity=1.0 if is_full else float(facts.similarity_RCN[at]),
        longest_run=n if is_full else int(facts.longest_run_RCN[at]),
        shortest_context=None,
        log_probability=None,
        samples_needed={},
        num_copies=num_copies,
        cluster=cluster,
        private=described.private,
        context_text=described.context,
        continuation_text=described.continuation,
    )
