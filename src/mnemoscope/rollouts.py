"""What the model says after it has left the truth: greedy decoding of the branches of many sequences at once.

A *branch* is the greedy path of one sequence from the position of a first mismatch on. Contexts whose greedy paths
leave the truth at the same position share one branch. Nothing stops a branch early (no end-of-text), so the number of
steps each needs is known beforehand: rows and branches are sorted by it, the active ones are always a leading block,
and no step waits for the device.

Axes: R rows with a branch, Q branches of a row (columns), S slots, C contexts, P picked (row, column) cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mnemoscope.config import Grid
from mnemoscope.head import HeadReader, chunks
from mnemoscope.model import CausalLM
from mnemoscope.slots import SlotCache


class Branches(NamedTuple):
    """Branches in no particular order; each array has one entry a branch."""

    row: NDArray[np.int64]
    """The sequence it belongs to."""
    start: NDArray[np.int64]
    """Position of the mismatch: where the first token that is not the truth's stands."""
    token: NDArray[np.int64]
    """That token."""
    num_steps: NDArray[np.int64]
    """Tokens still to decode after it."""


class Decoded(NamedTuple):
    """What a set of branches said, aligned with them; entries beyond `num_steps` are undefined."""

    tokens: NDArray[np.int64]
    """int64 [branches, steps]: the tokens after the mismatch."""
    margins: NDArray[np.float32]
    """float32 [branches, steps]: top-1 to top-2 logit margin of each."""


class StepReader(Protocol):
    """What is read off the model at each step of a decode; the branches are those it was made for."""

    def read(self, hidden_PD: Tensor, step: int) -> Tensor:
        """The greedy tokens [P] after the last-layer states of the first P branches, those still active at `step`."""
        ...


Reader = TypeVar("Reader", bound=StepReader)


@final
class GreedyReader:
    """Reads the greedy token and its margin."""

    def __init__(self, model: CausalLM, branches: Branches, *, head: HeadReader) -> None:
        shape = len(branches.row), int(branches.num_steps.max(initial=0))
        self._head = head
        self._tokens = torch.zeros(shape, dtype=torch.long, device=model.device)
        self._margins = torch.zeros(shape, device=model.device)

    def read(self, hidden_PD: Tensor, step: int) -> Tensor:
        """The greedy tokens [P]; they and their margins are kept."""
        readings = self._head.read(hidden_PD)
        self._tokens[: len(hidden_PD), step] = readings.token_P
        self._margins[: len(hidden_PD), step] = readings.margin_P
        return readings.token_P

    def decoded(self) -> Decoded:
        """What was read, on the host."""
        return Decoded(self._tokens.cpu().numpy(), self._margins.cpu().numpy())


@final
class Rollouts(Generic[Reader]):
    """The decoding of a call's branches, in whatever way the model allows; yields what was read as it gets done."""

    def __init__(
        self,
        model: CausalLM,
        tokens_RW: NDArray[np.int64],
        grid: Grid,
        make_reader: Callable[[CausalLM, Branches], Reader],
        *,
        batch_size: int,
    ) -> None:
        self._model, self._tokens_RW, self._make_reader, self._batch_size = model, tokens_RW, make_reader, batch_size
        shares = model.may_share_keys(grid)
        self._pool = _RolloutPool(model, grid, batch_size=batch_size) if shares else None

    def new_cache(self) -> DynamicCache | None:
        """What a batch's teacher-forced pass is to fill with its keys and values; None where they cannot be shared."""
        return None if self._pool is None else DynamicCache()

    def add(
        self, branches: Branches, cache: DynamicCache | None, *, first_row: int, num_rows: int
    ) -> Iterator[tuple[Branches, Reader]]:
        """Take a batch's branches; yields decoded ones when enough wait, and all that wait at the call's last row."""
        if self._pool is None or cache is None:
            yield from _decode_by_whole_passes(
                self._model, branches, self._tokens_RW, self._make_reader, batch_size=self._batch_size
            )
            return
        self._pool.add(branches, cache, first_row=first_row, num_rows=num_rows)
        is_last = first_row + num_rows == len(self._tokens_RW)
        if self._pool.is_full or (is_last and not self._pool.is_empty):
            yield self._pool.decode(self._make_reader)


