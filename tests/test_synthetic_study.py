"""Synthetic studies: whole for every audit, and what they claim of a sequence does not contradict itself."""

from __future__ import annotations

import numpy as np
import pytest

from byte_tokens import HOSTILE
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.manifest import read_manifest
from mnemoscope.shards import matched_bits, num_matched, per_continuation
from mnemoscope.store import Study, find_damage, read_scores
from mnemoscope.texts import open_texts
from mnemoscope.traces import read_traces
from synthetic_study import write_study

CONTEXTS, CONTINUATIONS = (8, 12), (4, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Study:
    """1,500 members and 300 of a control under three models, traced."""
    return write_study(
        tmp_path_factory.mktemp("made") / "study",
        num_sequences=1500,
        num_models=3,
        contexts=CONTEXTS,
        continuations=CONTINUATIONS,
        shard_rows=400,
        hostile=HOSTILE,
        traced_per_stratum=10,
    )


def rows_of(study: Study, label: str, context: int, group: str = "member"):
    """The rows of one run at one context, by sequence."""
    return [table.filter(table["context"].to_numpy() == context) for table in read_scores(study, label, group=group)]


def counts_of(study: Study, label: str, context: int, group: str = "member") -> np.ndarray:
    """num_matched, int64 [R, N]."""
    tables = rows_of(study, label, context, group)
    return np.concatenate([num_matched(table, study.config.grid) for table in tables])


def test_a_synthetic_study_is_whole(made):
    """The audit finds each sequence once per context under each model, no damage, and a manifest of three runs."""
    for label, run in made.runs.items():
        coverage = audit_coverage(made, label)
        assert coverage.is_complete
        assert (coverage.num_sequences, coverage.num_expected) == (1800, 3600)
        assert find_damage(made.folder, run) == []
    assert set(find_derived_faults(made).values()) == {None}
    manifest = read_manifest(made.folder)
    assert manifest is not None
    assert list(manifest["models"]) == ["made-1m", "made-8m", "made-64m"]


def test_facts_of_a_sequence_agree(made):
    """The first mismatch is the first zero among the bits, and contexts that share it meet it at the same token."""
    for label in made.runs:
        ends = {}
        for context in CONTEXTS:
            for table in rows_of(made, label, context):
                bits = matched_bits(table, CONTINUATIONS[-1])
                firsts = table["first_mismatch"].to_numpy()
                assert firsts.tolist() == [row.index(False) if False in row else 8 for row in bits.tolist()]
                logs = per_continuation(table, "log_probability")
                assert ((logs[:, 1] <= logs[:, 0]) & (logs[:, 0] <= 0)).all()
                ids = table["sequence_id"].to_pylist()
                ends |= {(context, i): context + first for i, first in zip(ids, firsts.tolist(), strict=True)}
        later = [(ends[8, i], ends[12, i]) for i in range(1500) if 12 <= ends[8, i] < 16]
        assert len(later) >= 5
        assert all(short == long for short, long in later)


def test_scores_look_like_scores(made):
    """Both ends of num_matched are commoner than its middle; size and copies raise it; a control has little."""
    counts = counts_of(made, "made-64m", 8)[:, 1]
    sizes = np.bincount(counts, minlength=9)
    assert min(sizes[:2].sum(), sizes[8]) > 2 * sizes[5]
    shares = [(counts_of(made, label, 8)[:, 1] == 8).mean() for label in made.runs]
    assert shares == sorted(shares)
    assert shares[-1] > 3 * (counts_of(made, "made-64m", 8, "control")[:, 1] == 8).mean()
    repeats = np.concatenate([table["num_repeats"].to_numpy() for table in rows_of(made, "made-64m", 8)])
    assert (counts[repeats >= 16] == 8).mean() > 1.5 * (counts[repeats == 1] == 8).mean()


def test_copies_have_their_originals_scores(made):
    """Rows with equal windows have equal hashes and equal bits, as one model over the same tokens must give."""
    windows = open_texts(made.config)["member"].read(np.arange(1500)).tokens
    same = [i for i in range(1, 1500) if (windows[i] == windows[i - 1]).all()]
    assert len(same) > 3
    bits = [row for table in rows_of(made, "made-8m", 12) for row in table["matched"].to_pylist()]
    assert [bits[i] for i in same] == [bits[i - 1] for i in same]


def test_traces_tell_what_the_scores_tell(made):
    """A traced sequence's true tokens are the corpus's, and generated ones equal them exactly where its bits say so."""
    texts = open_texts(made.config)
    stored = {row["sequence_id"]: row["matched"] for table in rows_of(made, "made-64m", 8) for row in table.to_pylist()}
    traces = [row for row in read_traces(made.folder, "made-64m", 8).to_pylist() if row["group"] == "member"]
    assert len(traces) > 40
    for row in traces:
        window = texts["member"].read(np.array([row["sequence_id"]])).tokens[0]
        assert row["true_token"] == window[:12].tolist()
        hits = [one == other for one, other in zip(row["true_token"][8:], row["generated_token"][8:], strict=True)]
        bits = np.unpackbits(np.frombuffer(stored[row["sequence_id"]], np.uint8))[:4]
        assert hits == bits.astype(bool).tolist()
        assert row["num_matched"] == sum(hits)


def test_hostile_tokens_are_in_the_text(made):
    """Each hostile token stands in some row, and the tokenizer gives it back as it is."""
    text = open_texts(made.config)["member"]
    tokens = np.unique(text.read(np.arange(1500)).tokens)
    for place, content in enumerate(HOSTILE):
        token = 1024 - len(HOSTILE) + place
        assert token in tokens
        shown = text.corpus.tokenizer.decode([token], skip_special_tokens=False)
        assert shown == content.decode(errors="replace")


def test_more_models_only_add_runs(tmp_path):
    """The same seed gives the same tokens whatever the number of models; more models only add runs."""
    one = write_study(tmp_path / "one", num_sequences=50, num_models=1)
    two = write_study(tmp_path / "two", num_sequences=50, num_models=2)
    assert list(one.runs) == ["made-1m"]
    assert list(two.runs) == ["made-1m", "made-8m"]
    assert counts_of(one, "made-1m", 16).tolist() == counts_of(two, "made-1m", 16).tolist()
