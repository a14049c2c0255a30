"""Numbers of half precision are held against float32's: fragile sequences scored again, flips counted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import GPTNeoXForCausalLM

from mnemoscope import cli, memory
from mnemoscope.analyses.flip_counts import count_flips
from mnemoscope.config import CorpusConfig, GradedSampleConfig, ModelConfig, StudyConfig
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ConfigError, ModelError, StoreError
from mnemoscope.flip_measuring import _load_reference
from mnemoscope.flips import flips_of, read_flips
from mnemoscope.manifest import read_manifest
from mnemoscope.model import load_model
from mnemoscope.report.flip_table import flip_table, flip_words
from mnemoscope.report.layout import print_table
from mnemoscope.report.rigor import rigor_table
from mnemoscope.report.study_facts import facts_of
from mnemoscope.run import run_study
from mnemoscope.shards import Part
from mnemoscope.store import Study, open_study, read_records, read_scores
from mnemoscope.study_file import dump_study, parse_study
from mnemoscope.table_verbs import show
from networks import generate
from studies import hash_tables, make_study

WIDE = 100.0
"""Logits: every margin of the tiny models is below it."""


def read_all(study: Study, label: str) -> pa.Table:
    return pa.concat_tables(read_scores(study, label)).replace_schema_metadata()


def the_row(rows, words):
    """The only row whose point holds these words."""
    (found,) = (row for row in rows if words in row.point)
    return found


def half(config: StudyConfig, *, audit: bool | float = False, dtype: str = "bfloat16", name: str = "half"):
    """The study with its model in half precision."""
    model = replace(config.models[0], dtype=dtype, audit=audit, name=name)
    return replace(config, models=(model,))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def config(place) -> StudyConfig:
    """60 members, which continue their first 4 tokens as the model does, and 20 of a control; shards of 16."""
    study = make_study(place, num_rows=60, num_control=20, shard_rows=16, batch_size=8, continuations=(3, 8))
    rows = np.load(place / "member.npy")
    network = GPTNeoXForCausalLM.from_pretrained(place / "tiny").eval()
    rows[:, 4:] = generate(network, rows[:, :4].astype(np.int64), 12)
    np.save(place / "member.npy", rows)
    return study


@pytest.fixture(scope="module")
def full(config, place) -> Study:
    """In float32."""
    return run_study(config, place / "full")


@pytest.fixture(scope="module")
def plain(config, place) -> Study:
    """In bfloat16."""
    return run_study(half(config), place / "plain")


def num_flips(one: pa.Table, other: pa.Table) -> int:
    """Rows whose match bits or first mismatches differ."""
    columns = ["sequence_id", "group", "context"]
    assert one.select(columns).equals(other.select(columns))
    said = [
        list(zip(*(t.column(c).to_pylist() for c in ("matched", "first_mismatch")), strict=True)) for t in (one, other)
    ]
    return sum(a != b for a, b in zip(*said, strict=True))


def test_audited_run_says_what_float32_says(config, full, plain, place):
    """A bfloat16 run flips some rows; audited with a margin that takes in all of them, none."""
    reference = read_all(full, "tiny")
    assert num_flips(read_all(plain, "half"), reference) > 0
    audited = run_study(half(config, audit=WIDE), place / "audited")
    assert num_flips(read_all(audited, "half"), reference) == 0
    assert sum(r.num_audited for r in read_records(audited.folder, audited.run("half")).values()) == 80


def test_flip_counts_are_those_of_the_two_runs(config, full, plain):
    """What the sample says equals the two whole runs held against each other, row by row, bit by bit."""
    rate = read_flips(plain, plain.run("half"))
    assert (rate.dtype, rate.reference_device, len(rate.counts)) == ("bfloat16", "cpu", 2 * 2 * 2)
    one, other = (read_all(study, label).to_pylist() for study, label in ((plain, "half"), (full, "tiny")))
    for count in rate.counts:
        pairs = [
            (a, b)
            for a, b in zip(one, other, strict=True)
            if (a["group"], a["context"]) == (count.group, count.context)
        ]
        n, place = count.continuation, config.continuations.index(count.continuation)
        bits = [[np.unpackbits(np.frombuffer(row["matched"], np.uint8))[:n] for row in pair] for pair in pairs]
        firsts = [[min(row["first_mismatch"], n) for row in pair] for pair in pairs]
        changed = [(a != b).any() or f != g for (a, b), (f, g) in zip(bits, firsts, strict=True)]
        assert count.num_sequences == len(pairs) and count.num_bits == n * len(pairs)
        assert count.num_bits_flipped == sum(int((a != b).sum()) for a, b in bits)
        assert count.num_first_changed == sum(f != g for f, g in firsts)
        assert count.num_gained == sum(f == n != g for f, g in firsts)
        assert count.num_lost == sum(g == n != f for f, g in firsts)
        assert count.num_changed == sum(changed)
        assert count.share_low <= sum(changed) / len(pairs) <= count.share_high
        gaps = [abs(a["log_probability"][place] - b["log_probability"][place]) for a, b in pairs]
        assert count.largest_log_probability_difference == pytest.approx(max(gaps), abs=1e-4)
    assert sum(count.num_lost for count in rate.counts) > 0 == sum(count.num_gained for count in rate.counts)


def test_fragile_sequences_are_those_below_the_margin(config, full, plain, place):
    """With a margin in the middle: below it a sequence's rows are float32's, from it on those of the plain run."""
    own, reference = read_all(plain, "half"), read_all(full, "tiny")
    margins = np.array(own.column("smallest_margin").to_pylist())[:, -1].reshape(-1, 2).min(axis=1)
    margin = float(np.median(margins))
    audited = run_study(half(config, audit=margin), place / "middle")
    is_fragile = np.repeat(margins < margin, 2)
    num_fragile = int((margins < margin).sum())
    assert 20 < num_fragile < 60
    for name in ("matched", "first_mismatch"):
        found, half_says, full_says = (
            table.column(name).to_pylist() for table in (read_all(audited, "half"), own, reference)
        )
        assert found == [b if fragile else a for a, b, fragile in zip(half_says, full_says, is_fragile, strict=True)]
    records = read_records(audited.folder, audited.run("half"))
    assert sum(record.num_audited for record in records.values()) == num_fragile
    assert read_manifest(audited.folder)["tables"]["scores"]["half"]["num_audited"] == num_fragile


def test_the_rigor_table_decides_from_flips_and_audits(plain, place, config):
    """Not measured, measured; not audited, audited: not done, done, with the counts; float32 alone needs neither."""
    facts = facts_of(plain, read_manifest(plain.folder))
    words = "something else than float32"
    found = the_row(rigor_table({}, facts), words)
    longest = facts.models[0].flips.longest
    assert found.state == "done"
    assert f"{longest.num_changed} of 60 members at k = 8, n = 8 differ from float32" in found.evidence
    (model,) = facts.models
    unmeasured = replace(facts, models=(replace(model, flips=None),))
    assert the_row(rigor_table({}, unmeasured), words).state == "not done"
    assert the_row(rigor_table({}, replace(facts, models=(replace(model, dtype="float32"),))), words).state == (
        "not applicable"
    )
    again = "scored again in float32"
    assert the_row(rigor_table({}, facts), again).state == "not done"
    audited = facts_of(open_study(place / "audited"), read_manifest(place / "audited"))
    found = the_row(rigor_table({}, audited), again)
    assert found.state == "done" and "80 sequences with a margin below 100 logits" in found.evidence


def test_terminal_and_show_tell_of_flips(plain, capsys):
    """A line per group and corner of the grid, 8 of them; `show` says it below its sequence."""
    rate = read_flips(plain, plain.run("half"))
    print_table(flip_table([rate]), Console(width=300))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("half")]
    assert len(lines) == 8 and all("bfloat16" in line for line in lines)
    show(plain.folder, 3)
    assert f"note: {flip_words(rate)}" in capsys.readouterr().out


def test_what_was_measured_is_not_measured_again(config, plain, place, monkeypatch):
    """A finished study loads no model; without its record the sample is scored again, to the same bytes."""
    record = flips_of(plain.folder, "half").path(".json")
    before = {path: path.read_bytes() for path in record.parent.iterdir()}
    record.unlink()
    run_study(half(config), plain.folder)
    assert {path: path.read_bytes() for path in record.parent.iterdir()} == before
    monkeypatch.setattr("mnemoscope.run._load", lambda _config: pytest.fail("the model was loaded"))
    run_study(half(config), plain.folder)


def test_without_a_sample_nothing_is_measured(config, place):
    """flip_sample = 0: no float32 copy is ever loaded, and nothing is said of flips."""
    study = run_study(replace(half(config), flip_sample=0), place / "unmeasured")
    assert read_flips(study, study.run("half")) is None and not (study.folder / "flips").exists()


def test_a_sample_is_drawn_from_a_seed(config, place):
    """5 of each group: the same 5 in another folder, and of the control no more than it has."""
    drawn = []
    for name in ("one", "other"):
        study = run_study(replace(half(config), flip_sample=30), place / name)
        table = pq.read_table(flips_of(study.folder, "half").path(".parquet"))
        drawn.append(table.select(["group", "sequence_id"]).to_pylist())
    assert drawn[0] == drawn[1]
    sizes = [len({row["sequence_id"] for row in drawn[0] if row["group"] == group}) for group in ("member", "control")]
    assert sizes == [30, 20]


def test_audit_keeps_how_it_is_cut_out_of_what_it_says(config, place):
    """Two processes and a stop in between: an audited run's shards and commits are the same bytes."""
    audited = half(config, audit=2.0)
    whole = run_study(audited, place / "whole")
    run_study(audited, place / "parts", part=Part(1, 2))
    cut = run_study(audited, place / "parts", part=Part(2, 2))
    assert hash_tables(cut.folder) == hash_tables(whole.folder)
    for record in list((cut.folder / "scores" / "half").glob("member-*.json"))[:2]:
        record.unlink()
    again = run_study(audited, place / "parts", engine=LocalEngine(workers=2))
    assert hash_tables(again.folder) == hash_tables(whole.folder)


