"""A study's folder -> its report: one page, from the stored findings, a sample of sequences, and what is known of it.

Nothing is scored and no statistic is computed for it, but findings that are missing, or that no longer follow from the
study's tables, are computed anew and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.parquet as pq

from mnemoscope.analyses import AnalysisResult
from mnemoscope.errors import StoreError
from mnemoscope.files import write_atomically
from mnemoscope.findings import all_specs, analyze
from mnemoscope.manifest import read_manifest
from mnemoscope.mirror import publish
from mnemoscope.predictions import current_predictions
from mnemoscope.redaction import redact_sequence
from mnemoscope.report.explorer_data import MAX_BYTES, ExplorerShape, explorer_json
from mnemoscope.report.explorer_sample import ExplorerSample
from mnemoscope.report.page import PageContent, build_page
from mnemoscope.report.page_data import MAX_TABLE_CHARACTERS
from mnemoscope.report.provenance import hide_home, provenance
from mnemoscope.report.rigor import rigor_table
from mnemoscope.report.sections import sections
from mnemoscope.report.study_facts import StudyFacts, facts_of
from mnemoscope.report.verdict import verdict
from mnemoscope.sequence_facts import SequenceFacts
from mnemoscope.sequence_sample import draw_explorer_sample
from mnemoscope.sequences import read_many
from mnemoscope.store import Study
from mnemoscope.stored_findings import RESULTS, read_findings, write_findings
from mnemoscope.traces import has_traces, traced_contexts

REPORT_FILE: Final = "report.html"
NUM_SEQUENCES: Final = 300
MAX_PAGE_BYTES: Final = 15_000_000
_ROOMS: Final = ((MAX_TABLE_CHARACTERS, MAX_BYTES), (4_000, 300_000))
"""Characters of a table and bytes of the explorer's sequences: as a rule, and for a study with too many figures."""

Tell = Callable[[str], None]
"""Told what is being done, before it takes its seconds."""


class WrittenReport(NamedTuple):
    """Where a report lies, and its size in bytes."""

    path: Path
    num_bytes: int


class _Sequences(NamedTuple):
    """What the explorer's data are made of."""

    facts: Sequence[SequenceFacts]
    sample: ExplorerSample
    shape: ExplorerShape


def write_report(
    study: Study,
    path: Path | None = None,
    *,
    results: Mapping[str, AnalysisResult] | None = None,
    redact: bool = False,
    num_sequences: int = NUM_SEQUENCES,
    tell: Tell = lambda _words: None,
) -> WrittenReport:
    """Write a study's report to `path` (default: report.html, where it lies), from `results` or the stored findings.

    `redact` hides what looks private in the sequences shown, and long verbatim text; at most `num_sequences` are shown.
    StoreError where nothing has been scored, or the file cannot be written.
    """
    if not study.runs:
        raise StoreError(f"{study.place}: no model has been scored; expected at least one")
    results = _find_results(study, tell) if results is None else results
    tell("describing figures")
    figures = all_specs(study, results)
    facts = facts_of(study, read_manifest(study.folder))
    content = PageContent(
        facts=facts,
        folder=hide_home(study.place),
        verdict=verdict(results, facts),
        sections=sections(results, facts, {name: tuple(specs) for name, specs in figures.items()}),
        rigor=rigor_table(results, facts),
        provenance=provenance(facts),
        figures=figures,
        explorer=None,
    )
    page = _build_page(study, content, redact=redact, num_sequences=num_sequences, tell=tell)
    target = path or study.folder / REPORT_FILE
    write_atomically(target, page)
    if path is None:
        publish(study)
    return WrittenReport(target, len(page))


def _build_page(study: Study, content: PageContent, *, redact: bool, num_sequences: int, tell: Tell) -> bytes:
    """The page; fewer sequences are drawn where one for each stratum is still too much, as with very many scores."""
    fewest = len(study.config.groups)
    while True:
        tell("reading sequences")
        sequences = _read_sequences(study, content.facts, redact=redact, num_sequences=num_sequences)
        tell("writing the page")
        page = _fit_page(content, sequences)
        if len(page) <= MAX_PAGE_BYTES:
            return page
        if sequences is None:
            raise AssertionError(f"a page of {len(page):,} bytes: figures carry too many rows")
        half = len(sequences.facts) // 2
        num_sequences = half if half >= fewest else 0
        tell(f"the page would be too large: {num_sequences} sequences at most")


def _fit_page(content: PageContent, sequences: _Sequences | None) -> bytes:
    """The page, its tables and sequences cut further where it would be too large."""
    page = b""
    for table_characters, max_bytes in _ROOMS:
        explorer = None if sequences is None else explorer_json(*sequences, max_bytes=max_bytes)
        page = build_page(replace(content, explorer=explorer, max_table_characters=table_characters)).encode()
        if len(page) <= MAX_PAGE_BYTES:
            break
    return page


def _find_results(study: Study, tell: Tell) -> Mapping[str, AnalysisResult]:
    """The stored findings, or new ones where some that should be there cannot be read."""
    stored = read_findings(study) or {}
    if _expected(study) <= stored.keys():
        return stored
    tell("computing findings: none are stored that follow from the tables as they are")
    results = analyze(study)
    try:
        write_findings(study, results)
    except StoreError as error:  # a folder that may only be read is still worth a report elsewhere
        tell(f"findings are not stored: {error}")
    return results


def _expected(study: Study) -> set[str]:
    """Analyses that the study must have, or has had."""
    expected = {"factors", *(name for name in RESULTS if (study.folder / "analyses" / f"{name}.json").exists())}
    if "prediction" not in expected and _has_predictions(study):
        expected.add("prediction")
    if study.config.traces is not None:
        context = traced_contexts(study.config)[0]
        if any(has_traces(study.folder, label, context) for label in study.runs):
            expected |= {"entropy", "embeddings"}
    return expected


def _has_predictions(study: Study) -> bool:
    """Whether there are predictions that an analysis would read; which of them are current takes a look at all runs."""
    if not any(study.folder.glob("predictions/*/*.parquet")):
        return False
    return any(pq.read_metadata(derived.path(".parquet")).num_rows for derived in current_predictions(study))


def _read_sequences(study: Study, facts: StudyFacts, *, redact: bool, num_sequences: int) -> _Sequences | None:
    """The sample of sequences; None where none are asked for."""
    if not num_sequences:
        return None
    sample = draw_explorer_sample(study, num_sequences=num_sequences)
    shown = read_many(study, sample.picks)
    if redact:
        shown = [redact_sequence(sequence) for sequence in shown]
    shape = ExplorerShape(
        models=tuple(model.label for model in facts.models),
        final_models=frozenset(model.label for model in facts.final_models),
        contexts=facts.contexts,
        continuations=facts.continuations,
    )
    return _Sequences(shown, sample, shape)
