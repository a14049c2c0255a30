"""Sequences -> the same without the tokens that look private, and without long verbatim text.

A token that shares a character with a private span, or that lies beyond the limit of verbatim text, is replaced by
`HIDDEN`, in the truth and in what models said; its text is dropped. The scores stay: they say nothing of the text.

A span is looked for in the truth, in each path that a model took (the context and what it generated), and in what it
would have said inside the context. A hidden true token hides what every model said at its place; a hidden generated
token hides the true one that it equals, for both are the same text. What private text looks like, and what is missed,
stands in `private_text`; further limits:

- a window is all that is seen: what begins before it or goes on behind it may not be told for what it is;
- each sequence is treated alone: one that overlaps another in the corpus may show what the other hides;
- `max_verbatim_tokens` counts tokens in a row: a hidden one in between starts the count anew;
- without a tokenizer nothing can be told apart, so that every token is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.private_text import UNREADABLE, find_private
from mnemoscope.sequence_facts import HIDDEN, ScoreKey, SequenceFacts, Trace, longest_truth

MAX_VERBATIM_TOKENS: Final = 50
"""Tokens of true text in a row that are shown, unless told otherwise."""
_UNKNOWN: Final = -1
_BLIND: Final = "all tokens are hidden: without a tokenizer nobody can tell which of them are private"


def hide_tokens(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which tokens of a text, given one by one, share a character with something that looks private; bool [tokens]."""
    stops = np.array(list(accumulate(map(len, texts))), np.int64)
    starts = stops - np.array([len(text) for text in texts], np.int64)
    is_hidden = np.zeros(len(texts), np.bool_)
    for span in find_private("".join(texts)):
        is_hidden[np.searchsorted(stops, span.start, "right") : np.searchsorted(starts, span.stop, "left")] = True
    return is_hidden


def hide_verbatim(is_hidden: NDArray[np.bool_], *, max_verbatim_tokens: int) -> NDArray[np.bool_]:
    """The same, and everything after `max_verbatim_tokens` shown tokens in a row."""
    num_shown = 0
    for place, is_out in enumerate(is_hidden.tolist()):
        num_shown = 0 if is_out else num_shown + 1
        if num_shown > max_verbatim_tokens:
            return is_hidden | (np.arange(len(is_hidden)) >= place)
    return is_hidden


def redact_sequence(facts: SequenceFacts, *, max_verbatim_tokens: int = MAX_VERBATIM_TOKENS) -> SequenceFacts:
    """The sequence with `HIDDEN` for hidden tokens, `redacted` their indexes, and a note of how many they are."""
    tokens = longest_truth(facts.traces) if facts.tokens is None else facts.tokens
    if tokens is None:
        return facts
    truth = np.array(tokens, np.int64)
    is_hidden = _hide(truth, facts.texts)
    said: dict[ScoreKey, NDArray[np.bool_]] = {}
    for key, trace in facts.traces.items():
        path = np.concatenate([trace.true_tokens_P[: key.context], trace.generated_tokens_P[key.context :]])
        on_path, said[key] = _hide(path, facts.texts), _hide(trace.generated_tokens_P, facts.texts)
        said[key][key.context :] |= on_path[key.context :]
        is_same = trace.generated_tokens_P == trace.true_tokens_P
        size = min(len(truth), len(path))
        is_hidden[:size] |= (said[key] & is_same)[:size]
        is_hidden[: min(size, key.context)] |= on_path[: min(size, key.context)]
    is_hidden = hide_verbatim(is_hidden, max_verbatim_tokens=max_verbatim_tokens)
    traces = {key: _redact_trace(trace, said[key], is_hidden) for key, trace in facts.traces.items()}
    tokens = tuple(np.where(is_hidden, HIDDEN, truth).tolist())
    shown = {*tokens, *(token for trace in traces.values() for token in trace.generated_tokens_P.tolist())}
    texts = None if facts.texts is None else {token: text for token, text in facts.texts.items() if token in shown}
    return replace(
        facts,
        tokens=tokens,
        traces=traces,
        texts=texts,
        redacted=tuple(np.flatnonzero(is_hidden).tolist()),
        notes=(
            *facts.notes,
            _note(int(is_hidden.sum()), len(truth), max_verbatim_tokens) if facts.texts is not None else _BLIND,
        ),
    )


def _hide(tokens: NDArray[np.int64], texts: Mapping[int, str] | None) -> NDArray[np.bool_]:
    if texts is None:
        return np.ones(len(tokens), np.bool_)
    return hide_tokens(["" if token == _UNKNOWN else texts.get(token, UNREADABLE) for token in tokens.tolist()])


def _redact_trace(trace: Trace, is_said: NDArray[np.bool_], is_hidden: NDArray[np.bool_]) -> Trace:
    """A trace without what is hidden of its own and of the truth; the token that is unknown stays so."""
    beyond = np.ones(max(0, len(is_said) - len(is_hidden)), np.bool_)
    truth = np.concatenate([is_hidden, beyond])[: len(is_said)]
    generated = trace.generated_tokens_P
    return trace._replace(
        true_tokens_P=np.where(truth, HIDDEN, trace.true_tokens_P),
        generated_tokens_P=np.where((truth | is_said) & (generated != _UNKNOWN), HIDDEN, generated),
    )


def _note(num_hidden: int, num_tokens: int, max_verbatim_tokens: int) -> str:
    return (
        f"{num_hidden} of {num_tokens} tokens are hidden: they look private, or come after {max_verbatim_tokens} shown"
    )
