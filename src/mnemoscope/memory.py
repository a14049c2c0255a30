"""How many sequences fit into one pass: free memory divided by what a sequence needs at its peak."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from mnemoscope.config import Grid, Mode
from mnemoscope.errors import ScoringError
from mnemoscope.head import LOGITS_PER_CHUNK
from mnemoscope.model import CausalLM
from mnemoscope.packing import MOST_PACKED_BYTES
from mnemoscope.rescoring import FLOAT32_BYTES

T = TypeVar("T")
_log = logging.getLogger(__name__)

MOST_SEQUENCES: Final = {"cpu": 32, "cuda": 256, "mps": 64}
"""Larger batches were no faster: on a CPU activations leave the cache, on an accelerator it is busy already."""
SHARE_OF_FREE: Final = 0.6
"""Of the free memory; the rest is for the allocator's gaps, the head's chunk of logits, and other processes."""
_OUT_OF_MEMORY: Final = (
    "can't allocate memory",  # the CPU's allocator
    "out of memory",  # CUDA's own calls, and mps
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What plain RuntimeErrors say when memory runs out in a library below torch's allocator."""
ACTIVATIONS_PER_TOKEN: Final = 20
"""Widths of activations alive at a time in a layer: residual, queries, keys, values, and a four-fold MLP twice."""


def choose_batch_size(
    model: CausalLM, grid: Grid, mode: Mode, num_workers: int = 1, *, with_audit: bool = False
) -> int:
    """Sequences per pass for a model and a grid, at least 1: what fits into the memory that is free now.

    Workers that share the device's memory each get their part of it, and each needs the weights; of an audited run each
    also a float32 copy, whose sequences take more room, too.
    """
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    copy = model.identity.num_parameters * FLOAT32_BYTES if with_audit else 0
    free = (free_bytes(model.device) - (num_workers - 1) * weights) / num_workers - copy
    wider = FLOAT32_BYTES / model.network.dtype.itemsize if with_audit else 1
    free -= copied_bytes(model, mode)
    room = min(SHARE_OF_FREE * free, free - wider * _head_bytes(model))
    fitting = int(room / (wider * bytes_per_sequence(model, grid, mode)))
    return max(1, min(fitting, MOST_SEQUENCES[model.device.type], model.batch_limit))


def bytes_per_sequence(model: CausalLM, grid: Grid, mode: Mode) -> int:
    """Peak bytes that one more sequence in the batch costs, estimated from the model's shape."""
    config, item = model.config, model.network.dtype.itemsize
    width = _first_int(config, "hidden_size", "n_embd", "d_model") or 1024
    heads = _first_int(config, "num_attention_heads", "n_head") or 1
    num_tokens = grid.window_tokens
    activations = num_tokens * width * ACTIVATIONS_PER_TOKEN * item
    scores = heads * num_tokens * num_tokens * 4 if model.identity.attention == "eager" else 0
    logits = 0 if model.has_head else 2 * num_tokens * model.identity.vocab_size * 4
    if mode == "exact" or not model.may_share_keys(grid):
        return activations + scores + logits
    layers = _first_int(config, "num_hidden_layers", "n_layer") or 1
    key_heads = _first_int(config, "num_key_value_heads") or heads
    head_width = _first_int(config, "head_dim") or width // heads
    num_branch_slots = len(grid.contexts) * grid.max_continuation
    # A batch's own cache and one that waits, then the pool's rows, of which there are twice as many as in a batch.
    num_slots = 2 * num_tokens + 2 * (num_tokens + num_branch_slots)
    masks = 2 * len(grid.contexts) * (num_tokens + num_branch_slots) * item
    return activations + scores + masks + 2 * layers * key_heads * head_width * num_slots * item


def copied_bytes(model: CausalLM, mode: Mode) -> int:
    """Bytes of the copies of weights that a call makes on a CPU: layers and head packed, the head in bfloat16 too."""
    if model.device.type != "cpu" or model.network.dtype != torch.float32:
        return 0
    output = model.network.get_output_embeddings()
    head = 0 if output is None else output.weight.nbytes
    layers = sum(parameter.nbytes for parameter in model.network.parameters()) - head
    return (layers if layers <= MOST_PACKED_BYTES else 0) + head + (head // 2 if mode == "graded" else 0)


def _head_bytes(model: CausalLM) -> int:
    """Bytes of a chunk of logits on an accelerator: as the head gives them, in float32, and as log-probabilities."""
    if model.device.type == "cpu":
        return 0
    return LOGITS_PER_CHUNK[model.device.type] * (2 * FLOAT32_BYTES + model.network.dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a device now; on a CPU also within the container's limit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an earlier model's tensors left is free too
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min(_available_in_machine(), _available_in_container())


def within_memory(model: CausalLM, batch_size: int, attempt: Callable[[int], T], *, window_tokens: int) -> T:
    """What `attempt` gives with that many sequences per pass, or with half as many as often as memory runs out.

    The model remembers what was too much. ScoringError where one sequence alone is too much.
    """
    while True:
        limit = min(batch_size, model.batch_limit)
        try:
            return attempt(limit)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            if limit == 1:
                raise ScoringError(
                    f"no memory for one sequence of {window_tokens} tokens; "
                    "expected more memory, a smaller model or dtype"
                ) from error
        model.batch_limit = limit // 2
        _log.warning("memory ran out with %d sequences per pass; going on with %d", limit, model.batch_limit)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _available_in_machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    return (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    )  # macOS tells no more: half of what is built in


def _available_in_container() -> int:
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = (root / "memory.max").read_text().strip(), (root / "memory.current").read_text().strip()
        facts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 1 << 62
    reclaimable = int(facts.get("inactive_file", 0))  # pages of files that were read count as used, and are not
    return 1 << 62 if limit == "max" else max(0, int(limit) - int(used) + reclaimable)


def _first_int(config: Any, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