class _RolloutPool:
    """Sequences that wait, with their keys and values, until enough are there to decode them side by side."""

    def __init__(self, model: CausalLM, grid: Grid, *, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._most_slots = grid.window_tokens - 1 + len(grid.contexts) * (grid.max_continuation - 1)
        self._waiting: list[tuple[Branches, DynamicCache]] = []
        self._num_rows = 0
        self._cache: SlotCache | None = None

    @property
    def is_full(self) -> bool:
        """Whether as many rows wait as a forward pass takes."""
        return self._num_rows >= self._batch_size

    @property
    def is_empty(self) -> bool:
        """Whether no row waits."""
        return self._num_rows == 0

    def add(self, branches: Branches, prefix: DynamicCache, *, first_row: int, num_rows: int) -> None:
        """Take a batch's branches and what they need of its keys and values; the batch starts at row `first_row`."""
        rows = np.unique(branches.row)
        if not len(rows):
            return
        if len(rows) < num_rows:
            prefix.batch_select_indices(torch.from_numpy(rows - first_row).to(self._model.device))
        self._waiting.append((branches, prefix))
        self._num_rows += len(rows)

    def decode(self, make_reader: Callable[[CausalLM, Branches], Reader]) -> tuple[Branches, Reader]:
        """All waiting branches and what was read of them; the pool is empty afterwards."""
        branches = Branches(*(np.concatenate(parts) for parts in zip(*(b for b, _ in self._waiting), strict=True)))
        branches = _longest_first(branches)
        schedule = _plan(branches)
        cache = self._fill_cache(schedule)
        self._waiting, self._num_rows = [], 0
        reader = make_reader(self._model, branches)
        _decode(self._model, branches, schedule, cache, reader)
        return branches, reader

    def _fill_cache(self, schedule: _Schedule) -> SlotCache:
        if self._cache is None:  # allocated once: fresh pages cost as much as the copy into them
            like = self._waiting[0][1]
            self._cache = SlotCache.allocate(like, num_rows=2 * self._batch_size, num_slots=self._most_slots)
        for branches, prefix in self._waiting:
            rows = schedule.place_of(np.unique(branches.row))
            self._cache.store(prefix, torch.from_numpy(rows).to(self._model.device))
        return self._cache


class _Schedule(NamedTuple):
    """Where each branch sits in the block of rows x columns, and how much of the block is active at each step."""

    rows: NDArray[np.int64]
    """The sequences, those with the longest branch first."""
    place: NDArray[np.int64]
    """Per branch: index of its row in the block."""
    column: NDArray[np.int64]
    """Per branch: its column, longer branches of a row first."""
    num_rows: NDArray[np.int64]
    """Per step: leading rows still active."""
    num_columns: NDArray[np.int64]
    """Per step: leading columns still active in some row."""
    num_branches: NDArray[np.int64]
    """Per step: leading branches still active."""

    def place_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index in the block of given sequences."""
        sorter = np.argsort(self.rows)
        return sorter[np.searchsorted(self.rows, rows, sorter=sorter)]


def _longest_first(branches: Branches) -> Branches:
    """The branches by descending number of steps: those active at a step are then the first ones."""
    order = np.argsort(-branches.num_steps, kind="stable")
    return Branches(*(values[order] for values in branches))


def _plan(branches: Branches) -> _Schedule:
    """The schedule of branches that are sorted by descending number of steps."""
    _, first = np.unique(branches.row, return_index=True)
    rows = branches.row[np.sort(first)]
    sorter = np.argsort(rows)
    place = sorter[np.searchsorted(rows, branches.row, sorter=sorter)]
    column = np.zeros(len(place), np.int64)
    seen = np.zeros(len(rows), np.int64)
    for branch, row in enumerate(place):
        column[branch] = seen[row]
        seen[row] += 1
    steps = np.arange(branches.num_steps.max())
    num_branches = (branches.num_steps[:, None] > steps).sum(axis=0)
    num_rows = np.maximum.accumulate(place + 1)[num_branches - 1]
    num_columns = np.maximum.accumulate(column + 1)[num_branches - 1]
    return _Schedule(rows, place, column, num_rows, num_columns, num_branches)


@torch.inference_mode()
def _decode(model: CausalLM, branches: Branches, schedule: _Schedule, cache: SlotCache, reader: StepReader) -> None:
    """Greedy decoding of all branches over a cache whose first slots hold their sequences' true tokens."""
    device, dtype = model.device, model.network.dtype
    place, column = (torch.from_numpy(index).to(device) for index in (schedule.place, schedule.column))
    num_rows, num_columns, num_steps = (
        int(schedule.num_rows[0]),
        int(schedule.num_columns[0]),
        len(schedule.num_rows),
    )
    num_truth = int(branches.start.max())
    tokens_RQ = torch.zeros(num_rows, num_columns, dtype=torch.long, device=device)
    positions_RQ = torch.zeros_like(tokens_RQ)
    tokens_RQ[place, column] = torch.from_numpy(branches.token).to(device)
    start = torch.from_numpy(branches.start).to(device)
    positions_RQ[place, column] = start
    num_slots = num_truth + int(schedule.num_columns.sum())
    # Cells without a branch are computed too, and must see something: they keep this mask's finite minimum everywhere.
    mask_RQS = torch.full((num_rows, num_columns, num_slots), torch.finfo(dtype).min, dtype=dtype, device=device)
    truth_PS = torch.arange(num_truth, device=device) < start[:, None]
    mask_RQS[place, column, :num_truth] = mask_RQS[place, column, :num_truth].masked_fill(truth_PS, 0)
    cache.start(num_used=num_truth)
    for step in range(num_steps):
        rows, columns, active = (int(n[step]) for n in (schedule.num_rows, schedule.num_columns, schedule.num_branches))
        used = cache.num_used
        mask_RQS[:rows, :columns, used : used + columns].diagonal(dim1=1, dim2=2).fill_(0)
        hidden_RQD = model.step(
            tokens_RQ[:rows, :columns],
            positions_RQ[:rows, :columns],
            mask_RQS[:rows, :columns, : used + columns],
            cache,
        )
        tokens_P = reader.read(hidden_RQD[place[:active], column[:active]], step)
        tokens_RQ[place[:active], column[:active]] = tokens_P
        positions_RQ += 1


@torch.inference_mode()
def _decode_by_whole_passes(
    model: CausalLM,
    branches: Branches,
    truth_RW: NDArray[np.int64],
    make_reader: Callable[[CausalLM, Branches], Reader],
    *,
    batch_size: int,
) -> Iterator[tuple[Branches, Reader]]:
    """The same as a pool's `decode`, for any causal model: no keys are shared, no mask is needed.

    Each pass runs over whole sequences and predicts every position at once from the current guess; the prefix of
    the guess that the pass confirms is final, and one more token with it (Jacobi iteration: at most `num_steps`
    passes, far fewer where the text repeats itself). `truth_RW` holds the sequences that `branches.row` counts in.
    """
    order = np.argsort(branches.start, kind="stable")
    for first in range(0, len(order), batch_size):
        part = _longest_first(Branches(*(values[order[first : first + batch_size]] for values in branches)))
        hidden_PKD = _iterate(model, part, truth_RW[part.row])
        reader = make_reader(model, part)
        for step in range(hidden_PKD.shape[1]):
            reader.read(hidden_PKD[: int((part.num_steps > step).sum()), step], step)
        yield part, reader


def _iterate(model: CausalLM, branches: Branches, truth_PW: NDArray[np.int64]) -> Tensor:
    """Last-layer states [P, K, D] at the K places from each branch's start on, along its greedy path."""
    device, num_steps = model.device, int(branches.num_steps.max())
    start_P1 = torch.from_numpy(branches.start).to(device)[:, None]
    places_PK = start_P1 + torch.arange(num_steps, device=device)  # the token after place j is predicted at j
    length = int((branches.start + branches.num_steps).max())
    tokens_PT = torch.zeros(len(start_P1), int(branches.start.max()) + num_steps + 1, dtype=torch.long, device=device)
    tokens_PT[:, :length] = torch.from_numpy(truth_PW[:, :length]).to(device)
    tokens_PT.scatter_(1, start_P1, torch.from_numpy(branches.token).to(device)[:, None])
    rows_P1 = torch.arange(len(start_P1), device=device)[:, None]
    wanted_PK = places_PK < start_P1 + torch.from_numpy(branches.num_steps).to(device)[:, None]
    guess_PK = torch.full_like(places_PK, -1)
    while True:
        hidden_PKD = model.hidden_states(tokens_PT[:, :length])[rows_P1, places_PK.clamp(max=length - 1)]
        flat = hidden_PKD.flatten(0, 1)
        found_PK = torch.cat([model.logits(flat[part]).argmax(-1) for part in chunks(model, len(flat))])
        found_PK = found_PK.view_as(guess_PK)
        if bool(((found_PK == guess_PK) | ~wanted_PK).all()):
            return hidden_PKD
        guess_PK = found_PK
        tokens_PT.scatter_(1, places_PK + 1, guess_PK)
