"""Axes of figures: where a value stands, its scale and its ticks."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from mnemoscope.report.vega import Spec, channel

MARGIN = 0.09
"""Room left and right of the outermost values, as a part of their span."""
DODGE_PIXELS, MAX_DODGE_PIXELS = 3, 10
"""Between neighbours, and of all that stand at one value together."""
MAX_DODGE = 0.5
"""Of the smallest gap between two values, what all dodged marks together may take."""


class Axis(NamedTuple):
    """One direction of a figure: the column, its title with unit, and whether it runs in powers of ten."""

    column: str
    title: str
    logarithmic: bool = False
    labels: Sequence[str] = ()
    """Names of the values 0, 1, 2 ... where the axis has no numbers of its own."""
    ticks: Sequence[float] = ()
    """Where to put ticks; at the values if empty."""


def dodge(values: Sequence[float], axis: Axis, *, place: int, num_places: int, width: int) -> list[float]:
    """The values moved a few pixels aside, so that marks of one value in several colours do not hide one another."""
    places = sorted({math.log10(value) if axis.logarithmic else value for value in values})
    if num_places < 2 or len(places) < 2:
        return list(values)
    gap = min(right - left for left, right in itertools.pairwise(places))
    pixel = (places[-1] - places[0]) / width
    others = num_places - 1
    step = min(DODGE_PIXELS * pixel, MAX_DODGE_PIXELS * pixel / others, MAX_DODGE * gap / others)
    shift = (place - (num_places - 1) / 2) * step
    return [value * 10**shift if axis.logarithmic else value + shift for value in values]


def x_encoding(values: Sequence[float], axis: Axis, *, line_characters: int) -> Spec:
    """The direction along which things vary; marks are drawn at the column `x`; its title folded to fit a panel."""
    places = sorted(set(values))
    title = textwrap.wrap(axis.title, line_characters, break_on_hyphens=False)
    if axis.logarithmic:
        reach = (places[-1] / places[0]) ** MARGIN
        low, high = places[0] / reach, places[-1] * reach
        label = "replace(format(datum.value, '~s'), 'G', 'B')"
        settings = {"values": _ticks(low, high), "labelExpr": label, "labelSeparation": 4, "grid": False}
        return channel("x:Q", title=title, scale={"type": "log", "domain": [low, high], "nice": False}, axis=settings)
    margin = MARGIN * (places[-1] - places[0])
    scale = {"domain": [places[0] - margin, places[-1] + margin], "nice": False, "zero": False}
    if axis.labels:
        label = f"{json.dumps(list(axis.labels))}[datum.value]"
        settings = {"values": places, "labelExpr": label, "labelOverlap": "parity", "labelSeparation": 5, "grid": False}
    elif axis.ticks or len(places) <= 8:
        settings = {"values": list(axis.ticks or places), "format": ",~f", "labelSeparation": 4, "grid": False}
    else:
        settings = {"format": "~s", "grid": False, "tickCount": 4}
    return channel("x:Q", title=title, axis=settings, scale=scale)


def linear_shares(values: Sequence[float], *, labels: bool) -> Spec:
    """Shares from zero on: an interval that reaches down to zero is seen to.

    Without `labels` grid lines only, beside a panel that has the numbers: panels of one row share them.
    """
    scale = {"domain": [0, 1.04 * max(values) or 1], "nice": False}
    return _shares(
        scale,
        {"tickCount": 5, "labelExpr": PERCENT, "labels": labels, "ticks": labels, "domain": labels},
        labels=labels,
    )


def decade_shares(values: Sequence[float], *, labels: bool) -> Spec:
    """Shares in powers of ten, for score bins, which differ by orders of magnitude."""
    scale, ticks = decades(values)
    return _shares(
        scale,
        {"values": ticks, "labelExpr": PERCENT, "labels": labels, "ticks": labels, "domain": labels},
        labels=labels,
    )


PERCENT = "format(datum.value * 100, '~g') + ' %'"


def _shares(scale: Spec, axis: Spec, *, labels: bool) -> Spec:
    return channel("share:Q", title="share of sequences" if labels else None, scale=scale, axis=axis)


def decades(values: Sequence[float]) -> tuple[Spec, list[float]]:
    """A scale in powers of ten and its ticks; with zeros among the values one that is linear next to zero."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {"domain": [0, 1]}, [0, 1]
    low, high = min(positive), max(positive)
    if min(values) <= 0:
        scale = {"type": "symlog", "constant": low, "domain": [0, high * 1.1], "nice": False}
        return scale, [0, *_ticks(2 * low, high * 1.1)]
    low, high = low / 1.15, high * 1.15
    return {"type": "log", "domain": [low, high], "nice": False}, _ticks(low, high)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high; over two decades or less 2 and 5 times them too."""
    span = math.log10(high / low)
    factors = (1, 2, 5) if span <= 1 else (1, 3) if span <= 2 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, 1 if span <= 6 else 2)
    ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]
