"""Keys and values in preallocated slots, written in place, seen through an explicit mask.

transformers' dynamic cache grows by concatenation, which copies every key at every step. Here each layer owns one
buffer of slots: the first hold the truth, later ones the tokens decoded since; what a token may see is the mask's
business, so the branches of one sequence share the truth's slots. The rows still decoding are always a prefix of the
buffer (the caller sorts them by the work they have left), so that dropping finished rows copies nothing.

Axes: R rows, H key-value heads, S slots, d head width, B sequences, T tokens, Q queries of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM


@final
class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, both [R, H, S, d]; `update` writes at the owner's cursor."""

    def __init__(self, keys_RHSd: Tensor, values_RHSd: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys_RHSd, values_RHSd  # where transformers looks for them
        self.buffers = (keys_RHSd, values_RHSd)
        self.num_used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the step's keys and values behind the used slots; return all used ones of the active rows."""
        keys, values = self.buffers
        rows, end = key_states.shape[0], self.num_used + key_states.shape[2]
        keys[:rows, :, self.num_used : end] = key_states
        values[:rows, :, self.num_used : end] = value_states
        self.num_used = end
        return keys[:rows, :, :end], values[:rows, :, :end]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the buffers are there from the start."""

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self.num_used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots that the next step's mask spans, and where they start."""
        return self.num_used + query_length, 0

    def get_max_length(self) -> int:
        """Slots in the buffer."""
        return self.buffers[0].shape[2]


@final
class SlotCache(Cache):
    """A transformers cache over preallocated slots."""

    def __init__(self, slot_layers: list[_SlotLayer]) -> None:
        super().__init__(layers=list(slot_layers))
        self._slot_layers = slot_layers

    @classmethod
    def allocate(cls, prefix: DynamicCache, *, num_rows: int, num_slots: int) -> SlotCache:
        """Buffers of `num_rows` x `num_slots` shaped like the layers of a filled cache; nothing is copied yet."""

        def buffer(like_BHTd: Tensor) -> Tensor:
            _, heads, _, width = like_BHTd.shape
            return like_BHTd.new_empty(num_rows, heads, num_slots, width)

        return cls([_SlotLayer(buffer(keys), buffer(values)) for keys, values in _filled(prefix)])

    @classmethod
    def after_prefix(cls, model: CausalLM, prefix_BT: Tensor, *, num_slots: int) -> SlotCache:
        """A cache whose first slots hold `prefix_BT`, with room for more."""
        prefix = DynamicCache()
        model.hidden_states(prefix_BT, cache=prefix)
        cache = cls.allocate(prefix, num_rows=prefix_BT.shape[0], num_slots=num_slots)
        cache.store(prefix, torch.arange(prefix_BT.shape[0], device=prefix_BT.device))
        cache.start(num_used=prefix_BT.shape[1])
        return cache

    @property
    def num_used(self) -> int:
        """Slots in use, the same in every layer between two steps."""
        return self._slot_layers[0].num_used

    def store(self, prefix: DynamicCache, rows: Tensor) -> None:
        """Copy the keys and values of a teacher-forced pass, sequence by sequence, into the given rows."""
        for layer, filled in zip(self._slot_layers, _filled(prefix), strict=True):
            for buffer_RHSd, states_BHTd in zip(layer.buffers, filled, strict=True):
                length = min(states_BHTd.shape[2], buffer_RHSd.shape[2])
                buffer_RHSd[rows, :, :length] = states_BHTd[:, :, :length]

    def start(self, *, num_used: int) -> None:
        """Put the cursor behind the first `num_used` slots, which hold the truth."""
        for layer in self._slot_layers:
            layer.num_used = num_used


def _filled(prefix: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """The keys and values [B, H, T, d] of each layer; TypeError for layers that keep something else."""
    pairs = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in prefix.layers]
    filled = [(k, v) for k, v in pairs if isinstance(k, Tensor) and isinstance(v, Tensor)]
    if not filled or len(filled) < len(pairs):
        raise TypeError("some layers keep no keys and values")
    return filled
