"""Match facts of sequences: the kernel that Mnemoscope exists for.

One teacher-forced pass over the first k_max + n_max tokens gives the model's greedy choice after every true prefix.
Greedy decoding from any context k repeats the truth up to the first position m >= k at which that choice differs, so
the one pass decides for the whole grid: full matches, first mismatches, log-probabilities (mode `exact`). Only the
matches *after* a first mismatch need decoding (mode `graded`), which `rollouts` does from m on, over the keys and
values that the pass has left, once for all contexts with the same m.

Axes: R sequences of the call, B sequences of a batch, W tokens of a window, J judged positions k_min .. W-1,
C contexts, N continuations, n index in the continuation (0 .. n_max-1), P picked positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache

from mnemoscope.config import Grid, Mode
from mnemoscope.errors import ScoringError
from mnemoscope.facts import MatchFacts
from mnemoscope.head import HeadReader
from mnemoscope.memory import within_memory
from mnemoscope.model import CausalLM
from mnemoscope.packing import packed_layers
from mnemoscope.rollouts import Branches, Decoded, GreedyReader, Rollouts

ChooseRows = Callable[[slice, NDArray[np.int32]], NDArray[np.bool_]]
"""Rows of the call and their first mismatches, int32 [B, C] -> which of them are decoded, bool [B]."""


class _Judged(NamedTuple):
    """The teacher-forced facts of a batch at positions k_min .. W-1, on the host."""

    hit_BJ: NDArray[np.bool_]
    log_probability_BJ: NDArray[np.float32]
    margin_BJ: NDArray[np.float32]
    """Top-1 to top-2 margin in logits."""
    choice_BJ: NDArray[np.int64]
    """The greedy token."""


class _Paths:
    """The greedy paths of R sequences from every context, as far as they are known yet."""

    def __init__(self, num_sequences: int, grid: Grid, mode: Mode) -> None:
        shape = (num_sequences, len(grid.contexts), grid.max_continuation)
        self.grid, self.mode = grid, mode
        self.matched_RCn = np.zeros(shape, np.bool_)
        self.margin_RCn = np.full(shape, np.inf, np.float32)
        self.log_probability_RCN = np.zeros((*shape[:2], len(grid.continuations)), np.float32)
        self.first_mismatch_RC = np.full(shape[:2], grid.max_continuation, np.int32)

    def take(self, judged: _Judged, first_row: int) -> None:
        """Enter a batch's facts: everything up to and with each context's first mismatch."""
        grid, rows = self.grid, slice(first_row, first_row + len(judged.hit_BJ))
        first_position, lengths = grid.contexts[0], np.array(grid.continuations)
        index = np.arange(grid.max_continuation)
        for c, context in enumerate(grid.contexts):
            span = slice(context - first_position, context - first_position + grid.max_continuation)
            first = first_miss(judged.hit_BJ[:, span])
            self.first_mismatch_RC[rows, c] = first
            self.matched_RCn[rows, c] = index < first[:, None]
            self.margin_RCn[rows, c] = np.where(index <= first[:, None], judged.margin_BJ[:, span], np.inf)
            sums = np.cumsum(judged.log_probability_BJ[:, span], axis=1, dtype=np.float64)
            self.log_probability_RCN[rows, c] = sums[:, lengths - 1]

    def take_rollouts(self, branches: Branches, decoded: Decoded, truth_RW: NDArray[np.int64]) -> None:
        """Enter what branches said after their first mismatch, for every context that shares each."""
        for c, context in enumerate(self.grid.contexts):
            places = rollout_places(branches, self.first_mismatch_RC[:, c], context, n_max=self.grid.max_continuation)
            rows = branches.row[places.branch]
            tokens_Pn = decoded.tokens[places.branch[:, None], places.step_Pn]
            margins_Pn = decoded.margins[places.branch[:, None], places.step_Pn]
            matched_Pn = tokens_Pn == truth_RW[rows, context : context + self.grid.max_continuation]
            self.matched_RCn[rows, c] = np.where(places.inside_Pn, matched_Pn, self.matched_RCn[rows, c])
            self.margin_RCn[rows, c] = np.where(places.inside_Pn, margins_Pn, self.margin_RCn[rows, c])

    def facts(self) -> MatchFacts:
        """The facts, when all paths are complete."""
        smallest_RCn = np.minimum.accumulate(self.margin_RCn, axis=2)
        return MatchFacts(
            matched_RCn=self.matched_RCn if self.mode == "graded" else None,
            first_mismatch_RC=self.first_mismatch_RC,
            smallest_margin_RCN=smallest_RCn[:, :, np.array(self.grid.continuations) - 1],
            log_probability_RCN=self.log_probability_RCN,
        )


class RolloutPlaces(NamedTuple):
    """Where the tokens that branches said stand in the continuation of one context; P branches that serve it."""

    branch: NDArray[np.int64]
    """int64 [P]: which branches."""
    inside_Pn: NDArray[np.bool_]
    """bool [P, n_max]: whether the branch said the token at this index; before, the truth and the mismatch stand."""
    step_Pn: NDArray[np.int64]
    """int64 [P, n_max]: at which of its steps; 0 where it did not."""


def rollout_places(
    branches: Branches, first_mismatch_R: NDArray[np.int32], context: int, *, n_max: int
) -> RolloutPlaces:
    """The places of a context: a branch serves it if it starts where the context's path leaves the truth."""
    branch = np.flatnonzero(context + first_mismatch_R[branches.row] == branches.start)
    step_Pn = np.arange(n_max) + context - branches.start[branch, None] - 1
    return RolloutPlaces(branch, step_Pn >= 0, step_Pn.clip(0))


