"""The kernel on a real pretrained model and its own training text, against published figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mnemoscope.config import CorpusConfig, Grid, ModelConfig
from mnemoscope.corpus import open_corpus, read_windows, select_sequences
from mnemoscope.model import load_model
from mnemoscope.scoring import score_sequences

DATA = Path(os.environ.get("MNEMOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODEL = DATA / "models" / "stories260K"

pytestmark = pytest.mark.skipif(
    not MODEL.is_dir(), reason="the real model's folder is absent (set MNEMOSCOPE_TEST_DATA)"
)

MATCHED_HISTOGRAM = [734, 528, 364, 240, 146, 101, 80, 38, 27, 19, 17, 2, 7, 2, 6, 2, 3]
"""Stories by number of matched tokens 0 .. 16, context BOS + 32 tokens, float32 on a CPU (the data's README)."""


@pytest.fixture(scope="module")
def model():
    return load_model(ModelConfig(source=str(MODEL), device="cpu"))


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    os.environ.setdefault("MNEMOSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
    config = CorpusConfig(path=str(DATA / "corpora" / "tinystories_train_head.jsonl"), tokenizer=str(MODEL), bos=True)
    corpus = open_corpus(config)
    ids = select_sequences(config, corpus).sequence_ids[:]
    return read_windows(corpus, ids, window_tokens=49, offset=0, seed=0, short_rows="skip").tokens


def test_published_greedy_tokens_are_recited(model):
    """After BOS alone, every one of the 256 tokens that the model's author published is the model's greedy choice."""
    golden = json.loads((MODEL / "golden_greedy.json").read_text())
    tokens_RW = np.array([golden["prompt_ids"] + golden["greedy_ids"]])
    grid = Grid(contexts=(1,), continuations=(256,))
    facts = score_sequences(model, tokens_RW, grid, mode="graded", batch_size=1)
    assert facts.first_mismatch_RC.tolist() == [[256]]
    assert facts.matched_RCn.all()
    assert facts.smallest_margin_RCN[0, 0, 0] == pytest.approx(golden["min_top2_logit_margin"], abs=1e-3)


def test_published_greedy_tokens_are_decoded(model):
    """The rollout says them too: with the truth's second token changed, decoding still yields all others."""
    golden = json.loads((MODEL / "golden_greedy.json").read_text())
    tokens_RW = np.array([golden["prompt_ids"] + golden["greedy_ids"]])
    tokens_RW[0, 1] = 5
    facts = score_sequences(model, tokens_RW, Grid(contexts=(1,), continuations=(256,)), mode="graded", batch_size=1)
    assert not facts.matched_RCn[0, 0, 0]
    assert facts.matched_RCn[0, 0, 1:].all()


@pytest.mark.parametrize("batch_size", [1, 32, 500])
def test_scores_on_the_training_text_have_the_reference_histogram(model, stories, batch_size):
    """The number of stories for each number of matched tokens is exactly the reference's."""
    stories = stories if batch_size > 1 else stories[:200]
    facts = score_sequences(
        model, stories, Grid(contexts=(33,), continuations=(16,)), mode="graded", batch_size=batch_size
    )
    histogram = np.bincount(facts.matched_RCn[:, 0].sum(axis=1), minlength=17)
    if batch_size > 1:
        assert histogram.tolist() == MATCHED_HISTOGRAM
    else:
        large = score_sequences(model, stories, Grid(contexts=(33,), continuations=(16,)), mode="graded", batch_size=64)
        np.testing.assert_array_equal(facts.matched_RCn, large.matched_RCn)
