"""Figures of the factors: one Vega-Lite description each, from which SVG and PNG are drawn.

Results in, pictures out: shares and intervals come from the tables as they stand. Members are drawn solid and
filled, the control dashed and hollow, in the same figure; n is in the subtitle; models go from small to
large.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.files import write_atomically

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]
Record = dict[str, Any]

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
PANEL_WIDTH, PANEL_HEIGHT = 190, 150
PNG_SCALE = 2.5
MAX_COLUMNS = 2
# Viridis without its palest end, which white paper swallows: ordered, also to the colour-blind.
COLORS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c9b400")


class Axis(NamedTuple):
    """One direction of a figure: the column, its title with unit, and whether it runs in powers of ten."""

    column: str
    title: str
    logarithmic: bool = False


class Panels(NamedTuple):
    """What a line chart shows: x, the column of colours and its title, the column of panels, a title."""

    x: Axis
    color: str
    color_title: str
    panel: str
    title: str


SIZE = Axis("num_non_embedding_parameters", "parameters (non-embedding)", True)
CONTEXT, CONTINUATION = Axis("context", "context k (tokens)"), Axis("continuation", "continuation n (tokens)")
SYMBOLS = {"context": "k", "continuation": "n"}


# Legends under one another: side by side they would widen the figure past one column.
LEGENDS = {"bottom": {"direction": "vertical", "anchor": "start", "offset": 12}}


def theme() -> Spec:
    """The look of every figure, in one place: type that survives one paper column, thin grids, no frames."""
    text = {
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": 10,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    }
    return {
        "background": "white",
        "font": FONT,
        "axis": {
            **text,
            "gridColor": "#e6e6e6",
            "domainColor": "#888888",
            "tickColor": "#888888",
            "labelOverlap": "greedy",
        },
        "legend": {
            **text,
            "orient": "bottom",
            "direction": "horizontal",
            "columns": 4,
            "symbolSize": 60,
            "labelLimit": 260,
        },
        "title": {
            "anchor": "start",
            "fontSize": 13,
            "subtitleFontSize": 10,
            "subtitleColor": "#555555",
            "offset": 10,
        },
        "view": {"stroke": None},
    }


def figure_specs(result: FactorsResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    charts = ((name, draw(result)) for name, draw in FIGURES)
    return {name: {**chart.to_dict(), "config": theme()} for name, chart in charts if chart is not None}


def save_figures(result: FactorsResult, folder: Path) -> list[Path]:
    """The paths of NAME.svg and NAME.png for each figure, each written whole or not at all."""
    import vl_convert  # the renderer is heavy, and only drawing needs it

    paths: list[Path] = []
    for name, spec in figure_specs(result).items():
        svg: str = vl_convert.vegalite_to_svg(spec)
        png: bytes = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE)
        for path, content in ((folder / f"{name}.svg", svg.encode()), (folder / f"{name}.png", png)):
            write_atomically(path, content)
            paths.append(path)
    return paths


def draw_by_size(result: FactorsResult) -> alt.ConcatChart | None:
    """Memorized share against model size, one line per context, one panel per continuation."""
    panels = Panels(SIZE, "context", CONTEXT.title, "continuation", "Memorized share by model size")
    return _draw_lines(_last_checkpoints(_records(result.memorized)), panels)


def draw_by_context(result: FactorsResult) -> alt.ConcatChart | None:
    """Memorized share against context, one line per model, one panel per continuation."""
    panels = Panels(CONTEXT, "model", "model", "continuation", "Memorized share by context")
    return _draw_lines(_last_checkpoints(_records(result.memorized)), panels)


def draw_by_continuation(result: FactorsResult) -> alt.ConcatChart | None:
    """Memorized share against continuation, one line per model, one panel per context."""
    panels = Panels(CONTINUATION, "model", "model", "context", "Memorized share by continuation")
    return _draw_lines(_last_checkpoints(_records(result.memorized)), panels)


def draw_bins(result: FactorsResult) -> alt.ConcatChart | None:
    """Share of sequences by score bin, one line per model, one panel per continuation at one context."""
    records = _one_context(_last_checkpoints(_records(result.bins)), result)
    axis = Axis("bin_label", "memorization score (bin)")
    order = {str(record["bin_label"]): int(record["bin"]) for record in records}
    title = f"Sequences by memorization score{_at_context(records)}"
    panels = Panels(axis, "model", "model", "continuation", title)
    return _draw_lines(records, panels, categories=sorted(order, key=lambda label: order[label]))


def draw_by_repeats(result: FactorsResult) -> alt.ConcatChart | None:
    """Memorized share against copies in the training stream, in doubling classes; the control beside it."""
    known = [record for record in _records(result.repeat_classes) if record["group"] == "member"]
    records = _one_context(_last_checkpoints(known), result)
    ends = {(int(record["num_repeats_low"]), int(record["num_repeats_high"])) for record in records}
    for record in records:
        record["repeats"] = _class_label(record["num_repeats_low"], record["num_repeats_high"])
    categories = [_class_label(low, high) for low, high in sorted(ends)]
    title = f"Dose and response: memorized share by repeats{_at_context(records)}"
    panels = Panels(Axis("repeats", "copies in the training stream"), "model", "model", "continuation", title)
    controls = [record for record in _records(result.memorized) if record["group"] == "control"]
    cells = {(record["model"], record["context"], record["continuation"]) for record in records}
    flat = [
        {**control, "repeats": category}
        for control in controls
        if (control["model"], control["context"], control["continuation"]) in cells
        for category in categories
    ]
    return _draw_lines(records + flat, panels, categories=categories)


def draw_by_step(result: FactorsResult) -> alt.ConcatChart | None:
    """Memorized share along training, one line per training run, one panel per continuation."""
    records = _one_context(_records(result.steps), result)
    for record in records:
        record["run"] = str(record["source"]).rstrip("/").rsplit("/", 1)[-1]
    steps = [float(record["training_step"]) for record in records]
    wide = bool(steps) and max(steps) > 50 * min((step for step in steps if step > 0), default=1)
    axis = Axis("training_step", "training step", wide)
    title = f"Memorized share along training{_at_context(records)}"
    return _draw_lines(records, Panels(axis, "run", "training run", "continuation", title))


FIGURES: tuple[tuple[str, Callable[[FactorsResult], alt.ConcatChart | None]], ...] = (
    ("memorized_by_size", draw_by_size),
    ("memorized_by_context", draw_by_context),
    ("memorized_by_continuation", draw_by_continuation),
    ("score_bins", draw_bins),
    ("memorized_by_repeats", draw_by_repeats),
    ("memorized_by_step", draw_by_step),
)


def _draw_lines(records: Sequence[Record], panels: Panels, *, categories: Sequence[str] = ()) -> alt.ConcatChart | None:
    """Lines with points and interval bars in small multiples; None where no panel has two places along x."""
    records = _panels_with_a_line([record for record in records if record["share"] is not None], panels)
    if not records:
        return None
    import altair as alt  # slow to import, and only drawing needs it

    x, y = _x_encoding(records, panels.x, categories), _y_encoding(records)
    base = alt.Chart().encode(x=x, color=_color(records, panels))
    lines = base.mark_line(strokeWidth=1.5).encode(y=y, strokeDash=_dashes(records))
    bars = base.mark_rule(strokeWidth=1, opacity=0.7).encode(y=alt.Y("share_low:Q"), y2="share_high:Q")
    points = base.encode(y=y, shape=_shapes(records))
    filled = points.mark_point(size=28, opacity=1, filled=True).transform_filter("datum.group != 'control'")
    hollow = points.mark_point(size=28, opacity=1, fill="white", strokeWidth=1.2)
    hollow = hollow.transform_filter("datum.group == 'control'")
    panel = alt.layer(lines, bars, filled, hollow).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    rows: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        rows[record[panels.panel]].append(record)
    charts = [
        panel.properties(data=alt.InlineData(values=_plain(some, panels)), title=_panel_title(panels, value))
        for value, some in sorted(rows.items())
    ]
    title = alt.TitleParams(panels.title, subtitle=_subtitle(records))
    whole = alt.concat(*charts, columns=MAX_COLUMNS, title=title)
    return whole.resolve_scale(color="shared", strokeDash="shared", shape="shared")


def _panel_title(panels: Panels, value: int) -> alt.TitleParams:
    import altair as alt

    text = f"{SYMBOLS[panels.panel]} = {value}"
    return alt.TitleParams(text, fontSize=11, fontWeight="normal", anchor="middle", offset=6)


def _color(records: Sequence[Record], panels: Panels) -> alt.Color:
    """Colours in the order of size: of the models as the tables have them, of lengths by number."""
    import altair as alt

    values = list(dict.fromkeys(record[panels.color] for record in records))
    values = sorted(values) if panels.color in SYMBOLS else values
    columns = 4 if max(len(str(value)) for value in values) <= 8 else 2
    scale = alt.Scale(domain=values, range=_ramp(len(values)))
    legend = alt.Legend(columns=columns, symbolOpacity=1, symbolType="circle", symbolStrokeWidth=2)
    return alt.Color(f"{panels.color}:N", title=panels.color_title, sort=values, scale=scale, legend=legend)


def _dashes(records: Sequence[Record]) -> alt.StrokeDash:
    import altair as alt

    groups = _groups(records)
    scale = alt.Scale(domain=groups, range=[[1, 0], [4, 3]][: len(groups)])
    return alt.StrokeDash("group:N", scale=scale, legend=None)


def _shapes(records: Sequence[Record]) -> alt.Shape:
    import altair as alt

    groups = _groups(records)
    scale = alt.Scale(domain=groups, range=["circle", "diamond"][: len(groups)])
    return alt.Shape("group:N", scale=scale, legend=None)


def _groups(records: Sequence[Record]) -> list[str]:
    return [group for group in ("member", "control") if any(record["group"] == group for record in records)]


def _x_encoding(records: Sequence[Record], axis: Axis, categories: Sequence[str]) -> alt.X:
    import altair as alt

    if categories:
        angle = -45 if max(len(category) for category in categories) > 4 else 0
        settings = alt.Axis(labelAngle=angle, labelOverlap=False, grid=False)
        return alt.X(f"{axis.column}:N", title=axis.title, sort=list(categories), axis=settings)
    values = sorted({float(record[axis.column]) for record in records})
    if axis.logarithmic:
        scale, ticks = _decades(values)
        label = "replace(format(datum.value, '~s'), 'G', 'B')"
        settings = alt.Axis(values=ticks, labelExpr=label)
        return alt.X(f"{axis.column}:Q", title=axis.title, scale=scale, axis=settings)
    settings = alt.Axis(values=values, format="d", grid=False) if len(values) <= 8 else alt.Axis(format="~s")
    return alt.X(f"{axis.column}:Q", title=axis.title, axis=settings, scale=_padded(values))


def _y_encoding(records: Sequence[Record]) -> alt.Y:
    import altair as alt

    values = {float(record[end]) for record in records for end in ("share", "share_low", "share_high")}
    scale, ticks = _decades(sorted(values))
    axis = alt.Axis(values=ticks, labelOverlap="greedy", labelExpr="format(datum.value * 100, '~g') + ' %'")
    return alt.Y("share:Q", title="share of sequences", scale=scale, axis=axis)


def _padded(values: Sequence[float]) -> alt.Scale:
    import altair as alt

    margin = 0.06 * (values[-1] - values[0])
    return alt.Scale(domain=[values[0] - margin, values[-1] + margin], nice=False, zero=False)


def _decades(values: Sequence[float]) -> tuple[alt.Scale, list[float]]:
    """A scale in powers of ten and its ticks; with zeros among the values one that is linear next to zero."""
    import altair as alt

    positive = [value for value in values if value > 0]
    if not positive:
        return alt.Scale(domain=[0, 1]), [0, 1]
    low, high = min(positive), max(positive)
    if min(values) <= 0:
        scale = alt.Scale(type="symlog", constant=low, domain=[0, high * 1.1], nice=False)
        return scale, [0, *_ticks(2 * low, high * 1.1)]
    low, high = low / 1.15, high * 1.15
    return alt.Scale(type="log", domain=[low, high], nice=False), _ticks(low, high)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high; over two decades or less 2 and 5 times them too."""
    span = math.log10(high / low)
    factors = (1, 2, 5) if span <= 2 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, 1 if span <= 6 else 2)
    ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _ramp(num_colors: int) -> list[str]:
    """Colours from dark to light, evenly spaced along the ramp."""
    if num_colors == 1:
        return [COLORS[1]]
    places = [index * (len(COLORS) - 1) / (num_colors - 1) for index in range(num_colors)]
    ends = [*COLORS, COLORS[-1]]
    return [_mix(ends[int(place)], ends[int(place) + 1], place % 1) for place in places]


