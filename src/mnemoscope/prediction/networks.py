"""Networks over time: what was read of a context, and of a decode, -> logits of the chain of matched bits.

The first half of the layers reads the context's steps; in the rest the continuation's steps attend to them and to each
other. For the task `context` these are one learned query per index; for `decode` each also sees the step's features.
Attention is over time, never across the batch: an example's answer is its own.

Dropout takes its noise from the generator that `forward` is given; without one there is none.

Axes: B sequences, k context steps, L continuation steps, T steps attended to, W width, H heads, S states' width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mnemoscope.prediction.chain import ChainLogits
from mnemoscope.prediction.features import FeatureSet, Inputs, Reader
from mnemoscope.prediction.settings import PredictionSettings

Body = Literal["transformer", "lstm"]
_LSTM_LAYERS = 2
_FEED_FORWARD = 2
"""Widths of the hidden layer of a block."""


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """All that decides a network's parameters but their values."""

    body: Body
    features: FeatureSet
    context: int
    continuation: int
    num_facts: int
    num_summaries: int
    num_decode_facts: int
    states_width: int
    decode_states_width: int
    width: int
    layers: int
    heads: int
    state_width: int
    dropout: float
    feature_dropout: float
    state_dropout: float


def shape_of(
    body: Body, reader: Reader, settings: PredictionSettings, *, context: int, continuation: int
) -> NetworkShape:
    """The shape of a network that reads what `reader` gives."""
    widths = {name: len(scale.mean) for name, scale in reader.scales.items()}
    return NetworkShape(
        body=body,
        features=reader.features,
        context=context,
        continuation=continuation,
        num_facts=widths["context_facts"],
        num_summaries=widths["summary"],
        num_decode_facts=widths.get("decode_facts", 0),
        states_width=widths.get("context_states", 0),
        decode_states_width=widths.get("decode_states", 0),
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        state_width=settings.state_width,
        dropout=settings.dropout,
        feature_dropout=settings.feature_dropout,
        state_dropout=settings.state_dropout,
    )


@final
class Network(nn.Module):
    """Features -> chain logits of L indices."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        num_context, num_decode = shape.num_facts, shape.num_decode_facts
        if shape.states_width:
            self.context_states = nn.Linear(shape.states_width, shape.state_width, bias=False)
            num_context += shape.state_width
        if shape.decode_states_width:
            self.decode_states = nn.Linear(shape.decode_states_width, shape.state_width, bias=False)
            num_decode += shape.state_width
        self.context_step = nn.Linear(num_context, shape.width)
        self.context_position = nn.Parameter(torch.empty(shape.context, shape.width))
        self.summary = nn.Linear(shape.num_summaries, shape.width)
        self.query = nn.Parameter(torch.empty(shape.continuation, shape.width))
        self.decode_step = nn.Linear(num_decode, shape.width) if num_decode else None
        self.body = _Transformer(shape) if shape.body == "transformer" else _Lstm(shape)
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, 2, bias=False)
        self.emission = nn.Parameter(torch.empty(shape.continuation))
        self.coupling = nn.Parameter(torch.empty(shape.continuation - 1))

    def forward(self, inputs: Inputs, noise: Generator | None = None) -> ChainLogits:
        """The chain of B sequences."""
        shape = self.shape
        context_BkF = drop(inputs.context_facts, shape.feature_dropout, noise)
        if inputs.context_states is not None:
            states_BkS = self.context_states(_drop_states(inputs.context_states, shape.state_dropout, noise))
            context_BkF = torch.cat([context_BkF, states_BkS], dim=-1)
        context_BkW = self.context_step(context_BkF) + self.context_position
        steps_BLW = self.query + self.summary(drop(inputs.summary, shape.feature_dropout, noise))[:, None]
        if self.decode_step is not None and inputs.decode_facts is not None:
            decode_BLF = inputs.decode_facts
            if inputs.decode_states is not None:
                states_BLS = self.decode_states(_drop_states(inputs.decode_states, shape.state_dropout, noise))
                decode_BLF = torch.cat([decode_BLF, states_BLS], dim=-1)
            steps_BLW = steps_BLW + self.decode_step(decode_BLF)
        logits_BL2 = self.head(self.norm(self.body(context_BkW, steps_BLW, noise)))
        return ChainLogits(logits_BL2[..., 0] + self.emission, logits_BL2[:, 1:, 1] + self.coupling)


def build_network(shape: NetworkShape, *, seed: int) -> Network:
    """A network with its first weights, which follow from the seed alone; no global generator is touched."""
    with torch.device("meta"):
        network = Network(shape)
    network.to_empty(device="cpu")
    initialize(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.head.weight.zero_()  # so that training starts from the rates by index
        network.coupling.fill_(1.0)
        for position in (network.query, network.context_position):
            position.mul_(0.1 * position.shape[1] ** 0.5)
    return network


def initialize(module: nn.Module, generator: Generator) -> None:
    """Fill every parameter: matrices by a normal of variance 1 / fan-in, norms by one, the rest by zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.zero_()


