"""Figures of the transitions: heatmaps of one level against the next, beside what regression to the mean would give.

Results in, pictures out; axes are labelled from the data, in the order of the levels, low at the bottom left. Together
the equivalent of the study's transition matrices, with the null beside each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemoscope.analyses.levels import LEVELS
from mnemoscope.report.figure import (
    CHARACTER_PIXELS,
    Figure,
    evenly,
    heading,
    model_panel,
    panel_heading,
    specs_of_figures,
    told,
    told_percent,
)
from mnemoscope.report.theme import COLORS, FAINT_INK, GRID, INK, INK_ON_COLOR, PAPER, TEXT_SIZE
from mnemoscope.report.vega import Spec, channel, layer, mark

if TYPE_CHECKING:
    from mnemoscope.analyses.transitions import TransitionsResult

Record = dict[str, Any]
CELL_PIXELS: Final = 30
FULL_SHARE_COLOR: Final = COLORS[1]
"""Of a share of 1; paper is 0."""
SMALL_OPACITY: Final = 0.35
"""Of cells with too few sequences to say."""
DARK_FROM: Final = 0.55
"""The share from which a cell is dark enough for white type."""
MAX_PAIRS: Final = 40
"""Of matrices beside their null: a page carries them all."""
LEVEL_WORDS: Final = (
    "Levels of the score, the share of tokens right: very low to 0.2, low to 0.4, medium to 0.6, high to 0.8, very "
    "high above; grey type: fewer than 30 sequences."
)
CELL_COLUMNS: Final = (
    *("model_from", "model_to", "context_from", "context_to", "continuation_from", "continuation_to"),
    *("level_from", "level_to", "group", "num_chosen"),
)
"""Of a row of a matrix: what says which sequences are in the cell."""


class OwnSide(NamedTuple):
    """What differs where a model is compared with itself: its symbol, its column, what is held; a caution."""

    symbol: str
    column: str
    held: tuple[str, ...]
    remark: str


class Matrix(NamedTuple):
    """One heatmap: its columns of shares, their totals, numbers and smallness, and whose share it is."""

    share: str
    total: str
    number: str
    small: str
    ends: tuple[str, str] = ("", "")
    is_observed: bool = True


OWN_SIDES: Final = {
    "context": OwnSide("k", "context", ("continuation_from",), "a longer context is continued by later tokens"),
    "continuation": OwnSide("n", "continuation", ("context_from",), "a longer continuation begins with the shorter"),
}
FORWARD: Final = Matrix("share", "num_from", "num_chosen", "small_stratum", ("share_low", "share_high"))
INVERSE: Final = Matrix(
    "inverse_share", "num_to", "num_chosen", "inverse_small_stratum", ("inverse_low", "inverse_high")
)
EXPECTED: Final = Matrix("expected_share", "", "expected", "small_stratum", is_observed=False)


def transition_specs(result: TransitionsResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    return specs_of_figures({name: draw(result) for name, draw in FIGURES})


def draw_by_size(result: TransitionsResult) -> Figure | None:
    """Levels of each model given those of the next smaller one, beside regression to the mean: the study's matrices."""
    return _draw_beside_null(result, "size", "Level by level, from one size to the next")


def draw_by_step(result: TransitionsResult) -> Figure | None:
    """Levels of each checkpoint given those of the one before, beside regression to the mean."""
    return _draw_beside_null(result, "step", "Level by level, from one checkpoint to the next")


def draw_by_context(result: TransitionsResult) -> Figure | None:
    """Levels of the largest model given more context against those given less, beside regression to the mean."""
    return _draw_beside_null(result, "context", "Level by level, from one context to the next")


def draw_by_continuation(result: TransitionsResult) -> Figure | None:
    """Levels of the largest model over more continuation against those over less, beside regression to the mean."""
    return _draw_beside_null(result, "continuation", "Level by level, from one continuation to the next")


def draw_inverse(result: TransitionsResult) -> Figure | None:
    """Where the levels of each model come from: P(level in the smaller | level in the larger)."""
    records = _reference(result, result.levels.to_pylist(), "size")
    if not records:
        return None
    charts = [
        _heatmap(some, INVERSE, _pair_title(some), names_levels=index % 2 == 0)
        for index, some in enumerate(evenly(_by_pair(records), MAX_PAIRS))
    ]
    rows: list[Spec] = [{"hconcat": charts[start : start + 2], "spacing": 8} for start in range(0, len(charts), 2)]
    subtitle = _subtitle(records, "columns of each matrix sum to 1")
    caption = (
        "Of the sequences that the larger model recites at a level (column), the share that the smaller one recites at "
        f"each level (row); below each share its number. {LEVEL_WORDS} {_of_cell(records)}."
    )
    title = heading("Where levels come from", subtitle)
    return Figure({"vconcat": rows, "title": title}, caption, "share of the column", cells=True)


