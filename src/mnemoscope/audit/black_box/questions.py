"""Passages -> what an endpoint is asked, as text, and the texts that it would recite.

The endpoint makes tokens of a prompt by itself: where a context's text is not cut as it was in the passage, the model
is asked something slightly else. That is all that can be known from outside, and is said with the findings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.facts import Passages

Decode = Callable[[NDArray[np.int32]], str]
"""The text of tokens."""
Encode = Callable[[str], Sequence[int]]
"""The tokens of a text, without any that are added at its ends."""

EXTRA_TOKENS: Final = 8
"""Asked for beyond the continuation: the endpoint may cut the same text into more tokens."""
_BROKEN: Final = "\ufffd"


class Question(NamedTuple):
    """A prompt, and what follows it in the passage."""

    prompt: str
    truths: tuple[str | None, ...]
    """The continuation's text for each of the lengths; None where the passage is too short for it."""
    num_prompt_tokens: int
    max_tokens: int

    @property
    def num_tokens(self) -> int:
        """The most that it can cost."""
        return self.num_prompt_tokens + self.max_tokens


def ask_of(passages: Passages, row: int, context: int, continuations: Sequence[int], decode: Decode) -> Question | None:
    """The question of a passage at a context, by its index; None where it has none.

    It has none where it is too short for every continuation, has no context, or where the context's end is not the end
    of a character.
    """
    length, start = int(passages.length_R[row]), int(passages.context_RC[row, context])
    fitting = [n for n in continuations if start + n <= length]
    if not fitting or not start:
        return None
    tokens = passages.tokens_RW[row]
    prompt = decode(tokens[:start])
    if not prompt.strip(_BROKEN):
        return None
    truths = tuple(_truth(tokens, prompt, start + n, decode) if n in fitting else None for n in continuations)
    if all(truth is None for truth in truths):
        return None
    # What is left of a character that the passage begins inside is no text that the model has seen.
    return Question(prompt.lstrip(_BROKEN), truths, start, max(fitting) + EXTRA_TOKENS)


def _truth(tokens: NDArray[np.int32], prompt: str, stop: int, decode: Decode) -> str | None:
    """The text after the prompt up to a token; the last character is left out where the token ends inside it."""
    whole = decode(tokens[:stop])
    if not whole.startswith(prompt):
        return None
    return whole[len(prompt) :].rstrip(_BROKEN) or None
