"""Figures of prediction: accuracies by predictor, model, continuation and score, calibration, gains and transfer.

From tables as they stand, at the cell that the finding speaks of. Four predictors are followed through the figures:
ours at both tasks, the original's, and the baseline that is the best one in the finding's cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.prediction_units import OURS, role_of
from mnemoscope.report.figure import LEVEL, Figure, span, specs_of_figures, told, told_percent, told_points
from mnemoscope.report.prediction_panels import (
    BASELINE,
    CONTEXT,
    DECODE,
    ORIGINAL,
    ROLES,
    Words,
    draw_curves,
    draw_dots,
    draw_lines,
    draw_matrices,
    draw_models,
    draw_reliability,
)
from mnemoscope.report.vega import Spec

Record = dict[str, Any]

ACCURACIES: Final = {"token_accuracy": "tokens right", "full_accuracy": "whole sequences right"}
"""Metrics that have a panel each, with its title."""
GAINS: Final = {"token_accuracy": "tokens, points", "full_accuracy": "sequences, points"}
SHARES: Final = {"token_accuracy": "tokens right, %", "full_accuracy": "sequences right, %"}
MIN_DRAWN: Final = 5
"""Clusters in a bin of probability for its share to be drawn."""
KINDS: Final = {"token": "tokens", "full": "whole sequences"}
BARS: Final = f"bars: {LEVEL} intervals over clusters of test sequences"
BARE: Final = (ORIGINAL.name, BASELINE.name)
"""Series whose curves have no band: four would cover one another."""
BALANCED: Final = "weighted so that every score counts the same"


def prediction_specs(result: PredictionResult) -> dict[str, Spec]:
    """The Vega-Lite description of each figure that the result has data for, by name."""
    return specs_of_figures({name: draw(result) for name, draw in FIGURES})


def draw_accuracy(result: PredictionResult) -> Figure | None:
    """Token and full accuracy of every predictor, largest model: the study's table of predictors."""
    rows = _at_reference(result, _own(result.metrics), prior="balanced", split="test")
    panels = {
        title: [
            {
                **{"label": row["predictor"], "task": row["task"], "role": ROLES[role_of(row["predictor"])]},
                **_ends(row, "value", row["predictor"]),
            }
            for row in rows
            if row["metric"] == metric and row["value"] is not None
        ]
        for metric, title in SHARES.items()
    }
    words = (
        "How often each predictor is right about which tokens of a continuation will match: token by token, and on "
        "whole sequences. Ours beside the original's and plain baselines."
    )
    subtitle = [_where(result), _sizes(rows), BARS]
    return draw_dots(panels, Words("Which tokens will match, predicted", subtitle, _caption(words, subtitle)))


def draw_gains(result: PredictionResult) -> Figure | None:
    """Ours at the context task minus every other predictor, largest model."""
    rows = _at_reference(result, result.gains.to_pylist(), prior="balanced", task="context")
    panels = {
        title: [
            {
                **{"label": row["against"], "task": row["against_task"], "role": ROLES[row["role"]]},
                **_ends(row, "gain", f"ours, context, over {row['against']}"),
            }
            for row in rows
            if row["metric"] == metric and row["role"] in ROLES and row["gain"] is not None
        ]
        for metric, title in GAINS.items()
    }
    subtitle = [_where(result), "right of the line: ours, from the context alone, is ahead", _sizes(rows), BARS]
    words = "What our predictor gains over every other one on the same sequences, in points."
    title = "Gain of ours, context, over each other"
    return draw_dots(panels, Words(title, subtitle, _caption(words, subtitle), "gain"), zero=True)


def draw_by_model(result: PredictionResult) -> Figure | None:
    """Accuracies from the smallest to the largest model."""
    figures = result.finding.figures
    sizes = _sizes(_followed_rows(result, ("context", "continuation")))
    subtitle = [f"k = {figures.get('context')}, n = {figures.get('continuation')}, {BALANCED}", sizes, BARS]
    words = "How well memorization can be predicted, from the smallest to the largest model."
    panels = _followed(result, "model", ("context", "continuation"))
    return draw_lines(panels, "model", Words("Prediction by model", subtitle, _caption(words, subtitle)))


