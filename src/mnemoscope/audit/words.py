"""Numbers of an audit as words: shares of passages, differences, limits; the same in verdict, summary and page."""

from __future__ import annotations

from mnemoscope.audit.result import Difference, Share
from mnemoscope.intervals import format_share, share_decimals
from mnemoscope.report.spoken import bound_words


def accepted(threshold: int) -> str:
    """`none accepted`, `at most 3 accepted`."""
    return f"at most {threshold:,} accepted" if threshold else "none accepted"


def percent(share: float) -> str:
    """`1 %`, `0.25 %`: a limit, as it was written."""
    return f"{100 * share:.6g} %"


def points(measured: Difference) -> str:
    """`8.2 percentage points (5.8 to 11.3)`, to the digits that the interval supports; `not known`."""
    return points_cell(measured, unit=" percentage points")


def points_cell(measured: Difference, *, unit: str = "") -> str:
    """`8.2 (5.8 to 11.3)`, of percentage points; `not known`."""
    if measured.estimate is None:
        return "not known"
    low, high = (-1.0 if measured.low is None else measured.low), (1.0 if measured.high is None else measured.high)
    decimals = share_decimals(low, high)
    # Rounded before zero is added, for a rounded -0.0 would be told with its sign.
    value, lower, upper = (
        f"{round(100 * number, decimals) + 0.0:.{decimals}f}" for number in (measured.estimate, low, high)
    )
    return f"{value}{unit} ({lower} to {upper})"


def share_words(measured: Difference) -> str:
    """`12.3 % (9.1 to 15.8)`; `not known` where nothing is."""
    if measured.estimate is None or measured.low is None or measured.high is None:
        return "not known"
    decimals = share_decimals(measured.low, measured.high)
    value, low, high = (f"{100 * number:.{decimals}f}" for number in (measured.estimate, measured.low, measured.high))
    return f"{value} % ({low} to {high})"


def counted(share: Share, side: str) -> str:
    """`318 of 4,000 training passages (8.0 %)`."""
    return f"{share.count:,} of {share.n:,} {side} passages ({plain_share(share)})" if share.n else f"no {side} passage"


def plain_share(share: Share) -> str:
    """`8.0 %`; `at most 0.19 %` of none."""
    if share.share is None:
        return "an unknown share"
    if not share.count:
        return bound_words(share.high)
    decimals = share_decimals(share.low, share.high)
    return f"{100 * share.share:.{decimals}f} %"


def share_cell(share: Share) -> str:
    """`318 of 4,000, 8.0 % (7.2 to 8.8)`; of none, the most that it may be."""
    return "no passage" if share.share is None else f"{share.count:,} of {share.n:,}, {interval_words(share)}"


def interval_words(share: Share) -> str:
    """`8.0 % (7.2 to 8.8)`; of none, the most that it may be."""
    if share.share is None:
        return "no passage"
    return format_share(share.share, share.low, share.high) if share.count else bound_words(share.high)


def area_words(area: Difference) -> str:
    """`0.710 (0.690 to 0.730)`, of an area under a curve."""
    if area.estimate is None:
        return "not known"
    ends = "" if area.low is None or area.high is None else f" ({area.low:.3f} to {area.high:.3f})"
    return f"{area.estimate:.3f}{ends}"


def context_words(context: str) -> str:
    """`64 tokens`, `the prompt`."""
    return f"{context} tokens" if context.isdecimal() else f"the {context}"
