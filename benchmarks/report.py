"""The report's page and `mnemoscope view` over synthetic studies of any size: seconds, megabytes, memory.

    analyses    seconds and peak memory of the statistics, which the page only draws (one process, before it)
    page        seconds and peak memory of `mnemoscope report`, and the page's size
    page load   from the start of its navigation in headless Chromium until everything on it is wired
    view        from the start of the process: until it says where it is, until the first rows over HTTP; then further
                pages, filters and searches; and in headless Chromium until the first rows are shown
    peak        most resident memory of the server over all of that

The studies are those of tests/synthetic_study.py: real files through the real store, facts drawn at random. Each step
is a process of its own. Browser figures are left out where there is no Chromium. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # where the synthetic studies are made that tests use, too

CONTEXTS: Final = (32, 64)
CONTINUATIONS: Final = (16, 32)
NUM_MODELS: Final = 3
PATIENCE_SECONDS: Final = 600
_READY: Final = """
new MutationObserver(() => {
    if (document.body?.dataset.ready === "true" && !window.readyAt) window.readyAt = performance.now();
    if (document.querySelector("#explorer-list [role=option]") && !window.rowsAt) window.rowsAt = performance.now();
}).observe(document, { attributes: true, childList: true, subtree: true });
"""
_ANALYZE: Final = """
import sys
from mnemoscope.findings import analyze, save_findings
from mnemoscope.store import open_study
study = open_study(sys.argv[1])
save_findings(study, analyze(study), figures=False)
"""


class Spent(NamedTuple):
    """What a process took."""

    seconds: float
    peak_mib: float


def run_process(command: list[str]) -> Spent:
    """Wall-clock seconds and peak resident memory of a process; its output is shown only where it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output.read().decode()}")
    return Spent(seconds, usage.ru_maxrss / 1024)


def measure_page(folder: Path, rounds: int) -> dict[str, float]:
    """The analyses, the page, and its load."""
    analyses = run_process([sys.executable, "-c", _ANALYZE, str(folder)])
    built = [run_process([sys.executable, "-m", "mnemoscope", "report", str(folder)]) for _ in range(rounds)]
    page = folder / "report.html"
    figures = {
        "analyses_seconds": analyses.seconds,
        "analyses_peak_mib": analyses.peak_mib,
        "page_seconds": statistics.median(spent.seconds for spent in built),
        "page_peak_mib": max(spent.peak_mib for spent in built),
        "page_mb": page.stat().st_size / 1e6,
    }
    with browser() as open_page:
        if open_page is not None:
            loads = [open_page(page.as_uri(), "readyAt") for _ in range(rounds)]
            figures["page_load_seconds"] = statistics.median(loads)
    return figures


def measure_view(folder: Path, rounds: int) -> dict[str, float]:
    """Each round starts a server anew; the system's file cache is warm, as after scoring or a first look."""
    found = [_measure_server(folder) for _ in range(rounds)]
    names = dict.fromkeys(name for one in found for name in one)
    return {
        name: (max if name.endswith("mib") else statistics.median)([one[name] for one in found if name in one])
        for name in names
    }


def _measure_server(folder: Path) -> dict[str, float]:
    from serving import serving  # pyright: ignore[reportMissingImports]

    start = time.perf_counter()
    with serving(folder) as (process, address):
        figures = {"view_start_seconds": time.perf_counter() - start}
        first = ask(address)
        figures["view_first_rows_seconds"] = time.perf_counter() - start
        assert len(first["rows"]) > 0, first
        questions = _questions(json.loads(read(f"{address}api/study"))["study"])
        for name, filters in ({"next_page": {"cursor": first["next"], "order": "id"}} | questions).items():
            figures[f"view_{name}_seconds"] = timed(partial(ask, address, **filters))
        row = first["rows"][0]
        figures["view_sequence_seconds"] = timed(lambda: read(f"{address}api/sequences/{row['group']}/{row['id']}"))
        with browser() as open_page:
            if open_page is not None:
                figures["view_browser_rows_seconds"] = open_page(address, "rowsAt")
        figures["view_peak_mib"] = peak_mib(process.pid)
    return figures


