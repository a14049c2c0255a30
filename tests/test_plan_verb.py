"""`mnemoscope plan` over a real tiny model: what it measures, that it writes nothing, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mnemoscope.memory
from mnemoscope.config import CorpusConfig, CountsConfig, GradedSampleConfig, ModelConfig, TracesConfig
from mnemoscope.model import load_model
from mnemoscope.model_files import model_size
from mnemoscope.pilot_rows import RandomRows, SeenRows
from mnemoscope.run import run_study
from mnemoscope.store import read_records, read_scores
from mnemoscope.study_file import dump_study
from mnemoscope.texts import open_texts
from networks import generate
from studies import make_study, stored_matches

DOCUMENT = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()


@pytest.fixture
def plan(run, tmp_path):
    """Plan a study of the tiny model with some settings; its answer as a shell gets it."""

    def call(*options, num_rows=30, num_control=12, **settings):
        config = make_study(tmp_path / "in", num_rows=num_rows, num_control=num_control, **settings)
        file = tmp_path / "study.toml"
        file.write_text(dump_study(config))
        time = () if "--seconds" in options else ("--seconds", 2)
        return run("plan", file, *time, *options)

    return call


def names(value) -> set[str]:
    """Every name in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_measures_and_writes_nothing(plan, tmp_path):
    """Rates above zero in order, 8 + 5 - 1 token forwards of the truth, no row twice; no file appears or changes."""
    plan("--json")
    before = files(tmp_path)
    code, out, _ = plan("--json", "--devices", 1, 3, traces=TracesConfig(per_stratum=2), counts=CountsConfig())
    changed = {name for name, content in files(tmp_path).items() if before.get(name) != content}
    assert changed == {"study.toml"}  # the test's own
    assert code == 0
    (model,) = json.loads(out)["models"]
    for rate in (*model["rates"].values(), model["traced"]):
        assert 0 < rate["slowest"] <= rate["per_second"] * (1 + 1e-9)
        assert rate["per_second"] <= rate["fastest"] * (1 + 1e-9)
        assert rate["num_sequences"] >= rate["num_calls"] >= 1
    assert model["teacher_forced"] == 12
    assert model["decoded"] > 0
    assert model["width"] == 32
    assert model["peak_bytes"] > model["weight_bytes"] > 0
    most = {"member": 30, "control": 12}
    assert [each["group"] for each in model["cells"]] == ["member", "member", "control", "control"]
    assert all(0 < each["num_sequences"] <= most[each["group"]] for each in model["cells"])
    assert [each["devices"] for each in json.loads(out)["hours"]] == [1, 3]


def test_json_is_documented(plan):
    """Every name in the JSON of a study that has everything stands in docs/scale.md, as code."""
    code, out, _ = plan("--json", traces=TracesConfig(per_stratum=2), counts=CountsConfig())
    assert code == 0
    documented = set(re.findall(r"`(\w+)`", DOCUMENT))
    assert names(json.loads(out)) - documented == set()
    assert json.loads(out)["schema"] == 1


def test_counts_and_bytes_are_those_of_the_study(tmp_path):
    """Full matches of a pilot that saw every row are the study's own, and its shards as large as the study's.

    Half of the rows are what the model says itself, and every row stands twice: the design effect is 2.
    """
    config = make_study(tmp_path / "in", num_rows=200, shard_rows=100)
    model = load_model(config.models[0])
    rows = np.load(config.corpus.path)
    rows[:100, 4:13] = generate(model.network, rows[:100, :4].astype(np.int64), 9)
    np.save(config.corpus.path, np.concatenate([rows, rows]))
    seen = SeenRows(RandomRows(open_texts(config)["member"], seed=0))
    for _ in range(5):  # the fifth call sees rows again
        assert seen.score(model, config.grid, "graded", 8, 100).num_sequences == 100
    study = run_study(config, tmp_path / "study")
    matches = stored_matches(study, "tiny")
    cells = seen.count("member", config)
    assert [(each.context, each.continuation) for each in cells] == [(4, 3), (8, 5)]
    for each in cells:
        cell = each.context, each.continuation
        full = sum(count == each.continuation for (_, _, *own), count in matches.items() if tuple(own) == cell)
        assert (each.num_full, each.num_sequences) == (full, 400)
        assert full >= 200
        assert each.design_effect == pytest.approx(2.0)
    firsts_RC = np.concatenate(
        [table["first_mismatch"].to_numpy().reshape(-1, 2) for table in read_scores(study, "tiny", group="member")]
    )
    near_R = (firsts_RC >= 2).any(axis=1) & (firsts_RC < 4).any(axis=1)  # half of 3 tokens, and not all but the last
    assert seen.near_share(config) == pytest.approx(near_R.mean())
    storing = seen.measure_storing(config)
    written = sum(record.bytes for record in read_records(study.folder, study.run("tiny")).values())
    assert 4 * (100 * storing.bytes_per_sequence + storing.bytes_per_shard) == pytest.approx(written, rel=0.05)
    assert storing.seconds_per_sequence > 0


def test_tables_and_proposal(plan):
    """The tables name the model; a study of 30 rows is proposed whole, in mode graded."""
    code, out, err = plan("--within", 5)
    assert code == 0
    for words in ("tiny", "sequences/s", "Hours for 1 model x 30 members and 12 of the control", "disk", "memory"):
        assert words in out
    assert "+-5 percentage points at 95 % needs" in out
    assert "score all 30 members and 12 of the control in mode graded" in out
    assert out.rstrip().endswith('mode = "graded"')
    assert "measured" in err


