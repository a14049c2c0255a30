"""The audit of the embedded study's largest model: its training stream beside the rows that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemoscope.audit.auditing import run_audit
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.verdict import at_reference
from mnemoscope.config import ModelConfig
from mnemoscope.progress import Progress

if TYPE_CHECKING:
    from mnemoscope.demo import DemoAssets

SURE_COPIES: Final = 32
"""Documents with so many copies or more in the stream are what an audit has to find."""
_LENGTHS: Final = (16, 32)


def audit_demo(assets: DemoAssets, folder: Path, *, progress: Progress) -> AuditResult:
    """The audit of the last revision of the largest model, in `folder`: the starts of all documents, each once."""
    model = assets.models[-1]
    settings = AuditSettings(
        model=ModelConfig(source=str(model), revision=assets.revisions[-1], name=model.name),
        train=(str(assets.stream),),
        heldout=(str(assets.heldout),),
        tokenizer=str(assets.tokenizer),
        contexts=_LENGTHS,
        continuations=_LENGTHS,
        offsets_per_document=0,
    )
    return run_audit(settings, folder, progress=progress)


def describe_audit(result: AuditResult) -> str:
    """One line: what of the planted documents was found, and what of the held-out ones."""
    planted = [dose.recited for dose in result.doses if dose.low >= SURE_COPIES]
    found, num_planted = sum(share.count for share in planted), sum(share.n for share in planted)
    row = at_reference(result.matches, result)
    heldout = "no held-out document" if row is None else f"{row.control.count} of {row.control.n} held-out ones"
    return (
        f"{found} of {num_planted} documents that stand {SURE_COPIES} times or more in the training stream are "
        f"recited, and {heldout}"
    )
