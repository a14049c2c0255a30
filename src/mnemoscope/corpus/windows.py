"""Rows -> windows: as many tokens of each row as the grid needs, in one array.

Axes: R rows, W window tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.corpus import Corpus
from mnemoscope.corpus.draws import draw_below
from mnemoscope.errors import CorpusError


class Windows(NamedTuple):
    """The windows of R rows."""

    sequence_ids: NDArray[np.int64]
    """int64 [R]: the rows, in the order asked for, without those that were too short."""
    offsets: NDArray[np.int64]
    """int64 [R]: where each window starts in its row, in tokens."""
    tokens: NDArray[np.int64]
    """int64 [R, W]."""
    num_short: int
    """Rows left out because they are too short."""


def read_windows(
    corpus: Corpus,
    sequence_ids: NDArray[np.int64],
    *,
    window_tokens: int,
    offset: int | Literal["random"],
    seed: int,
    short_rows: Literal["error", "skip"],
) -> Windows:
    """The window of each row; a random offset is drawn from (seed, row) alone, uniform where the window fits.

    Raises CorpusError for a row too short, unless short rows are skipped: then they are left out and counted.
    """
    sequence_ids = np.asarray(sequence_ids, np.int64)
    needed = window_tokens + (0 if offset == "random" else offset)
    lengths = np.empty(len(sequence_ids), np.int64)
    offsets = np.empty(len(sequence_ids), np.int64)
    tokens_RW = np.empty((len(sequence_ids), window_tokens), np.int64)
    for first, rows in _read_runs(corpus, sequence_ids):
        part = slice(first, first + len(rows))
        lengths[part] = [len(row) for row in rows]
        offsets[part] = _offsets(lengths[part], sequence_ids[part], offset, window_tokens, seed)
        for number, row in enumerate(rows, start=first):
            if len(row) >= needed:
                tokens_RW[number] = row[offsets[number] : offsets[number] + window_tokens]
    is_long = lengths >= needed
    if short_rows == "error" and not is_long.all():
        raise _too_short(corpus, int(sequence_ids[np.argmin(is_long)]), int(lengths[np.argmin(is_long)]), needed)
    return Windows(sequence_ids[is_long], offsets[is_long], tokens_RW[is_long], int((~is_long).sum()))


def check_vocabulary(
    windows_or_tokens: Windows | Sequence[NDArray[np.integer]],
    vocab_size: int,
    corpus: Corpus,
    *,
    first_row: int = 0,
) -> None:
    """CorpusError naming file, row and id unless every token id is in [0, vocab_size).

    Takes windows, or the rows of `corpus.tokens(first_row, ...)`.
    """
    if isinstance(windows_or_tokens, Windows):
        rows, ids, offsets = (
            windows_or_tokens.tokens,
            windows_or_tokens.sequence_ids,
            windows_or_tokens.offsets,
        )
    else:
        rows = windows_or_tokens
        ids, offsets = np.arange(first_row, first_row + len(rows)), np.zeros(len(rows), np.int64)
    for number, row in enumerate(rows):
        if row.size and (row.min() < 0 or row.max() >= vocab_size):
            index = int(np.argmax((row < 0) | (row >= vocab_size)))
            raise CorpusError(
                f"{corpus.place(int(ids[number]))}: token id {int(row[index])} "
                f"at index {int(offsets[number]) + index}; the model's vocabulary has {vocab_size} ids, "
                f"0 to {vocab_size - 1}: tokens of another tokenizer?"
            )


def _read_runs(corpus: Corpus, sequence_ids: NDArray[np.int64]) -> Iterator[tuple[int, Sequence[NDArray[np.integer]]]]:
    """Rows by runs of consecutive ids, each with the index of its first."""
    breaks = np.flatnonzero(np.diff(sequence_ids) != 1) + 1
    edges = [0, *breaks.tolist(), len(sequence_ids)] if len(sequence_ids) else []
    for first, stop in pairwise(edges):
        start = int(sequence_ids[first])
        yield first, corpus.tokens(start, start + stop - first)


def _offsets(
    lengths: NDArray[np.int64],
    sequence_ids: NDArray[np.int64],
    offset: int | Literal["random"],
    window_tokens: int,
    seed: int,
) -> NDArray[np.int64]:
    if offset != "random":
        return np.full(len(lengths), offset, np.int64)
    return draw_below(np.maximum(lengths - window_tokens, 0) + 1, counters=sequence_ids, seed=seed)


def _too_short(corpus: Corpus, row: int, length: int, needed: int) -> CorpusError:
    return CorpusError(
        f"{corpus.place(row)}: {length} tokens; the grid and offset need {needed} "
        '(set short_rows = "skip" to leave such rows out and count them)'
    )
