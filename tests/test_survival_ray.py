"""Ray with everything killed that can be: a node with its actors, then the head itself; nothing is lost or different.

The head and a node are started by the command of Ray's own, as on two machines that share a folder.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from faults import assert_undisturbed, hash_all
from mnemoscope.config import CountsConfig, StudyConfig, TracesConfig
from mnemoscope.engines.addresses import answers
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.study_file import dump_study
from studies import make_study

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
COMMAND = """
import sys
from mnemoscope import conclusion
from mnemoscope.engines import ray
from mnemoscope.__main__ import main
ray.HEAD_SECONDS, ray.CHECK_SECONDS = 2.0, 0.5
conclusion.conclude = lambda study: None  # figures take their time, and are no engine's matter
main()
"""
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_health_check_failure_threshold": "2",
    "RAY_health_check_period_ms": "500",
}


class Cluster(NamedTuple):
    """A head and a node, of one CPU each, as on two machines; by the process that started each."""

    address: str
    head: int
    node: int


def start_ray(folder: Path, *options: str) -> int:
    """Start a head or a node by Ray's command, which stays for as long as that does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *options]
    with (folder / "ray.log").open("ab") as log:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log).pid


def parents() -> dict[int, int]:
    """The parent of every process."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def below(ancestor: int) -> set[int]:
    """A process and all below it."""
    parent, found = parents(), {ancestor}
    while more := {pid for pid in parent if parent[pid] in found} - found:
        found |= more
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    place = f"{ray.util.get_node_ip_address()}:{port}"
    options = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
    head = start_ray(folder, *options, "--disable-usage-stats")
    deadline = time.monotonic() + 60
    while not answers(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    node = start_ray(folder, f"--address={place}", "--node-ip-address=127.0.0.2")  # the driver takes the head
    while not raylets(node) and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        yield Cluster(place, head, node)
    finally:
        kill(below(head) | below(node))
        shutil.rmtree(folder, ignore_errors=True)


def raylets(ancestor: int, name: str = "raylet") -> list[int]:
    """Ray's own process of that name below one."""
    found: list[int] = []
    for pid in below(ancestor):
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """40 members and 5 of a control, each a shard of its own; traced and counted."""
    traces, counts = TracesConfig(per_stratum=4), CountsConfig()
    folder = tmp_path_factory.mktemp("in")
    return make_study(folder, num_rows=40, num_control=5, shard_rows=1, traces=traces, counts=counts)


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, str]:
    return hash_all(run_study(config, tmp_path_factory.mktemp("expected") / "study").folder)


def start(config: StudyConfig, folder: Path, address: str) -> subprocess.Popen[str]:
    """`mnemoscope study` over that Ray; waits for a shard."""
    file = folder.with_suffix(".toml")
    file.write_text(dump_study(config), encoding="utf-8")
    verb = ["study", str(file), "--engine", "ray", "--workers", "2", "--address", address]
    running = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *verb],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("scores/tiny/*0*.json")) and running.poll() is None:
        time.sleep(0.002)
    return running


def test_a_node_and_then_the_head_are_killed(cluster, config, expected, tmp_path):
    """The node, actor and all: the study goes on without. The head, which a driver then misses at work or between two
    stages: one line, not Ray's silent end of the process, and a local run takes the study up.
    """
    running = start(config, tmp_path / "node", cluster.address)
    kill(below(cluster.node))
    err = running.communicate(timeout=120)[1]
    assert running.returncode == 0, err
    assert_undisturbed(tmp_path / "node", expected, concluded=False)

    running = start(config, tmp_path / "head", cluster.address)
    [head] = raylets(cluster.head, "gcs_server")
    kill([head])
    err = running.communicate(timeout=120)[1]
    assert running.returncode == 2, err
    lines = [line for line in err.splitlines() if not line.startswith("tiny")]
    assert lines[-1].startswith(f"mnemoscope: the head of Ray at {cluster.address} has not answered")
    assert read_manifest(tmp_path / "head") is None
    run_study(config, tmp_path / "head")
    assert_undisturbed(tmp_path / "head", expected, concluded=False)
