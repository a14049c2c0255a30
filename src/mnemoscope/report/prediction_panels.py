"""Panels of the figures of prediction: dots by predictor, lines by model or length, curves by score, matrices.

Each is two panels, of tokens and of whole sequences, with one legend. Points come as records with the keys that a
panel draws; nothing is computed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemoscope.report.axes import PERCENT
from mnemoscope.report.theme import CONTROL_COLOR, TEXT_SIZE, ramp

if TYPE_CHECKING:
    import altair as alt

Record = Mapping[str, Any]

WIDTH: Final = 150
HEIGHT: Final = 140
ROW_HEIGHT: Final = 17
DOTS_WIDTH: Final = 125
CELL_PIXELS: Final = 46
CHARACTER_PIXELS: Final = 7
DARK_FROM: Final = 0.6
"""The part of the range from which a cell is dark enough for white type."""
ROLES: Final = {"own": "ours", "original": "original", "baseline": "baseline"}
ROLE_COLORS: Final = {"ours": "#440154", "original": "#d98200", "baseline": CONTROL_COLOR}
TASKS: Final = {"context": "from the context", "decode": "from the decode"}
"""Headings, narrower than a panel: a wider one would push the next panel aside."""
HUNDREDTHS: Final = "format(datum.value * 100, '~g')"
GRID: Final = "#e6e6e6"


class Series(NamedTuple):
    """A predictor that is followed through a figure: its name there, colour, dash and shape."""

    name: str
    color: str
    dash: Sequence[int]
    shape: str


DECODE: Final = Series("ours, decode", "#440154", [1, 0], "circle")
CONTEXT: Final = Series("ours, context", "#21918c", [1, 0], "square")
ORIGINAL: Final = Series("original, decode", "#d98200", [5, 2], "diamond")
BASELINE: Final = Series("best baseline, context", CONTROL_COLOR, [2, 2], "triangle-up")
SERIES: Final = (DECODE, CONTEXT, ORIGINAL, BASELINE)


def draw_dots(
    panels: Mapping[str, Sequence[Record]], title: str, subtitle: Sequence[str], *, zero: bool = False
) -> alt.VConcatChart | None:
    """One row for each predictor, a block for each task, a panel for each measure; `zero` is drawn, for differences.

    Records have `label`, `task`, `role`, `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    if not records:
        return None
    import altair as alt  # slow to import, and only drawing needs it

    tasks = [task for task in TASKS if any(record["task"] == task for record in records)]
    blocks = [
        alt.hconcat(
            *(
                _dots_panel(records, name, some, task, zero=zero, is_last=task == tasks[-1], is_first=not index)
                for index, (name, some) in enumerate(panels.items())
            ),
            spacing=16,
        )
        for task in tasks
    ]
    heading = alt.TitleParams(title, subtitle=[line for line in subtitle if line])
    return alt.vconcat(*blocks, spacing=6, title=heading)


def _dots_panel(
    records: Sequence[Record],
    name: str,
    some: Sequence[Record],
    task: str,
    *,
    zero: bool,
    is_first: bool,
    is_last: bool,
) -> alt.LayerChart | alt.FacetChart:
    """The predictors of one task in one measure; all blocks of a measure have the same reach."""
    import altair as alt

    labels = list(dict.fromkeys(record["label"] for record in records if record["task"] == task))
    named = alt.Axis(labels=is_first, ticks=False, domain=False, labelLimit=260, labelOverlap=False)
    y = alt.Y("label:N", sort=labels, title=None, scale=alt.Scale(domain=labels), axis=named)
    label = "(datum.value > 0 ? '+' : '') + " + HUNDREDTHS if zero else HUNDREDTHS
    numbers = alt.Axis(labelExpr=label, tickCount=3, labels=is_last, ticks=is_last, domain=is_last)
    scale = alt.Scale(domain=_reach(some, zero=zero), nice=False)
    x = alt.X("value:Q", title=name if is_last else None, scale=scale, axis=numbers)
    base = alt.Chart().encode(y=y, color=_role_color(records))
    bars = base.mark_rule(strokeWidth=1.4).encode(
        x=alt.X("low:Q", title=name if is_last else None, scale=scale, axis=numbers), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=40, opacity=1).encode(x=x)
    line = alt.Chart(alt.InlineData(values=[{"at": 0}])).mark_rule(color="#888888").encode(x="at:Q")
    layers = [*([line] if zero else []), bars.transform_filter("isValid(datum.low)"), points]
    data = alt.InlineData(values=[_plain(record) for record in some if record["task"] == task])
    title = alt.TitleParams(
        TASKS[task] if is_first else "", fontSize=TEXT_SIZE, anchor="start", frame="group", offset=4
    )
    return alt.layer(*layers, data=data).properties(width=DOTS_WIDTH, height=ROW_HEIGHT * len(labels), title=title)


def _reach(records: Sequence[Record], *, zero: bool) -> list[float]:
    """From the lowest to the highest end, zero among them where asked for."""
    names = ("value", "low", "high")
    ends = [float(record[name]) for record in records for name in names if record[name] is not None]
    low, high = min([*ends, 0.0] if zero else ends), max([*ends, 0.0] if zero else ends)
    margin = 0.04 * (high - low or 1)
    return [low - margin, high + margin]


def draw_lines(
    panels: Mapping[str, Sequence[Record]], x_title: str, title: str, subtitle: Sequence[str]
) -> alt.ConcatChart | None:
    """One line for each series along ordered places, with interval bars; None where there are not two places.

    Records have `series`, `x`, `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    short, family = shorten(list(dict.fromkeys(str(record["x"]) for record in records)))
    places = list(short.values())
    if len(places) < 2:
        return None
    import altair as alt

    names = _drawn(records)
    angle = _angle(places, WIDTH / len(places))
    charts: list[alt.LayerChart | alt.FacetChart] = []
    for name, some in panels.items():
        axis = alt.Axis(labelAngle=angle, labelOverlap=False, grid=False, labelLimit=110)
        x = alt.X(
            "x:N",
            title=[x_title, *_lines(family)],
            sort=places,
            axis=axis,
            scale=alt.Scale(domain=places),
        )
        base = alt.Chart().encode(x=x, xOffset=alt.XOffset("series:N", sort=names), color=_series_color(names))
        bars = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q"), y2="high:Q")
        y = _share(name, from_zero=name != next(iter(panels)))
        points = base.mark_point(filled=True, size=40, opacity=1).encode(y=y, shape=_series_shape(names))
        data = alt.InlineData(values=[{**_plain(record), "x": short[str(record["x"])]} for record in some])
        layered = alt.layer(bars.transform_filter("isValid(datum.low)"), points, data=data)
        charts.append(layered.properties(width=WIDTH, height=HEIGHT))
    return _join(charts, title, subtitle)


