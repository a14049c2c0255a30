"""The sentence of the embeddings, from their tables: order, change along decoding, and spread along model size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from mnemoscope.analyses import Finding, Verdict
from mnemoscope.analyses.size_finding import Amount, difference, surely_falls
from mnemoscope.intervals import format_share

Record = Mapping[str, Any]
Figures = dict[str, int | float | str | None]

COSINE_TOLERANCE: Final = 0.05
"""A cosine `stays` where the whole interval of its change is within this."""
CLAIMS: Final = ("the order of scores", "distance shrinking at a steady cosine", "larger models spreading further")


def find_embedding_effects(
    models: pa.Table, separability: pa.Table, trend: pa.Table, final: Sequence[str], *, level: float
) -> Finding:
    """The finding over the final models, `final` from small to large; its numbers are of the largest."""
    known = [row for row in models.to_pylist() if row["model"] in final and row["separation_p"] is not None]
    groups = [row["group"] for row in known]
    side = "member" if "member" in groups else "control"
    rows = [row for label in final for row in known if row["model"] == label and row["group"] == side]
    if not rows:
        return Finding("No model has two scores with enough clusters to compare their states.", "undecided", {})
    largest = rows[-1]
    figures: Figures = {"level": level, "num_models": len(rows)}
    figures |= {name: largest[name] for name in ("model", "group", "context", "num_sequences", "num_clusters")}
    alpha = 1 - level
    control = [row for row in known if row["group"] == "control" and row["model"] == largest["model"]]
    verdicts: list[Verdict] = [
        _over_models([judge_order(row, alpha) for row in rows]),
        _over_models([judge_dynamics(row, alpha) for row in rows]),
    ]
    verdict, size = _size(rows, trend.to_pylist(), figures, level)
    verdicts.append(verdict)
    parts = [
        _order(largest, rows, alpha, figures) + (_control(control, figures) if side == "member" else ""),
        _dynamics(largest, rows, alpha, figures),
        size,
        *_probe(separability.to_pylist(), largest, figures),
        *_shortfalls(verdicts, figures),
    ]
    sentences = [_amount(largest, figures), *parts]
    spoken = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return Finding(spoken, _join(verdicts), figures)


def judge_order(row: Record, alpha: float) -> Verdict:
    """Whether distances follow score differences; undecided where the groups cannot be told from random ones, or
    where the test against random groups and the interval do not agree.
    """
    if row["order_p"] is None:
        return "undecided"
    speaks = row["order_p"] < alpha, row["order_low"] > 0
    if any(speaks):
        return "holds" if all(speaks) else "undecided"
    return "fails" if row["separation_p"] < alpha else "undecided"


def judge_dynamics(row: Record, alpha: float) -> Verdict:
    """Whether the distance falls while the cosine stays."""
    return _join([_judge_shrinking(row, alpha), _judge_cosine(row)])


def _judge_shrinking(row: Record, alpha: float) -> Verdict:
    low, high = row["spread_change_low"], row["spread_change_high"]
    if low is None or row["separation_p"] >= alpha or low <= 0 <= high:
        return "undecided"
    return "holds" if high < 0 else "fails"


def _judge_cosine(row: Record) -> Verdict:
    low, high = row["cosine_change_low"], row["cosine_change_high"]
    if low is None:
        return "undecided"
    if max(abs(low), abs(high)) <= COSINE_TOLERANCE:
        return "holds"
    return "fails" if low > COSINE_TOLERANCE or high < -COSINE_TOLERANCE else "undecided"


def _over_models(verdicts: Sequence[Verdict]) -> Verdict:
    """Holds or fails only where it does so in every model: a claim about all of them needs no further correction."""
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided"


def _join(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several parts."""
    if "fails" in verdicts:
        return "fails"
    return "holds" if set(verdicts) == {"holds"} else "undecided"


