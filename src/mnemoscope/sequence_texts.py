"""The tokens of stored sequences, where the corpus still holds those that were scored, and the text of each token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnemoscope.errors import CorpusError
from mnemoscope.shards import hash_windows
from mnemoscope.store import GROUPS, Group, Study
from mnemoscope.texts import GroupText, open_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """The texts of a study, opened once for many readings."""

    texts: Mapping[Group, GroupText]
    faults: Mapping[Group, str]
    """Of the other groups: why their tokens are unknown."""


class TrueTokens(NamedTuple):
    """A sequence's tokens, or the note that says why they are unknown."""

    tokens: tuple[int, ...] | None
    note: str | None


def open_corpora(study: Study, *, groups: Iterable[Group] | None = None) -> Corpora:
    """The study's corpora, of some groups or of all; one that cannot be read is a fault, not an error."""
    texts: dict[Group, GroupText] = {}
    faults: dict[Group, str] = {}
    sections = study.config.groups
    for group in GROUPS if groups is None else groups:
        if study.config.mode == "imported":
            faults[group] = "its tokens are unknown: the scores were imported, without a corpus"
        elif group in sections:
            window_tokens, model = study.config.grid.window_tokens, study.config.models[0]
            try:
                texts[group] = open_text(sections[group], window_tokens=window_tokens, model=model)
            except CorpusError as error:
                faults[group] = f"the corpus cannot be read: {error}"
    return Corpora(texts=texts, faults=faults)


def read_true_tokens(corpora: Corpora, group: Group, hashes: Mapping[int, int | None]) -> dict[int, TrueTokens]:
    """The windows of a group's sequences, by id, where they are those whose hashes are given."""
    if group not in corpora.texts:
        return {sequence_id: TrueTokens(None, corpora.faults.get(group)) for sequence_id in hashes}
    text = corpora.texts[group]
    ids, size = np.array(sorted(hashes), np.int64), len(text.corpus)
    try:
        windows = text.read(ids[ids < size], short_rows="skip")
    except CorpusError as error:
        return {sequence_id: TrueTokens(None, f"the corpus cannot be read: {error}") for sequence_id in hashes}
    own = zip(windows.sequence_ids.tolist(), windows.tokens.tolist(), hash_windows(windows.tokens), strict=True)
    found = {sequence_id: tuple(tokens) for sequence_id, tokens, own_hash in own if hashes[sequence_id] == own_hash}
    return {
        sequence_id: TrueTokens(found[sequence_id], None)
        if sequence_id in found
        else TrueTokens(None, _changed(text, sequence_id))
        for sequence_id in hashes
    }


def _changed(text: GroupText, sequence_id: int) -> str:
    size = len(text.corpus)
    if sequence_id >= size:
        return f"the corpus cannot be read: row {sequence_id} was scored; it holds rows 0 to {size - 1}"
    return f"{text.corpus.place(sequence_id)} holds other tokens than those that were scored"


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> dict[int, str]:
    """The text of each token as it stands behind another one: some decoders drop a space at a text's start."""
    once_all = tokenizer.decode_batch([[token] for token in ids], skip_special_tokens=False)
    twice_all = tokenizer.decode_batch([[token, token] for token in ids], skip_special_tokens=False)
    texts: dict[int, str] = {}
    for token, once, twice in zip(ids, once_all, twice_all, strict=True):
        text = twice[len(once) :] if twice.startswith(once) else once
        if text and "\ufffd" not in text:  # a part of a character of several bytes is no text by itself
            texts[token] = text
    return texts
