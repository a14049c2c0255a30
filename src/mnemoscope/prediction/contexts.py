"""Contexts of new sequences -> examples without an answer: one pass over k tokens each, nothing decoded.

Axes: R sequences, k context, I = k + 1 indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mnemoscope.corpus import Windows
from mnemoscope.model import CausalLM
from mnemoscope.prediction.examples import Examples, join_facts
from mnemoscope.tracing import trace_contexts


def read_contexts(
    model: CausalLM, windows: Windows, *, label: str, batch_size: int, layers: Sequence[int] = ()
) -> Examples:
    """The examples of windows of k tokens; they are all `member` and each its own cluster, since nothing is known."""
    traces = trace_contexts(model, windows.tokens, batch_size=batch_size, layers=layers)
    num_rows = len(windows.sequence_ids)
    facts = traces.facts
    return Examples(
        model=label,
        sequence_id=windows.sequence_ids,
        group=np.full(num_rows, "member"),
        cluster=np.arange(num_rows),
        design_weight=np.ones(num_rows),
        num_matched=np.full(num_rows, -1),
        context_states=traces.states_RYKD,
        context_facts=join_facts(facts.entropy, facts.margin, facts.log_probability, facts.rank),
    )
