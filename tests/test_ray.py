"""Ray: what every engine must hold, on a Ray of this machine that the tests start once; the same bytes, whatever dies.

On one machine only: several are several of Ray's nodes to it, and a folder that they share.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnemoscope import traces
from mnemoscope.config import CorpusConfig, CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.engines import addresses
from mnemoscope.engines import ray as ray_engine
from mnemoscope.engines.cluster import Node, Share, divide
from mnemoscope.engines.ray import RayEngine
from mnemoscope.errors import ConfigError, CorpusError, EngineError, ScoringError, StoreError
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.scorer import ScorerFactory
from mnemoscope.store import open_study
from mnemoscope.study_file import dump_study
from networks import build, plant_sequences
from stub_workers import Number, Squares
from studies import hash_tables

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
PART_BYTES = 2 * 32 * (2 * 14 + 2 * 8)
"""Of a traced sequence: float16 states of width 32, at 14 tokens twice and at 8 in two layers."""
ENVIRONMENT = ray_engine.ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs of this machine."""
    patch = pytest.MonkeyPatch()
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    patch.delenv("OMP_NUM_THREADS", raising=False)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    patch.undo()


def run(tasks, folder, *, workers=2):
    """The results, sorted, and what was told of each task in all."""
    told = Counter()
    engine = RayEngine(workers=workers)
    return sorted(engine.run(tasks, Squares(folder), lambda task, number: told.update({task: number}))), told


def begun(folder: Path, value: int | str = "*") -> set[str]:
    """The processes that began a task."""
    return {path.name.partition("-")[2] for path in folder.glob(f"{value}-*")}


