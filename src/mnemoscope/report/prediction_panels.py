"""Panels of the figures of prediction: dots by predictor, lines by model or length, curves by score, matrices.

Each is two panels, of tokens and of whole sequences, with one legend. Points come as records with the keys that a
panel draws and what they tell a pointer; nothing is computed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from mnemoscope.report.axes import PERCENT
from mnemoscope.report.figure import Figure, heading, panel_heading, plain
from mnemoscope.report.theme import (
    COLORS,
    CONTROL_COLOR,
    GRID,
    INK,
    INK_ON_COLOR,
    ORANGE,
    PAPER,
    RULE,
    TEXT_SIZE,
    ramp,
)
from mnemoscope.report.vega import Spec, channel, concat, hover, layer, mark

Record = Mapping[str, Any]
Panels = Mapping[str, Sequence[Record]]

WIDTH: Final = 127
HEIGHT: Final = 140
ROW_HEIGHT: Final = 17
DOTS_WIDTH: Final = 125
CELL_PIXELS: Final = 46
CHARACTER_PIXELS: Final = 7
DARK_FROM: Final = 0.6
"""The part of the range from which a cell is dark enough for white type."""
ROLES: Final = {"own": "ours", "original": "original", "baseline": "baseline"}
ROLE_COLORS: Final = {"ours": COLORS[0], "original": ORANGE, "baseline": CONTROL_COLOR}
ROLE_SHAPES: Final = {"ours": "circle", "original": "diamond", "baseline": "square"}
TASKS: Final = {"context": "from the context", "decode": "from the decode"}
"""Headings, narrower than a panel: a wider one would push the next panel aside."""
HUNDREDTHS: Final = "format(datum.value * 100, '~g')"
KNOWN: Final = "isValid(datum.low)"


class Series(NamedTuple):
    """A predictor that is followed through a figure: its name there, colour, dash and shape."""

    name: str
    color: str
    dash: Sequence[int]
    shape: str


class Words(NamedTuple):
    """What is said of a figure: title, the lines below it, the caption, and the name of its value."""

    title: str
    subtitle: Sequence[str]
    caption: str
    value: str = "share right"


DECODE: Final = Series("ours, decode", COLORS[0], [1, 0], "circle")
CONTEXT: Final = Series("ours, context", COLORS[2], [1, 0], "square")
ORIGINAL: Final = Series("original, decode", ORANGE, [5, 2], "diamond")
BASELINE: Final = Series("best baseline, context", CONTROL_COLOR, [2, 2], "triangle-up")
SERIES: Final = (DECODE, CONTEXT, ORIGINAL, BASELINE)


def draw_dots(panels: Panels, words: Words, *, zero: bool = False) -> Figure | None:
    """One row for each predictor, a block for each task, a panel for each measure; `zero` is drawn, for differences.

    Records have `label`, `task`, `role`, `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    if not records:
        return None
    tasks = [task for task in TASKS if any(record["task"] == task for record in records)]
    blocks: list[Spec] = [
        {
            "hconcat": [
                _dots_panel(records, name, some, task, zero=zero, is_last=task == tasks[-1], is_first=not index)
                for index, (name, some) in enumerate(panels.items())
            ],
            "spacing": 16,
        }
        for task in tasks
    ]
    return Figure(
        {"vconcat": blocks, "spacing": 6, "title": heading(words.title, words.subtitle)}, words.caption, words.value
    )


def _dots_panel(
    records: Sequence[Record],
    name: str,
    some: Sequence[Record],
    task: str,
    *,
    zero: bool,
    is_first: bool,
    is_last: bool,
) -> Spec:
    """The predictors of one task in one measure; all blocks of a measure have the same reach."""
    labels = list(dict.fromkeys(record["label"] for record in records if record["task"] == task))
    named = {"labels": is_first, "ticks": False, "domain": False, "labelLimit": 260, "labelOverlap": False}
    y = channel("label:N", sort=labels, title=None, scale={"domain": labels}, axis=named)
    label = "(datum.value > 0 ? '+' : '') + " + HUNDREDTHS if zero else HUNDREDTHS
    numbers = {"labelExpr": label, "tickCount": 3, "labels": is_last, "ticks": is_last, "domain": is_last}
    scale = {"domain": _reach(some, zero=zero), "nice": False}
    across: Spec = {"title": name if is_last else None, "axis": numbers, "scale": scale}
    base = {"y": y, "color": _role_color(records)}
    ends = {"x": channel("low:Q", **across), "x2": channel("high")}
    headed = {"text": TASKS[task] if is_first else "", "fontSize": TEXT_SIZE, "anchor": "start", "frame": "group"}
    return layer(
        *([mark("rule", {"x": channel("at:Q")}, rows=[{"at": 0}], color=RULE)] if zero else []),
        mark("rule", {**base, **ends}, where=KNOWN, strokeWidth=1.4),
        mark(
            "point",
            {**base, "x": channel("value:Q", **across), "shape": _role_shape(records)},
            filled=True,
            size=40,
            opacity=1,
        ),
        rows=[plain(record) for record in some if record["task"] == task],
        width=DOTS_WIDTH,
        height=ROW_HEIGHT * len(labels),
        title={**headed, "offset": 4},
    )


def _reach(records: Sequence[Record], *, zero: bool) -> list[float]:
    """From the lowest to the highest end, zero among them where asked for."""
    names = ("value", "low", "high")
    ends = [float(record[name]) for record in records for name in names if record[name] is not None]
    low, high = min([*ends, 0.0] if zero else ends), max([*ends, 0.0] if zero else ends)
    margin = 0.04 * (high - low or 1)
    return [low - margin, high + margin]


def draw_lines(panels: Panels, x_title: str, words: Words) -> Figure | None:
    """A point for each series at ordered places, with interval bars; None where there are not two places.

    Records have `series`, `x`, `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    short, family = shorten(list(dict.fromkeys(str(record["x"]) for record in records)))
    places = list(short.values())
    if len(places) < 2:
        return None
    names = _drawn(records)
    angle = _angle(places, WIDTH / len(places))
    axis = {"labelAngle": angle, "labelOverlap": False, "grid": False, "labelLimit": 110}
    x = channel("x:N", title=[x_title, *_lines(family)], sort=places, axis=axis, scale={"domain": places})
    base = {"x": x, "xOffset": channel("series:N", sort=names), "color": _series_color(names)}
    ends = {"y": channel("low:Q"), "y2": channel("high")}
    charts = [
        layer(
            mark("rule", {**base, **ends}, where=KNOWN, strokeWidth=1.2),
            mark(
                "point",
                {**base, "y": _share(name, from_zero=name != next(iter(panels))), "shape": _series_shape(names)},
                filled=True,
                size=40,
                opacity=1,
            ),
            rows=[{**plain(record), "x": short[str(record["x"])]} for record in some],
            width=WIDTH,
            height=HEIGHT,
        )
        for name, some in panels.items()
    ]
    return _join(charts, words)


