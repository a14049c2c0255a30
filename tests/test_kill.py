"""Killed at any instant, a study is finished by running it again, and its tables are the same, bit for bit."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from faults import forkserver
from mnemoscope import files
from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.coverage import audit_coverage
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.store import open_study
from mnemoscope.study_file import dump_study
from studies import hash_tables, make_study, save_model

NUM_KILLS = 20


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    """Children of a server that has imported torch once; each is a process of its own, and may be killed."""
    return forkserver()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def config(place) -> StudyConfig:
    """40 members and 10 controls in shards of two: 25 shards, 102 renames."""
    return make_study(place, num_rows=40, num_control=10, shard_rows=2)


@pytest.fixture(scope="module")
def expected(config, place) -> dict[str, str]:
    return hash_tables(run_study(config, place / "expected").folder)


def run_and_tell(config: StudyConfig, folder: Path, told: Connection) -> None:
    run_study(config, folder, progress=lambda *facts: told.send(facts))


def wait_for_messages(here: Connection, number: int) -> None:
    """Until the run has told its progress so often (twice per shard), or has ended."""
    with suppress(EOFError):
        for _ in range(number):
            here.recv()


def run_until_sync(config: StudyConfig, folder: Path, number: int) -> None:
    """Run, and die without warning just before the given sync."""
    sync, left = os.fsync, [number]

    def sync_or_die(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    files.os.fsync = sync_or_die
    run_study(config, folder)


def assert_finished(folder: Path, expected: dict[str, str]) -> None:
    """The same tables, every row once, a manifest, and nothing else left of the dead."""
    assert hash_tables(folder) == expected
    assert audit_coverage(open_study(folder), "tiny").is_complete
    assert read_manifest(folder) is not None
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name or "damaged" in path.name]


def test_killed_at_random_instants(context, config, expected, place):
    """20 SIGKILLs at random instants, none after the end: each study is byte-identical once it is finished."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    instants = random.Random(seed)
    num_kills = num_studies = 0
    seen: list[int] = []
    while num_kills < NUM_KILLS:
        folder = place / f"random-{num_studies}"
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=run_and_tell, args=(config, folder, there))
        child.start()
        there.close()
        wait_for_messages(here, instants.choice((0, instants.randrange(1, 24))))
        time.sleep(instants.uniform(0, 0.03))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            num_kills += 1
            seen.append(len(list(folder.rglob("*0*.json"))))
        else:
            assert child.exitcode == 0
            assert_finished(folder, expected)
            num_studies += 1
    run_study(config, folder)
    assert_finished(folder, expected)
    assert any(0 < num_committed < 25 for num_committed in seen), "no kill fell into the work"


def test_killed_at_every_sync(context, tmp_path):
    """Killed just before each single sync of its files, one after the other: the next run finishes the study."""
    config = make_study(tmp_path, num_rows=5, num_control=1)
    expected = hash_tables(run_study(config, tmp_path / "expected").folder)
    num_syncs = 2 * (3 + 2 * 3)  # file and folder, of study.toml, run.json, manifest.json, 3 shards, 3 commits
    for number in range(1, num_syncs + 2):
        folder = tmp_path / str(number)
        child = context.Process(target=run_until_sync, args=(config, folder, number))
        child.start()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if number <= num_syncs else 0)
        run_study(config, folder)
        assert_finished(folder, expected)


def test_killed_program(config, expected, place):
    """The same for a program of its own, killed twice while it works."""
    folder = place / "program"
    (place / "study.toml").write_text(dump_study(config), encoding="utf-8")
    program = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path; "
        "from mnemoscope.study_file import load_study; from mnemoscope.run import run_study; "
        "run_study(load_study(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    arguments = [sys.executable, "-c", program, str(place / "study.toml"), str(folder)]
    for num_committed in (3, 9):
        running = subprocess.Popen(arguments, env=env, stderr=subprocess.DEVNULL)
        while running.poll() is None and len(list(folder.glob("scores/tiny/*0*.json"))) < num_committed:
            time.sleep(0.002)
        running.kill()
        assert running.wait() == -signal.SIGKILL
    run_study(config, folder)
    assert_finished(folder, expected)


def test_two_runs_at_once(context, config, expected, place):
    """Two runs on one folder at the same time do each other no harm: the tables are those of one."""
    folder = place / "twice"
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    children = [context.Process(target=run_and_tell, args=(config, folder, there)) for _, there in pipes]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert_finished(folder, expected)


def test_two_runs_of_different_models_at_once(context, config, place):
    """Two processes that add a model each to one folder lose neither: both stand in study.toml, and it is complete."""
    others = []
    for seed in (7, 8):
        source = save_model(place / f"other-{seed}", seed=seed)
        others.append(replace(config, models=(ModelConfig(source=str(source), device="cpu"),)))
    for attempt in range(3):
        folder = place / f"different-{attempt}"
        pipes = [context.Pipe(duplex=False) for _ in others]
        children = [
            context.Process(target=run_and_tell, args=(other, folder, there))
            for other, (_, there) in zip(others, pipes, strict=True)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        study = open_study(folder)
        assert set(study.runs) == {model.label for model in study.config.models} == {"other-7", "other-8"}
        assert all(audit_coverage(study, label).is_complete for label in study.runs)
        manifest = read_manifest(folder)
        assert manifest is not None and set(manifest["models"]) == {"other-7", "other-8"}
