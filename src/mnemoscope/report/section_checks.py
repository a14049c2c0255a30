"""What the null, the control or the baseline of a perspective says, and how much stands behind it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.analyses.levels import LEVELS
from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.intervals import format_share
from mnemoscope.report.claims import longest_row, reference_rows
from mnemoscope.report.estimates import is_estimated, known_row, known_words
from mnemoscope.report.perspective_claims import boundary_counts, flagging_words, kept_row, told_verdicts
from mnemoscope.report.rows import Record, last_checkpoints, records
from mnemoscope.report.spoken import counted, joined, plural
from mnemoscope.report.study_facts import StudyFacts


def checks_of(result: AnalysisResult) -> tuple[str, ...]:
    """The sentences of one perspective; empty for a result of another kind."""
    match result:
        case FactorsResult():
            return tuple(_factor_checks(result))
        case TransitionsResult():
            return tuple(_transition_checks(result))
        case FrequencyResult() | EntropyResult():
            return tuple(_boundary_checks(result))
        case EmbeddingsResult():
            return tuple(_embedding_checks(result))
        case PredictionResult():
            return tuple(_prediction_checks(result))
        case _:
            return ()


def _factor_checks(result: FactorsResult) -> Iterator[str]:
    rows = reference_rows(result, records(result.excess))
    rows = [row for row in last_checkpoints(rows) if row["excess"] is not None]
    if rows:
        ahead = sum(row["excess_low"] > 0 for row in rows)
        row = rows[-1]
        yield (
            f"Control: at k = {row['context']}, n = {row['continuation']} more is recited of the training text than of "
            f"unseen text, beyond chance, in {ahead} of {plural(len(rows), 'model')}; of unseen text {row['model']} "
            f"recites {counted(row, 'num_control_memorized', 'num_control_sequences')}."
            + (" Each model is judged by its own interval." if len(rows) > 1 else "")
        )
    elif any(row["group"] == "control" for row in records(result.memorized)):
        yield "The control cannot be set against anything: one of the two sides holds no sequences."
    else:
        yield "No control: text that the models never saw was not scored, so guessing is counted as memorization."
    row = longest_row(result)
    if row is not None and row["num_fragile"] is not None:
        yield (
            f"Near-ties: {counted(row, 'num_fragile', 'num_sequences')} sequences of {row['model']} at the longest "
            f"lengths (k = {row['context']}, n = {row['continuation']}) have one; whichever way they fell, its share "
            f"of {100 * row['share']:.1f} % would lie between {100 * row['share_if_flipped_low']:.1f} and "
            f"{100 * row['share_if_flipped_high']:.1f} %."
        )
    yield from _trend_checks(result)


def _trend_checks(result: FactorsResult) -> Iterator[str]:
    """Whether the data tell a straight line along size from its alternatives."""
    figures = result.finding.figures
    if "size_best_form" in figures:
        lead = figures["size_best_form_aicc_lead"]
        yield (
            f"Shape: along size a {figures['size_best_form']} curve fits best, by {float(lead or 0):.1f} AICc (under 2 "
            "is no preference)."
        )
    elif figures.get("num_models", 0) != 1 and "smallest_model" in figures:
        yield f"Shape: {figures['num_models']} models are too few to tell a straight line along size from other curves."


def _transition_checks(result: TransitionsResult) -> Iterator[str]:
    figures = result.finding.figures
    if not figures:
        return
    expected, correlation = figures.get("regression_share"), figures.get("correlation")
    stays = figures.get("very_high_share")
    if expected is not None and correlation is not None and stays is not None:
        yield (
            f"Regression to the mean: two scores that merely correlate ({float(correlation):.2f}) would keep "
            f"{100 * float(expected):.1f} % of the sequences at the very high level; {100 * float(stays):.1f} % stay"
            f"{_interval_of_staying(result)}."
        )
    yield from _symmetry_check(result)
    if "noise_share" in figures:
        yield (
            f"Noise floor: {100 * float(figures['noise_share'] or 0):.1f} % change their level between two twins of "
            f"one model, {100 * float(figures['changed_share'] or 0):.1f} % between the two models."
        )
    else:
        yield "No noise floor: the study has no twin (the same model by another seed or precision) to compare with."


def _interval_of_staying(result: TransitionsResult) -> str:
    """Of the very high level, at the finding's last pair and cell."""
    figures = result.finding.figures
    wanted = {name: figures.get(name) for name in ("relation", "context_from", "continuation_from", "group")}
    wanted |= {"level_from": LEVELS[-1], "level_to": LEVELS[-1]}
    rows = [row for row in records(result.levels) if all(row[name] == value for name, value in wanted.items())]
    if not rows or rows[-1]["share"] is None:
        return ""
    return f" (interval: {100 * rows[-1]['share_low']:.1f} to {100 * rows[-1]['share_high']:.1f} %)"


