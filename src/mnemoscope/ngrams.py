"""The distinct n-grams of a sample in a hash table, and how often each occurs in rows of tokens.

An n-gram's key is a rolling polynomial in 64 bits. For n of 1 and 2 the multiplier 2^32 makes the key the n-gram
itself; longer n-grams are compared token by token wherever keys agree, so every count is exact. A bitmap that fits
the second-level cache holds off most n-grams that nobody asked for. Positions are handled in blocks: first all keys,
then all table lines, then all comparisons, so that waits for memory overlap.

Axes: R rows of the sample, W window tokens, P = W - n + 1 places of an n-gram in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast, final

import numba
import numpy as np
from numpy.typing import NDArray

_P = ParamSpec("_P")
_T = TypeVar("_T")

PACKING: Final = 1 << 32
"""The multiplier under which the key of one or two tokens is the tokens themselves."""
_EMPTY: Final = np.uint64(2**64 - 1)
_ZERO: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_SIX: Final = np.uint64(6)
_FOLD: Final = np.uint64(29)
_HALF: Final = np.uint64(32)
_LOW_BITS: Final = np.uint64(63)
_BLOCK: Final = 512
_SLOTS_PER_NGRAM: Final = 2.5
_FILTER_BITS_PER_NGRAM: Final = 16
_MAX_FILTER_BITS: Final = 22
"""2^22 bits are 512 KiB: what leaves a second-level cache room for the tokens."""


class Hashing(NamedTuple):
    """Constants of the hash; any two are exact, good ones are fast."""

    multiplier: int = 0x9E6C63D0876A9A47
    """Base of the polynomial for n over 2, odd."""
    spread: int = 0xD6E8FEB86659FD93
    """What a key is multiplied with to find its slot, odd."""


HASHING: Final = Hashing()


@final
@dataclass(frozen=True, eq=False)
class NgramTable:
    """The distinct n-grams of a sample, numbered in the order of their first places."""

    n: int
    """Tokens of an n-gram."""
    sample: NDArray[np.uint32]
    """The sample's tokens, [R x W]."""
    first_places: NDArray[np.int64]
    """Where in the sample each distinct n-gram starts first."""
    number_RP: NDArray[np.int32]
    """The number of the n-gram that starts at each place of each window."""
    keys: NDArray[np.uint64]
    """The key of each distinct n-gram."""
    slots: NDArray[np.int32]
    """The hash table: the number of the n-gram in each slot, -1 where empty."""
    filter_words: NDArray[np.uint64]
    """One bit set per n-gram, at the leading bits of its hash."""
    multiplier: int
    spread: int

    def __len__(self) -> int:
        return len(self.keys)


@final
class Tally:
    """How often each n-gram of a table has occurred so far."""

    def __init__(self, table: NgramTable) -> None:
        self._table = table
        # Key and count of a slot lie side by side, so that a hit waits for memory once.
        self._entries = np.zeros((len(table.slots), 2), np.uint64)
        is_full = table.slots >= 0
        self._entries[:, 0] = _EMPTY
        self._entries[is_full, 0] = table.keys[table.slots[is_full]]

    def add(self, tokens: NDArray[np.uint32], row_starts: NDArray[np.int64]) -> None:
        """Count the rows tokens[row_starts[i] : row_starts[i + 1]]."""
        table = self._table
        _tally(
            tokens,
            row_starts,
            table.n,
            np.uint64(table.multiplier),
            np.uint64(table.spread),
            table.filter_words,
            self._entries,
            table.slots,
            table.first_places,
            table.sample,
        )

    def counts(self) -> NDArray[np.int64]:
        """Occurrences of each distinct n-gram, by its number."""
        counts = np.zeros(len(self._table), np.int64)
        is_full = self._table.slots >= 0
        counts[self._table.slots[is_full]] = self._entries[is_full, 1].astype(np.int64)
        return counts


def index_ngrams(tokens_RW: NDArray[np.uint32], n: int, *, hashing: Hashing = HASHING) -> NgramTable:
    """The table of the distinct n-grams of windows, 1 <= n <= W."""
    num_rows, width = tokens_RW.shape
    num_places = num_rows * (width - n + 1)
    sample = np.ascontiguousarray(tokens_RW).reshape(-1)
    multiplier = PACKING if n <= 2 else hashing.multiplier
    keys, first_places = np.empty(num_places, np.uint64), np.empty(num_places, np.int64)
    number_RP = np.empty((num_rows, width - n + 1), np.int32)
    constants = np.uint64(multiplier), np.uint64(hashing.spread)
    num_ngrams = _number(sample, width, n, *constants, _empty_slots(num_places), keys, first_places, number_RP)
    keys, first_places = keys[:num_ngrams].copy(), first_places[:num_ngrams].copy()
    slots, filter_words = _empty_slots(num_ngrams), _empty_filter(num_ngrams)
    _place(keys, np.uint64(hashing.spread), slots, filter_words)
    return NgramTable(n, sample, first_places, number_RP, keys, slots, filter_words, multiplier, hashing.spread)


def _empty_slots(num_ngrams: int) -> NDArray[np.int32]:
    """A table with room to spare: a search ends at an empty slot."""
    return np.full(int(num_ngrams * _SLOTS_PER_NGRAM) + 2, -1, np.int32)


def _empty_filter(num_ngrams: int) -> NDArray[np.uint64]:
    num_bits = min(max(6, (num_ngrams * _FILTER_BITS_PER_NGRAM).bit_length()), _MAX_FILTER_BITS)
    return np.zeros(1 << (num_bits - 6), np.uint64)


