"""A study at an address is the study in a folder, bit for bit, on whatever machine and in whatever parts."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path

import pytest

from mnemoscope.config import StudyConfig
from mnemoscope.coverage import audit_coverage
from mnemoscope.errors import StoreError
from mnemoscope.findings import analyze, save_findings
from mnemoscope.mirror import INDEX_FILE, Mirror
from mnemoscope.object_storage import ObjectStorage
from mnemoscope.run import run_study
from mnemoscope.runs import read_study, register_models
from mnemoscope.shards import Part
from mnemoscope.store import open_study, outstanding_shards, set_aside
from mnemoscope.study_file import dump_study
from object_stores import (
    LateFileSystem,
    another_machine,
    assert_whole,
    endpoint,
    facts_of,
    mirrors,
    read_folder,
    register,
    replace_stored,
    stored,
    traced_study,
)
from studies import make_study
from test_store import make_run

__all__ = ["endpoint", "mirrors"]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """11 members and 5 of a control in shards of 4, traced and counted: 5 shards."""
    return traced_study(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory) -> dict[str, bytes]:
    """What a study in a folder holds after its findings, by name; what its manifest says of how it came about aside."""
    study = run_study(config, tmp_path_factory.mktemp("local") / "study")
    save_findings(study, analyze(study), figures=False)
    return facts_of(read_folder(study.folder))


def finish(config: StudyConfig, address: str) -> None:
    """Run, and store the findings."""
    study = run_study(config, address)
    save_findings(study, analyze(study), figures=False)


@pytest.mark.parametrize("address", ["memory://folder/study", "s3://bkt/deep/study"])
def test_a_study_at_an_address_is_the_study_in_a_folder(config, expected, address, request):
    """Every file that a folder would hold, with the same bytes, and two kinds more; run again, nothing is written."""
    if address.startswith("s3"):
        request.getfixturevalue("endpoint")
    finish(config, address)
    files = stored(address)
    assert facts_of(files) == expected
    assert set(files) - set(expected) == {INDEX_FILE, "models/tiny.toml"}
    assert set(json.loads(files[INDEX_FILE])["files"]) == {
        name for name in expected if not name.startswith("scores/") and name not in ("study.toml", "manifest.json")
    }
    run_study(config, address)
    assert stored(address) == files


def test_another_machine_reads_and_goes_on(config, expected, tmp_path, monkeypatch):
    """With an empty mirror: the same tables and findings, no model loaded, no byte changed at the address."""
    finish(config, "memory://travelled")
    files = stored("memory://travelled")
    sentence = analyze(open_study("memory://travelled"))["factors"].finding.sentence
    another_machine(tmp_path, monkeypatch, "other")
    monkeypatch.setattr("mnemoscope.run._load", lambda _config: pytest.fail("the model was loaded"))
    study = open_study("memory://travelled")
    assert study.place == "memory://travelled" and study.folder.is_relative_to(tmp_path / "other")
    assert facts_of(read_folder(study.folder)) == expected
    assert analyze(study)["factors"].finding.sentence == sentence
    run_study(config, "memory://travelled")
    assert stored("memory://travelled") == files


@pytest.mark.parametrize("order", list(permutations((1, 2, 3)))[::5])
def test_parts_in_any_order_are_the_whole(config, expected, mirrors, order):
    """A part puts its own shards and brings nothing here; the last one makes and pushes the rest."""
    address = f"memory://parts-{'-'.join(map(str, order))}"
    for done, number in enumerate(order, start=1):
        study = run_study(config, address, part=Part(number, 3))
        scored = {shard for one in order[:done] for shard in Part(one, 3).of_plan(study.runs["tiny"].shards)}
        outstanding = outstanding_shards(ObjectStorage(address), study.runs["tiny"])
        assert set(study.runs["tiny"].shards) - set(outstanding) == scored
        assert ("manifest.json" in stored(address), mirrors.exists()) == (done == 3, done == 3)
    assert_whole(address, expected)


def test_lists_that_come_late_hide_nothing(config, expected, tmp_path, monkeypatch):
    """No list shows anything that the study put; two machines, one after the other, find all of it, and it is whole."""
    register()
    LateFileSystem.num_hidden = 0
    run_study(config, "late://study", part=Part(1, 2))
    another_machine(tmp_path, monkeypatch, "other")
    run_study(config, "late://study", part=Part(2, 2))
    assert LateFileSystem.num_hidden > 0
    assert_whole("late://study", expected)
    another_machine(tmp_path, monkeypatch, "third")
    assert_whole("late://study", expected)


def test_two_drivers_that_register_at_once_lose_nothing(config):
    """Whichever request of one driver the whole registration of another falls before: study.toml names both models."""
    one, two = (replace(config, models=(replace(config.models[0], name=name),)) for name in ("one", "two"))
    for number in range(12):
        storage = ObjectStorage(f"memory://register-{number}")
        interrupted = _Interrupted(storage, number, lambda place: _begin(place, two))
        _begin(interrupted, one)
        if interrupted.num_requests <= number:
            break
        study = read_study(storage)
        assert study is not None and {model.label for model in study.models} == {"one", "two"}, number
    else:
        pytest.fail("more requests than were tried")
    assert number > 5


class _Interrupted:
    """A storage before whose request of a number something else happens to it."""

    def __init__(self, storage: ObjectStorage, number: int, deed) -> None:
        self._storage, self._number, self._deed = storage, number, deed
        self.num_requests = 0

    def __getattr__(self, name: str):
        found = getattr(self._storage, name)
        if name not in ("read_many", "write", "create", "list_names"):
            return found

        def request(*given):
            if self.num_requests == self._number:
                self._deed(self._storage)
            self.num_requests += 1
            return found(*given)

        return request


def _begin(place, config: StudyConfig) -> None:
    """As a run does it: a model's run is begun, and then registered. What it follows from is no matter here."""
    label = config.models[0].label
    place.create(f"scores/{label}/run.json", json.dumps(asdict(make_run(label))).encode())
    register_models(place, config, replacing=[label], before_change=lambda: None)


