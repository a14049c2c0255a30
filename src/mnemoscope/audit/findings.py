"""Facts of passages -> everything that an audit finds, but for its verdict; no model is asked."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.baseline import outcomes_of
from mnemoscope.audit.blind_check import blind_check
from mnemoscope.audit.copies import count_copies, deduplicate_first, dose_windows, doses
from mnemoscope.audit.duplicates import Clusters, cluster_documents
from mnemoscope.audit.exposed import Described, exposed
from mnemoscope.audit.exposure import NearFacts, extraction, is_known, measure_nearness, near_verbatim, recited
from mnemoscope.audit.facts import AuditFacts, Passages
from mnemoscope.audit.files.canaries import Canaries, dose_rows, find_recited, planting_notes
from mnemoscope.audit.files.documents import Documents
from mnemoscope.audit.files.passages import count_documents, least_words
from mnemoscope.audit.leaks import (
    Detect,
    Recited,
    find_leaks,
    find_spans,
    kinds_of,
    redact_passage,
    redact_text,
    with_library,
)
from mnemoscope.audit.result import AuditResult, BlindCheck, CanaryDose, Leak
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.signals import measure_signals, representatives
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.audit.trends import measure_trend
from mnemoscope.audit.units import Units, find_units
from mnemoscope.config import FRAGILE_MARGIN
from mnemoscope.report.spoken import plural
from mnemoscope.version import __version__

Tokens = NDArray[np.int32]


@final
@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is made of the facts: the verdict's thresholds, what it is compared with, and how text is shown."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    fail_on: tuple[str, ...] = ()
    """Names of the criteria that decide; none: all."""
    canaries: Path | None = None
    """What was planted into the training files."""
    baseline: Path | None = None
    """audit.json of an earlier audit."""
    detector: str = "built-in"
    """`built-in`, or `detect-secrets` for that library beside it."""
    redacted: bool = True
    """Whether what looks private is hidden wherever text is shown."""


class Files(NamedTuple):
    """The documents of an audit."""

    train: Documents
    heldout: Documents
    canaries: Documents | None
    """One for each canary, in their order."""
    canary_of_train: NDArray[np.int64]
    """Of each training document the canary that it is, -1 for none."""


@final
class Findings:
    """What follows from the facts, each part computed once."""

    def __init__(
        self,
        *,
        settings: AuditSettings,
        wishes: Wishes,
        files: Files,
        facts: AuditFacts,
        canaries: Canaries | None,
        planted: AuditFacts,
        passages: Passages | None = None,
    ) -> None:
        """`planted` are the facts of the canaries, whose documents are numbered as they are; `passages` all that were
        cut, where the model was not heard of each.
        """
        self._settings, self._wishes, self._files, self._facts = settings, wishes, files, facts
        self._canaries, self._planted = canaries, planted
        self._cut = facts.passages if passages is None else passages

    def result(self) -> AuditResult:
        """Everything but criteria, state and headline."""
        facts, units, settings = self._facts, self.units, self._settings
        different = units.different()
        windows = dose_windows(facts, units, self.copies_R)
        context, n = facts.reference
        return AuditResult(
            state="unknown",
            headline="",
            criteria=(),
            matches=recited(facts, different),
            extraction=extraction(facts, different),
            near=near_verbatim(facts, different, self._near, least_similarity=settings.near_similarity),
            exposed=exposed(
                facts,
                units,
                self._near,
                self.copies_R,
                least_similarity=settings.near_similarity,
                describe=self.describe,
            ),
            signals=measure_signals(facts, units, self._text),
            blind=self._blind(),
            leaks=self._leaks(),
            doses=doses(windows),
            trend=measure_trend(windows, seed=settings.seed),
            clusters=deduplicate_first(facts, windows, self._clusters, self._files.train, text_of=self._shown_text),
            canaries=self._canary_doses(),
            changes=(),
            notes=tuple(self._notes()),
            provenance=self._provenance(),
            sizes=self._sizes(),
            outcomes=outcomes_of(facts, units, self._near, least_similarity=settings.near_similarity),
            reference=(facts.context_labels[context], n),
        )

    @cached_property
    def _clusters(self) -> Clusters:
        return cluster_documents(self._files.train, self._files.heldout)

    @cached_property
    def copies_R(self) -> NDArray[np.int64]:  # noqa: N802
        """How often each passage stands in the training files."""
        return count_copies(self._facts.passages, self._files.train)

    @cached_property
    def _near(self) -> NearFacts:
        return measure_nearness(self._facts)

    @cached_property
    def units(self) -> Units:
        """What stands or falls together, and what takes part at all."""
        return find_units(self._facts.passages, self._clusters, self.copies_R)

    @cached_property
    def _detect(self) -> Detect:
        return find_spans if self._wishes.detector == "built-in" else with_library()

    def _text(self, tokens: Tokens) -> str:
        """Of tokens; without a tokenizer their numbers."""
        if self._files.train.tokenizer is None:
            return " ".join(map(str, np.asarray(tokens).tolist()))
        return self._files.train.text(tokens)

    def _shown_text(self, tokens: Tokens) -> str:
        text = self._text(tokens)
        return redact_text(text, detect=self._detect) if self._wishes.redacted else text

    def describe(self, context: Tokens, continuation: Tokens) -> Described:
        """A passage for readers."""
        texts = self._text(context), self._text(continuation)
        shown = redact_passage(*texts, detect=self._detect) if self._wishes.redacted else texts
        return Described(*shown, kinds_of(*texts, detect=self._detect))

    def _blind(self) -> BlindCheck:
        rows = representatives(self._facts, self.units)
        passages = self._facts.passages
        is_member = passages.is_member_R[rows]
        ordered = np.concatenate([rows[is_member], rows[~is_member]])
        texts = [self._text(passages.tokens_RW[row, : passages.length_R[row]]) for row in ordered.tolist()]
        num = int(is_member.sum())
        return blind_check(texts[:num], texts[num:], self.units.cluster_R[ordered], seed=self._settings.seed)

    def _leaks(self) -> tuple[Leak, ...]:
        """Of different passages that are recited at the reference."""
        facts, passages = self._facts, self._facts.passages
        context, n = facts.reference
        rows = np.flatnonzero(facts.is_recited(context, n) & is_known(facts, context, n) & self.units.is_kept_R)
        _, first = np.unique(self.units.window_R[rows], return_index=True)
        recited_passages = []
        for row in rows[np.sort(first)].tolist():
            start = int(passages.context_RC[row, context])
            tokens = passages.tokens_RW[row]
            texts = self._text(tokens[:start]), self._text(tokens[start : start + n])
            recited_passages.append(Recited(*texts, bool(passages.is_member_R[row])))
        return find_leaks(recited_passages, detect=self._detect, redacted=self._wishes.redacted)

    def _recited_canaries(self) -> list[bool | None]:
        planted, context, n = self._planted, *self._planted.reference
        assert self._canaries is not None
        return find_recited(
            self._canaries, planted.passages.document_R, is_known(planted, context, n), planted.is_recited(context, n)
        )

    def _canary_doses(self) -> tuple[CanaryDose, ...]:
        return () if self._canaries is None else dose_rows(self._canaries, self._recited_canaries())

    def _sizes(self) -> dict[str, int]:
        facts, passages = self._facts, self._facts.passages
        context, n = facts.reference
        sizes: dict[str, int] = {}
        for name, documents, is_member, is_other in (
            ("training", self._files.train, True, self._files.canary_of_train >= 0),
            ("held-out", self._files.heldout, False, None),
        ):
            counts = count_documents(documents, self._settings, self._cut, is_member=is_member, is_other_N=is_other)
            sizes[f"{name} documents"] = counts.num_documents
            sizes[f"{name} passages"] = counts.num_passages
            sizes[f"{name} documents too short"] = counts.num_short
        left_out = ~passages.is_member_R & ~self.units.is_kept_R
        sizes["held-out passages that training has seen"] = int(left_out.sum())
        sizes["passages at the reference"] = int((facts.fits(context, n) & self.units.is_kept_R).sum())
        limit = FRAGILE_MARGIN[self._settings.model.dtype]
        margins = np.asarray(facts.continuation_of(facts.tokens.margin_RW, context, n))
        if not np.isnan(margins).any():  # an endpoint tells none
            sizes["fragile passages"] = int((margins.min(1, initial=np.inf) < limit).sum())
        sizes["training documents that are exact copies"] = self._clusters.num_exact
        sizes["training documents that are near-exact copies"] = self._clusters.num_near
        return sizes

    def _notes(self) -> list[str]:
        notes = [*self._files.train.notes, *self._files.heldout.notes]
        sizes = self._sizes()
        if num := sizes["held-out passages that training has seen"]:
            are = plural(num, "held-out passage is", "held-out passages are")
            notes.append(
                f"{are} left out: training has seen the text, word for word or as a near-exact copy of its document."
            )
        least = least_words(self._files.train, self._settings)
        notes.extend(
            f"{plural(num, f'{name} document has', f'{name} documents have')} no passage: it takes {least}."
            for name in ("training", "held-out")
            if (num := sizes[f"{name} documents too short"])
        )
        if self._canaries is not None:
            found = self._files.canary_of_train
            copies = np.bincount(found[found >= 0], minlength=len(self._canaries.canaries))
            notes.extend(planting_notes(self._canaries, copies.tolist(), self._recited_canaries()))
        return list(dict.fromkeys(notes))

    def _provenance(self) -> dict[str, Any]:
        settings = asdict(self._settings)
        model = settings.pop("model")
        files = {
            name: {"files": list(paths), "digest": documents.digest, "documents": documents.num}
            for name, paths, documents in (
                ("training", self._settings.train, self._files.train),
                ("held-out", self._settings.heldout, self._files.heldout),
            )
        }
        return {
            "model": {"label": self._settings.model.label, **model},
            **files,
            "settings": {name: value for name, value in settings.items() if name not in ("train", "heldout")},
            "versions": {"mnemoscope": __version__}
            | {name: version(name) for name in ("torch", "transformers", "tokenizers")},
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }
