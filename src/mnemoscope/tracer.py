"""A part of a traced sample -> its facts and states: the worker that traces, and how it is made in any process.

Axes: R sequences of the part, W tokens of a window, Y layers, K context tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.config import Grid
from mnemoscope.engines import Once
from mnemoscope.scorer import check_unchanged, let_go
from mnemoscope.store import Run
from mnemoscope.texts import GroupText

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM
    from mnemoscope.tracing import Traces


class TracePart(NamedTuple):
    """The rows start to stop of a group's sample at a context."""

    label: str
    context: int
    group: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.label}, k = {self.context}: traces {self.start} to {self.stop} of {self.group}"


class TracedPart(NamedTuple):
    """What a model said of a part's sequences."""

    part: TracePart
    tokens_RW: NDArray[np.int64]
    facts: list[NDArray[Any]]
    """[R, W] each, in the order of `TokenFacts`: in the context under the truth, then along the greedy path."""
    states_RWD: NDArray[np.float16]
    """float16 [R, W - 1, D]: last-layer states; index i predicts token i + 1."""
    layers_RYKD: NDArray[np.float16]
    """float16 [R, Y, K, D]: chosen layers' states in the context."""


@final
@dataclass(frozen=True, kw_only=True)
class TracerFactory:
    """Makes the workers that trace the samples of a model at one context."""

    run: Run
    model: Once[CausalLM]
    texts: Once[dict[str, GroupText]]
    grid: Grid
    """Of one context and one continuation, the path that is traced."""
    layers: tuple[int, ...]
    sequence_ids: Mapping[str, NDArray[np.int64]]
    """Of each group's sample, in its order."""

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self.run.identity.weights.device

    def __call__(self, tell: Callable[[int], None]) -> Callable[[TracePart], TracedPart]:
        """A worker; ModelError or CorpusError where the files are not those any more that the run began with."""
        model, texts = self.model(), self.texts()
        check_unchanged(self.run, model, texts, doing="traced")

        def trace(part: TracePart) -> TracedPart:
            ids = self.sequence_ids[part.group][part.start : part.stop]
            tokens_RW = texts[part.group].read(ids, short_rows="skip").tokens[:, : self.grid.window_tokens]
            traced = self._cut(part, tokens_RW, self._trace(model, tokens_RW))
            tell(len(ids))
            return traced

        return trace

    def release(self) -> None:
        """Let go of the model, and of the memory that it held on its device."""
        let_go(self.model)

    def _trace(self, model: CausalLM, tokens_RW: NDArray[np.int64]) -> Traces:
        from mnemoscope.memory import within_memory
        from mnemoscope.tracing import trace_sequences

        return within_memory(
            model,
            self.run.identity.batch_size,
            lambda limit: trace_sequences(model, tokens_RW, self.grid, batch_size=limit, layers=self.layers),
            window_tokens=self.grid.window_tokens,
        )

    def _cut(self, part: TracePart, tokens_RW: NDArray[np.int64], traces: Traces) -> TracedPart:
        """The context under the truth and the path behind it, put together."""
        context = part.context
        facts: list[NDArray[Any]] = [
            np.concatenate([truth[:, :context], path[:, 0]], axis=1)
            for truth, path in zip(traces.truth, traces.path, strict=True)
        ]
        states = [traces.truth_states_RWD[:, : context - 1], traces.path_states_RCnD[:, 0]]
        return TracedPart(part, tokens_RW, facts, np.concatenate(states, axis=1), traces.layer_states_RYKD)
