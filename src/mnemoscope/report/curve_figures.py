"""Figures of curves by token index, and of the boundary effect beside its controls, from tables as they stand.

One panel per model, small to large; memorized, half and unmemorized in colour. Members are solid with their band, the
control (held-out text) is dotted, the memory-free null dashed; an upright line stands between context and continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.report.boundary_figures import draw_boundary
from mnemoscope.report.figure import (
    LEVEL,
    MAX_ROWS,
    Figure,
    evenly,
    heading,
    model_panel,
    panel_heading,
    plain,
    span,
    specs_of_figures,
    told,
    told_number,
)
from mnemoscope.report.theme import COLORS, ORANGE, RULE
from mnemoscope.report.vega import Spec, channel, concat, hover, layer, mark

Record = dict[str, Any]

PANEL_WIDTH, PANEL_HEIGHT, MAX_COLUMNS = 150, 150, 2
# Dark to light in the order of the score, told apart by the colour-blind too.
SCORE_COLORS: Final = {"memorized": COLORS[0], "half": COLORS[2], "unmemorized": ORANGE}
KINDS: Final = {"members, with band": [1, 0], "held-out text": [1.5, 2.5], "memory-free null": [6, 3]}
MEMBERS, HELD_OUT, NULL = KINDS
NEAR: Final = 4
"""Indices on either side of k that are always drawn."""
BILLIONS: Final = "replace(format(datum.value, '~s'), 'G', 'B')"
LEGENDS_BELOW: Final = {"legend": {"layout": {"bottom": {"direction": "vertical", "anchor": "start", "offset": 12}}}}
"""The legends of colour and of line one above the other."""


class Drawn(NamedTuple):
    """A figure: its column with the null's, the title of y, the title, what it is, and how y is labelled."""

    column: str
    null: str
    y_title: str
    title: str
    words: str
    label: str = "datum.label"


class Look(NamedTuple):
    """What all panels share: the colours of scores, the dashes of kinds, the reach of y."""

    color: Spec
    dash: Spec
    domain: list[float]


