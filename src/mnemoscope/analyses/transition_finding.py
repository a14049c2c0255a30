"""The sentence of perspective 2, from its tables: do levels persist from size to size, and ever more so?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses import Finding, Verdict
from mnemoscope.analyses.levels import LEVELS
from mnemoscope.intervals import format_share

Record = Mapping[str, Any]
Figures = dict[str, int | float | str | None]


class _Dominance(NamedTuple):
    """In how many of the levels large enough to say the diagonal is largest, and in how many surely not."""

    num_dominant: int
    num_refuted: int
    num_levels: int
    num_small: int


class _Growth(NamedTuple):
    """In how many of the comparable levels the share that stays surely rose, or fell, from first to last pair."""

    num_rising: int
    num_falling: int
    num_levels: int


def find_persistence(
    levels: pa.Table, nulls: pa.Table, prediction: pa.Table, noise: pa.Table, *, sizes: Mapping[str, int], level: float
) -> Finding:
    """The finding at one reference cell, over consecutive sizes (where there are none, checkpoints)."""
    rows = _reference_rows(levels.to_pylist())
    if not rows:
        return Finding("No two sizes or checkpoints were compared on member sequences.", "undecided", {})
    pairs = list(dict.fromkeys((row["model_from"], row["model_to"]) for row in rows))
    cell = {name: rows[0][name] for name in ("relation", "context_from", "continuation_from", "group")}
    figures: Figures = {"level": level, **cell, "num_pairs": len(pairs)}
    dominance = _dominance(rows, figures)
    growth = _growth(rows, pairs, figures, level) if cell["relation"] == "size" else None
    parts = [
        _stays(rows, pairs[-1], figures),
        _beside_regression(nulls, cell, pairs[-1], figures),
        _beside_noise(noise, cell, pairs[-1], figures),
        _describe_growth(growth, pairs, sizes, figures),
        _predicts(prediction, cell, pairs[-1], figures),
    ]
    text = f"At k = {cell['context_from']} and n = {cell['continuation_from']} {_describe_dominance(dominance, cell)}"
    return Finding("; ".join([text, *filter(None, parts)]) + ".", _verdict(dominance, growth), figures)


def _reference_rows(rows: Sequence[Record]) -> list[Record]:
    """Members' rows of the kind and cell that the sentence speaks of: n nearest k, then the shorter k."""
    for relation in ("size", "step", "final"):
        chosen = [row for row in rows if row["relation"] == relation and row["group"] == "member"]
        if chosen:
            places = {(row["context_from"], row["continuation_from"]) for row in chosen}
            place = min(places, key=lambda place: (abs(place[0] - place[1]), place))
            return [row for row in chosen if (row["context_from"], row["continuation_from"]) == place]
    return []


def _is(row: Record, wanted: Record) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def _matrix_rows(rows: Sequence[Record]) -> list[list[Record]]:
    """The cells of each pair's each level_from, in order."""
    grouped: dict[tuple[str, str, str], list[Record]] = {}
    for row in rows:
        grouped.setdefault((row["model_from"], row["model_to"], row["level_from"]), []).append(row)
    return list(grouped.values())


def _dominance(rows: Sequence[Record], figures: Figures) -> _Dominance:
    told = [cells for cells in _matrix_rows(rows) if not cells[0]["small_stratum"]]
    dominant = refuted = 0
    for cells in told:
        stays = next(cell for cell in cells if cell["level_to"] == cell["level_from"])
        others = [cell for cell in cells if cell is not stays]
        dominant += stays["share"] > max(cell["share"] for cell in others)
        refuted += any(cell["share_low"] > stays["share_high"] for cell in others)
    found = _Dominance(dominant, refuted, len(told), len(_matrix_rows(rows)) - len(told))
    figures.update({f"dominance_{name}": value for name, value in found._asdict().items()})
    return found


def _describe_dominance(found: _Dominance, cell: Record) -> str:
    noun = "consecutive sizes" if cell["relation"] == "size" else "checkpoints"
    small = f" ({found.num_small} more hold too few)" if found.num_small else ""
    refuted = f", and in {found.num_refuted} another level is surely commoner" if found.num_refuted else ""
    return (
        f"more sequences stay at their level than go to any one other at {found.num_dominant} of {found.num_levels} "
        f"levels between {noun}{small}{refuted}"
    )


def _stays(rows: Sequence[Record], pair: tuple[str, str], figures: Figures) -> str:
    """How many stay, at the lowest and the highest level of the last pair, and how many fall from top to bottom."""
    named = {(r["level_from"], r["level_to"]): r for r in rows if (r["model_from"], r["model_to"]) == pair}
    parts: list[str] = []
    for start, end, verb in (("very low", "very low", "stays"), ("very high", "very high", "stays")):
        cell = named[start, end]
        figures[f"{start.replace(' ', '_')}_share"] = cell["share"]
        if cell["small_stratum"]:
            known = f"{cell['num_known_from']} graded ones of about " if "num_known_from" in cell else ""
            parts.append(f"{start} has {known}{cell['num_from']} sequences, too few to say")
        else:
            parts.append(f"{start} {verb} in {format_share(cell['share'], cell['share_low'], cell['share_high'])}")
    fall = named["very high", "very low"]
    figures["fall_share"] = fall["share"]
    if not fall["small_stratum"]:
        falls = format_share(fall["share"], fall["share_low"], fall["share_high"])
        parts.append(f"{falls} of the very high fall to very low")
    return f"from {pair[0]} to {pair[1]} {', '.join(parts)}"


