"""Weights in the layout that a CPU multiplies fastest: the same float32 products, for any number of rows.

A plain float32 product re-orders its weights on every call, which costs as much as the arithmetic where there are few
rows, as in a decoding step. oneDNN does it once; what it then takes is near the core's peak from 8 rows on.

Axes: P rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_linear(weight_OI: Tensor, bias_O: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The map [P, I] -> [P, O] of a linear layer, over a packed copy of its weights where there is such a thing.

    PyTorch offers it to its own compiler only, hence the care: without it the plain product is what comes back.
    """
    if weight_OI.dtype == torch.float32 and weight_OI.device.type == "cpu" and torch.backends.mkldnn.is_available():
        try:
            pack, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
            packed = pack(weight_OI.detach().contiguous())
        except (AttributeError, RuntimeError):
            return lambda rows_PI: F.linear(rows_PI, weight_OI, bias_O)
        return lambda rows_PI: multiply(rows_PI, packed, bias_O, "none", [], "")
    return lambda rows_PI: F.linear(rows_PI, weight_OI, bias_O)
