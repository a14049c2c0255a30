"""Machines that share an address: none of them puts what is old over what is new, and each mends its own mirror."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mnemoscope.config import ModelConfig, StudyConfig
from mnemoscope.coverage import audit_coverage
from mnemoscope.findings import analyze, save_findings
from mnemoscope.manifest import MANIFEST_FILE
from mnemoscope.mirror import Mirror
from mnemoscope.run import run_study
from mnemoscope.store import open_study
from object_stores import another_machine, assert_whole, facts_of, mirrors, read_folder, stored, traced_study
from studies import save_model

__all__ = ["mirrors"]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """11 members and 5 of a control in shards of 4, traced and counted: 5 shards."""
    return traced_study(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def both(config, tmp_path_factory) -> StudyConfig:
    """It, with a second model."""
    other = save_model(tmp_path_factory.mktemp("models") / "other", seed=3)
    return replace(config, models=(*config.models, ModelConfig(source=str(other), device="cpu")))


def test_findings_of_an_older_state_leave_the_newer_one_alone(config, both, tmp_path, monkeypatch):
    """While one machine analyses what it pulled, another adds a model: its counts and its manifest stay."""
    address = "memory://older"
    run_study(config, address)
    older = open_study(address)
    results = analyze(older)
    first = tmp_path / "cache"
    another_machine(tmp_path, monkeypatch, "other")
    run_study(both, address)
    newer = facts_of(stored(address))
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(first))
    save_findings(older, results, figures=False)
    found = {name: content for name, content in facts_of(stored(address)).items() if not name.startswith("analyses/")}
    assert sorted(found) == sorted(newer)
    assert [name for name in newer if found[name] != newer[name]] == []
    assert set(json.loads(found[MANIFEST_FILE])["models"]) == {"tiny", "other"}


def test_a_mirrored_shard_that_rots_is_pulled_again(config, tmp_path):
    """One bit of a table in the mirror: the next reader has the address's copy."""
    address = "memory://rotten"
    study = run_study(config, address)
    path = next((study.folder / "scores" / "tiny").glob("*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    opened = open_study(address)
    assert (opened.folder / path.relative_to(study.folder)).read_bytes() == content
    expected = run_study(config, tmp_path / "local")
    assert_whole(address, facts_of(read_folder(expected.folder)))
    shutil.rmtree(tmp_path / "local")


def test_two_readers_at_once_both_see_all(config, tmp_path, monkeypatch):
    """With an empty mirror: the second waits for the first, and does not take it for a run whose work is unfinished."""
    address = "memory://read-twice"
    run_study(config, address)
    another_machine(tmp_path, monkeypatch, "other")
    pull, begun = Mirror.pull, threading.Event()

    def pull_slowly(self: Mirror, *labels: str) -> None:
        begun.set()
        time.sleep(0.5)
        pull(self, *labels)

    monkeypatch.setattr(Mirror, "pull", pull_slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(open_study, address)
        begun.wait()
        second = pool.submit(open_study, address).result()
        assert audit_coverage(second, "tiny").is_complete
        assert first.result().runs == second.runs