def _mix(one: str, other: str, weight: float) -> str:
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * weight):02x}" for a, b in pairs)


def _records(table: pa.Table) -> list[Record]:
    return table.to_pylist()


def _last_checkpoints(records: Iterable[Record]) -> list[Record]:
    """Rows of each source's last step: intermediate ones have a figure of their own."""
    rows = list(records)
    last: dict[str, tuple[float, str]] = {}
    for row in rows:
        step = math.inf if row["training_step"] is None else float(row["training_step"])
        if row["source"] not in last or step > last[row["source"]][0]:
            last[row["source"]] = step, row["model"]
    return [row for row in rows if last[row["source"]][1] == row["model"]]


def _one_context(records: Sequence[Record], result: FactorsResult) -> list[Record]:
    """Rows of the context that the finding speaks of: the others are in the table."""
    context = result.finding.figures.get("context")
    return [dict(row) for row in records if row["context"] == context]


def _at_context(records: Sequence[Record]) -> str:
    return f" (k = {records[0]['context']})" if records else ""


def _class_label(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _panels_with_a_line(records: Sequence[Record], panels: Panels) -> list[Record]:
    """Rows of panels in which something varies along x: a panel of single points shows nothing."""
    places: dict[Any, set[Any]] = {}
    for row in records:
        places.setdefault(row[panels.panel], set()).add(row[panels.x.column])
    return [row for row in records if len(places[row[panels.panel]]) > 1]


def _plain(records: Sequence[Record], panels: Panels) -> list[Record]:
    """The rows with the columns that are drawn and no others: the page carries them."""
    names = {panels.x.column, panels.color, panels.panel, "group", "share", "share_low", "share_high"}
    return [{name: row[name] for name in names} for row in records]


def _subtitle(records: Sequence[Record]) -> list[str]:
    """How many sequences stand behind a point, by group, and how to read the marks."""
    parts: list[str] = []
    for group in _groups(records):
        sizes = [int(row["num_sequences"]) for row in records if row["group"] == group]
        span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        parts.append(f"{span} {group} sequences")
    control = "control dashed and hollow" if "control" in _groups(records) else "no control given"
    return [f"n per point: {', '.join(parts)}", f"{control}; bars: Wilson intervals"]
