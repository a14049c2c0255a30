"""Documents -> which of them are copies of one another, exactly or nearly, across training and held-out files.

Near-exact copies share four fifths of their shingles (`SHINGLE_TOKENS` tokens in a row), by Jaccard's measure of the
two sets. Candidates come from minima of hashes (Broder 1997; the lowest byte of each, Li and Koenig 2010, "b-bit
minwise hashing") in bands of 8 that agree in full, so that of pairs right at the bound 0.3 % are missed, and of more
similar ones fewer; every pair is then measured on the shingles themselves. Clusters are what such pairs link.

Beside the tokens, a document takes 256 bytes. Axes: D documents of both groups, B bands, S shingles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast, final

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

SHINGLE_TOKENS: Final = 5
LEAST_JACCARD: Final = 0.8
_NUM_MINIMA: Final = 256
_BAND_BYTES: Final = 8
_LEAST_EQUAL_BYTES: Final = 179
"""Of 256 minima, 205 agree at the bound; 4 standard deviations fewer are let through to the exact comparison."""
_NEIGHBOURS: Final = 16
"""Documents before one in its band that it is compared with: bounds the work where thousands share a band."""
_MINIMA_AT_ONCE: Final = 2048
_KEPT_SHINGLES: Final = 256
_P = ParamSpec("_P")
_T = TypeVar("_T")
Tokens = NDArray[np.int32]


class TokenDocuments(Protocol):
    """What is asked of documents here."""

    @property
    def num(self) -> int:
        """Documents."""
        ...

    def tokens(self, document: int) -> Tokens:
        """The tokens of one."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """The cluster of near-exact copies of each document; numbers go over both groups."""

    train_D: NDArray[np.int64]
    heldout_D: NDArray[np.int64]
    is_contaminated_D: NDArray[np.bool_]
    """Which held-out documents are copies of a training document, exactly or nearly."""
    num_exact: int
    """Training documents that equal an earlier one."""
    num_near: int
    """Training documents that equal no earlier one, but are near-exact copies of one."""

    def sizes(self) -> NDArray[np.int64]:
        """Training documents by number of the cluster."""
        return np.bincount(self.train_D, minlength=int(self.heldout_D.max(initial=-1)) + 1)


def cluster_documents(train: TokenDocuments, heldout: TokenDocuments) -> Clusters:
    """The clusters of near-exact copies among the documents of both groups."""
    texts = _Texts(train, heldout)
    original_D, is_first_D = _find_exact(texts)
    distinct = np.flatnonzero(is_first_D)
    pairs = np.array(list(_near_pairs(texts, distinct)), np.int64).reshape(-1, 2)
    links = np.concatenate([pairs, np.column_stack([np.arange(len(texts)), original_D])])
    graph = sparse.csr_matrix((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(len(texts),) * 2)
    _, cluster_D = csgraph.connected_components(graph, directed=False)
    train_D, heldout_D = cluster_D[: train.num].astype(np.int64), cluster_D[train.num :].astype(np.int64)
    num_exact = int((~is_first_D[: train.num]).sum())
    return Clusters(
        train_D=train_D,
        heldout_D=heldout_D,
        is_contaminated_D=np.isin(heldout_D, train_D),
        num_exact=num_exact,
        num_near=train.num - num_exact - len(np.unique(train_D)),
    )


@final
class _Texts:
    """The documents of both groups, end to end, and their shingles."""

    def __init__(self, *groups: TokenDocuments) -> None:
        self._groups = groups
        # Neighbours are compared one after the other: what was measured lately comes again.
        self.shingles = lru_cache(maxsize=_KEPT_SHINGLES)(self._shingles)

    def __len__(self) -> int:
        return sum(group.num for group in self._groups)

    def tokens(self, document: int) -> Tokens:
        for group in self._groups:
            if document < group.num:
                return np.ascontiguousarray(group.tokens(document), np.int32)
            document -= group.num
        raise IndexError(document)

    def _shingles(self, document: int) -> NDArray[np.uint64]:
        """A hash of each different shingle, ascending; of a document shorter than one shingle, none."""
        tokens = self.tokens(document)
        return np.unique(_hash_shingles(tokens, np.array([0, len(tokens)], np.int64))[0])


def _find_exact(texts: _Texts) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each document the first that it equals, and whether that is itself."""
    digests = [hashlib.blake2b(texts.tokens(at).tobytes(), digest_size=16).digest() for at in range(len(texts))]
    _, first, number = np.unique(np.array(digests, "V16"), return_index=True, return_inverse=True)
    original_D = first[number.reshape(-1)] if digests else np.zeros(0, np.int64)
    return original_D, original_D == np.arange(len(texts))


