"""The sentence of perspective 1, from its tables: how much is memorized, and whether it grows with size.

The evidence about size is the sequences, thousands of them scored by every model, and not the few models: the
verdict compares shares at one reference cell, chosen before looking at them; only its steps between neighbours are
several, and corrected for their number. The slope per tenfold parameters describes; its interval, over few models,
decides nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mnemoscope.analyses import Finding, Verdict
from mnemoscope.intervals import format_share, normal_quantile, share_decimals

Record = Mapping[str, Any]
Figures = dict[str, int | float | str | None]
FEW_MODELS = 6
"""Models up to which the interval of a slope is called wide."""
UNCLEAR = "shows no clear trend with "


class Amount(NamedTuple):
    """A share, an excess or a difference of two, with its interval."""

    value: float
    low: float
    high: float


class Place(NamedTuple):
    """A model at the reference cell, and what it memorized: the excess, or the share where no control is."""

    model: str
    size: int
    amount: Amount


def find_size_effect(
    models: Sequence[str], memorized: pa.Table, excess: pa.Table, trend: pa.Table, *, level: float
) -> Finding:
    """The finding at one reference cell; `models` go from small to large."""
    rows = [row for row in memorized.to_pylist() if row["model"] in models and row["group"] == "member"]
    if not rows:
        return Finding("No member sequences were scored.", "undecided", {})
    context, continuation = reference_cell(rows)
    cell = {"context": context, "continuation": continuation}
    chosen = [row for row in rows if _is(row, cell)]
    figures: Figures = {"level": level, **cell, "largest_model": chosen[-1]["model"]}
    over_control = [row for row in excess.to_pylist() if row["model"] in models and _is(row, cell)]
    amount = f"{_amount(chosen[-1], figures)}{_control(over_control, chosen[-1], figures)}"
    verdict, size = _size(chosen, over_control, trend.to_pylist(), figures, level)
    lengths = _lengths(rows, trend.to_pylist(), figures)
    return Finding(f"At k = {context} and n = {continuation} {amount}. {size}{lengths}", verdict, figures)


def reference_cell(rows: Iterable[Record]) -> tuple[int, int]:
    """The (context, continuation) that most models share; among equals, n nearest k, then the shorter k."""
    models: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        models.setdefault((row["context"], row["continuation"]), set()).add(row["model"])
    return min(models, key=lambda cell: (-len(models[cell]), abs(cell[0] - cell[1]), cell))


def difference(one: Amount, other: Amount) -> Amount:
    """The difference of two amounts with its interval, from theirs: the distances to the ends, squared and added.

    For two shares this is Newcombe's hybrid score interval, for two excesses the same step taken again (Zou and
    Donner 2008, Statistics in Medicine 27:1693). It takes the two as independent. Where both models scored
    the same sequences and recite much the same of them, they are not, and the interval is wider than it need
    be: conservative.
    """
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Amount(value, low, high)


def surely_falls(changes: Sequence[Amount], level: float) -> list[bool]:
    """Which of several changes have an interval below zero, Bonferroni-corrected for their number: widened by the ratio
    of the normal quantiles.
    """
    widening = normal_quantile(1 - (1 - level) / max(len(changes), 1)) / normal_quantile(level)
    return [change.value + widening * (change.high - change.value) < 0 for change in changes]


def _is(row: Record, wanted: Record) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def _amount(row: Record, figures: Figures) -> str:
    names = ("num_memorized", "num_unique_memorized", "num_sequences", "num_unique", "share", "share_low", "share_high")
    figures.update({name: row[name] for name in names})
    if row["share"] is None:
        return f"{row['model']} was given no member sequences"
    counts = f"{row['num_memorized']:,} of {row['num_sequences']:,} member sequences"
    if row["num_unique"] not in (None, row["num_sequences"]):
        counts += f" ({row['num_unique_memorized']:,} of {row['num_unique']:,} unique)"
    small = " (a small stratum)" if row["small_stratum"] else ""
    share = format_share(row["share"], row["share_low"], row["share_high"])
    return f"{row['model']} recites {counts}{small}, {share}"


def _control(over_control: Sequence[Record], largest: Record, figures: Figures) -> str:
    if largest["share"] is None:
        return ""
    rows = [row for row in over_control if row["model"] == largest["model"] and row["excess"] is not None]
    if not rows:
        return "; no control was given, so text that any model would guess is counted too"
    row = rows[0]
    for name in ("num_control_memorized", "num_control_sequences", "excess", "excess_low", "excess_high"):
        figures[name] = row[name]
    points = format_share(row["excess"], row["excess_low"], row["excess_high"], unit="points")
    unclear = row["excess_low"] <= 0 <= row["excess_high"]
    counts = f"{row['num_control_memorized']:,} of {row['num_control_sequences']:,}"
    return f", against {counts} held-out: an excess of {points}{', not distinguishable from zero' if unclear else ''}"


def _size(
    shares: Sequence[Record],
    over_control: Sequence[Record],
    trend: Sequence[Record],
    figures: Figures,
    level: float,
) -> tuple[Verdict, str]:
    """Largest against smallest model, and every step between neighbours in size, corrected for their number."""
    group, places = _places(shares, over_control)
    figures["num_models"], figures["size_of"] = len(places), group
    if len({place.size for place in places}) < 2:
        return "undecided", f"With {'one model' if len(places) < 2 else 'one size'} nothing can be said about size."
    first, last = places[0], places[-1]
    rise = difference(last.amount, first.amount)
    figures["smallest_model"] = first.model
    figures.update({f"size_difference{end}": value for end, value in zip(("", "_low", "_high"), rise, strict=True)})
    pairs = [(one, other) for one, other in itertools.pairwise(places) if one.size < other.size]
    changes = [difference(other.amount, one.amount) for one, other in pairs]
    falls = [pair for pair, is_fall in zip(pairs, surely_falls(changes, level), strict=True) if is_fall]
    figures["num_steps"] = len(pairs)
    figures["num_steps_down"] = len(falls)
    verdict, headline, fall = _verdict(rise, falls)
    series = {"along": "num_non_embedding_parameters", "group": group}
    series |= {name: figures[name] for name in ("context", "continuation")}
    span = f"the {'excess' if group == 'excess' else 'share'} goes from {_ends(first, last, group)} {_signed(rise)}"
    return verdict, f"{headline}: {span} over {len(places)} models{_slope(trend, series, figures)}{fall}."


def _places(shares: Sequence[Record], over_control: Sequence[Record]) -> tuple[str, list[Place]]:
    """What is compared, excess where every model has a control and share else, by model in order of size."""
    known = [row for row in shares if row["share"] is not None]
    covered = [row for row in over_control if row["excess"] is not None]
    group = "excess" if {row["model"] for row in covered} >= {row["model"] for row in known} else "member"
    rows, name = (covered, "excess") if group == "excess" else (known, "share")
    return group, [
        Place(
            row["model"],
            row["num_non_embedding_parameters"],
            Amount(row[name], row[f"{name}_low"], row[f"{name}_high"]),
        )
        for row in rows
    ]


def _verdict(rise: Amount, falls: Sequence[tuple[Place, Place]]) -> tuple[Verdict, str, str]:
    """The verdict, its headline, and the first step down where the ends alone would tell another story."""
    if rise.high < 0:
        return "fails", "Memorization falls with size", ""
    if falls:
        one, other = falls[0]
        step = f", but it falls from {one.model} to {other.model} {_signed(difference(other.amount, one.amount))}"
        return "fails", "Memorization does not rise steadily with size", step
    if rise.low > 0:
        return "holds", "Memorization rises with size", ""
    return "undecided", "Whether memorization rises with size is undecided", ""


def _ends(first: Place, last: Place, group: str) -> str:
    """Both ends with as many digits as the less certain of them supports."""
    decimals = min(share_decimals(place.amount.low, place.amount.high) for place in (first, last))
    low, high = (f"{100 * place.amount.value:.{decimals}f}" for place in (first, last))
    return f"{low} to {high} points" if group == "excess" else f"{low} % to {high} %"


def _signed(amount: Amount) -> str:
    """In points, in parentheses: `(+19.6 points, 14.8 to 24.4)`."""
    decimals = share_decimals(amount.low, amount.high)
    value, low, high = (100 * number for number in amount)
    return f"({value:+.{decimals}f} points, {low:.{decimals}f} to {high:.{decimals}f})"


def _slope(trend: Sequence[Record], series: Record, figures: Figures) -> str:
    """The log-linear slope as a description, with how little few models say about it."""
    rows = [row for row in trend if _is(row, {**series, "form": "log-linear"}) and row["coefficient"] is not None]
    if not rows:
        return ""
    row = rows[0]
    for name in ("coefficient", "coefficient_low", "coefficient_high", "p_value", "p_holm"):
        figures[f"size_{name}"] = row[name]
    _compare_forms(trend, series, figures)
    if row["coefficient_low"] is None:
        reason = f"{row['num_points']} models" if row["num_points"] < 3 else "no scatter"
        return f", about {100 * row['coefficient']:.2g} points (no interval: {reason}) per tenfold parameters"
    decimals = share_decimals(row["coefficient_low"], row["coefficient_high"])
    value, low, high = (f"{100 * row[f'coefficient{end}']:.{decimals}f}" for end in ("", "_low", "_high"))
    wide = "; few models: wide" if row["num_points"] <= FEW_MODELS else ""
    return f", about {value} points ({low} to {high}{wide}) per tenfold parameters"


def _compare_forms(trend: Sequence[Record], series: Record, figures: Figures) -> None:
    """Which form AICc prefers, and by how much; nothing where the points are too few to compare."""
    forms = {row["form"]: row["aicc"] for row in trend if _is(row, series) and row["aicc"] is not None}
    if len(forms) > 1:
        best = min(forms, key=lambda form: forms[form])
        figures["size_best_form"] = best
        figures["size_best_form_aicc_lead"] = sorted(forms.values())[1] - forms[best]


def _lengths(rows: Sequence[Record], trend: Sequence[Record], figures: Figures) -> str:
    """In how many models the member share rises or falls: longest against shortest, at the other's shortest."""
    parts: list[str] = []
    for along, fixed in (("continuation", "context"), ("context", "continuation")):
        shortest = min(row[fixed] for row in rows)
        ends = _ends_along(along, [row for row in rows if row[fixed] == shortest and row["share"] is not None])
        if not ends:
            continue
        # Full matches at a longer n are among those at a shorter one: any difference is a fall.
        nested = along == "continuation"
        changes = [difference(_share(last), _share(first)) for first, last in ends]
        falling = sum(change.value < 0 if nested else change.high < 0 for change in changes)
        rising = 0 if nested else sum(change.low > 0 for change in changes)
        figures[f"{along}_num_models"] = len(ends)
        figures[f"{along}_num_rising"], figures[f"{along}_num_falling"] = rising, falling
        bends = [row for row in trend if _is(row, {"along": along, "group": "member", "form": "quadratic"})]
        figures[f"{along}_num_convex"] = sum((row["coefficient"] or 0) > 0 for row in bends)
        figures[f"{along}_num_bends"] = sum(row["coefficient"] is not None for row in bends)
        parts.append(_direction(along, rising, falling, len(ends)))
    subject = "It" if "smallest_model" in figures else "Memorization"
    unclear = [part for part in parts if part.startswith(UNCLEAR)]
    parts = [part for part in parts if part not in unclear]
    parts += [UNCLEAR + " or ".join(part.removeprefix(UNCLEAR) for part in unclear)] if unclear else []
    return f" {subject} {' and '.join(parts)}." if parts else ""


def _ends_along(along: str, rows: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Each model's rows at the shortest and the longest length, where it has both."""
    by_model: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: row[along]):
        by_model.setdefault(row["model"], []).append(row)
    return [(some[0], some[-1]) for some in by_model.values() if len(some) > 1]


def _share(row: Record) -> Amount:
    return Amount(row["share"], row["share_low"], row["share_high"])


def _direction(along: str, rising: int, falling: int, num_models: int) -> str:
    if not rising and not falling:
        return f"{UNCLEAR}the {along}"
    counts = [(verb, count) for verb, count in (("rises", rising), ("falls", falling)) if count]
    verb, count = max(counts, key=lambda pair: pair[1])
    if num_models == 1:
        return f"{verb} with the {along}"
    among = f"all {num_models} models" if count == num_models else f"{count} of {num_models} models"
    against = f" and {counts[1 - counts.index((verb, count))][0]} in {min(rising, falling)}" if len(counts) > 1 else ""
    return f"{verb} with the {along} in {among}{against}"
