"""One teacher-forced pass over passages of any length, and what it says of each token; then the greedy paths.

Passages are padded behind their ends, where a causal model's earlier positions do not see it. The paths from the
reference context are decoded over the keys and values that the pass has left (see `rollouts`).

Axes: R passages of the call, B passages of a batch, W tokens of the longest one, I = W - 1 predictions, P picked
predictions, V vocabulary, S ways of sampling, n index in the reference continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnemoscope.audit.fact_parts import PassageFacts, unknown_facts
from mnemoscope.audit.facts import TokenFacts
from mnemoscope.audit.settings import Sampling
from mnemoscope.audit.triggers import find_triggers
from mnemoscope.config import Grid
from mnemoscope.errors import ScoringError
from mnemoscope.head import HeadReader, chunks, greedy_token
from mnemoscope.model import CausalLM
from mnemoscope.rollouts import Branches, Decoded, GreedyReader, Rollouts
from mnemoscope.scoring import first_miss


class Reference(NamedTuple):
    """The cell from which greedy paths are decoded."""

    context_R: NDArray[np.int32]
    """Of each passage."""
    continuation: int


class _Read(NamedTuple):
    """Facts of P predictions, on the host, in the order of `TokenFacts`."""

    generated_P: NDArray[np.int32]
    margin_P: NDArray[np.float32]
    log_probability_P: NDArray[np.float32]
    mean_P: NDArray[np.float32]
    deviation_P: NDArray[np.float32]
    sampled_PS: NDArray[np.float32]


def read_passages(
    model: CausalLM,
    tokens_RW: NDArray[np.integer],
    length_R: NDArray[np.integer],
    reference: Reference,
    *,
    samplings: Sequence[Sampling],
    batch_size: int,
) -> PassageFacts:
    """The facts of passages, given padded to one width; at most `batch_size` share a pass.

    ScoringError, with the row, where logits are NaN or infinite.
    """
    tokens_RW = np.ascontiguousarray(tokens_RW, np.int64)
    head = HeadReader(model)
    facts = unknown_facts(tokens_RW.shape[0], tokens_RW.shape[1], len(samplings))
    paths = _Paths(tokens_RW, length_R, reference)
    rollouts = paths.rollouts(model, head, batch_size=batch_size)
    for first_row in range(0, len(tokens_RW), batch_size):
        rows = slice(first_row, min(first_row + batch_size, len(tokens_RW)))
        cache = None if rollouts is None else rollouts.new_cache()
        tokens_BW = torch.from_numpy(tokens_RW[rows]).to(model.device)
        hidden = model.hidden_states(tokens_BW[:, :-1], cache=cache)
        _take(facts, model, head, hidden, tokens_BW, rows=rows, length_B=length_R[rows], samplings=samplings)
        if rollouts is not None:
            branches = paths.find_branches(facts.generated_RW, rows)
            for read, reader in rollouts.add(branches, cache, first_row=rows.start, num_rows=rows.stop - rows.start):
                paths.take(read, reader.decoded())
    is_recited_R = paths.fits_R & (paths.path_Rn == paths.truth_Rn).all(1)
    trigger_R = find_triggers(
        model,
        head,
        tokens_RW,
        reference.context_R,
        is_recited_R=is_recited_R,
        continuation=reference.continuation,
        batch_size=batch_size,
    )
    return PassageFacts(facts, paths.path_Rn, trigger_R)


@final
class _Paths:
    """The greedy paths of a call's passages from their reference contexts, as far as they are known yet."""

    def __init__(self, tokens_RW: NDArray[np.int64], length_R: NDArray[np.integer], reference: Reference) -> None:
        num_steps = reference.continuation
        self._tokens_RW, self._context_R = tokens_RW, reference.context_R.astype(np.int64)
        self.fits_R = self._context_R + num_steps <= length_R
        places_Rn = self._context_R[:, None] + np.arange(num_steps)
        self._places_Rn = places_Rn.clip(max=tokens_RW.shape[1] - 1)
        self.truth_Rn = np.take_along_axis(tokens_RW, self._places_Rn, 1)
        self.path_Rn = np.full((len(tokens_RW), num_steps), -1, np.int32)

    def rollouts(self, model: CausalLM, head: HeadReader, *, batch_size: int) -> Rollouts[GreedyReader] | None:
        """What decodes the paths; None where no passage has one."""
        if not self.fits_R.any():
            return None
        num_steps = self.path_Rn.shape[1]
        grid = Grid(contexts=(self._tokens_RW.shape[1] - num_steps,), continuations=(num_steps,))
        reader = partial(GreedyReader, head=head)
        return Rollouts(model, self._tokens_RW, grid, reader, batch_size=batch_size)

    def find_branches(self, generated_RW: NDArray[np.int32], rows: slice) -> Branches:
        """Enter the paths of a batch up to and with the first mismatch; what is left to decode of them."""
        said_Bn = np.take_along_axis(generated_RW[rows], self._places_Rn[rows], 1)
        num_steps = said_Bn.shape[1]
        first_B = first_miss(said_Bn == self.truth_Rn[rows])
        known_Bn = np.arange(num_steps) <= first_B[:, None]
        self.path_Rn[rows] = np.where(known_Bn & self.fits_R[rows, None], said_Bn, -1)
        row = np.flatnonzero(self.fits_R[rows] & (first_B < num_steps - 1))
        return Branches(
            row=row + rows.start,
            start=self._context_R[rows][row] + first_B[row],
            token=said_Bn[row, first_B[row]].astype(np.int64),
            num_steps=num_steps - 1 - first_B[row].astype(np.int64),
        )

    def take(self, branches: Branches, decoded: Decoded) -> None:
        """Enter what branches said after the mismatch."""
        for branch, row in enumerate(branches.row):
            num_steps = int(branches.num_steps[branch])
            self.path_Rn[row, self.path_Rn.shape[1] - num_steps :] = decoded.tokens[branch, :num_steps]