def _symmetry_check(result: TransitionsResult) -> Iterator[str]:
    """The paired test of the last pair's memorized set."""
    figures = result.finding.figures
    names = ("relation", "context_from", "continuation_from", "group")
    rows = [
        row
        for row in records(result.tests)
        if row["test"] == "McNemar" and all(row[name] == figures.get(name) for name in names)
    ]
    if rows and rows[-1]["p_symmetric_holm"] is not None:
        row = rows[-1]
        yield (
            f"Paired test: from {row['model_from']} to {row['model_to']} {row['num_rose']:,} sequences are newly "
            f"recited and {row['num_fell']:,} no longer (McNemar, p = {row['p_symmetric_holm']:.2g} after Holm)."
        )


def _boundary_checks(result: FrequencyResult | EntropyResult) -> Iterator[str]:
    counts = boundary_counts(result)
    total = sum(counts.values())
    if total:
        yield f"Test against selection. {told_verdicts(counts, total)}."
    rows = [row for row in records(result.boundary) if row["score_class"] == "unmemorized"]
    rows = [row for row in rows if row.get("ngram", 1) in (1, None) and row["difference"] is not None]
    if not rows:
        yield "Too few sequences with a matching place inside the context: the test could not be made."
        return
    row = rows[-1]
    is_frequency = isinstance(result, FrequencyResult)
    unit = "ln units" if is_frequency else "nats"
    yield (
        f"For unmemorized sequences of {row['model']}: step at the boundary {_signed(row, 'difference')} {unit}, at "
        f"matching places inside the context {_signed(row, 'inside_difference')}, left unexplained "
        f"{_signed(row, 'unexplained')}." + (" 0.69 ln units are a factor of two." if is_frequency else "")
    )
    if row["control_difference"] is not None:
        yield (
            f"Unseen text: the same step is {_signed(row, 'control_difference')} {unit}, of which "
            f"{_signed(row, 'control_unexplained')} is unexplained."
        )
    else:
        yield "Unseen text could not be asked: no control, or too few of its sequences."
    if row["null_difference"] is not None:
        yield f"A null without memory expects a step of {row['null_difference']:+.2f} {unit} by selection alone."


def _signed(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:+.2f} ({row[f'{name}_low']:+.2f} to {row[f'{name}_high']:+.2f})"


def _embedding_checks(result: EmbeddingsResult) -> Iterator[str]:
    figures = result.finding.figures
    rows = [row for row in records(result.models) if row["group"] == "member" and row["separation_p"] is not None]
    if not rows:
        yield "Too few sequences of different scores: no random groups could be compared with."
        return
    apart = sum(row["separation_p"] < 0.05 for row in rows)
    yield (
        f"Random groups of the same sizes: scores lie further apart than these in {apart} of "
        f"{plural(len(rows), 'run')} (p < 0.05 each, not corrected for their number)."
    )
    order = figures.get("control_order")
    if order is not None:
        yield (
            f"Unseen text: the order of scores has a rank correlation of {float(order):.2f} (p = "
            f"{float(figures['control_order_p'] or 0):.2g}) there, {float(figures['order'] or 0):.2f} in training text."
        )
    else:
        yield "Unseen text could not be asked: no control, or too few of its scores."
    accuracy = figures.get("memorized_accuracy")
    if accuracy is not None:
        ends = (float(figures[f"memorized_accuracy_{end}"] or 0) for end in ("low", "high"))
        yield (
            f"A simple classifier tells recited sequences from others in {format_share(float(accuracy), *ends)} of "
            f"cases; one constant answer is right in {100 * float(figures['memorized_majority_accuracy'] or 0):.0f} %."
        )


