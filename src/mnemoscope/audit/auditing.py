"""A model, its training files and held-out ones -> the result of an audit, in a folder: JSON, a summary and a page.

folder/facts/*.parquet       what the model says of each passage, part by part: an interrupted audit goes on from there
folder/canaries.jsonl        the canaries as documents, where some were planted
folder/audit.json, summary.md, report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnemoscope.audit.baseline import compare_audits, comparison_notes
from mnemoscope.audit.canaries import Canaries, canary_documents, read_canaries
from mnemoscope.audit.documents import Documents, open_documents
from mnemoscope.audit.facts import Passages
from mnemoscope.audit.findings import Files, Findings, Wishes
from mnemoscope.audit.markdown import to_markdown
from mnemoscope.audit.page import audit_page
from mnemoscope.audit.passages import cut_passages, join_passages
from mnemoscope.audit.passing import pass_over
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.verdict import judge
from mnemoscope.audit.writing import from_json, to_json
from mnemoscope.engines import Engine
from mnemoscope.errors import ConfigError
from mnemoscope.files import write_atomically
from mnemoscope.progress import Progress
from mnemoscope.texts import tokenizer_source


def run_audit(
    settings: AuditSettings,
    folder: Path | str,
    wishes: Wishes | None = None,
    *,
    engine: Engine | None = None,
    progress: Progress = lambda label, num_done, num_all: None,
) -> AuditResult:
    """Audit a model, and write audit.json, summary.md and report.html into `folder`.

    The same call again takes up what an interrupted one has read. CorpusError for files that cannot be audited,
    ConfigError for settings that cannot be meant, ModelError, ScoringError and StoreError as a study's.
    """
    folder, wishes = Path(folder), wishes or Wishes()
    inputs = read_inputs(settings, wishes, folder)
    num_all, num_done = len(inputs.everything.kind_R), 0
    label = settings.model.label

    def tell(num_passages: int) -> None:
        nonlocal num_done
        num_done += num_passages
        progress(label, num_done, num_all)

    progress(label, 0, num_all)
    facts = pass_over(
        settings.model, settings, inputs.everything, engine=engine, folder=folder / "facts", progress=tell
    )
    is_own_R = np.arange(num_all) < inputs.num_own
    findings = Findings(
        settings=settings,
        wishes=wishes,
        files=inputs.files,
        facts=facts.take(is_own_R),
        canaries=inputs.canaries,
        planted=facts.take(~is_own_R),
    )
    return finish(findings.result(), inputs.earlier, wishes, folder)


class Inputs(NamedTuple):
    """All that an audit reads but the model."""

    files: Files
    everything: Passages
    """Members, held-out passages, then canaries."""
    num_own: int
    """Passages before the canaries."""
    canaries: Canaries | None
    earlier: AuditResult | None


def read_inputs(settings: AuditSettings, wishes: Wishes, folder: Path) -> Inputs:
    """The files, cut into passages; what is no file of its kind is refused before a model is asked."""
    earlier = None if wishes.baseline is None else read_audit(wishes.baseline)
    canaries = None if wishes.canaries is None else read_canaries(wishes.canaries)
    files = open_files(settings, canaries, folder)
    passages = cut_passages(files.train, files.heldout, settings)
    planted = _cut_canaries(files, settings)
    everything = passages if planted is None else join_passages([passages, planted])
    return Inputs(files, everything, len(passages.kind_R), canaries, earlier)


def finish(result: AuditResult, earlier: AuditResult | None, wishes: Wishes, folder: Path) -> AuditResult:
    """Compared with an earlier audit, judged, and written."""
    judged = judge(_with_baseline(result, earlier), wishes.thresholds, fail_on=wishes.fail_on)
    write_audit(judged, folder)
    return judged


def open_files(settings: AuditSettings, canaries: Canaries | None, folder: Path) -> Files:
    """The documents of all files, read in the same way."""

    def read(paths: Sequence[str]) -> Documents:
        return open_documents(
            paths,
            tokenizer=settings.tokenizer,
            field=settings.field,
            chat_template=settings.chat_template,
            model=tokenizer_source(settings.model),
            bos=settings.bos,
        )

    planted = None
    if canaries is not None:
        planted = read([str(canary_documents(canaries, folder / "canaries.jsonl"))])
    return Files(read(settings.train), read(settings.heldout), planted)


def read_audit(path: Path) -> AuditResult:
    """The result in a file that an audit wrote; ConfigError where it is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected the audit.json of an audit") from error
    return from_json(content, name=str(path))


def write_audit(result: AuditResult, folder: Path) -> None:
    """audit.json, summary.md and report.html in a folder, each there whole or not at all."""
    for name, content in (
        ("report.html", audit_page(result)),
        ("summary.md", to_markdown(result)),
        ("audit.json", to_json(result)),
    ):
        write_atomically(folder / name, content.encode())


def _cut_canaries(files: Files, settings: AuditSettings) -> Passages | None:
    """The start, or the turn, of every canary; they are no members: what is chosen by members does not follow them."""
    if files.canaries is None:
        return None
    whole = replace(settings, offsets_per_document=0, sample=None)
    cut = cut_passages(files.canaries, files.heldout, whole)
    planted = cut.take(cut.is_member_R)
    return planted._replace(is_member_R=np.zeros_like(planted.is_member_R))


def _with_baseline(result: AuditResult, earlier: AuditResult | None) -> AuditResult:
    if earlier is None:
        return result
    notes = (*result.notes, *comparison_notes(result, earlier))
    return replace(result, changes=compare_audits(result, earlier), notes=notes)
