"""Per-token facts of sequences: entropy, rank, probability, margin and last-layer states along the greedy path.

The same pass and the same rollouts as in `scoring`, read more closely: inside the context the model sees the truth;
from index k on it sees what it said itself. Up to a context's first mismatch the two are one and come from the
teacher-forced pass; what follows comes from the rollout. Nothing is decoded twice.

Axes: R sequences of the call, B sequences of a batch, W tokens of a window, I window indices 1 .. W-1, C contexts,
n index in the continuation, S steps of a branch, P picked positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mnemoscope.config import Grid
from mnemoscope.errors import ModelError
from mnemoscope.head import chunks, greedy_token
from mnemoscope.model import CausalLM, LayerStates
from mnemoscope.rollouts import Branches, Rollouts
from mnemoscope.scoring import find_branches, first_miss, rollout_places


class TokenFacts(NamedTuple):
    """Facts of predictions, all of one shape; index i holds those of the distribution that predicts token i."""

    generated_token: NDArray[np.int32]
    """The greedy token; -1 where nothing is predicted (index 0)."""
    entropy: NDArray[np.float32]
    """Of the distribution, in nats."""
    log_probability: NDArray[np.float32]
    """Of the true token, in nats."""
    rank: NDArray[np.int32]
    """Tokens with a larger logit than the true one; -1 where nothing is predicted."""
    margin: NDArray[np.float32]
    """Largest minus second largest logit."""

    @classmethod
    def unknown(cls, *shape: int) -> TokenFacts:
        """Facts of nothing yet."""
        numbers = [np.full(shape, np.nan, np.float32) for _ in range(3)]
        return cls(np.full(shape, -1, np.int32), numbers[0], numbers[1], np.full(shape, -1, np.int32), numbers[2])


class Traces(NamedTuple):
    """The traced paths of R sequences."""

    truth: TokenFacts
    """[R, W]: teacher-forced, the model seeing the true tokens before each."""
    path: TokenFacts
    """[R, C, n_max]: along the greedy path from each context."""
    truth_states_RWD: NDArray[np.float16]
    """float16 [R, W-1, D]: last-layer state at index i, which predicts token i + 1."""
    path_states_RCnD: NDArray[np.float16]
    """float16 [R, C, n_max, D]: last-layer state that predicts each token of the greedy path."""
    layer_states_RYKD: NDArray[np.float16]
    """float16 [R, Y, k_max, D]: states of the layers asked for inside the longest context."""


def trace_sequences(
    model: CausalLM, tokens_RW: NDArray[np.int64], grid: Grid, *, batch_size: int, layers: Sequence[int] = ()
) -> Traces:
    """The traces of R sequences, int64 [R, W] with W >= k_max + n_max.

    `layers` are those whose states in the context are returned too: 0 the embeddings' output, i that of block i.
    Memory: the returned arrays, and a batch's keys, values and states; logits only a chunk at a time. ModelError for
    a model whose last-layer states cannot be told apart from its logits, or that lacks a layer.
    """
    check_traceable(model, layers)
    tokens_RW = np.ascontiguousarray(tokens_RW[:, : grid.window_tokens], dtype=np.int64)
    tracer = _Tracer(model, tokens_RW, grid, layers)
    rollouts = Rollouts(model, tracer.tokens_RW, grid, tracer.reader, batch_size=batch_size)
    for first_row in range(0, len(tokens_RW), batch_size):
        rows = slice(first_row, min(first_row + batch_size, len(tokens_RW)))
        cache = rollouts.new_cache()
        branches = tracer.take_truth(rows, cache)
        for branches_read, reader in rollouts.add(
            branches, cache, first_row=first_row, num_rows=rows.stop - rows.start
        ):
            tracer.take_rollouts(branches_read, reader)
    return tracer.traces


class ContextTraces(NamedTuple):
    """What R sequences tell before anything is decoded."""

    facts: TokenFacts
    """[R, k + 1]: of the prediction of each context token; at index k of the first generated token, whose true token
    is not looked at: log-probability NaN, rank -1."""
    states_RYKD: NDArray[np.float16]
    """float16 [R, Y, k, D]: states of the layers asked for; without any, of the last layer alone."""


@torch.inference_mode()
def trace_contexts(
    model: CausalLM, contexts_RK: NDArray[np.int64], *, batch_size: int, layers: Sequence[int] = ()
) -> ContextTraces:
    """The traces of contexts, int64 [R, k]: one pass over k tokens each; equal to those of `trace_sequences`."""
    check_traceable(model, layers)
    facts: list[TokenFacts] = []
    states: list[NDArray[np.float16]] = []
    for first_row in range(0, len(contexts_RK), batch_size):
        tokens_BK = torch.from_numpy(np.ascontiguousarray(contexts_RK[first_row : first_row + batch_size])).to(
            model.device
        )
        read = model.layer_states(tokens_BK, layers) if layers else LayerStates(model.hidden_states(tokens_BK), [])
        truth_BK = torch.cat([tokens_BK[:, 1:], tokens_BK[:, :1]], dim=1)  # the last is masked below
        known = read_facts(model, read.last_BTD.flatten(0, 1), truth_BK.flatten())
        facts.append(_context_facts(known, *tokens_BK.shape))
        states.append(np.stack([_half(chosen) for chosen in read.chosen or [read.last_BTD]], axis=1))
    return ContextTraces(TokenFacts(*map(np.concatenate, zip(*facts, strict=True))), np.concatenate(states))


def _context_facts(read: TokenFacts, num_rows: int, context: int) -> TokenFacts:
    """The facts of predictions at index 1 .. k of each row, behind one of nothing at index 0."""
    facts = TokenFacts.unknown(num_rows, context + 1)
    for known, new in zip(facts, read, strict=True):
        known[:, 1:] = new.reshape(num_rows, context)
    facts.log_probability[:, -1], facts.rank[:, -1] = np.nan, -1
    return facts


def check_traceable(model: CausalLM, layers: Sequence[int]) -> None:
    """ModelError where a model's last-layer states cannot be told apart from its logits, or it lacks a layer."""
    if not model.has_head:
        raise ModelError(
            f"{model.identity.architecture}: its logits are no plain function of its last-layer states; "
            "expected a model with an output embedding (score it without [traces])"
        )
    if max(layers, default=0) > model.num_layers:
        raise ModelError(
            f"{model.identity.architecture}: traces.context_layers has {max(layers)}; expected 0 to {model.num_layers}"
        )


