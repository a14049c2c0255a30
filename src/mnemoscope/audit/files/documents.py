"""Files -> documents of tokens, and which of their tokens are an assistant's turns; prepared once, in the cache.

    tokens.i32     int32, all documents end to end
    ends.i64       int64, where each one ends
    lines.i64      int64, its line in JSON lines, from 1; else its row in its file, from 0
    turns.i32      int32 [T, 3]: document, first token, token behind the last, of each assistant's turn
    facts.json     what is to be said of them

Axes: N documents, A tokens of all of them, T turns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mnemoscope.audit.files.conversations import Conversations, open_conversations
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import Corpus, open_corpus
from mnemoscope.corpus.digest import digest_facts
from mnemoscope.corpus.sources import reason
from mnemoscope.corpus.token_cache import prepare
from mnemoscope.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VERSION: Final = 1
"""Raised when the same files would give other documents."""
_ROWS_AT_ONCE: Final = 1024


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """The documents of one group's files, in their order."""

    tokens_A: NDArray[np.int32]
    """All tokens, end to end."""
    ends: NDArray[np.int64]
    """[N]: the index in `tokens_A` behind each document's last token."""
    lines: NDArray[np.int64]
    """[N]: the line in its file of JSON lines, from 1; of other files the row, from 0."""
    turns: NDArray[np.int32]
    """[T, 3]: document, first token, token behind the last, of each assistant's turn; none in texts."""
    digest: str
    """sha256, hex, of the content, the tokenizer and the template."""
    address: str
    """The files, as messages call them."""
    is_conversation: bool = False
    """Whether the assistant's turns are what is recited, and the prompt their context."""
    form: str = "text"
    """Of a line: text (or tokens), messages, conversations, prompt, instruction."""
    tokenizer: Tokenizer | None = None
    """What turns tokens into text; None where the files hold tokens and no tokenizer is known."""
    notes: tuple[str, ...] = ()
    """What a reader has to know of how the files were read."""

    @property
    def num(self) -> int:
        """The number of documents."""
        return len(self.ends)

    def length(self, document: int) -> int:
        """Tokens of a document."""
        return int(self.ends[document] - self._begin(document))

    def tokens(self, document: int) -> NDArray[np.int32]:
        """The tokens of a document, int32; a view."""
        return self.tokens_A[self._begin(document) : self.ends[document]]

    def turns_of(self, document: int) -> NDArray[np.int32]:
        """First token, and token behind the last, of each of a document's turns, [turns, 2]."""
        first, stop = np.searchsorted(self.turns[:, 0], [document, document + 1])
        return self.turns[first:stop, 1:]

    def text(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of token ids; CorpusError where no tokenizer is known."""
        if self.tokenizer is None:
            raise CorpusError(f"{self.address}: no tokenizer to turn tokens into text; expected one (set `tokenizer`)")
        return self.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)

    def _begin(self, document: int) -> int:
        return int(self.ends[document - 1]) if document else 0


def open_documents(
    paths: Sequence[str],
    *,
    tokenizer: str | None,
    field: str | None = None,
    chat_template: str | None = None,
    model: str | None = None,
    bos: bool = False,
) -> Documents:
    """The documents of files of one format: all that corpora are read from, and conversations in JSON lines.

    `tokenizer` is a tokenizer.json, a folder or a hub name; without it `model`, the model's own folder or hub name, has
    it. `field` names the field or column. `chat_template` is a Jinja file; without it the one in `model`, or beside the
    tokenizer, is taken, if any. `bos` puts the beginning-of-sequence token before texts and before strings that are
    joined as they are; templates put their own.
    CorpusError names the file, its line, what was found there and what was expected.
    """
    conversations = open_conversations(
        paths, tokenizer=tokenizer, field=field, chat_template=chat_template, model=model, bos=bos
    )
    if conversations is not None:
        key = digest_facts({"audit documents": _VERSION, **conversations.facts()})
        folder = prepare(key, lambda building: _write_conversations(building, conversations))
        return _read(folder, key, paths, tokenizer=conversations.tokenizer.tokenizer, form=conversations.form.kind)
    if chat_template is not None:
        raise CorpusError(f"{paths[0]}: chat_template given; it is for conversations, and this file holds texts")
    config = CorpusConfig(path=tuple(paths), tokenizer=tokenizer, column=field, bos=bos)
    corpus = open_corpus(config, default_tokenizer=model)
    key = digest_facts({"audit documents": _VERSION, "corpus": corpus.fingerprint})
    folder = prepare(key, lambda building: _write_corpus(building, corpus))
    return _read(folder, key, paths, tokenizer=corpus.tokenizer, form="text")


@final
class _Writer:
    """Writes the arrays of documents as they come; the caller's block ends with the facts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._end, self._num = folder, 0, 0
        self._tokens, self._ends, self._lines, self._turns = (
            (folder / name).open("wb") for name in ("tokens.i32", "ends.i64", "lines.i64", "turns.i32")
        )

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._tokens, self._ends, self._lines, self._turns):
            file.close()

    def append(self, tokens: NDArray[np.integer], line: int, turns: Sequence[tuple[int, int]] = ()) -> None:
        """Add a document."""
        self._end += len(tokens)
        self._tokens.write(tokens.astype("<i4").tobytes())
        self._ends.write(np.array([self._end], "<i8").tobytes())
        self._lines.write(np.array([line], "<i8").tobytes())
        self._turns.write(np.array([(self._num, *turn) for turn in turns], "<i4").tobytes())
        self._num += 1

    def close(self, notes: Sequence[str] = ()) -> None:
        """Add what is to be said of all."""
        (self._folder / "facts.json").write_text(json.dumps({"notes": list(notes)}), encoding="utf-8")


def _write_corpus(folder: Path, corpus: Corpus) -> None:
    with _Writer(folder) as writer:
        for start in range(0, len(corpus), _ROWS_AT_ONCE):
            for row, tokens in enumerate(corpus.tokens(start, min(start + _ROWS_AT_ONCE, len(corpus))), start):
                if tokens.max(initial=0) > np.iinfo(np.int32).max:
                    raise CorpusError(f"{corpus.place(row)}: token id {tokens.max()}; expected 0 to 2147483647")
                writer.append(tokens, corpus.line(row))
        writer.close()


def _write_conversations(folder: Path, conversations: Conversations) -> None:
    with _Writer(folder) as writer:
        for conversation in conversations.encode():
            writer.append(conversation.tokens, conversation.line, conversation.turns)
        writer.close(conversations.notes())


def _read(folder: Path, digest: str, paths: Sequence[str], *, tokenizer: Tokenizer | None, form: str) -> Documents:
    try:
        facts = json.loads((folder / "facts.json").read_bytes())
        return Documents(
            tokens_A=_map(folder / "tokens.i32", "<i4"),
            ends=_map(folder / "ends.i64", "<i8"),
            lines=_map(folder / "lines.i64", "<i8"),
            turns=_map(folder / "turns.i32", "<i4").reshape(-1, 3),
            digest=digest,
            address=paths[0] if len(paths) == 1 else f"{paths[0]} ... {paths[-1]}",
            is_conversation=form != "text",
            form=form,
            tokenizer=tokenizer,
            notes=tuple(facts["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{folder}: this cache entry is damaged ({reason(error)}); delete it") from error


def _map(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    """A file of numbers, mapped; an empty one cannot be."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
