"""Rows of the rigor table about what was scored, in which units, against which controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.report.claims import copies_claim, excess_row, longest_row
from mnemoscope.report.estimates import known_row, known_words
from mnemoscope.report.rigor_evidence import (
    IMPORTED,
    NO_SCORES,
    NO_TRACES,
    Evidence,
    RigorRow,
    graded,
    num_known,
    num_marked,
    values_of,
)
from mnemoscope.report.rows import at_longest, records
from mnemoscope.report.spoken import bound_words, counted, joined, plural, points_words

_SIZES: Final = ("num_sequences", "num_clusters", "num_from", "num_points", "num_chosen", "num_rose")
"""Columns that say how many stand behind a row."""


def definition_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """What exactly was measured."""
    topic, factors = "Definition", evidence.factors
    yield _recorded(topic, evidence)
    kinds = {
        "full match": factors is not None and factors.memorized.num_rows > 0,
        "graded score": factors is not None and factors.bins.num_rows > 0,
        "first mismatch": factors is not None and factors.first_mismatch.num_rows > 0,
    }
    there, absent = ([name for name, is_there in kinds.items() if is_there is wanted] for wanted in (True, False))
    missing = f"; not known here: {joined(absent)}" if absent else ""
    yield RigorRow(
        topic,
        "Several definitions of memorized side by side",
        graded(len(there), len(kinds)),
        f"{joined(there) or 'none'}{missing}",
    )
    yield RigorRow(
        topic,
        "Probability of extraction p_z, and (n, p)-discoverability",
        "not done" if evidence.is_imported else "partly",
        IMPORTED
        if evidence.is_imported
        else "the log-probability of the truth is stored for each sequence, context and continuation, and p_z is shown "
        "for single ones; no table sums them up: query the column log_probability of scores",
    )
    yield RigorRow(
        topic,
        "Near-verbatim recitation",
        "not done",
        "matches are compared place by place; no edit distance is computed: it would need the generated tokens stored",
    )
    yield _integers(topic, evidence)


def _recorded(topic: str, evidence: Evidence) -> RigorRow:
    facts, point = (
        evidence.facts,
        "Context, continuation, offset, decoding, number format, kernel, versions are recorded",
    )
    missing = {
        "number format": [model for model in facts.models if model.dtype is None],
        "attention kernel": [model for model in facts.models if model.attention is None],
        "weights": [model for model in facts.models if model.weights_sha256 is None],
        "corpus fingerprint": [group for group in facts.groups.values() if group.corpus is None],
        "offset": [group for group in facts.groups.values() if group.offset is None],
        "versions": [] if facts.versions else ["all"],
    }
    absent = [name for name, unknown in missing.items() if unknown]
    grid = f"k = {_numbers(facts.contexts)}; n = {_numbers(facts.continuations)}"
    if absent or not facts.models:
        return RigorRow(topic, point, "partly", f"{grid}; not recorded: {joined(absent) or 'no model has run'}")
    dtypes = joined(sorted({str(model.dtype) for model in facts.models}))
    kernels = joined(sorted({str(model.attention) for model in facts.models}))
    return RigorRow(topic, point, "done", f"{grid}; greedy; {dtypes}; {kernels}; all under Provenance")


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(f"{value:,}" for value in values)


def _integers(topic: str, evidence: Evidence) -> RigorRow:
    """Counts are integers in every table, so no share is a comparison of floats."""
    counts = [
        pa.types.is_integer(field.type)
        for table in evidence.tables.values()
        for field in table.schema
        if field.name in ("num_memorized", "num_matched", "num_chosen", "num_control_memorized")
    ]
    point = "Integer match counts, never a comparison of floats"
    if not counts:
        return RigorRow(topic, point, "not applicable", NO_SCORES)
    source = "; imported scores are read as counts of matched tokens" if evidence.is_imported else ""
    source += "; estimates are rounded" if known_row(evidence.results) else ""
    return RigorRow(
        topic,
        point,
        graded(sum(counts), len(counts)),
        f"{plural(len(counts), 'column')} of counts, all integers{source}",
    )


def unit_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """What counts as one, and how many there are."""
    topic, factors = "Units", evidence.factors
    memorized = None if factors is None else factors.memorized
    yield _clusters(topic, memorized)
    yield _repeats(topic, evidence)
    yield _wilson(topic, evidence)
    yield _zero_bounds(topic, factors)
    yield _n_everywhere(topic, evidence)
    flagged = {name: table for name, table in evidence.tables.items() if "small_stratum" in table.column_names}
    num_small = sum(num_marked(table, "small_stratum") for table in flagged.values())
    num_rows = sum(table.num_rows for table in flagged.values())
    yield RigorRow(
        topic,
        "Small strata are flagged",
        "done" if flagged else "not applicable",
        f"{num_small:,} of {num_rows:,} rows in {plural(len(flagged), 'table')} are marked" if flagged else NO_SCORES,
    )
    yield _weights(topic, evidence)
    yield _short_rows(topic, evidence)


def _weights(topic: str, evidence: Evidence) -> RigorRow:
    """Of the traced sample, and of the graded one where there is one."""
    point = "Sampling by stratum carries design weights back to the population"
    strata = evidence.curves[0].strata if evidence.curves else None
    weighted = num_known(strata, "num_population")
    words = NO_TRACES if strata is None else f"{weighted:,} of {strata.num_rows:,} strata say how many they stand for"
    row = known_row(evidence.results)
    if row is not None:
        words = f"scores are known of {known_words(row)} members at the longest lengths, and weighted; traces: {words}"
    is_done = weighted > 0 if strata is not None else row is not None
    return RigorRow(topic, point, "done" if is_done else "not applicable" if strata is None else "not done", words)


def _clusters(topic: str, memorized: pa.Table | None) -> RigorRow:
    point = "The unit is a unique sequence or a cluster of duplicates; repeats are found and counted"
    rows = [] if memorized is None else [row for row in records(memorized) if row["group"] == "member"]
    known = [row for row in rows if row["num_unique"] is not None]
    if not known:
        return RigorRow(
            topic, point, "not done", "duplicates are not known: no windows were hashed" if rows else NO_SCORES
        )
    row = max(known, key=lambda row: row["num_sequences"])
    return RigorRow(
        topic,
        point,
        graded(len(known), len(rows)),
        f"{counted(row, 'num_unique', 'num_sequences')} sequences are unique",
    )


def _repeats(topic: str, evidence: Evidence) -> RigorRow:
    point = "Copies in the training stream are known (second epochs, repeated documents)"
    repeats = None if evidence.factors is None else evidence.factors.repeats
    if repeats is not None and repeats.num_rows:
        classes = plural(len(values_of(repeats, "num_repeats")), "number", "different numbers")
        return RigorRow(topic, point, "done", f"{classes} of copies, from the list of sequences")
    if evidence.facts.has_counts:
        return RigorRow(topic, point, "partly", "copies of the traced windows were counted in the corpus, not of all")
    return RigorRow(
        topic, point, "not done", "not known: a column num_repeats in the list of sequences, or a [counts] section"
    )


def _wilson(topic: str, evidence: Evidence) -> RigorRow:
    point = "Wilson intervals for rates"
    tables = [table for name, table in evidence.tables.items() if name.startswith(("factors/", "transitions/"))]
    methods = [(table, "interval_method") for table in tables if "interval_method" in table.column_names]
    of = sum(num_known(*place) for place in methods)
    done = sum(sum(str(value).startswith("Wilson") for value in table[name].to_pylist()) for table, name in methods)
    if not of:
        return RigorRow(topic, point, "not applicable", NO_SCORES)
    names = joined(list(dict.fromkeys(name for place in methods for name in values_of(*place))))
    return RigorRow(topic, point, graded(done, of), f"{done:,} of {of:,} shares: {names}")


def _zero_bounds(topic: str, factors: FactorsResult | None) -> RigorRow:
    point = "A zero count has an upper bound"
    tables = [] if factors is None else [factors.memorized, factors.repeat_classes]
    zeros = [row for table in tables for row in records(table) if row["num_memorized"] == 0 and row["num_sequences"]]
    if not zeros:
        return RigorRow(topic, point, "not applicable", "no count is zero")
    bounded = [row for row in zeros if row["share_high"] > 0]
    widest = bound_words(max((row["share_high"] for row in bounded), default=0.0))
    return RigorRow(
        topic, point, graded(len(bounded), len(zeros)), f"{len(bounded):,} of {len(zeros):,} zeros, {widest} each"
    )


def _n_everywhere(topic: str, evidence: Evidence) -> RigorRow:
    point = "n is shown at every point"
    tables = evidence.tables
    counted_tables = [name for name, table in tables.items() if any(size in table.column_names for size in _SIZES)]
    without = [name for name in tables if name not in counted_tables]
    if not tables:
        return RigorRow(topic, point, "not applicable", NO_SCORES)
    rest = f"; not in {joined(without)}" if without else ""
    return RigorRow(
        topic,
        point,
        graded(len(counted_tables), len(tables)),
        f"a column of counts in {len(counted_tables)} of {plural(len(tables), 'table')}{rest}",
    )


def _short_rows(topic: str, evidence: Evidence) -> RigorRow:
    point, groups = "Failed or skipped rows are counted", evidence.facts.groups
    known = {name: group.num_short for name, group in groups.items() if group.num_short is not None}
    if not known:
        return RigorRow(topic, point, "not done", "the study is not complete: its manifest would say")
    words = ", ".join(f"{count:,} left out of {groups[name].num_sequences:,} ({name})" for name, count in known.items())
    if evidence.is_imported:
        return RigorRow(topic, point, "partly", f"{words}; what was left out before the import is not known")
    return RigorRow(topic, point, graded(len(known), len(groups)), words)


def control_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """What memorization is measured against."""
    topic, factors = "Controls", evidence.factors
    row = None if factors is None else longest_row(factors)
    beside = None if factors is None or row is None else excess_row(factors, row)
    point = "Held-out text of the same kind in the same run; the excess over it is called memorization"
    if beside is None:
        why = (
            "no share of it to subtract"
            if "control" in evidence.facts.groups
            else "none was given: a [control] section"
        )
        yield RigorRow(topic, point, "not done", why)
    else:
        excess = points_words(*(beside[f"excess{end}"] for end in ("", "_low", "_high")))
        size = plural(beside["num_control_sequences"], "sequence")
        words = f"{size} of unseen text (unseen, and alike: by the study's word); excess of {beside['model']}: {excess}"
        yield RigorRow(topic, point, "done", words)
    yield _second_control(topic, evidence)
    yield _positive_control(topic, factors)


def _second_control(topic: str, evidence: Evidence) -> RigorRow:
    """A checkpoint of step 0 has seen no text; nothing else in a study says so of a model."""
    point = "A model that never saw the data, as a second control"
    fresh = [model.label for model in evidence.facts.models if model.training_step == 0]
    if not fresh or evidence.factors is None:
        why = "no checkpoint of step 0 is among the models; score one, or a model of another family, in the same study"
        return RigorRow(topic, point, "not done", why)
    rows = [row for row in records(evidence.factors.memorized) if row["model"] in fresh and row["group"] == "member"]
    words = joined([f"{row['model']} {counted(row, 'num_memorized', 'num_sequences')}" for row in at_longest(rows)])
    return RigorRow(topic, point, "done", f"untrained: {words} recited at the longest lengths")


def _positive_control(topic: str, factors: FactorsResult | None) -> RigorRow:
    point = "A positive control: known numbers of copies show a dose-response"
    if factors is None or factors.repeat_classes.num_rows == 0:
        return RigorRow(topic, point, "not done", "numbers of copies are not known (column num_repeats)")
    claim = copies_claim(factors)
    words = f"{claim.words} Few copies are compared with many; the classes between stand in the table of repeats"
    return RigorRow(topic, point, "done" if claim.state == "found" else "partly", words)