@final
class _Tracer:
    """The traces of a call, filled batch by batch."""

    def __init__(self, model: CausalLM, tokens_RW: NDArray[np.int64], grid: Grid, layers: Sequence[int]) -> None:
        self.model, self.tokens_RW, self.grid, self.layers = model, tokens_RW, grid, layers
        num_rows, window = tokens_RW.shape
        width = int(model.network.get_output_embeddings().weight.shape[1])
        num_contexts, n_max = len(grid.contexts), grid.max_continuation
        self.first_mismatch_RC = np.full((num_rows, num_contexts), n_max, np.int32)
        self.traces = Traces(
            truth=TokenFacts.unknown(num_rows, window),
            path=TokenFacts.unknown(num_rows, num_contexts, n_max),
            truth_states_RWD=np.zeros((num_rows, window - 1, width), np.float16),
            path_states_RCnD=np.zeros((num_rows, num_contexts, n_max, width), np.float16),
            layer_states_RYKD=np.zeros((num_rows, len(layers), grid.max_context, width), np.float16),
        )

    @torch.inference_mode()
    def take_truth(self, rows: slice, cache: DynamicCache | None) -> Branches:
        """Run a batch's teacher-forced pass and enter its facts; what is left to decode of it."""
        tokens_BW = self.tokens_RW[rows]
        tokens = torch.from_numpy(tokens_BW).to(self.model.device)
        hidden_BID = self._read_states(rows, tokens[:, :-1], cache)
        facts = read_facts(self.model, hidden_BID.flatten(0, 1), tokens[:, 1:].flatten())
        for known, new in zip(self.traces.truth, facts, strict=True):
            known[rows, 1:] = new.reshape(len(tokens_BW), -1)
        self.traces.truth_states_RWD[rows] = _half(hidden_BID)
        first_context = self.grid.contexts[0]
        choice_BJ = self.traces.truth.generated_token[rows, first_context:].astype(np.int64)
        hit_BJ = choice_BJ == tokens_BW[:, first_context:]
        for c, context in enumerate(self.grid.contexts):
            self._take_until_mismatch(rows, c, context, hit_BJ[:, context - first_context :])
        return find_branches(hit_BJ, choice_BJ, self.grid, first_row=rows.start)

    def _read_states(self, rows: slice, tokens_BI: Tensor, cache: DynamicCache | None) -> Tensor:
        """Last-layer states of a batch; the chosen layers' are entered on the way."""
        if not self.layers:
            return self.model.hidden_states(tokens_BI, cache=cache)
        states = self.model.layer_states(tokens_BI, self.layers, cache=cache)
        for y, states_BID in enumerate(states.chosen):
            self.traces.layer_states_RYKD[rows, y] = _half(states_BID[:, : self.grid.max_context])
        return states.last_BTD

    def _take_until_mismatch(self, rows: slice, c: int, context: int, hit_BJ: NDArray[np.bool_]) -> None:
        """A path's facts up to its first mismatch are those under the truth; what is too much is overwritten later."""
        n_max = self.grid.max_continuation
        self.first_mismatch_RC[rows, c] = first_miss(hit_BJ[:, :n_max])
        for path, truth in zip(self.traces.path, self.traces.truth, strict=True):
            path[rows, c] = truth[rows, context : context + n_max]
        states_BnD = self.traces.truth_states_RWD[rows, context - 1 : context - 1 + n_max]
        self.traces.path_states_RCnD[rows, c] = states_BnD

    def reader(self, model: CausalLM, branches: Branches) -> _FactReader:
        """A reader of the branches' steps, which knows the true tokens beside them."""
        num_steps = int(branches.num_steps.max(initial=0))
        positions_PS = branches.start[:, None] + 1 + np.arange(num_steps)
        truth_PS = self.tokens_RW[branches.row[:, None], positions_PS.clip(max=self.tokens_RW.shape[1] - 1)]
        return _FactReader(model, truth_PS)

    def take_rollouts(self, branches: Branches, reader: _FactReader) -> None:
        """Enter what branches said after their first mismatch, for every context that shares each."""
        states_PSD = reader.states()
        for c, context in enumerate(self.grid.contexts):
            n_max = self.grid.max_continuation
            places = rollout_places(branches, self.first_mismatch_RC[:, c], context, n_max=n_max)
            place, index = np.nonzero(places.inside_Pn)
            branch, step = places.branch[place], places.step_Pn[place, index]
            at = branches.row[branch], c, index
            for path, read in zip(self.traces.path, reader.facts, strict=True):
                path[at] = read[branch, step]
            self.traces.path_states_RCnD[at] = states_PSD[branch, step]


