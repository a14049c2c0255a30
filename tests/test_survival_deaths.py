"""Deaths: of a driver at any point after the scores, of workers in every stage, of a driver with its workers."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from faults import assert_undisturbed, complete, complete_or_die, forkserver, hash_all, make_survivor, run_or_die
from mnemoscope.config import CorpusConfig, StudyConfig, TracesConfig
from mnemoscope.engines import WorkerFactory
from mnemoscope.engines.local import LocalEngine
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from studies import save_rows


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    return make_survivor(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def scored(config, tmp_path_factory) -> Path:
    """The scores alone."""
    return run_study(replace(config, traces=None, counts=None), tmp_path_factory.mktemp("scored") / "study").folder


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, str]:
    """What a run leaves that nothing happens to."""
    folder = tmp_path_factory.mktemp("expected") / "study"
    complete(config, folder)
    return hash_all(folder)


def test_a_run_that_nothing_happens_to(config, expected, tmp_path):
    """Two of them leave the same tables, findings and manifest, bit for bit: five shards, commits, traces, counts."""
    complete(config, tmp_path / "study")
    assert_undisturbed(tmp_path / "study", expected)
    assert len([name for name in expected if name.startswith("scores")]) == 2 * 5 + 1
    assert len([name for name in expected if name.startswith(("traces", "counts"))]) == 3 + 2
    assert len([name for name in expected if name.startswith("analyses")]) > 20


def count_syncs(deed: Callable[[], object]) -> int:
    """How many syncs something takes."""
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", seen.append)
        deed()
    return len(seen)


def test_killed_at_every_sync_of_what_follows_the_scores(config, scored, expected, tmp_path):
    """A driver that dies just before any sync of traces, counts and manifest, one after the other."""
    counted = shutil.copytree(scored, tmp_path / "counted")
    num_syncs = count_syncs(lambda: run_study(config, counted))
    assert num_syncs == 2 + (2 + 1 + 2) + (1 + 1 + 2) + 2  # study.toml; files, folder, record; the same; the manifest
    for number in range(1, num_syncs + 2):
        folder = shutil.copytree(scored, tmp_path / str(number))
        child = forkserver().Process(target=run_or_die, args=(config, folder, number))
        child.start()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if number <= num_syncs else 0)
        run_study(config, folder)
        assert_undisturbed(folder, expected, concluded=False)


def test_killed_among_findings(config, scored, expected, tmp_path):
    """A driver that dies at the first sync of its findings, at some in between, at the last, which is the page's."""
    folder = shutil.copytree(scored, tmp_path / "study")
    run_study(config, folder)
    num_syncs = count_syncs(lambda: complete(config, folder))
    for number in (1, 40, num_syncs - 1, num_syncs):
        child = forkserver().Process(target=complete_or_die, args=(config, folder, number))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        complete(config, folder)
        assert_undisturbed(folder, expected)


@pytest.fixture(scope="module")
def longer(config, tmp_path_factory) -> StudyConfig:
    """Work enough for a signal to find its process at it: 120 members, of which some fifty are traced."""
    rows = save_rows(tmp_path_factory.mktemp("longer") / "rows.npy", num_rows=120)
    return replace(config, corpus=CorpusConfig(path=str(rows)), traces=TracesConfig(per_stratum=40), shard_rows=20)


@pytest.fixture(scope="module")
def expected_of_longer(longer, tmp_path_factory) -> dict[str, str]:
    return hash_all(run_study(longer, tmp_path_factory.mktemp("expected") / "longer").folder)


@dataclass(frozen=True)
class Dying:
    """Makes workers of which one, of whatever process, is killed with its first task done and nothing handed over."""

    make_worker: WorkerFactory[Any, Any]
    mark: Path

    @property
    def device(self) -> str:
        return self.make_worker.device

    def release(self) -> None:
        self.make_worker.release()

    def __call__(self, tell: Callable[[int], None]) -> Callable[[Any], Any]:
        work = self.make_worker(tell)

        def work_or_die(task: Any) -> Any:
            result = work(task)
            with suppress(FileExistsError):
                assert multiprocessing.parent_process() is not None
                self.mark.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return work_or_die


class DyingEngine:
    """Two processes, of which one dies in every stage."""

    def __init__(self, folder: Path) -> None:
        self.engine = LocalEngine(2)
        self.folder = folder

    def run(self, tasks: Sequence[Any], make_worker: Any, tell: Callable[[Any, int], None]) -> Iterator[Any]:
        if len(tasks) > 1:  # one is done in this process
            make_worker = Dying(make_worker, self.folder / type(make_worker).__name__)
        return self.engine.run(tasks, make_worker, tell)

    def workers_per_device(self, device: str) -> int:
        return self.engine.workers_per_device(device)


def test_a_worker_is_killed_in_either_stage(longer, expected_of_longer, tmp_path, monkeypatch, caplog):
    """One of two processes dies while it scores, and one while it traces: the same bytes, and a warning of each."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many as the undisturbed run has had
    marks = tmp_path / "marks"
    marks.mkdir()
    run_study(longer, tmp_path / "study", engine=DyingEngine(marks))
    assert_undisturbed(tmp_path / "study", expected_of_longer, concluded=False)
    stages = sorted(mark.name for mark in marks.iterdir())
    assert {"ScorerFactory", "TracerFactory"} <= set(stages)
    assert caplog.text.count("ended, killed by signal 9; a new one takes over") == len(stages)


def run_in_two(config: StudyConfig, folder: Path) -> None:
    run_study(config, folder, engine=LocalEngine(2))


def children_of(pid: int) -> list[int]:
    """The processes that one has started and that have not ended."""
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").is_file(), reason="looks for processes in /proc"
)
def test_a_driver_is_killed_beside_its_workers(longer, expected_of_longer, tmp_path, monkeypatch):
    """A driver of two processes dies while they score, and another while they trace: none stays, nothing is lost."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "study"
    for sign in ("scores/tiny/*0*.json", "traces/tiny/.*.tmp"):
        child = forkserver().Process(target=run_in_two, args=(longer, folder))
        child.start()
        workers: list[int] = []
        while len(workers) < 2 and child.is_alive():
            workers = children_of(child.pid) if list(folder.glob(sign)) else []
            time.sleep(0.002)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        deadline = time.monotonic() + 60
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(is_running, workers))
        assert read_manifest(folder) is None
    run_study(longer, folder)
    assert_undisturbed(folder, expected_of_longer, concluded=False)