def test_two_phase_probabilities_follow_from_the_audited_facts(config, full, place):
    """Mode two-phase with all sequences audited: its table is float32's in that mode, probabilities included."""
    settings = {"mode": "two-phase", "graded_sample": GradedSampleConfig(share=0.3)}
    reference = read_all(run_study(replace(config, **settings), place / "full-phases"), "tiny")
    audited = run_study(replace(half(config, audit=WIDE), **settings), place / "half-phases")
    found = read_all(audited, "half")
    names = ["sequence_id", "first_mismatch", "matched", "inclusion_probability"]
    assert found.select(names).equals(reference.select(names))
    rate = read_flips(audited, audited.run("half"))
    assert sum(count.num_changed for count in rate.counts) == 0
    graded = sum(row["matched"] is not None for row in reference.to_pylist())
    assert sum(count.num_bits for count in rate.counts) == graded * sum(config.continuations)


def test_exact_mode_is_compared_by_first_mismatches(config, place):
    """Mode exact: no bits to compare; what changes is what has another first mismatch."""
    study = run_study(replace(half(config), mode="exact"), place / "exact")
    counts = read_flips(study, study.run("half")).counts
    assert all(count.num_bits == 0 and count.num_changed == count.num_first_changed for count in counts)
    assert sum(count.num_changed for count in counts) > 0


