"""How many sequences a random sample needs for an interval of a wanted width: full matches, and their excess.

A sample is drawn without replacement from all sequences, so that it says more than its size the more of them it has
(finite population), and less the more duplicates it holds (design effect). Both turn its size into an effective one,
from which Wilson's interval is taken: the same interval that the analyses print. All pure.

Axes: R rows of a pilot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnemoscope.intervals import Interval, normal_quantile, wilson


class Population(NamedTuple):
    """What a sample is drawn from, and what a pilot of it says about duplicates."""

    num_sequences: int
    pilot_design_effect: float = 1.0
    """Of the pilot's rows, see `design_effect`."""
    num_pilot: int = 0
    """Rows of that pilot."""

    def duplicates_effect(self, num_sampled: int) -> float:
        """The design effect of a sample: the number of pairs of duplicates grows with its square, the rest evenly."""
        if self.num_pilot < 2:
            return 1.0
        return 1 + (self.pilot_design_effect - 1) * (num_sampled - 1) / (self.num_pilot - 1)

    def effective_size(self, num_sampled: int) -> float:
        """Independent draws that say as much as a sample does; infinite for all sequences.

        Cochran, Sampling Techniques (1977), section 2.6: variance S^2 / n x (N - n) / N with S^2 = N / (N - 1) p q.
        """
        if num_sampled >= self.num_sequences:
            return math.inf
        correction = (self.num_sequences - 1) / (self.num_sequences - num_sampled)
        return num_sampled / self.duplicates_effect(num_sampled) * correction


class ExcessSize(NamedTuple):
    """How many members and how many of the control an excess needs."""

    num_members: int
    num_control: int
    within: float
    """Half the width of its interval then; more than was wanted where the control does not have enough."""


def half_width(share: float, effective: float, level: float = 0.95) -> float:
    """Half the width of Wilson's interval for a share of that many independent draws, 0 for infinitely many.

    Wilson (1927), Journal of the American Statistical Association 22:209; as a size: Piegorsch (2004), Computational
    Statistics and Data Analysis 46:309.
    """
    if math.isinf(effective):
        return 0.0
    z = normal_quantile(level)
    return z / (effective + z * z) * math.sqrt(effective * share * (1 - share) + z * z / 4)


def sample_size(share: float, within: float, population: Population, *, level: float = 0.95) -> int:
    """The smallest sample whose interval of a share reaches at most `within` to either side of its middle.

    Shares and `within` are fractions of 1. At most all sequences, of which nothing is unknown.
    """
    return _smallest(
        population.num_sequences,
        lambda size: half_width(share, population.effective_size(size), level) <= within,
    )


def reach(share: float, num_sampled: int, population: Population, *, level: float = 0.95) -> float:
    """Half the width of the interval that a sample of some size gives for a share."""
    return half_width(share, population.effective_size(num_sampled), level)


def excess_size(
    share: float,
    control_share: float,
    within: float,
    *,
    members: Population,
    control: Population,
    level: float = 0.95,
) -> ExcessSize:
    """The smallest samples of equal size whose interval of the excess is at most 2 x `within` wide.

    One that has fewer gives all. The members are a finite population; the control stands for all text that was never
    seen, so that even all of it is a sample. Newcombe (1998), Statistics in Medicine 17:873, method 10.
    """

    def width(size: int) -> float:
        num_members, num_control = min(size, members.num_sequences), min(size, control.num_sequences)
        own = members.effective_size(num_members)
        other = num_control / control.duplicates_effect(num_control)
        return _excess_half_width(share, own, control_share, other, level)

    size = _smallest(max(members.num_sequences, control.num_sequences), lambda number: width(number) <= within)
    return ExcessSize(min(size, members.num_sequences), min(size, control.num_sequences), width(size))


def design_effect(matched_R: NDArray[np.bool_], cluster_R: NDArray[np.int64]) -> float:
    """How much wider duplicates make the variance of a share of rows: 1 where there are none.

    Rows of a cluster stand and fall together: the sum over clusters of their squared residuals, over that of rows
    (Cochran 1977, section 9A.2). Where all rows have one value, the same of the clusters' sizes alone (Kish 1965).
    """
    _, index_R, sizes = np.unique(cluster_R, return_inverse=True, return_counts=True)
    residual_R = matched_R.astype(np.float64) - matched_R.mean()
    total = float((residual_R**2).sum())
    if total == 0:
        return float((sizes.astype(np.float64) ** 2).sum() / len(cluster_R))
    by_cluster = np.bincount(index_R, weights=residual_R)
    return max(1.0, float((by_cluster**2).sum()) / total)


def cautious_share(num_full: int, num_pilot: int, *, level: float = 0.95) -> float:
    """Of the shares in a pilot's interval the one that needs the largest sample: the one nearest to one half."""
    ends: Interval = wilson(num_full, num_pilot, level)
    return min(max(0.5, float(ends.low)), float(ends.high))


def _excess_half_width(
    share: float, effective: float, control_share: float, control_effective: float, level: float
) -> float:
    (low, high), (control_low, control_high) = (
        _ends(share, effective, level),
        _ends(control_share, control_effective, level),
    )
    lower = math.hypot(share - low, control_high - control_share)
    upper = math.hypot(high - share, control_share - control_low)
    return (lower + upper) / 2


def _ends(share: float, effective: float, level: float) -> tuple[float, float]:
    """Wilson's interval."""
    if math.isinf(effective):
        return share, share
    square = normal_quantile(level) ** 2
    middle = (effective * share + square / 2) / (effective + square)
    reached = half_width(share, effective, level)
    return middle - reached, middle + reached


def _smallest(most: int, fits: Callable[[int], bool]) -> int:
    """The smallest number from 1 on that fits, by halving; `most` where none below it does."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return high