def _amount(row: Record, figures: Figures) -> str:
    for name in ("num_groups", "num_left_out", "num_empty"):
        figures[name] = row[name]
    place = f", k = {row['context']}" if row["context"] is not None else ""
    missing = [
        f"{row[name]} {what}"
        for name, what in (("num_left_out", "left out as too small"), ("num_empty", "empty"))
        if row[name]
    ]
    groups = f"{row['num_groups']} scores" + (f" ({', '.join(missing)})" if missing else "")
    counts = f"{row['num_sequences']:,} sequences in {row['num_clusters']:,} clusters"
    return f"In {row['model']} ({row['group']}{place}): {counts} of {groups}"


def _order(row: Record, rows: Sequence[Record], alpha: float, figures: Figures) -> str:
    for name in ("order", "order_low", "order_high", "order_p", "separation_p"):
        figures[name] = row[name]
    num_ordered = sum(judge_order(other, alpha) == "holds" for other in rows)
    figures["num_ordered"] = num_ordered
    if row["order"] is None:
        return f"with {row['num_groups']} scores nothing can be said about their order"
    numbers = f"Spearman {_plain(row, 'order')} between score difference and distance"
    against = f"p = {row['order_p']:.2g} against random groups"
    texts: Mapping[Verdict, str] = {
        "holds": "similar scores lie next to each other",
        "fails": "scores lie apart, but not in order",
        "undecided": "scores lie apart, and whether in order is open"
        if row["separation_p"] < alpha
        else "scores cannot be told from random groups",
    }
    return f"{texts[judge_order(row, alpha)]} ({numbers}, {against}; in order in {num_ordered} of {len(rows)} models)"


def _control(rows: Sequence[Record], figures: Figures) -> str:
    if not rows or rows[0]["order"] is None:
        return ", with no control to compare"
    row = rows[0]
    figures |= {f"control_{name}": row[name] for name in ("order", "order_low", "order_high", "order_p")}
    return f", in the control {_plain(row, 'order')}, p = {row['order_p']:.2g}"


def _dynamics(row: Record, rows: Sequence[Record], alpha: float, figures: Figures) -> str:
    for name in ("spread_change", "mean_cosine", "cosine_change", "neighbour_cosine_change"):
        figures |= {f"{name}{end}": row[f"{name}{end}"] for end in ("", "_low", "_high")}
    num_models = sum(judge_dynamics(other, alpha) == "holds" for other in rows)
    figures["num_shrinking_at_steady_cosine"] = num_models
    if row["spread_change"] is None or row["cosine_change"] is None:
        return "how far scores move along decoding is lost in noise"
    low, high = row["spread_change_low"], row["spread_change_high"]
    percent = format_share(row["spread_change"], low, high)
    shrinking, steady = _judge_shrinking(row, alpha), _judge_cosine(row)
    verbs = {"holds": "shrinks", "fails": "grows", "undecided": "does not demonstrably change"}
    cosine = {"holds": "stays", "fails": "does not stay", "undecided": "may or may not stay"}
    text = f"from the first to the last quarter of decoding the distance between scores {verbs[shrinking]} "
    text += f"({percent}) and their cosine {cosine[steady]} ({_plain(row, 'cosine_change', signed=True)})"
    return f"{text}, both as published in {num_models} of {len(rows)} models"