def draw_curves(panels: Panels, x_title: str, words: Words) -> Figure | None:
    """One curve for each series along a number; None where a curve would have one point.

    Records have `series`, `x`, `value`, `low` and `high`; a band is drawn where the last two are not None.
    """
    records = [record for some in panels.values() for record in some]
    if len({record["x"] for record in records}) < 2:
        return None
    names = _drawn(records)
    x = channel("x:Q", title=x_title, axis={"grid": False, "tickCount": 5}, scale={"nice": False})
    base = {"x": x, "color": _series_color(names, symbol="stroke")}
    ends = {"y": channel("low:Q"), "y2": channel("high")}
    charts: list[Spec] = []
    for name, some in panels.items():
        y = _share(name, from_zero=name != next(iter(panels)))
        views = [
            mark("area", {**base, **ends}, where=KNOWN, opacity=0.16),
            mark("line", {**base, "y": y, "strokeDash": _series_dash(names)}, strokeWidth=1.7),
            hover({**base, "y": y}),
        ]
        charts.append(layer(*views, rows=[plain(record) for record in some], width=WIDTH, height=HEIGHT))
    return _join(charts, words)


def draw_reliability(panels: Panels, words: Words) -> Figure | None:
    """What came against what was said, with the diagonal.

    Records have `series`, `x` (the probability), `value`, `low` and `high`.
    """
    records = [record for some in panels.values() for record in some]
    if not records:
        return None
    names = _drawn(records)
    unit = {"domain": [0, 1], "nice": False}
    axis = {"labelExpr": PERCENT, "values": [0, 0.5, 1]}
    x, y = (channel(f"{column}:Q", title=title, scale=unit, axis=axis) for column, title in SAID_AND_CAME.items())
    base = {"x": x, "color": _series_color(names)}
    diagonal = mark("line", {"x": x, "y": y}, rows=DIAGONAL, color="#bbbbbb", strokeWidth=1.2)
    views = [
        mark("rule", {**base, "y": channel("low:Q", scale=unit), "y2": channel("high")}, strokeWidth=1, opacity=0.5),
        mark("line", {**base, "y": y}, strokeWidth=1.2),
        mark("point", {**base, "y": y, "shape": _series_shape(names)}, filled=True, size=34, opacity=1),
    ]
    charts = [
        layer(
            diagonal,
            *views,
            rows=[plain(record) for record in some],
            width=WIDTH,
            height=WIDTH,
            title=panel_heading(name, frame="group"),
        )
        for name, some in panels.items()
    ]
    return _join(charts, words)


