"""Numbers of half precision are held against float32's: fragile sequences scored again, flips counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import GPTNeoXForCausalLM

from mnemoscope.config import StudyConfig
from mnemoscope.flips import read_flips
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.store import Study, read_records, read_scores
from networks import generate
from studies import make_study

WIDE = 100.0
"""Logits: every margin of the tiny models is below it."""


def read_all(study: Study, label: str) -> pa.Table:
    return pa.concat_tables(read_scores(study, label)).replace_schema_metadata()


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
