"""Figures of the boundary effect: the difference at the break beside its controls, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mnemoscope.report.figure import LEVEL, Figure, axis_title, heading, model_panel, plain, told, told_number
from mnemoscope.report.theme import GREY, MAGENTA, RULE, TEXT_SIZE
from mnemoscope.report.vega import Spec, channel, concat, layer, mark

Record = dict[str, Any]

STRIP_WIDTH, ROW_HEIGHT, MAX_COLUMNS = 165, 14, 2
PARTS: Final = {
    "difference": "at the break",
    "inside_difference": "the same inside the context",
    "null_difference": "memory-free null",
    "unexplained": "unexplained by selection",
    "control_unexplained": "unexplained in held-out text",
}
PART_SHAPES: Final = ["circle", "square", "cross", "diamond", "triangle-up"]
PART_COLORS: Final = ["#444444", GREY, "#b0b0b0", MAGENTA, "#e8a0bd"]


def draw_boundary(rows: Sequence[Record], x_title: str, title: str) -> Figure | None:
    """The difference at the break beside its controls, with intervals; one panel per model, a strip per score."""
    records = [record for row in rows if row["p_value"] is not None for record in _part_records(row)]
    if not records:
        return None
    ends = [float(record[end]) for record in records for end in ("value", "low", "high") if record[end] is not None]
    margin = 0.04 * (max(*ends, 0) - min(*ends, 0))
    scale = {"domain": [min(*ends, 0) - margin, max(*ends, 0) + margin], "nice": False}
    models = list(dict.fromkeys(record["model"] for record in records))
    panels = [
        _panel([record for record in records if record["model"] == model], records, scale, x_title, index)
        for index, model in enumerate(models)
    ]
    subtitle = [
        f"bars: {LEVEL} cluster-bootstrap intervals; the null has none",
        "the break: k, for half-memorized k + n/2",
    ]
    missing = [row for row in rows if row["p_value"] is None]
    if missing:
        subtitle.append("not drawn: " + "; ".join(f"{row['model']}, {row['score_class']}" for row in missing))
    caption = (
        "How much the value changes from one index to the next at the break, where the continuation begins (for the "
        "half-memorized, at its middle), beside the same at matching places inside the context and what a null that "
        f"remembers nothing gives; what is left is unexplained by selection. Bars are {LEVEL} intervals, each by "
        "itself; the verdict is corrected for the number of tests (Holm). n and verdict head each strip."
    )
    caption += "".join(f" Not drawn: {row['model']}, {row['score_class']} ({row['note']})." for row in missing)
    resolve = {"scale": {"color": "shared", "shape": "shared"}}
    chart = concat(*panels, columns=MAX_COLUMNS, spacing=18, title=heading(title, subtitle), resolve=resolve)
    return Figure(chart, caption, x_title, panel_models=models)


def _part_records(row: Record) -> list[Record]:
    sizes = f"{row['num_compared']:,} of {row['num_sequences']:,} sequences compared; {row['verdict']}"
    records: list[Record] = []
    for name, words in PARTS.items():
        if row[name] is None:
            continue
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        drawn = {"model": row["model"], "part": words, "value": row[name], "low": low, "high": high}
        headed = {"score_class": row["score_class"], "size": row["num_compared"], "verdict": row["verdict"]}
        what = f"{words}: {row['model']}, {row['score_class']}"
        records.append({**drawn, **headed, **told(what, told_number(row[name], low, high), sizes)})
    return records


def _panel(records: Sequence[Record], everything: Sequence[Record], scale: Spec, x_title: str, index: int) -> Spec:
    """One little strip per score, headed by its size and verdict; the legend is that of all panels."""
    scores = list(dict.fromkeys(record["score_class"] for record in records))
    strips = [
        _strip(
            [record for record in records if record["score_class"] == score],
            everything,
            scale,
            x_title if score == scores[-1] else None,
        )
        for score in scores
    ]
    title = {"text": records[0]["model"], "fontSize": TEXT_SIZE, "anchor": "start"}
    return {"name": model_panel(index), "vconcat": strips, "spacing": 8, "title": title}


def _strip(records: Sequence[Record], everything: Sequence[Record], scale: Spec, x_title: str | None) -> Spec:
    is_last, first = x_title is not None, records[0]
    axis = {
        "title": axis_title(x_title or "", STRIP_WIDTH) or None,
        "labels": is_last,
        "ticks": is_last,
        "tickCount": 4,
    }
    x = channel("value:Q", scale=scale, axis=axis)
    y = channel("part:N", sort=list(PARTS.values()), title=None, axis=None)
    base = {"y": y, "color": _part_color(everything)}
    headed = [f"{first['score_class']} (n = {first['size']:,}):", first["verdict"]]
    drawn = ("part", "value", "low", "high", "told_what", "told_value", "told_n")
    return layer(
        mark("rule", {"x": channel("at:Q")}, rows=[{"at": 0}], color=RULE),
        mark(
            "rule",
            {**base, "x": channel("low:Q", scale=scale, axis=axis), "x2": channel("high")},
            where="isValid(datum.low)",
            strokeWidth=1.4,
        ),
        mark("point", {**base, "x": x, "shape": _part_shape(everything)}, size=42, filled=True, opacity=1),
        rows=[plain({name: record[name] for name in drawn}) for record in records],
        width=STRIP_WIDTH,
        height=ROW_HEIGHT * len(PARTS),
        title={"text": headed, "fontSize": TEXT_SIZE, "fontWeight": "normal", "anchor": "start", "offset": 3},
    )


def _part_legend(records: Sequence[Record]) -> Spec:
    """The parts that are drawn; others would promise what is not there."""
    drawn = {record["part"] for record in records}
    return {"columns": 2, "values": [words for words in PARTS.values() if words in drawn]}


def _part_color(records: Sequence[Record]) -> Spec:
    scale = {"domain": list(PARTS.values()), "range": PART_COLORS}
    return channel("part:N", title=None, scale=scale, legend=_part_legend(records))


def _part_shape(records: Sequence[Record]) -> Spec:
    scale = {"domain": list(PARTS.values()), "range": PART_SHAPES}
    return channel("part:N", title=None, scale=scale, legend=_part_legend(records))
