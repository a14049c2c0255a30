"""The kernel against plain decoding, on the same rows and model in one run: ratios, tokens, peak memory.

    original    the study's protocol: one generate() per context and continuation
    strongest   the strongest plain baseline: one generate() per context, at the longest continuation
    exact       one pass decides full matches, first mismatches and log-probabilities of the whole grid
    graded      every match bit: the same pass, then decoding after the first mismatch only
    floor       one bare forward pass with its logits

`graded_over_floor` is the cost of `graded` over that of as many token forwards at the bare pass's rate: those of the
pass, and those after each first mismatch, counted here once more from the facts.

By default on Pythia-shaped models of 3M and 19M non-embedding parameters with a vocabulary of 50,304, and rows of
Python's own library, which they have not memorized. The memorized rows are the same contexts continued by the model
itself. All sides take turns in every round; ratios are medians over rounds. The last line is one JSON object: every
figure by model, and the worst of each ratio. Ratios are compared with `recorded.json`: a warning, never a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

import guard
from measured_models import SHAPES, library_rows, save_network
from mnemoscope.config import CorpusConfig, Grid, Mode, ModelConfig
from mnemoscope.corpus import open_corpus, read_windows, select_sequences
from mnemoscope.model import CausalLM, load_model, locate
from mnemoscope.peaks import peak_bytes
from mnemoscope.scoring import score_sequences

GRID: Final = Grid(contexts=(32, 48, 64, 96), continuations=(16, 32, 48, 64))
NEAR_TIE_LOGITS: Final = 1e-3
SIDES: Final = ("original", "strongest", "exact", "graded", "floor")
CLOCKS: Final = {"wall": time.perf_counter, "cpu": time.process_time}
OURS: Final = ("exact", "graded", "floor")
"""The sides whose work depends on what the rows say; those of generate() are measured on unmemorized rows alone."""


class Bench(NamedTuple):
    """What is measured: a model, rows, and how many share a pass."""

    name: str
    model: CausalLM
    rows: dict[str, NDArray[np.int64]]
    """By kind, `unmemorized` and `memorized`: int64 [R, W]."""
    batch_size: int
    source: str
    """Where the model lies."""

    def batches(self, kind: str) -> list[torch.Tensor]:
        """The rows of a kind in batches on the model's device."""
        return list(torch.from_numpy(self.rows[kind]).to(self.model.device).split(self.batch_size))

    def generate(self, prompts_BT: torch.Tensor, num_tokens: int) -> NDArray[np.int64]:
        """Plain greedy decoding by transformers; nothing stops it early."""
        out_BT = self.model.network.generate(
            prompts_BT,
            attention_mask=torch.ones_like(prompts_BT),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out_BT[:, prompts_BT.shape[1] :].cpu().numpy()

    def side(self, name: str, kind: str) -> Callable[[], object]:
        """The work of one side on the rows of one kind."""
        batches, sizes = self.batches(kind), [GRID.max_continuation] if name == "strongest" else GRID.continuations
        if name == "floor":
            return lambda: [self.model.network(batch[:, :-1], use_cache=False) for batch in batches]
        if name == "exact" or name == "graded":  # noqa: PLR1714  (narrows the type)
            return lambda: self.score(name, kind)
        return lambda: [self.generate(b[:, :k], n) for b in batches for k in GRID.contexts for n in sizes]

    def score(self, mode: Mode, kind: str) -> Any:
        """Ours."""
        return score_sequences(self.model, self.rows[kind], GRID, mode=mode, batch_size=self.batch_size)

    def disagreement(self, kind: str) -> tuple[int, int]:
        """Rows in which a match bit differs from the strongest baseline's, and those of them without a near-tie."""
        facts, rows = self.score("graded", kind), self.rows[kind]
        differs_RC = np.zeros(facts.first_mismatch_RC.shape, bool)
        for c, k in enumerate(GRID.contexts):
            generated = np.concatenate([self.generate(b[:, :k], GRID.max_continuation) for b in self.batches(kind)])
            matched = generated == rows[:, k : k + GRID.max_continuation]
            differs_RC[:, c] = (matched != facts.matched_RCn[:, c]).any(axis=1)
        clear_RC = differs_RC & (facts.smallest_margin_RCN[:, :, -1] >= NEAR_TIE_LOGITS)
        return int(differs_RC.any(axis=1).sum()), int(clear_RC.any(axis=1).sum())

    def token_forwards(self, kind: str) -> tuple[int, int]:
        """Tokens that the teacher-forced pass runs over, and those that are decoded after first mismatches."""
        rows, first_RC = self.rows[kind], self.score("exact", kind).first_mismatch_RC
        decoded = 0
        for first_C in first_RC:
            reach: dict[int, int] = {}
            for k, first in zip(GRID.contexts, first_C.tolist(), strict=True):
                if first < GRID.max_continuation:
                    reach[k + first] = k + GRID.max_continuation
            decoded += sum(end - start - 1 for start, end in reach.items())
        return rows.shape[0] * (rows.shape[1] - 1), decoded


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    if arguments.only:
        with torch.inference_mode():
            next(set_up(arguments)).side(arguments.only, "unmemorized")()
        print(peak_bytes(torch.device("cpu")) / 2**20)
        return
    figures: dict[str, dict[str, float]] = {}
    for bench in set_up(arguments):
        with torch.inference_mode():
            seconds = measure(bench, arguments.rounds, CLOCKS[arguments.clock])
            disagreement = [bench.disagreement(kind) for kind in bench.rows]
            forwards = {kind: bench.token_forwards(kind) for kind in bench.rows}
        peaks = {side: peak_mib(side, bench, arguments) for side in SIDES[1:] if arguments.peaks}
        figures[bench.name] = facts = summarize(bench, seconds, disagreement, forwards, peaks)
        report(bench, seconds, facts, peaks, arguments)
    ratios = {
        f"{name}_{key}": value for name, facts in figures.items() for key, value in facts.items() if "_over_" in key
    }
    if not arguments.model and arguments.record:
        guard.record(ratios, num_threads=arguments.threads)
    elif not arguments.model:
        print(*guard.compare(ratios, num_threads=arguments.threads), sep="\n", file=sys.stderr)
    print(json.dumps(merge(figures)))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="Pythia-shaped models")
    parser.add_argument("--model", help="model folder or hub name, instead of those shapes")
    parser.add_argument("--corpus", help="file of rows or documents that the model reads (default: Python's library)")
    parser.add_argument("--tokenizer", help="for a corpus of text")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where the machine does other things too")
    parser.add_argument("--no-peaks", dest="peaks", action="store_false", help="do not measure memory")
    parser.add_argument("--record", action="store_true", help="write the shapes' ratios into recorded.json")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def set_up(arguments: argparse.Namespace) -> Iterator[Bench]:
    """The models, one after the other, each with its rows."""
    if arguments.model and not arguments.corpus:
        sys.exit("--model without --corpus: expected both, since its tokens are its own")
    if arguments.model:
        config = ModelConfig(source=arguments.model)
        yield add_memorized("given", config, read_rows(arguments, config.source), arguments)
        return
    tokens = read_rows(arguments, None) if arguments.corpus else library_rows(arguments.rows, GRID.window_tokens)
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            config = ModelConfig(source=str(save_network(shape, Path(folder))))
            yield add_memorized(shape, config, tokens, arguments)