def test_exact_studies_are_planned(plan):
    """A study in mode exact has disk for scores without match bits, and both rates all the same."""
    graded = json.loads(plan("--json", num_rows=64)[1])
    exact = json.loads(plan("--json", num_rows=64, mode="exact")[1])
    assert exact["size"]["mode"] == "exact"
    assert exact["disk"]["scores"] < graded["disk"]["scores"]
    assert set(exact["models"][0]["rates"]) == {"exact", "graded"}


def test_two_phase_studies_are_planned(plan):
    """Scoring takes what mode exact does and, of the share that is decoded, what mode graded takes more."""
    sample = GradedSampleConfig(share=0.2, near_share=0.6)
    found = json.loads(plan("--json", num_rows=64, mode="two-phase", graded_sample=sample)[1])
    (model,), hours, num_rows = found["models"], found["hours"][0], 64 + 12
    assert found["size"]["mode"] == "two-phase"
    assert found["size"]["graded_sample"] == {"share": 0.2, "near_share": 0.6, "seed": 0}
    exact, graded = (1 / model["rates"][mode]["per_second"] for mode in ("exact", "graded"))
    decoded = 0.2 + model["near"] * (0.6 - 0.2)
    seconds = exact + decoded * max(0, graded - exact) + model["storing"]["seconds_per_sequence"]
    assert hours["scoring"] * 3600 == pytest.approx(num_rows * seconds)


def test_every_misfit_is_told_at_once(plan, tmp_path, monkeypatch):
    """Positions, rows and memory, a line each, exit 2; no model is loaded for that."""
    monkeypatch.setattr(mnemoscope.memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr("mnemoscope.pilot.measure_study", None)
    code, out, err = plan(contexts=(8, 40), continuations=(16,))
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("mnemoscope: ") for line in lines)
    size = model_size(ModelConfig(source=str(tmp_path / "in" / "tiny")))
    assert "window (longest context + longest continuation) is 56 tokens, the model has 48 positions" in lines[0]
    assert f"{size.file_bytes:,} bytes take {size.weight_bytes('float32'):,} bytes in float32, 1,000 are" in lines[1]
    assert "16 tokens; the grid and offset need 56" in lines[2]


def test_full_disk_is_told_after_the_plan(plan, monkeypatch):
    """What it costs is printed all the same; both numbers are told, exit 2."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    code, out, err = plan("--json")
    assert code == 2
    disk = json.loads(out)["disk"]
    assert f"disk: the study needs {disk['total']:,} bytes, 5 are free" in err
    assert json.loads(out)["refusals"]


def test_a_missing_model_is_told_with_the_rest(plan, tmp_path):
    """A model folder that is not there is one line beside that of short rows."""
    models = (ModelConfig(source=str(tmp_path / "nowhere"), device="cpu"),)
    code, _, err = plan(models=models, contexts=(8, 40))
    assert code == 2
    assert ["no such folder" in line for line in err.splitlines()] == [True, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seconds", "0"), "--seconds: 0 given"),
        (("--within", "-1"), "--within: -1 given"),
        (("--level", "1"), "--level: 1 given"),
        (("--hours", "0"), "--hours: 0 given"),
        (("--devices", "0"), "--devices: 0 given"),
    ],
)
def test_options_that_cannot_be_meant(plan, options, words):
    """One line with what came and what is expected, exit 2."""
    code, out, err = plan(*options)
    assert (code, out) == (2, "")
    assert words in err
    assert "expected" in err


def test_interrupted_is_said(plan, monkeypatch):
    """Ctrl-C: exit 130, one line, nothing on stdout."""

    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("mnemoscope.pilot.measure_study", stop)
    assert plan() == (130, "", "mnemoscope: interrupted; nothing was written\n")


def test_size_of_files(tmp_path):
    """The header's shapes add up to the network's parameters; positions are those of its settings."""
    config = make_study(tmp_path / "in").models[0]
    size = model_size(config)
    weights = tmp_path / "in" / "tiny" / "model.safetensors"
    assert size.file_bytes == weights.stat().st_size
    assert size.max_positions == 48
    own = load_model(config).identity.num_parameters
    assert size.num_weights == own
    assert size.weight_bytes("bfloat16") == 2 * own


def test_random_rows_are_each_row_once(tmp_path):
    """Until all rows have been taken none comes again, in an order that is not the corpus's and is the seed's."""
    config = make_study(tmp_path / "in", num_rows=20)
    text = open_texts(config)["member"]
    rows = RandomRows(text, seed=1)
    taken = np.concatenate([rows.take(5).sequence_ids for _ in range(4)])
    assert sorted(taken.tolist()) == list(range(20))
    assert taken.tolist() != list(range(20))
    again = RandomRows(text, seed=1)
    assert again.take(20).sequence_ids.tolist() == taken.tolist()


def test_rows_of_a_sampled_study_come_from_the_whole_corpus(tmp_path):
    """A study that samples 5 of 20 rows is planned over 20; one that lists rows over its list."""
    path = str(make_study(tmp_path / "in", num_rows=20).corpus.path)
    sampled = make_study(tmp_path / "in", num_rows=20, corpus=CorpusConfig(path=path, sample=5))
    rows = RandomRows(open_texts(sampled)["member"], seed=0)
    assert len(rows) == 20
    listing = tmp_path / "rows.csv"
    listing.write_text("sequence_id\n3\n7\n11\n")
    listed = make_study(tmp_path / "in", num_rows=20, corpus=CorpusConfig(path=path, sequences=str(listing)))
    taken = RandomRows(open_texts(listed)["member"], seed=0).take(3)
    assert sorted(taken.sequence_ids.tolist()) == [3, 7, 11]
