"""Where the time of mode `graded` goes: seconds, tokens and share of each phase of the kernel, on rows of real text.

Each phase is a method of the kernel that is timed from outside, so that the sum of all is the whole call; what is in
none of them is "the rest". A first call warms up. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from measured_models import SHAPES, library_rows, save_network
from mnemoscope import packing, scoring
from mnemoscope.config import Grid, ModelConfig
from mnemoscope.head import HeadReader
from mnemoscope.model import CausalLM, load_model
from mnemoscope.slots import SlotCache

GRID: Final = Grid(contexts=(32, 48, 64, 96), continuations=(16, 32, 48, 64))
CLOCKS: Final = {"wall": time.perf_counter, "cpu": time.process_time}
PHASES: Final = (
    "teacher-forced pass, blocks",
    "its logits: greedy token, margin, log-probability",
    "decoding, blocks",
    "its logits: greedy token, margin",
    "packing weights",
    "copying keys",
)


class Stopwatch:
    """Seconds and tokens by phase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = dict.fromkeys(PHASES, 0)

    def time(self, phase: str, num_tokens: int, work: Callable[[], Any]) -> Any:
        """The work's result."""
        start = self.clock()
        try:
            return work()
        finally:
            self.seconds[phase] += self.clock() - start
            self.tokens[phase] += num_tokens


def watch(stopwatch: Stopwatch) -> None:
    """Time the kernel's methods from now on, for as long as this process lives."""
    hidden_states, step, read = CausalLM.hidden_states, CausalLM.step, HeadReader.read
    store, make_head, pack = SlotCache.store, HeadReader.__init__, packing.packed_linear
    CausalLM.hidden_states = lambda model, tokens, **more: stopwatch.time(  # type: ignore[method-assign]
        PHASES[0], tokens.numel(), lambda: hidden_states(model, tokens, **more)
    )
    HeadReader.read = lambda head, hidden, truth=None: stopwatch.time(  # type: ignore[method-assign]
        PHASES[3] if truth is None else PHASES[1], len(hidden), lambda: read(head, hidden, truth)
    )
    CausalLM.step = lambda model, tokens, *more: stopwatch.time(  # type: ignore[method-assign]
        PHASES[2], tokens.numel(), lambda: step(model, tokens, *more)
    )
    HeadReader.__init__ = lambda head, model: stopwatch.time(  # type: ignore[method-assign]
        PHASES[4], 0, lambda: make_head(head, model)
    )
    packing.packed_linear = lambda *weights: stopwatch.time(PHASES[4], 0, lambda: pack(*weights))
    SlotCache.store = lambda *cells: stopwatch.time(PHASES[5], 0, lambda: store(*cells))  # type: ignore[method-assign]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where the machine does other things too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stopwatch = Stopwatch(CLOCKS[arguments.clock])
    watch(stopwatch)
    tokens = library_rows(arguments.rows, GRID.window_tokens)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            model = load_model(ModelConfig(source=str(save_network(shape, Path(folder)))))
            for _ in range(2):  # the first warms up
                stopwatch.reset()
                start = stopwatch.clock()
                scoring.score_sequences(model, tokens, GRID, mode="graded", batch_size=arguments.batch_size)
                whole = stopwatch.clock() - start
            figures[shape] = describe(stopwatch, whole)
    print(json.dumps(figures))


def describe(stopwatch: Stopwatch, whole: float) -> dict[str, dict[str, float]]:
    """The phases of one call, printed as a table."""
    stopwatch.seconds["the rest"] = whole - sum(stopwatch.seconds.values())
    stopwatch.tokens["the rest"] = 0
    phases = {
        phase: {"seconds": round(seconds, 3), "tokens": stopwatch.tokens[phase], "share": round(seconds / whole, 3)}
        for phase, seconds in stopwatch.seconds.items()
    }
    print(f"{whole:.2f} s")
    for phase, facts in phases.items():
        print(f"  {phase:52}{facts['tokens']:>8,}{facts['seconds']:>9.2f} s{facts['share']:>7.0%}")
    return phases


if __name__ == "__main__":
    main()