def _compiled(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function as machine code, kept for the next process where the disk allows it; releases the GIL."""
    try:
        return cast("Callable[_P, _T]", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no writable place for the cache: a read-only installation without a home
        return cast("Callable[_P, _T]", numba.njit(nogil=True)(function))


@_compiled
def _mix(key: Any, spread: Any) -> Any:
    return (key ^ (key >> _FOLD)) * spread


@_compiled
def _slot(mixed: Any, num_slots: Any) -> Any:
    return ((mixed >> _HALF) * num_slots) >> _HALF


@_compiled
def _filter_shift(filter_words: Any) -> Any:
    """By how much a mixed key is shifted to give its bit in the filter."""
    shift = 64 - 6
    size = len(filter_words)
    while size > 1:
        size >>= 1
        shift -= 1
    return np.uint64(shift)


@_compiled
def _is_same(left: Any, left_start: Any, right: Any, right_start: Any, n: Any) -> Any:
    for index in range(n):  # noqa: SIM110  (compiled: a plain loop is the fast one)
        if left[left_start + index] != right[right_start + index]:
            return False
    return True


@_compiled
def _power(multiplier: Any, exponent: Any) -> Any:
    power = _ONE
    for _ in range(exponent):
        power *= multiplier
    return power


@_compiled
def _number(  # noqa: PLR0917  (numba passes by position)
    sample: Any,
    width: Any,
    n: Any,
    multiplier: Any,
    spread: Any,
    slots: Any,
    keys: Any,
    first_places: Any,
    number_RP: Any,
) -> Any:
    """Fill keys, first_places and number_RP from the sample; how many distinct n-grams there are."""
    num_slots = np.uint64(len(slots))
    oldest = _power(multiplier, n - 1)
    num_ngrams = 0
    for row in range(number_RP.shape[0]):
        key = _ZERO
        for index in range(width):
            key = key * multiplier + np.uint64(sample[row * width + index])
            place = index - n + 1
            if place < 0:
                continue
            start = row * width + place
            stored = _ZERO if key == _EMPTY else key
            slot = _slot(_mix(stored, spread), num_slots)
            number = slots[slot]
            while number >= 0:
                if keys[number] == stored and (n <= 2 or _is_same(sample, start, sample, first_places[number], n)):
                    break
                slot += _ONE
                if slot == num_slots:
                    slot = _ZERO
                number = slots[slot]
            if number < 0:
                number = num_ngrams
                slots[slot] = number
                keys[number] = stored
                first_places[number] = start
                num_ngrams += 1
            number_RP[row, place] = number
            key -= oldest * np.uint64(sample[start])
    return num_ngrams


@_compiled
def _place(keys: Any, spread: Any, slots: Any, filter_words: Any) -> None:
    """Put the numbers of distinct n-grams into slots, and their bits into the filter."""
    num_slots = np.uint64(len(slots))
    shift = _filter_shift(filter_words)
    for number in range(len(keys)):
        mixed = _mix(keys[number], spread)
        bit = mixed >> shift
        filter_words[bit >> _SIX] |= _ONE << (bit & _LOW_BITS)
        slot = _slot(mixed, num_slots)
        while slots[slot] >= 0:
            slot += _ONE
            if slot == num_slots:
                slot = _ZERO
        slots[slot] = number


@_compiled
def _tally(  # noqa: PLR0917  (numba passes by position)
    tokens: Any,
    row_starts: Any,
    n: Any,
    multiplier: Any,
    spread: Any,
    filter_words: Any,
    entries: Any,
    slots: Any,
    first_places: Any,
    sample: Any,
) -> None:
    """Add to entries[:, 1] the occurrences in the rows of the n-grams whose keys are in entries[:, 0]."""
    num_slots = np.uint64(len(slots))
    shift = _filter_shift(filter_words)
    oldest = _power(multiplier, n - 1)
    block_keys = np.empty(_BLOCK, np.uint64)
    block_slots = np.empty(_BLOCK, np.uint64)
    block_places = np.empty(_BLOCK, np.int64)
    block_stored = np.empty(_BLOCK, np.uint64)
    for row in range(len(row_starts) - 1):
        start, stop = row_starts[row], row_starts[row + 1]
        if stop - start < n:
            continue
        key = _ZERO
        for index in range(start, start + n - 1):
            key = key * multiplier + np.uint64(tokens[index])
        for block in range(start, stop - n + 1, _BLOCK):
            num_asked = 0
            for place in range(block, min(block + _BLOCK, stop - n + 1)):
                key = key * multiplier + np.uint64(tokens[place + n - 1])
                wanted = _ZERO if key == _EMPTY else key
                mixed = _mix(wanted, spread)
                bit = mixed >> shift
                block_keys[num_asked] = wanted
                block_slots[num_asked] = _slot(mixed, num_slots)
                block_places[num_asked] = place
                num_asked += np.int64((filter_words[bit >> _SIX] >> (bit & _LOW_BITS)) & _ONE)
                key -= oldest * np.uint64(tokens[place])
            for asked in range(num_asked):
                block_stored[asked] = entries[block_slots[asked], 0]
            for asked in range(num_asked):
                slot, stored = block_slots[asked], block_stored[asked]
                while stored != _EMPTY:
                    if stored == block_keys[asked] and (
                        n <= 2 or _is_same(tokens, block_places[asked], sample, first_places[slots[slot]], n)
                    ):
                        entries[slot, 1] += _ONE
                        break
                    slot += _ONE
                    if slot == num_slots:
                        slot = _ZERO
                    stored = entries[slot, 0]