def score_sequences(
    model: CausalLM,
    tokens_RW: NDArray[np.int64],
    grid: Grid,
    *,
    mode: Mode,
    batch_size: int,
    choose: ChooseRows | None = None,
    progress: Callable[[int], None] | None = None,
) -> MatchFacts:
    """The match facts of R sequences, given as int64 [R, W] token ids with W >= k_max + n_max.

    In mode `graded`, `choose` may say which sequences are decoded; of the others all is what mode `exact` gives, and
    their match bits after a first mismatch say nothing.

    They equal those of plain greedy decoding in the same precision, but for near-ties (`smallest_margin`). At most
    `batch_size` sequences share a pass; when memory runs out it is halved and the call starts over. `progress` is told
    the number of sequences behind each finished batch (a negative number when starting over). ScoringError: logits
    that are NaN or infinite, or no memory for a single sequence.
    """
    tokens_RW = _checked(model, tokens_RW, grid)

    def attempt(limit: int) -> MatchFacts:
        paths, num_done = _Paths(len(tokens_RW), grid, mode), 0
        try:
            for num_sequences in _score_batches(model, tokens_RW, paths, choose, batch_size=limit):
                num_done += num_sequences
                if progress is not None:
                    progress(num_sequences)
        except BaseException:
            if progress is not None and num_done:
                progress(-num_done)
            raise
        return paths.facts()

    with packed_layers(model.network):
        return within_memory(model, batch_size, attempt, window_tokens=grid.window_tokens)


def _checked(model: CausalLM, tokens_RW: NDArray[np.int64], grid: Grid) -> NDArray[np.int64]:
    """The windows that the grid needs, int64 [R, W]."""
    if tokens_RW.ndim != 2 or tokens_RW.shape[1] < grid.window_tokens:
        raise ScoringError(
            f"tokens of shape {list(tokens_RW.shape)} given; expected [sequences, {grid.window_tokens} or more tokens]"
        )
    tokens_RW = np.ascontiguousarray(tokens_RW[:, : grid.window_tokens], dtype=np.int64)
    vocab_size = model.identity.vocab_size
    if tokens_RW.size and not 0 <= tokens_RW.min() <= tokens_RW.max() < vocab_size:
        row = int(np.argmax(((tokens_RW < 0) | (tokens_RW >= vocab_size)).any(axis=1)))
        raise ScoringError(
            f"row {row} has token ids outside the vocabulary of {vocab_size}; expected ids below it", row
        )
    return tokens_RW


