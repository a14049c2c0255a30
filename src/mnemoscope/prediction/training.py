"""Examples of known bits -> a trained network: AdamW, one cycle of the learning rate, the best epoch kept.

Everything that is random follows from the seed: first weights, the order of sequences and dropout each have their own
generator. The best epoch is that of the smallest validation loss, and its weights are a copy.

Axes: R examples, L continuation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from mnemoscope.prediction.chain import ChainLogits, negative_log_likelihoods, to_markov
from mnemoscope.prediction.examples import Examples
from mnemoscope.prediction.features import Inputs, Reader
from mnemoscope.prediction.networks import Network
from mnemoscope.prediction.settings import PredictionSettings

Integers = NDArray[np.int64]

ROWS_AT_ONCE = 256
"""Sequences per batch where nothing is trained."""
_FEWEST_EPOCHS = 3
_WARM_SHARE = 0.2
_LARGEST_GRADIENT = 1.0


class Trained(NamedTuple):
    """What training ended with; the network has the best epoch's weights."""

    network: Network
    uses_states: bool
    """Whether hidden states made the validation loss smaller; if not, they are not read."""
    best_epoch: int
    """From 0."""
    validation_loss: float
    """Nats per sequence."""


@final
class Cycle:
    """Adam with decoupled decay of matrices, and one cycle of the learning rate: linear up, then a cosine to zero."""

    def __init__(self, network: nn.Module, *, num_steps: int, learning_rate: float, weight_decay: float) -> None:
        matrices = [p for name, p in network.named_parameters() if p.ndim > 1 and not _is_position(name)]
        rest = [p for name, p in network.named_parameters() if p.ndim <= 1 or _is_position(name)]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self._parameters = [*matrices, *rest]
        self._optimizer = torch.optim.AdamW(groups, lr=learning_rate)
        num_warm = max(1, round(_WARM_SHARE * num_steps))

        def factor(step: int) -> float:
            if step < num_warm:
                return (step + 1) / num_warm
            return 0.5 * (1 + np.cos(np.pi * (step - num_warm) / max(1, num_steps - num_warm)))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, loss: Tensor) -> None:
        """Follow the loss's gradient once."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        self._optimizer.step()
        self._schedule.step()


def train_network(
    network: Network,
    reader: Reader,
    examples: Examples,
    *,
    train: Integers,
    validation: Integers,
    settings: PredictionSettings,
    seed: int,
) -> Trained:
    """The network trained in place, with the weights of its best epoch."""
    order, noise = np.random.default_rng([seed, 1]), Generator().manual_seed(2 * seed + 1)
    matched_RL = torch.from_numpy(examples.labels)
    steps_per_epoch = -(-len(train) // settings.batch_size)
    num_epochs = min(settings.epochs, max(_FEWEST_EPOCHS, round(settings.num_shown / len(train))))
    cycle = Cycle(
        network,
        num_steps=num_epochs * steps_per_epoch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    best = Trained(network, reader.features.states, -1, float("inf"))
    kept = snapshot(network)
    for epoch in range(num_epochs):
        for rows in np.array_split(order.permutation(train), steps_per_epoch):
            chain = network(reader.read(examples, rows), noise)
            losses_R = negative_log_likelihoods(to_markov(chain), matched_RL[rows])
            cycle.step(losses_R.mean() / examples.continuation)
        for uses_states in {reader.features.states, False}:
            chain = apply_network(network, reader, examples, validation, uses_states=uses_states)
            loss = float(negative_log_likelihoods(to_markov(chain), matched_RL[validation]).mean())
            if loss < best.validation_loss:
                best, kept = Trained(network, uses_states, epoch, loss), snapshot(network)
        if epoch - best.best_epoch >= settings.patience:
            break
    network.load_state_dict(kept)
    return best


def apply_network(
    network: Network, reader: Reader, examples: Examples, rows: Integers, *, uses_states: bool
) -> ChainLogits:
    """What the network says of some examples, float64; no gradient, no dropout."""
    with torch.no_grad():
        parts = [
            network(inputs if uses_states else without_states(inputs)) for inputs in _batches(reader, examples, rows)
        ]
    columns = [torch.cat([chain[column] for chain in parts]).double() for column in range(2)]
    return ChainLogits(columns[0], columns[1])


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, which further training leaves alone."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def without_states(inputs: Inputs) -> Inputs:
    """The same inputs with every hidden state at its mean."""
    blanked = {
        name: None if states is None else torch.zeros_like(states)
        for name, states in (("context_states", inputs.context_states), ("decode_states", inputs.decode_states))
    }
    return inputs._replace(**blanked)


def _batches(reader: Reader, examples: Examples, rows: Integers) -> Iterator[Inputs]:
    for start in range(0, max(1, len(rows)), ROWS_AT_ONCE):
        yield reader.read(examples, rows[start : start + ROWS_AT_ONCE])


def _is_position(name: str) -> bool:
    return name in ("query", "context_position")
