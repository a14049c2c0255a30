"""Tables of the factors for a terminal, and the same as plain aligned text in a pipe.

What a reader wants first: final models, the edges of the grid, one reference cell; every cell is in the stored tables.
Numbers come from the result as they stand. Labels are shown as literal text: a model called `[red]` stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.intervals import share_decimals
from mnemoscope.report.cells import SMALL, SMALL_CAPTION, percent
from mnemoscope.report.estimates import is_estimated
from mnemoscope.report.layout import (
    PIPE_WIDTH,
    Column,
    console_width,
    fold_label,
    lay_out,
    lay_out_pieces,
    literal,
    measure_table,
    print_table,
    spread_labels,
)
from mnemoscope.report.perspective_tables import perspective_tables
from mnemoscope.report.prediction_table import prediction_tables
from mnemoscope.report.rows import (
    Record,
    along_both_lengths,
    at_reference,
    last_checkpoints,
    occurring_bins,
    range_label,
    records,
    reference_cell,
    source_name,
)
from mnemoscope.status import StudyStatus


def print_results(results: Mapping[str, AnalysisResult], console: Console) -> None:
    """Prints the tables of every perspective and then every finding, with its verdict on what was published."""
    for number, result in enumerate(results.values()):
        if number:
            console.print()
        print_tables(result, console)
    for name, result in results.items():
        console.print()
        console.print(literal(f"{name}: {result.finding.verdict}"), style="bold")
        console.print(literal(result.finding.sentence), soft_wrap=not console.is_terminal)
    console.print()
    console.print("Every cell, model and form is in the stored tables.", soft_wrap=not console.is_terminal)


def print_tables(result: AnalysisResult, console: Console) -> None:
    """Prints every table that has rows; as wide as the terminal, or as it needs to be in a pipe."""
    width = console_width(console)
    match result:
        case FactorsResult():
            tables: Iterable[Table] = factor_tables(result, width)
        case PredictionResult():
            tables = prediction_tables(result, width)
        case _:
            tables = perspective_tables(result, width)
    for number, table in enumerate(tables):
        if number:
            console.print()
        print_table(table, console)


def factor_tables(result: FactorsResult, width: int = PIPE_WIDTH) -> list[Table]:
    """The tables that have rows, in the order in which a reader wants them, each within `width` where it can be."""
    return [table for build in TABLES for table in build(result, width)]


def coverage_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Sequences scored and near-ties met, one row per model or checkpoint; a range where cells differ."""
    del width
    by_model: dict[str, list[Record]] = {}
    for row in records(result.memorized):
        by_model.setdefault(row["model"], []).append(row)
    if not by_model:
        return
    blocks = list(by_model.values())
    cells = [len({(row["context"], row["continuation"]) for row in rows}) for rows in blocks]
    first = [rows[0] for rows in blocks]
    columns = [
        Column("model", list(by_model)),
        Column("parameters", ["" if row["num_parameters"] is None else f"{row['num_parameters']:,}" for row in first]),
        Column("step", ["" if row["training_step"] is None else f"{row['training_step']:,}" for row in first]),
        Column("cells", [str(number) for number in cells] if len(set(cells)) > 1 else [""] * len(cells)),
        Column("member", [_sequences(rows, "member") for rows in blocks]),
        Column("control", [_sequences(rows, "control") for rows in blocks]),
        Column("near-ties", [_near_ties(rows) for rows in blocks]),
        Column("remark", ["small stratum" if any(row["small_stratum"] for row in rows) else "" for rows in blocks]),
    ]
    each = f" in each of {cells[0]} cells (k, n)" if len(set(cells)) == 1 and cells[0] > 1 else ""
    yield lay_out(f"Coverage: sequences{each}, and near-ties among them", columns)


def memorized_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Memorized sequences of the final models along both edges of the grid, members beside control."""
    rows = along_both_lengths(last_checkpoints(records(result.memorized)))
    members = [row for row in rows if row["group"] == "member"]
    if members:
        keys = [Column(symbol, [str(row[name]) for row in members]) for symbol, name in LENGTHS.items()]
        labels = Column("model", [row["model"] for row in members])
        title = "Memorized sequences: all n tokens recited after k tokens of context"
        yield _rates(title, [labels, *keys], members, result, width)


def steps_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Memorized sequences along training, at the finding's cell."""
    members = at_reference(result, [row for row in records(result.steps) if row["group"] == "member"])
    if members:
        runs = Column("run", [source_name(row) for row in members])
        steps = Column("step", [f"{row['training_step']:,}" for row in members])
        yield _rates(f"Memorized by training step ({reference_cell(result)})", [runs, steps], members, result, width)