def _near_pairs(texts: _Texts, documents: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs of different documents that are near-exact copies, enough of them to link all that are."""
    minima_DM, is_known_D = _sketch(texts, documents)
    documents, minima_DM = documents[is_known_D], minima_DM[is_known_D]
    bands_DB = minima_DM.view(np.uint64)
    root = np.arange(len(documents))
    for band_D in bands_DB.T:
        for bucket in _buckets(band_D):
            for one, other in _candidates(bucket, minima_DM, root):
                if (
                    _jaccard(texts.shingles(int(documents[one])), texts.shingles(int(documents[other])))
                    >= LEAST_JACCARD
                ):
                    root[_find(root, one)] = _find(root, other)
                    yield int(documents[one]), int(documents[other])


def _buckets(band_D: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The documents that agree in a band with another, together."""
    order = np.argsort(band_D, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(band_D[order]) != 0)[: len(order)])
    stops = np.append(starts[1:], len(order))
    for number in np.flatnonzero(stops - starts > 1).tolist():
        yield order[starts[number] : stops[number]]


def _candidates(
    bucket: NDArray[np.int64], minima_DM: NDArray[np.uint8], root: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Pairs of a bucket, of neighbours first, whose minima look near and that nothing links so far."""
    for place in range(1, len(bucket)):
        one = int(bucket[place])
        before = bucket[max(0, place - _NEIGHBOURS) : place][::-1]
        num_equal = (minima_DM[before] == minima_DM[one]).sum(1)
        for other in before[num_equal >= _LEAST_EQUAL_BYTES].tolist():
            if _find(root, one) != _find(root, other):
                yield one, other


def _find(root: NDArray[np.int64], document: int) -> int:
    """The document that stands for a cluster so far; shortens the way to it."""
    while root[document] != document:
        root[document] = root[root[document]]
        document = int(root[document])
    return document


def _sketch(texts: _Texts, documents: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The lowest bytes of the minima, uint8 [D, 256], and which documents [D] have a shingle at all."""
    generator = np.random.default_rng(0)
    factors = generator.integers(0, 2**31, _NUM_MINIMA, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    flips = generator.integers(0, 2**32, _NUM_MINIMA, dtype=np.uint32)
    minima_DM = np.empty((len(documents), _NUM_MINIMA), np.uint8)
    is_known_D = np.empty(len(documents), np.bool_)
    for start in range(0, len(documents), _MINIMA_AT_ONCE):
        tokens = [texts.tokens(at) for at in documents[start : start + _MINIMA_AT_ONCE].tolist()]
        ends = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        hashes, stops = _hash_shingles(np.concatenate(tokens), ends)
        part = slice(start, start + len(tokens))
        _find_minima(hashes, stops, factors, flips, minima_DM[part])
        is_known_D[part] = np.diff(stops) > 0
    return minima_DM, is_known_D


def _compiled(function: Callable[_P, _T]) -> Callable[_P, _T]:
    try:
        return cast("Callable[_P, _T]", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no writable place for the cache
        return cast("Callable[_P, _T]", numba.njit(nogil=True)(function))


@_compiled
def _hash_shingles(tokens: Any, ends: Any) -> Any:
    """64 bits of each shingle, document after document, and where each document's begin and end."""
    stops = np.zeros(len(ends), np.int64)
    for document in range(len(ends) - 1):
        size = ends[document + 1] - ends[document]
        stops[document + 1] = stops[document] + max(size - SHINGLE_TOKENS + 1, 0)
    hashes = np.empty(stops[-1], np.uint64)
    for document in range(len(ends) - 1):
        for place in range(stops[document + 1] - stops[document]):
            start, word = ends[document] + place, np.uint64(0x9E3779B97F4A7C15)
            for index in range(SHINGLE_TOKENS):
                word = (word ^ np.uint64(tokens[start + index])) * np.uint64(0xBF58476D1CE4E5B9)
                word ^= word >> np.uint64(29)
            word *= np.uint64(0x94D049BB133111EB)
            hashes[stops[document] + place] = word ^ (word >> np.uint64(32))
    return hashes, stops


@_compiled
def _find_minima(hashes: Any, stops: Any, factors: Any, flips: Any, minima_DM: Any) -> None:
    """Fill the lowest bytes of each document's minima under 256 permutations of 32 bits."""
    smallest = np.empty(len(factors), np.uint32)
    for document in range(len(stops) - 1):
        smallest[:] = np.uint32(0xFFFFFFFF)
        for place in range(stops[document], stops[document + 1]):
            word = np.uint32(hashes[place] & np.uint64(0xFFFFFFFF))
            for number in range(len(factors)):
                permuted = np.uint32((word ^ flips[number]) * factors[number])
                smallest[number] = min(smallest[number], permuted)
        for number in range(len(factors)):
            minima_DM[document, number] = np.uint8(smallest[number] & np.uint32(0xFF))


@_compiled
def _jaccard(left: Any, right: Any) -> Any:
    """Shared over all members of two ascending sets."""
    num_shared, one, other = 0, 0, 0
    while one < len(left) and other < len(right):
        if left[one] == right[other]:
            num_shared += 1
            one += 1
            other += 1
        elif left[one] < right[other]:
            one += 1
        else:
            other += 1
    return num_shared / (len(left) + len(right) - num_shared)