def draw_curves(
    panels: Mapping[str, Sequence[Record]],
    x_title: str,
    title: str,
    subtitle: Sequence[str],
) -> alt.ConcatChart | None:
    """One curve for each series along a number; None where a curve would have one point.

    Records have `series`, `x`, `value`, `low` and `high`; a band is drawn where the last two are not None.
    """
    records = [record for some in panels.values() for record in some]
    if len({record["x"] for record in records}) < 2:
        return None
    import altair as alt

    names = _drawn(records)
    charts: list[alt.LayerChart | alt.FacetChart] = []
    for name, some in panels.items():
        x = alt.X("x:Q", title=x_title, axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(nice=False))
        base = alt.Chart().encode(x=x, color=_series_color(names, symbol="stroke"))
        bands = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q")
        y = _share(name, from_zero=name != next(iter(panels)))
        lines = base.mark_line(strokeWidth=1.7).encode(y=y, strokeDash=_series_dash(names))
        data = alt.InlineData(values=[_plain(record) for record in some])
        charts.append(
            alt.layer(bands.transform_filter("isValid(datum.low)"), lines, data=data).properties(
                width=WIDTH, height=HEIGHT
            )
        )
    return _join(charts, title, subtitle)


def draw_reliability(
    panels: Mapping[str, Sequence[Record]], title: str, subtitle: Sequence[str]
) -> alt.ConcatChart | None:
    """What came against what was said, with the diagonal.

    Records have `series`, `x` (the probability), `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    if not records:
        return None
    import altair as alt

    names = _drawn(records)
    unit = alt.Scale(domain=[0, 1], nice=False)
    ends = alt.InlineData(values=[{"x": 0, "value": 0}, {"x": 1, "value": 1}])
    charts: list[alt.LayerChart | alt.FacetChart] = []
    for name, some in panels.items():
        axis = alt.Axis(labelExpr=PERCENT, values=[0, 0.5, 1])
        x = alt.X("x:Q", title="predicted", scale=unit, axis=axis)
        y = alt.Y("value:Q", title="came", scale=unit, axis=axis)
        diagonal = alt.Chart(ends).mark_line(color="#bbbbbb", strokeWidth=1.2).encode(x=x, y=y)
        base = alt.Chart(alt.InlineData(values=[_plain(record) for record in some])).encode(x=x)
        base = base.encode(color=_series_color(names))
        bars = base.mark_rule(strokeWidth=1, opacity=0.5).encode(y=alt.Y("low:Q", scale=unit), y2="high:Q")
        lines = base.mark_line(strokeWidth=1.2).encode(y=y)
        points = base.mark_point(filled=True, size=34, opacity=1).encode(y=y, shape=_series_shape(names))
        panel = alt.layer(diagonal, bars, lines, points).properties(width=HEIGHT, height=HEIGHT, title=_heading(name))
        charts.append(panel)
    return _join(charts, title, subtitle)


def draw_models(
    panels: Mapping[str, Sequence[Record]], x_title: str, title: str, subtitle: Sequence[str]
) -> alt.ConcatChart | None:
    """One line for each model, from dark (small) to light.

    Records have `model`, `x` and `value`.
    """
    records = [record for some in panels.values() for record in some]
    if len({record["x"] for record in records}) < 2:
        return None
    import altair as alt

    short, family = shorten(list(dict.fromkeys(record["model"] for record in records)))
    models = list(short.values())
    legend = alt.Legend(columns=4, symbolType="stroke", symbolStrokeWidth=2.5, symbolOpacity=1, titleLimit=300)
    scale = alt.Scale(domain=models, range=ramp(len(models)))
    color = alt.Color("model:N", title=f"model{family}", scale=scale, sort=models, legend=legend)
    charts: list[alt.Chart] = []
    for name, some in panels.items():
        x = alt.X("x:Q", title=x_title, axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(nice=False))
        chart = alt.Chart(alt.InlineData(values=[{**_plain(r), "model": short[r["model"]]} for r in some]))
        line = chart.mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=18))
        panel = line.encode(x=x, y=_share("share" if name == next(iter(panels)) else None), color=color)
        charts.append(panel.properties(width=WIDTH, height=HEIGHT, title=_heading(name)))
    return _join(charts, title, subtitle).resolve_scale(y="shared")


def draw_matrices(
    panels: Mapping[str, Sequence[Record]], title: str, subtitle: Sequence[str]
) -> alt.ConcatChart | None:
    """A heatmap for each panel: where a predictor learned (down) and what it predicts (across), shares in percent.

    Records have `trained_on`, `model` and `value`.
    """
    records = [record for some in panels.values() for record in some if record["value"] is not None]
    if not records:
        return None
    import altair as alt

    predicted = list(dict.fromkeys(record["model"] for record in records))
    learned = list(dict.fromkeys([*predicted, *(record["trained_on"] for record in records)]))
    short, family = shorten(learned)
    models, sources = [short[name] for name in predicted], list(short.values())
    low, high = (end(record["value"] for record in records) for end in (min, max))
    dark = low + DARK_FROM * (high - low)
    scale = alt.Scale(domain=[low, high if high > low else low + 1], range=["#ffffff", "#3b528b"], interpolate="rgb")
    charts: list[alt.LayerChart | alt.FacetChart] = []
    for index, (name, some) in enumerate(panels.items()):
        axis = alt.Axis(labelAngle=_angle(models, CELL_PIXELS), **_bare())
        x = alt.X("model:N", title=["predicts", *_lines(family)], sort=models, axis=axis)
        rows = alt.Axis(labels=not index, **_bare())
        y = alt.Y("trained_on:N", title=None if index else "learned from", sort=sources[::-1], axis=rows)
        cells = [_cell(record, short) for record in some if record["value"] is not None]
        base = alt.Chart().encode(x=x.scale(domain=models), y=y.scale(domain=sources[::-1]))
        boxes = base.mark_rect(stroke=GRID).encode(color=alt.Color("value:Q", scale=scale, legend=None))
        ink = alt.condition(f"datum.value > {dark}", alt.value("#ffffff"), alt.value("#333333"))
        text = base.mark_text(fontSize=11).encode(text="label:N", color=ink)
        size = {"width": CELL_PIXELS * len(models), "height": round(0.6 * CELL_PIXELS * len(sources))}
        panel = alt.layer(boxes, text, data=alt.InlineData(values=cells))
        charts.append(panel.properties(**size, title=_heading(name)))
    return _join(charts, title, subtitle)


def _bare() -> dict[str, Any]:
    return {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}


def _lines(family: str) -> list[str]:
    """What all labels share, as a line of its own below an axis's title."""
    return [family.strip()] if family else []