def parents() -> dict[int, int]:
    """The parent of every process that is there and no zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(path.parent.name)] = int(parent)
    return found


def descendants(ancestor: int) -> set[int]:
    """The processes below one."""
    parent, found = parents(), {ancestor}
    while more := {pid for pid in parent if parent[pid] in found} - found:
        found |= more
    return found - {ancestor}


def actors_of(ancestor: int) -> list[int]:
    """The processes of our actors among those below one; Ray titles them by what they do."""
    pids = []
    for pid in descendants(ancestor):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith(b"ray::Actor"):
            pids.append(pid)
    return pids


def test_every_task_is_done_once(cluster, tmp_path):
    """Seven numbers squared by actors: each result once, each task begun once and told whole, none of it here."""
    tasks = [Number(value) for value in range(7)]
    results, told = run(tasks, tmp_path)
    assert results == [0, 1, 4, 9, 16, 25, 36]
    assert told == dict.fromkeys(tasks, 7)
    assert len(list(tmp_path.glob("*-*"))) == 7
    assert str(os.getpid()) not in begun(tmp_path)
    assert (tmp_path / "released").exists()
    assert run([], tmp_path / "no") == ([], {})


def test_task_of_a_killed_actor_is_done_by_another(cluster, tmp_path, caplog):
    """SIGKILL or an exit in the middle of a task: another actor does it again; what was told of it is taken back."""
    tasks = [Number(0), Number(1, "die once"), Number(2, "leave once"), Number(3)]
    results, told = run(tasks, tmp_path)
    assert results == [0, 1, 4, 9]
    assert told == dict.fromkeys(tasks, 7)
    assert [len(begun(tmp_path, value)) for value in range(4)] == [1, 2, 2, 1]
    for value in (1, 2):
        words = f"number {value}: the worker that worked on it ended (its worker process has died); another takes over"
        assert words in caplog.text


def test_task_that_kills_three_actors_is_named(cluster, tmp_path):
    """Not four and not for ever: the third death of one task is an error with its name and the manner of it."""
    with pytest.raises(EngineError, match=r"number 1: 3 workers ended .* the last one: its worker process has died;"):
        run([Number(0), Number(1, "die"), Number(2)], tmp_path)
    assert len(begun(tmp_path, 1)) == 3


def test_errors_of_workers_are_raised_as_they_are(cluster, tmp_path):
    """Our errors with kind, text and facts; a bug with its traceback as a note; what cannot be pickled as text."""
    for deed, kind, words in (
        ("corpus", CorpusError, "rows.npy: cut short; expected more"),
        ("scoring", ScoringError, "logits are NaN"),
        ("value", ValueError, "a bug"),
        ("unpicklable", RuntimeError, "UnpicklableError: this and that"),
    ):
        with pytest.raises(kind, match=words) as caught:
            run([Number(1, deed)], tmp_path)
        assert type(caught.value) is kind
        notes = "".join(getattr(caught.value, "__notes__", []))
        assert ("stub_workers.py" in notes) == (deed == "value")
        assert getattr(caught.value, "row", 17) == 17


def test_actors_divide_the_cores_and_say_nothing_to_others(cluster, tmp_path, monkeypatch):
    """Two actors on two cores have one thread each; threads that were set by hand stay."""
    for expected in ("1", "5"):
        if expected == "5":
            monkeypatch.setenv("OMP_NUM_THREADS", expected)
        tasks = [Number(value, "environment") for value in range(2)]
        found = list(RayEngine(workers=2).run(tasks, Squares(tmp_path), lambda task, number: None))
        assert [(each["OMP_NUM_THREADS"], each["OMP_WAIT_POLICY"]) for each in found] == [(expected, "PASSIVE")] * 2


def test_actors_wait_for_the_next_stage(cluster, tmp_path):
    """A study's stages share actors, which import and connect once; each stage has a worker of its own recipe, and
    actors end with their engine.
    """
    engine, tasks, others = RayEngine(workers=2), [Number(value) for value in range(4)], set(actors_of(os.getpid()))
    stages = [tmp_path / "first", tmp_path / "second"]
    for folder in stages:
        folder.mkdir()
        assert sorted(engine.run(tasks, Squares(folder), lambda task, number: None)) == [0, 1, 4, 9]
    actors = set(actors_of(os.getpid())) - others
    assert len(actors) <= 2 and begun(stages[0]) | begun(stages[1]) <= set(map(str, actors))
    del engine
    deadline = time.monotonic() + 30
    while set(actors_of(os.getpid())) - others and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(actors_of(os.getpid())) - others == set()


def test_actors_that_died_waiting_are_no_fault_of_the_next_task(cluster, tmp_path):
    """A machine that goes between two stages may take many actors along: a task that none of them began is done."""
    engine = RayEngine(workers=4)
    tasks = [Number(value, "four at once") for value in range(4)]
    assert sorted(engine.run(tasks, Squares(tmp_path), lambda task, number: None)) == [0, 1, 4, 9]
    processes = begun(tmp_path)
    assert len(processes) == 4
    for process in processes:
        os.kill(int(process), signal.SIGKILL)
    assert list(engine.run([Number(5)], Squares(tmp_path), lambda task, number: None)) == [25]


def test_a_bench_starts_no_ray():
    """Ray is told of nothing once it was shut down: asked to end an actor, it would start anew for that."""

    class Stopped:
        exceptions = ray.exceptions

        def is_initialized(self) -> bool:
            return False

    bench = ray_engine._Bench(Stopped())
    bench._members.append(ray_engine._Member(None, Share(1, 1, 1, 0, 1), None))
    bench.clear()
    assert bench._members == []


def test_actors_of_other_versions_are_refused(cluster, tmp_path, monkeypatch):
    """What follows from another torch than the driver's is not written."""
    monkeypatch.setattr(ray_engine, "versions", lambda: {"torch": "1.0"})
    with pytest.raises(EngineError, match=r"torch 2\S+ is installed there, 1.0 here; expected the same versions"):
        run([Number(1)], tmp_path)
    assert begun(tmp_path) == set()


