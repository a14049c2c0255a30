"""Weights in the layout that a CPU multiplies fastest: the same float32 products, for any number of rows.

A plain float32 product re-orders its weights on every call, which costs as much as the arithmetic where there are few
rows, as in a decoding step. oneDNN does it once; what it then takes is near the core's peak from 8 rows on.

Axes: P rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PACKED_BYTES: Final = 1 << 28
"""Of a network's layers; the copies of a larger one would take memory that its batches need more."""


def packed_linear(weight_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The map [P, I] -> [P, O] of a linear layer, over a packed copy of its weights where there is such a thing.

    PyTorch offers it to its own compiler only, hence the care: without it the plain product is what comes back.
    """
    if _is_packable(weight_OI):
        try:
            pack, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
            packed = pack(weight_OI.detach().contiguous())
        except (AttributeError, RuntimeError):
            return lambda rows_PI: F.linear(rows_PI, weight_OI, bias_O)
        return lambda rows_PI: multiply(rows_PI, packed, bias_O, "none", [], "")
    return lambda rows_PI: F.linear(rows_PI, weight_OI, bias_O)


@contextmanager
def packed_layers(network: Any) -> Generator[None]:
    """Within, the linear layers of a small float32 network on a CPU multiply packed copies of their weights.

    The network is the same before and after; its head is left alone (see `head`), and so are layers whose forward
    somebody else has replaced.
    """
    head = network.get_output_embeddings()
    layers = [module for module in network.modules() if type(module) is nn.Linear and module is not head]
    layers = [
        layer
        for layer in layers
        if layer.weight.dtype == torch.float32 and _is_packable(layer.weight) and "forward" not in vars(layer)
    ]
    if sum(layer.weight.nbytes for layer in layers) > MOST_PACKED_BYTES:
        layers = []
    try:
        for layer in layers:
            vars(layer)["forward"] = packed_linear(layer.weight, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and probe() for probe in probes)


def _is_packable(weight: Tensor) -> bool:
    is_fast = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())
    return is_fast and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
