"""Descriptions of figures -> files: SVG, PDF and PNG of each, all three from one description.

The SVG is drawn from the description, PDF and PNG from the SVG: laying out takes as long as either. Since the renderer
uses one core, processes share the work. Each reads tasks from its input, a line each, and answers each with a line:

    {"name": ..., "spec": ..., "folder": ...}    ->    {"error": null} or {"error": message, "kind": class}

They run this module and nothing of the caller's: a script that draws needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from mnemoscope.errors import EngineError, StoreError
from mnemoscope.files import write_atomically
from mnemoscope.report.theme import PDF_SCALE, PNG_SCALE
from mnemoscope.report.vega import Spec, without_hover

FORMATS: Final = ("svg", "pdf", "png")
MAX_WORKERS: Final = 4
FEW: Final = 4
"""Figures that one process draws before others would have started."""
_Task = dict[str, object]


def save_specs(specs: Mapping[str, Spec], folder: Path, *, num_workers: int | None = None) -> list[Path]:
    """The paths of NAME.svg, NAME.pdf and NAME.png for each description, each written whole or not at all.

    Drawn by `num_workers` processes: as many as there are cores, 4 at most, unless given; by this one where figures are
    few. StoreError where the folder refuses; EngineError where a figure cannot be drawn or a process does not live.
    """
    wanted = min(_num_cores(), MAX_WORKERS) if num_workers is None else num_workers
    if wanted < 2 or (num_workers is None and len(specs) <= FEW):
        for name, spec in specs.items():
            save_spec(name, spec, folder)
    else:
        _share(specs, folder, min(wanted, len(specs)))
    return [path for name in specs for path in paths_of(name, folder)]


def paths_of(name: str, folder: Path) -> list[Path]:
    """Where the files of a figure lie."""
    return [folder / f"{name}.{format}" for format in FORMATS]


def save_spec(name: str, spec: Spec, folder: Path) -> None:
    """Write one figure in all formats; the errors of `save_specs`."""
    try:
        contents = draw_spec(spec)
    except ValueError as error:
        raise EngineError(f"figure {name}: cannot be drawn ({str(error).partition(chr(10))[0]})") from error
    for path, content in zip(paths_of(name, folder), contents, strict=True):
        write_atomically(path, content)


def draw_spec(spec: Spec) -> tuple[bytes, bytes, bytes]:
    """A figure as SVG, PDF and PNG; ValueError for a description that is none."""
    import vl_convert  # heavy, and only drawing needs it

    svg: str = vl_convert.vegalite_to_svg(without_hover(spec))
    return svg.encode(), vl_convert.svg_to_pdf(_resize(svg, PDF_SCALE)), vl_convert.svg_to_png(svg, scale=PNG_SCALE)


def _resize(svg: str, scale: float) -> str:
    """The picture with another width and height; what is in it is measured by its view box and stays."""
    return re.sub(
        r'\b(width|height)="([\d.]+)"', lambda side: f'{side[1]}="{float(side[2]) * scale:.2f}"', svg, count=2
    )


def _share(specs: Mapping[str, Spec], folder: Path, num_workers: int) -> None:
    """The largest first, so that no process is left with one at the end; the first error or Ctrl-C ends all."""
    tasks: SimpleQueue[_Task] = SimpleQueue()
    for name in sorted(specs, key=lambda name: -sum(map(len, specs[name]["datasets"].values()))):
        tasks.put({"name": name, "spec": specs[name], "folder": str(folder)})
    workers = [_start() for _ in range(num_workers)]
    try:
        with ThreadPoolExecutor(num_workers) as pool:
            try:
                for done in [pool.submit(_feed, worker, tasks) for worker in workers]:
                    done.result()
            except BaseException:
                _stop(workers)  # a thread that waits for an answer ends with its worker
                raise
    finally:
        _stop(workers)


def _start() -> subprocess.Popen[bytes]:
    """A process that draws, with this package on its path wherever it came from."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", __name__]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.communicate()


def _feed(worker: subprocess.Popen[bytes], tasks: SimpleQueue[_Task]) -> None:
    """Give a process one task after the other until none is left; the first error empties the queue for all."""
    try:
        while True:
            _ask(worker, tasks.get_nowait())
    except Empty:
        return
    except BaseException:
        while not tasks.empty():
            tasks.get_nowait()
        raise


def _ask(worker: subprocess.Popen[bytes], task: _Task) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(task).encode() + b"\n")
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
    except (OSError, ValueError) as error:
        raise EngineError(f"figure {task['name']}: the process that drew it is gone; free memory, run again") from error
    if answer["error"] is not None:
        raise (StoreError if answer["kind"] == "StoreError" else EngineError)(answer["error"])


def _work() -> None:
    """Draw what comes in until nothing more does. Ctrl-C, which all processes of a terminal hear, is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        task = json.loads(line)
        answer: dict[str, str | None] = {"error": None}
        try:
            save_spec(task["name"], task["spec"], Path(task["folder"]))
        except (StoreError, EngineError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(answer), flush=True)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    _work()
