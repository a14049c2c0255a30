"""The look of every figure, in one place: type that survives one paper column, thin grids, no frames; and on dark.

Sizes are pixels of a figure at most 400 wide; printed 3.3 inches wide, 12 of them are 7 points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

FONT: Final = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
TEXT_SIZE: Final = 12
TITLE_SIZE: Final = 13
MAX_WIDTH: Final = 407
"""Pixels across a whole figure: 3.3 inches at 7 points for 12 pixels."""
WIDTHS: Final = {1: 250, 2: 150, 3: 94}
"""Of a panel, by how many stand in a row: the figure keeps its width."""
PANEL_HEIGHT: Final = 150
PNG_SCALE: Final = 3
PDF_SCALE: Final = 7 / TEXT_SIZE
"""Points for a pixel: placed as it is, a figure fits one column and its type has 7 points."""

# Viridis without its palest end, which white paper swallows: ordered, also to the colour-blind and in grey.
COLORS: Final = ("#440154", "#414487", "#2a788e", "#22a884", "#c9b400")
COLORS_ON_DARK: Final = ("#8a7fe8", "#5fa8e6", "#3fc1b0", "#8fdc5a", "#f5e642")
"""The same order on a dark page, which would swallow the darkest end."""
CONTROL_COLOR: Final = "#767676"
ORANGE: Final = "#d98200"
MAGENTA: Final = "#c2185b"
GREY: Final = "#8c8c8c"
RULE: Final = "#888888"
GRID: Final = "#e6e6e6"
PAPER: Final = "#ffffff"
"""Inside hollow marks, and of cells with a share of 0."""
INK: Final = "#333333"
FAINT_INK: Final = CONTROL_COLOR
"""Of numbers that few sequences carry."""
INK_ON_COLOR: Final = "#fefefe"
"""Type on the darkest cells; not quite `PAPER`, so that the two can part on a dark page."""
_ON_DARK: Final[Mapping[str, str]] = {
    CONTROL_COLOR: "#9aa0aa",
    ORANGE: "#f0a33a",
    MAGENTA: "#ff6f9f",
    GREY: "#a3a8b0",
    RULE: "#7c838e",
    GRID: "#333a45",
    PAPER: "#16181d",
    INK: "#d7dbe2",
    INK_ON_COLOR: "#0d1014",
    "#444444": "#e6e8ec",
    "#b0b0b0": "#757b86",
    "#e8a0bd": "#f5bdd2",
    "#bbbbbb": "#5a616c",
}
_LONGEST_RAMP: Final = 64


def theme(*, dark: bool = False) -> dict[str, Any]:
    """The configuration of every figure; `dark` on a page with a dark background, which shows through."""
    text, faint, line, grid = (
        ("#d7dbe2", "#a3a8b0", "#7c838e", "#333a45") if dark else ("#000000", "#555555", RULE, GRID)
    )
    fonts = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": TEXT_SIZE, "titleFontSize": TEXT_SIZE}
    words = {**fonts, "titleFontWeight": "normal", "labelColor": text, "titleColor": text}
    lines = {"gridColor": grid, "domainColor": line, "tickColor": line, "labelOverlap": "greedy"}
    legend = {"orient": "bottom", "direction": "horizontal", "columns": 4, "symbolSize": 60}
    legend |= {"labelLimit": 260, "columnPadding": 14}
    title = {"anchor": "start", "fontSize": TITLE_SIZE, "color": text, "offset": 10}
    return {
        "background": None if dark else "white",
        "font": FONT,
        "axis": {**words, **lines},
        "legend": {**words, **legend},
        "title": {**title, "subtitleColor": faint, "subtitleFontSize": TEXT_SIZE},
        "view": {"stroke": None},
    }


def num_columns(num_panels: int) -> int:
    """Three panels stand in one row, more of them two by two: no hole is left."""
    return num_panels if num_panels <= 3 else 2


def ramp(num_colors: int, *, dark: bool = False) -> list[str]:
    """Colours from dark to light, evenly spaced along the ramp; `dark` as they are on a dark page."""
    colors = COLORS_ON_DARK if dark else COLORS
    if num_colors == 1:
        return [colors[1]]
    places = [index * (len(colors) - 1) / (num_colors - 1) for index in range(num_colors)]
    ends = [*colors, colors[-1]]
    return [_mix(ends[int(place)], ends[int(place) + 1], place % 1) for place in places]


def dark_colors(view: object) -> dict[str, str]:
    """What each colour that a description names becomes on a dark page."""
    known = _dark_by_light()
    return {text: known[text] for text in dict.fromkeys(_texts(view)) if text in known}


def _texts(view: object) -> Iterator[str]:
    """Every text among a description's settings; not those of its rows."""
    if isinstance(view, str):
        yield view
    elif isinstance(view, Mapping):
        for name, part in view.items():  # pyright: ignore[reportUnknownVariableType]  (any JSON)
            if name not in {"values", "datasets"}:
                yield from _texts(part)  # pyright: ignore[reportUnknownArgumentType]  (any JSON)
    elif isinstance(view, list | tuple):
        for part in view:  # pyright: ignore[reportUnknownVariableType]  (any JSON)
            yield from _texts(part)  # pyright: ignore[reportUnknownArgumentType]  (any JSON)


@cache
def _dark_by_light() -> dict[str, str]:
    ramps = {
        light: dark
        for num_colors in range(1, _LONGEST_RAMP)
        for light, dark in zip(ramp(num_colors), ramp(num_colors, dark=True), strict=True)
    }
    return {**ramps, **_ON_DARK}


def _mix(one: str, other: str, weight: float) -> str:
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * weight):02x}" for a, b in pairs)
