"""How a study grows: scoring and counting 10^4, 10^5 and 10^6 rows of 2049 tokens with a tiny model.

    linear      seconds per row over those of the size before: 1 where time is linear
    memory      most anonymous memory of the driver and of any worker, MiB: flat where nothing grows with the rows
    shards      share of a worker's time that is not reading windows and scoring them: hashing, encoding, committing
                shards (timed within one run of one process, so that other work on the machine hits both alike)
    workers     rows per second of 1, 2 and 4 local processes
    ray         seconds of as many Ray actors over those of local processes; what starting Ray takes is apart

Tokens are Zipf's in a headerless .bin, the network is a GPT-NeoX of random weights. Each measurement is a process of
its own that scores into a folder of its own, which is gone afterwards. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

ROW_TOKENS: Final = 2049
VOCABULARY: Final = 512
ROWS_AT_ONCE: Final = 8192
CONTEXTS: Final = (32,)
CONTINUATIONS: Final = (16,)
BATCH_SIZE: Final = 512
POLL_SECONDS: Final = 0.05


class Case(NamedTuple):
    """One measurement."""

    num_rows: int
    engine: str
    """local or ray."""
    workers: int
    counting: bool

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.num_rows:>9,} rows, {self.engine:>5} x {self.workers}{' and counting' if self.counting else ''}"


def write_corpus(folder: Path, num_rows: int) -> None:
    """corpus-ROWS.bin: uint16, 2049 tokens a row."""
    generator = np.random.default_rng(0)
    cumulative = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    with (folder / f"corpus-{num_rows}.bin").open("wb") as file:
        for first in range(0, num_rows, ROWS_AT_ONCE):
            drawn = generator.random((min(ROWS_AT_ONCE, num_rows - first), ROW_TOKENS), np.float32)
            np.searchsorted(cumulative / cumulative[-1], drawn).clip(max=VOCABULARY - 1).astype("<u2").tofile(file)


def write_model(folder: Path) -> None:
    """A network of one layer, 32 wide, whose logits are spread out as a trained one's are."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    network = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **ids, max_position_embeddings=256))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    network.save_pretrained(folder / "model")


def study_of(folder: Path, num_rows: int) -> Any:
    """A study of the model over a corpus, without traces."""
    from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig

    corpus = CorpusConfig(path=str(folder / f"corpus-{num_rows}.bin"), format="document", row_tokens=ROW_TOKENS)
    models = (ModelConfig(source=str(folder / "model"), device="cpu"),)
    grid = {"contexts": CONTEXTS, "continuations": CONTINUATIONS}
    return StudyConfig(models=models, corpus=corpus, **grid, batch_size=BATCH_SIZE)


def measure_here(case: Case, folder: Path) -> None:
    """Print seconds by phase and peaks of memory, as JSON."""
    found: dict[str, float] = {}
    study = study_of(folder, case.num_rows)
    with watching_memory(found), tempfile.TemporaryDirectory(dir=folder) as out:
        from mnemoscope.config import CountsConfig, TracesConfig
        from mnemoscope.run import run_study

        engine = timed(partial(_engine, case), found, "start_seconds")
        with timing_shards(found) if case[1:3] == ("local", 1) else nullcontext():
            timed(partial(run_study, study, out, engine=engine), found, "scoring_seconds")
        if case.counting:
            study = replace(study, traces=TracesConfig(per_stratum=100), counts=CountsConfig())
            clock = _CountingClock()
            run_study(study, out, engine=engine, progress=clock)
            found["counting_seconds"] = clock.seconds
    print(json.dumps(found))


def _engine(case: Case) -> Any:
    if case.engine == "ray":
        from mnemoscope.engines.ray import RayEngine

        return RayEngine(None, case.workers)
    from mnemoscope.engines.local import LocalEngine

    return LocalEngine(case.workers)


@contextmanager
def timing_shards(found: dict[str, float]) -> Generator[None]:
    """Notes the seconds of a worker in this process, and those of them in which it read windows and scored them."""
    from mnemoscope import scorer
    from mnemoscope.texts import GroupText

    found |= {"worker_seconds": 0.0, "bare_seconds": 0.0}
    places = ((scorer.ShardScorer, "__call__", "worker"), (scorer, "facts_of", "bare"), (GroupText, "read", "bare"))
    plain = [getattr(owner, name) for owner, name, _ in places]
    depth = 0  # what is read before the first shard is no worker's

    def timed_call(work: Callable[..., Any], kind: str, *arguments: Any, **options: Any) -> Any:
        nonlocal depth
        depth += kind == "worker"
        start = time.perf_counter()
        try:
            return work(*arguments, **options)
        finally:
            found[f"{kind}_seconds"] += (time.perf_counter() - start) * (depth > 0)
            depth -= kind == "worker"

    def wrap(work: Callable[..., Any], kind: str) -> Callable[..., Any]:
        return lambda *arguments, **options: timed_call(work, kind, *arguments, **options)

    for (owner, name, kind), work in zip(places, plain, strict=True):
        setattr(owner, name, wrap(work, kind))
    try:
        yield
    finally:
        for (owner, name, _), work in zip(places, plain, strict=True):
            setattr(owner, name, work)


