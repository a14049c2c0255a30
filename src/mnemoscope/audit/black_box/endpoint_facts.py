"""Passages -> what a model behind an endpoint recites of them, as text.

A passage is recited where the answer begins with the continuation's text, blanks and all. Nearness is in tokens of the
texts, cut anew by the tokenizer at hand, and approximate.

Axes: R passages, C contexts, N continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.black_box.asking import Answers, ask_endpoint
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.journal import Spending
from mnemoscope.audit.black_box.questions import EXTRA_TOKENS, Decode, Encode, Question, ask_of
from mnemoscope.audit.exposure import longest_runs
from mnemoscope.audit.facts import Passages
from mnemoscope.progress import Progress

APPROXIMATE: Final = (
    "The model was asked through its endpoint, text in and text out: it cuts prompts into tokens by itself, which need "
    "not be those of the passages, so that token counts are approximate; full matches are of the text, blanks and all."
)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EndpointFacts:
    """Everything that an endpoint has said of passages."""

    passages: Passages
    context_labels: tuple[str, ...]
    """Of the C contexts that were asked about: their lengths, or `prompt`."""
    contexts: tuple[int, ...]
    """Their indexes among the passages' contexts."""
    continuations: tuple[int, ...]
    answers: tuple[tuple[str | None, ...], ...]
    """[R][C]: texts; None where nothing was asked or answered."""
    truths: tuple[tuple[tuple[str | None, ...], ...], ...]
    """[R][C][N]: texts of the continuations; None where there is none."""
    known_RCN: NDArray[np.bool_]
    """Whether there is an answer, and a continuation of this length to compare it with."""
    recited_RCN: NDArray[np.bool_]
    """Whether the answer begins with the continuation."""
    unspaced_RCN: NDArray[np.bool_]
    """The same where blanks at the beginning of either do not count: some servers drop them."""
    similarity_RCN: NDArray[np.float64]
    """1 - token edit distance / tokens of the continuation; NaN where not known."""
    longest_run_RCN: NDArray[np.int64]
    """Tokens of the longest common run; -1 where not known."""
    num_recited_RCN: NDArray[np.int64]
    """Tokens of the continuation up to the first mismatch; -1 where not known."""
    spending: Spending
    notes: tuple[str, ...]

    def continuation_index(self, continuation: int) -> int:
        """The place of a length among the continuations."""
        return self.continuations.index(continuation)

    def take(self, chosen: NDArray[np.bool_]) -> EndpointFacts:
        """What was said of some passages."""
        rows = np.flatnonzero(chosen)
        arrays = {each.name: getattr(self, each.name)[rows] for each in fields(self) if each.name.endswith("_RCN")}
        return replace(
            self,
            passages=self.passages.take(rows),
            answers=tuple(self.answers[row] for row in rows.tolist()),
            truths=tuple(self.truths[row] for row in rows.tolist()),
            **arrays,
        )


def ask_passages(
    endpoint: Endpoint,
    passages: Passages,
    decode: Decode,
    *,
    encode: Encode | None = None,
    context_labels: Sequence[str],
    continuations: Sequence[int],
    contexts: Sequence[int] | None = None,
    folder: Path,
    progress: Progress | None = None,
) -> EndpointFacts:
    """What the endpoint says after each passage's contexts (by index; default: all), asked once for equal prompts.

    The folder keeps the answers: the same call goes on where an earlier one ended. `encode` cuts texts for nearness;
    without it characters are compared. Errors are those of `asking.ask_endpoint`.
    """
    chosen = tuple(range(len(context_labels)) if contexts is None else contexts)
    asked = [
        [ask_of(passages, row, context, continuations, decode) for context in chosen]
        for row in range(len(passages.kind_R))
    ]
    questions = {_key(endpoint, each): each for row in asked for each in row if each is not None}
    answers = ask_endpoint(endpoint, questions, folder=folder, progress=progress)
    texts = tuple(
        tuple(None if each is None else answers.texts.get(_key(endpoint, each)) for each in row) for row in asked
    )
    nothing = (None,) * len(continuations)
    truths = tuple(tuple(nothing if each is None else each.truths for each in row) for row in asked)
    shape = (len(asked), len(chosen), len(continuations))
    grades = _Grades(shape, encode)
    for row, column, place in np.ndindex(*shape):
        grades.take((row, column, place), texts[row][column], truths[row][column][place])
    return EndpointFacts(
        passages=passages,
        context_labels=tuple(context_labels[context] for context in chosen),
        contexts=chosen,
        continuations=tuple(continuations),
        answers=texts,
        truths=truths,
        known_RCN=grades.known_RCN,
        recited_RCN=grades.recited_RCN,
        unspaced_RCN=grades.unspaced_RCN,
        similarity_RCN=grades.similarity_RCN,
        longest_run_RCN=grades.longest_run_RCN,
        num_recited_RCN=grades.num_recited_RCN,
        spending=answers.spending,
        notes=_notes(questions, answers, grades, _num_unaskable(passages, chosen, continuations, asked)),
    )


