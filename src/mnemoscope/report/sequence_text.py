"""One sequence in a terminal: context, truth and generation token under token, and its scores under every model.

Matches are told by signs as well as by colours. Corpus text is escaped, see `escapes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from mnemoscope.report.escapes import escape
from mnemoscope.report.layout import PIPE_WIDTH, Column, console_width, lay_out_pieces, literal, print_table
from mnemoscope.sequence_facts import HIDDEN
from mnemoscope.sequence_view import SequenceView

WIDTH_IN_PIPE: Final = 100
MAX_CELL: Final = 24
"""Characters of a token that are shown; a longer one is cut, and says by how much."""
GAP: Final = 1
BARS: Final = "▁▂▃▄▅▆▇█"
DIGITS: Final = "01234567"
STYLES: Final = {"=": "green", "x": "red", "X": "bold red", "?": "dim"}


class _Row(NamedTuple):
    """A line of an aligned block: its name, and a cell per token."""

    name: str
    cells: Sequence[str]
    styles: Sequence[str]


class _Signs(NamedTuple):
    """What the terminal can show."""

    space: str
    bars: str
    hidden: str
    encoding: str


def print_sequence(view: SequenceView, console: Console) -> None:
    """Prints everything that is known of a sequence; plain in a pipe."""
    is_unicode = console.encoding.startswith("utf")
    signs = _Signs(*(("·", BARS, "█") if is_unicode else ("_", DIGITS, "#")), console.encoding)
    width = console.width if console.is_terminal else WIDTH_IN_PIPE
    for line in _head(view):
        _print(line, console)
    _print("", console)
    for title, rows in _parts(view, signs):
        _print(title, console, "bold")
        for block in _blocks(rows, width):
            for line in block:
                _print(line, console)
            _print("", console)
    for line in _tail(view, signs):
        _print(line, console)
    for note in view.notes:
        _print(f"note: {note}", console, "dim")
    _print("", console)
    _print_scores(view, console)


def _print(line: str | Text, console: Console, style: str = "") -> None:
    console.print(literal(line, style) if isinstance(line, str) else line, soft_wrap=True, highlight=False)


def _head(view: SequenceView) -> Iterator[str]:
    noun = "copy" if view.num_repeats == 1 else "copies"
    copies = "" if view.num_repeats is None else f", {view.num_repeats} {noun} in the training stream"
    place = "" if view.offset is None else f", window from token {view.offset} of its row"
    yield f"sequence {view.sequence_id}, {view.group}{copies}{place}"
    yield f"model {view.model}, context k = {view.context}, continuations n = {', '.join(map(str, view.continuations))}"


def _parts(view: SequenceView, signs: _Signs) -> Iterator[tuple[str, list[_Row]]]:
    """The context and the continuation, as far as their tokens or matches are known."""
    k, last = view.context, view.context + view.continuations[-1]
    if view.tokens is not None:
        yield f"context: tokens 0 to {k - 1}", _rows(view, 0, k, signs)
    if view.tokens is not None or view.matched is not None:
        yield (
            f"continuation: tokens {k} to {last - 1}; = the model says the same, x another token, X the first such",
            _rows(view, k, last, signs),
        )


def _rows(view: SequenceView, start: int, stop: int, signs: _Signs) -> list[_Row]:
    places = range(start, stop)
    plain = [""] * len(places)
    rows = [_Row("token", [str(place) for place in places], ["dim"] * len(places))]
    if view.tokens is not None:
        rows.append(_Row("truth", [_true_cell(view, place, signs) for place in places], plain))
    if start >= view.context and view.matched is not None:
        marks = [_mark(view, place - view.context) for place in places]
        styles = [STYLES[mark] for mark in marks]
        if view.tokens is not None:
            rows.append(_Row("model", [_model_cell(view, place, signs) for place in places], styles))
        rows.append(_Row("match", marks, styles))
    if view.trace is not None:
        rows.append(_Row("entropy", [_bar(view, place, signs) for place in places], plain))
    return rows


def _true_cell(view: SequenceView, place: int, signs: _Signs) -> str:
    tokens = view.tokens or ()
    return _show(view, tokens[place], signs) if place < len(tokens) else "?"


def _model_cell(view: SequenceView, place: int, signs: _Signs) -> str:
    """The generated token; `?` where only its not being the true one is known."""
    if view.trace is not None and place < len(view.trace.generated_tokens_P):
        return _show(view, int(view.trace.generated_tokens_P[place]), signs)
    is_matched = (view.matched or ())[place - view.context]
    return _true_cell(view, place, signs) if is_matched else "?"


def _mark(view: SequenceView, index: int) -> str:
    is_matched = (view.matched or ())[index]
    if is_matched is None:
        return "?"
    if is_matched:
        return "="
    return "X" if index == view.first_mismatch else "x"


def _bar(view: SequenceView, place: int, signs: _Signs) -> str:
    assert view.trace is not None
    known = view.trace.entropy_P[place : place + 1]
    if not len(known) or not np.isfinite(known[0]):
        return ""
    largest = _largest_entropy(view)
    level = 0 if largest <= 0 else min(len(signs.bars) - 1, int(known[0] / largest * len(signs.bars)))
    return signs.bars[level]


def _largest_entropy(view: SequenceView) -> float:
    assert view.trace is not None
    finite = view.trace.entropy_P[np.isfinite(view.trace.entropy_P)]
    return float(finite.max()) if len(finite) else 0.0


def _show(view: SequenceView, token: int, signs: _Signs) -> str:
    """A token's text, spaces made visible; its id where it has no text by itself, or no tokenizer is known.

    A sign of its own where it is redacted.
    """
    if token == HIDDEN:
        return signs.hidden
    if view.texts is None:
        return str(token)
    if token not in view.texts:
        return f"<{token}>"
    # What the terminal's encoding lacks is spelled out too, before cells are measured.
    text = escape(view.texts[token]).encode(signs.encoding, "backslashreplace").decode(signs.encoding)
    text = text.replace(" ", signs.space)
    if cell_len(text) <= MAX_CELL:
        return text
    kept = text[: MAX_CELL // 2]
    return f"{kept}[+{len(text) - len(kept)}]"


def _blocks(rows: Sequence[_Row], width: int) -> Iterator[list[Text]]:
    """The rows cut into pieces as wide as the terminal, token under token."""
    indent = max(len(row.name) for row in rows) + 2
    widths = [max(cell_len(row.cells[place]) for row in rows) for place in range(len(rows[0].cells))]
    start = 0
    while start < len(widths):
        stop, used = start, indent
        while stop < len(widths) and (stop == start or used + widths[stop] <= width):
            used += widths[stop] + GAP
            stop += 1
        yield [_line(row, indent, widths, range(start, stop)) for row in rows]
        start = stop


def _line(row: _Row, indent: int, widths: Sequence[int], places: range) -> Text:
    line = Text(row.name.ljust(indent), style="")
    for place in places:
        line.append(set_cell_size(row.cells[place], widths[place]), style=row.styles[place])
        line.append(" " * GAP)
    line.rstrip()
    return line


def _tail(view: SequenceView, signs: _Signs) -> Iterator[str]:
    if view.first_mismatch is not None:
        is_none = view.first_mismatch >= view.continuations[-1]
        where = f"index {view.first_mismatch}, token {view.context + view.first_mismatch}"
        yield f"first mismatch: {'none' if is_none else where}"
    if view.trace is not None:
        yield f"entropy: {signs.bars[0]} from 0 to {signs.bars[-1]} up to {_largest_entropy(view):.2f} nats"
    if view.tokens is not None and view.texts is None:
        yield "token ids, for no tokenizer is known"


def _print_scores(view: SequenceView, console: Console) -> None:
    longest = view.continuations[-1]
    keys = [
        Column("model", [score.model for score in view.scores]),
        Column("k", [str(score.context) for score in view.scores]),
    ]
    columns = [
        Column(f"n = {n}", [_or_unknown(score.num_matched[place]) for score in view.scores])
        for place, n in enumerate(view.continuations)
    ]
    firsts = ["none" if score.first_mismatch == longest else _or_unknown(score.first_mismatch) for score in view.scores]
    columns.append(Column("first\nmismatch", firsts))
    columns += [
        Column(f"p_z\nn = {n}", [_probability(score.log_probability[place]) for score in view.scores])
        for place, n in enumerate(view.continuations)
    ]
    width = console_width(console) if console.is_terminal else PIPE_WIDTH
    title = "Matched tokens of the first n under every model and context, and p_z, the chance to sample the truth"
    for table in lay_out_pieces(title, keys, columns, width=width):
        print_table(table, console)


def _or_unknown(count: int | None) -> str:
    return "?" if count is None else str(count)


def _probability(log_probability: float | None) -> str:
    """The probability with two digits, also where it is smaller than any float."""
    if log_probability is None or math.isnan(log_probability):
        return "?"
    exponent = log_probability / math.log(10)
    if exponent > -300:
        return f"{math.exp(log_probability):.2g}"
    return f"1e{math.floor(exponent)}"
