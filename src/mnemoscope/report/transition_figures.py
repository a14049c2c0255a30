"""Figures of the transitions: heatmaps of one level against the next, beside what regression to the mean would give.

Results in, pictures out; axes are labelled from the data, in the order of the levels, low at the bottom left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemoscope.analyses.agreement import LEVELS
from mnemoscope.report.theme import theme

if TYPE_CHECKING:
    import altair as alt

    from mnemoscope.analyses.transitions import TransitionsResult

Spec = dict[str, Any]
Record = dict[str, Any]
CELL_PIXELS: Final = 42
FULL_SHARE_COLOR: Final = "#3b528b"
"""Of a share of 1; white is 0."""
SMALL_OPACITY: Final = 0.35
"""Of cells with too few sequences to say."""
DARK_FROM: Final = 0.55
"""The share from which a cell is dark enough for white type."""


class OwnSide(NamedTuple):
    """What differs where a model is compared with itself: its symbol, its column, what is held; a caution."""

    symbol: str
    column: str
    held: tuple[str, ...]
    remark: str


class Matrix(NamedTuple):
    """One heatmap: its columns of shares, numbers and smallness, and whether the rows are named at its left."""

    share: str
    number: str
    small: str
    names_rows: bool = True


OWN_SIDES: Final = {
    "context": OwnSide("k", "context", ("continuation_from",), "a longer context is continued by later tokens"),
    "continuation": OwnSide("n", "continuation", ("context_from",), "a longer continuation begins with the shorter"),
}
FORWARD: Final = Matrix("share", "num_chosen", "small_stratum")
INVERSE: Final = Matrix("inverse_share", "num_chosen", "inverse_small_stratum")
EXPECTED: Final = Matrix("expected_share", "expected", "small_stratum", names_rows=False)


def transition_specs(result: TransitionsResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    charts = ((name, draw(result)) for name, draw in FIGURES)
    return {name: {**chart.to_dict(), "config": theme()} for name, chart in charts if chart is not None}


def draw_by_size(result: TransitionsResult) -> alt.VConcatChart | None:
    """Levels of each model given those of the next smaller one, beside regression to the mean."""
    return _draw_beside_null(result, "size", "Level by level, from one size to the next")


def draw_by_step(result: TransitionsResult) -> alt.VConcatChart | None:
    """Levels of each checkpoint given those of the one before, beside regression to the mean."""
    return _draw_beside_null(result, "step", "Level by level, from one checkpoint to the next")


def draw_by_context(result: TransitionsResult) -> alt.VConcatChart | None:
    """Levels of the largest model given more context against those given less, beside regression to the mean."""
    return _draw_beside_null(result, "context", "Level by level, from one context to the next longer")


def draw_by_continuation(result: TransitionsResult) -> alt.VConcatChart | None:
    """Levels of the largest model over more continuation against those over less, beside regression to the mean."""
    return _draw_beside_null(result, "continuation", "Level by level, from one continuation to the next longer")


def draw_inverse(result: TransitionsResult) -> alt.VConcatChart | None:
    """Where the levels of each model come from: P(level in the smaller | level in the larger)."""
    records = _reference(result, result.levels.to_pylist(), "size")
    if not records:
        return None
    import altair as alt

    charts = [_heatmap(some, INVERSE, _pair_title(some)) for some in _by_pair(records)]
    rows = [alt.hconcat(*charts[start : start + 2]) for start in range(0, len(charts), 2)]
    return alt.vconcat(*rows, title=_title("Where levels come from", records, "columns of each matrix sum to 1"))


FIGURES: tuple[tuple[str, Callable[[TransitionsResult], alt.VConcatChart | None]], ...] = (
    ("transitions_by_size", draw_by_size),
    ("transitions_by_step", draw_by_step),
    ("transitions_by_context", draw_by_context),
    ("transitions_by_continuation", draw_by_continuation),
    ("transitions_inverse", draw_inverse),
)


def _draw_beside_null(result: TransitionsResult, relation: str, title: str) -> alt.VConcatChart | None:
    records = _reference(result, result.levels.to_pylist(), relation)
    if not records:
        return None
    import altair as alt

    nulls = [row for row in result.regression.to_pylist() if row["null"] == "regression"]
    expected = _reference(result, nulls, relation)
    rows = [
        alt.hconcat(_heatmap(some, FORWARD, _pair_title(some)), _heatmap(null, EXPECTED, _null_title(null)))
        for some, null in zip(_by_pair(records), _by_pair(expected), strict=True)
    ]
    return alt.vconcat(*rows, title=_title(title, records, "rows of each matrix sum to 1"))


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


def _pair_title(records: Sequence[Record]) -> str:
    return " → ".join(_sides(records[0]))


def _null_title(records: Sequence[Record]) -> str:
    correlation = records[0]["correlation"]
    return "regression to the mean alone" + (f" (r = {correlation:.2f})" if correlation is not None else "")


def _title(text: str, records: Sequence[Record], sums: str) -> alt.TitleParams:
    import altair as alt

    first = _by_pair(records)[0]
    num_sequences = sum(int(row["num_chosen"]) for row in first)
    side = OWN_SIDES.get(first[0]["relation"])
    k, n = (f"{symbol} = {first[0][name]}" for symbol, name in (("k", "context_from"), ("n", "continuation_from")))
    where = f"{k}, {n}" if side is None else f"{first[0]['model_to']}, {n if side.symbol == 'k' else k}"
    cell = f"{where}, {num_sequences:,} member sequences"
    remarks = [] if side is None else [side.remark]
    sums = f"{sums}; below each share its number"
    return alt.TitleParams(text, subtitle=[cell, sums, "grey type: fewer than 30 sequences to tell from", *remarks])


def _heatmap(records: Sequence[Record], matrix: Matrix, title: str) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    rows = [_drawn_cell(record, matrix) for record in records]
    levels, (from_side, to_side) = list(LEVELS), _sides(records[0])
    preposition = "at" if records[0]["relation"] in OWN_SIDES else "under"
    rows_axis = alt.Axis(**_bare()) if matrix.names_rows else None
    base = alt.Chart().encode(
        x=alt.X("to:N", sort=levels, title=f"level {preposition} {to_side}", axis=alt.Axis(labelAngle=-35, **_bare())),
        y=alt.Y("from:N", sort=levels[::-1], title=f"level {preposition} {from_side}", axis=rows_axis),
    )
    # By default colours are mixed in a space that turns faint blues to cyan.
    scale = alt.Scale(domain=[0, 1], range=["#ffffff", FULL_SHARE_COLOR], interpolate="rgb")
    cells = base.mark_rect(stroke="#e6e6e6").encode(
        color=alt.Color("share:Q", scale=scale, legend=None),
        opacity=alt.condition("datum.small", alt.value(SMALL_OPACITY), alt.value(1)),
    )
    ink = alt.when("datum.dark").then(alt.value("#ffffff"))
    ink = ink.when("datum.small").then(alt.value("#999999")).otherwise(alt.value("#333333"))
    shares = base.mark_text(fontSize=12, dy=-6).encode(text="label:N", color=ink)
    numbers = base.mark_text(fontSize=10, dy=9).encode(text="number:N", color=ink)
    size = CELL_PIXELS * len(levels)
    heading = alt.TitleParams(title, fontSize=12, fontWeight="normal", anchor="middle", offset=6)
    data = alt.InlineData(values=rows)
    return alt.layer(cells, shares, numbers, data=data, width=size, height=size, title=heading)


def _bare() -> Spec:
    return {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}


def _drawn_cell(record: Record, matrix: Matrix) -> Record:
    share, number, small = record[matrix.share], record[matrix.number], bool(record[matrix.small])
    dark = share is not None and share >= DARK_FROM and not small
    return {
        "from": record["level_from"],
        "to": record["level_to"],
        "share": share or 0,
        "label": "–" if share is None else _share_label(share),
        "number": _number_label(number),
        "small": small,
        "dark": dark,
    }


def _share_label(share: float) -> str:
    return f"{share:.3f}".removeprefix("0") if 0 < share < 1 else f"{share:.0f}"


def _number_label(number: float) -> str:
    """A count in full below 10,000, in three digits and a suffix above."""
    if number < 10_000:
        return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
    factor, suffix = next(step for step in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= step[0])
    return f"{number / factor:.3g}{suffix}"
