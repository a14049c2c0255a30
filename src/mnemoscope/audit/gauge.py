"""A criterion -> where its interval, estimate and limit lie along a small scale: what a page draws beside it."""

from __future__ import annotations

from typing import Final, NamedTuple

from mnemoscope.audit.result import Criterion

WIDTH: Final = 200.0
EDGE: Final = 6.0
"""Pixels left free at either end, so that no mark is cut."""
LEAST: Final = "min_passages"
"""The criterion of which more is better."""


class Gauge(NamedTuple):
    """Places from 0 to `WIDTH`."""

    zone_start: float
    zone_stop: float
    """Of what is accepted."""
    limit: float
    low: float
    high: float
    estimate: float


def gauge_of(criterion: Criterion) -> Gauge | None:
    """The scale of a criterion, from zero or the interval's low end; None where nothing was measured."""
    measured = criterion.measured
    if measured.estimate is None or measured.low is None or measured.high is None:
        return None
    least = min(0.0, measured.low)
    most = 1.08 * max(measured.high, measured.estimate, criterion.threshold, least + 1e-9)
    # A lower end far below zero says nothing about a limit above it: it would take all the room.
    start = max(least, -0.25 * most)

    def place(value: float) -> float:
        along = (min(max(value, start), most) - start) / (most - start)
        return round(EDGE + along * (WIDTH - 2 * EDGE), 2)

    limit = place(criterion.threshold)
    zone = (limit, WIDTH) if criterion.name == LEAST else (0.0, limit)
    return Gauge(*zone, limit, place(measured.low), place(measured.high), place(measured.estimate))
