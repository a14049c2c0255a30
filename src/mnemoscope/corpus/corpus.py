"""Rows of tokens, wherever they lie: what the rest of the program knows of a corpus."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.flat import FlatRows
from mnemoscope.corpus.megatron import MegatronRows
from mnemoscope.corpus.tables import TableRows
from mnemoscope.corpus.tokenized import TokenizedRows
from mnemoscope.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Rows = FlatRows | MegatronRows | TableRows | TokenizedRows


@final
class Corpus:
    """The rows of one or several files, end to end; row numbers are sequence ids."""

    def __init__(self, members: Sequence[Rows], *, fingerprint: str, tokenizer: Tokenizer | None = None) -> None:
        self._members = tuple(members)
        self._stops = list(accumulate(len(member) for member in members))
        self.fingerprint = fingerprint
        """sha256, hex, of the content and the settings that decide tokens; not of names, places or times."""
        self.tokenizer = tokenizer
        """What turns tokens into text for readers; None where none is known."""

    def __len__(self) -> int:
        return self._stops[-1]

    @property
    def num_dropped_tokens(self) -> int:
        """Tokens at the end of packed text that fill no row; 0 for other corpora."""
        return sum(member.num_dropped_tokens for member in self._members if isinstance(member, TokenizedRows))

    def tokens(self, start: int, stop: int) -> Sequence[NDArray[np.integer]]:
        """Rows start to stop, each a 1-D integer array of its own length; views where the file is mapped.

        Raises CorpusError for a range outside the corpus, and for a negative token id.
        """
        if not 0 <= start <= stop <= len(self):
            raise CorpusError(f"rows {start} to {stop} asked for; the corpus holds rows 0 to {len(self) - 1}")
        rows: list[NDArray[np.integer]] = []
        first = start
        while start < stop:
            member, own_start = self._locate(start)
            end = min(stop, start + len(member) - own_start)
            rows.extend(member.tokens(own_start, own_start + end - start))
            start = end
        self._refuse_negative(rows, first)
        return rows

    def text(self, tokens: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of token ids; CorpusError where no tokenizer is known."""
        if self.tokenizer is None:
            raise CorpusError("the corpus has no tokenizer to turn tokens into text; set `tokenizer`")
        return self.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False)

    def place(self, row: int) -> str:
        """The file, and the row or line in it, that messages name."""
        member, own_row = self._locate(row)
        return member.place(own_row)

    def line(self, row: int) -> int:
        """Its line in a file of JSON lines, from 1; else its row in its file, from 0."""
        member, own_row = self._locate(row)
        return member.line(own_row) if isinstance(member, TokenizedRows) else own_row

    def _locate(self, row: int) -> tuple[Rows, int]:
        number = bisect_right(self._stops, row)
        member = self._members[number]
        return member, row - (self._stops[number] - len(member))

    def _refuse_negative(self, rows: Sequence[NDArray[np.integer]], first: int) -> None:
        for number, row in enumerate(rows):
            if row.dtype.kind == "i" and row.size and row.min() < 0:
                index = int(np.argmax(row < 0))
                raise CorpusError(
                    f"{self.place(first + number)}: token id {int(row[index])} at index {index}; expected 0 or more"
                )
