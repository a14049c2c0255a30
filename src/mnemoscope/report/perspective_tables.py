"""Tables of transitions, frequency, entropy and embeddings for a terminal: a few rows that carry each finding.

Numbers come from the results as they stand; every cell, score and step is in the stored tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.analyses.levels import LEVELS
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.report.cells import SMALL_CAPTION, Record, percent, with_interval
from mnemoscope.report.layout import Column, fold_label, lay_out, lay_out_pieces
from mnemoscope.report.rows import records

CLASSES = ("unmemorized", "half", "memorized")
FATES = ("kept", "lost", "gained")
RELATIONS = ("size", "step")


def perspective_tables(result: AnalysisResult, width: int) -> Iterator[Table]:
    """The tables of one perspective, each within `width` where it can be; none for a result of another kind."""
    match result:
        case TransitionsResult():
            yield from _transition_tables(result, width)
        case FrequencyResult():
            yield from _boundary_tables("Corpus frequency at the boundary (ln)", result)
        case EntropyResult():
            yield from _group_tables(result, width)
            yield from _boundary_tables("Entropy at the boundary (nats)", result)
        case EmbeddingsResult():
            yield from _embedding_tables(result, width)
        case _:
            return


def _transition_tables(result: TransitionsResult, width: int) -> Iterator[Table]:
    """What became of each level and of the memorized set between consecutive sizes and steps, at the finding's cell."""
    levels = [row for row in _consecutive(result, records(result.levels)) if row["level_from"] == row["level_to"]]
    fates = _consecutive(result, records(result.kept_gained_lost))
    if not levels:
        return
    pairs = list(dict.fromkeys((row["model_from"], row["model_to"]) for row in levels))
    cell = f"k = {levels[0]['context_from']}, n = {levels[0]['continuation_from']}"
    columns = [_of_pairs(name, pairs, levels, "level_from") for name in LEVELS]
    caption = SMALL_CAPTION if any(row["small_stratum"] for row in levels) else ""
    title = f"Sequences that stay at their level ({cell}), % (interval)"
    yield from lay_out_pieces(title, _pair_columns(pairs), columns, width=width, caption=caption)
    columns = [_of_pairs(name, pairs, fates, "fate") for name in FATES]
    title = f"The memorized set from one model to the next ({cell}), % (interval)"
    yield from lay_out_pieces(title, _pair_columns(pairs), columns, width=width)


def _consecutive(result: TransitionsResult, rows: Iterable[Record]) -> list[Record]:
    """Members' rows between consecutive sizes and steps at the cell that the finding speaks of."""
    figures = result.finding.figures
    cell = figures.get("context_from"), figures.get("continuation_from")
    return [
        row
        for row in rows
        if row["group"] == "member"
        and row["relation"] in RELATIONS
        and (row["context_from"], row["continuation_from"]) == cell
    ]


def _pair_columns(pairs: Sequence[tuple[str, str]]) -> list[Column]:
    return [Column(header, [pair[side] for pair in pairs]) for side, header in enumerate(("model", "next"))]


def _of_pairs(name: str, pairs: Sequence[tuple[str, str]], rows: Iterable[Record], key: str) -> Column:
    found = {(row["model_from"], row["model_to"]): row for row in rows if row[key] == name}
    return Column(name, [percent(found[pair], "share") if pair in found else "" for pair in pairs])


def _boundary_tables(title: str, result: FrequencyResult | EntropyResult) -> Iterator[Table]:
    """The step at index k of the unmemorized beside its control, and what that leaves of it."""
    rows = [row for row in records(result.boundary) if row["group"] == "member" and row["score_class"] == CLASSES[0]]
    rows = [row for row in rows if row["difference"] is not None]
    if not rows:
        return
    columns = [
        Column("model", [row["model"] for row in rows]),
        Column("n-gram", [str(row.get("ngram", "")) for row in rows]),
        Column("of", [f"{row['num_sequences']:,}" for row in rows]),
        Column("step\nat k", [f"{row['difference']:+.2f}" for row in rows]),
        Column("inside", [_signed(row["inside_difference"]) for row in rows]),
        Column("held-out", [_signed(row["control_difference"]) for row in rows]),
        Column("unexplained", [with_interval(row, "unexplained", sign=True) for row in rows]),
        Column("state", [row["verdict"].replace("interval too wide", "wide") for row in rows]),
    ]
    caption = "inside: the same step at matched positions inside the context; unexplained: what it leaves (interval)"
    yield lay_out(f"{title}, of sequences whose first continuation token was missed", columns, caption=caption)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _group_tables(result: EntropyResult, width: int) -> Iterator[Table]:
    """Mean entropy in the context and along the continuation of the named scores, one row per model."""
    rows = [row for row in records(result.sentences) if row["group"] == "member" and row["score_class"] in CLASSES]
    if not rows:
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    by_place = {(row["model"], row["score_class"]): row for row in rows}
    columns = [
        Column(f"{part}\n{name}", [_mean(by_place.get((model, name)), f"{part}_mean") for model in models])
        for part in ("context", "continuation")
        for name in CLASSES
    ]
    columns = [column for column in columns if any(column.cells)]
    left_out = [name for name in CLASSES if not any(name in column.header.split("\n") for column in columns)]
    caption = f"too few or no sequences: {', '.join(left_out)}" if left_out else ""
    title = "Mean entropy, nats (interval)"
    yield from lay_out_pieces(title, [Column("model", models)], columns, width=width, caption=caption)


def _mean(row: Record | None, name: str) -> str:
    """Empty where nothing was sampled, or too little to be averaged."""
    return "" if row is None else with_interval(row, name)


def _embedding_tables(result: EmbeddingsResult, width: int) -> Iterator[Table]:
    """How far groups lie apart, whether in order, and what a linear probe tells, one row per model."""
    rows = [row for row in records(result.models) if row["group"] == "member"]
    if not rows:
        return
    last = max((row["step"] for row in records(result.separability)), default=None)
    probes = {
        row["model"]: row
        for row in records(result.separability)
        if row["group"] == "member" and row["step"] == last and row["target"] == "memorized"
    }
    probe = [probes.get(row["model"]) for row in rows]
    columns = [
        Column("scores", [str(row["num_groups"]) for row in rows]),
        Column("spread\n/ scatter", [with_interval(row, "spread_per_scatter") for row in rows]),
        Column("order\n(Spearman)", [with_interval(row, "order") for row in rows]),
        Column("early to late\nspread", [with_interval(row, "spread_change", sign=True) for row in rows]),
        Column("probe\n%", [_accuracy(row) for row in probe]),
        Column("guess\n%", [_share(row, "majority_accuracy") for row in probe]),
    ]
    labels = Column("model", [fold_label(row["model"]) for row in rows])
    title = f"Groups of equal score in the last layer (k = {rows[0]['context']})"
    caption = f"probe: full matches told from the rest by a linear classifier at step {last}, held-out"
    yield from lay_out_pieces(title, [labels], columns, width=width, caption=caption if any(probe) else "")


def _share(row: Record | None, name: str) -> str:
    return "" if row is None or row[name] is None else f"{100 * row[name]:.0f}"


def _accuracy(row: Record | None) -> str:
    return "" if row is None or row["accuracy"] is None else percent(row, "accuracy")