def _questions(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name the filters of a question; the costly kind among them: rare, ordered, joined, searched."""
    n, k = study["continuations"][-1], study["contexts"][0]
    labels = [model["label"] for model in study["models"]]
    cell = {"group": "member", "model_from": labels[-2], "model_to": labels[-1]}
    cell |= {"context_from": k, "context_to": k, "continuation_from": n, "continuation_to": n}
    cell |= {"from": [0, 1], "to": [n, n], "label": "cell"}
    return {
        "control": {"group": "control"},
        "recited": {"matched_low": n, "matched_high": n},
        "rare": {"matched_low": n - 2, "matched_high": n - 1, "copies_low": 64, "copies_high": 64},
        "ordered": {"order": "log_probability"},
        "cell": {"cell": json.dumps(cell)},
        "search": {"text": "babado"},
    }


def ask(address: str, **filters: Any) -> dict[str, Any]:
    """A page of sequences under the largest model at the shortest context and the longest continuation."""
    asked = {"model": NUM_MODELS - 1, "context": CONTEXTS[0], "continuation": CONTINUATIONS[-1]} | filters
    return json.loads(read(f"{address}api/sequences?{urlencode(asked, quote_via=quote)}"))


def read(address: str) -> bytes:
    """The answer's body."""
    with urlopen(address, timeout=PATIENCE_SECONDS) as answer:
        return answer.read()


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib(pid: int) -> float:
    """The most resident memory of a running process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def browser() -> Generator[Callable[[str, str], float] | None]:
    """What opens an address and says after how many seconds a moment came; None without a Chromium."""
    from browsing import ARGUMENTS, find_chromium  # pyright: ignore[reportMissingImports]

    executable = find_chromium()
    if executable is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))

        def open_page(address: str, moment: str) -> float:
            with running.new_context(viewport={"width": 1440, "height": 900}) as window:
                window.add_init_script(_READY)
                page = window.new_page()
                page.goto(address, timeout=1000 * PATIENCE_SECONDS)
                reached = page.wait_for_function(f"() => window.{moment}", timeout=1000 * PATIENCE_SECONDS)
                return float(reached.json_value()) / 1000

        yield open_page
        running.close()


def make_study(folder: Path, num_sequences: int, shard_rows: int) -> float:
    """Seconds that it took to write a study with a control of a fifth; 0 where one lies there."""
    if (folder / "manifest.json").is_file():
        return 0.0
    from synthetic_study import write_study  # pyright: ignore[reportMissingImports]

    grid = {"contexts": CONTEXTS, "continuations": CONTINUATIONS}
    write = partial(write_study, folder, num_sequences=num_sequences, num_models=NUM_MODELS)
    return timed(partial(write, shard_rows=shard_rows, **grid))


def measure(num_sequences: int, options: argparse.Namespace) -> dict[str, float]:
    """Every figure of one size."""
    kept = options.keep is not None
    folder = Path(options.keep if kept else tempfile.mkdtemp()) / f"synthetic-{num_sequences}"
    try:
        figures = {"study_seconds": make_study(folder, num_sequences, options.shard_rows)}
        figures["study_mb"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        if "page" in options.parts:
            figures |= measure_page(folder, options.rounds)
        if "view" in options.parts:
            figures |= measure_view(folder, options.rounds)
    finally:
        if not kept:
            shutil.rmtree(folder.parent, ignore_errors=True)
    return figures


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    found = {size: measure(size, options) for size in sorted(map(int, options.sizes))}
    table = Table("figure", *(f"{size:,}" for size in found), title="Synthetic sequences in the study")
    for name in dict.fromkeys(name for figures in found.values() for name in figures):
        cells = [f"{figures[name]:,.2f}" if name in figures else "" for figures in found.values()]
        table.add_row(name.replace("_", " "), *cells)
    for column in table.columns[1:]:
        column.justify = "right"
    Console(width=100).print(table)
    print(
        json.dumps(
            {f"{name}_{size}": round(value, 3) for size, figures in found.items() for name, value in figures.items()}
        )
    )


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e6], help="members; 1e7 takes half an hour")
    parser.add_argument("--parts", nargs="+", choices=("page", "view"), default=["page", "view"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-rows", type=int, default=4096, help="sequences per shard, a study's default")
    parser.add_argument("--keep", help="folder in which studies are kept, and found again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