def test_audits_are_part_of_what_a_run_is(config, plain):
    """A folder of the plain run takes in no audited one; a run without audit has the fingerprint it always had."""
    with pytest.raises(StoreError, match=r"audit_margin: None there, 0\.25 here"):
        run_study(half(config, audit=True), plain.folder)
    identity = plain.run("half").identity
    assert replace(identity, audit_margin=0.25).fingerprint != identity.fingerprint
    facts = asdict(identity)
    del facts["audit_margin"], facts["graded_sample"]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    assert identity.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float32", "audit": True}, "models.audit: given with dtype float32"),
        ({"dtype": "bfloat16", "audit": -1.0}, "models.audit: -1.0 given"),
        ({"dtype": "float16", "audit": float("nan")}, "models.audit: nan given"),
    ],
)
def test_audits_that_cannot_be_meant_are_refused(settings, words):
    """An audit of float32, and margins that are no positive number."""
    with pytest.raises(ConfigError, match=words):
        ModelConfig(source="/models/a", **settings)


def test_the_margin_of_an_audit():
    """None without, the format's own with `true`, else the number; near-ties after it are float32's."""
    model = ModelConfig(source="/models/a", dtype="bfloat16")
    margins = [replace(model, audit=audit).audit_margin for audit in (False, True, 0.5)]
    assert margins == [None, 0.25, 0.5]
    assert replace(model, dtype="float16", audit=True).audit_margin == 0.05


