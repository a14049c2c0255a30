"""The corpora of a study by group, opened once and shared by all its models: what is read, and how.

Without a tokenizer of their own, texts are read with the first model's, so that a sequence id means the same
tokens for every model of the study.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.corpus import (
    Corpus,
    Selection,
    Windows,
    check_vocabulary,
    open_corpus,
    read_windows,
    select_sequences,
)
from mnemoscope.errors import CorpusError, ModelError
from mnemoscope.identity import GroupIdentity, ModelIdentity

MAX_CHECKED_ROWS: Final = 100_000
"""Rows whose token ids are compared with the vocabulary before a run writes anything."""
_ROWS_PER_CHECK: Final = 4096


@final
@dataclass(frozen=True, kw_only=True)
class GroupText:
    """A group's corpus with the sequences selected from it and the window that is read of each."""

    config: CorpusConfig
    corpus: Corpus
    selection: Selection
    window_tokens: int

    @property
    def identity(self) -> GroupIdentity:
        """Which windows of which sequences it consists of."""
        return GroupIdentity(
            corpus=self.corpus.fingerprint,
            selection=self.selection.fingerprint,
            num_sequences=len(self.selection),
            offset=self.config.offset,
            seed=self.config.seed if self.config.offset == "random" else None,
            short_rows=self.config.short_rows,
        )

    def read(self, sequence_ids: NDArray[np.int64], *, short_rows: Literal["error", "skip"] | None = None) -> Windows:
        """The windows of some rows; short ones are treated as its section says unless told otherwise."""
        return read_windows(
            self.corpus,
            sequence_ids,
            window_tokens=self.window_tokens,
            offset=self.config.offset,
            seed=self.config.seed,
            short_rows=short_rows or self.config.short_rows,
        )


def open_texts(config: StudyConfig, *, first_model: ModelConfig | None = None) -> dict[str, GroupText]:
    """The corpora of a study by group; CorpusError for one that is not what its section says.

    `first_model` is the study's first where `config` only adds to a study that is there.
    """
    return {
        group: open_text(section, window_tokens=config.grid.window_tokens, model=first_model or config.models[0])
        for group, section in config.groups.items()
    }


def open_text(section: CorpusConfig, *, window_tokens: int, model: ModelConfig) -> GroupText:
    """A corpus of its own, of which windows of some length are read; with the model's tokenizer unless it has one."""
    corpus = open_corpus(section, default_tokenizer=tokenizer_source(model))
    return GroupText(
        config=section, corpus=corpus, selection=select_sequences(section, corpus), window_tokens=window_tokens
    )


def check_fit(text: GroupText, model: ModelIdentity, *, label: str) -> None:
    """Refuse a text that the model cannot read: too long a window, too large a tokenizer, alien ids.

    Ids and row lengths are checked on up to 100,000 selected rows, evenly spaced, or all of fewer.
    """
    if model.max_positions is not None and text.window_tokens > model.max_positions:
        raise ModelError(
            f"{label}: the grid's window (longest context + longest continuation) is {text.window_tokens} "
            f"tokens, the model has {model.max_positions} positions: shorten contexts or continuations"
        )
    tokenizer = text.corpus.tokenizer
    num_ids = 0 if tokenizer is None else max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if num_ids > model.vocab_size:
        raise ModelError(
            f"{label}: the tokenizer of {text.config.paths[0]} has {num_ids} token ids, the model's "
            f"vocabulary {model.vocab_size}; expected the model's own tokenizer (set `tokenizer`)"
        )
    _check_rows(text, model.vocab_size)


def _check_rows(text: GroupText, vocab_size: int) -> None:
    stride = -(-len(text.selection) // MAX_CHECKED_ROWS)
    num_long = 0
    for start in range(0, len(text.selection), stride * _ROWS_PER_CHECK):
        windows = text.read(text.selection.sequence_ids[start : start + stride * _ROWS_PER_CHECK : stride])
        check_vocabulary(windows, vocab_size, text.corpus)
        num_long += len(windows.sequence_ids)
    if num_long == 0 and stride == 1:
        raise CorpusError(
            f"{text.config.paths[0]}: each of its {len(text.selection)} selected rows is too short; "
            f"expected rows of {text.window_tokens} tokens after the offset"
        )


def tokenizer_source(model: ModelConfig) -> str:
    """The folder of a local model's tokenizer, that of its revision first; the hub name of another."""
    inner = Path(model.source) / (model.revision or "")
    return str(inner) if (inner / "tokenizer.json").is_file() else model.source