def _prediction_checks(result: PredictionResult) -> Iterator[str]:
    figures = result.finding.figures
    if figures.get("num_baselines"):
        ahead, open_ = figures.get("baselines_ahead"), figures.get("baselines_open")
        yield (
            "Simpler methods: in tokens our predictor from the context is ahead of "
            f"{figures['num_baselines_beaten']} of {figures['num_baselines']}, by an interval each; ahead of it, after "
            f"Holm: {ahead or 'none'}; open: {open_ or 'none'}."
        )
    else:
        yield "No simpler method was trained beside it."
    natural = flagging_words(result)
    if natural:
        yield f"{natural[0].upper()}{natural[1:]}."
    unseen = figures.get("control_flagged_share_high")
    if unseen is not None:
        low, share = (float(figures[f"control_flagged_share{end}"] or 0) for end in ("_low", ""))
        yield f"Unseen text: {format_share(share, low, float(unseen))} of it ranks as high as that hundredth."
    else:
        yield "Unseen text could not be asked: the study has no control among its predictions."
    seeds = max((row["num_seeds"] for row in records(result.metrics)), default=0)
    if seeds == 1:
        yield "Trained once: how much another training would change is not known."


def sizes_of(result: AnalysisResult, facts: StudyFacts) -> str:
    """How many models and sequences stand behind a perspective."""
    models = f"{plural(len(facts.models), 'model')} ({len(facts.final_models)} of them last steps)"
    match result:
        case FactorsResult():
            cells = plural(len(facts.contexts) * len(facts.continuations), "pair")
            return f"{_selected(facts)}; {models}; {cells} of context k and continuation n.{_estimated(result)}"
        case TransitionsResult():
            row = kept_row(result)
            pairs = {(row["model_from"], row["model_to"]) for row in records(result.levels)}
            kept = f"; the last pair's memorized set: {row['num_sequences']:,}" if row else ""
            words = f"{_selected(facts)}, the same under both models; {plural(len(pairs), 'pair')} of runs{kept}."
            return words + _estimated(result)
        case FrequencyResult() | EntropyResult():
            return _sampled(records(result.strata), "num_population")
        case EmbeddingsResult():
            return _sampled(records(result.groups), None)
        case PredictionResult():
            return _tested(result)
        case _:
            return ""


def _estimated(result: AnalysisResult) -> str:
    """That numbers by score are estimates, and from how many; nothing where all are counted."""
    if not is_estimated(result):
        return ""
    row = known_row({"factors": result})
    known = f", known of {known_words(row)} training sequences at the longest lengths" if row else ""
    return f" Full matches are counted; numbers by score are weighted estimates{known}."


def _selected(facts: StudyFacts) -> str:
    names = {"member": "of the training text", "control": "of unseen text"}
    groups = [
        f"{plural(some.num_sequences - (some.num_short or 0), 'sequence')} {names.get(group, '')}"
        for group, some in facts.groups.items()
    ]
    return joined(groups) or "No sequences"


def _sampled(rows: list[Record], population: str | None) -> str:
    """The traced sample of the last model, by side."""
    if not rows:
        return "No sequences were traced."
    last = [row for row in rows if row["model"] == rows[-1]["model"]]
    parts: list[str] = []
    for group, name in (("member", "of the training text"), ("control", "of unseen text")):
        of_group = [row for row in last if row["group"] == group]
        if of_group:
            stands = f", standing for {sum(row[population] or 0 for row in of_group):,.0f}" if population else ""
            parts.append(f"{plural(sum(row['num_sequences'] for row in of_group), 'sequence')} {name}{stands}")
    models = plural(len({row["model"] for row in rows}), "model")
    return f"{joined(parts)}, traced token by token under {last[0]['model']}; {models}; each point has its own n."


def _tested(result: PredictionResult) -> str:
    figures = result.finding.figures
    if "num_sequences" not in figures:
        return "No predictor was tested."
    return (
        f"{plural(int(float(figures['num_sequences'] or 0)), 'test sequence')} of {figures['model']} (k = "
        f"{figures['context']}, n = {figures['continuation']}) that no predictor was trained on, in "
        f"{plural(int(float(figures['num_clusters'] or 0)), 'cluster')} of copies; "
        f"{plural(int(float(figures['num_seeds'] or 0)), 'training')} of each predictor."
    )
