"""How tables are laid out: columns of text that are never cut, in a terminal or as plain aligned text in a pipe."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mnemoscope.report.escapes import escape

LEFT = {"model", "run", "group", "state", "form", "remark", "along", "score", "predictor", "from"} | {
    "criterion",
    "lines",
    "planted",
    "what",
}
FOLDED_WIDTH = 16
PIPE_WIDTH = 1000
GAP = 2


class Column(NamedTuple):
    """A column's header, of one line or two, and its cells."""

    header: str
    cells: Sequence[str]

    @property
    def width(self) -> int:
        """Characters of the widest line."""
        return max(len(line) for text in (self.header, *self.cells) for line in text.split("\n"))


def print_table(table: Table, console: Console) -> None:
    """Prints title, table and caption; in a pipe as wide as needed, so that no cell is cut or wrapped."""
    title, table.title = table.title, None
    caption, table.caption = table.caption, None
    for part in (title, table, caption):
        if part is None:
            continue
        if console.is_terminal:
            console.print(part)
        else:
            _print_plain(part, console)


def lay_out(title: str, columns: Sequence[Column], *, caption: str = "") -> Table:
    """Columns in which something stands; nothing is ever cut: what is too wide is folded."""
    table = Table(title=literal(title, "bold"), caption=literal(caption, "dim") if caption else None)
    table.box, table.pad_edge, table.padding = None, False, (0, GAP, 0, 0)
    shown = [column for index, column in enumerate(columns) if not index or any(column.cells)]
    for column in shown:
        left = column.header in LEFT
        table.add_column(literal(column.header), justify="left" if left else "right", overflow="fold", vertical="top")
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(literal, cells))
    return table


def lay_out_pieces(
    title: str, keys: Sequence[Column], columns: Sequence[Column], *, width: int, caption: str = ""
) -> Iterator[Table]:
    """The keys with as many of the columns as fit, again and again: a table that is too wide goes on below."""
    room = width - sum(key.width + GAP for key in keys)
    pieces, used = [list[Column]()], 0
    for column in columns:
        if pieces[-1] and used + column.width > room:
            pieces.append([])
            used = 0
        used += column.width + GAP
        pieces[-1].append(column)
    for index, some in enumerate(pieces):
        last = index == len(pieces) - 1
        yield lay_out(title if not index else f"{title}, continued", [*keys, *some], caption=caption if last else "")


def measure_table(table: Table) -> int:
    """Characters that the table needs for nothing to wrap."""
    console = Console(file=io.StringIO(), width=PIPE_WIDTH)
    return Measurement.get(console, console.options, table).maximum


def console_width(console: Console) -> int:
    """Characters of the terminal; in a pipe, no bound to speak of."""
    return console.width if console.is_terminal else PIPE_WIDTH


def literal(text: str, style: str = "") -> Text:
    """Markup in a label is shown, not obeyed; control characters but for line ends are spelled out."""
    return Text(escape(text, keep="\n", backslash=False), style=style)


def fold_label(label: str) -> str:
    """A long label in several lines, broken after a hyphen, slash, @ or underscore."""
    lines = [""]
    for part in re.split(r"(?<=[-/@_])", label):
        if lines[-1] and len(lines[-1]) + len(part) > FOLDED_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def spread_labels(labels: Sequence[str]) -> list[str]:
    """Labels of blocks of rows, each once: folded, its lines run down the block, what is left over in its last row."""
    spread: list[str] = []
    for label, block in itertools.groupby(labels):
        lines, num_rows = fold_label(label).split("\n"), len(list(block))
        head, tail = lines[: num_rows - 1], lines[num_rows - 1 :]
        spread += [*head, "\n".join(tail), *[""] * (num_rows - len(head) - 1)]
    return spread


def _print_plain(part: str | Text | Table, console: Console) -> None:
    wide = Console(file=io.StringIO(), width=PIPE_WIDTH, force_terminal=False, no_color=True)
    with wide.capture() as captured:
        wide.print(part)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
