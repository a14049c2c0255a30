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
from numpy.typing import NDArray

from mnemoscope.audit.baseline import compare_audits, comparison_notes
from mnemoscope.audit.facts import Passages
from mnemoscope.audit.files.canaries import Canaries, canary_documents, match_canaries, read_canaries
from mnemoscope.audit.files.documents import Documents, open_documents
from mnemoscope.audit.files.passages import check_alike, cut_group, cut_passages, join_passages
from mnemoscope.audit.findings import Files, Findings, Wishes
from mnemoscope.audit.leaks import with_library
from mnemoscope.audit.markdown import to_markdown
from mnemoscope.audit.page import audit_page
from mnemoscope.audit.passing import pass_over
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.verdict import CRITERIA, check_fail_on, judge
from mnemoscope.audit.writing import from_json, to_json
from mnemoscope.engines import Engine
from mnemoscope.errors import ConfigError, CorpusError
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
    inputs = read_inputs(settings, wishes, folder, model=tokenizer_source(settings.model))
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


def read_inputs(settings: AuditSettings, wishes: Wishes, folder: Path, *, model: str | None) -> Inputs:
    """The files, cut into passages; wishes that cannot be met are refused, as files are, before a model is asked.

    `model` is the folder or hub name that has the tokenizer and the template where none are given.
    """
    check_wishes(wishes)
    earlier = None if wishes.baseline is None else read_audit(wishes.baseline)
    canaries = None if wishes.canaries is None else read_canaries(wishes.canaries)
    files = open_files(settings, canaries, folder, model=model)
    passages, planted = cut_inputs(files, settings)
    everything = passages if planted is None else join_passages([passages, planted])
    return Inputs(files, everything, len(passages.kind_R), canaries, earlier)


class Cut(NamedTuple):
    """What is scored."""

    passages: Passages
    """Of members, then of held-out documents."""
    planted: Passages | None
    """The start, or the turn, of every canary."""


def cut_inputs(files: Files, settings: AuditSettings) -> Cut:
    """The passages of all files; what is a canary is no member, and nothing that members decide follows it."""
    passages = cut_passages(files.train, files.heldout, settings)
    is_member_R = passages.is_member_R
    is_canary_R = np.zeros_like(is_member_R)
    is_canary_R[is_member_R] = files.canary_of_train[passages.document_R[is_member_R]] >= 0
    if is_canary_R[is_member_R].all():
        raise CorpusError(f"{files.train.address}: holds canaries alone; expected the file that they were planted into")
    if files.canaries is None:
        return Cut(passages, None)
    check_alike(files.train, files.canaries)
    whole = replace(settings, offsets_per_document=0, sample=None)
    return Cut(passages.take(~is_canary_R), cut_group(files.canaries, whole, is_member=False))


def finish(result: AuditResult, earlier: AuditResult | None, wishes: Wishes, folder: Path) -> AuditResult:
    """Compared with an earlier audit, judged, and written."""
    judged = judge(_with_baseline(result, earlier), wishes.thresholds, fail_on=wishes.fail_on)
    write_audit(judged, folder)
    return judged


def check_wishes(wishes: Wishes) -> None:
    """ConfigError for criteria that are not judged, and for a detector that is not installed."""
    absent = set[str]()
    if wishes.canaries is None:
        absent.add("max_canaries_recited")
    if wishes.thresholds.max_code_leaks is None:
        absent.add("max_code_leaks")
    check_fail_on(wishes.fail_on, [name for name in CRITERIA if name not in absent])
    if wishes.detector != "built-in":
        with_library()


def open_files(settings: AuditSettings, canaries: Canaries | None, folder: Path, *, model: str | None) -> Files:
    """The documents of all files, read in the same way."""

    def read(paths: Sequence[str]) -> Documents:
        return open_documents(
            paths,
            tokenizer=settings.tokenizer,
            field=settings.field,
            chat_template=settings.chat_template,
            model=model,
            bos=settings.bos,
        )

    planted = None
    if canaries is not None:
        planted = read([str(canary_documents(canaries, folder / "canaries.jsonl"))])
    train, heldout = read(settings.train), read(settings.heldout)
    return Files(train, heldout, planted, _find_canaries(train, planted))


def _find_canaries(train: Documents, planted: Documents | None) -> NDArray[np.int64]:
    """Of each training document the canary that it is, -1 for none."""
    if planted is None:
        return np.full(train.num, -1, np.int64)
    return match_canaries([planted.tokens(each) for each in range(planted.num)], train.tokens, train.num)


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


def _with_baseline(result: AuditResult, earlier: AuditResult | None) -> AuditResult:
    if earlier is None:
        return result
    notes = (*result.notes, *comparison_notes(result, earlier))
    return replace(result, changes=compare_audits(result, earlier), notes=notes)