def test_no_room_for_the_copy_is_refused_before_anything_is_written(config, place, monkeypatch):
    """Too little memory for the float32 copy: an error that says what to do, and no folder of results."""
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)
    with pytest.raises(ModelError, match=r"no memory for a float32 copy.*run the model in float32 alone"):
        run_study(half(config, audit=True), place / "no-room")
    assert not (place / "no-room").exists()


def test_no_room_for_the_sample_is_told(config, place, monkeypatch, caplog):
    """Too little memory for float32 anywhere: the study is finished without, with a word."""
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000)
    study = run_study(half(config), place / "no-sample")
    assert "half: no flip rate: half: no memory for a float32 copy" in caplog.text
    assert read_flips(study, study.run("half")) is None and read_manifest(study.folder) is not None


def test_the_option_audits_every_half_precision_model(config, monkeypatch):
    """--audit: bfloat16 and float16 audited at their own margins, a margin of the file kept, float32 left alone."""
    model = config.models[0]
    models = (
        model,
        replace(model, name="a", dtype="bfloat16"),
        replace(model, name="b", dtype="float16", audit=0.5),
    )
    run = []
    monkeypatch.setattr(cli, "_run", lambda config, *_: run.append(config))
    monkeypatch.setattr("mnemoscope.study_file.load_study", lambda _file: replace(config, models=models))
    cli.study(Path("study.toml"), audit=True)
    cli.study(Path("study.toml"))
    assert [[model.audit for model in config.models] for config in run] == [[False, True, 0.5], [False, False, 0.5]]
    cli.score(model="org/name", corpus=["rows.npy"], dtype="bfloat16", audit=True)
    assert run[-1].models[0].audit_margin == 0.25
    monkeypatch.setattr("mnemoscope.study_file.load_study", lambda _file: config)
    with pytest.raises(ConfigError, match="--audit: given, and every model has dtype float32"):
        cli.study(Path("study.toml"), audit=True)


def test_a_study_file_says_what_is_audited(config, tmp_path):
    """audit = true and audit = 0.5 are read as they were written; a word is neither."""
    models = tuple(replace(config.models[0], name=f"m{i}", dtype="float16", audit=a) for i, a in enumerate((True, 0.5)))
    text = dump_study(replace(config, models=models))
    assert "audit = true" in text and "audit = 0.5" in text
    assert [model.audit for model in parse_study(text.encode(), "study.toml").models] == [True, 0.5]
    with pytest.raises(ConfigError, match=r"models\[0\]\.audit"):
        parse_study(text.replace("audit = true", 'audit = "yes"').encode(), "study.toml")


