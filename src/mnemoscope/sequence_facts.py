"""Everything that a study stores of one sequence, under all of its models and contexts; what is not known is None.

Axes: P tokens of the traced path (context and continuation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

HIDDEN: Final = -2
"""Stands for a token that redaction has taken out."""


class SequencePick(NamedTuple):
    """Which sequence: ids of members and of the control are rows of two corpora."""

    group: Literal["member", "control"]
    sequence_id: int


class ScoreKey(NamedTuple):
    """Under which model, by label, and after how many tokens."""

    model: str
    context: int


class SequenceScore(NamedTuple):
    """What a model did with the sequence at one context."""

    model: str
    context: int
    num_matched: tuple[int | None, ...]
    """Per continuation; in mode `exact` known of full matches only."""
    first_mismatch: int | None
    """Index in the continuation; the longest continuation's length where there is none, None where unknown."""
    log_probability: tuple[float | None, ...]
    """Per continuation, of the truth, in nats."""
    matched: tuple[bool | None, ...] | None
    """Per index of the longest continuation: generated token == true token."""


class Trace(NamedTuple):
    """What the model said, token by token, where the sequence was traced at this context."""

    true_tokens_P: NDArray[np.int64]
    generated_tokens_P: NDArray[np.int64]
    """In the context what the model would have said next; -1 at index 0."""
    entropy_P: NDArray[np.float64]
    """Nats; NaN at index 0."""


def longest_truth(traces: Mapping[ScoreKey, Trace]) -> tuple[int, ...] | None:
    """The true tokens as far as the longest trace has them; None without traces."""
    return max((tuple(trace.true_tokens_P.tolist()) for trace in traces.values()), key=len, default=None)


@dataclass(frozen=True, kw_only=True)
class SequenceFacts:
    """A sequence as all models and contexts of its study saw it."""

    sequence_id: int
    group: Literal["member", "control"]
    offset: int | None
    """Tokens from the start of the row to the window."""
    num_repeats: int | None
    """Copies in the training stream."""
    tokens: tuple[int, ...] | None
    """The true tokens from the window's start on: k_max + n_max of them from the corpus, fewer from a trace."""
    texts: Mapping[int, str] | None
    """The text of each token that is text by itself, at least of those that are here; None without a tokenizer."""
    scores: Mapping[ScoreKey, SequenceScore]
    """By model, in the study's order, and by context; a model that has not scored the sequence is not there."""
    traces: Mapping[ScoreKey, Trace]
    """The same of traces, where there are some."""
    notes: tuple[str, ...]
    """What is not known under any model, and why."""
    redacted: tuple[int, ...] = ()
    """Indexes of `tokens` that are hidden."""

    @property
    def pick(self) -> SequencePick:
        """Which sequence it is."""
        return SequencePick(self.group, self.sequence_id)