def shorten(labels: Sequence[str]) -> tuple[dict[str, str], str]:
    """Each label without what all begin and end with, and that as ` (pythia-…-deduped)`; empty where it is nothing."""
    if len(labels) < 2:
        return {label: label for label in labels}, ""
    parts = [re.findall(r"[^-/@_]+|[-/@_]", label) for label in labels]
    fewest = min(len(some) for some in parts)
    start = next((i for i in range(fewest) if len({some[i] for some in parts}) > 1), fewest - 1)
    room = fewest - start - 1
    end = next((i for i in range(room) if len({some[-1 - i] for some in parts}) > 1), room)
    short = ["".join(some[start : len(some) - end]) for some in parts]
    before, after = "".join(parts[0][:start]), "".join(parts[0][len(parts[0]) - end :])
    family = f" ({before}…{after})" if before or after else ""
    return dict(zip(labels, short, strict=True)), family


def _angle(labels: Sequence[str], room: float) -> int:
    """Labels lie level where each has the pixels that it needs."""
    return 0 if max(map(len, labels)) * CHARACTER_PIXELS <= room else -40


def _cell(record: Record, short: Mapping[str, str]) -> dict[str, Any]:
    names = {name: short[record[name]] for name in ("model", "trained_on")}
    return {**_plain(record), **names, "label": f"{100 * record['value']:.1f}"}