@final
class _Transformer(nn.Module):
    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        num_reading = shape.layers // 2
        self.context_blocks = nn.ModuleList(_Block(shape) for _ in range(num_reading))
        self.context_norm = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers - num_reading))

    def forward(self, context_BkW: Tensor, steps_BLW: Tensor, noise: Generator | None) -> Tensor:
        for block in self.context_blocks:
            context_BkW = block(context_BkW, None, noise)
        context_BkW = self.context_norm(context_BkW)
        for block in self.blocks:
            steps_BLW = block(steps_BLW, context_BkW, noise)
        return steps_BLW


@final
class _Block(nn.Module):
    """Attention of steps to themselves and to what came before, and a hidden layer; norms first."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, shape.dropout
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asking = nn.Linear(width, width)
        self.telling = nn.Linear(width, 2 * width)
        self.joining = nn.Linear(width, width)
        self.widening = nn.Linear(width, _FEED_FORWARD * width)
        self.narrowing = nn.Linear(_FEED_FORWARD * width, width)

    def forward(self, steps_BLW: Tensor, memory_BkW: Tensor | None, noise: Generator | None) -> Tensor:
        normed_BLW = self.attention_norm(steps_BLW)
        seen_BTW = normed_BLW if memory_BkW is None else torch.cat([memory_BkW, normed_BLW], dim=1)
        keys_BTW, values_BTW = self.telling(seen_BTW).chunk(2, dim=-1)
        asked, told, value = (self._split(tensor) for tensor in (self.asking(normed_BLW), keys_BTW, values_BTW))
        joined_BLW = F.scaled_dot_product_attention(asked, told, value).transpose(1, 2).flatten(2)
        steps_BLW = steps_BLW + drop(self.joining(joined_BLW), self.dropout, noise)
        hidden_BLW = self.narrowing(F.gelu(self.widening(self.hidden_norm(steps_BLW))))
        return steps_BLW + drop(hidden_BLW, self.dropout, noise)

    def _split(self, tensor_BTW: Tensor) -> Tensor:
        return tensor_BTW.unflatten(2, (self.heads, -1)).transpose(1, 2)


@final
class _Lstm(nn.Module):
    """Reads the context's steps and then the continuation's, from the first to the last."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.layers = nn.ModuleList(nn.LSTM(shape.width, shape.width, batch_first=True) for _ in range(_LSTM_LAYERS))

    def forward(self, context_BkW: Tensor, steps_BLW: Tensor, noise: Generator | None) -> Tensor:
        all_BTW = torch.cat([context_BkW, steps_BLW], dim=1)
        for layer in self.layers:
            all_BTW = all_BTW + drop(layer(all_BTW)[0], self.dropout, noise)
        return all_BTW[:, context_BkW.shape[1] :]


def drop(values: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Inverted dropout with the given noise."""
    if noise is None or not share:
        return values
    return values * _kept(values.shape, share, noise)


def _drop_states(states_BTS: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Dropout of values, and of all states of a sequence, so that the facts are learned to suffice."""
    if noise is None or not share:
        return states_BTS
    whole_B11 = _kept(torch.Size([len(states_BTS), 1, 1]), share, noise) > 0
    return states_BTS * (_kept(states_BTS.shape, share, noise) * whole_B11)


def _kept(shape: torch.Size, share: float, noise: Generator) -> Tensor:
    """1 / (1 - share) where kept, else 0; a byte of noise per value, four times as fast as a float: share in 256ths."""
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=noise)
    num_dropped = round(256 * share)
    kept = words.view(torch.uint8)[: shape.numel()].view(shape) >= num_dropped
    return kept * (256 / (256 - num_dropped))
