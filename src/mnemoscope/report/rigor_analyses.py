"""Rows of the rigor table about nulls, inference, prediction and reporting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.report.perspective_claims import BOUNDARY_WORDS, boundary_counts
from mnemoscope.report.rigor_evidence import (
    NO_PREDICTION,
    NO_TRACES,
    ONE_MODEL,
    Evidence,
    RigorRow,
    State,
    graded,
    num_known,
    num_rows_where,
    num_rows_with,
    values_of,
)
from mnemoscope.report.spoken import joined, plural

SCEPTIC: Final = {
    "majority": "majority",
    "logistic": "logistic regression",
    "boosting": "gradient boosting",
    "smaller": "a smaller model's score",
}
"""The baselines that RIGOR asks for, by the beginning of their predictor's name."""


def selection_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """Whether what is shown could be an artefact of choosing by score."""
    topic = "Selection"
    curves = [result.curves for result in evidence.curves]
    of, with_null = sum(table.num_rows for table in curves), sum(num_known(table, "null_mean") for table in curves)
    yield RigorRow(
        topic,
        "Curves by position are drawn with their null (a simulation without memory)",
        graded(with_null, of) if of else "not applicable",
        f"{with_null:,} of {of:,} points of curves have one" if of else NO_TRACES,
    )
    yield from _boundary_rows(topic, evidence)
    yield _regression(topic, evidence)
    noise = 0 if evidence.transitions is None else evidence.transitions.noise.num_rows
    yield RigorRow(
        topic,
        "Noise-floor twins: another seed or another precision",
        "not applicable" if evidence.transitions is None else "done" if noise else "not done",
        ONE_MODEL
        if evidence.transitions is None
        else f"{noise:,} comparisons stand beside a twin's"
        if noise
        else "no twin was scored: the same model in another number format, under another name, would be one",
    )


def _boundary_rows(topic: str, evidence: Evidence) -> Iterator[RigorRow]:
    """One row each for frequency and entropy, and one for the held-out rows of both."""
    points = {
        "frequency": "The boundary effect of frequency against mispredicted positions inside the context",
        "entropy": "The same test for entropy",
    }
    for name, point in points.items():
        result = evidence.results.get(name)
        if result is None:
            why = (
                NO_TRACES if not evidence.facts.has_traces else "no corpus frequencies: a [counts] section counts them"
            )
            yield RigorRow(topic, point, "not applicable", why)
            continue
        tested, of = num_known(result.tables["boundary"], "p_value"), result.tables["boundary"].num_rows
        counts = boundary_counts(result)
        words = "; ".join(f"{BOUNDARY_WORDS[verdict]}: {plural(count, 'model')}" for verdict, count in counts.items())
        yield RigorRow(topic, point, graded(tested, of), f"{tested} of {of} strata hold enough sequences; {words}")
    tables = [result.boundary for result in evidence.curves]
    asked, tested = (sum(num_known(table, name) for table in tables) for name in ("control_unexplained", "p_value"))
    yield RigorRow(
        topic,
        "The same statistic on held-out rows",
        graded(asked, tested) if tables else "not applicable",
        f"{asked} of {tested} tests have one; elsewhere no control, or too few rows of it"
        if asked < tested
        else f"{asked} of {tested} tests have one"
        if tables
        else NO_TRACES,
    )


def _regression(topic: str, evidence: Evidence) -> RigorRow:
    point = "Transition matrices beside regression to the mean, and permuted"
    table = None if evidence.transitions is None else evidence.transitions.regression
    if table is None:
        return RigorRow(topic, point, "not applicable", ONE_MODEL)
    kinds = [kind for kind in ("regression", "symmetric", "independent") if num_rows_with(table, null=kind)]
    return RigorRow(
        topic,
        point,
        graded(len(kinds), 3),
        f"{table.num_rows:,} cells, nulls: {joined(kinds) or 'none'}; independent is what permuting gives on average",
    )


