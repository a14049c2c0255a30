"""Other ways to the same tokens, side by side in one run: the same weights, rows, grid and threads.

    transformers original     the study's protocol: one generate() per context and continuation
    transformers strongest    one generate() per context, at the longest continuation
    transformers exact        one bare forward pass and its greedy choices
    mnemoscope exact, graded  ours
    ENGINE strongest, exact   the same two questions to CTranslate2, llama.cpp, OpenVINO, ONNX Runtime and, on a GPU,
                              vLLM: one greedy generation per context, and one pass over whole rows

Every side is a process of its own, in its engine's environment; all take turns in every round, and ratios are medians
over rounds. `--install NAME` makes an environment from the package index in the cache folder; engines without one are
named and left out. Weights are random but for --model, hence nothing is memorized: every context mismatches at once
and the graded mode decodes as much as it ever has to. Tokens are compared with transformers' own; our bits are
compared on rows of which parts are the model's own words. The last line is one JSON object.

Axes: R rows, W tokens of a row, C contexts, n index in the continuation (0 .. n_max-1), V vocabulary.
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
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from guard import machine_kind
from peer_assets import PEERS, environment_python, install, model_folder, real_rows, reason_missing
from scoring import GRID, NEAR_TIE_LOGITS

OWN_SIDES: Final = (
    ("transformers", "original"),
    ("transformers", "strongest"),
    ("transformers", "exact"),
    ("mnemoscope", "exact"),
    ("mnemoscope", "graded"),
)
REST_SECONDS: Final = 0.3
"""Between turns: threads of a side that has finished spin on for a while."""
Side = tuple[str, str]


class Answers(NamedTuple):
    """How a side's answers compare with transformers'."""

    num_compared: int
    num_equal: int
    num_paths_parted: int
    """Greedy paths (or judged positions) that differ somewhere."""
    num_parted_without_near_tie: int


class Worker:
    """A side's process."""

    def __init__(self, side: Side, folder: Path, arguments: argparse.Namespace) -> None:
        engine, protocol = side
        python = environment_python(engine) if engine in PEERS else Path(sys.executable)
        settings = {
            "contexts": GRID.contexts,
            "continuations": GRID.continuations,
            "batch_size": arguments.batch_size,
            "threads": arguments.threads,
        }
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would fill up)
        script = Path(__file__).with_name("peer_engines") / "serve.py"
        self.process = subprocess.Popen(
            [str(python), str(script), engine, protocol, str(folder), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if arguments.verbose else self.words,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"},
        )

    def ask(self, **request: str) -> dict[str, Any]:
        """The reply to a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next reply; RuntimeError with the process's last words where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.words.seek(0)
        words = self.words.read().strip().splitlines()
        raise RuntimeError(words[-1] if words else f"ended with {self.process.wait()}")

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.wait()
        self.words.close()


class Measured(NamedTuple):
    """What a model's run found."""

    seconds: dict[Side, list[float]]
    peak_mib: dict[Side, float]
    answers: dict[Side, Answers]
    left_out: dict[str, str]


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    left_out = {name: f"not installed: {problem}" for name in arguments.install if (problem := install(name))}
    for name in PEERS:
        reason = reason_missing(name, has_gpu=torch.cuda.is_available())
        if reason:
            left_out.setdefault(name, reason)
    sides = [*OWN_SIDES, *((name, way) for name in PEERS if name not in left_out for way in PEERS[name].protocols)]
    rows_RW, text = real_rows(arguments.rows, GRID.window_tokens)
    figures: dict[str, Any] = {"machine": machine_kind(arguments.threads), "text": text, "rows": arguments.rows}
    for shape in arguments.shapes:
        measured = measure(model_folder(shape), shape, sides, rows_RW, arguments)
        left_out |= measured.left_out
        figures[shape] = report(shape, measured, arguments)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(json.dumps(figures | {"left_out": left_out}))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["3M", "19M"], help="Pythia-shaped models")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--seconds", type=float, default=200, help="per model: no round starts that would end later")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--install", nargs="+", choices=PEERS, default=[], help="make these engines' environments")
    parser.add_argument("--verbose", action="store_true", help="show what the engines print")
    return parser.parse_args()


