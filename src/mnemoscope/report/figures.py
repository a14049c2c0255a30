"""Figures of the factors: one Vega-Lite description each, from which SVG, PDF and PNG are drawn.

Results in, pictures out: shares and intervals come from the tables as they stand. Members are drawn solid and
filled, the control dashed and hollow in the same figure, and once where the controls agree; n is in the subtitle;
models go from small to large.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.report.axes import Axis, decade_shares, dodge, linear_shares, x_encoding
from mnemoscope.report.estimates import caption_words
from mnemoscope.report.figure import (
    LEVEL,
    MAX_ROWS,
    Figure,
    evenly,
    heading,
    panel_heading,
    span,
    specs_of_figures,
    told,
    told_percent,
)
from mnemoscope.report.rows import (
    Record,
    at_reference_context,
    last_checkpoints,
    occurring_bins,
    range_label,
    records,
    source_name,
)
from mnemoscope.report.theme import CONTROL_COLOR, PANEL_HEIGHT, PAPER, WIDTHS, num_columns, ramp
from mnemoscope.report.vega import Spec, channel, concat, layer, mark


class Panels(NamedTuple):
    """What a line chart shows: x, the column of colours and its title, the column of panels, a title."""

    x: Axis
    color: str
    color_title: str
    panel: str
    title: str
    told: str
    """What is drawn and how it is read, in a sentence or two."""
    y: Callable[..., Spec] = linear_shares


SIZE = Axis("num_non_embedding_parameters", "parameters (non-embedding)", True)
CONTEXT, CONTINUATION = Axis("context", "context k (tokens)"), Axis("continuation", "continuation n (tokens)")
CONTROL = "control"
SHORT_LABEL, MIDDLING_LABEL, LONG_LABEL = 8, 14, 24
"""Characters of which four, three and two names stand side by side in a legend."""
SYMBOLS = {"context": "k", "continuation": "n"}


def figure_specs(result: FactorsResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    return specs_of_figures({name: draw(result) for name, draw in FIGURES})


def draw_by_size(result: FactorsResult) -> Figure | None:
    """Memorized share against model size, one line per context, one panel per continuation: the study's by size."""
    words = "The share of sequences that each model recites whole, by its size; one line per context."
    panels = Panels(SIZE, "context", CONTEXT.title, "continuation", "Memorized share by model size", words)
    return _draw_lines(last_checkpoints(records(result.memorized)), panels)


def draw_by_context(result: FactorsResult) -> Figure | None:
    """Memorized share against context, one line per model, one panel per continuation: the study's by context."""
    words = "The share of sequences recited whole, by how many tokens of context are given; one line per model."
    panels = Panels(CONTEXT, "model", "model", "continuation", "Memorized share by context", words)
    return _draw_lines(last_checkpoints(records(result.memorized)), panels)


def draw_by_continuation(result: FactorsResult) -> Figure | None:
    """Memorized share against continuation, one line per model, a panel per context: the study's by continuation."""
    words = "The share of sequences recited whole, by how many tokens have to be recited; one line per model."
    panels = Panels(CONTINUATION, "model", "model", "context", "Memorized share by continuation", words)
    return _draw_lines(last_checkpoints(records(result.memorized)), panels)


def draw_bins(result: FactorsResult) -> Figure | None:
    """Share of sequences by score bin, one line per model, a panel per continuation at one context: the study's bins.

    A bin stands at its middle, the scores 0 and 1, which have bins of their own, at the ends.
    """
    rows = occurring_bins(at_reference_context(result, last_checkpoints(records(result.bins))))
    for row in rows:
        row["score"] = {0: 0.0, 11: 1.0}.get(row["bin"], (row["bin"] - 0.5) / 10)
        row["place"] = f"score {row['bin_label']}"
    axis = Axis("score", "memorization score", ticks=(0, 0.5, 1))
    title = f"Sequences by memorization score, bins of 0.1{_at_context(rows)}"
    words = "The share of sequences at each score (the share of tokens right); the upright axis runs in powers of ten."
    words += caption_words("bins", result)
    return _draw_lines(rows, Panels(axis, "model", "model", "continuation", title, words, decade_shares))


