"""Trends of a share along model size, context or continuation: log-linear, and the alternatives to it.

Few points carry a trend (the models of a suite, the lengths of a grid), so intervals are wide and shown, and
none is given where the points do not allow one. The fits weigh each point alike: the scatter of models around
a curve is far larger than the sampling error of a share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses.columns import Row, make_table
from mnemoscope.intervals import FloatArray

Along = Literal["num_non_embedding_parameters", "context", "continuation"]

NAMES = [
    "along",
    "model",
    "group",
    "context",
    "continuation",
    "form",
    "num_points",
    "coefficient",
    "coefficient_low",
    "coefficient_high",
    "coefficient_of",
    "half_point",
    "p_value",
    "p_holm",
    "r_squared",
    "aicc",
    "note",
]


class Series(NamedTuple):
    """Shares y at places x, everything else held fixed; the axis itself is None among the fixed."""

    along: Along
    model: str | None
    group: str
    context: int | None
    continuation: int | None
    x: tuple[float, ...]
    y: tuple[float, ...]


class Fit(NamedTuple):
    """One form fitted to one series; None where a number is not defined, and `note` says why."""

    form: str
    coefficient_of: str
    coefficient: float | None = None
    coefficient_low: float | None = None
    coefficient_high: float | None = None
    half_point: float | None = None
    p_value: float | None = None
    r_squared: float | None = None
    aicc: float | None = None
    note: str = ""


def series_of(memorized: pa.Table, excess: pa.Table, models: Sequence[str]) -> list[Series]:
    """Every cell along the sizes of these models, then each of them along context and along continuation.

    Control and excess are series of their own. Empty strata are no points; a series has at least two.
    """
    rows = [row for row in _shares(memorized, excess) if row["model"] in models and row["y"] is not None]
    axes: tuple[Along, ...] = ("num_non_embedding_parameters", "context", "continuation")
    return [series for along in axes for series in _series_along(along, rows) if len(series.x) > 1]


def _shares(memorized: pa.Table, excess: pa.Table) -> list[dict[str, Any]]:
    shares = [{**row, "y": row["share"]} for row in memorized.to_pylist()]
    return shares + [{**row, "group": "excess", "y": row["excess"]} for row in excess.to_pylist()]


def _series_along(along: Along, rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    axis = "model" if along == "num_non_embedding_parameters" else along
    points: defaultdict[tuple[Any, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        fixed = [None if name == axis else row[name] for name in ("model", "group", "context", "continuation")]
        points[tuple(fixed)].append((float(row[along]), row["y"]))
    return [
        Series(along, *fixed, x=tuple(x for x, _ in sorted(place)), y=tuple(y for _, y in sorted(place)))
        for fixed, place in points.items()
    ]


def trend_table(series: Sequence[Series], *, level: float = 0.95) -> pa.Table:
    """One row per series and form; p-values are Holm-adjusted over all series of one axis and form."""
    fitted = [(one, fit) for one in series for fit in _fits(one, level)]
    adjusted = _adjust([(one.along, fit.form, fit.p_value) for one, fit in fitted])
    return make_table(NAMES, [_row(one, fit, p) for (one, fit), p in zip(fitted, adjusted, strict=True)])


def _row(series: Series, fit: Fit, p_holm: float | None) -> Row:
    fixed = {name: value for name, value in series._asdict().items() if name not in ("x", "y")}
    return {**fixed, **fit._asdict(), "num_points": len(series.x), "p_holm": p_holm}


def _adjust(tests: Sequence[tuple[str, str, float | None]]) -> list[float | None]:
    adjusted: list[float | None] = [None] * len(tests)
    for family in {test[:2] for test in tests}:
        members = [i for i, test in enumerate(tests) if test[:2] == family and test[2] is not None]
        for i, value in zip(members, intervals.holm([tests[i][2] or 0.0 for i in members]), strict=True):
            adjusted[i] = float(value)
    return adjusted


def _fits(series: Series, level: float) -> list[Fit]:
    if series.along == "num_non_embedding_parameters":
        return [_log_linear(series, level), _power_law(series, level), _saturating(series)]
    return [_log_linear(series, level), _linear(series, level), _power_law(series, level), _quadratic(series)]


def _linear(series: Series, level: float) -> Fit:
    return _straight(series, Fit("linear", f"share per {_unit(series)}"), series.x, level)


def _log_linear(series: Series, level: float) -> Fit:
    x = np.log10(series.x).tolist()
    return _straight(series, Fit("log-linear", f"share per tenfold {_unit(series)}s"), x, level)


def _straight(series: Series, fit: Fit, x: Sequence[float], level: float) -> Fit:
    line = intervals.fit_line(x, series.y, level)
    if line is None:
        return fit._replace(note=_too_few(series))
    residuals = np.asarray(series.y) - line.intercept - line.slope * np.asarray(x)
    return _judged(_with_slope(fit, line, series), series, float(residuals @ residuals), 2)


def _with_slope(fit: Fit, line: intervals.Line, series: Series) -> Fit:
    note = "" if line.p_value is not None else _too_few(series) or "no scatter around the line: no interval"
    return fit._replace(
        coefficient=line.slope,
        coefficient_low=line.slope_low,
        coefficient_high=line.slope_high,
        p_value=line.p_value,
        note=note,
    )


def _power_law(series: Series, level: float) -> Fit:
    """The exponent and its interval from the logarithms; its place among the forms from shares."""
    fit = Fit("power law", "exponent")
    if min(series.y) <= 0:
        return fit._replace(note="not fitted: a share of zero or less has no logarithm")
    log_x, log_y = np.log(series.x), np.log(series.y)
    line = intervals.fit_line(log_x.tolist(), log_y.tolist(), level)
    if line is None:
        return fit._replace(note=_too_few(series))
    center, scale = float(np.exp(log_x.mean())), max(series.y)

    def curve(x: FloatArray, height: float, exponent: float) -> FloatArray:
        return height * (x / center) ** exponent

    start = (float(np.exp(log_y.mean())) / scale, line.slope)
    bounds = ((0.0, -np.inf), (np.inf, np.inf))
    found = intervals.fit_curve(curve, series.x, [y / scale for y in series.y], start=start, bounds=bounds)
    fit = _with_slope(fit, line, series)
    return fit if found is None else _judged(fit, series, found.squared_residuals * scale**2, 2)


def _saturating(series: Series) -> Fit:
    """Share = plateau * x / (x + half_point): a capacity, if the data reach it."""
    fit = Fit("saturating", "plateau (share)")
    if len(set(series.x)) < 3:
        return fit._replace(note=_too_few(series))
    if max(series.y) <= 0:
        return fit._replace(note="not fitted: no share above zero")
    center, scale = float(np.exp(np.log(series.x).mean())), max(series.y)

    def curve(x: FloatArray, plateau: float, log_half: float) -> FloatArray:
        return plateau / (1 + np.exp(log_half) * center / x)

    bounds = ((0.0, -20.0), (1 / scale * (1 + 1e-9), 20.0))
    start = (min(1.5, 0.5 + 0.5 / scale), -1.0)
    found = intervals.fit_curve(curve, series.x, [y / scale for y in series.y], start=start, bounds=bounds)
    if found is None:
        return fit._replace(note="the search for a plateau did not settle")
    half = float(np.exp(found.parameters[1])) * center
    note = "" if half <= max(series.x) else "the data stop before half the plateau: an extrapolation"
    fit = fit._replace(coefficient=found.parameters[0] * scale, half_point=half, note=note)
    return _judged(fit, series, found.squared_residuals * scale**2, 2)


def _quadratic(series: Series) -> Fit:
    """The bend: above zero a fall that slows or a rise that quickens, below zero the reverse."""
    fit = Fit("quadratic", f"share per {_unit(series)} squared")
    if len(set(series.x)) < 3:
        return fit._replace(note=_too_few(series))
    parameters = np.polyfit(series.x, series.y, 2)
    residuals = np.asarray(series.y) - np.polyval(parameters, series.x)
    fit = fit._replace(coefficient=float(parameters[0]), note="no interval is computed for the bend")
    return _judged(fit, series, float(residuals @ residuals), 3)


def _judged(fit: Fit, series: Series, squared_residuals: float, num_parameters: int) -> Fit:
    return fit._replace(
        r_squared=intervals.r_squared(squared_residuals, series.y),
        aicc=intervals.aicc(squared_residuals, len(series.y), num_parameters),
    )


def _unit(series: Series) -> str:
    return "parameter" if series.along == "num_non_embedding_parameters" else "token"


def _too_few(series: Series) -> str:
    """Why a series cannot carry an interval; empty where it can."""
    num_places = len(set(series.x))
    if num_places >= 3:
        return ""
    noun = "model sizes" if series.along == "num_non_embedding_parameters" else f"{series.along}s"
    return f"too few {noun} ({num_places}); an interval needs 3"
