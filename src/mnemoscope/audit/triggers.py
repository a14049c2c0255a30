"""The shortest context that triggers a recited passage.

Axes: R passages of the call, B of a batch, T tokens of a context and its continuation, n index in the continuation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mnemoscope.head import HeadReader
from mnemoscope.model import CausalLM


def find_triggers(
    model: CausalLM,
    head: HeadReader,
    tokens_RW: NDArray[np.int64],
    context_R: NDArray[np.integer],
    *,
    is_recited_R: NDArray[np.bool_],
    continuation: int,
    batch_size: int,
) -> NDArray[np.int32]:
    """Fewest tokens of the ladder, directly before the continuation, after which it is recited in full, int32 [R].

    -1 where it is not recited from its context, which is the ladder's last rung. One teacher-forced pass per rung
    decides: greedy decoding says the truth if and only if each true token is the greedy one after those before it.
    """
    trigger_R = np.where(is_recited_R, context_R, -1).astype(np.int32)
    for length in rungs(int(context_R[is_recited_R].max(initial=0))):
        open_rows = np.flatnonzero(is_recited_R & (trigger_R == context_R) & (context_R > length))
        for first in range(0, len(open_rows), batch_size):
            rows = open_rows[first : first + batch_size]
            places_BT = context_R[rows, None] - length + np.arange(length + continuation)
            is_found_B = _is_recited(model, head, tokens_RW[rows[:, None], places_BT], length)
            trigger_R[rows[is_found_B]] = length
    return trigger_R


def rungs(context: int) -> Iterator[int]:
    """The ladder's lengths below a context: 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128 ..."""
    length = 1
    while length < context:
        yield length
        if length >= 8 and length * 3 // 2 < context:
            yield length * 3 // 2
        length *= 2


@torch.inference_mode()
def _is_recited(model: CausalLM, head: HeadReader, tokens_BT: NDArray[np.int64], context: int) -> NDArray[np.bool_]:
    """Whether [B] all tokens behind a context are the greedy ones."""
    tokens = torch.from_numpy(np.ascontiguousarray(tokens_BT)).to(model.device)
    hidden_BnH = model.hidden_states(tokens[:, :-1])[:, context - 1 :]
    said_Bn = head.read(hidden_BnH.flatten(0, 1)).token_P.view(len(tokens), -1)
    return (said_Bn == tokens[:, context:]).all(1).cpu().numpy()
