"""Studies at addresses whose stores fail one request in five: whether each ends with the bytes of one in a folder.

    OMP_NUM_THREADS=1 python benchmarks/object_store.py --rounds 100 --server-rounds 5 --seed 1

`--rounds` studies lie on a filesystem in memory whose every call may time out, be reset, be refused as busy, or be
obeyed without an answer; `--server-rounds` on a server of S3 on loopback, behind a proxy that answers 503 or 500,
breaks the connection, or loses the answer (`tests/object_stores.py`). After each, every table and the manifest are
compared, and the coverage is audited. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch

from mnemoscope import retries
from mnemoscope.config import StudyConfig
from mnemoscope.run import run_study
from object_stores import (
    FailingFileSystem,
    Faults,
    assert_whole,
    facts_of,
    failing_proxy,
    forget_filesystems,
    read_folder,
    register,
    s3_server,
    traced_study,
)


def in_memory(config: StudyConfig, expected: dict[str, bytes], seed: int) -> Faults:
    """One study on a filesystem of failing calls."""
    address = f"failing://study-{seed}"
    FailingFileSystem.store.clear()
    FailingFileSystem.faults = faults = Faults(seed)
    run_study(config, address)
    FailingFileSystem.faults = Faults(share=0.0)
    assert_whole(address, expected)
    return faults


def on_a_server(config: StudyConfig, expected: dict[str, bytes], seed: int, endpoint: str) -> Faults:
    """One study behind a failing proxy."""
    faults = Faults(seed)
    with failing_proxy(endpoint, faults) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy
        forget_filesystems()
        run_study(config, f"s3://bkt/study-{seed}")
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    forget_filesystems()
    assert_whole(f"s3://bkt/study-{seed}", expected)
    return faults


def summary(all_faults: list[Faults], seconds: float) -> dict[str, object]:
    """What was injected, all of it survived: `assert_whole` ends the program otherwise."""
    kinds = sum((faults.injected for faults in all_faults), Counter[str]())
    return {
        "studies": len(all_faults),
        "requests": sum(faults.num_requests for faults in all_faults),
        "faults_injected": kinds.total(),
        "faults_survived": kinds.total(),
        "by_kind": dict(sorted(kinds.items())),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--server-rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    logging.getLogger("mnemoscope").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    retries.FIRST_SECONDS = 0.002  # type: ignore[misc]  # what is shown is that it ends well, not how patiently
    seeds = range(chosen.seed * 10_000, chosen.seed * 10_000 + max(chosen.rounds, chosen.server_rounds))
    with tempfile.TemporaryDirectory(prefix="mnemoscope-") as temporary, ExitStack() as stack:
        place = Path(temporary)
        os.environ["MNEMOSCOPE_CACHE"] = str(place / "cache")
        register()
        config = traced_study(place / "in")
        expected = facts_of(read_folder(run_study(config, place / "study").folder))
        began = time.monotonic()
        failed = [in_memory(config, expected, seed) for seed in seeds[: chosen.rounds]]
        memory = summary(failed, time.monotonic() - began)
        began = time.monotonic()
        endpoint = stack.enter_context(s3_server()) if chosen.server_rounds else ""
        served = [on_a_server(config, expected, seed, endpoint) for seed in seeds[: chosen.server_rounds]]
        server = summary(served, time.monotonic() - began)
    print(json.dumps({"in_memory": memory, "on_a_server": server}))


if __name__ == "__main__":
    main()
