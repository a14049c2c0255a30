"""Rows of the rigor table about numerics: near-ties, number formats, batches, tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from mnemoscope.report.flip_table import flip_words
from mnemoscope.report.rigor_evidence import IMPORTED, NO_SCORES, Evidence, RigorRow, State, graded, num_known
from mnemoscope.report.rows import at_longest, last_checkpoints, records
from mnemoscope.report.spoken import counted, joined, plural
from mnemoscope.report.study_facts import ModelFacts

FRAGILE_RULE: Final = "smallest gap between the two best tokens' logits along the path"


def numeric_rows(evidence: Evidence) -> Iterator[RigorRow]:
    """Whether other numbers of the same machine, or another machine, would say the same."""
    topic, facts = "Numerics", evidence.facts
    memorized = None if evidence.factors is None else evidence.factors.memorized
    known, of = num_known(memorized, "num_fragile"), 0 if memorized is None else memorized.num_rows
    num_fragile = sum(row["num_fragile"] or 0 for row in records(memorized)) if memorized is not None else 0
    yield RigorRow(
        topic,
        "Smallest top-1 to top-2 margin is kept, fragile rows are counted",
        graded(known, of),
        f"{FRAGILE_RULE}; {_fragile_words(memorized)}"
        if known
        else IMPORTED
        if evidence.is_imported
        else "not known here",
    )
    yield _float32(topic, evidence)
    yield _flips(topic, evidence)
    yield RigorRow(
        topic,
        "The flip rate is carried into the interval",
        "not done" if not num_known(memorized, "share_if_flipped_high") else "partly" if num_fragile else "done",
        _carried_words(known, num_fragile, is_measured=any(model.flips for model in facts.models)),
    )
    twins = _numeric_twins(facts.models)
    batches = joined(sorted({f"{model.batch_size:,}" for model in facts.models if model.batch_size}))
    yield RigorRow(
        topic,
        "Greedy decoding under another batch shape, number format or kernel is compared",
        "done" if twins else "partly" if batches else "not done",
        f"the same weights were run otherwise: {joined(twins)}"
        if twins
        else f"recorded ({batches} sequences per pass) and kept on resuming; this study was not scored a second time "
        "under others: a twin in another number format would show how much changes"
        if batches
        else IMPORTED,
    )
    yield from _token_rows(topic, evidence)


def _numeric_twins(models: Sequence[ModelFacts]) -> list[str]:
    """Labels of models whose weights another one has, too, run in another format, kernel or batch."""
    ways: dict[str | None, set[tuple[object, ...]]] = {}
    for model in models:
        ways.setdefault(model.weights_sha256, set()).add((model.dtype, model.attention, model.batch_size, model.device))
    return [model.label for model in models if model.weights_sha256 and len(ways[model.weights_sha256]) > 1]


def _fragile_words(memorized: pa.Table | None) -> str:
    """Of the largest final model at its longest lengths."""
    rows = [] if memorized is None else last_checkpoints(row for row in records(memorized) if row["group"] == "member")
    rows = [
        row
        for row in at_longest([row for row in rows if row["model"] == rows[-1]["model"]])
        if row["num_fragile"] is not None
    ]
    return f"{rows[-1]['model']}: {counted(rows[-1], 'num_fragile', 'num_sequences')}" if rows else "no row of members"


def _float32(topic: str, evidence: Evidence) -> RigorRow:
    point = "Fragile rows are scored again in float32"
    dtypes = {model.label: model.dtype for model in evidence.facts.models}
    if evidence.is_imported or not dtypes:
        return RigorRow(topic, point, "not done", IMPORTED if evidence.is_imported else NO_SCORES)
    half = [label for label, dtype in dtypes.items() if dtype != "float32"]
    if not half:
        return RigorRow(topic, point, "not applicable", "every model ran in float32 from the start")
    audited = [model for model in evidence.facts.models if model.audit_margin is not None]
    words = [_audit_words(model) for model in audited]
    only = [label for label in half if label not in {model.label for model in audited}]
    if only:
        formats = joined(sorted({str(dtypes[label]) for label in only}))
        ran = f"{plural(len(only), 'model')} ran in {formats} only: {joined(only)}"
        words.append(f'{ran}; --audit or dtype = "float32" would')
    return RigorRow(topic, point, graded(len(audited), len(half)), "; ".join(words))


def _audit_words(model: ModelFacts) -> str:
    number = "sequences" if model.num_audited is None else plural(model.num_audited, "sequence")
    return f"{model.label}: {number} with a margin below {model.audit_margin:g} logits"


def _flips(topic: str, evidence: Evidence) -> RigorRow:
    point = "How often a lower number format says something else than float32 is measured"
    models = evidence.facts.models
    if evidence.is_imported or not models:
        return RigorRow(topic, point, "not done", IMPORTED if evidence.is_imported else NO_SCORES)
    half = [model for model in models if model.dtype != "float32"]
    if not half:
        return RigorRow(topic, point, "not applicable", "every model ran in float32")
    unknown = [model.label for model in half if model.flips is None]
    words = [flip_words(model.flips) for model in half if model.flips is not None]
    if unknown:
        words.append(f"not measured of {joined(unknown)}: run the study again, with flip_sample above 0")
    return RigorRow(topic, point, graded(len(half) - len(unknown), len(half)), "; ".join(words))


def _carried_words(known: int, num_fragile: int, *, is_measured: bool) -> str:
    if not known:
        return "near-ties are not known"
    if not num_fragile:
        return "no path has a near-tie"
    really = "stands in the row on lower number formats" if is_measured else "was not measured"
    return (
        "beside each interval stands what all fragile rows turned at once could make of the share; how many really "
        f"turn {really}"
    )


def _token_rows(topic: str, evidence: Evidence) -> Iterator[RigorRow]:
    """What holds by the construction of the scorer, and is held by tests; nothing of imported scores."""
    built = "not done" if evidence.is_imported else "done"
    yield RigorRow(topic, "Never stops at end-of-text, never bans it; no BOS that training lacked", *_special(evidence))
    yield RigorRow(
        topic,
        "Tokens are compared, never re-tokenized text",
        built,
        IMPORTED
        if evidence.is_imported
        else "by construction: generated ids against the row's ids "
        "(tests/test_scoring.py: test_graded_facts_equal_plain_greedy_decoding)",
    )


def _special(evidence: Evidence) -> tuple[State, str]:
    """End of text and beginning of sequence."""
    if evidence.is_imported:
        return "not done", IMPORTED
    held = (
        "by construction, branches have a fixed length "
        "(tests/test_scoring.py: test_end_of_text_neither_stops_nor_is_banned)"
    )
    added = [name for name, group in evidence.facts.groups.items() if group.bos]
    if added:
        where = joined(added)
        return "partly", f"{held}; a BOS is put before each document of {where}: right only if training did so"
    return "done", f"{held}; no BOS is added"
