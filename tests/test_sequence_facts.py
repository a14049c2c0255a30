"""Many sequences read at once are what is stored of each, and every file is opened once for all of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mnemoscope import sequence_texts, sequences
from mnemoscope.config import ModelConfig, TracesConfig
from mnemoscope.run import run_study
from mnemoscope.sequence_facts import ScoreKey, SequencePick
from mnemoscope.sequences import read_many, read_sequence
from mnemoscope.shards import matched_bits
from mnemoscope.store import open_study, read_scores, shard_path
from mnemoscope.traces import read_traces
from studies import make_study, save_model, save_rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two models, traced at both contexts, over 41 members and 9 of a control; shards of 4."""
    folder = tmp_path_factory.mktemp("facts")
    traces = TracesConfig(per_stratum=3, contexts=(4, 8))
    config = make_study(folder / "in", num_rows=41, num_control=9, traces=traces)
    save_model(folder / "other", seed=3)
    models = (*config.models, ModelConfig(source=str(folder / "other"), device="cpu"))
    return run_study(replace(config, models=models), folder / "study")


def all_picks(study):
    return [SequencePick("member", i) for i in range(41)] + [SequencePick("control", i) for i in range(9)]


def test_facts_are_what_is_stored(study):
    """Every score, trace and token of every sequence is the row that lies in its table, and there is nothing else."""
    facts = {own.pick: own for own in read_many(study, all_picks(study))}
    rows = {"member": np.load(study.config.corpus.path), "control": np.load(study.config.control.path)}
    seen = 0
    for label in study.runs:
        for table in read_scores(study, label):
            bits = matched_bits(table, 5).tolist()
            for row, matched in zip(table.to_pylist(), bits, strict=True):
                own = facts[SequencePick(row["group"], row["sequence_id"])]
                score = own.scores[ScoreKey(label, row["context"])]
                assert score.first_mismatch == row["first_mismatch"]
                assert list(score.matched) == matched
                assert score.num_matched == (sum(matched[:3]), sum(matched))
                assert list(score.log_probability) == row["log_probability"]
                assert (own.offset, own.num_repeats) == (row["offset"], row["num_repeats"])
                seen += 1
    assert seen == sum(len(own.scores) for own in facts.values()) == 50 * 2 * 2
    for pick, own in facts.items():
        assert own.tokens == tuple(rows[pick.group][pick.sequence_id, :13].tolist())
    num_traced = 0
    for label in study.runs:
        for context in (4, 8):
            for row in read_traces(study.folder, label, context).to_pylist():
                trace = facts[SequencePick(row["group"], row["sequence_id"])].traces[ScoreKey(label, context)]
                assert trace.true_tokens_P.tolist() == row["true_token"]
                assert trace.generated_tokens_P.tolist() == row["generated_token"]
                assert np.array_equal(trace.entropy_P, row["entropy"], equal_nan=True)
                num_traced += 1
    assert num_traced == sum(len(own.traces) for own in facts.values()) > 20


def test_order_is_that_of_the_picks(study):
    """Facts come in the order of the picks, one for each, whatever it is, also where one is asked for twice."""
    picks = [SequencePick("control", 3), SequencePick("member", 40), SequencePick("member", 0)] * 2
    assert [own.pick for own in read_many(study, picks)] == picks
    assert read_many(study, []) == []


def test_one_by_one_is_the_same(study):
    """What is read of a sequence alone is what is read of it among others."""
    for own in read_many(study, all_picks(study)[::7]):
        alone = read_many(study, [own.pick])[0]
        assert alone.tokens == own.tokens
        assert alone.scores == own.scores
        assert alone.notes == own.notes
        assert list(alone.traces) == list(own.traces)
        view = read_sequence(study, own.sequence_id, group=own.group, label="other", context=4)
        assert view.scores == tuple(own.scores.values())


