"""Greedy tokens by bfloat16 products that rule out all tokens but a few, whose logits are then computed in float32.

Exact, whatever the weights: each bfloat16 logit comes with a bound on its error (Cauchy-Schwarz on what rounding took
from weights and states, and the rounding of the result), and only tokens that the bounds keep below the two best are
ruled out. Worth it on processors that multiply bfloat16, where it takes half the time; where too much is left over,
nothing is said, and the caller reads all logits.

Axes: P positions, D width, V vocabulary, b blocks of ids, w ids of a block, m tokens that are left.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from mnemoscope.packing import packed_linear

BLOCK: Final = 128
"""Token ids that share a bound and a maximum."""
MOST_LEFT: Final = 48
"""Tokens left per position, on average, up to which their float32 logits are cheaper than those of all."""
ROUNDING: Final = 2.0**-8
"""Relative error of a bfloat16 result, doubled."""
SUMMING: Final = 2.0**-23
"""Error of a float32 sum of D products, over D and over the sum of their magnitudes, doubled."""


class BestTwo(NamedTuple):
    """The greedy tokens and their margins."""

    token_P: Tensor
    margin_P: Tensor


@final
class Screen:
    """The head's weights [V, D], V a multiple of `BLOCK`, in bfloat16 with what the rounding took from them."""

    def __init__(self, weight_VD: Tensor) -> None:
        half_VD = weight_VD.bfloat16()
        self._weight_VD = weight_VD
        self._rough = packed_linear(half_VD, None)
        lost_V = (weight_VD - half_VD.float()).norm(dim=1)
        self._lost_b = lost_V.view(-1, BLOCK).amax(1)
        self._norm_b = weight_VD.norm(dim=1).view(-1, BLOCK).amax(1)

    def read(self, hidden_PD: Tensor) -> BestTwo | None:
        """The two best of every position; None where the bounds leave too many tokens."""
        half_PD = hidden_PD.bfloat16()
        rough_Pbw = self._rough(half_PD).view(len(hidden_PD), -1, BLOCK)
        error_Pb = self._error(hidden_PD, half_PD)
        peak_Pb = rough_Pbw.amax(2).float()
        slack_Pb = error_Pb + ROUNDING * peak_Pb.abs()
        second_P1 = (peak_Pb - slack_Pb).topk(2, dim=1).values[:, 1:]  # two tokens are at least as large
        position_b, block_b = (peak_Pb + slack_Pb >= second_P1).nonzero(as_tuple=True)
        if len(position_b) > MOST_LEFT * len(hidden_PD):
            return None
        logits_bw = rough_Pbw[position_b, block_b].float()
        largest_bw = logits_bw + ROUNDING * logits_bw.abs() + error_Pb[position_b, block_b, None]
        place_m, within_m = (largest_bw >= second_P1[position_b]).nonzero(as_tuple=True)
        if len(place_m) > MOST_LEFT * len(hidden_PD):
            return None
        return self._compare(hidden_PD, position_b[place_m], block_b[place_m] * BLOCK + within_m)

    def _error(self, hidden_PD: Tensor, half_PD: Tensor) -> Tensor:
        """Largest error [P, b] of a block's products before their rounding."""
        norm_P1 = hidden_PD.norm(dim=1, keepdim=True)
        lost_P1 = (hidden_PD - half_PD.float()).norm(dim=1, keepdim=True)
        summing = SUMMING * hidden_PD.shape[1]
        error_Pb = norm_P1 * (self._lost_b + summing * self._norm_b) + lost_P1 * (self._norm_b + self._lost_b)
        return 1.01 * error_Pb  # the norms are rounded too

    def _compare(self, hidden_PD: Tensor, position_m: Tensor, token_m: Tensor) -> BestTwo | None:
        """The two best of the tokens left, which come by position and ascending id."""
        num_left_P = torch.bincount(position_m, minlength=len(hidden_PD))
        if int(num_left_P.min()) < 2:  # a state that is no number leaves none
            return None
        logit_m = (self._weight_VD[token_m] * hidden_PD[position_m]).sum(1)
        rank_m = torch.arange(len(token_m)) - (num_left_P.cumsum(0) - num_left_P)[position_m]
        logits_Pm = hidden_PD.new_full((len(hidden_PD), int(num_left_P.max())), -torch.inf)
        tokens_Pm = torch.zeros_like(logits_Pm, dtype=torch.long)
        logits_Pm[position_m, rank_m] = logit_m
        tokens_Pm[position_m, rank_m] = token_m
        best_P1 = logits_Pm.argmax(1, keepdim=True)
        margin_P = logits_Pm.gather(1, best_P1)[:, 0] - logits_Pm.scatter(1, best_P1, -torch.inf).amax(1)
        return BestTwo(tokens_Pm.gather(1, best_P1)[:, 0], margin_P)