def curve_specs(result: FrequencyResult | EntropyResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    return specs_of_figures(
        _entropy_figures(result) if isinstance(result, EntropyResult) else _frequency_figures(result)
    )


def _entropy_figures(result: EntropyResult) -> dict[str, Figure | None]:
    """The study's entropy by index, and its step at the boundary."""
    words = "How unsure the model is of each next token."
    drawn = Drawn("mean", "null_mean", "entropy (nats)", "Entropy of the prediction by index", words)
    across = "difference of entropy to the index before (nats)"
    return {
        "entropy_by_index": _draw_curves(result.curves.to_pylist(), drawn, _missing(result)),
        "entropy_boundary": draw_boundary(result.boundary.to_pylist(), across, "Entropy at the boundary"),
    }


def _frequency_figures(result: FrequencyResult) -> dict[str, Figure | None]:
    """The study's frequency by index, of each n-gram as a mean and a mean logarithm, and its step at the boundary."""
    curves, boundary = result.curves.to_pylist(), result.boundary.to_pylist()
    missing = _missing(result)
    figures: dict[str, Figure | None] = {}
    for ngram in dict.fromkeys(row["ngram"] for row in boundary):
        rows = [row for row in curves if row["ngram"] == ngram]
        named = f"frequency of the {ngram}-gram"
        words = f"How often the {ngram}-gram that ends at each token stands in the training text."
        means = Drawn(
            "mean", "null_mean", f"mean {ngram}-gram frequency (count)", f"Mean {named} by index", words, BILLIONS
        )
        title = f"Mean log-frequency of the {ngram}-gram by index"
        scaled = f"{words} Counted as ln(1 + frequency): 0.69 more is twice as often."
        logs = Drawn("log_mean", "null_log_mean", "mean ln(1 + frequency)", title, scaled)
        figures[f"frequency_{ngram}gram"] = _draw_curves(rows, means, missing)
        figures[f"frequency_{ngram}gram_log"] = _draw_curves(rows, logs, missing)
        figures[f"frequency_{ngram}gram_boundary"] = draw_boundary(
            [row for row in boundary if row["ngram"] == ngram],
            "difference of ln(1 + frequency) to the index before",
            f"{named.capitalize()} at the boundary",
        )
    return figures


def _missing(result: FrequencyResult | EntropyResult) -> list[str]:
    """What names the member scores of models that have no curve, and how many clusters they have."""
    few: dict[str, list[str]] = {}
    for row in result.strata.to_pylist():
        if row["note"] and row["score_class"] and row["group"] == "member":
            few.setdefault(row["model"], []).append(f"{row['score_class']} ({row['num_clusters']})")
    named = "; ".join(f"{model}, {', '.join(names)}" for model, names in few.items())
    return [f"too few clusters for a curve: {named}"] if few else []


def _draw_curves(rows: Sequence[Record], drawn: Drawn, missing: Sequence[str]) -> Figure | None:
    """Panels of curves by index; None where no named score has a curve."""
    records = [record for row in rows if row["score_class"] for record in _curve_records(row, drawn)]
    if not records:
        return None
    context, continuation = rows[0]["context"], rows[0]["continuation"]
    records, thinned = _thinned(records, context)
    models = list(dict.fromkeys(record["model"] for record in records))
    look = Look(_score_color(records), _kind_dash(records), _domain(records, context // 4))
    panels = [
        _curve_panel(
            [record for record in records if record["model"] == model],
            drawn,
            look,
            (context, continuation),
            index=index,
            is_left=index % MAX_COLUMNS == 0,
        )
        for index, model in enumerate(models)
    ]
    sizes = f"n per curve: {_spoken_sizes(rows)}"
    subtitle = [
        f"k = {context}, n = {continuation}; upright lines: k, and k + n/2 (dotted)",
        sizes,
        f"y spans the curves from index {context // 4} on",
        *missing,
    ]
    chart = concat(
        *panels,
        columns=MAX_COLUMNS,
        spacing=14,
        title=heading(drawn.title, subtitle),
        resolve={"scale": {"color": "shared", "strokeDash": "shared"}},
    )
    caption = (
        f"{drawn.words} Mean over the sequences of one score: memorized (every token right), half, unmemorized (none). "
        f"A band holds its whole curve in {LEVEL} of cluster-bootstrap resamples. The dashed null, drawn from the last "
        "context token on, knows where the boundary is but not what is memorized; the dotted line is held-out text; "
        f"{sizes}."
        f"{thinned}"
    )
    return Figure(chart, caption, drawn.y_title, panel_models=models, config=LEGENDS_BELOW)


def _thinned(records: Sequence[Record], context: int) -> tuple[list[Record], str]:
    """Records at as many indices as a page carries, those around k among them, and what to say of it."""
    indices = sorted({record["index"] for record in records})
    near = {index for index in indices if abs(index - context) <= NEAR}
    most = max(len(near) + 2, MAX_ROWS * len(indices) // len(records))
    if most >= len(indices):
        return list(records), ""
    kept = near | set(evenly([index for index in indices if index not in near], most - len(near)))
    said = f" Of {len(indices)} indices {len(kept)} are drawn, all of those around k."
    return [record for record in records if record["index"] in kept], said


def _curve_records(row: Record, drawn: Drawn) -> list[Record]:
    """The points that a row gives: its own, and the null's beside a member's; inside the context the null is flat."""
    keys = {name: row[name] for name in ("model", "score_class", "index")}
    value, low, high = (row[name] for name in (drawn.column, f"{drawn.column}_low", f"{drawn.column}_high"))
    where = f"{row['model']}, {row['score_class']}, index {row['index']}"
    sizes = f"{row['num_sequences']:,} sequences, {row['num_clusters']:,} clusters"
    if row["group"] != "member":
        said = [told(f"held-out text: {where}", told_number(value, low, high), sizes)] if value is not None else []
        return [{**keys, "kind": HELD_OUT, "value": value, **some} for some in said]
    null = row[drawn.null]
    if value is None:
        return []
    own = {**keys, "kind": MEMBERS, "value": value, "low": low, "high": high}
    own |= told(where, told_number(value, low, high), sizes)
    if null is None or row["index"] < row["context"] - 1:
        return [own]
    said = told(f"memory-free null: {where}", told_number(null, None, None), sizes)
    return [own, {**keys, "kind": NULL, "value": null, **said}]


def _domain(records: Sequence[Record], start: int) -> list[float]:
    """The range of all curves, and of bands as far as they stay near: the first indices would flatten the rest."""
    shown = [record for record in records if record["index"] >= start]
    values = [float(record["value"]) for record in shown]
    ends = [float(record[end]) for record in shown for end in ("low", "high") if record.get(end) is not None]
    low, high = min(values + ends), max(values + ends)
    margin = 0.04 * (high - low or 1)
    return [max(0.0, low - margin) if low >= 0 else low - margin, high + margin]


def _curve_panel(
    records: Sequence[Record], drawn: Drawn, look: Look, cell: tuple[int, int], *, index: int, is_left: bool
) -> Spec:
    context, continuation = cell
    reach = {"domain": [0, context + continuation - 1], "nice": False}
    x = channel("index:Q", title="token index", scale=reach, axis={"grid": False, "tickMinStep": 1, "tickCount": 5})
    scale = {"domain": look.domain, "nice": False, "zero": False}
    axis = {"labelExpr": drawn.label, "tickCount": 5, "labels": is_left, "ticks": is_left, "domain": is_left}
    y = channel("value:Q", title=drawn.y_title if is_left else None, scale=scale, axis=axis)
    base = {"x": x, "color": look.color}
    lines = {**base, "y": y, "strokeDash": look.dash}
    ends = {"y": channel("low:Q", scale=scale), "y2": channel("high")}
    own, beside = f"datum.kind == '{MEMBERS}'", f"datum.kind != '{MEMBERS}'"
    return layer(
        _rule(context, [1, 0]),
        _rule(context + continuation // 2, [2, 2]),
        mark("area", {**base, **ends}, where=own, opacity=0.16, clip=True),
        mark("line", lines, where=beside, strokeWidth=1.1, clip=True),
        mark("line", lines, where=own, strokeWidth=1.8, clip=True),
        hover({**base, "y": y}, clip=True),
        rows=[plain({name: value for name, value in record.items() if name != "model"}) for record in records],
        name=model_panel(index),
        width=PANEL_WIDTH,
        height=PANEL_HEIGHT,
        title=panel_heading(records[0]["model"]),
    )


def _rule(index: int, dash: Sequence[int]) -> Spec:
    """An upright line before the index."""
    place = {"x": channel("at:Q")}
    return mark("rule", place, rows=[{"at": index - 0.5}], color=RULE, strokeWidth=1, strokeDash=list(dash))


def _score_color(records: Sequence[Record]) -> Spec:
    names = [name for name in SCORE_COLORS if any(record["score_class"] == name for record in records)]
    scale = {"domain": list(SCORE_COLORS), "range": list(SCORE_COLORS.values())}
    legend = {"values": names, "symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolOpacity": 1}
    return channel("score_class:N", title="score", scale=scale, legend=legend)


def _kind_dash(records: Sequence[Record]) -> Spec:
    names = [name for name in KINDS if any(record["kind"] == name for record in records)]
    scale = {"domain": list(KINDS), "range": list(KINDS.values())}
    legend = {"values": names, "symbolType": "stroke", "symbolStrokeColor": RULE, "symbolSize": 300, "columns": 2}
    return channel("kind:N", title=None, scale=scale, legend=legend)


def _spoken_sizes(rows: Sequence[Record]) -> str:
    """How many member sequences stand behind a curve, over the models."""
    parts: list[str] = []
    for name in SCORE_COLORS:
        sizes = [int(row["num_sequences"]) for row in rows if row["score_class"] == name and row["group"] == "member"]
        parts += [f"{span(sizes)} {name}"] if sizes else []
    return ", ".join(parts)
