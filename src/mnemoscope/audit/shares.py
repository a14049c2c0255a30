"""Shares of passages with intervals, members beside held-out ones.

A share counts passages; its interval is Wilson's at the n of independent passages that would vary as much over
resampled units, never more than there are (`analyses.cluster_shares`).

Axes: R passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope import intervals
from mnemoscope.analyses.cluster_shares import count_classes, share_intervals
from mnemoscope.audit.facts import Passages
from mnemoscope.audit.result import Compared, Difference, Share
from mnemoscope.audit.units import Units

LEVEL: Final = 0.95
ALL: Final = "all"
UNKNOWN: Final = Difference(None, None, None)
_TOPS, _BOTTOMS = np.array([[0], [1]]), np.array([[1], [1]])
Bools = NDArray[np.bool_]


def measure_share(hits: Bools, unit: NDArray[np.integer], window: NDArray[np.integer] | None = None) -> Share:
    """The share of hits among passages of the given units; passages of one `window` are equal (default: one each)."""
    num = len(hits)
    num_unique = num if window is None else len(np.unique(window))
    if not num:
        return Share(0, 0, 0, None, 0.0, 1.0)
    codes = hits.astype(np.int64)
    _, first, number, size = np.unique(unit, return_index=True, return_inverse=True, return_counts=True)
    is_shared = size[number] > 1
    counts = count_classes(
        np.bincount(codes, minlength=2),
        np.bincount(codes[first], minlength=2),
        number[is_shared].astype(np.int64),
        codes[is_shared],
    )
    ends = share_intervals(counts, _TOPS, _BOTTOMS, LEVEL)
    count = int(codes.sum())
    return Share(count, num, num_unique, count / num, float(ends.low[0]), float(ends.high[0]))


def subtract_shares(member: Share, control: Share) -> Difference:
    """Member minus control share, with `intervals.subtract`'s interval; unknown where a side has no passage."""
    if member.share is None or control.share is None:
        return UNKNOWN
    ends, other = (intervals.Interval(np.asarray(share.low), np.asarray(share.high)) for share in (member, control))
    found = intervals.subtract(member.share, ends, control.share, other)
    return Difference(*(float(value) for value in found))


def compare(
    hits_R: Bools, known_R: Bools, passages: Passages, units: Units, *, what: str, kind: str, context: str, n: int
) -> Compared:
    """Members beside held-out passages: how many of those that are known and kept, of a kind or `all`, are hits."""
    chosen_R = known_R & units.is_kept_R & is_of_kind(passages.kind_R, kind)
    shares: list[Share] = []
    for is_own_R in (passages.is_member_R, ~passages.is_member_R):
        rows = np.flatnonzero(chosen_R & is_own_R)
        shares.append(measure_share(hits_R[rows], units.join(rows), units.window_R[rows]))
    member, control = shares
    return Compared(what, kind, context, n, member, control, subtract_shares(member, control))


def kinds_of(passages: Passages) -> tuple[str, ...]:
    """`all`, then each kind of passage where there are several."""
    kinds = sorted(set(passages.kind_R), key=("start", "offset", "turn").index)
    return (ALL, *kinds) if len(kinds) > 1 else (ALL,)


def is_of_kind(kinds: Sequence[str], kind: str) -> Bools:
    """Which passages [R] are of a kind, or of any with `all`."""
    return np.array([kind in {ALL, one} for one in kinds], np.bool_)