def test_float32_goes_to_the_cpu_where_the_device_has_no_place_for_it(config, plain, caplog):
    """A run of a GPU that is not here: float32 is loaded on the CPU, with a word; its weights must be the run's."""
    run = plain.run("half")
    identity = replace(run.identity, model=replace(run.identity.weights, device="cuda"))
    asked = []

    def load(wanted: ModelConfig):
        asked.append((wanted.device, wanted.dtype, wanted.audit))
        return load_model(wanted)

    with caplog.at_level("WARNING"):
        model = _load_reference(replace(run, identity=identity), half(config, audit=True).models[0], load)
    assert asked[-1] == ("cpu", "float32", False) and model.identity.dtype == "float32"
    if not torch.cuda.is_available():
        assert "its flip rate is computed on the CPU: device 'cuda' is not on this machine" in caplog.text
    other = replace(run.identity.weights, weights_sha256="0" * 64)
    with pytest.raises(ModelError, match="its files changed"):
        _load_reference(replace(run, identity=replace(identity, model=other)), half(config).models[0], load)


def test_rows_too_short_are_left_out_of_the_sample(config, place):
    """Rows of a text, all but two of them too short: two are compared; a control of none at all has no counts."""
    lines = [json.dumps({"tokens": list(range(1, 1 + n))}) for n in (16, 3, 4, 16, 5)]
    (place / "member.jsonl").write_text("\n".join(lines))
    (place / "control.jsonl").write_text("\n".join(lines[1:3] + lines[:1]))
    corpus, control = (
        CorpusConfig(path=str(place / f"{group}.jsonl"), short_rows="skip") for group in ("member", "control")
    )
    study = run_study(replace(half(config), corpus=corpus, control=control), place / "short")
    sizes = {(count.group, count.num_sequences) for count in read_flips(study, study.run("half")).counts}
    assert sizes == {("member", 2), ("control", 1)}


def test_empty_tables_have_no_counts(config, plain):
    """No sequence was long enough: no counts, and words that say so."""
    table = pq.read_table(flips_of(plain.folder, "half").path(".parquet")).slice(0, 0)
    assert count_flips(table, plain.run("half").identity.grid, threshold=0.25) == []
    rate = read_flips(plain, plain.run("half"))._replace(counts=())
    assert flip_words(rate) == "half in bfloat16: no member was long enough to be scored in float32"


def test_duplicates_widen_the_interval(plain):
    """Every row twice over, one hash for both: the same share, and the interval of half as many."""
    table = pq.read_table(flips_of(plain.folder, "half").path(".parquet"))
    shifted = table.set_column(
        table.column_names.index("sequence_id"), "sequence_id", pc.add(table.column("sequence_id"), 1000)
    )
    grid = plain.run("half").identity.grid
    once, twice = (
        max(count_flips(each, grid, threshold=0.25), key=lambda count: count.num_changed)
        for each in (table, pa.concat_tables([table, shifted]))
    )
    assert (twice.num_sequences, twice.num_unique) == (2 * once.num_sequences, once.num_unique)
    assert twice.num_changed == 2 * once.num_changed > 0
    assert (twice.share_low, twice.share_high) == pytest.approx((once.share_low, once.share_high), abs=1e-9)


def test_flips_lie_at_an_address_too(config, plain, tmp_path, monkeypatch):
    """The run at an address in memory: the same counts, read through its mirror, and its files stand in the index."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path))
    address = "memory://flips-of-precision/study"
    study = run_study(half(config), address)
    assert read_flips(study, study.run("half")) == read_flips(plain, plain.run("half"))
    index = json.loads(fsspec.filesystem("memory").cat("/flips-of-precision/study/index.json"))["files"]
    names = {name for name in index if name.startswith("flips/")}
    assert names == {f"flips/half/sample{suffix}" for suffix in (".json", ".parquet", ".counts.parquet")}
