"""Tables of prediction for a terminal, and the same as plain aligned text in a pipe.

What a reader wants first: every predictor at the cell that the finding speaks of, then the four that matter over all
models and lengths. Numbers come from the result as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.prediction_units import OURS
from mnemoscope.intervals import share_decimals
from mnemoscope.report.layout import (
    PIPE_WIDTH,
    Column,
    console_width,
    fold_label,
    lay_out_pieces,
    print_table,
    spread_labels,
)

Record = Mapping[str, Any]

WIDE: Final = 100
"""Characters below which a predictor's long name is folded, for more of its numbers to stand beside it."""
SMALL: Final = "!"
SMALL_CAPTION: Final = "! fewer than 30 clusters, or 10 full matches"


class Measure(NamedTuple):
    """A column of the table of predictors: its header, the metric, the prior, and 100 for percent."""

    header: str
    metric: str
    prior: str
    scale: int


MEASURES: Final = (
    Measure("tokens\nright %", "token_accuracy", "balanced", 100),
    Measure("sequences\nright %", "full_accuracy", "balanced", 100),
    Measure("full match\nPR-AUC", "full_pr_auc", "balanced", 1),
    Measure("found in\nfirst 1 %", "recall_at_1_percent", "natural", 100),
)
FOLLOWED: Final = {
    "ours,\ndecode": ("decode", OURS),
    "ours,\ncontext": ("context", OURS),
    "original,\ndecode": ("decode", "original"),
}
EXPLAINED: Final = """tokens, sequences, PR-AUC: every score weighs the same
first 1 %: of sequences as they come, the share of all full matches
unseen: the share of held-out text that ranks as high"""


def print_prediction(result: PredictionResult, console: Console) -> None:
    """Prints every table that has rows; as wide as the terminal, or as it needs to be in a pipe."""
    for number, table in enumerate(prediction_tables(result, console_width(console))):
        if number:
            console.print()
        print_table(table, console)


def prediction_tables(result: PredictionResult, width: int = PIPE_WIDTH) -> list[Table]:
    """The tables that have rows, in the order in which a reader wants them, each within `width` where it can be."""
    place = tuple(result.finding.figures.get(name) for name in ("model", "context", "continuation"))
    chosen = [cell for cell in _cells(result) if cell == place]
    return [
        *(table for cell in chosen for table in predictor_tables(result, cell, width)),
        *model_tables(result, width),
    ]


def every_predictor_table(result: PredictionResult, width: int = PIPE_WIDTH) -> list[Table]:
    """The table of predictors for every model, context and continuation."""
    return [table for cell in _cells(result) for table in predictor_tables(result, cell, width)]


def predictor_tables(result: PredictionResult, cell: tuple[str, int, int], width: int) -> Iterator[Table]:
    """Every predictor of one model at one context and continuation: accuracies, ranking, and unseen text."""
    rows = [row for row in _own(result.metrics.to_pylist()) if _cell(row) == cell and row["split"] == "test"]
    found = {(row["task"], row["predictor"], row["prior"], row["metric"]): row for row in rows}
    unseen = {
        (row["task"], row["predictor"]): row
        for row in _own(result.controls.to_pylist())
        if _cell(row) == cell and row["prior"] == "natural"
    }
    units = list(dict.fromkeys((row["task"], row["predictor"]) for row in rows))
    if not units:
        return
    keys = [
        Column("predictor", [fold_label(predictor) if width < WIDE else predictor for _, predictor in units]),
        Column("from", spread_labels([task for task, _ in units])),
    ]
    columns = [
        Column(m.header, [_number(found.get((*unit, m.prior, m.metric)), "value", m.scale) for unit in units])
        for m in MEASURES
    ]
    columns.append(Column("unseen as\nhigh %", [_number(unseen.get(unit), "flagged_share", 100) for unit in units]))
    counts = f"{rows[0]['num_sequences']:,} test sequences, {rows[0]['num_full_matches']:,} full matches"
    title = f"Prediction of {cell[0]} (k = {cell[1]}, n = {cell[2]}): {counts}"
    small = any(row["small_stratum"] for row in (*rows, *unseen.values()))
    caption = "\n".join([f"{_level(result)} intervals; {EXPLAINED}", *([SMALL_CAPTION] if small else [])])
    yield from lay_out_pieces(title, keys, columns, width=width, caption=caption)