def measure(
    folder: Path, shape: str, sides: list[Side], rows_RW: NDArray[np.int64], arguments: argparse.Namespace
) -> Measured:
    """Start all sides, compare their answers (their warm-up), then let them take turns."""
    begun = time.perf_counter()
    weights = folder / "weights" / shape
    workers = {
        side: Worker(side, folder if side[0] in PEERS and side[0] != "vllm" else weights, arguments) for side in sides
    }
    left_out: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            await_all(workers, left_out)
            answers = compare(workers, weights, rows_RW, Path(scratch), left_out)
            rows = Path(scratch) / "rows.npy"
            seconds: dict[Side, list[float]] = {side: [] for side in workers}
            peaks: dict[Side, float] = {}
            for number in range(arguments.rounds):
                start = time.perf_counter()
                for side, worker in workers.items():
                    reply = worker.ask(rows=str(rows))
                    seconds[side].append(reply["seconds"])
                    peaks[side] = reply["peak_mib"]
                    time.sleep(REST_SECONDS)
                now = time.perf_counter()
                if now - begun + (now - start) > arguments.seconds:
                    print(f"{shape}: {number + 1} rounds in {now - begun:.0f} s", file=sys.stderr)
                    break
    finally:
        for worker in workers.values():
            worker.end()
    return Measured(seconds, peaks, answers, left_out)


def await_all(workers: dict[Side, Worker], left_out: dict[str, str]) -> None:
    """Wait until every side has loaded its model; one that fails is ended and left out."""
    for side in list(workers):
        try:
            workers[side].read()
        except RuntimeError as error:
            workers.pop(side).end()
            left_out[" ".join(side)] = str(error)


def compare(
    workers: dict[Side, Worker], weights: Path, rows_RW: NDArray[np.int64], scratch: Path, left_out: dict[str, str]
) -> dict[Side, Answers]:
    """The answers of every side but the original protocol; a side that fails is ended and left out."""
    network = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    np.save(scratch / "rows.npy", rows_RW)
    found: dict[Side, Any] = {}
    for side in [side for side in workers if side[0] != "mnemoscope" and side[1] != "original"]:
        try:
            reply = workers[side].ask(rows=str(scratch / "rows.npy"), answers=str(scratch / "found.npy"))
            found[side] = np.load(scratch / "found.npy")
            print(f"{' '.join(side)}: {reply['seconds']:.1f} s to warm up", file=sys.stderr)
        except RuntimeError as error:
            workers.pop(side).end()
            left_out[" ".join(side)] = str(error)
    told_RCn, chosen_RW = found["transformers", "strongest"], found["transformers", "exact"]
    answers = {
        side: compare_tokens(network, rows_RW, told_RCn, found[side])
        if side[1] == "strongest"
        else compare_choices(network, rows_RW, chosen_RW, found[side])
        for side in found
    }
    half_RW = recited(rows_RW, told_RCn)
    np.save(scratch / "half.npy", half_RW)
    workers["transformers", "strongest"].ask(rows=str(scratch / "half.npy"), answers=str(scratch / "found.npy"))
    reference_RCn = np.load(scratch / "found.npy")
    for side in [side for side in workers if side[0] == "mnemoscope"]:
        workers[side].ask(rows=str(scratch / "half.npy"), answers=str(scratch / "found.npy"))
        answers[side] = compare_bits(network, half_RW, reference_RCn, np.load(scratch / "found.npy"))
    return answers


