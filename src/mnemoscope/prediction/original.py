"""The published predictor and its protocol, so that the effect of their flaws can be measured on the same traces.

A Transformer encoder (layers and heads of the settings, norms after, ReLU, dropout 0.1, no positions) over the last
layer's states along the decode; a hidden layer; the entropy of each generated token appended; log-odds of a match per
index. Two things are wrong with it: attention is over the sequences of a batch, not over time, as in an
encoder that was built with the batch on the other axis, and the checkpoint is the one with the best token accuracy on
the very split that is reported. `original-fixed` mends the first and nothing else.

What it says of a sequence depends on the batch it stands in, so batches are drawn at random by the seed, as in a
shuffled data set: traces are ordered by score, and a batch of equal scores would give the answer away.

Axes: R examples, B sequences, L continuation, D states' width, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from mnemoscope.errors import ConfigError
from mnemoscope.prediction.chain import ChainLogits, uncoupled
from mnemoscope.prediction.examples import Examples
from mnemoscope.prediction.networks import drop, initialize
from mnemoscope.prediction.settings import PredictionSettings
from mnemoscope.prediction.training import snapshot

Integers = NDArray[np.int64]

_DROPOUT = 0.1
_LEARNING_RATE = 1e-3
"""Published with 1e-4, batches of 128 and up to 30 epochs, for a hundred times as many sequences."""
_MOST_EPOCHS = 12
_MOST_FALLS = 5
"""Falls of the accuracy from one epoch to the next since the best one, after which training ends; as published."""
_FEED_FORWARD = 4


@dataclass(frozen=True, kw_only=True)
class OriginalShape:
    """All that decides the parameters' number and what they attend to."""

    states_width: int
    continuation: int
    width: int
    layers: int
    heads: int
    across_batch: bool
    """Attention over the batch, as published; else over time."""
    batch_size: int
    """Sequences that are shown together, in training and in testing."""


@final
class Original(nn.Module):
    """States and entropy -> log-odds of a match at each index."""

    def __init__(self, shape: OriginalShape) -> None:
        super().__init__()
        self.shape = shape
        same = shape.width == shape.states_width
        self.entry = nn.Identity() if same else nn.Linear(shape.states_width, shape.width)
        self.blocks = nn.ModuleList(_OriginalBlock(shape) for _ in range(shape.layers))
        self.hidden = nn.Linear(shape.width, shape.width)
        self.head = nn.Linear(shape.width + 1, 1)

    def forward(self, states_BLD: Tensor, entropy_BL: Tensor, noise: Generator | None = None) -> Tensor:
        """Logits [B, L]."""
        steps_BLW = self.entry(states_BLD)
        for block in self.blocks:
            steps_BLW = block(steps_BLW, noise)
        said_BLW = F.relu(self.hidden(steps_BLW))
        return self.head(torch.cat([said_BLW, entropy_BL[..., None]], dim=-1))[..., 0]


@final
class _OriginalBlock(nn.Module):
    """An encoder block with its norms after each branch."""

    def __init__(self, shape: OriginalShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.across_batch = shape.heads, shape.across_batch
        self.attending, self.joining = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widening, self.narrowing = nn.Linear(width, _FEED_FORWARD * width), nn.Linear(_FEED_FORWARD * width, width)
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, steps_BLW: Tensor, noise: Generator | None) -> Tensor:
        mixed = steps_BLW.transpose(0, 1) if self.across_batch else steps_BLW
        asked, told, value = self.attending(mixed).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        joined = self.joining(F.scaled_dot_product_attention(asked, told, value).transpose(1, 2).flatten(2))
        joined_BLW = joined.transpose(0, 1) if self.across_batch else joined
        steps_BLW = self.attention_norm(steps_BLW + drop(joined_BLW, _DROPOUT, noise))
        hidden_BLW = self.narrowing(drop(F.relu(self.widening(steps_BLW)), _DROPOUT, noise))
        return self.hidden_norm(steps_BLW + drop(hidden_BLW, _DROPOUT, noise))


