"""Megatron's .bin and .idx: sequences of any length, end to end, and an index of where each begins.

The .idx is: magic, u64 version 1, u8 code of the integer, u64 number of sequences S, u64 number of document
boundaries D, i32 sizes [S] in tokens, i64 pointers [S] in bytes, i64 document boundaries [D]; newer writers
add an i8 mode per sequence. (NVIDIA's Megatron-LM, indexed_dataset; EleutherAI's gpt-neox writes the same.)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.parts import Parts
from mnemoscope.errors import CorpusError

_MAGIC: Final = b"MMIDIDX\x00\x00"
_HEADER: Final = struct.Struct("<9sQBQQ")
_DTYPES: Final = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_FLOATS: Final = (6, 7)
_CHUNK_SEQUENCES: Final = 1 << 20


@final
class MegatronIndex:
    """The .idx, read where it lies: its header is checked here, its entries by `check`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.name = parts.name
        if parts.size < _HEADER.size:
            raise CorpusError(
                f"{self.name}: {parts.size} bytes; expected an .idx header of {_HEADER.size} bytes: truncated"
            )
        magic, version, code, self.num_sequences, num_documents = _HEADER.unpack(parts.read(0, _HEADER.size).tobytes())
        if magic != _MAGIC:
            raise CorpusError(f"{self.name}: wrong magic {magic!r}; expected {_MAGIC!r}, a Megatron .idx")
        if version != 1:
            raise CorpusError(f"{self.name}: version {version} given; expected version 1")
        if code not in _DTYPES:
            what = "a float" if code in _FLOATS else "unknown"
            raise CorpusError(f"{self.name}: dtype code {code} is {what}; expected an integer's: {sorted(_DTYPES)}")
        self.dtype = np.dtype(_DTYPES[code])
        self._sizes_at = _HEADER.size
        self._pointers_at = self._sizes_at + 4 * self.num_sequences
        expected = self._pointers_at + 8 * self.num_sequences + 8 * num_documents
        if parts.size not in (expected, expected + self.num_sequences):
            raise CorpusError(
                f"{self.name}: {parts.size} bytes found; expected {expected} "
                f"for the {self.num_sequences} sequences and {num_documents} documents its header names: "
                "truncated, or the header lies"
            )
        if self.num_sequences == 0:
            raise CorpusError(f"{self.name}: holds no sequences; expected at least one")

    def sizes(self, start: int, stop: int) -> NDArray[np.int32]:
        """Lengths of sequences start to stop, in tokens."""
        return self._parts.read(self._sizes_at + 4 * start, self._sizes_at + 4 * stop).view("<i4")

    def pointers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Where sequences start to stop begin in the .bin, in bytes."""
        return self._parts.read(self._pointers_at + 8 * start, self._pointers_at + 8 * stop).view("<i8")

    def check(self, data: Parts) -> None:
        """CorpusError unless the sequences lie end to end and fill the .bin; a million entries at a time."""
        end = 0
        for start in range(0, self.num_sequences, _CHUNK_SEQUENCES):
            stop = min(start + _CHUNK_SEQUENCES, self.num_sequences)
            sizes = self.sizes(start, stop).astype(np.int64)
            self._refuse_first(sizes < 0, start, sizes, "a size of 0 or more")
            ends = end + np.cumsum(sizes) * self.dtype.itemsize
            begins = ends - sizes * self.dtype.itemsize
            pointers = self.pointers(start, stop)
            self._refuse_first(pointers != begins, start, pointers, "its pointer at the sum of the sizes before it")
            self._refuse_first(ends > data.size, start, ends, f"an end within the {data.size} bytes of {data.name}")
            end = int(ends[-1])
        if end != data.size:
            raise CorpusError(
                f"{data.name}: {data.size} bytes found; expected {end}, the sum of the sizes in {self.name}"
            )

    def _refuse_first(self, wrong: NDArray[np.bool_], start: int, found: NDArray[np.int64], expected: str) -> None:
        if wrong.any():
            first = int(np.argmax(wrong))
            raise CorpusError(f"{self.name}: sequence {start + first} has {int(found[first])}; expected {expected}")


@final
class MegatronRows:
    """The sequences of one .bin (or of its parts end to end) as its .idx tells them."""

    def __init__(self, data: Parts, index: MegatronIndex) -> None:
        index.check(data)
        self._data = data
        self._index = index

    def __len__(self) -> int:
        return self._index.num_sequences

    def tokens(self, start: int, stop: int) -> Sequence[NDArray[np.integer]]:
        """Rows start to stop, as views of the mapped file where it is local."""
        if start == stop:
            return []
        stops = np.cumsum(self._index.sizes(start, stop), dtype=np.int64)
        first = int(self._index.pointers(start, start + 1)[0])
        item_bytes = self._index.dtype.itemsize
        block = self._data.read(first, first + int(stops[-1]) * item_bytes).view(self._index.dtype)
        return np.split(block, stops[:-1])

    def place(self, row: int) -> str:
        """The file and row that messages name."""
        return f"{self._data.name_at(int(self._index.pointers(row, row + 1)[0]))}, row {row}"


@final
class MegatronWriter:
    """Writes a .bin and an .idx as sequences come, holding none of them; `close` completes the .idx."""

    def __init__(self, stem: Path, *, dtype: np.dtype) -> None:
        self._stem = stem
        self._dtype = dtype.newbyteorder("<")
        self._code = {np.dtype(name): code for code, name in _DTYPES.items()}[self._dtype]
        self._data = stem.with_suffix(".bin").open("wb")
        self._sizes = stem.with_suffix(".sizes").open("wb")
        self.num_sequences = 0

    def __enter__(self) -> MegatronWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        self._sizes.close()
        if error is None:
            self._write_index()
        self._stem.with_suffix(".sizes").unlink()

    def append(self, tokens: NDArray[np.integer], *, sizes: NDArray[np.integer]) -> None:
        """Write sequences given end to end, with their lengths."""
        assert int(sizes.sum()) == len(tokens), (int(sizes.sum()), len(tokens))
        self._data.write(tokens.astype(self._dtype).data)
        self._sizes.write(sizes.astype("<i4").data)
        self.num_sequences += len(sizes)

    def _write_index(self) -> None:
        sizes = self._stem.with_suffix(".sizes")
        with self._stem.with_suffix(".idx").open("wb") as index, sizes.open("rb") as sizes_file:
            index.write(_HEADER.pack(_MAGIC, 1, self._code, self.num_sequences, self.num_sequences + 1))
            while chunk := sizes_file.read(4 * _CHUNK_SEQUENCES):
                index.write(chunk)
            sizes_file.seek(0)
            end = 0
            while chunk := sizes_file.read(4 * _CHUNK_SEQUENCES):
                stops = end + np.cumsum(np.frombuffer(chunk, "<i4"), dtype=np.int64) * self._dtype.itemsize
                index.write(np.concatenate([[end], stops[:-1]]).astype("<i8").data)
                end = int(stops[-1])
            for start in range(0, self.num_sequences + 1, _CHUNK_SEQUENCES):
                stop = min(start + _CHUNK_SEQUENCES, self.num_sequences + 1)
                index.write(np.arange(start, stop, dtype="<i8").data)