def repeats_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Shares memorized by copies in the training stream, one column per model, and the control as the last row."""
    rows = last_checkpoints(row for row in records(result.repeat_classes) if row["group"] == "member")
    rows = at_reference(result, rows)
    if not rows:
        return
    control = [row for row in at_reference(result, records(result.memorized)) if row["group"] == "control"]
    by_class: dict[tuple[int, int], dict[str, Record]] = {}
    for row in sorted(rows, key=lambda row: row["num_repeats_low"]):
        by_class.setdefault((row["num_repeats_low"], row["num_repeats_high"]), {})[row["model"]] = row
    lines = {range_label(*ends): by_model for ends, by_model in by_class.items()}
    lines |= {"control": {row["model"]: row for row in control}} if control else {}
    keys = [Column("copies", list(lines)), Column("of", [_totals(line.values()) for line in lines.values()])]
    models = list(dict.fromkeys(row["model"] for row in rows))
    columns = [
        Column(fold_label(name), [_share(line.get(name), mark="") for line in lines.values()]) for name in models
    ]
    title = f"Memorized by copies in the training stream ({reference_cell(result)}), % ({_level(result)} interval)"
    flagged = any(row["small_stratum"] for line in lines.values() for row in line.values())
    yield from lay_out_pieces(title, keys, columns, width=width, caption=SMALL_CAPTION if flagged else "")


def bins_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Sequences by score bin at the finding's cell, one column per final model, the largest's control beside."""
    rows = occurring_bins(at_reference(result, last_checkpoints(records(result.bins))))
    if not rows:
        return
    largest = rows[-1]["model"]
    counts: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row["group"] == "member" or row["model"] == largest:
            counts.setdefault((row["group"], row["model"]), {})[row["bin_label"]] = f"{row['num_chosen']:,}"
    labels = list(dict.fromkeys(row["bin_label"] for row in sorted(rows, key=lambda row: row["bin"])))
    columns = [
        Column(
            fold_label(model) + ("\ncontrol" if group == "control" else ""), [by_bin.get(label, "") for label in labels]
        )
        for (group, model), by_bin in counts.items()
    ]
    estimated = ", estimated from the graded sample" if is_estimated(result) else ""
    title = f"Sequences by score, matched tokens / n ({reference_cell(result)}){estimated}"
    yield from lay_out_pieces(title, [Column("score", labels)], columns, width=width)


def trend_tables(result: FactorsResult, width: int) -> Iterator[Table]:
    """Fits along size at the finding's cell, and along the lengths for the largest model at the grid's edges."""
    del width
    rows = [*_size_trends(result), *_length_trends(result)]
    if not rows:
        return
    columns = [
        Column("along", [_along(row) for row in rows]),
        Column("group", [row["group"] for row in rows]),
        Column("form", [row["form"] for row in rows]),
        Column(f"coefficient\n({_level(result)})", [_coefficient(row) for row in rows]),
        Column("p", [_p_value(row["p_value"]) for row in rows]),
        Column("p Holm", [_p_value(row["p_holm"]) for row in rows]),
        Column("AICc", [_number(row["aicc"], ".1f") for row in rows]),
    ]
    parts = [f"by size at {reference_cell(result)}"] if any(row["along"] == SIZE for row in rows) else []
    if any(row["along"] != SIZE for row in rows):
        parts.append(f"by length in {result.finding.figures.get('largest_model')}, the other shortest")
    title = f"Trends of the memorized share: {'; '.join(parts)}"
    notes = dict.fromkeys(f"{_along(row)}, {row['form']}: {row['note']}" for row in rows if row["note"])
    yield lay_out(title, columns, caption="\n".join([TREND_UNITS, *notes]))


def status_table(status: StudyStatus) -> Table:
    """How far each model and group of a study is."""
    rows: list[tuple[str, ...]] = []
    for model in status.models:
        if not model.groups:
            rows.append((model.label, "", "", "", "", "not begun"))
        for group in model.groups:
            shards = f"{group.num_shards_done:,} / {group.num_shards:,}"
            sequences = f"{group.num_sequences_done:,} / {group.num_sequences:,}"
            state = "complete" if group.num_shards_done == group.num_shards else "unfinished"
            rows.append((model.label, group.group, shards, sequences, f"{group.num_short:,}", state))
    headers = ("model", "group", "shards", "sequences", "too short", "state")
    columns = [Column(header, [row[i] for row in rows]) for i, header in enumerate(headers)]
    return lay_out(f"Study {status.folder}", columns)


TABLES: tuple[Callable[[FactorsResult, int], Iterator[Table]], ...] = (
    coverage_tables,
    memorized_tables,
    steps_tables,
    repeats_tables,
    bins_tables,
    trend_tables,
)
LENGTHS = {"k": "context", "n": "continuation"}
SIZE = "num_non_embedding_parameters"
TREND_UNITS = """coefficients: log-linear, points per tenfold; power law, exponent; saturating, plateau in %
p Holm: adjusted for all stored series of one form along the same axis"""