FIGURES: tuple[tuple[str, Callable[[TransitionsResult], Figure | None]], ...] = (
    ("transitions_by_size", draw_by_size),
    ("transitions_by_step", draw_by_step),
    ("transitions_by_context", draw_by_context),
    ("transitions_by_continuation", draw_by_continuation),
    ("transitions_inverse", draw_inverse),
)


def _draw_beside_null(result: TransitionsResult, relation: str, title: str) -> Figure | None:
    records = _reference(result, result.levels.to_pylist(), relation)
    if not records:
        return None
    nulls = [row for row in result.regression.to_pylist() if row["null"] == "regression"]
    every = list(zip(_by_pair(records), _by_pair(_reference(result, nulls, relation)), strict=True))
    drawn = evenly(every, MAX_PAIRS)
    rows: list[Spec] = [
        {
            "name": _panel_name(some[0], index),
            "hconcat": [
                _heatmap(some, FORWARD, _pair_title(some)),
                _heatmap(null, EXPECTED, _null_title(null), names_levels=False, names_sides=False),
            ],
            "spacing": 8,
        }
        for index, (some, null) in enumerate(drawn)
    ]
    caption = (
        "Left: of the sequences at a level (row), the share that is at each level next (column); below each share its "
        "number. Right: the same if the two agreed only as far as their correlation makes them, regression to the "
        f"mean. {LEVEL_WORDS} {_of_cell(records)}."
        + (f" Of {len(every)} pairs {len(drawn)} are drawn." if drawn != every else "")
    )
    models = [] if relation in OWN_SIDES else [some[0]["model_to"] for some, _ in drawn]
    chart: Spec = {
        "vconcat": rows,
        "title": heading(title, _subtitle(records, "rows of each matrix sum to 1")),
    }
    return Figure(chart, caption, "share of the row", panel_models=models, cells=True)


def _panel_name(record: Record, index: int) -> str:
    """By the later side of the pair: what a page may choose it by."""
    side = OWN_SIDES.get(record["relation"])
    return model_panel(index) if side is None else f"choice_{side.column}_{record[f'{side.column}_to']}"


def _reference(result: TransitionsResult, rows: Iterable[Record], relation: str) -> list[Record]:
    """Members' rows of a relation, at the cell that the finding speaks of: the others are in the table.

    Between contexts or continuations the other length is held at the cell's, and the model is the last, the largest.
    """
    figures = result.finding.figures
    chosen = [row for row in rows if row["relation"] == relation and row["group"] == "member"]
    if not chosen:
        return []
    held = OWN_SIDES[relation].held if relation in OWN_SIDES else ("context_from", "continuation_from")
    # No cell of the finding where a model was compared with nothing but itself.
    wanted = {name: figures.get(name, chosen[-1][name]) for name in held}
    if relation in OWN_SIDES:
        wanted["model_to"] = chosen[-1]["model_to"]
    return [row for row in chosen if all(row[name] == value for name, value in wanted.items())]


def _by_pair(records: Sequence[Record]) -> list[list[Record]]:
    pairs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        pairs.setdefault(_sides(record), []).append(record)
    return list(pairs.values())


def _sides(record: Record) -> tuple[str, str]:
    """What the two sides of a comparison are called: models, or contexts or continuations of one model."""
    side = OWN_SIDES.get(record["relation"])
    if side is not None:
        return f"{side.symbol} = {record[side.column + '_from']}", f"{side.symbol} = {record[side.column + '_to']}"
    return record["model_from"], record["model_to"]


def _pair_title(records: Sequence[Record]) -> list[str]:
    before, after = _sides(records[0])
    return [f"{before} →", after]


def _null_title(records: Sequence[Record]) -> list[str]:
    correlation = records[0]["correlation"]
    return ["regression to the mean", "alone" + (f" (r = {correlation:.2f})" if correlation is not None else "")]


