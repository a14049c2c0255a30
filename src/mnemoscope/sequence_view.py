"""What is known of one sequence of a study, seen by one model at one context; what is not known is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mnemoscope.sequence_facts import SequenceScore, Trace


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
    texts: Mapping[int, str] | None
    """The text of each token that is text by itself; None without a tokenizer."""
    scores: tuple[SequenceScore, ...]
    """By model, in the study's order, and by context."""
    notes: tuple[str, ...]
    """What is not known, and why."""
