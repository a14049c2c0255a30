"""Clusters of duplicates -> training, validation and test; a copy of a training sequence never lies in the test.

The split of a sequence follows from its cluster and a seed alone: it is the same for every model, context and
sample, so that what one model's predictor was trained on is never what it, or its transfer, is tested on.

Axes: R examples.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.corpus.draws import hash_counters

SHARES: Final = (("train", 0.6), ("validation", 0.2), ("test", 0.2))
"""Of the members' clusters, in expectation."""
_SPLIT_STREAM: Final = 0x5911_7000_0000_0000
"""Apart from the stream that draws the traced sample by sequence: else the test would be what that leaves out."""


def assign_splits(cluster_R: NDArray[np.int64], group_R: NDArray[np.str_], *, seed: int) -> NDArray[np.str_]:
    """Each example's split, [R]: train, validation, test or control; `copied` is a control window that members hold.

    Controls are never trained on; a copied one is no control, and no split that is evaluated has it.
    """
    uniform_R = hash_counters(cluster_R, seed=_SPLIT_STREAM + seed) / 2.0**64
    edges = np.cumsum([share for _, share in SHARES])[:-1]
    names = np.array([name for name, _ in SHARES])
    split_R = names[np.searchsorted(edges, uniform_R, side="right")].astype("<U10")
    is_member_R = group_R == "member"
    copied_R = np.isin(cluster_R, cluster_R[is_member_R])
    return np.where(is_member_R, split_R, np.where(copied_R, "copied", "control"))
