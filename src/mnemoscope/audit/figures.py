"""An audit's result -> its figures: recited by cell, by number of samples, by copies; canaries; membership signals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from mnemoscope.audit.result import AuditResult, Compared, Share
from mnemoscope.audit.verdict import ALL, PROBABILITY
from mnemoscope.audit.words import context_words
from mnemoscope.report.axes import PERCENT
from mnemoscope.report.escapes import escape
from mnemoscope.report.figure import (
    LEVEL,
    Figure,
    heading,
    panel_heading,
    specs_of_figures,
    told,
    told_number,
    told_percent,
)
from mnemoscope.report.theme import COLORS, CONTROL_COLOR, PANEL_HEIGHT, RULE, WIDTHS
from mnemoscope.report.vega import Spec, channel, concat, layer, mark

Rows = list[dict[str, Any]]
TRAINING: Final = "training passages"
HELD_OUT: Final = "held-out passages"
_COLOR: Final = {TRAINING: COLORS[1], HELD_OUT: CONTROL_COLOR}
_MAX_PANELS: Final = 6
_MAX_NAME: Final = 28
_ASIDE: Final = 0.06
"""Of the way to the next place: by so much either side is moved, so that intervals do not hide one another."""
_ALONE: Final = 300
"""Pixels across a panel that stands alone."""


def audit_figures(result: AuditResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    return specs_of_figures(
        {
            "recited": draw_recited(result),
            "samples": draw_samples(result),
            "copies": draw_copies(result),
            "canaries": draw_canaries(result),
            "signals": draw_signals(result),
        }
    )


def draw_recited(result: AuditResult) -> Figure | None:
    """The share recited word for word by context, training beside held-out passages, a panel per continuation."""
    rows = [row for row in result.matches if row.kind == ALL]
    lengths = sorted({row.continuation for row in rows})[-_MAX_PANELS:]
    contexts = list(dict.fromkeys(row.context for row in sorted(rows, key=_by_length)))
    if not rows:
        return None
    panels = {
        f"{length} tokens to recite": [
            drawn
            for row in rows
            if row.continuation == length
            for drawn in _two_sides(row, contexts.index(row.context), f"{context_words(row.context)} shown")
        ]
        for length in lengths
    }
    chart = _side_by_side(
        panels, "Recited word for word", _named_axis(contexts, "context, in tokens"), joined=len(contexts) > 1
    )
    caption = (
        "The share of passages whose continuation the model says word for word when it is given the context: of the "
        f"training file beside text that it never saw. Bars: {LEVEL} intervals."
    )
    return Figure(chart, caption, "recited")


def draw_samples(result: AuditResult) -> Figure | None:
    """The share that comes up with probability one half within so many samples; a panel per way of sampling."""
    rows = [row for row in result.extraction if row.probability == PROBABILITY and row.compared.kind == ALL]
    samplings = list(dict.fromkeys(row.sampling for row in rows))[:_MAX_PANELS]
    numbers = sorted({row.num_samples for row in rows})
    if len(numbers) < 2:
        return None
    panels = {
        _short(sampling): [
            drawn
            for row in rows
            if row.sampling == sampling
            for drawn in _two_sides(row.compared, numbers.index(row.num_samples), f"{row.num_samples:,} samples")
        ]
        for sampling in samplings
    }
    names = [f"{number:,}" for number in numbers]
    chart = _side_by_side(panels, "Brought up by sampling", _named_axis(names, "samples drawn"), joined=True)
    caption = (
        "The share of passages of which the continuation appears among so many samples with probability one half, from "
        f"its probability under the model. Bars: {LEVEL} intervals."
    )
    return Figure(chart, caption, "brought up")


def draw_copies(result: AuditResult) -> Figure | None:
    """The share recited by copies in the training file."""
    names = [_range(dose.low, dose.high) for dose in result.doses]
    shares = [dose.recited for dose in result.doses]
    caption = (
        "The share of training passages recited word for word, by how often their text stands in the training file. "
        f"Bars: {LEVEL} intervals."
    )
    return _by_class(names, shares, "Recited by number of copies", "copies in the training file", caption)


def draw_canaries(result: AuditResult) -> Figure | None:
    """The share of canaries recited by how often they were planted; the twins that were not, at 0."""
    doses = sorted(result.canaries, key=lambda dose: dose.repeats)
    names = [f"{dose.repeats:,}" for dose in doses]
    caption = (
        "The share of planted canaries recited word for word, by how often they were planted; at 0 their twins, which "
        f"no model has seen. Bars: {LEVEL} intervals."
    )
    title = "Canaries recited by number of copies"
    return _by_class(names, [dose.recited for dose in doses], title, "times planted", caption)


def draw_signals(result: AuditResult) -> Figure | None:
    """How well each membership signal tells training from held-out passages: the area under its ROC curve."""
    rows: Rows = [
        {
            "name": _short(one.name),
            "share": one.auc.estimate,
            "low": one.auc.low,
            "high": one.auc.high,
            **told(
                _short(one.name),
                told_number(one.auc.estimate, one.auc.low, one.auc.high),
                f"{one.num_member:,} training and {one.num_control:,} held-out passages",
            ),
        }
        for one in result.signals
        if one.auc.estimate is not None
    ]
    if not rows:
        return None
    ends = [float(row[end]) for row in rows for end in ("share", "low", "high") if row[end] is not None]
    domain = [min(0.45, *ends), max(0.75, *ends)]
    names = list(dict.fromkeys(row["name"] for row in rows))
    y = channel("name:N", title=None, sort=names, axis={"labelLimit": 150, "grid": False, "ticks": False})
    scale = {"domain": domain, "nice": False, "zero": False}
    title = "area under the ROC curve"
    x = channel("share:Q", title=title, scale=scale, axis={"tickCount": 5})
    chart = layer(
        mark("rule", {"x": {"datum": 0.5, "title": title}}, strokeDash=[4, 3], stroke=RULE),
        mark("rule", {"y": y, "x": channel("low:Q", title=title), "x2": channel("high")}, stroke=COLORS[1]),
        mark("point", {"y": y, "x": x}, filled=True, size=50, opacity=1, color=COLORS[1]),
        rows=rows,
        width=_ALONE - 40,
        height=34 * len(names) + 10,
        title=heading("Membership signals", ["dashed: chance"]),
    )
    caption = (
        "How well each signal tells a passage of the training file from one that the model never saw: one half is "
        f"chance. Bars: {LEVEL} intervals."
    )
    return Figure(chart, caption, "AUC")


def _two_sides(row: Compared, place: int, where: str) -> Iterator[dict[str, Any]]:
    for side, share, aside in ((TRAINING, row.member, -_ASIDE), (HELD_OUT, row.control, _ASIDE)):
        if share.share is not None:
            yield _drawn(share, place, side, f"{side}, {where}", aside=aside)


def _drawn(share: Share, place: int, side: str, what: str, *, aside: float = 0.0) -> dict[str, Any]:
    value = share.share or 0.0
    texts = told(what, told_percent(value, share.low, share.high), f"{share.count:,} of {share.n:,} passages")
    ends = {"low": share.low, "high": share.high}
    return {"place": place, "x": place + aside, "side": side, "share": value, **ends, **texts}


def _by_class(names: Sequence[str], shares: Sequence[Share], title: str, axis: str, caption: str) -> Figure | None:
    rows = [
        _drawn(share, place, TRAINING, f"{name} {axis}")
        for place, (name, share) in enumerate(zip(names, shares, strict=True))
        if share.share is not None
    ]
    if len(rows) < 2:
        return None
    y = _shares(rows, has_labels=True)
    panel = _panel(rows, _named_axis(names, axis), y, width=_ALONE, legend=False, joined=True)
    return Figure({**panel, "title": heading(title, [])}, caption, "recited")


def _side_by_side(panels: dict[str, Rows], title: str, x: Spec, *, joined: bool) -> Spec:
    """Panels that share their upright axis; the legend names the two sides."""
    columns = min(2, len(panels))
    every = [row for rows in panels.values() for row in rows]
    width = _ALONE if columns == 1 else WIDTHS[2]
    charts = [
        {
            **_panel(rows, x, _shares(every, has_labels=place % columns == 0), width=width, legend=True, joined=joined),
            "title": panel_heading(name),
        }
        for place, (name, rows) in enumerate(panels.items())
    ]
    return concat(
        *charts, columns=columns, spacing=12, title=heading(title, []), resolve={"scale": {"color": "shared"}}
    )


def _panel(rows: Rows, x: Spec, y: Spec, *, width: int, legend: bool, joined: bool) -> Spec:
    sides = [side for side in (TRAINING, HELD_OUT) if any(row["side"] == side for row in rows)] or [TRAINING]
    settings: Spec = {"title": None, "symbolType": "circle", "symbolOpacity": 1, "columns": 2}
    color = channel(
        "side:N",
        scale={"domain": [*_COLOR], "range": [*_COLOR.values()]} if legend else {"range": [COLORS[1]]},
        legend=settings if legend else None,
    )
    where = {"x": x, "color": color}
    ends = {"y": channel("low:Q"), "y2": channel("high")}
    lines = [mark("line", {**where, "y": y}, strokeWidth=1.4, opacity=0.55)] if joined and sides else []
    return layer(
        *lines,
        mark("rule", {**where, **ends}, strokeWidth=1.4, opacity=0.8),
        mark("point", {**where, "y": y}, filled=True, size=42, opacity=1),
        rows=rows,
        width=width,
        height=PANEL_HEIGHT,
    )


def _named_axis(names: Sequence[str], title: str) -> Spec:
    """Places 0, 1, 2 ... with their names."""
    label = f"{json.dumps([_short(name) for name in names])}[datum.value]"
    axis = {"values": list(range(len(names))), "labelExpr": label, "grid": False, "labelOverlap": "parity"}
    scale = {"domain": [-0.4, len(names) - 0.6], "nice": False, "zero": False}
    return channel("x:Q", title=title, axis={**axis, "labelSeparation": 4}, scale=scale)


def _shares(rows: Rows, *, has_labels: bool) -> Spec:
    """Shares from zero on; without labels grid lines only, beside a panel that has the numbers."""
    top = 1.04 * max((row["high"] for row in rows), default=1.0) or 1.0
    axis = {"tickCount": 5, "labelExpr": PERCENT, "labels": has_labels, "ticks": has_labels, "domain": has_labels}
    title = "share of passages" if has_labels else None
    return channel("share:Q", title=title, scale={"domain": [0, min(top, 1.04)], "nice": False}, axis=axis)


def _by_length(row: Compared) -> tuple[int, str]:
    return (int(row.context) if row.context.isdecimal() else 0, row.context)


def _range(low: int, high: int | None) -> str:
    return f"{low:,}+" if high is None else f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _short(name: str) -> str:
    shown = escape(name, backslash=False)
    return shown if len(shown) <= _MAX_NAME else shown[: _MAX_NAME - 1] + "…"
