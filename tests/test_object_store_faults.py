"""A study at an address, when requests fail, processes die, files lie damaged: it ends as one that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from faults import PRELOADED
from mnemoscope import retries
from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.manifest import read_manifest
from mnemoscope.mirror import INDEX_FILE, Mirror
from mnemoscope.object_storage import ObjectStorage
from mnemoscope.run import run_study
from mnemoscope.store import find_damage, open_study
from object_stores import (
    SECRET,
    FailingFileSystem,
    Faults,
    another_machine,
    assert_whole,
    count_stored,
    endpoint,
    environment,
    facts_of,
    failing_proxy,
    forget_filesystems,
    mirrors,
    read_folder,
    register,
    replace_stored,
    stored,
    traced_study,
)
from studies import save_model

__all__ = ["endpoint", "mirrors"]
NUM_KILLS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """11 members and 5 of a control in shards of 4, traced and counted: 5 shards."""
    return traced_study(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed study in a folder holds, by name; what its manifest says of how it came about aside."""
    return facts_of(read_folder(run_study(config, tmp_path_factory.mktemp("local") / "study").folder))


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Waits are a hundredth of what they are."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.001)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Children of a server that has imported torch once; each is a process of its own, and may be killed."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([*PRELOADED, "mnemoscope.tracing", "s3fs", "numba.typed"])
    return forkserver


def drive(config: StudyConfig, address: str, variables: dict[str, str]) -> None:
    """A run, on a machine with these variables."""
    os.environ.update(variables)
    run_study(config, address)


def start(context: ForkServerContext, config: StudyConfig, address: str, cache: Path) -> ForkServerProcess:
    """A run in a process of its own, with a cache of its own."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    running = context.Process(target=drive, args=(config, address, variables | {"MNEMOSCOPE_CACHE": str(cache)}))
    running.start()
    return running


def test_a_store_that_fails_one_request_in_five(config, expected, impatient):
    """Timeouts, resets, busy answers and lost ones, a fifth of all calls: the same bytes."""
    register()
    for seed in range(5):
        FailingFileSystem.faults = faults = Faults(seed)
        run_study(config, f"failing://study-{seed}")
        print(faults)
        assert faults.injected.total() > 15
        FailingFileSystem.faults = Faults(share=0.0)
        assert_whole(f"failing://study-{seed}", expected)


def test_a_server_that_fails_one_request_in_five(config, expected, endpoint, monkeypatch, impatient):
    """503, 500, broken connections and lost answers before a server of S3: the same bytes."""
    faults = Faults(seed=3)
    with failing_proxy(endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        forget_filesystems()
        run_study(config, "s3://bkt/shaky")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_filesystems()
    print(faults)
    assert faults.injected.total() > 30 and len(faults.injected) == 4
    assert_whole("s3://bkt/shaky", expected)


def test_two_drivers_with_a_model_each(context, config, endpoint, tmp_path):
    """Two runs at once, on two machines: both models are scored, traced, counted and claimed by one manifest."""
    labels = ("other-7", "other-8")
    others = [
        replace(config, models=(ModelConfig(source=str(save_model(tmp_path / label, seed=seed)), device="cpu"),))
        for seed, label in zip((7, 8), labels, strict=True)
    ]
    running = [start(context, each, "s3://bkt/two", tmp_path / f"machine-{n}") for n, each in enumerate(others)]
    for process in running:
        process.join()
        assert process.exitcode == 0
    study = open_study("s3://bkt/two")
    assert set(study.runs) == set(labels)
    assert all(audit_coverage(study, label).is_complete for label in labels)
    assert not any(find_derived_faults(study).values())
    manifest = read_manifest(study.folder)
    assert manifest is not None and set(manifest["models"]) == set(labels)
    assert not any(SECRET.encode() in content for content in stored("s3://bkt/two").values())


def test_killed_drivers_are_taken_up_by_other_machines(context, config, expected, endpoint, tmp_path):
    """SIGKILL at random instants, each time on another machine with an empty mirror: the last one ends with the bytes
    of a study that nobody disturbed.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    instants = random.Random(seed)
    num_kills = 0
    for number in range(NUM_KILLS):
        wanted = count_stored("s3://bkt/killed") + instants.randrange(1, 8)
        running = start(context, config, "s3://bkt/killed", tmp_path / f"machine-{number}")
        while running.is_alive() and count_stored("s3://bkt/killed") < wanted:
            time.sleep(0.01)
        running.kill()
        running.join()
        num_kills += running.exitcode == -signal.SIGKILL
    run_study(config, "s3://bkt/killed")
    print(f"{num_kills} drivers killed")
    assert num_kills > 0
    assert_whole("s3://bkt/killed", expected)


