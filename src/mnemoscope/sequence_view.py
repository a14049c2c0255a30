"""What is known of one sequence of a study; what is not known is None.

Axes: P tokens of the traced path (context and continuation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


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


class Trace(NamedTuple):
    """What the model said, token by token, where the sequence was traced at this context."""

    true_tokens_P: NDArray[np.int64]
    generated_tokens_P: NDArray[np.int64]
    """In the context what the model would have said next; -1 at index 0."""
    entropy_P: NDArray[np.float64]
    """Nats; NaN at index 0."""


@dataclass(frozen=True, kw_only=True)
class SequenceView:
    """A sequence as one model and one context see it, and its scores under all."""

    sequence_id: int
    group: Literal["member", "control"]
    model: str
    context: int
    """Tokens."""
    continuations: tuple[int, ...]
    """Tokens, ascending."""
    offset: int | None
    """Tokens from the start of the row to the window."""
    num_repeats: int | None
    """Copies in the training stream."""
    tokens: tuple[int, ...] | None
    """The true tokens from the window's start on: k + n_max of them from the corpus, fewer from a trace."""
    matched: tuple[bool | None, ...] | None
    """Per index of the continuation: generated token == true token."""
    first_mismatch: int | None
    """Index in the continuation; the longest continuation's length where there is none."""
    trace: Trace | None
    texts: dict[int, str] | None
    """The text of each token that is text by itself; None without a tokenizer."""
    scores: tuple[SequenceScore, ...]
    """By model, in the study's order, and by context."""
    notes: tuple[str, ...]
    """What is not known, and why."""
