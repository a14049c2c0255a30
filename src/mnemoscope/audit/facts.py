"""What one pass of the model says of passages, as plain arrays: all that an audit's findings follow from.

Axes: R passages, W tokens of the longest one, C contexts, S ways of sampling, n index in the continuation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.settings import Kind, Sampling


class Passages(NamedTuple):
    """Stretches of documents that are scored: contexts, and what follows them."""

    tokens_RW: NDArray[np.int32]
    """Each passage's tokens, then 0 up to the length of the longest."""
    length_R: NDArray[np.int32]
    context_RC: NDArray[np.int32]
    """Tokens before the continuation: the grid's contexts at starts and offsets, one, the prompt, at turns."""
    kind_R: list[Kind]
    is_member_R: NDArray[np.bool_]
    """Of the training files; else held out."""
    document_R: NDArray[np.int32]
    """Index in the documents of its group."""
    line_R: NDArray[np.int64]
    """Line of its file, from 1 (rows of tables from 0)."""
    start_R: NDArray[np.int32]
    """Token of the document where the passage begins."""

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> Passages:
        """Some of them."""
        rows = np.arange(len(self.kind_R))[chosen]
        arrays = {name: part[rows] for name, part in self._asdict().items() if name != "kind_R"}
        return Passages(**arrays, kind_R=[self.kind_R[row] for row in rows])


class TokenFacts(NamedTuple):
    """Of the distribution that predicts token i, at index i; NaN or -1 at index 0 and behind a passage's end."""

    generated_RW: NDArray[np.int32]
    """The greedy token."""
    margin_RW: NDArray[np.float32]
    """Largest minus second largest logit."""
    log_probability_RW: NDArray[np.float32]
    """Of the true token, in nats."""
    mean_RW: NDArray[np.float32]
    """Expected log-probability of a drawn token, in nats: minus the entropy."""
    deviation_RW: NDArray[np.float32]
    """Standard deviation of the log-probability of a drawn token, in nats."""
    sampled_RSW: NDArray[np.float32]
    """Log-probability of the true token under each way of sampling; -inf where it cannot be drawn."""


@final
@dataclass(frozen=True, kw_only=True)
class AuditFacts:
    """Everything that the model has said of the passages."""

    passages: Passages
    tokens: TokenFacts
    path_Rn: NDArray[np.int32]
    """Greedy tokens from the reference context on; -1 where the passage is too short for its continuation."""
    trigger_R: NDArray[np.int32]
    """Fewest tokens of a ladder, directly before the reference continuation, after which it is recited in full;
    -1 where it is not recited from the reference context."""
    context_labels: tuple[str, ...]
    """Of the C contexts: their lengths, or `prompt`."""
    continuations: tuple[int, ...]
    samplings: tuple[Sampling, ...]
    reference: tuple[int, int]
    """Index of the reference context, and the reference continuation n: the longest that half of the members have."""

    def fits(self, context: int, continuation: int) -> NDArray[np.bool_]:
        """Which passages [R] are long enough for a context (by index) and a continuation."""
        return self.passages.context_RC[:, context] + continuation <= self.passages.length_R

    def continuation_of(self, values_RW: NDArray[np.generic], context: int, continuation: int) -> NDArray[np.generic]:
        """[R', n] of the passages that fit, in their order: what stands at the places of the continuation."""
        rows = np.flatnonzero(self.fits(context, continuation))
        places = self.passages.context_RC[rows, context][:, None] + np.arange(continuation)
        return values_RW[rows[:, None], places]

    def is_recited(self, context: int, continuation: int) -> NDArray[np.bool_]:
        """Whether [R] all n greedy tokens are the true ones; False where the passage is too short."""
        recited = np.zeros(len(self.passages.length_R), np.bool_)
        hits = self.tokens.generated_RW == self.passages.tokens_RW
        recited[self.fits(context, continuation)] = self.continuation_of(hits, context, continuation).all(1)
        return recited

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> AuditFacts:
        """The facts of some passages."""
        return replace(
            self,
            passages=self.passages.take(chosen),
            tokens=TokenFacts._make(values[chosen] for values in self.tokens),
            path_Rn=self.path_Rn[chosen],
            trigger_R=self.trigger_R[chosen],
        )
