"""Tables of the factors for a terminal, and the same as plain aligned text in a pipe.

Numbers come from the result as they stand. Labels are shown as literal text: a model called `[red]` stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.intervals import format_share
from mnemoscope.status import StudyStatus

Record = dict[str, Any]


def print_tables(result: FactorsResult, console: Console) -> None:
    """Prints every table that has rows, then the finding; boxes and colour in a terminal, plain text in a pipe."""
    for table in factor_tables(result):
        print_table(table, console)
        console.print()
    console.print(_literal(result.finding.sentence), soft_wrap=not console.is_terminal)


def print_table(table: Table, console: Console) -> None:
    """Prints one table; in a pipe without box and as wide as it needs, so that no cell is cut or wrapped."""
    if console.is_terminal:
        console.print(table)
        return
    table.box, table.pad_edge = None, False
    title, table.title = table.title, None
    wide = Console(file=console.file, width=PIPE_WIDTH, force_terminal=False, no_color=True)
    wide.print(title)
    wide.print(table)


def factor_tables(result: FactorsResult) -> list[Table]:
    """The tables that have rows, in the order in which a reader wants them."""
    tables = (build(result) for build in TABLES)
    return [table for table in tables if table.row_count]


def memorized_table(result: FactorsResult) -> Table:
    """Memorized sequences by model and cell, members beside control."""
    table = _table("Memorized sequences (M = 1)", "model", ["k", "n", "members", "share", "control", "share", "excess"])
    rows = result.memorized.to_pylist()
    controls = {_cell(row): row for row in rows if row["group"] == "control"}
    excess = {_cell(row): row for row in result.excess.to_pylist()}
    for row in rows:
        if row["group"] == "member":
            cell, control = _cell(row), controls.get(_cell(row))
            values = [_count(row), _share(row), _count(control), _share(control), _excess(excess.get(cell))]
            _add(table, [*cell, *values])
    return table


def repeats_table(result: FactorsResult) -> Table:
    """Memorized sequences by copies in the training stream, in doubling classes, at the finding's cell."""
    title = f"Memorized by copies in the training stream{_at_cell(result)}"
    table = _table(title, "model", ["group", "copies", "memorized", "share"])
    for row in _of_cell(result, result.repeat_classes):
        low, high = row["num_repeats_low"], row["num_repeats_high"]
        copies = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        _add(table, [row["model"], row["group"], copies, _count(row), _share(row)])
    return table


def bins_table(result: FactorsResult) -> Table:
    """Sequences by the twelve score bins, one column per model and group, at the finding's cell."""
    counts: dict[str, dict[str, str]] = {}
    models: dict[str, None] = {}
    for row in _of_cell(result, result.bins):
        name = row["model"] if row["group"] == "member" else f"{row['model']} ({row['group']})"
        models[name] = None
        counts.setdefault(row["bin_label"], {})[name] = f"{row['num_chosen']:,}"
    table = _table(f"Sequences by memorization score{_at_cell(result)}", "score", list(models))
    for label, by_model in counts.items():
        _add(table, [label, *(by_model.get(name, "") for name in models)])
    return table


def trend_table(result: FactorsResult) -> Table:
    """Log-linear fits of every series but the control's, and along size their alternatives too."""
    columns = ["model", "group", "k", "n", "form", "points", "coefficient", "interval", "p (Holm)", "AICc", "note"]
    table = _table("Trends of the memorized share", "along", columns)
    for row in result.trend.to_pylist():
        along = "size" if row["along"] == "num_non_embedding_parameters" else row["along"]
        if row["group"] == "control" or (along != "size" and row["form"] != "log-linear"):
            continue
        low, high = row["coefficient_low"], row["coefficient_high"]
        interval = f"{low:.3g} to {high:.3g}" if low is not None else ""
        keys = [along, *(_text(row[name]) for name in ("model", "group", "context", "continuation"))]
        numbers = [_number(row["coefficient"]), interval, _number(row["p_holm"]), _number(row["aicc"], ".1f")]
        _add(table, [*keys, row["form"], _text(row["num_points"]), *numbers, row["note"]])
    return table


