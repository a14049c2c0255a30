"""Several drivers on one folder at once, and drivers whose clocks are wrong: the tables are those of one."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from faults import assert_undisturbed, complete, date_files, forkserver, hash_all, make_survivor, skew_clocks
from mnemoscope import cache, store
from mnemoscope.cache import building
from mnemoscope.config import StudyConfig
from mnemoscope.run import run_study
from mnemoscope.shards import Part
from mnemoscope.storage import storage_of
from mnemoscope.store import Damage, outstanding_shards, set_damage_aside, table_name

HOURS = 3600.0


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    return make_survivor(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected") / "study"
    complete(config, folder)
    return hash_all(folder)


def at_once(*deeds: tuple[Callable[..., None], *tuple[object, ...]]) -> list[int | None]:
    """The exit statuses of deeds done by a process each, at the same time."""
    children = [forkserver().Process(target=deed, args=arguments) for deed, *arguments in deeds]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def run_part(config: StudyConfig, folder: Path, number: int) -> None:
    run_study(config, folder, part=Part(number, 2))


def test_two_drivers_from_the_scores_to_the_page(config, expected, tmp_path):
    """Both do everything, or find it done by the other; neither fails."""
    for number in range(2):
        folder = tmp_path / str(number)
        assert at_once((complete, config, folder), (complete, config, folder)) == [0, 0]
        assert_undisturbed(folder, expected)


def test_one_part_twice_at_once(config, expected, tmp_path):
    """The first of two parts is run by two processes at once, then the second by three: a part is no owner."""
    assert at_once(*[(run_part, config, tmp_path, 1)] * 2) == [0, 0]
    assert not (tmp_path / "manifest.json").exists()
    assert at_once(*[(run_part, config, tmp_path, 2)] * 3) == [0, 0, 0]
    assert_undisturbed(tmp_path, expected, concluded=False)


def test_two_drivers_trace_once(config, expected, tmp_path):
    """One that would trace what another traces at that moment waits and finds it there; else it would take away, for a
    while, what the other counts and reports already.
    """
    run_study(replace(config, traces=None, counts=None), tmp_path)
    done: Counter[tuple[str, int]] = Counter()

    def tell(label: str, num_done: int, num_sequences: int) -> None:
        done[label, num_done] += 1
        time.sleep(0.3)  # time for the other to get there, too

    threads = [threading.Thread(target=run_study, args=(config, tmp_path), kwargs={"progress": tell}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [number for (label, _), number in done.items() if label == "tiny traces, k = 4"]
    assert len(times) > 0 and set(times) == {1}
    assert_undisturbed(tmp_path, expected, concluded=False)


@pytest.mark.parametrize("address", [None, "memory://mended-meanwhile"])
def test_what_another_driver_has_mended_is_not_set_aside(config, expected, tmp_path, monkeypatch, address):
    """Between one driver's reading of all shards and its setting one aside, another puts a new copy and concludes: the
    new copy stays, and so does the manifest.
    """
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    place = address or tmp_path / "study"
    study = run_study(config, place)
    storage, run = storage_of(place), study.runs["tiny"]
    name = table_name(run, run.shards[1])
    content = storage.read_many([name, "manifest.json"])
    storage.write(name, content[name][:-1])
    find, num_changes = store.find_damage, Counter[str]()

    def find_and_wait(*given: object) -> list[Damage]:
        found = find(storage, run)
        assert [damage.shard for damage in found] == [run.shards[1]]
        storage.write(name, content[name])
        return found

    monkeypatch.setattr(store, "find_damage", find_and_wait)
    set_damage_aside(storage, run, before_change=lambda: num_changes.update(["change"]))
    assert storage.read_many([name, "manifest.json"]) == content and num_changes.total() == 0
    assert outstanding_shards(storage, run) == []


def run_at(config: StudyConfig, folder: Path, seconds: float) -> None:
    os.environ["MNEMOSCOPE_CACHE"] = str(folder.with_name("cache"))
    skew_clocks(seconds)
    complete(config, folder)


@pytest.mark.parametrize("dated", [-30 * 365 * 24 * HOURS, 30 * 365 * 24 * HOURS], ids=["past", "future"])
def test_clocks_are_wrong(config, expected, tmp_path, dated):
    """Files dated decades ago or hence, taken up by two drivers at once, nine hours ahead and behind."""
    folder = tmp_path / "study"
    run_part(config, folder, 1)
    date_files(folder, dated)
    assert at_once((run_at, config, folder, 9 * HOURS), (run_at, config, folder, -9 * HOURS)) == [0, 0]
    assert_undisturbed(folder, expected)


def test_what_is_being_built_is_not_abandoned_by_any_clock(tmp_path, monkeypatch):
    """A folder of the cache that one process fills stays for another whose clock is a day ahead; a dead one's goes."""
    (tmp_path / ".tmp-dead").mkdir()
    with building(tmp_path / "a") as mine:
        (mine / "x").write_text("text")
        with monkeypatch.context() as patch:
            patch.setattr(cache.time, "time", lambda told=time.time: told() + 24 * HOURS)
            with building(tmp_path / "b") as other:
                (other / "x").write_text("text")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b", mine.name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
