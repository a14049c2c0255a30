"""A model's head: last-layer states -> logits, and what is read of them: greedy token, margin, the truth's odds.

With a vocabulary of 50,000 a small model spends most of its time here. On a CPU the head's weights are therefore cut
into *tiles*, ranges of token ids, packed once a call into the layout that oneDNN multiplies fastest, and each tile's
logits are reduced to a few numbers a position while they are in the cache. Elsewhere one tile is the vocabulary.

Axes: P positions, D width, V vocabulary, v ids of a tile, t tiles, b blocks of ids, w ids of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from mnemoscope.packing import multiplies_bfloat16, packed_linear
from mnemoscope.screening import BLOCK as SCREEN_BLOCK
from mnemoscope.screening import Screen

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

LOGITS_PER_CHUNK: Final = {"cpu": 1 << 22, "cuda": 1 << 27, "mps": 1 << 25}
"""Float32 logits held at a time where they are not cut into tiles; on an accelerator a share of the card."""
TILE_TOKENS: Final = 4096
"""Most token ids of a tile on a CPU; with `TILE_POSITIONS` 4 MiB of logits."""
TILE_POSITIONS: Final = 256
"""Most positions of a tile."""
BLOCK: Final = 128
"""Token ids whose largest logit is found by one vectorised pass, before anybody asks which of them it was."""


@final
class Head:
    """The map from last-layer states to logits: the output embedding, then a scale and a cap where there are any."""

    def __init__(self, network: Any) -> None:
        config = network.config.get_text_config()
        logit_scale, scaling = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
        self.output: Any = network.get_output_embeddings()
        self._scale = float(logit_scale) / float(scaling)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)

    @property
    def is_plain(self) -> bool:
        """Whether logits are products with the output embedding's weights and nothing else."""
        is_linear = type(self.output) is nn.Linear and getattr(self.output, "bias", None) is None
        return is_linear and self._scale == 1.0 and self._softcap is None

    def __call__(self, hidden_PD: Tensor) -> Tensor:
        """Logits [P, V] in the model's dtype."""
        return self.finish(self.output(hidden_PD))

    def finish(self, logits: Tensor) -> Tensor:
        """What scaling and capping make of the output embedding's products."""
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap


class Readings(NamedTuple):
    """What the logits say at P positions."""

    token_P: Tensor
    """The greedy token; of equal logits the lowest id, as an argmax takes it."""
    margin_P: Tensor
    """Largest minus second largest logit."""
    log_probability_P: Tensor
    """Of the true token, in nats; empty where none was given."""


class _TileReadings(NamedTuple):
    """The same of one tile; all [P]."""

    best: Tensor
    second: Tensor
    token: Tensor
    log_total: Tensor | None
    """Log of the sum of the exponentials, where a probability is asked for."""