@torch.inference_mode()
def _take(
    facts: TokenFacts,
    model: CausalLM,
    head: HeadReader,
    hidden_BIH: Tensor,
    tokens_BW: Tensor,
    *,
    rows: slice,
    length_B: NDArray[np.integer],
    samplings: Sequence[Sampling],
) -> None:
    """Enter a batch's facts; positions behind a passage's end are not looked at."""
    is_real_BI = np.arange(1, tokens_BW.shape[1]) < length_B[:, None]
    row_P, place_P = np.nonzero(is_real_BI)
    mask_BI = torch.from_numpy(is_real_BI).to(model.device)
    hidden_PH, truth_P = hidden_BIH[mask_BI], tokens_BW[:, 1:][mask_BI]
    parts = [
        _read_chunk(head.logits(hidden_PH[part]), truth_P[part], samplings) for part in chunks(model, len(truth_P))
    ]
    if not parts:
        return
    read = _Read(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    _check_finite(read, row_P + rows.start, place_P + 1)
    for known_RW, values_P in zip(facts[:5], read[:5], strict=True):
        known_RW[row_P + rows.start, place_P + 1] = values_P
    facts.sampled_RSW[row_P + rows.start, :, place_P + 1] = read.sampled_PS


def _read_chunk(logits_PV: Tensor, truth_P: Tensor, samplings: Sequence[Sampling]) -> _Read:
    """The facts of P predictions; the logits are overwritten on the way.

    With x = logit - largest logit, w = exp x and Z = sum w: log p = x - log Z, its mean is sum w x / Z - log Z, its
    variance sum w (x - sum w x / Z)^2 / Z, centred so that nothing cancels.
    """
    deepest = max((sampling.top_k or 0 for sampling in samplings), default=0)
    top_Pk, ids_Pk = logits_PV.topk(min(max(2, deepest), logits_PV.shape[1]), dim=-1)
    top_P2 = top_Pk[:, :2]
    sampled = {
        s: _read_sampling(logits_PV, top_Pk, truth_P, sampling)
        for s, sampling in enumerate(samplings)
        if sampling != Sampling()  # whose log-probability is had anyway
    }
    x_PV = logits_PV.sub_(top_P2[:, :1])  # so that no exponential overflows
    truth_x_P = x_PV.gather(1, truth_P[:, None])[:, 0]
    weight_PV = x_PV.exp()
    total_P = weight_PV.sum(-1)
    log_probability_P = truth_x_P - total_P.log()
    x_PV.nan_to_num_(nan=torch.nan, neginf=0.0)  # a logit of -inf has weight 0 and must add 0, not 0 x inf
    mean_x_P = _weigh(weight_PV, x_PV) / total_P
    variance_P = _weigh(weight_PV, x_PV.sub_(mean_x_P[:, None]).square_()) / total_P
    sampled_PS = torch.stack([sampled.get(s, log_probability_P) for s in range(len(samplings))] or [truth_x_P], 1)
    return _Read(
        greedy_token(top_P2, ids_Pk[:, :2]).to(torch.int32).cpu().numpy(),
        (top_P2[:, 0] - top_P2[:, 1]).cpu().numpy(),
        log_probability_P.cpu().numpy(),
        (mean_x_P - total_P.log()).cpu().numpy(),
        variance_P.sqrt().cpu().numpy(),
        sampled_PS[:, : len(samplings)].cpu().numpy(),
    )


def _weigh(weight_PV: Tensor, values_PV: Tensor) -> Tensor:
    """The sums [P] of products, none of which are ever laid out."""
    return torch.bmm(weight_PV[:, None], values_PV[:, :, None])[:, 0, 0]


def _read_sampling(logits_PV: Tensor, top_Pk: Tensor, truth_P: Tensor, sampling: Sampling) -> Tensor:
    """The log-probabilities [P] of the true tokens where one is drawn in this way; `top_Pk` are the largest logits.

    Of the logits equal to the k-th largest all may be drawn, as transformers' own `top_k` has it.
    """
    truth_P1 = logits_PV.gather(1, truth_P[:, None])
    temperature = sampling.temperature
    if sampling.top_k is None or sampling.top_k >= logits_PV.shape[1]:
        return (truth_P1 / temperature - (logits_PV / temperature).logsumexp(-1, keepdim=True))[:, 0]
    top_Pk = top_Pk[:, : sampling.top_k]
    least_P1 = top_Pk[:, -1:]
    num_left_P1 = (logits_PV == least_P1).sum(-1, keepdim=True) - (top_Pk == least_P1).sum(-1, keepdim=True)
    left_P1 = least_P1 / temperature + num_left_P1.log()  # log 0 = -inf where no tie is left
    total_P1 = torch.cat([top_Pk / temperature, left_P1], 1).logsumexp(-1, keepdim=True)
    return (truth_P1 / temperature - total_P1).masked_fill(truth_P1 < least_P1, -torch.inf)[:, 0]


def _check_finite(read: _Read, row_P: NDArray[np.integer], place_P: NDArray[np.integer]) -> None:
    bad = np.flatnonzero(np.isnan(read.log_probability_P) | np.isnan(read.mean_P) | (read.log_probability_P == np.inf))
    if len(bad):
        raise ScoringError(
            f"the model's logits are not finite at token {int(place_P[bad[0]])} of the passage; "
            "expected numbers (damaged weights, or a precision too low: try dtype float32)",
            row=int(row_P[bad[0]]),
        )