def recited(rows_RW: NDArray[np.int64], told_RCn: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows with the model's own words put after one of the contexts, a third of them with one token wrong."""
    half_RW = rows_RW.copy()
    for row, tokens_Cn in enumerate(told_RCn):
        c = row % len(GRID.contexts)
        k = GRID.contexts[c]
        half_RW[row, k : k + GRID.max_continuation] = tokens_Cn[c]
        if row % 3 == 2:
            half_RW[row, k + 11 * row % GRID.max_continuation] = 1 + row
    return half_RW


@torch.inference_mode()
def margin_after(network: Any, tokens: NDArray[np.int64]) -> float:
    """The margin, in logits, of the greedy token after these."""
    best = network(torch.from_numpy(tokens.copy())[None], use_cache=False).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def compare_tokens(
    network: Any, rows_RW: NDArray[np.int64], told_RCn: NDArray[np.int64], found_RCn: NDArray[np.int64]
) -> Answers:
    """Generated tokens; a path that parts at a near-tie of the reference is nobody's error."""
    parted = np.argwhere((told_RCn != found_RCn).any(axis=2))
    clear = 0
    for row, c in parted:
        first = int(np.argmax(told_RCn[row, c] != found_RCn[row, c]))
        before = np.concatenate([rows_RW[row, : GRID.contexts[c]], told_RCn[row, c, :first]])
        clear += margin_after(network, before) >= NEAR_TIE_LOGITS
    return Answers(told_RCn.size, int((told_RCn == found_RCn).sum()), len(parted), clear)


def compare_choices(
    network: Any, rows_RW: NDArray[np.int64], chosen_RW: NDArray[np.int64], found_RW: NDArray[np.int64]
) -> Answers:
    """Greedy choices after true prefixes, from the shortest context on."""
    first = GRID.contexts[0] - 1
    parted = np.argwhere(chosen_RW[:, first:] != found_RW[:, first:])
    clear = sum(margin_after(network, rows_RW[row, : first + w + 1]) >= NEAR_TIE_LOGITS for row, w in parted)
    return Answers(chosen_RW[:, first:].size, chosen_RW[:, first:].size - len(parted), len(parted), clear)


def compare_bits(
    network: Any, rows_RW: NDArray[np.int64], told_RCn: NDArray[np.int64], found: NDArray[np.int64]
) -> Answers:
    """Our match bits [R, C, n_max], or first mismatches [R, C], against those that generated tokens give."""
    truth_RCn = np.stack([rows_RW[:, k : k + GRID.max_continuation] for k in GRID.contexts], axis=1)
    expected = told_RCn == truth_RCn
    if found.ndim == 2:
        misses = np.concatenate([~expected, np.ones_like(expected[..., :1])], axis=2)
        expected = misses.argmax(axis=2)[..., None]
        found = found[..., None]
    parted = np.argwhere((expected != found).any(axis=2))
    clear = 0
    for row, c in parted:
        k = GRID.contexts[c]
        path = np.concatenate([rows_RW[row, :k], told_RCn[row, c]])
        margins = (margin_after(network, path[:end]) for end in range(k, len(path)))
        clear += min(margins) >= NEAR_TIE_LOGITS
    return Answers(expected.size, int((expected == found).sum()), len(parted), clear)


def report(shape: str, measured: Measured, arguments: argparse.Namespace) -> dict[str, Any]:
    """A table for people; the figures."""
    seconds = measured.seconds
    machine = machine_kind(arguments.threads)
    title = f"{shape}: {arguments.rows} rows, batch {arguments.batch_size}, {machine}; seconds over ours"
    heads = ("side", "rows/s", "over our exact", "over our graded", "peak MiB", "equal answers", "parted (clearly)")
    table = Table(*heads, title=title)
    figures: dict[str, Any] = {"rounds": len(seconds["transformers", "strongest"])}
    for side, spent in seconds.items():
        over = {
            mode: statistics.median(
                theirs / mine for theirs, mine in zip(spent, seconds["mnemoscope", mode], strict=True)
            )
            for mode in ("exact", "graded")
        }
        found = measured.answers.get(side)
        rate = arguments.rows / statistics.median(spent)
        figures[" ".join(side)] = {
            "rows_per_second": round(rate, 3),
            "over_exact": round(over["exact"], 3),
            "over_graded": round(over["graded"], 3),
            "peak_mib": round(measured.peak_mib[side]),
            "share_equal": found and found.num_equal / found.num_compared,
            "parted": found and found.num_paths_parted,
            "parted_without_near_tie": found and found.num_parted_without_near_tie,
        }
        equal = f"{found.num_equal / found.num_compared:.3%}" if found else ""
        parted = f"{found.num_paths_parted} ({found.num_parted_without_near_tie})" if found else ""
        ratios = (f"{over[mode]:.2f}" for mode in ("exact", "graded"))
        table.add_row(" ".join(side), f"{rate:.2f}", *ratios, f"{measured.peak_mib[side]:,.0f}", equal, parted)
    Console(width=130).print(table)
    return figures


if __name__ == "__main__":
    main()
