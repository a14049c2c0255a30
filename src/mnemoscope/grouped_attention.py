"""Attention of a masked step where several query heads share a key head, without a copy of the keys for each.

transformers repeats keys and values for every query head that shares them whenever several queries see them through a
mask; a decoding step of branches does that in every layer, for all slots. Here the query heads of a group become
further queries of their one key head: the same sums of the same products.

Axes: R rows, H query heads, K key heads, Q queries, S slots, d head width.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME: Final = "mnemoscope_grouped"
_SPECIAL: Final = ("softcap", "position_bias", "s_aux")
"""What some architectures add to attention, and only their own path knows."""


@contextmanager
def grouped_attention(config: Any) -> Generator[None]:
    """Within, a network whose attention is PyTorch's and whose heads are grouped does not repeat its keys."""
    usual = getattr(config, "_attn_implementation", None)
    if usual != "sdpa" or not _has_groups(config.get_text_config()):
        yield
        return
    _register()
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def _has_groups(config: Any) -> bool:
    heads, key_heads = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    return isinstance(heads, int) and isinstance(key_heads, int) and 0 < key_heads < heads


@cache
def _register() -> None:
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """What transformers' own function gives: [R, Q, H, d], and no weights."""
    num_rows, num_heads, num_queries, width = query.shape
    num_groups = num_heads // key.shape[1]
    is_special = any(settings.get(name) is not None for name in _SPECIAL) or module.training
    if attention_mask is None or attention_mask.shape[1] != 1 or num_groups == 1 or is_special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    attended = F.scaled_dot_product_attention(
        query.reshape(num_rows, key.shape[1], num_groups * num_queries, width),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, num_groups, 1),
        scale=settings.get("scaling"),
    )
    return attended.reshape(num_rows, num_heads, num_queries, value.shape[-1]).transpose(1, 2).contiguous(), None