SAID_AND_CAME: Final = {"x": "predicted", "value": "came"}
DIAGONAL: Final = ({"x": 0, "value": 0}, {"x": 1, "value": 1})


def draw_models(panels: Panels, x_title: str, words: Words) -> Figure | None:
    """One line for each model, from dark (small) to light.

    Records have `model`, `x` and `value`.
    """
    records = [record for some in panels.values() for record in some]
    if len({record["x"] for record in records}) < 2:
        return None
    short, family = shorten(list(dict.fromkeys(record["model"] for record in records)))
    models = list(short.values())
    legend = {"columns": 4, "symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolOpacity": 1, "titleLimit": 300}
    scale = {"domain": models, "range": ramp(len(models))}
    color = channel("short:N", title=f"model{family}", scale=scale, sort=models, legend=legend)
    x = channel("x:Q", title=x_title, axis={"grid": False, "tickCount": 5}, scale={"nice": False})
    charts: list[Spec] = []
    for name, some in panels.items():
        place = {"x": x, "y": _share("share" if name == next(iter(panels)) else None), "color": color}
        views = [mark("line", place, strokeWidth=1.6), mark("point", place, filled=True, size=18, opacity=1)]
        rows = [{**plain(record), "short": short[record["model"]]} for record in some]
        charts.append(layer(*views, rows=rows, width=WIDTH, height=HEIGHT, title=panel_heading(name, frame="group")))
    figure = _join(charts, words)
    return figure._replace(chart={**figure.chart, "resolve": {"scale": {"y": "shared"}}}, choices={"model": "model"})


