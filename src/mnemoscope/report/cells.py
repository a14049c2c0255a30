"""Numbers as a reader wants them in a table: with their interval, to the digits that it supports."""

from __future__ import annotations

import math
from typing import Any

from mnemoscope.intervals import share_decimals

Record = dict[str, Any]
SMALL = "!"
SMALL_CAPTION = "! fewer than 30 sequences"


def percent(row: Record, name: str, *, mark: str = SMALL) -> str:
    """A share in percent with its interval, and a mark where few sequences carry it."""
    if row[name] is None:
        return "no sequences"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    decimals = share_decimals(low, high)
    value, lower, upper = (_exact(number) or f"{100 * number:.{decimals}f}" for number in (row[name], low, high))
    return f"{value} ({lower}, {upper})" + (mark if row.get("small_stratum") else "")


def with_interval(row: Record, name: str, *, decimals: int = 2, sign: bool = False) -> str:
    """A number with its interval; empty where it is not known."""
    value = row[name]
    if value is None or math.isnan(value):
        return ""
    form = f"{'+' if sign else ''}.{decimals}f"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return format(value, form) if low is None else f"{value:{form}} ({low:{form}}, {high:{form}})"


def _exact(share: float) -> str:
    """No share and a whole one are exact: they need no decimals."""
    return {0.0: "0", 1.0: "100"}.get(share, "")
