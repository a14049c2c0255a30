"""One side of the comparison, in a process and an environment of its own: `serve.py ENGINE PROTOCOL FOLDER SETTINGS`.

It loads the model, says `ready`, then answers requests, a JSON object a line: `{"rows": FILE}` is worked on and timed;
with `"answers": FILE` what came out is saved as well. Replies carry `seconds` and the `peak_mib` of the process.

Only numpy and the engine itself are imported here: most environments hold nothing else.

Axes: R rows, B rows of a batch, W tokens of a row, K tokens of a context, C contexts, n index in the continuation.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


class Settings(NamedTuple):
    """How every side runs."""

    contexts: tuple[int, ...]
    continuations: tuple[int, ...]
    batch_size: int
    threads: int


class Engine(Protocol):
    """What a peer can be asked."""

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]; nothing stops them early."""
        ...

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W], by one pass."""
        ...


def work(engine: Any, protocol: str, rows_RW: Tokens, settings: Settings) -> Tokens:
    """What a protocol finds: tokens [R, C, n_max] when generating, choices [R, W - 1] of one pass, our own facts."""
    if protocol in ("exact", "graded") and hasattr(engine, "score"):
        return engine.score(protocol, rows_RW)
    starts = range(0, len(rows_RW), settings.batch_size)
    batches = [rows_RW[start : start + settings.batch_size] for start in starts]
    if protocol == "exact":
        return np.concatenate([engine.choose(batch[:, :-1]) for batch in batches])
    lengths = settings.continuations if protocol == "original" else settings.continuations[-1:]
    told = [
        [[engine.generate(batch[:, :k], length) for length in lengths][-1] for k in settings.contexts]
        for batch in batches
    ]
    return np.concatenate([np.stack(contexts, axis=1) for contexts in told])


def peak_mib() -> float:
    """The most memory that was resident, in MiB; on Linux ru_maxrss would begin with that of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serve until the requests end."""
    name, protocol, folder, settings_json = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print must not look like a reply
    values = json.loads(settings_json)
    settings = Settings(
        tuple(values["contexts"]), tuple(values["continuations"]), values["batch_size"], values["threads"]
    )
    engine = importlib.import_module(f"{name}_engine").load(Path(folder), settings)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        rows_RW = np.load(request["rows"]).astype(np.int64)
        start = time.perf_counter()
        found = work(engine, protocol, rows_RW, settings)
        seconds = time.perf_counter() - start
        if "answers" in request:
            np.save(request["answers"], found)
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}), file=replies, flush=True)


if __name__ == "__main__":
    main()
