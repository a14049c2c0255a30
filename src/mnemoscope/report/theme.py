"""The look of every figure, in one place: type that survives one paper column, thin grids, no frames.

Sizes are pixels of a figure about 400 wide; printed 3.3 inches wide, 12 of them are 7 points.
"""

from __future__ import annotations

from typing import Any

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
TEXT_SIZE, TITLE_SIZE = 12, 13
WIDTHS = {1: 250, 2: 155, 3: 98}
"""Of a panel, by how many stand in a row: the figure keeps its width."""
PANEL_HEIGHT = 150
PNG_SCALE = 3
# Viridis without its palest end, which white paper swallows: ordered, also to the colour-blind.
COLORS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c9b400")
CONTROL_COLOR = "#767676"


def theme() -> dict[str, Any]:
    """The configuration of every figure."""
    text = {
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": TEXT_SIZE,
        "titleFontSize": TEXT_SIZE,
        "titleFontWeight": "normal",
    }
    lines = {"gridColor": "#e6e6e6", "domainColor": "#888888", "tickColor": "#888888", "labelOverlap": "greedy"}
    legend = {"orient": "bottom", "direction": "horizontal", "columns": 4, "symbolSize": 60}
    legend |= {"labelLimit": 260, "columnPadding": 14}
    title = {"anchor": "start", "fontSize": TITLE_SIZE, "subtitleColor": "#555555", "subtitleFontSize": TEXT_SIZE}
    return {
        "background": "white",
        "font": FONT,
        "axis": {**text, **lines},
        "legend": {**text, **legend},
        "title": {**title, "offset": 10},
        "view": {"stroke": None},
    }


def num_columns(num_panels: int) -> int:
    """Three panels stand in one row, more of them two by two: no hole is left."""
    return num_panels if num_panels <= 3 else 2


def ramp(num_colors: int) -> list[str]:
    """Colours from dark to light, evenly spaced along the ramp."""
    if num_colors == 1:
        return [COLORS[1]]
    places = [index * (len(COLORS) - 1) / (num_colors - 1) for index in range(num_colors)]
    ends = [*COLORS, COLORS[-1]]
    return [_mix(ends[int(place)], ends[int(place) + 1], place % 1) for place in places]


def _mix(one: str, other: str, weight: float) -> str:
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * weight):02x}" for a, b in pairs)