def draw_by_repeats(result: FactorsResult) -> Figure | None:
    """Memorized share against copies in the training stream, in doubling classes; the control beside it."""
    known = [row for row in records(result.repeat_classes) if row["group"] == "member"]
    rows = at_reference_context(result, last_checkpoints(known))
    ends = sorted({(int(row["num_repeats_low"]), int(row["num_repeats_high"])) for row in rows})
    for row in rows:
        row["repeats"] = ends.index((row["num_repeats_low"], row["num_repeats_high"]))
        row["place"] = f"copies {range_label(row['num_repeats_low'], row['num_repeats_high'])}"
    cells = {(row["model"], row["context"], row["continuation"]) for row in rows}
    flat = [
        {**control, "repeats": place}
        for control in records(result.memorized)
        if control["group"] == "control" and (control["model"], control["context"], control["continuation"]) in cells
        for place in range(len(ends))
    ]
    axis = Axis("repeats", "copies in the training stream", labels=[range_label(*pair) for pair in ends])
    title = f"Memorized share by repeats{_at_context(rows)}"
    words = "The share of sequences recited whole, by how often they stand in the training text; one line per model."
    return _draw_lines(rows + flat, Panels(axis, "model", "model", "continuation", title, words))


def draw_by_step(result: FactorsResult) -> Figure | None:
    """Memorized share along training, one line per training run, one panel per continuation."""
    rows = at_reference_context(result, records(result.steps))
    for row in rows:
        row["run"] = source_name(row)
        row["place"] = f"step {row['training_step']:,}"
    steps = [float(row["training_step"]) for row in rows if row["training_step"] > 0]
    wide = len(steps) == len(rows) > 0 and max(steps) > 50 * min(steps)
    title = f"Memorized share along training{_at_context(rows)}"
    words = "The share of sequences recited whole by the checkpoints of a training run; one line per run."
    axis = Axis("training_step", "training step", wide)
    return _draw_lines(rows, Panels(axis, "run", "training run", "continuation", title, words))


FIGURES: tuple[tuple[str, Callable[[FactorsResult], Figure | None]], ...] = (
    ("memorized_by_size", draw_by_size),
    ("memorized_by_context", draw_by_context),
    ("memorized_by_continuation", draw_by_continuation),
    ("score_bins", draw_bins),
    ("memorized_by_repeats", draw_by_repeats),
    ("memorized_by_step", draw_by_step),
)