def test_a_head_that_does_not_answer_is_an_error(cluster, tmp_path, monkeypatch):
    """A task that never ends does not keep the driver waiting for a head that is gone."""
    for name, seconds in (("HEAD_SECONDS", 0.3), ("CHECK_SECONDS", 0.1)):
        monkeypatch.setattr(ray_engine, name, seconds)
    monkeypatch.setattr(ray_engine, "answers", lambda place: False)
    with pytest.raises(EngineError, match=r"the head of Ray at \S+:\d+ has not answered .* start Ray again"):
        run([Number(1, "wait")], tmp_path)
    for pid in actors_of(os.getpid()):
        os.kill(pid, signal.SIGKILL)  # a head that is gone would have taken it along


def test_how_a_cluster_is_divided():
    """By hand: one worker per GPU or per machine; given numbers share them, and each has a place that exists."""
    cpus, gpus = [Node(8, 0), Node(16, 0)], [Node(16, 4), Node(0, 0), Node(8, 1)]
    assert divide(cpus, "cpu", "auto") == Share(2, 1, 8, 0, 8)  # 1 and 2 places for 8 cores; for 9 there would be one
    assert divide(cpus, "cpu", 5) == Share(5, 3, 4, 0, 4)  # 2 + 4 places for 4 cores each; for 5 cores 1 + 3
    assert divide(cpus, "cpu", 30) == Share(30, 15, 0, 0, 1)
    assert divide(gpus, "cuda", "auto") == Share(5, 1, 0, 1, 4)
    assert divide(gpus, "cuda", 10) == Share(10, 2, 0, 0.5, 2)
    with pytest.raises(EngineError, match="the cluster has no machine to compute on cuda"):
        divide(cpus, "cuda", "auto")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """60 planted members and 30 controls in shards of 4; one context is traced, and counted."""
    place = tmp_path_factory.mktemp("ray")
    network = build("gpt_neox")
    network.save_pretrained(place / "tiny")
    np.save(place / "rows.npy", plant_sequences(network, num_sequences=60, window_tokens=24, contexts=(4, 8)))
    np.save(place / "heldout.npy", np.random.default_rng(1).integers(0, 97, (30, 24)))
    return StudyConfig(
        models=(ModelConfig(source=str(place / "tiny"), device="cpu"),),
        corpus=CorpusConfig(path=str(place / "rows.npy")),
        control=CorpusConfig(path=str(place / "heldout.npy")),
        contexts=(4, 8),
        continuations=(6, 12),
        batch_size=2,
        shard_rows=4,
        traces=TracesConfig(per_stratum=4, contexts=(8,), context_layers=(0, 2)),
        counts=CountsConfig(ngrams=(1, 2)),
    )


def hash_study(folder: Path) -> dict[str, str]:
    """The checksum of every stored fact: scores, traces and counts."""
    found = {}
    for kind in ("scores", "traces", "counts"):
        (folder / "all").mkdir(exist_ok=True)
        (folder / "all" / "scores").symlink_to(folder / kind)
        found |= {f"{kind} {name}": digest for name, digest in hash_tables(folder / "all").items()}
        (folder / "all" / "scores").unlink()
    return found


@pytest.fixture
def small_parts(monkeypatch):
    """Traces come back in parts of five sequences, in whatever order."""
    monkeypatch.setattr(traces, "BYTES_AT_ONCE", 5 * PART_BYTES)


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, str]:
    """What the local engine stores."""
    import torch

    torch.set_num_threads(1)  # as many as an actor has
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "BYTES_AT_ONCE", 5 * PART_BYTES)
        return hash_study(run_study(config, tmp_path_factory.mktemp("local") / "study").folder)


def assert_whole(folder: Path) -> None:
    study = open_study(folder)
    assert audit_coverage(study, "tiny").is_complete
    assert not any(find_derived_faults(study).values())
    assert read_manifest(folder) is not None


COMMAND = """
import sys
from mnemoscope import conclusion, traces
from mnemoscope.__main__ import main
traces.BYTES_AT_ONCE = int(sys.argv.pop(1))
conclusion.conclude = lambda study: None  # figures take their time, and are no engine's matter
main()
"""


