"""Conversations in JSON lines -> documents whose assistant's turns are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.tokenizer import TextTokenizer


class EncodedConversation(NamedTuple):
    """One line's conversation."""

    line: int
    tokens: NDArray[np.int64]
    turns: list[tuple[int, int]]
    """First token, and token behind the last, of each assistant's turn."""


@final
@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Files of conversations, ready to be encoded."""

    tokenizer: TextTokenizer
    facts: Mapping[str, object]
    notes: tuple[str, ...]

    def encode(self) -> Iterator[EncodedConversation]:
        """The conversations in order."""
        raise NotImplementedError


def open_conversations(
    paths: Sequence[str],
    *,
    tokenizer: str | None,
    field: str | None,
    chat_template: str | None,
    model: str | None,
) -> Conversations | None:
    """The conversations of files; None where they hold other things."""
    del paths, tokenizer, field, chat_template, model
    return None
