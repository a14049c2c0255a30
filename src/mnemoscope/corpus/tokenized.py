"""Documents -> token rows on disk, once: one row per document, or all packed into rows of one length.

The result lies in the cache as Megatron's .bin and .idx; nothing but the batch at hand is ever in memory.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import Layout
from mnemoscope.corpus.columns import Column
from mnemoscope.corpus.documents import Document, place_document, read_documents
from mnemoscope.corpus.megatron import MegatronIndex, MegatronRows, MegatronWriter
from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.progress import ProgressBar
from mnemoscope.corpus.sources import Source, find_sources, reason
from mnemoscope.corpus.tokenizer import TextTokenizer
from mnemoscope.errors import CorpusError

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides how documents become rows."""

    layout: Layout
    row_tokens: int
    """Length of a packed row, in tokens."""
    column: Column | None
    """The field of JSON lines or tables; None for plain text."""
    tokenizer: TextTokenizer | None
    """None where the documents are token lists already."""
    bos_id: int | None
    """Put before each document; None to put nothing."""
    separator_id: int | None
    """Put between packed documents."""


class _Placed(NamedTuple):
    tokens: NDArray[np.int64]
    line: int


@final
class TokenizedRows:
    """Rows prepared by `write_rows`, mapped; they know which document they came from."""

    def __init__(self, folder: Path, *, sources: Sequence[Source]) -> None:
        try:
            facts = json.loads((folder / "facts.json").read_bytes())
        except (OSError, ValueError) as error:
            raise CorpusError(f"{folder}: this cache entry is damaged ({reason(error)}); delete it") from error
        self.num_dropped_tokens = int(facts["num_dropped_tokens"])
        self._layout: Layout = facts["layout"]
        self._starts: list[int] = facts["starts"]
        self._sources = tuple(sources)
        if not facts["num_rows"]:
            raise CorpusError(
                f"{sources[0].address}: no row comes of it ({facts['num_documents']} documents, "
                f"{self.num_dropped_tokens} tokens); expected at least one (row_tokens may be too large)"
            )
        index, data = find_sources([str(folder / "rows.idx")]), _find_data(folder)
        self._rows = MegatronRows(data, MegatronIndex(Parts(index)))
        self._lines = Parts(find_sources([str(folder / "lines.bin")])) if self._layout == "documents" else None

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, start: int, stop: int) -> Sequence[NDArray[np.integer]]:
        """Rows start to stop, as views of the mapped file."""
        return self._rows.tokens(start, stop)

    def place(self, row: int) -> str:
        """The file and line of a document; the number of a packed row."""
        if self._lines is None:
            return f"{self._sources[0].address}, packed row {row}"
        return place_document(self._sources[bisect_right(self._starts, row) - 1], self.line(row))

    def line(self, row: int) -> int:
        """The line of a document in JSON lines, from 1; its row in a table, or that of packed text, from 0."""
        return row if self._lines is None else int(self._lines.read(8 * row, 8 * row + 8).view("<i8")[0])


def _find_data(folder: Path) -> Parts:
    path = folder / "rows.bin"  # may be empty, where every document is: short rows, not a missing file
    return Parts([Source(address=str(path), path=str(path), size=path.stat().st_size)])