def start(config: StudyConfig, folder: Path, *options: str) -> subprocess.Popen[str]:
    """`mnemoscope study` in a process of its own, which traces in small parts and draws nothing; waits for a shard."""
    file = folder.with_suffix(".toml")
    file.write_text(dump_study(config), encoding="utf-8")
    verb = ["study", str(file), "--engine", "ray", "--workers", "2", *options]
    command = [sys.executable, "-c", COMMAND, str(5 * PART_BYTES), *verb]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("scores/tiny/*0*.json")) and running.poll() is None:
        time.sleep(0.01)
    return running


def test_one_command_stores_the_same_bytes(cluster, config, expected, tmp_path):
    """Scored, traced and counted on a Ray that the command starts, an actor killed in the middle: nothing is lost,
    doubled or different, and Ray says nothing for itself.
    """
    running = start(config, tmp_path / "study")
    os.kill(actors_of(running.pid)[0], signal.SIGKILL)
    out, err = running.communicate()
    assert running.returncode == 0, err
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith(("tiny", "counts"))]
    assert len(lines) == 1 and lines[0].endswith("ended (its worker process has died); another takes over")
    assert_whole(tmp_path / "study")
    assert hash_study(tmp_path / "study") == expected
    assert len([name for name in expected if name.endswith((".parquet", ".npy"))]) == 23 + 3 + 1


def test_a_folder_that_is_not_shared_is_refused(config, tmp_path):
    """A worker that does not find the run where it is to write writes nothing: its shards would never be found."""
    study = run_study(replace(config, traces=None, counts=None), tmp_path / "study")
    factory = ScorerFactory(run=study.runs["tiny"], model=None, texts=None, folder=tmp_path / "elsewhere")
    with pytest.raises(
        StoreError, match=r"elsewhere: on \S+ it is not the folder of this run; expected one that every"
    ):
        factory(lambda number: None)


@pytest.mark.usefixtures("small_parts")
def test_a_killed_driver_leaves_nobody_and_is_taken_up(cluster, config, expected, tmp_path):
    """SIGKILL of a command over a Ray that stays: its actors end with it, and another run finishes the study."""
    folder, others = tmp_path / "study", set(actors_of(os.getpid()))
    driver = start(config, folder, "--address", ray.get_runtime_context().gcs_address)
    actors = set(actors_of(os.getpid())) - others
    driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    assert len(actors) > 0
    deadline = time.monotonic() + 60
    while actors & parents().keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert actors & parents().keys() == set()
    assert read_manifest(folder) is None
    run_study(config, folder)
    assert_whole(folder)
    assert hash_study(folder) == expected


def test_without_ray_one_line_says_what_to_do(monkeypatch):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'mnemoscope\[ray\]'"):
        RayEngine()


def test_address_where_no_ray_answers(monkeypatch):
    """Nobody there, somebody else there, no address at all: each in one line, long before Ray itself gives up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = "{}:{}".format(*server.getsockname())
        monkeypatch.setattr(addresses, "START_SECONDS", 4.0)
        with pytest.raises(EngineError, match=rf"{place}: no Ray answers within 4 seconds; .* RAY_AUTH_TOKEN"):
            addresses.check_address(place)
    for address in (place, f"ray://{place}"):
        with pytest.raises(EngineError, match=rf"^{address}: nobody answers; expected the address of a Ray head"):
            addresses.check_address(address)
    for address in ("nonsense", "host:port", ":1"):
        with pytest.raises(ConfigError, match=f"address: '{address}' given; expected HOST:PORT, ray://HOST:PORT or"):
            addresses.check_address(address)


def test_options_that_go_together():
    """An address says nothing to the local engine; no number of workers below one says anything."""
    from mnemoscope.engine_options import EngineOptions
    from mnemoscope.engines.local import LocalEngine

    assert isinstance(EngineOptions(workers="2").open(), LocalEngine)
    with pytest.raises(ConfigError, match="--address: 'auto' given; expected --engine ray with it"):
        EngineOptions(address="auto").open()
    with pytest.raises(ConfigError, match="workers: 0 given; expected 1 or more, or 'auto'"):
        EngineOptions(engine="ray", workers="0").open()