def read_rows(arguments: argparse.Namespace, model: str | None) -> NDArray[np.int64]:
    """Rows of a corpus, int64 [R, W]."""
    reading = CorpusConfig(path=arguments.corpus, short_rows="skip")
    if arguments.corpus.endswith((".jsonl", ".txt")):
        reading = replace(reading, tokenizer=arguments.tokenizer, layout="packed", row_tokens=GRID.window_tokens)
    corpus = open_corpus(reading, default_tokenizer=model)
    ids = select_sequences(reading, corpus).sequence_ids[: 4 * arguments.rows]
    windows = read_windows(corpus, ids, window_tokens=GRID.window_tokens, offset=0, seed=0, short_rows="skip")
    return windows.tokens[: arguments.rows]


def add_memorized(name: str, config: ModelConfig, tokens: NDArray[np.int64], arguments: argparse.Namespace) -> Bench:
    """A model with its rows, and with rows that it recites."""
    source = str(locate(config) or config.source)
    bench = Bench(name, load_model(config), {"unmemorized": tokens}, arguments.batch_size, source)
    if arguments.only:  # the peak of one side must not be that of making the rows
        return bench
    recited = tokens.copy()
    first = GRID.contexts[0]
    with torch.inference_mode():
        recited[:, first:] = np.concatenate(
            [bench.generate(batch[:, :first], GRID.window_tokens - first) for batch in bench.batches("unmemorized")]
        )
    return bench._replace(rows={"unmemorized": tokens, "memorized": recited})


