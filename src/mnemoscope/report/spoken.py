"""Numbers as words of a sentence: shares with their intervals, differences, sizes, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mnemoscope.intervals import format_share, share_decimals

Record = Mapping[str, Any]

_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))


def share_words(row: Record, name: str = "share") -> str:
    """`21.4 % (18.0 to 25.1)`; `an unknown share` where it is null."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return "an unknown share" if value is None else format_share(value, low, high)


def counted(row: Record, count: str, of: str) -> str:
    """`109 of 510`."""
    return f"{row[count]:,} of {row[of]:,}"


def points_words(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A difference of shares: `19.6 percentage points (14.8 to 24.4)`, with its sign where asked for."""
    decimals = share_decimals(low, high)
    first = f"{100 * value:{'+' if signed else ''}.{decimals}f}"
    return f"{first} percentage points ({100 * low:.{decimals}f} to {100 * high:.{decimals}f})"


def bound_words(high: float) -> str:
    """The upper end of a zero's interval: `at most 0.7 %`, to two digits, rounded up."""
    percent = 100 * high
    decimals = share_decimals(0.0, high)
    rounded = round(percent, decimals)
    rounded += 10**-decimals if rounded < percent - 1e-12 else 0
    return f"at most {rounded:.{decimals}f} %"


def joined(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 model`, `4 models`, `12,000 sequences`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def size_words(num_parameters: int) -> str:
    """`3.2 million parameters`."""
    for scale, name in _SCALES:
        if num_parameters >= scale:
            return f"{num_parameters / scale:.3g} {name} parameters"
    return f"{num_parameters:,} parameters"


def copies_words(low: int, high: int) -> str:
    """How often a sequence of a class stands in the training text: `once`, `16 times`, `4 to 7 times`."""
    if low == high:
        return {0: "never", 1: "once", 2: "twice"}.get(low, f"{low:,} times")
    return f"{low:,} to {high:,} times"


def lengths_words(context: int, continuation: int) -> str:
    """`8 tokens shown and 8 to recite`."""
    return f"{context:,} {'token' if context == 1 else 'tokens'} shown and {continuation:,} to recite"