def draw_matrices(panels: Panels, words: Words) -> Figure | None:
    """A heatmap for each panel: where a predictor learned (down) and what it predicts (across), shares in percent.

    Records have `trained_on`, `model` and `value`.
    """
    records = [record for some in panels.values() for record in some if record["value"] is not None]
    if not records:
        return None
    predicted = list(dict.fromkeys(record["model"] for record in records))
    learned = list(dict.fromkeys([*predicted, *(record["trained_on"] for record in records)]))
    short, family = shorten(learned)
    models, sources = [short[name] for name in predicted], list(short.values())
    low, high = (end(record["value"] for record in records) for end in (min, max))
    reach = [low, high if high > low else low + 1]
    scale = {"domain": reach, "range": [PAPER, COLORS[1]], "interpolate": "rgb"}
    on_dark = {"test": f"datum.value > {low + DARK_FROM * (high - low)}", "value": INK_ON_COLOR}
    bare = {"ticks": False, "domain": False, "grid": False, "labelOverlap": False}
    charts: list[Spec] = []
    for index, (name, some) in enumerate(panels.items()):
        axis = {"labelAngle": _angle(models, CELL_PIXELS), **bare}
        title = ["predicts", *_lines(family)]
        place = {
            "x": channel("model:N", title=title, sort=models, axis=axis, scale={"domain": models}),
            "y": channel(
                "trained_on:N",
                title=None if index else "learned from",
                sort=sources[::-1],
                axis={"labels": not index, **bare},
                scale={"domain": sources[::-1]},
            ),
        }
        ink = {"condition": on_dark, "value": INK}
        views = [
            mark("rect", {**place, "color": channel("value:Q", scale=scale, legend=None)}, stroke=GRID),
            mark("text", {**place, "text": channel("label:N"), "color": ink}, fontSize=TEXT_SIZE),
        ]
        cells = [_cell(record, short) for record in some if record["value"] is not None]
        size = {"width": CELL_PIXELS * len(models), "height": round(0.6 * CELL_PIXELS * len(sources))}
        charts.append(layer(*views, rows=cells, title=panel_heading(name, frame="group"), **size))
    return _join(charts, words)


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
    return {**plain(record), **names, "label": f"{100 * record['value']:.1f}"}


def _join(charts: Sequence[Spec], words: Words) -> Figure:
    return Figure(
        concat(*charts, columns=2, spacing=16, title=heading(words.title, words.subtitle)), words.caption, words.value
    )


def _share(title: str | None, *, from_zero: bool = True) -> Spec:
    return channel("value:Q", title=title, axis={"labelExpr": PERCENT, "tickCount": 5}, scale={"zero": from_zero})


def _drawn(records: Sequence[Record]) -> list[str]:
    return [series.name for series in SERIES if any(record["series"] == series.name for record in records)]


def _of(names: Sequence[str]) -> list[Series]:
    return [series for series in SERIES if series.name in names]


def _series_color(names: Sequence[str], symbol: str = "") -> Spec:
    legend: Spec = {"columns": 2, "symbolOpacity": 1, "labelLimit": 260}
    if symbol:
        legend |= {"symbolType": symbol, "symbolStrokeWidth": 2.5, "symbolSize": 200}
    scale = {"domain": list(names), "range": [series.color for series in _of(names)]}
    return channel("series:N", title=None, scale=scale, legend=legend)


def _series_dash(names: Sequence[str]) -> Spec:
    scale = {"domain": list(names), "range": [list(series.dash) for series in _of(names)]}
    legend = {"columns": 2, "symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolSize": 200}
    return channel("series:N", title=None, scale=scale, legend=legend)


def _series_shape(names: Sequence[str]) -> Spec:
    scale = {"domain": list(names), "range": [series.shape for series in _of(names)]}
    return channel("series:N", title=None, scale=scale)


def _role_color(records: Sequence[Record]) -> Spec:
    names = _roles(records)
    scale = {"domain": names, "range": [ROLE_COLORS[name] for name in names]}
    return channel("role:N", title=None, scale=scale, legend={"columns": 3, "symbolOpacity": 1})


def _role_shape(records: Sequence[Record]) -> Spec:
    names = _roles(records)
    scale = {"domain": names, "range": [ROLE_SHAPES[name] for name in names]}
    return channel("role:N", title=None, scale=scale, legend={"columns": 3, "symbolOpacity": 1})


def _roles(records: Sequence[Record]) -> list[str]:
    return [name for name in ROLE_COLORS if any(record["role"] == name for record in records)]