def first_miss(hit_Bn: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Index of each row's first False, int32 [B]; the row's length where there is none."""
    return np.where(hit_Bn.all(axis=1), hit_Bn.shape[1], hit_Bn.argmin(axis=1)).astype(np.int32)


def _score_batches(
    model: CausalLM, tokens_RW: NDArray[np.int64], paths: _Paths, choose: ChooseRows | None, *, batch_size: int
) -> Iterator[int]:
    """Fill `paths` batch by batch, yielding each batch's number of sequences."""
    grid, head = paths.grid, HeadReader(model)
    make_reader = partial(GreedyReader, head=head)
    rollouts = Rollouts(model, tokens_RW, grid, make_reader, batch_size=batch_size) if paths.mode == "graded" else None
    for first_row in range(0, len(tokens_RW), batch_size):
        tokens_BW = tokens_RW[first_row : first_row + batch_size]
        cache = None if rollouts is None else rollouts.new_cache()
        judged = _judge(model, head, tokens_BW, grid, cache=cache, first_row=first_row)
        paths.take(judged, first_row)
        if rollouts is not None:
            branches = find_branches(judged.hit_BJ, judged.choice_BJ, grid, first_row=first_row)
            if choose is not None:
                rows = slice(first_row, first_row + len(tokens_BW))
                is_chosen_B = choose(rows, paths.first_mismatch_RC[rows])
                branches = Branches(*(part[is_chosen_B[branches.row - first_row]] for part in branches))
            for branches_read, reader in rollouts.add(branches, cache, first_row=first_row, num_rows=len(tokens_BW)):
                paths.take_rollouts(branches_read, reader.decoded(), tokens_RW)
        yield len(tokens_BW)


@torch.inference_mode()
def _judge(
    model: CausalLM,
    head: HeadReader,
    tokens_BW: NDArray[np.int64],
    grid: Grid,
    *,
    cache: DynamicCache | None,
    first_row: int,
) -> _Judged:
    """The teacher-forced pass: what the greedy choice is, by what margin, and how probable the truth."""
    first_position = grid.contexts[0]
    tokens = torch.from_numpy(tokens_BW).to(model.device)
    hidden_BJD = model.hidden_states(tokens[:, :-1], cache=cache)[:, first_position - 1 :]
    truth_BJ = tokens[:, first_position:]
    readings = head.read(hidden_BJD.flatten(0, 1), truth_BJ.flatten())
    choice_BJ, margin_BJ, log_probability_BJ = (facts.view(truth_BJ.shape).cpu().numpy() for facts in readings)
    _check_finite(log_probability_BJ, first_row=first_row, first_position=first_position)
    return _Judged(choice_BJ == tokens_BW[:, first_position:], log_probability_BJ, margin_BJ, choice_BJ)


def first_misses(hit_BJ: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and place (in judged positions) of every miss that ends the greedy path of some context; each once."""
    ends_BJ = np.zeros_like(hit_BJ)
    for context in grid.contexts:
        first_place = context - grid.contexts[0]
        first = first_miss(hit_BJ[:, first_place : first_place + grid.max_continuation])
        rows = np.flatnonzero(first < grid.max_continuation)
        ends_BJ[rows, first_place + first[rows]] = True
    rows, places = np.nonzero(ends_BJ)
    return rows, places


def find_branches(hit_BJ: NDArray[np.bool_], choice_BJ: NDArray[np.int64], grid: Grid, *, first_row: int) -> Branches:
    """What is left to decode of a batch: one branch per mismatch, as far as the last context that shares it needs."""
    rows, places = first_misses(hit_BJ, grid)
    start = places + grid.contexts[0]
    reach = np.zeros(len(rows), np.int64)
    for context in grid.contexts:
        end, first_place = context + grid.max_continuation, context - grid.contexts[0]
        first = context + first_miss(hit_BJ[:, first_place : first_place + grid.max_continuation])
        reach = np.where(first[rows] == start, end, reach)
    num_steps = reach - start - 1
    kept = num_steps > 0
    return Branches(
        row=(rows + first_row)[kept],
        start=start[kept],
        token=choice_BJ[rows, places][kept],
        num_steps=num_steps[kept],
    )


def _check_finite(log_probability_BJ: NDArray[np.float32], *, first_row: int, first_position: int) -> None:
    bad = np.argwhere(np.isnan(log_probability_BJ) | (log_probability_BJ == np.inf))
    if len(bad):
        row, place = (int(i) for i in bad[0])
        raise ScoringError(
            f"the model's logits are not finite in row {first_row + row}, "
            f"at or before position {first_position + place}; "
            "expected numbers (damaged weights, or a precision too low: try dtype float32)",
            row=first_row + row,
        )