def test_another_study_at_an_address_is_not_mixed_with_the_mirror_of_the_first(config, expected, tmp_path):
    """The address was emptied, and another model scored there: nothing of the first is pushed."""
    other = make_study(tmp_path / "in", num_rows=6, num_control=2)
    run_study(other, "memory://reused")
    for name in stored("memory://reused"):
        replace_stored("memory://reused", name, None)
    run_study(config, "memory://reused")
    assert_whole("memory://reused", expected)


def test_another_run_is_refused_before_anything_is_written(config):
    """As in a folder: one line that names what differs."""
    run_study(config, "memory://refused")
    files = stored("memory://refused")
    with pytest.raises(StoreError, match=r"^memory://refused: holds another run of tiny \(shard_rows: 4 there, 2 here"):
        run_study(replace(config, shard_rows=2), "memory://refused")
    assert stored("memory://refused") == files


def test_the_verbs_take_addresses(config, tmp_path, run):
    """study, status, show, report, export and score: what a folder would get is at the address."""
    address = "memory://verbs"
    (tmp_path / "study.toml").write_text(dump_study(config))
    status, out, err = run("study", tmp_path / "study.toml", "--out", address)
    assert status == 0, err
    assert f"report    {address}/report.html" in out and f"scores    {address}/scores" in out
    files = stored(address)
    assert {"report.html", "analyses/factors.json", "manifest.json"} <= files.keys()
    assert address.encode() in files["report.html"] and str(tmp_path / "cache").encode() not in files["report.html"]
    assert json.loads(files["manifest.json"])["provenance"]["command"].endswith(f"--out {address}")
    assert any(name.startswith("figures/") for name in files)
    for verb in (["status", address], ["show", address, "3"], ["report", address], ["export", address]):
        status, out, err = run(*verb)
        assert status == 0, err
        assert str(tmp_path / "cache") not in out
    assert any(name.startswith("export/scores/") for name in stored(address))
    files = ["--model", config.models[0].source, "--corpus", str(config.corpus.path)]
    grid = ["--contexts", "4", "--continuations", "3", "--device", "cpu"]
    status, out, err = run("score", *files, *grid, "--out", "memory://scored", "--name", "second")
    assert status == 0, err
    assert "scores/second/run.json" in stored("memory://scored")


def test_verbs_without_a_study_say_so(run):
    """One line, exit status 2."""
    for verb in (["status"], ["show"], ["report"], ["export"], ["view", "--no-browser"], ["predict"]):
        arguments = [verb[0], "memory://nothing", *(["3"] if verb[0] == "show" else []), *verb[1:]]
        status, _, err = run(*arguments)
        line = "mnemoscope: memory://nothing: no study.toml; expected the results folder of a study\n"
        assert (status, err) == (2, line)


def test_a_reader_does_not_wait_for_a_run(config, caplog):
    """While a run of this machine works in the mirror it is read as it is, and the reader is told."""
    run_study(config, "memory://busy")
    with Mirror.of("memory://busy").held(), caplog.at_level(logging.WARNING):
        study = open_study("memory://busy")
    assert "memory://busy: a run of this machine is at work on it" in caplog.text
    assert audit_coverage(study, "tiny").is_complete


def test_an_index_cannot_write_elsewhere(config, tmp_path, monkeypatch):
    """Names that leave the folder, or that are the store's own, are not fetched."""
    run_study(config, "memory://hostile")
    index = json.loads(stored("memory://hostile")[INDEX_FILE])
    for name in ("../../escaped", "/tmp/escaped-from-index", "scores/tiny/run.json", "study.toml"):
        index["files"][name] = {"bytes": 4, "sha256": "0" * 64}
    replace_stored("memory://hostile", INDEX_FILE, json.dumps(index).encode())
    another_machine(tmp_path, monkeypatch, "other")
    study = open_study("memory://hostile")
    assert audit_coverage(study, "tiny").is_complete
    assert not list(tmp_path.rglob("*escaped*")) and not Path("/tmp/escaped-from-index").exists()


def test_a_mirror_may_be_removed(config, expected, mirrors):
    """It can be had again."""
    run_study(config, "memory://removed")
    shutil.rmtree(mirrors)
    assert_whole("memory://removed", expected)


def test_what_was_set_aside_elsewhere_is_not_committed_here(config, expected):
    """A shard that another machine took away is no longer in the mirror's scores, and comes back when it is there."""
    study = run_study(config, "memory://taken")
    run = study.runs["tiny"]
    set_aside(ObjectStorage("memory://taken"), run, run.shards[1])
    assert outstanding_shards(open_study("memory://taken").folder, run) == [run.shards[1]]
    run_study(config, "memory://taken")
    assert outstanding_shards(open_study("memory://taken").folder, run) == []