def draw_by_continuation(result: PredictionResult) -> Figure | None:
    """Accuracies of the largest model by continuation."""
    figures = result.finding.figures
    sizes = _sizes(_followed_rows(result, ("model", "context")))
    subtitle = [f"{figures.get('model')}, k = {figures.get('context')}, {BALANCED}", sizes, BARS]
    words = "How well memorization can be predicted, by how many tokens are to be recited."
    panels = _followed(result, "continuation", ("model", "context"))
    heading = Words("Prediction by continuation", subtitle, _caption(words, subtitle))
    return draw_lines(panels, "continuation n (tokens)", heading)


def draw_by_score(result: PredictionResult) -> Figure | None:
    """Accuracies by the number of tokens that did match, largest model: the published figure 7."""
    rows = _at_reference(result, _own(result.by_score), prior="balanced")
    series = _series(result)
    panels = {
        title: [
            {
                "series": series[_unit(row)],
                "x": row["num_matched"],
                **_ends(
                    row, metric, f"{series[_unit(row)]}, {row['num_matched']} matched", bare=series[_unit(row)] in BARE
                ),
            }
            for row in rows
            if _unit(row) in series
        ]
        for metric, title in ACCURACIES.items()
    }
    words = "How often the predictors are right, by how many tokens of the continuation did match."
    subtitle = [_where(result), _sizes(rows, " at each score"), "bands of ours: " + BARS.partition(": ")[2]]
    return draw_curves(panels, "matched tokens", Words("Prediction by score", subtitle, _caption(words, subtitle)))


def draw_fully_by_score(result: PredictionResult) -> Figure | None:
    """Where the sequences lie of which every token is rightly predicted, one line per model, a panel per task.

    The study's distribution of full accuracy.
    """
    figures = result.finding.figures
    cell = (figures.get("context"), figures.get("continuation"))
    panels: dict[str, list[Record]] = {}
    for row in _own(result.by_score):
        share = row["share_of_fully_predicted"]
        if (row["context"], row["continuation"]) == cell and row["prior"] == "balanced" and row["predictor"] == OURS:
            said = told(
                f"{row['model']}, {row['num_matched']} matched",
                "" if share is None else told_percent(share, None, None),
                f"{row['num_sequences']:,} test sequences at this score",
            )
            record = {"model": row["model"], "x": row["num_matched"], "value": share, **said}
            panels.setdefault(f"ours, {row['task']}", []).extend([record] if share is not None else [])
    words = "How many tokens matched in the sequences that are predicted without one error."
    subtitle = [
        "of the sequences predicted without one error, the share of each score",
        f"k = {cell[0]}, n = {cell[1]}",
    ]
    said = _caption(words, [*subtitle, "a pointer tells n"])
    return draw_models(panels, "matched tokens", Words("Where whole sequences are right", subtitle, said, "share"))


def draw_calibration(result: PredictionResult) -> Figure | None:
    """What came of what probability, natural prior, largest model."""
    rows = _at_reference(result, _own(result.calibration), prior="natural")
    series = _series(result)
    panels = {
        title: [
            {
                "series": series[_unit(row)],
                "x": row["mean_probability"],
                **_ends(row, "observed_share", f"{series[_unit(row)]}, {100 * row['mean_probability']:.0f} % said"),
            }
            for row in rows
            if row["kind"] == kind and _unit(row) in series and row["num_clusters"] >= MIN_DRAWN
        ]
        for kind, title in KINDS.items()
    }
    small = f"tenths of probability with {MIN_DRAWN} clusters or more; on the grey line they came true"
    words = "Of the tokens (left) and sequences (right) given a probability, the share that did match."
    subtitle = [_where(result, "by design weight"), small, BARS]
    said = _caption(words, [*subtitle, "a pointer tells n"])
    return draw_reliability(panels, Words("Are the probabilities right?", subtitle, said, "share that came"))


def draw_transfer(result: PredictionResult) -> Figure | None:
    """Token accuracy of predictors that learned from one model and predict another, beside the model's own."""
    figures = result.finding.figures
    wanted = {name: figures.get(name) for name in ("context", "continuation")}
    wanted |= {"prior": "balanced", "metric": "token_accuracy", "split": "test"}
    rows = [row for row in result.metrics.to_pylist() if _is(row, wanted)]
    borrowed = {_unit(row) for row in rows if row["trained_on"] != row["model"]}
    panels = {
        ", ".join(reversed(unit)): [_transferred(row) for row in rows if _unit(row) == unit]
        for unit in dict.fromkeys(_unit(row) for row in rows)
        if unit in borrowed
    }
    words = "How well a predictor that learned from one model (row) tells what another one (column) recites."
    subtitle = [f"token accuracy in %, k = {wanted['context']}, n = {wanted['continuation']}, {BALANCED}"]
    said = _caption(words, [*subtitle, _sizes(rows)])
    return draw_matrices(panels, Words("Predictors that learned from another model", subtitle, said))