def _draw_lines(rows: Sequence[Record], panels: Panels) -> Figure | None:
    """Lines with points and interval bars in small multiples; None where no panel has two places along x."""
    rows = _panels_with_a_line([row for row in rows if row["share"] is not None], panels)
    if not rows:
        return None
    every = _in_order([row[panels.color] for row in rows], panels.color)
    colors = evenly(every, max(2, MAX_ROWS * len(every) // len(rows)))
    rows = [row for row in rows if row[panels.color] in colors]
    rows, of_control = _one_control(rows, panels, colors)
    by_panel: defaultdict[int, list[Record]] = defaultdict(list)
    for row in rows:
        by_panel[row[panels.panel]].append(row)
    columns = num_columns(len(by_panel))
    places = _dodged(rows, panels, colors, WIDTHS[columns])
    x = x_encoding([float(row[panels.x.column]) for row in rows], panels.x, line_characters=WIDTHS[columns] // 6)
    left, inner = (panels.y(_values(rows), labels=labels) for labels in (True, False))
    charts = [
        layer(
            *_marks(x, left if index % columns == 0 else inner, rows, panels, colors),
            rows=[_drawn_row(row, panels, places) for row in by_panel[value]],
            name=f"choice_{panels.panel}_{value}",
            title=panel_heading(f"{SYMBOLS[panels.panel]} = {value}"),
            width=WIDTHS[columns],
            height=PANEL_HEIGHT,
        )
        for index, value in enumerate(sorted(by_panel))
    ]
    sizes, reading = _subtitle(rows, of_control)
    chart = concat(
        *charts,
        columns=columns,
        spacing=12,
        title=heading(panels.title, [sizes, reading]),
        resolve={"scale": {"color": "shared", "strokeDash": "shared", "shape": "shared"}},
    )
    thinned = f" Of {len(every)} lines {len(colors)} are drawn." if len(colors) < len(every) else ""
    caption = f"{panels.told} {reading[0].upper()}{reading[1:]}; {sizes}.{thinned}"
    choices = {name: name for name in ("model", "context", "continuation") if name in (panels.color, panels.panel)}
    return Figure(chart, caption, "share of sequences", choices)


def _marks(x: Spec, y: Spec, rows: Sequence[Record], panels: Panels, colors: Sequence[Any]) -> list[Spec]:
    base = {"x": x, "color": _color(rows, panels, colors)}
    ends = {"y": channel("share_low:Q"), "y2": channel("share_high")}
    points = {**base, "y": y, "shape": _shapes(rows)}
    return [
        mark("line", {**base, "y": y, "strokeDash": _dashes(rows)}, strokeWidth=1.6),
        mark("rule", {**base, **ends}, strokeWidth=1, opacity=0.7),
        mark("point", points, where="datum.group != 'control'", size=26, opacity=1, filled=True),
        mark("point", points, where="datum.group == 'control'", size=26, opacity=1, fill=PAPER, strokeWidth=1.2),
    ]


def _one_control(rows: Sequence[Record], panels: Panels, colors: Sequence[Any]) -> tuple[list[Record], str]:
    """The rows with one neutral control, that of the last colour, where all agree within their intervals.

    Models see the same control text, and recite next to nothing of it: its lines lie on one another.
    """
    controls = [row for row in rows if row["group"] == "control"]
    together: defaultdict[tuple[Any, Any], list[Record]] = defaultdict(list)
    for row in controls:
        together[row[panels.panel], row[panels.x.column]].append(row)
    apart = any(max(r["share_low"] for r in some) > min(r["share_high"] for r in some) for some in together.values())
    if apart or not controls:
        return list(rows), ""
    last = [max(some, key=lambda row: colors.index(row[panels.color])) for some in together.values()]
    names = list(dict.fromkeys(row[panels.color] for row in last))
    name = f"{SYMBOLS[panels.color]} = {names[-1]}" if panels.color in SYMBOLS else str(names[-1])
    one = f" ({name})" if len(colors) > 1 and len(names) == 1 else ""
    members = [row for row in rows if row["group"] != "control"]
    return [
        *members,
        *({**row, "told_model": row["model"], panels.color: CONTROL} for row in last),
    ], f"grey: control{one}"


def _dodged(rows: Sequence[Record], panels: Panels, colors: Sequence[Any], width: int) -> dict[tuple[Any, Any], float]:
    """Where each value of each colour is drawn: aside where intervals of several colours would hide one another."""
    values = sorted({float(row[panels.x.column]) for row in rows})
    places = {(color, value): value for color in (*colors, CONTROL) for value in values}
    if not _overlap(rows, panels):
        return places
    for index, color in enumerate(colors):
        moved = dodge(values, panels.x, place=index, num_places=len(colors), width=width)
        places |= {(color, value): x for value, x in zip(values, moved, strict=True)}
    return places


def _overlap(rows: Sequence[Record], panels: Panels) -> bool:
    """Whether two colours' intervals of members overlap somewhere."""
    together: defaultdict[tuple[Any, Any], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row["group"] == "member":
            together[row[panels.panel], row[panels.x.column]].append((row["share_low"], row["share_high"]))
    pairs = (pair for some in together.values() for pair in pairwise(sorted(some)))
    return any(right[0] < left[1] for left, right in pairs)


def _values(rows: Sequence[Record]) -> list[float]:
    return sorted({float(row[end]) for row in rows for end in ("share", "share_low", "share_high")})


def _in_order(values: Sequence[Any], name: str) -> list[Any]:
    """Models as the tables have them, from small to large; lengths by number."""
    unique = list(dict.fromkeys(values))
    return sorted(unique) if name in SYMBOLS else unique


def _color(rows: Sequence[Record], panels: Panels, colors: Sequence[Any]) -> Spec:
    drawn, shades = [str(value) for value in colors], ramp(len(colors))
    if any(row[panels.color] == CONTROL for row in rows):
        drawn, shades = [*drawn, CONTROL], [*shades, CONTROL_COLOR]
    longest = max(map(len, drawn))
    columns = 4 if longest <= SHORT_LABEL else 3 if longest <= MIDDLING_LABEL else 2 if longest <= LONG_LABEL else 1
    legend = {"columns": columns, "symbolOpacity": 1, "symbolType": "circle", "symbolStrokeWidth": 2}
    scale = {"domain": drawn, "range": shades}
    return channel("color:N", title=panels.color_title, sort=drawn, scale=scale, legend=legend)


def _dashes(rows: Sequence[Record]) -> Spec:
    groups = _groups(rows)
    return channel("group:N", scale={"domain": groups, "range": [[1, 0], [4, 3]][: len(groups)]}, legend=None)


def _shapes(rows: Sequence[Record]) -> Spec:
    groups = _groups(rows)
    return channel("group:N", scale={"domain": groups, "range": ["circle", "diamond"][: len(groups)]}, legend=None)


def _groups(rows: Sequence[Record]) -> list[str]:
    return [group for group in ("member", "control") if any(row["group"] == group for row in rows)]


def _at_context(rows: Sequence[Record]) -> str:
    return f" (k = {rows[0]['context']})" if rows else ""


def _panels_with_a_line(rows: Sequence[Record], panels: Panels) -> list[Record]:
    """Rows of panels in which something varies along x: a panel of single points shows nothing."""
    places: dict[Any, set[Any]] = {}
    for row in rows:
        places.setdefault(row[panels.panel], set()).add(row[panels.x.column])
    return [row for row in rows if len(places[row[panels.panel]]) > 1]


def _drawn_row(row: Record, panels: Panels, places: dict[tuple[Any, Any], float]) -> Record:
    """The row with the columns that are drawn, chosen by or told, and no others: the page carries them.

    `color` is what it is drawn as; the control that is drawn for all has no model or context of its own to choose by.
    """
    color = row[panels.color]
    kept = {name: row[name] for name in (panels.x.column, panels.panel, "group", "share", "share_low", "share_high")}
    own = {panels.color: None if color == CONTROL else color}
    drawn = {"color": str(color), "x": places[color, float(row[panels.x.column])]}
    share = told_percent(row["share"], row["share_low"], row["share_high"])
    return {**kept, **own, **drawn, **told(_what(row), share, f"{row['num_sequences']:,} {row['group']} sequences")}


def _what(row: Record) -> str:
    """The model, or the control, and where it stands."""
    of = row.get("told_model", row["model"])
    cell = f"k = {row['context']}, n = {row['continuation']}"
    place = [row["place"]] if "place" in row else []
    return ", ".join([*(["control"] if row["group"] == CONTROL else []), of, cell, *place])


def _subtitle(rows: Sequence[Record], of_control: str) -> tuple[str, str]:
    """How many sequences stand behind a point, by group, and how to read the marks."""
    sizes = {group: [int(row["num_sequences"]) for row in rows if row["group"] == group] for group in _groups(rows)}
    parts = [f"{span(some)} {group} sequences" for group, some in sizes.items()]
    control = of_control or ("control dashed and hollow" if CONTROL in sizes else "no control given")
    return f"n per point: {', '.join(parts)}", f"{control}; bars: {LEVEL} Wilson intervals"
