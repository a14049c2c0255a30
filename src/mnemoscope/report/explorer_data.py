"""Sequences as the page's explorer reads them: plain JSON values, with corpus text already made harmless.

A token is its id; `texts` has what is shown of each id that is text by itself. Indexes of models and contexts are those
of the study's lists. `HIDDEN` stands for a token that redaction took out. What is not known is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypedDict

from mnemoscope.report.escapes import escape
from mnemoscope.report.explorer_sample import ExplorerSample
from mnemoscope.sequence_facts import HIDDEN, ScoreKey, SequenceFacts, SequenceScore, Trace

MAX_TEXT: Final = 200
"""Characters of a token that the data have; a longer one is cut, and says by how much."""
MAX_BYTES: Final = 1_700_000
"""Of the explorer's data as JSON, unless told otherwise."""
PREVIEW_CONTEXT: Final = 48
PREVIEW_CONTINUATION: Final = 64
_ROOM_FOR_NOTE: Final = 300
BLOCK: Final = "\u2588"
"""Shown for a hidden token."""


class ScoreJson(TypedDict):
    """What a model did with a sequence at one context."""

    num_matched: list[int | None]
    """Per continuation."""
    first_mismatch: int | None
    log_probability: list[float | None]
    """Per continuation, nats."""
    matched: str
    """A character per index of the longest continuation: 1, 0, or ? where unknown."""


class TraceJson(TypedDict):
    """What a model said of a traced sequence, token by token of the path."""

    model: int
    context: int
    generated: list[int]
    """Token ids; -1 unknown."""
    entropy: list[float | None]
    """Nats."""


class SequenceJson(TypedDict):
    """One sequence under all models and contexts."""

    id: int
    group: str
    offset: int | None
    num_repeats: int | None
    weight: float | None
    """Scored sequences of the study that it stands for."""
    tokens: list[int] | None
    """Of the window; fewer where they are known from a trace only."""
    scores: list[list[ScoreJson | None]]
    """By model and context."""
    traces: list[TraceJson]
    notes: list[str]
    redacted: list[int]
    """Indexes of `tokens` that are hidden."""


class RowJson(TypedDict):
    """A sequence in a list, under one model, context and continuation."""

    id: int
    group: str
    num_repeats: int | None
    num_matched: int | None
    first_mismatch: int | None
    log_probability: float | None
    preview: str | None


class ExplorerJson(TypedDict):
    """All that the explorer of a page has."""

    note: str
    texts: dict[str, str]
    """By token id."""
    sequences: list[SequenceJson]


class ExplorerShape(NamedTuple):
    """The lists of the study that the data refer to by index."""

    models: tuple[str, ...]
    """Labels."""
    final_models: frozenset[str]
    """Labels of those that are no intermediate checkpoints."""
    contexts: tuple[int, ...]
    continuations: tuple[int, ...]


def explorer_json(
    facts: Sequence[SequenceFacts], sample: ExplorerSample, shape: ExplorerShape, *, max_bytes: int = MAX_BYTES
) -> ExplorerJson:
    """The sample's sequences, `facts` in the order of its picks, in at most `max_bytes` of JSON if that can be.

    To fit, the traces of intermediate checkpoints are left out first; then sequences, as evenly over the strata as they
    were drawn; where one for each stratum is still too much, the traces of all models but the largest, and then all.
    The note says what was left out.
    """
    room = max_bytes - _size(texts_json(facts)) - len(sample.note) - _ROOM_FOR_NOTE
    kept, num_fitting, whose = _fit(facts, sample, shape, room)
    fewer = sample.cut(num_fitting)
    num_out = len(sample.picks) - len(fewer.picks)
    out = [*whose, *([f"{num_out:,} of {len(sample.picks):,} drawn sequences"] if num_out else [])]
    note = f"{fewer.note} Left out, for the page would be too large: {' and '.join(out)}." if out else fewer.note
    chosen = sorted(zip(kept, fewer.weights, strict=False), key=lambda pair: (pair[0].group != "member", pair[0].pick))
    return {
        "note": note,
        "texts": texts_json(own for own, _ in chosen),
        "sequences": [sequence_json(own, shape, weight=weight) for own, weight in chosen],
    }


def sequence_json(facts: SequenceFacts, shape: ExplorerShape, *, weight: float | None = None) -> SequenceJson:
    """A sequence, standing for `weight` of the study's."""
    return {
        "id": facts.sequence_id,
        "group": facts.group,
        "offset": facts.offset,
        "num_repeats": facts.num_repeats,
        "weight": None if weight is None else round(weight, 4),
        "tokens": None if facts.tokens is None else list(facts.tokens),
        "scores": [
            [_score_json(facts.scores.get(ScoreKey(model, context)), shape) for context in shape.contexts]
            for model in shape.models
        ],
        "traces": [
            _trace_json(trace, shape.models.index(key.model), key.context) for key, trace in facts.traces.items()
        ],
        "notes": list(facts.notes),
        "redacted": list(facts.redacted),
    }