def test_each_file_is_opened_once(study, monkeypatch):
    """Only shards that hold a wanted sequence are read, each once a model; traces once a table; a corpus once."""
    opened = Counter()

    def counting(module, name, key):
        original = getattr(module, name)

        def wrapped(*arguments, **options):
            opened[(name, *key(arguments), tuple(options.get("columns", ())))] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, wrapped)

    counting(sequences, "read_shard", lambda given: (given[1].label, given[2]))
    counting(sequences, "read_traces", lambda given: given)
    counting(sequence_texts, "open_text", lambda given: (given[0].path,))
    ids = (1, 2, 3, 17, 18, 33)
    read_many(study, [SequencePick("member", i) for i in reversed(ids)])
    shards = {key[2] for key in opened if key[0] == "read_shard"}
    assert {(shard.group, shard.start) for shard in shards} == {("member", 0), ("member", 16), ("member", 32)}
    tables = [key[2:4] for key in opened if key[0] == "read_traces" and "entropy" in key[4]]
    assert sorted(tables) == [(label, context) for label in ("other", "tiny") for context in (4, 8)]
    assert sum(key[0] == "open_text" for key in opened) == 1
    assert set(opened.values()) == {1}
    rows = read_traces(study.folder, "tiny", 8).to_pylist()
    untraced = set(range(41)) - {row["sequence_id"] for row in rows if row["group"] == "member"}
    opened.clear()
    read_many(study, [SequencePick("member", min(untraced))])
    assert ("read_traces", study.folder, "tiny", 8, ("true_token", "generated_token", "entropy")) not in opened


def test_corpora_that_are_open_stay_open(study, monkeypatch):
    """With corpora brought along none is opened, and the texts are the same."""
    picks = all_picks(study)[::5]
    expected = [own.tokens for own in read_many(study, picks)]
    corpora = sequence_texts.open_corpora(study)
    assert set(corpora.texts) == {"member", "control"}
    monkeypatch.delattr(sequence_texts, "open_text")
    assert [own.tokens for own in read_many(study, picks, corpora=corpora)] == expected


def test_what_nobody_scored_has_no_facts(study):
    """A sequence without scores is given back empty, beside others that have theirs."""
    lost, found = read_many(study, [SequencePick("member", 99), SequencePick("member", 5)])
    assert (lost.tokens, lost.offset, dict(lost.scores), dict(lost.traces)) == (None, None, {}, {})
    assert len(found.scores) == 4


def test_a_lost_shard_costs_its_model_only(tmp_path):
    """Where a model lacks a shard the other's scores are there, and a note says who has not scored the sequence."""
    config = make_study(tmp_path / "in", num_rows=9)
    save_model(tmp_path / "other", seed=3)
    models = (*config.models, ModelConfig(source=str(tmp_path / "other"), device="cpu"))
    study = run_study(replace(config, models=models), tmp_path / "study")
    run = study.run("tiny")
    shard_path(study.folder, run, run.shards[1]).unlink()
    early, late = read_many(open_study(study.folder), [SequencePick("member", 3), SequencePick("member", 4)])
    assert {key.model for key in early.scores} == {"tiny", "other"}
    assert {key.model for key in late.scores} == {"other"}
    assert late.notes == ("tiny has not scored it yet",)
    assert late.tokens == tuple(np.load(study.config.corpus.path)[4, :13].tolist())


def test_one_changed_row_costs_its_own_text_only(tmp_path):
    """A row that holds other tokens now, or is gone, says so; the others keep their text, and traces stand in."""
    config = make_study(tmp_path / "in", num_rows=9, traces=TracesConfig(per_stratum=9, contexts=(8,), path_tokens=5))
    study = run_study(config, tmp_path / "study")
    path = study.config.corpus.path
    before = np.load(path)
    after = before[:8].copy()
    after[3, 2] += 1
    np.save(path, after)
    facts = read_many(study, [SequencePick("member", i) for i in (2, 3, 8)])
    assert [own.tokens for own in facts] == [tuple(before[i, :13].tolist()) for i in (2, 3, 8)]
    assert facts[0].notes == ()
    assert "holds other tokens than those that were scored" in facts[1].notes[0]
    assert "row 8 was scored; it holds rows 0 to 7" in facts[2].notes[0]
    save_rows(tmp_path / "in" / "member.npy", num_rows=9, row_tokens=5)  # all are too short now
    assert all("holds other tokens" in own.notes[0] for own in read_many(study, [own.pick for own in facts]))


def test_exact_scores_are_read_as_far_as_they_are_known(tmp_path):
    """In mode `exact` matches are known up to the first mismatch, and probabilities are those that are stored."""
    study = run_study(make_study(tmp_path / "in", mode="exact"), tmp_path / "study")
    for own in read_many(study, [SequencePick("member", i) for i in range(10)]):
        for score in own.scores.values():
            first = score.first_mismatch
            assert score.matched == (*[True] * first, *([False] if first < 5 else []), *[None] * (4 - first))
            assert all(math.isfinite(value) for value in score.log_probability)