def write_rows(folder: Path, *, sources: Sequence[Source], recipe: Recipe) -> None:
    """Write rows.bin, rows.idx, lines.bin (int64, the line of each document) and facts.json into a folder."""
    is_small = recipe.tokenizer is not None and recipe.tokenizer.max_id < 2**16
    starts: list[int] = []
    num_documents = 0
    with (
        MegatronWriter(folder / "rows", dtype=np.dtype("<u2" if is_small else "<i4")) as writer,
        (folder / "lines.bin").open("wb") as lines,
    ):
        packer = _Packer(writer, recipe) if recipe.layout == "packed" else None
        for batch in _encode(sources, recipe, starts):
            num_documents += len(batch)
            if packer is not None:
                packer.append([placed.tokens for placed in batch])
            else:
                _append_documents(writer, lines, batch)
    facts = {
        "layout": recipe.layout,
        "num_documents": num_documents,
        "num_rows": writer.num_sequences,
        "num_dropped_tokens": 0 if packer is None else packer.num_left,
        "starts": starts,
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _append_documents(writer: MegatronWriter, lines: BinaryIO, batch: Sequence[_Placed]) -> None:
    sizes = np.array([len(placed.tokens) for placed in batch], np.int64)
    writer.append(np.concatenate([placed.tokens for placed in batch]), sizes=sizes)
    lines.write(np.array([placed.line for placed in batch], "<i8").data)


@final
class _Packer:
    """Documents end to end, a separator between them, cut into rows; holds less than one row."""

    def __init__(self, writer: MegatronWriter, recipe: Recipe) -> None:
        self._writer = writer
        self._row_tokens = recipe.row_tokens
        between = [] if recipe.separator_id is None else [recipe.separator_id]
        self._separator = np.array(between, np.int64)
        self._left = np.empty(0, np.int64)
        self._is_first = True

    @property
    def num_left(self) -> int:
        """Tokens that fill no row."""
        return len(self._left)

    def append(self, documents: Sequence[NDArray[np.int64]]) -> None:
        pieces = [self._left]
        for document in documents:
            pieces.extend([document] if self._is_first else [self._separator, document])
            self._is_first = False
        tokens = np.concatenate(pieces)
        num_rows = len(tokens) // self._row_tokens
        whole = num_rows * self._row_tokens
        self._writer.append(tokens[:whole], sizes=np.full(num_rows, self._row_tokens, np.int64))
        self._left = tokens[whole:].copy()


def _encode(sources: Sequence[Source], recipe: Recipe, starts: list[int]) -> Iterator[list[_Placed]]:
    """Batches of tokenized documents; `starts` gets the number of documents before each source."""
    batch: list[tuple[int, Document]] = []
    num_documents = num_characters = num_bytes = 0
    with ProgressBar("tokenizing", total=sum(source.size for source in sources)) as bar:
        for number, source in enumerate(sources):
            starts.append(num_documents)
            for document in read_documents(source, column=recipe.column):
                num_documents += 1
                num_characters += len(document.content)
                batch.append((number, document))
                if len(batch) >= _BATCH_DOCUMENTS or num_characters >= _BATCH_CHARACTERS:
                    yield _encode_batch(batch, sources, recipe)
                    batch, num_characters = [], 0
                bar.show(num_bytes + document.position)
            num_bytes += source.size
        if batch:
            yield _encode_batch(batch, sources, recipe)


def _encode_batch(batch: Sequence[tuple[int, Document]], sources: Sequence[Source], recipe: Recipe) -> list[_Placed]:
    contents = [document.content for _, document in batch]
    texts = [content for content in contents if isinstance(content, str)]
    tokenized: list[NDArray[np.int64]]
    if texts:
        assert recipe.tokenizer is not None and len(texts) == len(contents)
        _refuse_surrogates(batch, sources)
        tokenized = recipe.tokenizer.encode(texts)
    else:
        tokenized = [content for content in contents if not isinstance(content, str)]
    if recipe.bos_id is not None:
        bos = np.array([recipe.bos_id], np.int64)
        tokenized = [np.concatenate([bos, tokens]) for tokens in tokenized]
    return [_Placed(tokens, document.line) for tokens, (_, document) in zip(tokenized, batch, strict=True)]


def _refuse_surrogates(batch: Sequence[tuple[int, Document]], sources: Sequence[Source]) -> None:
    for number, document in batch:
        try:
            str(document.content).encode("utf-8")
        except UnicodeEncodeError as error:
            place = place_document(sources[number], document.line)
            raise CorpusError(
                f"{place}: the text has half a surrogate pair at index {error.start}; expected whole characters"
            ) from error
