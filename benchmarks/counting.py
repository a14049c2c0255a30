"""Counting against a general tool, duckdb, on the same question and tokens: speed and peak memory.

The question: of every token and pair of tokens of the sampled windows the occurrences in the corpus, and of every
window the places that hold it. Tokens are Zipf's, in rows of 2,048, with planted repeats; windows are cut from the
rows. Ours reads a .npy corpus with `count_corpus`. The general tool is handed what suits it best, batches of tokens,
of pairs packed into one integer, and of windows as bytes, all made from the mapped array as they are asked for; it
joins them to what the sample wants and groups. Both answer on one thread, and their answers must be equal.

Each measurement is a process of its own, warm before its clock starts; sides take turns and ratios are medians over
rounds. Memory is the peak of what the process itself holds (anonymous pages), the corpus's mapped file left out.
Sizes over --general-up-to are for ours alone. The last line is one JSON object: speed and memory of ours at the
largest size, and `ours_over_general` at the largest size that both did. duckdb comes with the `dev` extra.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROW_TOKENS: Final = 2048
WINDOW_TOKENS: Final = 64
VOCABULARY: Final = 50_000
ROWS_AT_ONCE: Final = 256
POLL_SECONDS: Final = 0.01

Answers = list[NDArray[np.int64]]
"""Occurrences of the tokens [R, W], of the pairs [R, W - 1] and of the windows [R]."""


def write_corpus(folder: Path, num_tokens: int, num_windows: int) -> None:
    """corpus.npy, uint16 [rows, 2048], and windows.npy, uint16 [R, 64]; one window in ten stands in further rows."""
    generator = np.random.default_rng(num_tokens)
    cumulative = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    num_rows = num_tokens // ROW_TOKENS
    corpus = np.empty((num_rows, ROW_TOKENS), np.uint16)
    for first in range(0, num_rows, ROWS_AT_ONCE):
        part = corpus[first : first + ROWS_AT_ONCE]
        part[:] = np.searchsorted(cumulative, generator.random(part.shape) * cumulative[-1])
    starts = ROW_TOKENS - WINDOW_TOKENS + 1
    places = generator.choice(num_rows * starts, num_windows, replace=False)
    for place in places[: num_windows // 10]:
        tokens = corpus[place // starts, place % starts :][:WINDOW_TOKENS].copy()
        for _ in range(generator.integers(1, 4)):
            offset = generator.integers(starts)
            corpus[generator.integers(num_rows), offset : offset + WINDOW_TOKENS] = tokens
    windows = [corpus[place // starts, place % starts :][:WINDOW_TOKENS] for place in places]
    np.save(folder / "corpus.npy", corpus)
    np.save(folder / "windows.npy", np.array(windows))


def count_ours(folder: Path, num_rows: int) -> Answers:
    """The answers of the package for the first rows."""
    from mnemoscope.config import CorpusConfig
    from mnemoscope.corpus import open_corpus
    from mnemoscope.counting import count_corpus, plan_counts

    request = plan_counts(np.load(folder / "windows.npy"))
    counts = count_corpus(request, open_corpus(CorpusConfig(path=str(folder / "corpus.npy"))), stop=num_rows)
    return [found[table.number_RP] for table, found in zip(request.tables, counts.occurrences, strict=True)]


def count_general(folder: Path, num_rows: int) -> Answers:
    """The answers of duckdb for the first rows."""
    import duckdb

    corpus = np.load(folder / "corpus.npy", mmap_mode="r")[:num_rows]
    windows_RW = np.load(folder / "windows.npy")
    connection = duckdb.connect(config={"threads": 1})
    # The size of a stream is unknown to the planner, which then builds its hash table from the corpus.
    connection.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")
    return [_ask(connection, corpus, windows_RW, n) for n in (1, 2, WINDOW_TOKENS)]


def _ask(connection: Any, corpus: NDArray[np.uint16], windows_RW: NDArray[np.uint16], n: int) -> NDArray[np.int64]:
    wanted = pa.table({"ngram": _ngrams(windows_RW, n)})
    reader = pa.RecordBatchReader.from_batches(wanted.schema, _batches(corpus, n))
    connection.register("wanted", wanted.append_column("place", pa.array(np.arange(len(wanted)))))
    connection.register("corpus", reader)
    answer = connection.execute(
        "with sample as (select distinct ngram from wanted), "
        "found as (select ngram, count(*) as num from corpus semi join sample using (ngram) group by ngram) "
        "select coalesce(num, 0) as num from wanted left join found using (ngram) order by place"
    ).fetchnumpy()["num"]
    return np.asarray(answer, np.int64).reshape(len(windows_RW), -1)


def _batches(corpus: NDArray[np.uint16], n: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(corpus), ROWS_AT_ONCE):
        yield pa.record_batch({"ngram": _ngrams(np.asarray(corpus[first : first + ROWS_AT_ONCE]), n)})


def _ngrams(rows: NDArray[np.uint16], n: int) -> pa.Array:
    """Every n-gram of the rows as duckdb compares it fastest: integers for one and two tokens, else bytes."""
    if n <= 2:
        packed = rows.astype(np.uint32)
        return pa.array((packed if n == 1 else packed[:, :-1] << 16 | packed[:, 1:]).reshape(-1))
    views = np.lib.stride_tricks.sliding_window_view(rows, n, axis=1)
    content = np.ascontiguousarray(views).reshape(-1, n)
    kind = pa.binary(content.itemsize * n)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(content), [None, pa.py_buffer(content)])


SIDES: Final[dict[str, Callable[[Path, int], Answers]]] = {"ours": count_ours, "general": count_general}


def measure_here(side: str, folder: Path) -> None:
    """Print seconds, peak MiB and a hash of the answers, as JSON."""
    num_rows = len(np.load(folder / "corpus.npy", mmap_mode="r"))
    SIDES[side](folder, 2)
    peak, is_done = [0], threading.Event()
    poll = threading.Thread(target=_poll_memory, args=(peak, is_done))
    poll.start()
    start = time.perf_counter()
    answers = SIDES[side](folder, num_rows)
    seconds = time.perf_counter() - start
    is_done.set()
    poll.join()
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(answer).tobytes() for answer in answers)).hexdigest()
    print(json.dumps({"seconds": seconds, "peak_mib": peak[0] / 1024, "answers": digest}))


def _poll_memory(peak: list[int], is_done: threading.Event) -> None:
    """The most anonymous memory seen, in KiB (Linux)."""
    while not is_done.wait(POLL_SECONDS):
        status = Path("/proc/self/status").read_text()
        peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]))


def measure(side: str, folder: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def compare(num_tokens: int, *, num_windows: int, num_rounds: int, sides: list[str]) -> dict[str, float]:
    """Medians of one size, printed; the ratio only where both sides ran."""
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name), num_tokens, num_windows)
        rounds = [{side: measure(side, Path(name)) for side in sides} for _ in range(num_rounds)]
    if len({found["answers"] for sides_found in rounds for found in sides_found.values()}) != 1:
        raise SystemExit(f"{num_tokens} tokens: the sides' answers differ")
    counted = num_tokens // ROW_TOKENS * ROW_TOKENS
    for side in sides:
        seconds = statistics.median(found[side]["seconds"] for found in rounds)
        peak = max(found[side]["peak_mib"] for found in rounds)
        print(
            f"{counted:>12,} tokens, {num_windows:,} windows, {side:>7}: {seconds:8.2f} s, "
            f"{counted / seconds / 1e6:7.2f} M tokens/s, {peak:7.0f} MiB"
        )
    ours = [found["ours"] for found in rounds]
    figures = {
        "num_tokens": counted,
        "tokens_per_second_per_core": round(counted / statistics.median(found["seconds"] for found in ours)),
        "peak_mib": round(max(found["peak_mib"] for found in ours)),
    }
    if "general" in sides:
        ratios = [found["general"]["seconds"] / found["ours"]["seconds"] for found in rounds]
        figures["ours_over_general"] = round(statistics.median(ratios), 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sizes", type=float, nargs="*", default=[1e6, 1e7, 1e8], help="tokens of the corpus")
    parser.add_argument("--windows", type=float, default=1e5, help="sampled windows; at most one per 100 tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--general-up-to", type=float, default=1e8, help="tokens beyond which duckdb is left out")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        measure_here(options.side, options.folder)
        return
    result: dict[str, float] = {}
    for size in sorted(map(int, options.sizes)):
        sides = ["ours", "general"] if size <= options.general_up_to else ["ours"]
        num_windows = min(int(options.windows), size // 100)
        result |= compare(size, num_windows=num_windows, num_rounds=options.rounds, sides=sides)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
