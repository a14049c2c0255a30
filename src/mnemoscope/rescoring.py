"""Fragile sequences scored again in float32, and their facts replaced: what `audit` asks of a half-precision run.

A sequence is fragile where, at some context, the smallest top-1 to top-2 margin along the path is below the run's
`audit_margin`: a constant, so that what is scored again follows from a sequence's own facts, whoever scores it and
when. All contexts of such a sequence become float32's. The float32 copy of the model lives beside the run's own.

Axes: R sequences, A audited ones among them, C contexts, N continuations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import ModelConfig
from mnemoscope.errors import ModelError
from mnemoscope.facts import MatchFacts

if TYPE_CHECKING:
    import torch

    from mnemoscope.identity import ModelIdentity
    from mnemoscope.model import CausalLM

FLOAT32_BYTES: Final = 4


def in_float32(config: ModelConfig) -> ModelConfig:
    """The same model in the number format that others are held against."""
    attention = None if config.attention == "flash_attention_2" else config.attention  # which has no float32 kernel
    return replace(config, dtype="float32", audit=False, attention=attention)


def find_fragile(facts: MatchFacts, audit_margin: float) -> NDArray[np.bool_]:
    """Whether each sequence has a margin below `audit_margin` (logits) on the path of some context, bool [R]."""
    # The margin of the longest continuation is the smallest of all; NaN, which compares false, is nothing to rely on.
    is_firm_RC = facts.smallest_margin_RCN[:, :, -1] >= audit_margin
    return ~np.all(is_firm_RC, axis=1)


def replace_facts(facts: MatchFacts, rows_A: NDArray[np.integer], audited: MatchFacts) -> MatchFacts:
    """The facts with those of some sequences replaced."""
    arrays: dict[str, Any] = {}
    for name, values in facts._asdict().items():
        if values is not None:
            arrays[name] = values.copy()
            arrays[name][rows_A] = getattr(audited, name)
    return facts._replace(**arrays)


def check_room(own: ModelIdentity, device: torch.device, *, label: str) -> None:
    """ModelError where a device has no room for the float32 copy of a run's model."""
    from mnemoscope.memory import free_bytes

    needed, free = own.num_parameters * FLOAT32_BYTES, free_bytes(device)
    if needed > free:
        raise _no_room(needed, free, device, label)


def load_reference(load: Callable[[], CausalLM], own: ModelIdentity, device: torch.device, *, label: str) -> CausalLM:
    """The float32 copy of a run's model, beside which the run's own may lie.

    ModelError where there is no room for it, or where its weights are not those of the run.
    """
    from mnemoscope.memory import free_bytes, is_out_of_memory

    check_room(own, device, label=label)
    try:
        model = load()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _no_room(own.num_parameters * FLOAT32_BYTES, free_bytes(device), device, label) from error
    copy = model.identity
    if (copy.weights_sha256, copy.config_sha256) != (own.weights_sha256, own.config_sha256):
        raise ModelError(f"{label}: its files changed while it was scored; expected them to stay")
    return model


def _no_room(needed: int, free: int, device: torch.device, label: str) -> ModelError:
    return ModelError(
        f"{label}: no memory for a float32 copy of it, {needed / 2**30:.1f} GiB with {free / 2**30:.1f} GiB free on "
        f"{device.type}; expected room for it: run the model in float32 alone, without an audit, or with fewer workers"
    )