def _transferred(row: Record) -> Record:
    what = f"learned from {row['trained_on']}, predicts {row['model']}"
    said = _ends(row, "value", what) if row["value"] is not None else {"value": None}
    return {"trained_on": row["trained_on"], "model": row["model"], **said}


FIGURES: tuple[tuple[str, Callable[[PredictionResult], Figure | None]], ...] = (
    ("prediction_accuracy", draw_accuracy),
    ("prediction_gains", draw_gains),
    ("prediction_by_model", draw_by_model),
    ("prediction_by_continuation", draw_by_continuation),
    ("prediction_by_score", draw_by_score),
    ("prediction_fully_by_score", draw_fully_by_score),
    ("prediction_calibration", draw_calibration),
    ("prediction_transfer", draw_transfer),
)


def _own(table: pa.Table) -> list[Record]:
    """Rows of predictors that learned from the model's own traces."""
    return [row for row in table.to_pylist() if row["trained_on"] == row["model"]]


def _at_reference(result: PredictionResult, rows: Sequence[Record], **keys: str) -> list[Record]:
    """Rows of the model and cell that the finding speaks of."""
    place = {name: result.finding.figures.get(name) for name in ("model", "context", "continuation")}
    return [row for row in rows if _is(row, {**place, **keys})]


def _is(row: Record, wanted: Mapping[str, object]) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def _unit(row: Record) -> tuple[str, str]:
    return row["task"], row["predictor"]


def _series(result: PredictionResult) -> dict[tuple[str, str], str]:
    """The predictors that are followed, by task and name; the baseline is the best in tokens at the finding's cell."""
    series = {("decode", OURS): DECODE.name, ("context", OURS): CONTEXT.name, ("decode", "original"): ORIGINAL.name}
    best = result.finding.figures.get("context_token_accuracy_best_baseline")
    return series | ({("context", str(best)): BASELINE.name} if best is not None else {})


def _followed_rows(result: PredictionResult, fixed: Sequence[str]) -> list[Record]:
    """Rows of the followed predictors with these columns as in the finding's cell."""
    wanted = {name: result.finding.figures.get(name) for name in fixed} | {"prior": "balanced", "split": "test"}
    series = _series(result)
    return [row for row in _own(result.metrics) if _is(row, wanted) and _unit(row) in series]


def _followed(result: PredictionResult, along: str, fixed: Sequence[str]) -> dict[str, list[Record]]:
    """Accuracies of the followed predictors along models or continuations, the rest as in the finding's cell."""
    series, rows = _series(result), _followed_rows(result, fixed)
    return {
        title: [
            {
                "series": series[_unit(row)],
                "x": row[along],
                **_ends(row, "value", f"{series[_unit(row)]}, {row['model']}, n = {row['continuation']}"),
            }
            for row in rows
            if row["metric"] == metric and row["value"] is not None
        ]
        for metric, title in ACCURACIES.items()
    }


def _ends(row: Record, name: str, what: str, *, bare: bool = False) -> Record:
    """The number as it is drawn, `bare` without its interval, and what a pointer hears of it."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    sizes = f"{row['num_sequences']:,} sequences, {row['num_clusters']:,} clusters"
    words = told_points if name == "gain" else told_percent
    said = told(what, "unknown" if value is None else words(value, low, high), sizes)
    return {"value": value, "low": None if bare else low, "high": None if bare else high, **said}


def _caption(words: str, remarks: Sequence[str]) -> str:
    """The words, and what the lines below the title say; a model's name stays as it is written."""
    said = "; ".join(filter(None, remarks))
    return f"{words} Shown: {said}." if said else words


def _where(result: PredictionResult, weights: str = BALANCED) -> str:
    figures = result.finding.figures
    return f"{figures.get('model')}, k = {figures.get('context')}, n = {figures.get('continuation')}, {weights}"


def _sizes(rows: Sequence[Record], where: str = "") -> str:
    sizes = [int(row["num_sequences"]) for row in rows]
    return f"{span(sizes)} test sequences{where}" if sizes else ""
