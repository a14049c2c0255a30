"""The sentence of perspective 5, from its tables: does the context alone say what a model will recite?

The claim is decided at one cell, chosen before looking, of the largest model: over balanced scores, as published, and
in token accuracy. It holds where our predictor is surely ahead of *every* baseline, each at the full level, as a claim
about all of them needs no correction; it fails where one baseline is surely ahead after Holm's over the baselines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from mnemoscope.analyses import Finding, Verdict
from mnemoscope.analyses.prediction_gains import BEST
from mnemoscope.analyses.prediction_units import CONTROL, OURS, TEST
from mnemoscope.intervals import format_share, holm, share_decimals

Record = Mapping[str, Any]
Figures = dict[str, int | float | str | None]

CLAIM: Final = "token_accuracy"
REFERENCE_CONTINUATION: Final = 16
PUBLISHED: Final = "the published 80.3 % and 10.9 % (n = 16, 12B) are of other data"
"""Chen, Han and Miyao (2024): the original's token and full accuracy."""


class _Place(NamedTuple):
    """The model and cell that the sentence speaks of."""

    model: str
    context: int
    continuation: int

    def holds(self, row: Record) -> bool:
        return (row["model"], row["context"], row["continuation"]) == self


def find_prediction(
    metrics: pa.Table, gains: pa.Table, controls: pa.Table, *, models: Sequence[str], level: float
) -> Finding:
    """The finding at the reference cell of the largest model; `models` go from small to large."""
    rows = [row for row in metrics.to_pylist() if row["split"] == TEST and row["trained_on"] == row["model"]]
    place = _reference(rows, models)
    if place is None:
        return Finding("No predictor was tested on the model that it learned from.", "undecided", {})
    rows = [row for row in rows if place.holds(row)]
    paired = [row for row in gains.to_pylist() if place.holds(row)]
    figures: Figures = {"level": level, **place._asdict()}
    verdict = _judge(paired, figures, 1 - level)
    parts = [
        _context(rows, paired, place, verdict, figures),
        _decode(rows, paired, figures),
        _flagging(rows, controls.to_pylist(), place, figures),
    ]
    return Finding(" ".join(filter(None, parts)), verdict, figures)


def _reference(rows: Sequence[Record], models: Sequence[str]) -> _Place | None:
    """The largest model, the shortest context; n = 16 where it is there, else the shortest."""
    for model in reversed(models):
        cells = [(row["context"], row["continuation"]) for row in rows if row["model"] == model]
        if cells:
            context = min(cell[0] for cell in cells)
            lengths = {n for k, n in cells if k == context}
            return _Place(model, context, REFERENCE_CONTINUATION if REFERENCE_CONTINUATION in lengths else min(lengths))
    return None


def _judge(paired: Sequence[Record], figures: Figures, alpha: float) -> Verdict:
    """Over the gains of our context predictor over the baselines, one row for each."""
    rows = [row for row in _gains(paired, "context", CLAIM) if row["role"] == "baseline"]
    known = [row for row in rows if row["gain_low"] is not None and row["p_value"] is not None]
    ahead = [row["against"] for row in known if row["gain_low"] > 0]
    adjusted = holm([row["p_value"] for row in known]).tolist()
    behind = [row["against"] for row, p in zip(known, adjusted, strict=True) if row["gain_high"] < 0 and p < alpha]
    open_ = [row["against"] for row in rows if row["against"] not in {*ahead, *behind}]
    figures |= {"num_baselines": len(rows), "num_baselines_beaten": len(ahead)}
    figures |= {"baselines_ahead": ", ".join(behind) or None, "baselines_open": ", ".join(open_) or None}
    if behind:
        return "fails"
    return "holds" if rows and len(ahead) == len(rows) else "undecided"


def _context(
    rows: Sequence[Record], paired: Sequence[Record], place: _Place, verdict: Verdict, figures: Figures
) -> str:
    """What the context alone gives, and whether it beats the baselines."""
    where = f"At k = {place.context} and n = {place.continuation}"
    ours = _accuracies(rows, "context", OURS, figures, "context")
    if ours is None:
        return f"{where} no predictor of {place.model} from the context alone was tested."
    row = _metric(rows, "context", OURS, CLAIM) or {}
    figures |= {name: row[name] for name in ("num_sequences", "num_clusters", "num_seeds")}
    counts = f"({place.model}, {row['num_sequences']:,} test sequences, every score counting the same)"
    text = f"{where} {counts} the context alone predicts {ours} rightly"
    best = _best(paired, figures)
    if not best:
        return f"{text}; no baseline was tested beside it."
    return f"{text}; {_headline(verdict, figures)}: {best}."


def _headline(verdict: Verdict, figures: Figures) -> str:
    total = figures["num_baselines"]
    if verdict == "holds":
        return "in tokens it beats " + ("every baseline" if total != 1 else "the one baseline")
    if verdict == "fails":
        return f"in tokens it does not beat every baseline, {figures['baselines_ahead']} being surely ahead"
    open_ = str(figures["baselines_open"]).split(", ")
    named = ", ".join(open_[:3]) + (f" and {len(open_) - 3} more" if len(open_) > 3 else "")
    return (
        f"in tokens it is surely ahead of {figures['num_baselines_beaten']} of {total} baselines, open against {named}"
    )