@final
class HeadReader:
    """Reads positions tile by tile, over a copy of the head's weights that lives as long as the reader."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self._tiles = _cut(model)
        self._may_screen = _can_be_screened(model)
        self._screen: Screen | None = None

    def read(self, hidden_PD: Tensor, truth_P: Tensor | None = None) -> Readings:
        """What the logits after last-layer states say, of a true token too where one is given."""
        size = TILE_POSITIONS if len(self._tiles) > 1 else _positions_per_chunk(self._model)
        parts = [slice(first, first + size) for first in range(0, len(hidden_PD), size)]
        if truth_P is None:
            readings = [self._screened(hidden_PD[part]) or self._read_chunk(hidden_PD[part], None) for part in parts]
        else:
            readings = [self._read_chunk(hidden_PD[part], truth_P[part]) for part in parts]
        return readings[0] if len(readings) == 1 else Readings(*map(torch.cat, zip(*readings, strict=True)))

    def logits(self, hidden_PD: Tensor) -> Tensor:
        """Float32 logits [P, V], which the caller may write into; `chunks` says of how many positions at a time."""
        tiles = [logits_of(hidden_PD) for logits_of in self._tiles]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles, 1)

    def _screened(self, hidden_PD: Tensor) -> Readings | None:
        """The greedy tokens in half the time, where the processor and the weights allow it."""
        if not self._may_screen:
            return None
        if self._screen is None:  # made once it is needed, which in mode `exact` it never is
            self._screen = Screen(cast("Head", self._model.head).output.weight.detach())
        best = self._screen.read(hidden_PD)
        if best is None:
            self._may_screen, self._screen = False, None  # these weights' bounds are too wide: it would only cost
            return None
        return Readings(best.token_P, best.margin_P, hidden_PD.new_zeros(0))

    def _read_chunk(self, hidden_PD: Tensor, truth_P: Tensor | None) -> Readings:
        tiles: list[_TileReadings] = []
        truth_logit_P, first_id = hidden_PD.new_zeros(len(hidden_PD), dtype=torch.float32), 0
        for logits_of in self._tiles:
            logits_Pv = logits_of(hidden_PD)
            if truth_P is not None:
                truth_logit_P = _pick_truth(logits_Pv, truth_P - first_id, otherwise_P=truth_logit_P)
            tiles.append(_read_tile(logits_Pv, first_id, with_total=truth_P is not None))
            first_id += logits_Pv.shape[1]
        best_Pt, second_Pt, token_Pt = (torch.stack(values, 1) for values in list(zip(*tiles, strict=True))[:3])
        tile_P1 = best_Pt.argmax(1, keepdim=True)
        best_P1, token_P1 = best_Pt.gather(1, tile_P1), token_Pt.gather(1, tile_P1)
        second_P = torch.maximum(second_Pt.gather(1, tile_P1)[:, 0], best_Pt.scatter(1, tile_P1, -torch.inf).amax(1))
        totals = [tile.log_total for tile in tiles if tile.log_total is not None]
        log_probability_P = truth_logit_P - torch.stack(totals, 1).logsumexp(1) if totals else truth_logit_P[:0]
        return Readings(token_P1[:, 0], best_P1[:, 0] - second_P, log_probability_P)


def chunks(model: CausalLM, num_positions: int) -> Iterator[slice]:
    """Slices of picked positions, each with as many as may have whole float32 logits at a time."""
    size = _positions_per_chunk(model)
    return (slice(first, min(first + size, num_positions)) for first in range(0, num_positions, size))


def _positions_per_chunk(model: CausalLM) -> int:
    return max(1, LOGITS_PER_CHUNK[model.device.type] // model.identity.vocab_size)


def greedy_token(values_P2: Tensor, tokens_P2: Tensor) -> Tensor:
    """The first of the two best tokens [P]; of two with equal logits the lower id, as an argmax takes it."""
    tied_P = values_P2[:, 0] == values_P2[:, 1]
    return torch.where(tied_P, tokens_P2.amin(-1), tokens_P2[:, 0])


def _cut(model: CausalLM) -> list[Callable[[Tensor], Tensor]]:
    """The maps from states [P, D] to the float32 logits [P, v] of each tile, in the order of their ids."""
    head = model.head
    if head is None or type(head.output) is not nn.Linear or model.device.type != "cpu":
        return [model.logits]
    weight_VD, bias_V = head.output.weight, cast("Tensor | None", head.output.bias)
    num_tiles = -(-len(weight_VD) // TILE_TOKENS)
    size = -(-len(weight_VD) // (num_tiles * BLOCK)) * BLOCK
    biases = [None] * num_tiles if bias_V is None else bias_V.split(size)
    tiles = [packed_linear(weight, bias) for weight, bias in zip(weight_VD.split(size), biases, strict=False)]
    return [partial(_tile_logits, head, tile) for tile in tiles]


def _can_be_screened(model: CausalLM) -> bool:
    head = model.head
    if head is None or not head.is_plain or model.device.type != "cpu" or head.output.weight.dtype != torch.float32:
        return False
    num_tokens = model.identity.vocab_size
    return num_tokens > TILE_TOKENS and num_tokens % SCREEN_BLOCK == 0 and multiplies_bfloat16()


def _tile_logits(head: Head, tile: Callable[[Tensor], Tensor], hidden_PD: Tensor) -> Tensor:
    return head.finish(tile(hidden_PD)).float()


def _pick_truth(logits_Pv: Tensor, place_P: Tensor, *, otherwise_P: Tensor) -> Tensor:
    """The true tokens' logits [P] where they are in this tile."""
    size = logits_Pv.shape[1]
    picked_P = logits_Pv.gather(1, place_P.clamp(0, size - 1)[:, None])[:, 0]
    return torch.where((place_P >= 0) & (place_P < size), picked_P, otherwise_P)


def _read_tile(logits_Pv: Tensor, first_id: int, *, with_total: bool) -> _TileReadings:
    best_P1, second_P, place_P1 = _best_two(logits_Pv)
    log_total_P = None
    if with_total:
        peak_P1 = logits_Pv.log_softmax(1).gather(1, place_P1)
        # Where a tile's tokens are all banned, their total is nothing, and not undefined.
        log_total_P = torch.where(best_P1.isneginf(), best_P1, best_P1 - peak_P1)[:, 0]
    return _TileReadings(best_P1[:, 0], second_P, place_P1[:, 0] + first_id, log_total_P)


def _best_two(logits_Pv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logit [P, 1], the second largest [P], and the first place of the largest [P, 1].

    An argmax or a top-2 of all is 10 to 30 times as slow on a CPU as a maximum, so only the largest one's block is
    searched. Nothing waits for the device.
    """
    size = logits_Pv.shape[1]
    whole = size - size % BLOCK
    peaks_Pb = logits_Pv[:, :whole].view(len(logits_Pv), -1, BLOCK).amax(2)
    if whole < size:
        peaks_Pb = torch.cat([peaks_Pb, logits_Pv[:, whole:].amax(1, keepdim=True)], dim=1)
    block_P1 = peaks_Pb.argmax(1, keepdim=True)
    ids_Pw = block_P1 * BLOCK + torch.arange(BLOCK, device=logits_Pv.device)
    winner_Pw = logits_Pv.gather(1, ids_Pw.clamp(max=size - 1)).masked_fill_(ids_Pw >= size, -torch.inf)
    place_P1 = winner_Pw.argmax(1, keepdim=True)
    best_P1 = winner_Pw.gather(1, place_P1)
    rest = winner_Pw.scatter_(1, place_P1, -torch.inf).amax(1), peaks_Pb.scatter_(1, block_P1, -torch.inf).amax(1)
    return best_P1, torch.maximum(*rest), block_P1 * BLOCK + place_P1