def inference_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """Tests, and what many of them need."""
    topic = "Inference"
    yield _paired(topic, evidence)
    yield _holm(topic, evidence)
    yield _bands(topic, evidence)
    yield _trend(topic, evidence)


def _trend(topic: str, evidence: Evidence) -> RigorRow:
    """Slopes along model size with intervals, and the forms beside them that AICc can compare."""
    point = "A trend over few model sizes shows its wide interval, and alternatives to log-linear (AICc)"
    trend = None if evidence.factors is None else evidence.factors.trend
    size = {"along": "num_non_embedding_parameters"}
    of = num_rows_with(trend, form="log-linear", **size)
    if trend is None or not of:
        return RigorRow(topic, point, "not applicable", "no two sizes of model")
    slopes = num_rows_where(trend, "coefficient_low", form="log-linear", **size)
    others = num_rows_where(trend, "coefficient", **size) - num_rows_where(
        trend, "coefficient", form="log-linear", **size
    )
    compared = num_rows_where(trend, "aicc", **size)
    num_models = plural(len(evidence.facts.final_models), "model")
    told = f"{compared} can be compared" if compared else f"{num_models} are too few to compare them"
    state: State = "done" if slopes == of and others and compared else "partly" if slopes or others else "not done"
    return RigorRow(
        topic, point, state, f"{slopes} of {of} slopes have an interval; {others} fits of other forms: {told} by AICc"
    )


def _paired(topic: str, evidence: Evidence) -> RigorRow:
    point = "Paired tests: McNemar, Bowker, paired bootstrap"
    tests = None if evidence.transitions is None else evidence.transitions.tests
    gains = None if evidence.prediction is None else evidence.prediction.gains
    found = {name: num_rows_with(tests, test=name) for name in ("McNemar", "Bowker")}
    found["paired bootstrap of predictors"] = num_known(gains, "gain_low")
    made = {name: count for name, count in found.items() if count}
    if not made:
        return RigorRow(topic, point, "not applicable", ONE_MODEL)
    wanted = ["McNemar", "Bowker"] + (["paired bootstrap of predictors"] if gains is not None else [])
    state = graded(sum(name in made for name in wanted), len(wanted))
    words = ", ".join(f"{name} {count:,}" for name, count in made.items())
    if evidence.factors is not None and "smallest_model" in evidence.factors.finding.figures:
        state = "partly"
        words += (
            "; shares of two models are subtracted as if of other sequences: their interval is wider than it need be"
        )
    return RigorRow(topic, point, state, words)


def _holm(topic: str, evidence: Evidence) -> RigorRow:
    """Every table with p-values of many tests has them adjusted beside."""
    point = "Holm over many tests"
    names = {"p_value": "p_holm", "p_symmetric": "p_symmetric_holm", "p_inside": "p_inside_holm"}
    names |= {"order_p": "order_p_holm", "separation_p": "separation_p_holm"}
    tables = {
        place: tuple(sum(num_known(table, name) for name in some) for some in (names.values(), names))
        for place, table in evidence.tables.items()
        if any(num_known(table, plain) for plain in names)
    }
    if not tables:
        return RigorRow(topic, point, "not applicable", "no p-values")
    done, of = (sum(counts[i] for counts in tables.values()) for i in (0, 1))
    without = [place for place, (adjusted, plain) in tables.items() if adjusted < plain]
    rest = f"; as they are in {joined(without)}" if without else ""
    words = f"{done:,} of {of:,} p-values have an adjusted one{rest}; intervals stand alone, but for bands of curves"
    return RigorRow(topic, point, graded(done, of), words)


