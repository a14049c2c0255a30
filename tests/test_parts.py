"""A study scored in parts, in any order and at once, is the study scored whole."""

import multiprocessing
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from mnemoscope import cli
from mnemoscope.config import CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.errors import ConfigError
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.shards import Part, ShardRange
from mnemoscope.store import outstanding_shards, read_records
from mnemoscope.study_file import dump_study
from studies import hash_tables, make_study, save_model


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    """Two models over 11 members and 5 of a control in shards of 4, traced and counted: 5 shards each."""
    folder = tmp_path_factory.mktemp("in")
    save_model(folder / "other" / "step7", seed=3)
    config = make_study(folder, num_rows=11, num_control=5, traces=TracesConfig(), counts=CountsConfig())
    return replace(config, models=(*config.models, ModelConfig(source=str(folder / "other"), revision="step7")))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The study in one piece."""
    return run_study(config, tmp_path_factory.mktemp("whole") / "study").folder


def derived_files(folder: Path) -> dict[str, bytes]:
    """What follows from the scores, by path."""
    files = [path for name in ("traces", "counts") for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run_part(config: StudyConfig, folder: Path, number: int) -> None:
    """One of three parts, in a process that imports this module: as `studies` has it, with one thread."""
    run_study(config, folder, part=Part(number, 3))


def test_parts_are_every_shard_once():
    """Of 11 shards and any number of parts, each is in one part, and parts differ by one shard at most."""
    plan = [ShardRange("member", start, start + 1) for start in range(11)]
    for of in range(1, 14):
        parts = [Part(number, of).of_plan(plan) for number in range(1, of + 1)]
        assert sorted(shard for part in parts for shard in part) == plan
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("order", list(permutations((1, 2, 3)))[::2])
def test_parts_in_any_order_are_the_whole(config, whole, tmp_path, order):
    """Each scores its own shards and no others; only the last traces, counts and writes the manifest."""
    for done, number in enumerate(order, start=1):
        study = run_study(config, tmp_path, part=Part(number, 3))
        expected = {
            shard for run in study.runs.values() for one in order[:done] for shard in Part(one, 3).of_plan(run.shards)
        }
        assert {shard for run in study.runs.values() for shard in read_records(tmp_path, run)} == expected
        assert (read_manifest(tmp_path) is not None, (tmp_path / "counts").exists()) == (done == 3, done == 3)
    assert hash_tables(tmp_path) == hash_tables(whole)
    assert derived_files(tmp_path) == derived_files(whole)


def test_parts_at_once_are_the_whole(config, whole, tmp_path):
    """Three processes, started together, leave the study of one, bit for bit, manifest included."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_part, args=(config, tmp_path, number)) for number in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert hash_tables(tmp_path) == hash_tables(whole)
    assert derived_files(tmp_path) == derived_files(whole)
    assert read_manifest(tmp_path)["tables"] == read_manifest(whole)["tables"]


def test_a_part_is_taken_up_where_it_was_left(config, whole, tmp_path):
    """A shard of a part that is gone is scored again by that part alone; the other parts do nothing."""
    study = run_study(config, tmp_path, part=Part(1, 2))
    run = study.runs["tiny"]
    (tmp_path / "scores" / "tiny" / f"{run.shards[2].name}.json").unlink()
    assert run.shards[2] in outstanding_shards(tmp_path, run)
    run_study(config, tmp_path, part=Part(2, 2))
    assert outstanding_shards(tmp_path, run) == [run.shards[2]] and read_manifest(tmp_path) is None
    run_study(config, tmp_path, part=Part(1, 2))
    assert read_manifest(tmp_path) is not None and hash_tables(tmp_path) == hash_tables(whole)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_part_is_refused(text):
    """One line says what came and what is expected."""
    with pytest.raises(ConfigError, match=r"--part: .* given; expected NUMBER/OF, such as 2/8"):
        Part.parse(text)
    assert Part.parse(" 2/8 ") == Part(2, 8)


def test_the_verb_says_what_is_left(config, tmp_path, capsys, monkeypatch):
    """The first of two parts ends without findings and names what other parts have to score: 2 of 5 shards, twice."""
    plain = replace(config, traces=None, counts=None)
    (tmp_path / "study.toml").write_text(dump_study(plain))
    monkeypatch.setattr(sys, "argv", ["mnemoscope"])
    cli.study(tmp_path / "study.toml", out=tmp_path / "out", part="1/2")
    assert "part 1/2 is scored; 4 shards of other parts are not" in capsys.readouterr().out
    assert not (tmp_path / "out" / "analyses").exists()
    cli.study(tmp_path / "study.toml", out=tmp_path / "out", part="2/2")
    assert (tmp_path / "out" / "report.html").is_file() and "report" in capsys.readouterr().out
