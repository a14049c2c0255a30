"""Logits of a predictor -> logits that are right on average for a prior: a scale, a shift and a coupling.

Fitted on the validation split by weighted likelihood of the first n indices, whole vectors at a time. The natural
prior weighs each sequence by those that it stands for; the balanced one lets every number of matches 0 .. n that occurs
weigh the same, and within it sequences by those that they stand for. A weak normal prior about the identity keeps three
numbers from following a handful of sequences.

Axes: R examples, L indices, n of them calibrated for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnemoscope.prediction.chain import ChainLogits, negative_log_likelihoods, to_markov
from mnemoscope.prediction.settings import Prior

Floats = NDArray[np.float64]

_DEVIATIONS = (0.5, 2.0, 2.0)
"""Of the normal prior of ln(scale), shift and coupling."""
_MOST_STEPS = 50


class Calibration(NamedTuple):
    """Logits times `scale`; then `shift` is added to emissions and `coupling` to couplings."""

    scale: float = 1.0
    shift: float = 0.0
    coupling: float = 0.0

    def apply(self, chain: ChainLogits) -> ChainLogits:
        """The calibrated chain."""
        return _apply(chain, torch.tensor(self.scale), torch.tensor(self.shift), torch.tensor(self.coupling))


IDENTITY = Calibration()


def prior_weights(num_matched_R: NDArray[np.int64], design_weight_R: Floats, prior: Prior) -> Floats:
    """The weight of each example under a prior, mean 1; `num_matched` is that of the continuation in question."""
    weights_R = design_weight_R
    if prior == "balanced":
        _, class_R = np.unique(num_matched_R, return_inverse=True)
        weights_R = design_weight_R / np.bincount(class_R, weights=design_weight_R)[class_R]
    return weights_R / weights_R.mean()


def fit_calibration(chain: ChainLogits, matched_Rn: Tensor, weights_R: Floats) -> Calibration:
    """The calibration of a predictor for its first n indices, whose bits are given."""
    chain = ChainLogits(chain.emission_RL.double(), chain.coupling_RE.double())
    num_effective = weights_R.sum() ** 2 / (weights_R**2).sum()
    share_R = torch.from_numpy(weights_R / weights_R.sum() * num_effective)
    numbers = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    deviations = torch.tensor(_DEVIATIONS, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [numbers], max_iter=_MOST_STEPS, tolerance_grad=1e-3, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        markov = to_markov(_apply(chain, numbers[0].exp(), numbers[1], numbers[2])).prefix(matched_Rn.shape[1])
        losses_R = negative_log_likelihoods(markov, matched_Rn)
        loss = (losses_R * share_R).sum() + 0.5 * (numbers / deviations).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    log_scale, shift, coupling = numbers.detach().tolist()
    return Calibration(float(np.exp(log_scale)), shift, coupling)


def _apply(chain: ChainLogits, scale: Tensor, shift: Tensor, coupling: Tensor) -> ChainLogits:
    return ChainLogits(chain.emission_RL * scale + shift, chain.coupling_RE * scale + coupling)