def _beside_regression(nulls: pa.Table, cell: Record, pair: tuple[str, str], figures: Figures) -> str:
    """What regression to the mean alone would keep at the highest level."""
    wanted = {**cell, "model_from": pair[0], "model_to": pair[1], "null": "regression"}
    top = {"level_from": LEVELS[-1], "level_to": LEVELS[-1]}
    row = next(row for row in nulls.to_pylist() if _is(row, {**wanted, **top}))
    figures["correlation"], figures["regression_share"] = row["correlation"], row["expected_share"]
    if row["correlation"] is None or row["expected_share"] is None or row["small_stratum"]:
        return "what regression to the mean alone would give cannot be said"
    return (
        f"regression to the mean alone (correlation {row['correlation']:.2f}) "
        f"would keep {100 * row['expected_share']:.1f} % of the very high"
    )


def _beside_noise(noise: pa.Table, cell: Record, pair: tuple[str, str], figures: Figures) -> str:
    """How many change level, beside a run and its twin; nothing without a twin."""
    wanted = {**cell, "model_from": pair[0], "model_to": pair[1], "changed": "level"}
    rows = [row for row in noise.to_pylist() if _is(row, wanted)]
    if not rows or rows[0]["share"] is None or rows[0]["noise_share"] is None:
        return ""
    row = rows[0]
    figures["changed_share"], figures["noise_share"] = row["share"], row["noise_share"]
    changed = format_share(row["share"], row["share_low"], row["share_high"])
    floor = format_share(row["noise_share"], row["noise_low"], row["noise_high"])
    return f"{changed} change their level, where its twin {row['twin']} alone changes {floor}"


def _growth(rows: Sequence[Record], pairs: Sequence[tuple[str, str]], figures: Figures, level: float) -> _Growth | None:
    """Whether the share that stays rises from the first pair to the last, Bonferroni-corrected over the levels.

    The two shares are taken as independent, though they are of the same texts.
    """
    if len(pairs) < 2:
        return None
    diagonal = [row for row in rows if row["level_from"] == row["level_to"] and not row["small_stratum"]]
    first, last = (
        {row["level_from"]: row for row in diagonal if (row["model_from"], row["model_to"]) == pair}
        for pair in (pairs[0], pairs[-1])
    )
    shared = [name for name in LEVELS if name in first and name in last]
    widening = intervals.normal_quantile(1 - (1 - level) / max(len(shared), 1)) / intervals.normal_quantile(level)
    rising = falling = 0
    for name in shared:
        low, high = _rise(first[name], last[name], widening)
        rising, falling = rising + (low > 0), falling + (high < 0)
        figures[f"growth_{name.replace(' ', '_')}"] = last[name]["share"] - first[name]["share"]
    found = _Growth(rising, falling, len(shared))
    figures.update({f"growth_{name}": value for name, value in found._asdict().items()})
    return found


def _rise(before: Record, after: Record, widening: float) -> tuple[float, float]:
    """The ends of the interval of after - before: the distances to the ends of theirs, widened, squared and added.

    Newcombe's hybrid score interval where theirs are Wilson's; it takes clusters along where theirs have.
    """
    estimate = after["share"] - before["share"]
    down = math.hypot(after["share"] - after["share_low"], before["share_high"] - before["share"])
    up = math.hypot(after["share_high"] - after["share"], before["share"] - before["share_low"])
    return estimate - widening * down, estimate + widening * up


def _describe_growth(
    growth: _Growth | None, pairs: Sequence[tuple[str, str]], sizes: Mapping[str, int], figures: Figures
) -> str:
    if growth is None:
        return "with one step of size nothing can be said about growth" if figures["relation"] == "size" else ""
    factors = [sizes[larger] / sizes[smaller] for smaller, larger in (pairs[0], pairs[-1])]
    figures["size_factor_first"], figures["size_factor_last"] = factors
    return (
        f"from the first step of size (x{factors[0]:.1f}) to the last (x{factors[1]:.1f}) the share that stays "
        f"rises in {growth.num_rising} and falls in {growth.num_falling} of {growth.num_levels} levels, beyond chance"
    )


def _predicts(prediction: pa.Table, cell: Record, pair: tuple[str, str], figures: Figures) -> str:
    wanted = {**cell, "model_from": pair[0], "model_to": pair[1]}
    found = {row["measure"]: row for row in prediction.to_pylist() if _is(row, wanted)}
    for name in ("precision", "recall", "base rate"):
        figures[name.replace(" ", "_")] = found[name]["value"] if name in found else None
    if not found or any(found[name]["value"] is None for name in ("precision", "recall")):
        return "one of the two memorized nothing, so there is nothing to predict"
    precision, recall = (
        format_share(found[name]["value"], found[name]["value_low"], found[name]["value_high"])
        for name in ("precision", "recall")
    )
    return (
        f"{pair[0]}'s memorized set predicts {pair[1]}'s with precision {precision} and recall {recall}, "
        f"against a base rate of {100 * found['base rate']['value']:.2g} %"
    )


def _verdict(dominance: _Dominance, growth: _Growth | None) -> Verdict:
    """Holds where all diagonals lead and staying grows with size; fails where one surely does not, or shrinks."""
    if dominance.num_refuted or (growth is not None and growth.num_falling):
        return "fails"
    leads = dominance.num_levels > 0 and dominance.num_dominant == dominance.num_levels
    return "holds" if leads and growth is not None and growth.num_rising else "undecided"
