"""Figures of curves by token index, and of the boundary effect beside its controls, from tables as they stand.

One panel per model, small to large; memorized, half and unmemorized in colour. Members are solid with their band, the
control (held-out text) is dotted, the memory-free null dashed; an upright line stands between context and continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.report.theme import theme

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]
Record = dict[str, Any]

PANEL_WIDTH, PANEL_HEIGHT, MAX_COLUMNS = 270, 170, 2
ROW_HEIGHT = 14
# Dark to light in the order of the score, told apart by the colour-blind too.
SCORE_COLORS = {"memorized": "#440154", "half": "#21918c", "unmemorized": "#d98200"}
KINDS = {"members, with band": [1, 0], "held-out text": [1.5, 2.5], "memory-free null": [6, 3]}
MEMBERS, HELD_OUT, NULL = KINDS
PARTS = {
    "difference": "at the break",
    "inside_difference": "the same inside the context",
    "null_difference": "memory-free null",
    "unexplained": "unexplained by selection",
    "control_unexplained": "unexplained in held-out text",
}
PART_SHAPES = ["circle", "square", "cross", "diamond", "triangle-up"]
PART_COLORS = ["#444444", "#8c8c8c", "#b0b0b0", "#c2185b", "#e8a0bd"]
BILLIONS = "replace(format(datum.value, '~s'), 'G', 'B')"


class Drawn(NamedTuple):
    """A figure: its column with the null's, the title of y, the title, and how y is labelled."""

    column: str
    null: str
    y_title: str
    title: str
    label: str = "datum.label"


class Look(NamedTuple):
    """What all panels share: the colours of scores, the dashes of kinds, the reach of y."""

    color: alt.Color
    dash: alt.StrokeDash
    domain: list[float]