@final
class _FactReader:
    """Reads the facts and the last-layer states of each step."""

    def __init__(self, model: CausalLM, truth_PS: NDArray[np.int64]) -> None:
        self._model = model
        self._truth_PS = torch.from_numpy(truth_PS).to(model.device)
        self.facts = TokenFacts.unknown(*truth_PS.shape)
        """[branches, steps] each."""
        self._states: list[NDArray[np.float16]] = []

    def read(self, hidden_PD: Tensor, step: int) -> Tensor:
        """The greedy tokens [P]; all facts of the step are kept."""
        active = len(hidden_PD)
        read = read_facts(self._model, hidden_PD, self._truth_PS[:active, step])
        for known, new in zip(self.facts, read, strict=True):
            known[:active, step] = new
        self._states.append(_half(hidden_PD))
        return torch.from_numpy(read.generated_token.astype(np.int64)).to(hidden_PD.device)

    def states(self) -> NDArray[np.float16]:
        """float16 [branches, steps, D]; zero where a branch was not active any more."""
        states_PSD = np.zeros((*self.facts.rank.shape, self._states[0].shape[1]), np.float16)
        for step, states_PD in enumerate(self._states):
            states_PSD[: len(states_PD), step] = states_PD
        return states_PSD


def read_facts(model: CausalLM, hidden_PD: Tensor, truth_P: Tensor) -> TokenFacts:
    """The facts [P] of the predictions that last-layer states make of true tokens, a chunk of logits at a time.

    Entropy is log-sum-exp minus the mean logit under the distribution: H = log Z - sum p x, exact in one pass.
    """
    parts = [_read_chunk(model.logits(hidden_PD[part]), truth_P[part]) for part in chunks(model, len(truth_P))]
    return TokenFacts(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _read_chunk(logits_PV: Tensor, truth_P: Tensor) -> TokenFacts:
    truth_logit_P1 = logits_PV.gather(1, truth_P[:, None])
    top_P2, tokens_P2 = logits_PV.topk(2, dim=-1)
    rank_P = (logits_PV > truth_logit_P1).sum(-1)
    shifted_PV = logits_PV - top_P2[:, :1]  # so that no exponential overflows
    weights_PV = shifted_PV.exp()
    total_P = weights_PV.sum(-1)
    # A logit of -inf has weight 0 and must add 0, not 0 x inf.
    mean_P = (weights_PV * shifted_PV.nan_to_num(neginf=0.0)).sum(-1) / total_P
    log_total_P = total_P.log()
    return TokenFacts(
        generated_token=greedy_token(top_P2, tokens_P2).to(torch.int32).cpu().numpy(),
        entropy=(log_total_P - mean_P).cpu().numpy(),
        log_probability=(truth_logit_P1[:, 0] - top_P2[:, 0] - log_total_P).cpu().numpy(),
        rank=rank_P.to(torch.int32).cpu().numpy(),
        margin=(top_P2[:, 0] - top_P2[:, 1]).cpu().numpy(),
    )


def _half(states: Tensor) -> NDArray[np.float16]:
    """States as float16 on the host; clamped, since a few models have outliers beyond its range."""
    limit = torch.finfo(torch.float16).max
    return states.float().clamp(-limit, limit).to(torch.float16).cpu().numpy()