def _size(rows: Sequence[Record], trend: Sequence[Record], figures: Figures, level: float) -> tuple[Verdict, str]:
    """Largest against smallest model, and every step between neighbours in size, over the scores that all keep.

    The evidence is the sequences of each model, not the few models: the slope describes and decides nothing.
    """
    name = "shared_spread_per_width"
    rows = [row for row in rows if row[name] is not None]
    if len({row["num_non_embedding_parameters"] for row in rows}) < 2:
        return "undecided", "with one model size nothing can be said about size"
    rise = _rise(rows[0], rows[-1], name)
    pairs = [
        pair
        for pair in itertools.pairwise(rows)
        if pair[0]["num_non_embedding_parameters"] < pair[1]["num_non_embedding_parameters"]
    ]
    num_falls = sum(surely_falls([_rise(*pair, name) for pair in pairs], level))
    figures |= {"smallest_model": rows[0]["model"], "num_steps_down": num_falls}
    figures |= {f"size_difference{end}": value for end, value in zip(("", "_low", "_high"), rise, strict=True)}
    scaled = _rise(rows[0], rows[-1], "shared_spread_per_scatter")
    figures |= {f"size_scaled_difference{end}": value for end, value in zip(("", "_low", "_high"), scaled, strict=True)}
    numbers = f"{_signed(rise)} in spread / sqrt(width) from {rows[0]['model']} to {rows[-1]['model']}"
    _note_slope(trend, rows[-1]["group"], figures)
    if rise.high < 0:
        return "fails", f"larger models spread less ({numbers})"
    if num_falls:
        return (
            "fails",
            f"spread does not rise steadily with size, but falls at {num_falls} of {len(pairs)} steps ({numbers})",
        )
    if rise.low > 0:
        return "holds", f"larger models spread further ({numbers})"
    return "undecided", f"whether larger models spread further is open ({numbers})"


def _rise(one: Record, other: Record, name: str) -> Amount:
    """The difference between two models, resampled apart: for the same sequences wider than it need be."""
    first, second = (Amount(row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in (one, other))
    return difference(second, first)


def _note_slope(trend: Sequence[Record], side: str, figures: Figures) -> None:
    rows = [row for row in trend if row["group"] == side and row["quantity"] == "shared_spread_per_width"]
    names = ("slope", "slope_low", "slope_high", "p_value", "num_points") if rows else ()
    figures |= {f"size_{name}": rows[0][name] for name in names}


def _probe(separability: Sequence[Record], model: Record, figures: Figures) -> list[str]:
    """How well the last step's state tells a full match from the rest."""
    wanted = {"model": model["model"], "group": model["group"], "target": "memorized"}
    rows = [row for row in separability if all(row[name] == value for name, value in wanted.items())]
    if not rows or rows[-1]["accuracy"] is None:
        return []
    row = rows[-1]
    for name in ("step", "accuracy", "accuracy_low", "accuracy_high", "majority_accuracy", "silhouette"):
        figures[f"memorized_{name}"] = row[name]
    accuracy = format_share(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    return [
        f"a linear probe of step {row['step']} tells full matches from the rest in {accuracy} of "
        f"{row['num_sequences']:,} held-out sequences, a constant guess in {100 * row['majority_accuracy']:.0f} %"
    ]


def _shortfalls(verdicts: Sequence[Verdict], figures: Figures) -> list[str]:
    """What did not reproduce and what is open, by name."""
    parts: list[str] = []
    for verdict, text in (("fails", "not reproduced"), ("undecided", "undecided")):
        named = [claim for claim, found in zip(CLAIMS, verdicts, strict=True) if found == verdict]
        figures[text.replace(" ", "_")] = ", ".join(named) or None
        if named:
            parts.append(f"{text}: {', '.join(named)}")
    return parts


def _plain(row: Record, name: str, *, signed: bool = False) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return f"{value:{'+' if signed else ''}.2g}"
    return _number(Amount(value, low, high), "+" if signed else "")


def _signed(amount: Amount) -> str:
    return _number(amount, "+")


def _number(amount: Amount, sign: str) -> str:
    """`0.83 (0.79 to 0.86)`, to the digits that the interval supports: two or three decimals."""
    decimals = min(max(2, 1 - _exponent(amount.high - amount.low)), 3)
    value, low, high = (f"{number:{sign}.{decimals}f}" for number in amount)
    return f"{value} ({low} to {high})"


def _exponent(width: float) -> int:
    return int(f"{width:e}".partition("e")[2]) if width > 0 else 0