class _CountingClock:
    """Seconds from the first to the last word on counting."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def __call__(self, label: str, num_done: int, num_all: int) -> None:
        if label.startswith("counts"):
            self._times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self._times[-1] - self._times[0]


def timed(work: Callable[[], Any], found: dict[str, float], name: str) -> Any:
    """What the work gives; the wall-clock seconds that it took are noted."""
    start = time.perf_counter()
    result = work()
    found[name] = time.perf_counter() - start
    return result


class watching_memory:  # noqa: N801  (used as a function)
    """Notes the most anonymous memory of this process and of the largest worker below it, in MiB (Linux)."""

    def __init__(self, found: dict[str, float]) -> None:
        self._found, self._is_done = found, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(POLL_SECONDS):
            self._note("driver_mib", Path("/proc/self"))
            for process in _workers_below(Path("/proc/self")):
                self._note("worker_mib", process)

    def _note(self, name: str, process: Path) -> None:
        try:
            kib = int((process / "status").read_text().split("RssAnon:")[1].split()[0])
        except (OSError, IndexError):
            return  # it has just ended
        self._found[name] = max(self._found.get(name, 0.0), kib / 1024)


def _workers_below(process: Path) -> list[Path]:
    """The processes, at any depth, that do an engine's work."""
    found: list[Path] = []
    for children in process.glob("task/*/children"):
        try:
            below = [Path("/proc") / number for number in children.read_text().split()]
            found += [each for each in below if _is_worker((each / "cmdline").read_bytes())]
        except OSError:
            continue
        for each in below:
            found += _workers_below(each)
    return found


def _is_worker(command: bytes) -> bool:
    return b"spawn_main" in command or command.startswith(b"ray::Actor")


def measure(case: Case, folder: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case), "--folder", str(folder)]
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # as the command line sets it
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    words = ", ".join(f"{name.replace('_', ' ')} {value:,.1f}" for name, value in found.items())
    print(f"{case.words}: {words}", file=sys.stderr)
    return found


def measure_growth(sizes: list[int], folder: Path) -> dict[str, float]:
    """Scoring and counting in one process at each size."""
    figures: dict[str, float] = {}
    per_row: dict[str, float] = {}
    for size in sizes:
        found = measure(Case(size, "local", 1, counting=True), folder)
        figures |= {f"{name}_{size}": value for name, value in found.items()}
        for phase in ("scoring", "counting"):
            seconds = found[f"{phase}_seconds"] / size
            if phase in per_row:
                figures[f"{phase}_linear_{size}"] = seconds / per_row[phase]
            per_row[phase] = seconds
    return figures


def measure_shards(size: int, rounds: int, folder: Path) -> dict[str, float]:
    """The share of a worker's time that shards take, beyond reading and scoring."""
    found = [measure(Case(size, "local", 1, counting=False), folder) for _ in range(rounds)]
    return {"shard_overhead": statistics.median(1 - one["bare_seconds"] / one["worker_seconds"] for one in found)}


def measure_engines(size: int, workers: list[int], rounds: int, folder: Path) -> dict[str, float]:
    """Rows per second of local processes, and what Ray takes beside as many of them."""
    figures: dict[str, float] = {}
    for number in workers:
        cases = [Case(size, engine, number, counting=False) for engine in ("local", "ray")]
        found = [[measure(case, folder) for case in cases] for _ in range(rounds)]
        local = statistics.median(one["scoring_seconds"] for one, _ in found)
        figures[f"rows_per_second_local_{number}"] = size / local
        ratios = [ray["scoring_seconds"] / one["scoring_seconds"] for one, ray in found]
        figures[f"ray_over_local_{number}"] = statistics.median(ratios)
        figures["ray_start_seconds"] = statistics.median(ray["start_seconds"] for _, ray in found)
        for one, ray in found:
            for engine, peaks in (("local", one), ("ray", ray)):
                for name in ("driver_mib", "worker_mib"):
                    if name in peaks:
                        key = f"{name}_{engine}_{number}"
                        figures[key] = max(figures.get(key, 0.0), peaks[name])
    return figures


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    if options.case is not None:
        measure_here(Case(*json.loads(options.case)), options.folder)
        return
    sizes, engine_rows = sorted(map(int, options.sizes)), int(options.engine_rows)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_model(folder)
        for size in {*(sizes if "growth" in options.parts else ()), engine_rows}:
            write_corpus(folder, size)
        figures: dict[str, float] = {}
        if "shards" in options.parts:
            figures |= measure_shards(engine_rows, options.rounds, folder)
        if "engines" in options.parts:
            figures |= measure_engines(engine_rows, options.workers, options.rounds, folder)
        if "growth" in options.parts:
            figures |= measure_growth(sizes, folder)
    table = Table("figure", "value")
    table.columns[1].justify = "right"
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}" if value < 100 else f"{value:,.0f}")
    Console(width=100).print(table)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5, 1e6], help="rows; 1e6 take 4.1 GB")
    parser.add_argument("--parts", nargs="+", choices=(parts := ("growth", "shards", "engines")), default=list(parts))
    parser.add_argument("--engine-rows", type=float, default=1e5, help="rows of the parts shards and engines")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where corpora and results are put for the time")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
