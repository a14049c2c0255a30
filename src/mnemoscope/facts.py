"""What scoring hands to the store: plain arrays, without a model or torch.

Axes: R sequences, C contexts, N continuations, n index in the continuation (0 .. n_max-1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class MatchFacts(NamedTuple):
    """What greedy decoding from every context of the grid does, for R sequences, C contexts, N continuations."""

    matched_RCn: NDArray[np.bool_] | None
    """bool [R, C, n_max]: generated token == true token, per index of the continuation; None in `exact` mode."""
    first_mismatch_RC: NDArray[np.int32]
    """int32 [R, C]: index in the continuation of the first generated token that differs; n_max where none does."""
    smallest_margin_RCN: NDArray[np.float32]
    """float32 [R, C, N]: smallest top-1 to top-2 logit margin along the greedy path of each length n. In `exact`
    mode the path ends with its first mismatch."""
    log_probability_RCN: NDArray[np.float32]
    """float32 [R, C, N]: log-probability (nats) of the true continuation of each length n, given the context."""


class GradedRows(NamedTuple):
    """Which of R sequences of mode `two-phase` are decoded."""

    probability_R: NDArray[np.float64]
    """float64 [R]: with which each is graded."""
    is_graded_R: NDArray[np.bool_]
    """bool [R]: whether it is."""