@final
@dataclass(frozen=True, eq=False)
class OriginalPredictor:
    """A trained original with the batches that it is tested in."""

    network: Original
    seed: int

    def predict(self, examples: Examples, rows: Integers) -> ChainLogits:
        """Float64 logits [R, L] without couplings; they depend on which rows are asked for together."""
        return uncoupled(_apply(self.network, examples, rows, seed=self.seed))


def train_original(
    examples: Examples,
    *,
    train: Integers,
    reported: Integers,
    across_batch: bool,
    settings: PredictionSettings,
    seed: int,
) -> tuple[OriginalPredictor, int]:
    """The predictor with the checkpoint that is best on `reported`, and its epoch from 0."""
    width = examples.context_states.shape[-1]
    shape = OriginalShape(
        states_width=width,
        continuation=examples.continuation,
        width=settings.original_width or -(-width // settings.heads) * settings.heads,
        layers=settings.layers,
        heads=settings.heads,
        across_batch=across_batch,
        batch_size=settings.original_batch_size,
    )
    network = build_original(shape, seed=seed)
    order, noise = np.random.default_rng([seed, 2]), Generator().manual_seed(2 * seed + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    matched_RL = torch.from_numpy(examples.labels)
    best, best_epoch, kept, previous, num_falls = -1.0, -1, snapshot(network), 0.0, 0
    for epoch in range(_MOST_EPOCHS):
        for rows in _batches(order.permutation(train), shape.batch_size):
            logits_BL = network(*_read(shape, examples, rows), noise)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits_BL, matched_RL[rows].float()).backward()
            optimizer.step()
        said_RL = _apply(network, examples, reported, seed=seed) > 0
        accuracy = float((said_RL == matched_RL[reported]).double().mean())
        num_falls = 0 if accuracy > best else num_falls + (accuracy < previous)
        if accuracy > best:
            best, best_epoch, kept = accuracy, epoch, snapshot(network)
        previous = accuracy
        if num_falls >= _MOST_FALLS:
            break
    network.load_state_dict(kept)
    return OriginalPredictor(network, seed), best_epoch


def build_original(shape: OriginalShape, *, seed: int) -> Original:
    """A network with its first weights, which follow from the seed alone."""
    with torch.device("meta"):
        network = Original(shape)
    network.to_empty(device="cpu")
    initialize(network, Generator().manual_seed(seed))
    with torch.no_grad():  # the variance that PyTorch's own layers begin with, which norms after branches need
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3**-0.5)
    return network


def _apply(network: Original, examples: Examples, rows: Integers, *, seed: int) -> Tensor:
    """Logits float64 [R, L] in the order of `rows`, shown in batches of a random order."""
    order = np.random.default_rng([seed, 3]).permutation(len(rows))
    logits_RL = torch.zeros(len(rows), network.shape.continuation, dtype=torch.float64)
    with torch.no_grad():
        for part in _batches(order, network.shape.batch_size):
            logits_RL[part] = network(*_read(network.shape, examples, rows[part])).double()
    return logits_RL


def _batches(rows: Integers, size: int) -> list[Integers]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _read(shape: OriginalShape, examples: Examples, rows: Integers) -> tuple[Tensor, Tensor]:
    """States along the decode [B, L, D] and entropies [B, L], as they are."""
    if examples.decode_states is None or examples.decode_facts is None:
        raise ConfigError(f"{examples.model}: examples without a decode; the original predicts nothing before it")
    if examples.decode_states.shape[-1] != shape.states_width:
        raise ConfigError(
            f"{examples.model}: states of width {examples.decode_states.shape[-1]}; expected {shape.states_width}"
        )
    states_BLD = np.asarray(examples.decode_states[rows], np.float32)
    entropy_BL = np.asarray(examples.decode_facts[rows, :, 0], np.float32)
    return torch.from_numpy(states_BLD), torch.from_numpy(entropy_BL)