def texts_json(facts: Iterable[SequenceFacts]) -> dict[str, str]:
    """What is shown of each token of some sequences, true or generated, that is text by itself."""
    texts: dict[int, str] = {}
    for own in facts:
        for token in _tokens_of(own):
            if own.texts is not None and token in own.texts and token not in texts:
                texts[token] = show_text(own.texts[token])
    return {str(token): texts[token] for token in sorted(texts)}


def preview(tokens: Sequence[int] | None, texts: Mapping[int, str] | None, context: int) -> str | None:
    """The first words of the context, a bar, the first of the true continuation; None where no text is known."""
    if tokens is None or texts is None:
        return None
    head = _joined(tokens[:context], texts, PREVIEW_CONTEXT)
    return f"{head} | {_joined(tokens[context:], texts, PREVIEW_CONTINUATION)}"


def show_text(text: str) -> str:
    """A token's text without anything that is not seen or moves what is around it, cut where it is very long."""
    kept = escape(text[:MAX_TEXT])
    return kept if len(text) <= MAX_TEXT else f"{kept}[+{len(text) - MAX_TEXT}]"


def _joined(tokens: Sequence[int], texts: Mapping[int, str], size: int) -> str:
    """The text of tokens up to about `size` characters; ids where there is none, a block where it is hidden."""
    parts: list[str] = []
    used = 0
    for token in tokens:
        part = BLOCK if token == HIDDEN else show_text(texts[token][:size]) if token in texts else f"<{token}>"
        if used + len(part) > size:
            return "".join([*parts, part[: size - used], "\u2026"])
        parts.append(part)
        used += len(part)
    return "".join(parts)


def _fit(
    facts: Sequence[SequenceFacts], sample: ExplorerSample, shape: ExplorerShape, room: int
) -> tuple[list[SequenceFacts], int, list[str]]:
    """The sequences with the traces that are kept, how many of the first of them fit, and what is left out."""
    every, final = frozenset(shape.models), shape.final_models
    savings = [
        (every, [], every == final),
        (final, ["traces of intermediate checkpoints"], True),
        (frozenset({sample.model}), [f"traces of all models but {sample.model}"], True),
    ]
    for traced, whose, may_cut in savings:
        kept = [_with_traces(own, traced) for own in facts]
        num_fitting = _num_fitting(kept, shape, room)
        if num_fitting == len(kept) or (may_cut and num_fitting >= len(sample.sizes)):
            return kept, num_fitting, whose
    kept = [_with_traces(own, frozenset()) for own in facts]
    return kept, _num_fitting(kept, shape, room), ["traces"]


def _num_fitting(facts: Sequence[SequenceFacts], shape: ExplorerShape, room: int) -> int:
    """How many of the first sequences fit into some bytes."""
    for number, own in enumerate(facts):
        room -= _size(sequence_json(own, shape, weight=1.2345)) + 1
        if room < 0:
            return number
    return len(facts)


def _with_traces(facts: SequenceFacts, traced: frozenset[str]) -> SequenceFacts:
    """A sequence with the traces of some models only."""
    return replace(facts, traces={key: trace for key, trace in facts.traces.items() if key.model in traced})


def _tokens_of(facts: SequenceFacts) -> Iterable[int]:
    tokens = set(facts.tokens or ())
    for trace in facts.traces.values():
        tokens.update(trace.generated_tokens_P.tolist())
    return tokens


def _score_json(score: SequenceScore | None, shape: ExplorerShape) -> ScoreJson | None:
    if score is None:
        return None
    signs = {True: "1", False: "0", None: "?"}
    matched = (None,) * shape.continuations[-1] if score.matched is None else score.matched
    return {
        "num_matched": list(score.num_matched),
        "first_mismatch": score.first_mismatch,
        "log_probability": [_rounded(value) for value in score.log_probability],
        "matched": "".join(signs[is_matched] for is_matched in matched),
    }


def _trace_json(trace: Trace, model: int, context: int) -> TraceJson:
    return {
        "model": model,
        "context": context,
        "generated": trace.generated_tokens_P.tolist(),
        "entropy": [_rounded(value) for value in trace.entropy_P.tolist()],
    }


def _rounded(value: float | None) -> float | None:
    """Two decimals, and none where they are zero; None for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    rounded = round(value, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def _size(value: object) -> int:
    """Bytes as JSON."""
    return len(json.dumps(value, separators=(",", ":")))