def coverage_table(result: FactorsResult) -> Table:
    """Sequences scored and near-ties met, by model and group; a range where cells differ."""
    table = _table("Coverage", "model", ["parameters", "step", "group", "cells", "sequences", "fragile rows", "remark"])
    rows: dict[tuple[str, str], list[Record]] = {}
    for row in result.memorized.to_pylist():
        rows.setdefault((row["model"], row["group"]), []).append(row)
    for (model, group), some in rows.items():
        fragile = "unknown" if some[0]["num_fragile"] is None else _range(row["num_fragile"] for row in some)
        remark = "small stratum" if any(row["small_stratum"] for row in some) else ""
        size, step = f"{some[0]['num_parameters']:,}", some[0]["training_step"]
        sequences = _range(row["num_sequences"] for row in some)
        _add(
            table, [model, size, "" if step is None else f"{step:,}", group, str(len(some)), sequences, fragile, remark]
        )
    return table


def status_table(status: StudyStatus) -> Table:
    """How far each model and group of a study is."""
    table = _table(f"Study {status.folder}", "model", ["group", "shards", "sequences", "too short", "state"])
    for model in status.models:
        if not model.groups:
            _add(table, [model.label, "", "", "", "", "not begun"])
        for group in model.groups:
            shards = f"{group.num_shards_done:,} / {group.num_shards:,}"
            sequences = f"{group.num_sequences_done:,} / {group.num_sequences:,}"
            state = "complete" if group.num_shards_done == group.num_shards else "unfinished"
            _add(table, [model.label, group.group, shards, sequences, f"{group.num_short:,}", state])
    return table


TABLES: tuple[Callable[[FactorsResult], Table], ...] = (
    coverage_table,
    memorized_table,
    repeats_table,
    bins_table,
    trend_table,
)
LEFT = {"model", "group", "state", "form", "note", "remark", "along", "score"}
KEYS = {"model", "group", "k", "n", "form", "along", "score", "copies"}
PIPE_WIDTH = 1000


def _table(title: str, first: str, others: Sequence[str]) -> Table:
    """Columns that name the row keep their width in a narrow terminal; the others wrap."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for name in (first, *others):
        table.add_column(_literal(name), justify="left" if name in LEFT else "right", no_wrap=name in KEYS)
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*map(_literal, cells))


def _literal(text: str) -> Text:
    """Markup in a label is shown, not obeyed; control characters are dropped."""
    return Text("".join(character for character in text if character.isprintable()))


def _of_cell(result: FactorsResult, rows: pa.Table) -> list[Record]:
    """Rows of the cell that the finding speaks of; all cells are in the stored table."""
    figures = result.finding.figures
    wanted = figures.get("context"), figures.get("continuation")
    return [row for row in rows.to_pylist() if (row["context"], row["continuation"]) == wanted]


def _at_cell(result: FactorsResult) -> str:
    figures = result.finding.figures
    return f" (k = {figures.get('context')}, n = {figures.get('continuation')})"


def _cell(row: Record) -> tuple[str, str, str]:
    return row["model"], str(row["context"]), str(row["continuation"])


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _number(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def _count(row: Record | None) -> str:
    return "" if row is None else f"{row['num_memorized']:,} / {row['num_sequences']:,}"


def _share(row: Record | None) -> str:
    if row is None:
        return ""
    if row["share"] is None:
        return "no sequences"
    return format_share(row["share"], row["share_low"], row["share_high"]) + (" !" if row["small_stratum"] else "")


def _excess(row: Record | None) -> str:
    if row is None or row["excess"] is None:
        return ""
    return format_share(row["excess"], row["excess_low"], row["excess_high"], unit="points")


def _range(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