def _rates(title: str, keys: Sequence[Column], members: Sequence[Record], result: FactorsResult, width: int) -> Table:
    """Counts and shares of members beside their control; where it is too wide without the control's share."""
    controls = {_cell(row): row for row in records(result.memorized) if row["group"] == "control"}
    excess = {_cell(row): row for row in records(result.excess)}
    control = [controls.get(_cell(row)) for row in members]
    level = f"({_level(result)})"
    control_share = Column(f"share %\n{level}", [_share(row) for row in control])
    before = [
        _counts("member", members),
        Column(f"share %\n{level}", [_share(row) for row in members]),
        _counts("control", control),
    ]
    after = Column(f"excess, points\n{level}", [_excess(excess.get(_cell(row))) for row in members])
    flagged = any(row["small_stratum"] for row in (*members, *filter(None, control)))
    caption = SMALL_CAPTION if flagged else ""
    labels, *others = keys
    short = labels._replace(cells=spread_labels(labels.cells))
    columns = [*before, control_share, after]
    choices = ([labels, *others, *columns], [labels, *others, *before, after], [short, *others, *before, after])
    fitting = (lay_out(title, choice, caption=caption) for choice in choices)
    return next(
        (table for table in fitting if measure_table(table) <= width), lay_out(title, choices[-1], caption=caption)
    )


def _counts(group: str, rows: Sequence[Record | None]) -> Column:
    """Numbers memorized; the number of sequences stands in the header where it is the same everywhere."""
    totals = {row["num_sequences"] for row in rows if row is not None}
    if len(totals) == 1:
        cells = ["" if row is None else f"{row['num_memorized']:,}" for row in rows]
        return Column(f"{group}\nof {totals.pop():,}", cells)
    return Column(
        group, ["" if row is None else f"{row['num_memorized']:,} / {row['num_sequences']:,}" for row in rows]
    )


def _size_trends(result: FactorsResult) -> list[Record]:
    """Every form at the finding's cell; of members only the excess where the control had no hits and both are one."""
    rows = [row for row in at_reference(result, records(result.trend)) if row["along"] == SIZE]
    fits = {group: [row["coefficient"] for row in rows if row["group"] == group] for group in ("member", "excess")}
    hidden = {"control", "member"} if fits["member"] == fits["excess"] else {"control"}
    return [row for row in rows if row["group"] not in hidden]


def _length_trends(result: FactorsResult) -> list[Record]:
    """The largest model's log-linear fits along context and continuation."""
    cells = records(result.memorized)
    rows = [row for row in records(result.trend) if row["model"] == result.finding.figures.get("largest_model")]
    rows = [row for row in rows if row["group"] == "member" and row["form"] == "log-linear"]
    lowest = {name: min((row[name] for row in cells), default=0) for name in LENGTHS.values()}
    other = {"context": "continuation", "continuation": "context"}
    return [row for row in rows if row[other[row["along"]]] == lowest[other[row["along"]]]]


def _cell(row: Record) -> tuple[str, int, int]:
    return row["model"], row["context"], row["continuation"]


def _level(result: FactorsResult) -> str:
    return f"{100 * float(result.finding.figures.get('level') or 0.95):g} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _along(row: Record) -> str:
    return f"{row['num_points']} {'sizes' if row['along'] == SIZE else row['along'] + 's'}"


def _p_value(value: float | None) -> str:
    return _number(value, ".2g" if value is None or value >= 1e-3 else ".0e")


def _coefficient(row: Record) -> str:
    """Of shares in points or percent, of a power law the exponent; with its interval where there is one."""
    value, low, high = row["coefficient"], row["coefficient_low"], row["coefficient_high"]
    scale = 1 if row["form"] == "power law" else 100
    if value is None or low is None:
        return "" if value is None else f"{scale * value:.3g}"
    decimals = share_decimals(low, high) + (2 if scale == 1 else 0)
    value, low, high = (f"{scale * number:.{decimals}f}" for number in (value, low, high))
    return f"{value} ({low}, {high})"


def _share(row: Record | None, *, mark: str = SMALL) -> str:
    return "" if row is None else percent(row, "share", mark=mark)


def _excess(row: Record | None) -> str:
    return "" if row is None or row["excess"] is None else percent(row, "excess")


def _totals(rows: Iterable[Record]) -> str:
    """How many sequences stand behind a line of shares, marked where they are few."""
    some = list(rows)
    return _range(row["num_sequences"] for row in some) + (SMALL if any(row["small_stratum"] for row in some) else "")


def _sequences(rows: Sequence[Record], group: str) -> str:
    return _range(row["num_sequences"] for row in rows if row["group"] == group)


def _near_ties(rows: Sequence[Record]) -> str:
    if any(row["num_fragile"] is None for row in rows):
        return "unknown"
    return _range(row["num_fragile"] for row in rows)


def _range(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    return range_label(numbers[0], numbers[-1]) if numbers else ""