def model_tables(result: PredictionResult, width: int) -> Iterator[Table]:
    """Token and full accuracy over all models and lengths, and the gain over the best baseline."""
    rows = [row for row in _own(result.metrics.to_pylist()) if (row["split"], row["prior"]) == ("test", "balanced")]
    cells = list(dict.fromkeys(_cell(row) for row in rows))
    found = {(*_cell(row), row["task"], row["predictor"], row["metric"]): row for row in rows}
    best = {
        (*_cell(row), row["metric"]): row
        for row in result.gains.to_pylist()
        if (row["role"], row["task"], row["prior"]) == ("best baseline", "context", "balanced")
    }
    if len(cells) < 2:
        return
    keys = [
        Column("model", spread_labels([cell[0] for cell in cells])),
        *(Column(symbol, [str(cell[place]) for cell in cells]) for place, symbol in ((1, "k"), (2, "n"))),
    ]
    columns = [
        Column(header, [_pair([found.get((*cell, *unit, metric)) for metric in ACCURACIES], "value") for cell in cells])
        for header, unit in FOLLOWED.items()
    ]
    against = [[best.get((*cell, metric)) for metric in ACCURACIES] for cell in cells]
    columns += [
        Column("best\nbaseline", [_pair(some, "against_value") for some in against]),
        Column("gain of context,\ntokens, points", [_number(some[0], "gain", 100, signed=True) for some in against]),
        Column("gain of context,\nsequences, points", [_number(some[1], "gain", 100, signed=True) for some in against]),
    ]
    title = "Prediction by model and length: tokens / whole sequences right, %"
    yield from lay_out_pieces(title, keys, columns, width=width, caption=BEST_CAPTION)


ACCURACIES: Final = ("token_accuracy", "full_accuracy")
BEST_CAPTION: Final = """best baseline: of each measure, as the test itself shows;
the gain over it is rather too small than too large"""


def _cells(result: PredictionResult) -> list[tuple[str, int, int]]:
    return list(dict.fromkeys(_cell(row) for row in result.metrics.to_pylist()))


def _cell(row: Record) -> tuple[str, int, int]:
    return row["model"], row["context"], row["continuation"]


def _own(rows: Sequence[Record]) -> list[Record]:
    """Rows of predictors that learned from the model's own traces."""
    return [row for row in rows if row.get("trained_on", row["model"]) == row["model"]]


def _level(result: PredictionResult) -> str:
    return f"{100 * float(result.finding.figures.get('level') or 0.95):g} %"


def _pair(rows: Sequence[Record | None], name: str) -> str:
    """Two percentages: `84.1 / 7.4`."""
    shares = [None if row is None else row[name] for row in rows]
    return "" if all(s is None for s in shares) else " / ".join("-" if s is None else f"{100 * s:.1f}" for s in shares)


def _number(row: Record | None, name: str, scale: int, *, signed: bool = False) -> str:
    """A number with its interval, to the digits that supports, and a mark where few sequences carry it."""
    if row is None or row[name] is None:
        return "" if row is None else "undefined"
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    sign, mark = "+" if signed else "", SMALL if row["small_stratum"] else ""
    if low is None or high is None:
        return f"{scale * value:{sign}.{1 if scale == 100 else 3}f}{mark}"
    decimals = share_decimals(low, high) + (2 if scale == 1 else 0)
    value, low, high = (f"{scale * number:{sign}.{decimals}f}" for number in (value, low, high))
    return f"{value} ({low}, {high}){mark}"