def test_actors_of_ray_put_shards_straight_there(config, expected, endpoint):
    """Two actors, each with its own client of the server: the tables of the local engine."""
    ray = pytest.importorskip("ray")
    from mnemoscope.engines.ray import ENVIRONMENT, RayEngine

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ENVIRONMENT | {"PYTHONPATH": environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        try:
            run_study(config, "s3://bkt/ray", engine=RayEngine(workers=2))
        finally:
            ray.shutdown()
    assert_whole("s3://bkt/ray", expected)


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "torn commit"])
def test_damaged_shards_are_set_aside_and_scored_again(config, expected, harm):
    """A table cut short, with one other bit, or gone; a commit cut short: found, kept aside, and the bytes are back."""
    address = f"memory://damaged-{harm.replace(' ', '-')}"
    run_study(config, address)
    name = "scores/tiny/member-000000000004." + ("json" if harm == "torn commit" else "parquet")
    content = stored(address)[name]
    flipped = bytes([content[100] ^ 4])
    harmed = {"flipped": content[:100] + flipped + content[101:], "gone": None}.get(harm, content[: len(content) // 2])
    replace_stored(address, name, harmed)
    run = open_study(address).runs["tiny"]
    assert len(find_damage(ObjectStorage(address), run)) == 1
    run_study(config, address)
    left = {name for name in stored(address) if "damaged" in name}
    assert len(left) == (1 if harm == "gone" else 2)
    for each in left:
        replace_stored(address, each, None)
    assert_whole(address, expected)


@pytest.mark.parametrize("name", ["traces/tiny/k4.npy", "counts/counts.parquet", "traces/tiny/k4.json"])
def test_damaged_files_are_made_again(config, expected, tmp_path, monkeypatch, run, name):  # noqa: PLR0917
    """One bit of what was made of the scores: `status --verify` says so; another machine makes it again, the same."""
    address = f"memory://flipped-{name.replace('/', '-')}"
    run_study(config, address)
    content = stored(address)[name]
    replace_stored(address, name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    status, out, _ = run("status", address, "--verify")
    assert status == 1 and f"{name}: its checksum is not the one it was written with" in out
    another_machine(tmp_path, monkeypatch, "other")
    run_study(config, address)
    assert_whole(address, expected)
    assert run("status", address, "--verify")[0] == 0


def test_a_file_cut_at_the_address_is_put_there_again(config, expected):
    """By the machine whose mirror has it whole."""
    run_study(config, "memory://cut")
    replace_stored("memory://cut", "traces/tiny/k4.npy", b"short")
    run_study(config, "memory://cut")
    assert_whole("memory://cut", expected)


def test_a_driver_killed_with_the_mirror_leaves_no_lock(mirrors):
    """Locks die with who holds them."""
    program = (
        "import sys, time; from mnemoscope.mirror import Mirror; held = Mirror.of('memory://x').held(); "
        "held.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    variables = environment() | {"MNEMOSCOPE_CACHE": str(mirrors.parent)}
    holder = subprocess.Popen([sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with Mirror.of("memory://x").held_to_read() as is_ours:
        assert not is_ours
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with Mirror.of("memory://x").held_to_read() as is_ours:
        assert is_ours


def test_a_torn_index_costs_only_time(config, expected, tmp_path, monkeypatch):
    """Without it nothing but scores is taken from the address; what is made again is the same."""
    run_study(config, "memory://torn")
    replace_stored("memory://torn", INDEX_FILE, stored("memory://torn")[INDEX_FILE][:-20])
    another_machine(tmp_path, monkeypatch, "other")
    run_study(config, "memory://torn")
    assert_whole("memory://torn", expected)