def _bands(topic: str, evidence: Evidence) -> RigorRow:
    point = "Cluster bootstrap for curves, with simultaneous bands"
    tables = [result.curves for result in evidence.curves if result.curves.num_rows]
    if not tables:
        return RigorRow(
            topic, point, "not applicable", "too few sequences for any curve" if evidence.curves else NO_TRACES
        )
    meanings = [(table.schema.field("mean_low").metadata or {}).get(b"meaning", b"").decode() for table in tables]
    is_simultaneous = all("simultaneous" in meaning for meaning in meanings)
    # The first index has no mean where nothing comes before it.
    known, of = (sum(num_known(table, name) for table in tables) for name in ("mean_low", "mean"))
    kind = "simultaneous (max-t) over a curve's indices" if is_simultaneous else "pointwise"
    state = graded(known, of) if is_simultaneous else "partly"
    return RigorRow(topic, point, state, f"{known:,} of {of:,} points have a band, {kind}")


def prediction_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """Whether what is foreseen was foreseeable, on sequences that were not learned from."""
    topic, result = "Prediction", evidence.prediction
    points = (
        "Context-only features and decode features are two tasks, and said so",
        "Train, validation and test are split by duplicate cluster",
        "Natural prior as well as balanced; PR-AUC, calibration",
        "A sceptic's baselines: majority, logistic, boosting, a smaller model's score",
        "An example's output does not depend on its batch",
    )
    if result is None or result.metrics.num_rows == 0:
        yield from (RigorRow(topic, point, "not applicable", NO_PREDICTION) for point in points)
        return
    tasks = values_of(result.metrics, "task")
    clusters = max(result.metrics["num_clusters"].to_pylist())
    told: Sequence[tuple[State, str]] = (
        (graded(len(tasks), 2), f"tasks: {joined(tasks)}"),
        (
            "done",
            f"by construction, {clusters:,} clusters tested (tests/test_prediction_splits.py: "
            "test_a_copy_of_a_training_sequence_never_lies_in_the_test_split)",
        ),
        _ranked(result),
        _baselines(result),
        (
            "done",
            "by construction, but for the original's predictor, whose flaw this is "
            "(tests/test_prediction_fitting.py: test_an_examples_prediction_does_not_depend_on_its_batch)",
        ),
    )
    yield from (RigorRow(topic, point, *state) for point, state in zip(points, told, strict=True))


def _ranked(result: PredictionResult) -> tuple[State, str]:
    priors, bins = values_of(result.metrics, "prior"), result.calibration.num_rows
    pr_auc = sum(num_rows_with(result.metrics, metric=name) for name in ("full_pr_auc", "token_pr_auc"))
    state = graded(len(priors) + (pr_auc > 0) + (bins > 0), 4)
    return state, f"priors: {joined(priors)}; {pr_auc:,} values of PR-AUC; {bins:,} tenths of calibration"


def _baselines(result: PredictionResult) -> tuple[State, str]:
    predictors = values_of(result.metrics, "predictor")
    there = [words for name, words in SCEPTIC.items() if any(found.startswith(name) for found in predictors)]
    absent = [words for words in SCEPTIC.values() if words not in there]
    rest = f"; missing: {joined(absent)}" if absent else ""
    return graded(len(there), len(SCEPTIC)), f"{joined(there) or 'none'}{rest}"


def reporting_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """Whether a reader can check it."""
    topic, facts, tables = "Reporting", evidence.facts, evidence.tables
    yield RigorRow(
        topic,
        "Every figure can be redrawn from stored rows",
        "done" if tables else "not applicable",
        f"by construction: figures are drawn from {plural(len(tables), 'table')} under analyses/"
        if tables
        else "no table",
    )
    unknown = [
        name
        for name, value in (
            ("machine", facts.platform),
            ("command", facts.command),
            ("duration", facts.duration_seconds),
        )
        if value is None
    ]
    yield RigorRow(
        topic,
        "Provenance inside the report",
        "partly" if unknown or not facts.is_complete or not facts.models else "done",
        f"not known: {joined(unknown)}, as the study has no manifest yet"
        if unknown
        else "models, texts, grid, machine, command"
        if facts.models
        else "no model has run",
    )
    yield RigorRow(
        topic,
        "Text shown to a reader is escaped, and can be redacted",
        "done",
        "by construction (tests/test_sequences.py: test_escape_spells_what_would_not_be_seen); --redact hides more",
    )