def measure(bench: Bench, rounds: int, clock: Callable[[], float]) -> dict[tuple[str, str], list[float]]:
    """Seconds of every side and kind, round by round; all take turns, so that a slow minute hits all alike."""
    kinds = {"unmemorized": SIDES, "memorized": OURS}
    works = {(side, kind): bench.side(side, kind) for kind, sides in kinds.items() for side in sides}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for number in range(rounds + 1):  # the first is a warm-up
        for key, work in works.items():
            if number == 0 and key[0] == "original":
                continue  # its kernels are those of the strongest
            start = clock()
            work()
            if number:
                seconds[key].append(clock() - start)
    return seconds


def peak_mib(side: str, bench: Bench, arguments: argparse.Namespace) -> float:
    """Peak resident memory, in MiB, of a process that loads the model and does one side's work, unmemorized rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, bench.rows["unmemorized"].astype(np.int32))
        options = ["--only", side, "--model", bench.source, "--corpus", str(rows), "--rows", str(arguments.rows)]
        options += ["--batch-size", str(arguments.batch_size), "--threads", str(arguments.threads)]
        done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def ratio(seconds: dict[tuple[str, str], list[float]], over: str, under: str, kind: str = "unmemorized") -> float:
    """Median over rounds of one side's seconds over another's; generate() takes as long on rows of either kind."""
    above = seconds.get((over, kind), seconds[over, "unmemorized"])
    return round(statistics.median(a / b for a, b in zip(above, seconds[under, kind], strict=True)), 2)


def summarize(
    bench: Bench,
    seconds: dict[tuple[str, str], list[float]],
    disagreement: list[tuple[int, int]],
    forwards: dict[str, tuple[int, int]],
    peaks: dict[str, float],
) -> dict[str, float]:
    """The named figures of a model."""
    num_passed, num_decoded = forwards["unmemorized"]
    bare_rate_cost = (num_passed + num_decoded) / num_passed
    pairs = [(over, under) for under in ("exact", "graded") for over in ("original", "strongest")]
    facts = {f"{over}_over_{under}": ratio(seconds, over, under) for over, under in pairs}
    facts |= {f"{over}_over_graded_memorized": ratio(seconds, over, "graded", "memorized") for over in SIDES[:2]}
    memory = {"peak_mib": round(peaks["graded"]), "peak_mib_strongest": round(peaks["strongest"])} if peaks else {}
    return (
        facts
        | memory
        | {
            "exact_over_floor": ratio(seconds, "exact", "floor"),
            "graded_over_floor": round(ratio(seconds, "graded", "floor") / bare_rate_cost, 2),
            "rows_compared": sum(len(rows) for rows in bench.rows.values()),
            "rows_disagreeing": sum(count for count, _ in disagreement),
            "rows_disagreeing_without_near_tie": sum(clear for _, clear in disagreement),
            "tokens_teacher_forced": num_passed,
            "tokens_decoded": num_decoded,
            "tokens_decoded_by_strongest": len(bench.rows["unmemorized"]) * len(GRID.contexts) * GRID.max_continuation,
        }
    )


def report(
    bench: Bench,
    seconds: dict[tuple[str, str], list[float]],
    facts: dict[str, float],
    peaks: dict[str, float],
    arguments: argparse.Namespace,
) -> None:
    """The table for people."""
    num_rows, window = bench.rows["unmemorized"].shape
    identity = bench.model.identity
    print(
        f"{identity.architecture}, {identity.num_non_embedding_parameters:,} non-embedding parameters, vocabulary "
        f"{identity.vocab_size:,}, {identity.dtype} on {identity.device}; {num_rows} rows x {window} tokens, batch "
        f"{bench.batch_size}, {arguments.rounds} rounds; {guard.machine_kind(arguments.threads)}"
    )
    table = Table("side", "seconds", "passes over bare pass", "memorized rows", "peak MiB", title="Medians over rounds")
    for side in SIDES:
        memorized = str(ratio(seconds, side, "floor", "memorized")) if side in OURS else ""
        spent = f"{statistics.median(seconds[side, 'unmemorized']):.2f}"
        peak = f"{peaks[side]:,.0f}" if side in peaks else ""
        table.add_row(side, spent, str(ratio(seconds, side, "floor")), memorized, peak)
    Console(width=100).print(table)
    print(f"graded over its arithmetic floor: {facts['graded_over_floor']}")


def merge(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Every figure under its model's name, and over all models the worst of each ratio and the sum of rows."""
    merged = {f"{name}_{key}": value for name, facts in figures.items() for key, value in facts.items()}
    for key in next(iter(figures.values())):
        values = [facts[key] for facts in figures.values()]
        if "_over_" in key:
            merged[key] = max(values) if key.endswith("over_floor") else min(values)
        elif key.startswith("rows_"):
            merged[key] = sum(values)
    return merged


if __name__ == "__main__":
    main()
