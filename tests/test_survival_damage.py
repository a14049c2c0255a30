"""Files that are no longer what was written: whatever is wrong with them, wherever, the next run puts it right."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from faults import STORED, assert_undisturbed, complete, harm_file, hash_all, make_survivor
from mnemoscope.config import StudyConfig
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.store import find_damage, open_study, record_name

NUM_HARMED = 30


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    return make_survivor(tmp_path_factory.mktemp("in"))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("expected") / "study"
    complete(config, folder)
    return folder


@pytest.fixture(scope="module")
def expected(finished) -> dict[str, str]:
    return hash_all(finished)


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "study")


def test_any_file_is_harmed_anywhere(config, expected, folder):
    """A bit flipped, bytes cut off, or all of it lost, thirty times at random places, of shards, traces, counts and
    their records: found, set aside where it is a shard, and made anew.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    instants = random.Random(seed)
    paths = [path for kind in STORED for path in sorted(folder.glob(f"{kind}/**/*.*")) if path.name != "run.json"]
    assert len(paths) == 2 * 5 + 3 + 2
    for _ in range(NUM_HARMED):
        path = instants.choice(paths)
        print(path.relative_to(folder), harm_file(path, instants))
        run_study(config, folder)
        assert_undisturbed(folder, expected, concluded=False)


@pytest.mark.parametrize("name", ["num_rows", "num_sequences", "num_short"])
def test_a_number_of_a_commit_is_another(config, expected, folder, name):
    """One bit in one of the counts of a commit, which no checksum covers: it no longer adds up, and commits nothing."""
    path = folder / "scores" / "tiny" / "member-000000000004.json"
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {name: record[name] ^ 1}) + "\n")
    run_study(config, folder)
    assert path.with_name(f"{path.name}.damaged-1").is_file()
    assert_undisturbed(folder, expected, concluded=False)


def test_a_commit_of_another_run_or_shard(config, expected, folder):
    """A commit that says all is well, but of another range or another run, commits nothing."""
    shards = sorted((folder / "scores" / "tiny").glob("member-*.json"))
    shutil.copy(shards[0], shards[1])
    shutil.copy(shards[0].with_suffix(".parquet"), shards[1].with_suffix(".parquet"))
    record = json.loads(shards[2].read_bytes())
    shards[2].write_text(json.dumps(record | {"fingerprint": "0" * 64}) + "\n")
    run_study(config, folder)
    assert sorted(path.name for path in folder.rglob("*.json.damaged-1")) == [
        f"{each.name}.damaged-1" for each in shards[1:]
    ]
    assert_undisturbed(folder, expected, concluded=False)


@pytest.mark.parametrize("num_left", [0, 1, 100])
def test_a_torn_record_of_a_study(config, expected, folder, num_left):
    """A torn manifest is written again; a torn study.toml or run.json is refused in one line and stays; without a
    study.toml the same study writes it again.
    """
    for name in ("manifest.json", "scores/tiny/run.json", "study.toml"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:num_left])
        if name == "manifest.json":
            assert read_manifest(folder) is None
            run_study(config, folder)
            assert read_manifest(folder) is not None
            continue
        with pytest.raises((StoreError, ConfigError), match=rf"^\S+{re.escape(name)}: .+$"):
            run_study(config, folder)
        assert (folder / name).read_bytes() == content[:num_left]
        (folder / name).write_bytes(content)
    (folder / "study.toml").unlink()
    run_study(config, folder)
    assert (folder / "study.toml").read_bytes() == content
    assert_undisturbed(folder, expected)


def test_no_bit_of_a_commit_is_spare(config, folder):
    """Every bit of a commit, flipped by itself: it is found damaged, never read as if it were as it was written."""
    run = open_study(folder).run("tiny")
    path = folder / "scores" / "tiny" / "control-000000000004.json"
    content = path.read_bytes()
    [shard] = [each for each in run.shards if record_name(run, each).endswith(path.name)]
    unnoticed = []
    for place in range(len(content)):
        for bit in range(8):
            harmed = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            path.write_bytes(harmed)
            if shard not in {damage.shard for damage in find_damage(folder, run)}:
                unnoticed.append((place, bit))
    assert unnoticed == []
