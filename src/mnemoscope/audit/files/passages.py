"""Documents -> the passages of an audit: at starts, at random offsets, at the assistant's turns.

Axes: R passages, W tokens of the longest one, C contexts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.facts import Passages
from mnemoscope.audit.files.documents import Documents
from mnemoscope.audit.settings import PROMPT, AuditSettings, Kind
from mnemoscope.corpus.draws import sample_below
from mnemoscope.errors import CorpusError


class PassageCounts(NamedTuple):
    """What became of one group's documents."""

    num_documents: int
    """Drawn, or all."""
    num_short: int
    """Of those, without any passage: too short for the smallest cell."""
    num_passages: int


class _Cut(NamedTuple):
    """One passage: tokens start to stop of a document, with its contexts."""

    document: int
    start: int
    stop: int
    kind: Kind
    contexts: tuple[int, ...]


def cut_passages(train: Documents, heldout: Documents, settings: AuditSettings) -> Passages:
    """The passages of members, then of held-out documents, in the order of documents and places.

    A document of texts gives its start, and `offsets_per_document` random places behind it: among those that leave room
    for the whole grid where there are such, else for its smallest cell. The draw follows from the seed and the
    document's tokens, so that a document has the same passages in every file. A conversation gives its turns, with as
    much of the prompt as the longest context allows. What is too short for the smallest cell gives nothing (see
    `count_documents`). CorpusError where no member or no held-out document gives any.
    """
    check_alike(train, heldout)
    groups = (train, True), (heldout, False)
    return join_passages([cut_group(documents, settings, is_member=is_member) for documents, is_member in groups])


def cut_group(documents: Documents, settings: AuditSettings, *, is_member: bool) -> Passages:
    """The passages of one group's documents; CorpusError where there are none."""
    passages = _lay_out(documents, list(_cut(documents, settings)), settings, is_member=is_member)
    if not passages.kind_R:
        raise CorpusError(
            f"{documents.address}: none of its {documents.num} documents is long enough; expected some with "
            f"{least_words(documents, settings)}"
        )
    return passages


def join_passages(parts: Sequence[Passages]) -> Passages:
    """Passages end to end, at the width of the longest."""
    width = max(part.tokens_RW.shape[1] for part in parts)
    tokens = [np.pad(part.tokens_RW, ((0, 0), (0, width - part.tokens_RW.shape[1]))) for part in parts]
    return Passages(
        tokens_RW=np.concatenate(tokens),
        length_R=np.concatenate([part.length_R for part in parts]),
        context_RC=np.concatenate([part.context_RC for part in parts]),
        kind_R=[kind for part in parts for kind in part.kind_R],
        is_member_R=np.concatenate([part.is_member_R for part in parts]),
        document_R=np.concatenate([part.document_R for part in parts]),
        line_R=np.concatenate([part.line_R for part in parts]),
        start_R=np.concatenate([part.start_R for part in parts]),
    )


def count_documents(
    documents: Documents,
    settings: AuditSettings,
    passages: Passages,
    *,
    is_member: bool,
    is_other_N: NDArray[np.bool_] | None = None,
) -> PassageCounts:
    """What became of the documents of one group, given all its passages; `is_other_N` are none of the group."""
    own_R = passages.is_member_R == is_member
    drawn = draw_documents(documents, settings)
    num_documents = len(drawn) if is_other_N is None else int((~is_other_N[drawn]).sum())
    num_used = len(np.unique(passages.document_R[own_R]))
    return PassageCounts(num_documents, num_documents - num_used, int(own_R.sum()))


def draw_documents(documents: Documents, settings: AuditSettings) -> NDArray[np.int64]:
    """The indices of the documents that are audited, ascending: a simple random sample, or all of no more."""
    if settings.sample is None or settings.sample >= documents.num:
        return np.arange(documents.num)
    return sample_below(documents.num, count=settings.sample, seed=settings.seed)


def context_labels(passages: Passages, settings: AuditSettings) -> tuple[str, ...]:
    """What the passages' contexts are called: the grid's lengths, or `prompt`."""
    return (PROMPT,) if "turn" in passages.kind_R else tuple(str(context) for context in settings.contexts)


def check_alike(train: Documents, heldout: Documents) -> None:
    """CorpusError where two groups' files are not of one form."""
    if train.form != heldout.form:
        raise CorpusError(
            f"{train.address} has lines of the form {train.form!r}, {heldout.address} of {heldout.form!r}; "
            "expected files of one form"
        )


def least_words(documents: Documents, settings: AuditSettings) -> str:
    """What a document needs to have a passage."""
    least = settings.continuations[0]
    if documents.is_conversation:
        return f"a prompt, and an assistant's turn of {least} tokens or more behind it"
    return f"{settings.contexts[0]} + {least} tokens or more"


def _cut(documents: Documents, settings: AuditSettings) -> Iterator[_Cut]:
    """The passages of one group's documents."""
    for document in draw_documents(documents, settings).tolist():
        if documents.is_conversation:
            yield from _cut_turns(documents, document, settings)
        else:
            yield from _cut_text(documents, document, settings)


def _cut_turns(documents: Documents, document: int, settings: AuditSettings) -> Iterator[_Cut]:
    grid = settings.grid
    for start, stop in documents.turns_of(document).tolist():
        context = min(start, grid.max_context)
        if context and stop - start >= grid.continuations[0]:
            end = min(stop, start + grid.max_continuation)
            yield _Cut(document, start - context, end, "turn", (context,))


def _cut_text(documents: Documents, document: int, settings: AuditSettings) -> Iterator[_Cut]:
    grid = settings.grid
    length, least = documents.length(document), grid.contexts[0] + grid.continuations[0]
    if length < least:
        return
    yield _Cut(document, 0, min(length, grid.window_tokens), "start", grid.contexts)
    last = length - grid.window_tokens
    last = last if last > 0 else length - least
    if not settings.offsets_per_document or last <= 0:
        return
    drawn = sample_below(
        last, count=min(settings.offsets_per_document, last), seed=_seed(documents.tokens(document), settings)
    )
    for start in (drawn + 1).tolist():
        yield _Cut(document, start, min(length, start + grid.window_tokens), "offset", grid.contexts)


def _seed(tokens: NDArray[np.integer], settings: AuditSettings) -> int:
    """A seed that follows from the document's tokens and the settings' seed."""
    hashed = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8, key=str(settings.seed).encode())
    return int.from_bytes(hashed.digest(), "little")


def _lay_out(documents: Documents, cuts: list[_Cut], settings: AuditSettings, *, is_member: bool) -> Passages:
    """Passages as arrays."""
    num_contexts = 1 if documents.is_conversation else len(settings.contexts)
    document_R, start_R, stop_R = (np.array([cut[i] for cut in cuts], np.int64).reshape(-1) for i in range(3))
    length_R = stop_R - start_R
    tokens_RW = np.zeros((len(cuts), int(length_R.max(initial=0))), np.int32)
    for row, cut in enumerate(cuts):
        tokens_RW[row, : cut.stop - cut.start] = documents.tokens(cut.document)[cut.start : cut.stop]
    return Passages(
        tokens_RW=tokens_RW,
        length_R=length_R.astype(np.int32),
        context_RC=np.array([cut.contexts for cut in cuts], np.int32).reshape(-1, num_contexts),
        kind_R=[cut.kind for cut in cuts],
        is_member_R=np.full(len(cuts), is_member),
        document_R=document_R.astype(np.int32),
        line_R=documents.lines[document_R],
        start_R=start_R.astype(np.int32),
    )
