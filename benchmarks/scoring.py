"""The kernel against plain decoding, on the same rows and model in one run: ratios, tokens, peak memory.

    original    the study's protocol: one generate() per context and continuation
    strongest   the strongest plain baseline: one generate() per context, at the longest continuation
    exact       one pass decides full matches, first mismatches and log-probabilities of the whole grid
    graded      every match bit: the same pass, then decoding after the first mismatch only
    floor       one bare forward pass with its logits

By default the model is the largest of `mnemoscope demo` (trained on the spot unless it is cached) and the rows are
the demo's held-out text, cut to the length that the grid needs, hence mostly unmemorized. The memorized rows are the
same contexts continued by the model itself. All sides take turns in every round; ratios are medians over rounds. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from mnemoscope.config import CorpusConfig, Grid, Mode, ModelConfig
from mnemoscope.corpus import open_corpus, read_windows, select_sequences
from mnemoscope.demo import demo_study, prepare, training_display
from mnemoscope.model import CausalLM, load_model, locate
from mnemoscope.scoring import score_sequences

GRID: Final = Grid(contexts=(32, 48, 64, 96), continuations=(16, 32, 48, 64))
NEAR_TIE_LOGITS: Final = 1e-3
SIDES: Final = ("original", "strongest", "exact", "graded", "floor")


class Bench(NamedTuple):
    """What is measured: a model, rows, and how many share a pass."""

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


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()  # that the demo was trained on shorter rows
    bench = set_up(arguments)
    if arguments.only:
        with torch.inference_mode():
            bench.side(arguments.only, "unmemorized")()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with torch.inference_mode():
        seconds = measure(bench, arguments.rounds)
        disagreement = [bench.disagreement(kind) for kind in bench.rows]
    peaks = {side: peak_mib(side, bench, arguments) for side in SIDES}
    report(bench, seconds, disagreement, peaks, arguments)


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or hub name (default: the demo's largest)")
    parser.add_argument(
        "--corpus", help="file of rows or documents that the model reads (default: the demo's held-out)"
    )
    parser.add_argument("--tokenizer", help="for a corpus of text")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def set_up(arguments: argparse.Namespace) -> Bench:
    """The model and its rows."""
    if bool(arguments.model) != bool(arguments.corpus):
        sys.exit("--model and --corpus: one given; expected both or none")
    if arguments.model:
        config = ModelConfig(source=arguments.model)
        reading = CorpusConfig(path=arguments.corpus, short_rows="skip")
        if arguments.corpus.endswith((".jsonl", ".txt")):
            reading = replace(reading, tokenizer=arguments.tokenizer, layout="packed", row_tokens=GRID.window_tokens)
        corpus = open_corpus(reading, default_tokenizer=arguments.model)
        ids = select_sequences(reading, corpus).sequence_ids[: 4 * arguments.rows]
        tokens = read_windows(
            corpus, ids, window_tokens=GRID.window_tokens, offset=0, seed=0, short_rows="skip"
        ).tokens[: arguments.rows]
    else:
        with training_display(Console(stderr=True)) as progress:
            assets = prepare(progress=progress)
        config = demo_study(assets).models[len(assets.models) - 1]
        flat = np.load(assets.heldout).ravel().astype(np.int64)
        most = len(flat) // GRID.window_tokens
        tokens = flat[: most * GRID.window_tokens].reshape(most, GRID.window_tokens)[: arguments.rows]
    source = str(locate(config) or config.source)
    bench = Bench(load_model(config), {"unmemorized": tokens}, arguments.batch_size, source)
    if arguments.only:  # the peak of one side must not be that of making the rows
        return bench
    recited = tokens.copy()
    first = GRID.contexts[0]
    with torch.inference_mode():
        recited[:, first:] = np.concatenate(
            [bench.generate(batch[:, :first], GRID.window_tokens - first) for batch in bench.batches("unmemorized")]
        )
    return bench._replace(rows={"unmemorized": tokens, "memorized": recited})


def measure(bench: Bench, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of every side and kind, round by round; all take turns, so that a slow minute hits all alike."""
    works = {(side, kind): bench.side(side, kind) for kind in bench.rows for side in SIDES}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for number in range(rounds + 1):  # the first is a warm-up
        for key, work in works.items():
            start = time.perf_counter()
            work()
            if number:
                seconds[key].append(time.perf_counter() - start)
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


def report(
    bench: Bench,
    seconds: dict[tuple[str, str], list[float]],
    disagreement: list[tuple[int, int]],
    peaks: dict[str, float],
    arguments: argparse.Namespace,
) -> None:
    """The table for people, the JSON line for programs."""

    def ratio(over: str, under: str, kind: str = "unmemorized") -> float:
        pairs = zip(seconds[over, kind], seconds[under, kind], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    num_rows, window = bench.rows["unmemorized"].shape
    identity = bench.model.identity
    print(
        f"{identity.architecture}, {identity.num_non_embedding_parameters:,} non-embedding parameters, vocabulary "
        f"{identity.vocab_size:,}, {identity.dtype} on {identity.device}; {num_rows} rows x {window} tokens, batch "
        f"{bench.batch_size}, {arguments.threads} threads, {arguments.rounds} rounds; "
        f"{platform.processor() or platform.machine()}"
    )
    table = Table(
        "side", "passes over bare pass", "memorized rows", "peak MiB", title="Medians of ratios within a round"
    )
    for side in SIDES:
        table.add_row(side, str(ratio(side, "floor")), str(ratio(side, "floor", "memorized")), f"{peaks[side]:,.0f}")
    Console(width=100).print(table)
    facts = {
        "original_over_exact": ratio("original", "exact"),
        "strongest_over_exact": ratio("strongest", "exact"),
        "exact_over_floor": ratio("exact", "floor"),
        "original_over_graded": ratio("original", "graded"),
        "strongest_over_graded": ratio("strongest", "graded"),
        "original_over_graded_memorized": ratio("original", "graded", "memorized"),
        "strongest_over_graded_memorized": ratio("strongest", "graded", "memorized"),
        "rows_compared": 2 * num_rows,
        "rows_disagreeing": sum(count for count, _ in disagreement),
        "rows_disagreeing_without_near_tie": sum(clear for _, clear in disagreement),
        "tokens_teacher_forced": num_rows * (window - 1),
        "tokens_decoded_by_strongest": num_rows * len(GRID.contexts) * GRID.max_continuation,
        "peak_mib": round(peaks["graded"]),
        "peak_mib_strongest": round(peaks["strongest"]),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