def _of_cell(records: Sequence[Record]) -> str:
    """The cell that is held, and n."""
    first = _by_pair(records)[0]
    num_sequences = sum(int(row["num_chosen"]) for row in first)
    side = OWN_SIDES.get(first[0]["relation"])
    k, n = (f"{symbol} = {first[0][name]}" for symbol, name in (("k", "context_from"), ("n", "continuation_from")))
    where = f"{k}, {n}" if side is None else f"{first[0]['model_to']}, {n if side.symbol == 'k' else k}"
    return f"{where}, {num_sequences:,} member sequences{', estimated' if 'num_known_from' in first[0] else ''}"


def _subtitle(records: Sequence[Record], sums: str) -> list[str]:
    side = OWN_SIDES.get(records[0]["relation"])
    faint = f"{sums}; below each share its number"
    return [_of_cell(records), faint, "grey type: fewer than 30 sequences", *([side.remark] if side else [])]


def _heatmap(
    records: Sequence[Record],
    matrix: Matrix,
    title: Sequence[str],
    *,
    names_levels: bool = True,
    names_sides: bool = True,
) -> Spec:
    """One matrix; without names of levels beside another that has them, in the same order."""
    levels, (from_side, to_side) = list(LEVELS), _sides(records[0])
    preposition = "at" if records[0]["relation"] in OWN_SIDES else "under"
    bare = {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}
    size = CELL_PIXELS * len(levels)
    before, after = (f"level {preposition} {side}" for side in (from_side, to_side))
    if max(len(before), len(after)) > size / CHARACTER_PIXELS:  # the heading has the names
        before, after = "level before", "level after"
    x = channel("to:N", sort=levels, title=after, axis={"labelAngle": -45, **bare})
    y = channel(
        "from:N", sort=levels[::-1], title=before if names_sides else None, axis={"labels": names_levels, **bare}
    )
    # By default colours are mixed in a space that turns faint blues to cyan.
    scale = {"domain": [0, 1], "range": [PAPER, FULL_SHARE_COLOR], "interpolate": "rgb"}
    shade = channel("share:Q", scale=scale, legend=None)
    opacity = {"condition": {"test": "datum.small", "value": SMALL_OPACITY}, "value": 1}
    on_dark, on_few = {"test": "datum.dark", "value": INK_ON_COLOR}, {"test": "datum.small", "value": FAINT_INK}
    ink = {"condition": [on_dark, on_few], "value": INK}
    place = {"x": x, "y": y}
    return layer(
        mark("rect", {**place, "color": shade, "opacity": opacity}, stroke=GRID),
        mark("text", {**place, "text": channel("label:N"), "color": ink}, fontSize=TEXT_SIZE, dy=-6),
        mark("text", {**place, "text": channel("number:N"), "color": ink}, fontSize=TEXT_SIZE, dy=8),
        rows=[_drawn_cell(record, matrix) for record in records],
        width=size,
        height=size,
        title=panel_heading(title),
    )


def _drawn_cell(record: Record, matrix: Matrix) -> Record:
    share, number, small = record[matrix.share], record[matrix.number], bool(record[matrix.small])
    drawn = {
        "from": record["level_from"],
        "to": record["level_to"],
        "share": share or 0,
        "label": "–" if share is None else _share_label(share),
        "number": _number_label(number),
        "small": small,
        "dark": share is not None and share >= DARK_FROM and not small,
    }
    cell = {name: record[name] for name in CELL_COLUMNS} if matrix.is_observed else {}
    return {**drawn, **cell, **_told(record, matrix)}


def _told(record: Record, matrix: Matrix) -> dict[str, str]:
    before, after = _sides(record)
    what = f"{record['level_from']} at {before}, {record['level_to']} at {after}"
    if not matrix.is_observed:
        share = "unknown" if record["expected_share"] is None else told_percent(record["expected_share"], None, None)
        return told(f"expected by regression alone: {what}", share, f"{record['expected']:,.1f} sequences expected")
    low, high = (record[end] for end in matrix.ends)
    share = "no sequences" if record[matrix.share] is None else told_percent(record[matrix.share], low, high)
    return told(what, share, f"{record['num_chosen']:,} of {record[matrix.total]:,} sequences")


def _share_label(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if 0 < share < 1 else f"{share:.0f}"


def _number_label(number: float) -> str:
    """A count in full below 1,000, in two digits or more and a suffix above: four characters fit a cell."""
    if number < 1000:
        return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
    factor, suffix = next(step for step in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= step[0])
    return f"{number / factor:.{0 if number >= 10 * factor else 1}f}{suffix}"
