"""Several files as one long run of bytes: mapped where they are local, read by ranges where they are not."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.sources import Source, reason
from mnemoscope.errors import CorpusError

# Mapped pages that were read stay resident until the system wants them back; giving them up after so many
# bytes keeps the process small however long the sweep, and they are still in the system's cache. A page fault
# maps its neighbours too: about so many bytes beside what was asked for.
_RESIDENT_BYTES = 16 << 20
_FAULT_BYTES = 64 << 10
# The system's own reading ahead may take megabytes around each fault: measured on one disk, 7 ms a row for rows
# drawn at random, 0.02 ms without. So it is off, and what a read asks for is asked of the system at once.
_AHEAD_BYTES = 64 << 20


@final
class Parts:
    """Files end to end; reading within one local file gives a view of its mapping, no copy."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._stops = list(accumulate(source.size for source in sources))
        self._mappings = [_Mapping(source) if source.is_local else None for source in sources]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self._stops[-1]

    @property
    def name(self) -> str:
        """The address, or the first and the last of several."""
        first, last = self.sources[0].address, self.sources[-1].address
        return first if len(self.sources) == 1 else f"{first} ... {last}"

    def name_at(self, position: int) -> str:
        """The address of the part that holds the byte at `position`."""
        return self.sources[min(bisect_right(self._stops, position), len(self.sources) - 1)].address

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes start to stop, uint8, read-only; the range must lie within `size`."""
        pieces = [self._read_part(*piece) for piece in self._pieces(start, stop)]
        if not pieces:
            return np.empty(0, np.uint8)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def copy(self, start: int, stop: int) -> bytes:
        """The same bytes, read rather than mapped: quicker where each is looked at once, and none stays."""
        return b"".join(self.sources[part].read(first, last) for part, first, last in self._pieces(start, stop))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts that a range touches, each with the range's own start and stop in it."""
        assert 0 <= start <= stop <= self.size, (start, stop, self.size)
        while start < stop:
            part = bisect_right(self._stops, start)
            end = min(stop, self._stops[part])
            first = self._stops[part] - self.sources[part].size
            yield part, start - first, end - first
            start = end

    def _read_part(self, part: int, start: int, stop: int) -> NDArray[np.uint8]:
        mapping = self._mappings[part]
        if mapping is not None:
            return mapping.read(start, stop)
        return np.frombuffer(self.sources[part].read(start, stop), np.uint8)


@final
class _Mapping:
    """One local file, mapped read-only."""

    def __init__(self, source: Source) -> None:
        self._num_read = 0
        self._map: mmap.mmap | None = None
        self._bytes = np.empty(0, np.uint8)
        if source.size == 0:  # which the system refuses to map
            return
        try:
            with Path(source.path).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), source.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CorpusError(f"{source.address}: cannot be mapped ({reason(error)})") from error
        self._bytes = np.frombuffer(self._map, np.uint8)
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._num_read += stop - start + _FAULT_BYTES
            if self._num_read > _RESIDENT_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._num_read = 0
            if stop - start >= _FAULT_BYTES:
                begin = start - start % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, begin, min(stop - begin, _AHEAD_BYTES))
        return self._bytes[start:stop]
