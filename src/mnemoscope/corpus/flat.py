"""Bytes without a structure of their own -> rows of one length: Pythia's document.bin, the data of a .npy.

Parts of a split document.bin are raw cuts of one file, so a row may lie across two of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.sources import Source
from mnemoscope.errors import CorpusError

PART_NAME = re.compile(r"-(\d+)-of-(\d+)(?=\.bin$)", re.IGNORECASE)


@final
class FlatRows:
    """Rows of `row_tokens` integers, one after the other from byte `first_byte` on."""

    def __init__(self, parts: Parts, *, dtype: np.dtype, row_tokens: int, first_byte: int = 0) -> None:
        self._parts = parts
        self._dtype = dtype
        self._row_bytes = row_tokens * dtype.itemsize
        self._first_byte = first_byte
        self.row_tokens = row_tokens
        self._num_rows = (parts.size - first_byte) // self._row_bytes

    def __len__(self) -> int:
        return self._num_rows

    def tokens(self, start: int, stop: int) -> Sequence[NDArray[np.integer]]:
        """Rows start to stop, as views of the mapped file where it is local."""
        first = self._first_byte + start * self._row_bytes
        block = self._parts.read(first, first + (stop - start) * self._row_bytes)
        return list(block.view(self._dtype).reshape(stop - start, self.row_tokens))

    def place(self, row: int) -> str:
        """The file and row that messages name."""
        name = self._parts.name_at(self._first_byte + row * self._row_bytes)
        return f"{name}, row {row}"


def open_document(sources: Sequence[Source], *, token_dtype: str, row_tokens: int) -> FlatRows:
    """Rows of a headerless .bin, whole or in parts; CorpusError where its size is no whole number of rows."""
    check_parts(sources)
    parts = Parts(sources)
    dtype = np.dtype(token_dtype).newbyteorder("<")
    row_bytes = row_tokens * dtype.itemsize
    if parts.size % row_bytes:
        raise CorpusError(
            f"{parts.name}: {parts.size} bytes are {parts.size // row_bytes} rows "
            f"and {parts.size % row_bytes} bytes over; "
            f"expected whole rows of {row_tokens} {token_dtype} tokens ({row_bytes} bytes): "
            "the file is truncated, or row_tokens or token_dtype differ"
        )
    return FlatRows(parts, dtype=dtype, row_tokens=row_tokens)


def check_parts(sources: Sequence[Source]) -> None:
    """CorpusError where numbered parts (NAME-00002-of-00020.bin) do not come in order from 0 without gap."""
    for expected, source in enumerate(sources):
        numbers = PART_NAME.search(source.plain_name)
        if numbers is None:
            return
        if int(numbers[1]) != expected:
            raise CorpusError(
                f"{source.address}: part {int(numbers[1])} given "
                f"where part {expected} of {int(numbers[2])} comes next; "
                "expected the parts from 0 on, in order (a row may lie across two)"
            )
