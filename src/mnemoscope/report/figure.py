"""What a drawing says of itself beside its marks: caption, choices, colours on dark; what its marks tell a pointer.

A row that can be pointed at carries three texts, `told_what`, `told_value` and `told_n`; every mark of such rows says
them. Lines and bands say nothing, since a pointer meets them as a whole: points over them do.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from mnemoscope.report.theme import TEXT_SIZE, dark_colors, theme
from mnemoscope.report.vega import Spec, channel, describe

T = TypeVar("T")
CHARACTER_PIXELS: Final = 6.2
"""Of type of 12 pixels, on average."""
LINE_CHARACTERS: Final = 64
LEVEL: Final = "95 %"
"""Of every interval that is drawn: the one at which analyses are made; no study chooses another."""
MAX_ROWS: Final = 2000
"""Of one figure: a page carries them all."""
_NOT_POINTED_AT: Final = ("line", "area", "text")
_TOLD: Final = ("told_what", "told_value", "told_n")


class Figure(NamedTuple):
    """A drawing and what a page needs to know of it."""

    chart: Spec
    """With title and rows, without config."""
    caption: str
    """What is drawn, how it is read, and n: a sentence or three."""
    value: str
    """The name of the value that its marks tell."""
    choices: Mapping[str, str] = {}
    """By model, context, continuation: the column by which the rows may be filtered; null in rows that always stay."""
    panel_models: Sequence[str] = ()
    """The models of panels named `choice_model_0`, `choice_model_1` ..."""
    cells: bool = False
    """Whether its rows name the cells of transitions."""
    config: Mapping[str, Any] = {}
    """What differs from the common theme, by its part."""


def specs_of_figures(figures: Mapping[str, Figure | None]) -> dict[str, Spec]:
    """The whole Vega-Lite description of each figure that was drawn, by name."""
    return {name: _finish(figure) for name, figure in figures.items() if figure is not None}


def heading(title: str, subtitle: Sequence[str]) -> Spec:
    """A title and the lines below it, folded where one would be wider than the figure may be; empty ones left out."""
    lines = [piece for line in subtitle for piece in textwrap.wrap(line, LINE_CHARACTERS, break_on_hyphens=False)]
    return {"text": title, "subtitle": lines}


def panel_heading(text: str | Sequence[str], **settings: Any) -> Spec:
    """The title of a panel, over its middle."""
    return {"text": text, "fontSize": TEXT_SIZE, "fontWeight": "normal", "anchor": "middle", "offset": 6, **settings}


def axis_title(text: str, pixels: float) -> list[str]:
    """A title folded to the length of its axis."""
    return textwrap.wrap(text, max(8, int(pixels / CHARACTER_PIXELS)), break_on_hyphens=False)


def told(what: str, value: str, n: str) -> dict[str, str]:
    """The columns of a row that a pointer reads."""
    return dict(zip(_TOLD, (what, value, n), strict=True))


def told_percent(share: float, low: float | None, high: float | None) -> str:
    """A share in percent with its interval, as `27.3 % [23.6, 31.3]`."""
    ends = "" if low is None or high is None else f" [{_percent(low)}, {_percent(high)}]"
    return f"{_percent(share)} %{ends}"


def told_points(gain: float, low: float | None, high: float | None) -> str:
    """A difference of shares in points with its interval, as `+4.1 points [-0.3, +8.2]`."""
    ends = "" if low is None or high is None else f" [{100 * low:+.3g}, {100 * high:+.3g}]"
    return f"{100 * gain:+.3g} points{ends}"


def told_number(value: float, low: float | None, high: float | None) -> str:
    """A number in three digits with its interval."""
    ends = "" if low is None or high is None else f" [{_short(low)}, {_short(high)}]"
    return f"{_short(value)}{ends}"


def span(sizes: Sequence[int]) -> str:
    """The smallest and the largest of some sizes: `510`, or `240 to 510`."""
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def evenly(values: Sequence[T], most: int) -> list[T]:
    """All values where they are not more than `most`, else so many, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with five digits, which is more than can be seen: the page carries it."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in row.items()}


def model_panel(index: int) -> str:
    """The name of the panel of the model with this place in `panel_models`."""
    return f"choice_model_{index}"


def _finish(figure: Figure) -> Spec:
    _let_marks_tell(figure.chart, figure.value)
    usermeta: Spec = {
        "title": figure.chart["title"]["text"],
        "caption": figure.caption,
        "choices": dict(figure.choices),
        "dark_colors": dark_colors(figure.chart),
    }
    if figure.panel_models:
        usermeta["panel_models"] = list(figure.panel_models)
    if figure.cells:
        usermeta["cells"] = True
    config = theme()
    for part, settings in figure.config.items():
        config[part] = {**config[part], **settings}
    return describe(figure.chart, config, usermeta)


def _let_marks_tell(chart: Spec, value: str) -> None:
    """Give every mark whose rows can be pointed at its tooltip."""
    entries = [channel(f"{name}:N", title=title) for name, title in zip(_TOLD, ("what", value, "n"), strict=True)]

    def visit(view: Spec, rows: Sequence[Mapping[str, Any]]) -> None:
        rows = view.get("data", {}).get("values", rows)
        for inner in (one for part in ("concat", "hconcat", "vconcat", "layer") for one in view.get(part, ())):
            visit(inner, rows)
        if "mark" in view and rows and _TOLD[0] in rows[0] and view["mark"]["type"] not in _NOT_POINTED_AT:
            view["encoding"]["tooltip"] = entries

    visit(chart, ())


def _percent(share: float) -> str:
    """In three digits; only no share and a whole one are 0 and 100."""
    text = f"{100 * share:.3g}"
    return "99.9+" if text == "100" and share < 1 else text


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