def _key(endpoint: Endpoint, question: Question) -> str:
    return endpoint.question_key(question.prompt, question.max_tokens)


@final
class _Grades:
    """Answers beside the truth."""

    def __init__(self, shape: tuple[int, int, int], encode: Encode | None) -> None:
        self._encode = encode
        self.known_RCN, self.recited_RCN, self.unspaced_RCN = (np.zeros(shape, np.bool_) for _ in range(3))
        self.similarity_RCN = np.full(shape, np.nan)
        self.longest_run_RCN, self.num_recited_RCN = (np.full(shape, -1, np.int64) for _ in range(2))

    def take(self, at: tuple[int, ...], answer: str | None, truth: str | None) -> None:
        """Grade one answer, where there is one."""
        if answer is None or truth is None:
            return
        self.known_RCN[at] = True
        self.recited_RCN[at] = answer.startswith(truth)
        bare = truth.lstrip()
        self.unspaced_RCN[at] = self.recited_RCN[at] or (bool(bare) and answer.lstrip().startswith(bare))
        true = self._cut(truth)
        said = true if self.recited_RCN[at] else self._cut(answer)[: len(true)]
        self.similarity_RCN[at], self.longest_run_RCN[at] = measure_likeness(true, said)
        pairs = enumerate(zip(true, said, strict=False))
        self.num_recited_RCN[at] = next((place for place, (a, b) in pairs if a != b), len(said))

    def _cut(self, text: str) -> list[int]:
        return [ord(letter) for letter in text] if self._encode is None else list(self._encode(text))


def measure_likeness(true: Sequence[int], said: Sequence[int]) -> tuple[float, int]:
    """1 - edit distance / len(true), and the longest common run, of what was said with the truth; 0 for no truth."""
    from rapidfuzz.distance import Levenshtein

    if not true:
        return 0.0, 0
    if list(true) == list(said):
        return 1.0, len(true)
    padded = [*said, *[-1] * (len(true) - len(said))]
    run = longest_runs(np.array([true]), np.array([padded]))
    return 1 - Levenshtein.distance(list(true), list(said)) / len(true), int(run[0])


def _notes(questions: dict[str, Question], answers: Answers, grades: _Grades, num_unaskable: int) -> tuple[str, ...]:
    """What a reader has to know of the answers."""
    spent = answers.spending
    notes = [
        APPROXIMATE,
        f"{len(answers.texts):,} of {len(questions):,} different prompts are answered, each asked for up to "
        f"{EXTRA_TOKENS} tokens beyond the continuation; {spent.num_requests:,} requests and about "
        f"{spent.num_tokens:,} tokens, interrupted audits among them.",
    ]
    if left := len(questions) - len(answers.texts) - len(answers.refusals):
        notes.append(f"{left:,} prompts were not answered within the budget: a random part of all.")
    if answers.refusals:
        first = next(iter(answers.refusals.values()))
        notes.append(f"{len(answers.refusals):,} prompts were refused, and count nowhere; the first: {first}")
    if num_unaskable:
        notes.append(
            f"{num_unaskable:,} contexts cannot be asked about as text: they end inside a character, or hold no text."
        )
    if spaced := int((grades.unspaced_RCN & ~grades.recited_RCN).any((1, 2)).sum()):
        notes.append(
            f"{spaced:,} passages are recited but for blanks at the answer's beginning, and do not count as full "
            "matches: a server that drops those blanks makes a model look better than it is."
        )
    return tuple(notes)


def _num_unaskable(
    passages: Passages,
    contexts: Sequence[int],
    continuations: Sequence[int],
    asked: Sequence[Sequence[Question | None]],
) -> int:
    """Contexts long enough for a continuation that nothing could be asked about."""
    fits_RC = passages.context_RC[:, list(contexts)] + min(continuations) <= passages.length_R[:, None]
    is_open_RC = np.array([[each is None for each in row] for row in asked], np.bool_).reshape(fits_RC.shape)
    return int((fits_RC & is_open_RC).sum())
