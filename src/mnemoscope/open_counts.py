"""Sequences of mode `two-phase` whose num_matched the first phase leaves open: what the graded of them stand for.

The first mismatch of every sequence is known. It decides num_matched of a cell where it is not before the cell's last
token: such sequences are counted. The others are *open* there: their num_matched is known of those that were graded.
Within a stratum of open sequences that were graded with one probability, a Poisson sample of a given size is a simple
random one, so that each graded sequence stands for open / graded of them: the poststratified estimate (Holt and Smith
1979, Journal of the Royal Statistical Society A 142:33; Sarndal, Swensson and Wretman 1992, sections 7.6 and 9.4). It
leaves full matches, which are known, as they are, and is that of Horvitz and Thompson with the probability replaced by
the share that was really graded.

Axes: G strata of open sequences, X places (scores, or pairs of them), R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.errors import StoreError
from mnemoscope.shards import is_graded

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OpenCounts:
    """Open sequences by stratum, and the graded ones of them by place; `+` merges parts, in any order."""

    num_open: IntArray
    """int64 [G], graded or not."""
    graded: IntArray
    """int64 [G, X]."""

    def __add__(self, other: OpenCounts) -> OpenCounts:
        return OpenCounts(self.num_open + other.num_open, self.graded + other.graded)

    def __sub__(self, other: OpenCounts) -> OpenCounts:
        return OpenCounts(self.num_open - other.num_open, self.graded - other.graded)

    @property
    def num_graded(self) -> IntArray:
        """int64 [G]."""
        return self.graded.sum(axis=1)

    @property
    def is_complete(self) -> bool:
        """Whether every open sequence was graded: then everything is counted and nothing estimated."""
        return bool((self.num_open == self.num_graded).all())

    @property
    def is_estimable(self) -> bool:
        """Whether no stratum with open sequences lacks a graded one."""
        return not ((self.num_open > 0) & (self.num_graded == 0)).any()

    @property
    def weights(self) -> FloatArray:
        """Open sequences that a graded one stands for, float64 [G]; 0 in a stratum without any."""
        return self.num_open / np.maximum(self.num_graded, 1)

    def merged(self, num_probabilities: int) -> OpenCounts:
        """The same with what is open and has nobody graded put to the nearest probability that has, where one does.

        Strata are ordered by what else they were cut by, and then by probability.
        """
        num_open, num_graded = self.num_open.copy(), self.num_graded
        for g in np.flatnonzero((num_open > 0) & (num_graded == 0)).tolist():
            start = g - g % num_probabilities
            donors = start + np.flatnonzero(num_graded[start : start + num_probabilities])
            if len(donors):
                num_open[donors[np.argmin(np.abs(donors - g))]] += num_open[g]
                num_open[g] = 0
        return OpenCounts(num_open, self.graded)

    def estimate(self, decided_X: IntArray) -> FloatArray | IntArray:
        """All sequences by place, those that the first phase decides included: integers where nothing is estimated."""
        if self.is_complete:
            return decided_X + self.graded.sum(axis=0)
        return decided_X + self.weights @ self.graded


class OpenRows(NamedTuple):
    """Of R rows of scores of mode `two-phase`, from what they were drawn and whether they are graded."""

    stratum_R: IntArray
    """Index of the row's probability among all there are."""
    is_graded_R: BoolArray
    num_probabilities: int


def open_rows(table: pa.Table, probabilities: Sequence[float]) -> OpenRows:
    """What a table says of the second phase; `probabilities` are those of the study."""
    known = np.unique(probabilities)
    found_R = table.column("inclusion_probability").to_numpy()
    stratum_R = np.searchsorted(known, found_R)
    if not np.isin(found_R, known).all():
        raise StoreError("scores have inclusion probabilities that are not the study's; expected those of one study")
    return OpenRows(stratum_R.astype(np.int64), is_graded(table), len(known))


def count_open(stratum_R: IntArray, place_R: IntArray, *, num_strata: int, num_places: int) -> OpenCounts:
    """The open rows among some: those with a stratum, not -1; graded where they have a place."""
    stratum, place = stratum_R[stratum_R >= 0], place_R[stratum_R >= 0]
    cell = (stratum * num_places + place)[place >= 0]
    return OpenCounts(
        np.bincount(stratum, minlength=num_strata),
        np.bincount(cell, minlength=num_strata * num_places).reshape(num_strata, num_places),
    )