def curve_specs(result: FrequencyResult | EntropyResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    if isinstance(result, EntropyResult):
        drawn = Drawn("mean", "null_mean", "entropy (nats)", "Entropy of the prediction by index")
        charts = {"entropy_by_index": _draw_curves(result.curves.to_pylist(), drawn, _missing(result))}
        charts["entropy_boundary"] = _draw_boundary(
            result.boundary.to_pylist(), "difference of entropy to the index before (nats)", "Entropy at the boundary"
        )
    else:
        charts = _frequency_charts(result)
    return {name: {**chart.to_dict(), "config": _look()} for name, chart in charts.items() if chart is not None}


def _look() -> Spec:
    """The common theme, with the legends of colour and of line one above the other."""
    common = theme()
    below = {"direction": "vertical", "anchor": "start", "offset": 12}
    return {**common, "legend": {**common["legend"], "layout": {"bottom": below}}}


def _frequency_charts(result: FrequencyResult) -> dict[str, alt.ConcatChart | None]:
    curves, boundary = result.curves.to_pylist(), result.boundary.to_pylist()
    missing = _missing(result)
    charts: dict[str, alt.ConcatChart | None] = {}
    for ngram in dict.fromkeys(row["ngram"] for row in boundary):
        rows = [row for row in curves if row["ngram"] == ngram]
        named = f"frequency of the {ngram}-gram"
        means = Drawn("mean", "null_mean", f"mean {named}", f"Mean {named} by index", BILLIONS)
        logs = Drawn("log_mean", "null_log_mean", "mean ln(1 + frequency)", f"Mean logarithm of the {named} by index")
        charts[f"frequency_{ngram}gram"] = _draw_curves(rows, means, missing)
        charts[f"frequency_{ngram}gram_log"] = _draw_curves(rows, logs, missing)
        charts[f"frequency_{ngram}gram_boundary"] = _draw_boundary(
            [row for row in boundary if row["ngram"] == ngram],
            "difference of ln(1 + frequency) to the index before",
            f"{named.capitalize()} at the boundary",
        )
    return charts


def _missing(result: FrequencyResult | EntropyResult) -> list[str]:
    """A line for each model that names the member scores without a curve, and how many clusters they have."""
    few: dict[str, list[str]] = {}
    for row in result.strata.to_pylist():
        if row["note"] and row["score_class"] and row["group"] == "member":
            few.setdefault(row["model"], []).append(f"{row['score_class']} ({row['num_clusters']})")
    return [f"too few clusters for a curve: {model}, {', '.join(names)}" for model, names in few.items()]


def _draw_curves(rows: Sequence[Record], drawn: Drawn, missing: Sequence[str]) -> alt.ConcatChart | None:
    """Panels of curves by index; None where no named score has a curve."""
    records = [record for row in rows if row["score_class"] for record in _curve_records(row, drawn)]
    if not records:
        return None
    import altair as alt  # slow to import, and only drawing needs it

    models = list(dict.fromkeys(record["model"] for record in records))
    look = Look(_score_color(records), _kind_dash(records), _domain(records))
    panels = [_curve_panel([record for record in records if record["model"] == m], drawn, look) for m in models]
    context, continuation = rows[0]["context"], rows[0]["continuation"]
    subtitle = [
        f"context k = {context}, continuation n = {continuation}; upright lines: k, and k + n/2 (dotted)",
        f"n per curve: {_spoken_sizes(rows)}; y spans the curves from index {context // 4} on",
        *missing,
    ]
    title = alt.TitleParams(drawn.title, subtitle=subtitle)
    return alt.concat(*panels, columns=MAX_COLUMNS, title=title).resolve_scale(color="shared", strokeDash="shared")


def _curve_records(row: Record, drawn: Drawn) -> list[Record]:
    """The points that a row gives: its own, and the null's beside a member's; inside the context the null is flat."""
    keys = {name: row[name] for name in ("model", "score_class", "index", "context", "continuation")}
    value, low, high = (row[name] for name in (drawn.column, f"{drawn.column}_low", f"{drawn.column}_high"))
    if row["group"] != "member":
        return [{**keys, "kind": HELD_OUT, "value": value}] if value is not None else []
    null = row[drawn.null]
    records = [{**keys, "kind": MEMBERS, "value": value, "low": low, "high": high}] if value is not None else []
    known = null is not None and value is not None and row["index"] >= row["context"] - 1
    return [*records, {**keys, "kind": NULL, "value": null}] if known else records


def _domain(records: Sequence[Record]) -> list[float]:
    """The range of all curves, and of bands as far as they stay near: the first indices would flatten the rest."""
    start = records[0]["context"] // 4
    shown = [record for record in records if record["index"] >= start]
    values = [float(record["value"]) for record in shown]
    ends = [float(record[end]) for record in shown for end in ("low", "high") if record.get(end) is not None]
    low, high = min(values + ends), max(values + ends)
    margin = 0.04 * (high - low or 1)
    return [max(0.0, low - margin) if low >= 0 else low - margin, high + margin]


def _curve_panel(records: Sequence[Record], drawn: Drawn, look: Look) -> alt.LayerChart | alt.FacetChart:
    import altair as alt

    context, continuation = records[0]["context"], records[0]["continuation"]
    reach = alt.Scale(domain=[0, context + continuation - 1], nice=False)
    x = alt.X("index:Q", title="token index", scale=reach, axis=alt.Axis(grid=False, tickMinStep=1, tickCount=8))
    scale = alt.Scale(domain=look.domain, nice=False, zero=False)
    axis = alt.Axis(labelExpr=drawn.label, tickCount=5)
    y = alt.Y("value:Q", title=drawn.y_title, scale=scale, axis=axis)
    base = alt.Chart(alt.InlineData(values=list(records))).encode(x=x, color=look.color)
    band = base.mark_area(opacity=0.16, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    band = band.transform_filter(f"datum.kind == '{MEMBERS}'")
    lines = base.encode(y=y, strokeDash=look.dash)
    beside = lines.mark_line(strokeWidth=1.1, clip=True).transform_filter(f"datum.kind != '{MEMBERS}'")
    own = lines.mark_line(strokeWidth=1.8, clip=True).transform_filter(f"datum.kind == '{MEMBERS}'")
    rules = [_rule(context, [1, 0]), _rule(context + continuation // 2, [2, 2])]
    title = alt.TitleParams(records[0]["model"], fontSize=11, fontWeight="normal", anchor="middle", offset=6)
    panel = alt.layer(*rules, band, beside, own)
    return panel.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, title=title)


def _rule(index: int, dash: Sequence[int]) -> alt.Chart:
    """An upright line before the index."""
    import altair as alt

    chart = alt.Chart(alt.InlineData(values=[{"at": index - 0.5}]))
    return chart.mark_rule(color="#888888", strokeWidth=1, strokeDash=list(dash)).encode(x="at:Q")


def _score_color(records: Sequence[Record]) -> alt.Color:
    import altair as alt

    names = [name for name in SCORE_COLORS if any(record["score_class"] == name for record in records)]
    scale = alt.Scale(domain=list(SCORE_COLORS), range=list(SCORE_COLORS.values()))
    legend = alt.Legend(values=names, symbolType="stroke", symbolStrokeWidth=2.5, symbolOpacity=1)
    return alt.Color("score_class:N", title="score", scale=scale, legend=legend)


def _kind_dash(records: Sequence[Record]) -> alt.StrokeDash:
    import altair as alt

    names = [name for name in KINDS if any(record["kind"] == name for record in records)]
    scale = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    legend = alt.Legend(values=names, symbolType="stroke", symbolStrokeColor="#444444", symbolSize=400, labelLimit=200)
    return alt.StrokeDash("kind:N", title="line", scale=scale, legend=legend)


def _spoken_sizes(rows: Sequence[Record]) -> str:
    """How many member sequences stand behind a curve, over the models."""
    parts: list[str] = []
    for name in SCORE_COLORS:
        sizes = [int(row["num_sequences"]) for row in rows if row["score_class"] == name and row["group"] == "member"]
        if sizes:
            span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
            parts.append(f"{span} {name}")
    return ", ".join(parts)


def _draw_boundary(rows: Sequence[Record], x_title: str, title: str) -> alt.ConcatChart | None:
    """The difference at the break beside its controls, with intervals; one panel per model, a row per part."""
    records = [record for row in rows if row["p_value"] is not None for record in _part_records(row)]
    if not records:
        return None
    import altair as alt

    ends = [float(record[end]) for record in records for end in ("value", "low", "high") if record[end] is not None]
    margin = 0.04 * (max(*ends, 0) - min(*ends, 0))
    scale = alt.Scale(domain=[min(*ends, 0) - margin, max(*ends, 0) + margin], nice=False)
    models = list(dict.fromkeys(record["model"] for record in records))
    panels = [
        _boundary_panel([record for record in records if record["model"] == model], records, scale, x_title)
        for model in models
    ]
    subtitle = ["bars: cluster-bootstrap intervals; the null has none", "the break: k, for half-memorized k + n/2"]
    missing = [row for row in rows if row["p_value"] is None]
    subtitle += [f"not drawn: {row['model']}, {row['score_class']} ({row['note']})" for row in missing]
    whole = alt.concat(*panels, columns=MAX_COLUMNS, title=alt.TitleParams(title, subtitle=subtitle))
    return whole.resolve_scale(color="shared", shape="shared")


def _part_records(row: Record) -> list[Record]:
    label = f"{row['score_class']} (n = {row['num_compared']:,}): {row['verdict']}"
    return [
        {
            **{"model": row["model"], "row": label, "part": words, "value": row[name]},
            **{"low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")},
        }
        for name, words in PARTS.items()
        if row[name] is not None
    ]


def _boundary_panel(
    records: Sequence[Record], everything: Sequence[Record], scale: alt.Scale, x_title: str
) -> alt.VConcatChart:
    """One little strip per score, headed by its size and verdict; the legend is that of all panels."""
    import altair as alt

    strips: list[alt.LayerChart | alt.FacetChart] = []
    labels = list(dict.fromkeys(record["row"] for record in records))
    for label in labels:
        data = alt.InlineData(values=[record for record in records if record["row"] == label])
        last = label == labels[-1]
        axis = alt.Axis(title=x_title if last else None, labels=last, ticks=last, tickCount=6)
        y = alt.Y("part:N", sort=list(PARTS.values()), title=None, axis=None)
        base = alt.Chart(data).encode(y=y, color=_part_color(everything))
        bars = base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q")
        points = base.mark_point(size=42, filled=True, opacity=1).encode(
            x=alt.X("value:Q", scale=scale, axis=axis), shape=_part_shape(everything)
        )
        zero = alt.Chart(alt.InlineData(values=[{"at": 0}])).mark_rule(color="#888888").encode(x="at:Q")
        heading = alt.TitleParams(label, fontSize=10, fontWeight="normal", anchor="start", offset=3)
        strip = alt.layer(zero, bars.transform_filter("isValid(datum.low)"), points)
        strips.append(strip.properties(width=PANEL_WIDTH, height=ROW_HEIGHT * len(PARTS), title=heading))
    title = alt.TitleParams(records[0]["model"], fontSize=11, anchor="start")
    return alt.vconcat(*strips, spacing=8, title=title)


def _part_legend(records: Sequence[Record]) -> alt.Legend:
    """The parts that are drawn; others would promise what is not there."""
    import altair as alt

    drawn = {record["part"] for record in records}
    return alt.Legend(columns=2, values=[words for words in PARTS.values() if words in drawn])


def _part_color(records: Sequence[Record]) -> alt.Color:
    import altair as alt

    scale = alt.Scale(domain=list(PARTS.values()), range=PART_COLORS)
    return alt.Color("part:N", title=None, scale=scale, legend=_part_legend(records))


def _part_shape(records: Sequence[Record]) -> alt.Shape:
    import altair as alt

    scale = alt.Scale(domain=list(PARTS.values()), range=PART_SHAPES)
    return alt.Shape("part:N", title=None, scale=scale, legend=_part_legend(records))
