"""Levels of num_matched: five classes of the score M, and full matches as a sixth where they are told apart."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = ("very low", "low", "medium", "high", "very high")
"""[0, .2], (.2, .4], (.4, .6], (.6, .8], (.8, 1]."""
NUM_LEVELS: Final = len(LEVELS)


def level_of_scores(continuation: int) -> NDArray[np.int64]:
    """The level, 0 to 4, of each num_matched, int64 [n+1]; in integers, for floats misplace borders."""
    num_matched = np.arange(continuation + 1)
    return np.maximum((NUM_LEVELS * num_matched + continuation - 1) // continuation - 1, 0)