def _join(charts: Sequence[Any], title: str, subtitle: Sequence[str]) -> alt.ConcatChart:
    import altair as alt

    heading = alt.TitleParams(title, subtitle=[line for line in subtitle if line])
    return alt.concat(*charts, columns=2, spacing=16, title=heading)


def _heading(text: str) -> alt.TitleParams:
    import altair as alt

    return alt.TitleParams(text, fontSize=TEXT_SIZE, fontWeight="normal", anchor="middle", offset=6, frame="group")


def _share(title: str | None, *, from_zero: bool = True) -> alt.Y:
    import altair as alt

    return alt.Y("value:Q", title=title, axis=alt.Axis(labelExpr=PERCENT, tickCount=5), scale=alt.Scale(zero=from_zero))


def _drawn(records: Sequence[Record]) -> list[str]:
    return [series.name for series in SERIES if any(record["series"] == series.name for record in records)]


def _of(names: Sequence[str]) -> list[Series]:
    return [series for series in SERIES if series.name in names]


def _series_color(names: Sequence[str], symbol: str = "") -> alt.Color:
    import altair as alt

    legend = alt.Legend(columns=2, symbolOpacity=1, labelLimit=260)
    if symbol:
        legend = alt.Legend(columns=2, symbolOpacity=1, symbolType=symbol, symbolStrokeWidth=2.5, symbolSize=200)
    scale = alt.Scale(domain=list(names), range=[series.color for series in _of(names)])
    return alt.Color("series:N", title=None, scale=scale, legend=legend)


def _series_dash(names: Sequence[str]) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=list(names), range=[list(series.dash) for series in _of(names)])
    legend = alt.Legend(columns=2, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=200)
    return alt.StrokeDash("series:N", title=None, scale=scale, legend=legend)


def _series_shape(names: Sequence[str]) -> alt.Shape:
    import altair as alt

    scale = alt.Scale(domain=list(names), range=[series.shape for series in _of(names)])
    return alt.Shape("series:N", title=None, scale=scale)


def _role_color(records: Sequence[Record]) -> alt.Color:
    import altair as alt

    names = [name for name in ROLE_COLORS if any(record["role"] == name for record in records)]
    scale = alt.Scale(domain=names, range=[ROLE_COLORS[name] for name in names])
    return alt.Color("role:N", title=None, scale=scale, legend=alt.Legend(columns=3, symbolOpacity=1))


def _plain(record: Record) -> dict[str, Any]:
    """The record with five digits, which is more than can be seen: the page carries it."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in record.items()}