def _best(paired: Sequence[Record], figures: Figures) -> str:
    """The best baseline's tokens and sequences, each with the gain over it."""
    parts: list[str] = []
    for metric, noun in ((CLAIM, "the best"), ("full_accuracy", "in whole sequences the best")):
        for row in _gains(paired, "context", metric):
            if row["role"] == BEST:
                prefix = f"context_{metric}"
                figures |= {f"{prefix}_best_baseline{end}": row[f"against{end}"] for end in ("", "_value")}
                names = ("gain", "gain_low", "gain_high", "p_value", "p_holm")
                figures |= {f"{prefix}_{name}": row[name] for name in names}
                parts.append(
                    f"{noun}, {row['against']}, has {100 * row['against_value']:.1f} %, a gain of {_gain(row)}"
                )
    return "; ".join(parts)


def _decode(rows: Sequence[Record], paired: Sequence[Record], figures: Figures) -> str:
    """What the decode adds, beside the original's predictor."""
    ours = _accuracies(rows, "decode", OURS, figures, "decode")
    original = _accuracies(rows, "decode", "original", figures, "original")
    if ours is None and original is None:
        return f"For comparison: {PUBLISHED}."
    parts = [f"Having read the decode, ours has {ours}"] if ours else []
    if original:
        gains = _over_original(paired, figures)
        parts.append(f"the original's predictor {original}" + (f", a gain of {' and '.join(gains)}" if gains else ""))
    return f"{', '.join(parts)}; {PUBLISHED}."


def _over_original(paired: Sequence[Record], figures: Figures) -> list[str]:
    """Ours minus the original's, both reading the decode, in tokens and in whole sequences."""
    gains: list[str] = []
    for metric in (CLAIM, "full_accuracy"):
        for row in _gains(paired, "decode", metric):
            if (row["against"], row["against_task"]) == ("original", "decode"):
                figures |= {f"original_{metric}_{n}": row[n] for n in ("gain", "gain_low", "gain_high")}
                gains += [_gain(row)] if row["gain"] is not None else []
    return gains


def _flagging(rows: Sequence[Record], controls: Sequence[Record], place: _Place, figures: Figures) -> str:
    """Of all full matches at their natural rate, what the first percent by the context alone finds; unseen text."""
    found = _metric(rows, "context", OURS, "recall_at_1_percent", "natural")
    if found is None or found["value"] is None:
        return ""
    figures |= {f"recall_at_1_percent{end}": found[f"value{end}"] for end in ("", "_low", "_high")}
    figures |= {"full_match_share": found["base_rate"], "num_full_matches": found["num_full_matches"]}
    recall = format_share(found["value"], found["value_low"], found["value_high"])
    few = f", from {found['num_full_matches']} of them" if found["small_stratum"] else ""
    most = min(1.0, 0.01 / found["base_rate"])
    bound = f" of at most {100 * most:.0f} %" if most < 1 else ""
    first = "Of sequences as they come, the 1 % that the context alone ranks first"
    text = f"{first} hold {recall}{bound} of full matches{few}"
    for row in controls:
        named = (row["task"], row["predictor"], row["prior"], row["trained_on"])
        if place.holds(row) and named == ("context", OURS, "natural", place.model):
            unseen = row["flagged_share"]
            if unseen is not None:
                figures |= {
                    f"{CONTROL}_flagged_share{end}": row[f"flagged_share{end}"] for end in ("", "_low", "_high")
                }
                share = format_share(unseen, row["flagged_share_low"], row["flagged_share_high"])
                text += (
                    f"; {share} of unseen text ranks as high, and {100 * row['full_share']:.2g} % of it matches in full"
                )
    return f"{text}."


def _accuracies(rows: Sequence[Record], task: str, predictor: str, figures: Figures, prefix: str) -> str | None:
    """Token and full accuracy with intervals: `78.1 % (76.0 to 80.1) of tokens and 12 % (8 to 18) of sequences`."""
    parts: list[str] = []
    for metric, noun in ((CLAIM, "tokens"), ("full_accuracy", "whole sequences")):
        row = _metric(rows, task, predictor, metric)
        if row is None or row["value"] is None:
            return None
        figures |= {f"{prefix}_{metric}{end}": row[f"value{end}"] for end in ("", "_low", "_high")}
        figures[f"{prefix}_{metric}_seed_spread"] = row["seed_spread"]
        parts.append(f"{format_share(row['value'], row['value_low'], row['value_high'])} of {noun}")
    return " and ".join(parts)


def _metric(rows: Sequence[Record], task: str, predictor: str, metric: str, prior: str = "balanced") -> Record | None:
    wanted = {"task": task, "predictor": predictor, "metric": metric, "prior": prior}
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _gains(paired: Sequence[Record], task: str, metric: str) -> list[Record]:
    return [row for row in paired if (row["task"], row["metric"], row["prior"]) == (task, metric, "balanced")]


def _gain(row: Record) -> str:
    """`+3.1 points (1.2 to 5.0)`."""
    if row["gain_low"] is None:
        return f"{100 * row['gain']:+.1f} points ({row['note']})"
    decimals = share_decimals(row["gain_low"], row["gain_high"])
    value, low, high = (100 * row[f"gain{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.{decimals}f} points ({low:.{decimals}f} to {high:.{decimals}f})"
