"""The sentence of perspective 1, from its tables: how much is memorized, and whether it grows with size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mnemoscope.analyses import Finding, Verdict
from mnemoscope.intervals import format_share

Record = Mapping[str, Any]
Figures = dict[str, int | float | str | None]


def find_size_effect(
    models: Sequence[str], memorized: pa.Table, excess: pa.Table, trend: pa.Table, *, level: float
) -> Finding:
    """The finding at one reference cell, with how the other cells agree; `models` go from small to large."""
    rows = [row for row in memorized.to_pylist() if row["model"] in models and row["group"] == "member"]
    if not rows:
        return Finding("No member sequences were scored.", "undecided", {})
    context, continuation = reference_cell(rows)
    cell = {"context": context, "continuation": continuation}
    largest = [row for row in rows if _is(row, cell)][-1]
    figures: Figures = {"level": level, **cell, "largest_model": largest["model"]}
    control, has_control = _control(excess, cell, largest, figures)
    verdict, size = _size(trend.to_pylist(), cell, figures, has_control)
    text = f"At k = {context} and n = {continuation} {_amount(largest, figures)}{control}; {size}"
    return Finding(f"{text}{_lengths(trend.to_pylist(), figures)}.", verdict, figures)


def reference_cell(rows: Iterable[Record]) -> tuple[int, int]:
    """The (context, continuation) that most models share; among equals, n nearest k, then the shorter k."""
    models: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        models.setdefault((row["context"], row["continuation"]), set()).add(row["model"])
    return min(models, key=lambda cell: (-len(models[cell]), abs(cell[0] - cell[1]), cell))


def _is(row: Record, wanted: Record) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def _amount(row: Record, figures: Figures) -> str:
    for name in ("num_memorized", "num_sequences", "share", "share_low", "share_high"):
        figures[name] = row[name]
    counts = f"{row['num_memorized']:,} of {row['num_sequences']:,} member sequences"
    if row["share"] is None:
        return f"{row['model']} was given no member sequences"
    small = " (a small stratum)" if row["small_stratum"] else ""
    share = format_share(row["share"], row["share_low"], row["share_high"])
    return f"{row['model']} recites {counts}{small}, {share}"


def _control(excess: pa.Table, cell: Record, largest: Record, figures: Figures) -> tuple[str, bool]:
    wanted = {**cell, "model": largest["model"]}
    rows = [row for row in excess.to_pylist() if _is(row, wanted) and row["excess"] is not None]
    if not rows:
        return "; no control given, so text that any model would guess is counted too", False
    row = rows[0]
    for name in ("num_control_memorized", "num_control_sequences", "excess", "excess_low", "excess_high"):
        figures[name] = row[name]
    points = format_share(row["excess"], row["excess_low"], row["excess_high"], unit="points")
    shown = "an excess of" if row["excess_low"] > 0 else "an excess that is not distinguishable from zero,"
    counts = f"{row['num_control_memorized']:,} of {row['num_control_sequences']:,}"
    return f", against {counts} in the control: {shown} {points}", True


def _size(trend: Sequence[Record], cell: Record, figures: Figures, has_control: bool) -> tuple[Verdict, str]:
    group = "excess" if has_control else "member"
    along = {"along": "num_non_embedding_parameters", "group": group}
    noun = "the excess" if has_control else "memorization"
    rows = [row for row in trend if _is(row, {**along, **cell, "form": "log-linear"})]
    figures["num_models"] = rows[0]["num_points"] if rows else 1
    if not rows:
        return "undecided", "with one model nothing can be said about size"
    row = rows[0]
    for name in ("coefficient", "coefficient_low", "coefficient_high", "p_holm"):
        figures[f"size_{name}"] = row[name]
    if row["p_holm"] is None:
        return (
            "undecided",
            f"whether {noun} rises with size is undecided over {row['num_points']} models: {row['note']}",
        )
    slope = format_share(row["coefficient"], row["coefficient_low"], row["coefficient_high"], unit="points")
    numbers = f"{slope} per tenfold parameters over {row['num_points']} models, "
    numbers += f"Holm-adjusted p = {row['p_holm']:.2g}"
    rises = row["coefficient"] > 0 and row["p_holm"] < 1 - float(figures["level"] or 0)
    best = _best_form(trend, {**along, **cell}, figures)
    if rises:
        return "holds", f"{noun} rises with size: {numbers}{best}"
    return "fails", f"{noun} does not demonstrably rise with size here: {numbers}{best}"


def _best_form(trend: Sequence[Record], series: Record, figures: Figures) -> str:
    """Which form AICc prefers; nothing where the points are too few to compare."""
    forms = {row["form"]: row["aicc"] for row in trend if _is(row, series) and row["aicc"] is not None}
    if len(forms) < 2:
        return ""
    best = min(forms, key=lambda form: forms[form])
    lead = sorted(forms.values())[1] - forms[best]
    figures["size_best_form"], figures["size_best_form_aicc_lead"] = best, lead
    return f", {'best' if lead > 2 else 'hardly best'} described as {best} (AICc ahead by {lead:.1f})"


def _lengths(trend: Sequence[Record], figures: Figures) -> str:
    """How many of the models' series rise along the context, or fall along the continuation, and bend."""
    parts: list[str] = []
    for along, verb, sign in (("context", "rises", 1), ("continuation", "falls", -1)):
        chosen = [row for row in trend if _is(row, {"along": along, "group": "member"})]
        slopes = [sign * row["coefficient"] > 0 for row in chosen if row["form"] == "log-linear"]
        bends = [row["coefficient"] > 0 for row in chosen if row["form"] == "quadratic" and row["coefficient"]]
        if not slopes:
            continue
        figures[f"{along}_series"], figures[f"{along}_{verb}"] = len(slopes), sum(slopes)
        bend = "ever faster" if sign > 0 else "ever more slowly"
        shape = f" ({bend} in {sum(bends)} of {len(bends)})" if bends else ""
        figures[f"{along}_bends"], figures[f"{along}_convex"] = len(bends), sum(bends)
        parts.append(f"it {verb} with the {along} in {sum(slopes)} of {len(slopes)} series{shape}")
    return "".join(f"; {part}" for part in parts)
