"""The kernel against plain greedy decoding, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.config import Grid
from mnemoscope.errors import ScoringError
from mnemoscope.model import CausalLM, wrap_network
from mnemoscope.scoring import first_miss, first_misses, score_sequences
from networks import ARCHITECTURES, build, generate, plant_sequences

NEAR_TIE = 1e-3
"""Logits; float32 noise in these networks stays below 1e-4."""
GRID = Grid(contexts=(4, 9, 16), continuations=(1, 5, 12))


def slow_facts(network, tokens_RW, grid):
    """One generate() per context, and one plain pass for the probabilities: the reference."""
    n_max = grid.max_continuation
    matched = np.stack(
        [generate(network, tokens_RW[:, :k], n_max) == tokens_RW[:, k : k + n_max] for k in grid.contexts],
        axis=1,
    )
    first = np.array([[next((i for i in range(n_max) if not bits[i]), n_max) for bits in row] for row in matched])
    with torch.inference_mode():
        log_p = network(torch.from_numpy(tokens_RW)).logits.double().log_softmax(-1)
    truth = log_p[:, :-1].gather(-1, torch.from_numpy(tokens_RW)[:, 1:, None])[..., 0].numpy()
    sums = [[truth[:, k - 1 : k - 1 + n].sum(1) for n in grid.continuations] for k in grid.contexts]
    return matched, first, np.array(sums).transpose(2, 0, 1)


def disagreeing(facts, matched, grid):
    """Rows and contexts whose matches differ from the reference, split into near-ties and others."""
    differs = (facts.matched_RCn != matched).any(axis=2)
    near_tie = facts.smallest_margin_RCN[:, :, -1] < NEAR_TIE
    return int((differs & near_tie).sum()), int((differs & ~near_tie).sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graded_facts_equal_plain_greedy_decoding(architecture):
    """Every match bit, first mismatch and log-probability is that of generate(), on every architecture."""
    network = build(architecture)
    tokens_RW = plant_sequences(network, num_sequences=36, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    matched, first, log_probability = slow_facts(network, tokens_RW, GRID)
    facts = score_sequences(wrap_network(network), tokens_RW, GRID, mode="graded", batch_size=7)
    near_ties, errors = disagreeing(facts, matched, GRID)
    assert errors == 0
    assert near_ties <= 1
    if near_ties == 0:
        np.testing.assert_array_equal(facts.first_mismatch_RC, first)
    np.testing.assert_allclose(facts.log_probability_RCN, log_probability, rtol=1e-4, atol=1e-3)
    scores = matched.mean(axis=2)
    assert (scores == 0).any() and (scores == 1).any() and ((scores > 0) & (scores < 1)).any()  # the plants took


@pytest.mark.parametrize(
    ("architecture", "shares"),
    [
        ("gpt_neox", True),
        ("llama", True),
        ("gpt2", True),
        ("olmo", True),
        ("qwen2", True),
        ("bloom", False),
        ("mamba", False),
    ],
)
def test_probe_tells_which_architectures_can_share_keys(architecture, shares):
    """Position biases by slot and recurrent states are noticed; rotary and learned positions share keys."""
    assert wrap_network(build(architecture)).shares_keys is shares


def test_sliding_window_shorter_than_the_sequence_decodes_by_whole_passes():
    """A window of 16 over 28 tokens: the shared-keys mask would see too much, so it is not used."""
    model = wrap_network(build("gemma2"))
    assert model.sliding_window == 16
    assert not model.may_share_keys(GRID)
    assert model.may_share_keys(Grid(contexts=(2,), continuations=(4,))) == model.shares_keys


@settings(max_examples=25, deadline=None)
@given(
    contexts=st.sets(st.integers(1, 20), min_size=1, max_size=5),
    continuations=st.sets(st.integers(1, 20), min_size=1, max_size=4),
    num_sequences=st.integers(1, 23),
    batch_size=st.integers(1, 24),
    seed=st.integers(0, 3),
)
def test_any_grid_and_batch_equals_plain_greedy_decoding(contexts, continuations, num_sequences, batch_size, seed):
    """Grids of one cell, one-token continuations, partial last batches and batches of one are no special cases."""
    grid = Grid(contexts=tuple(sorted(contexts)), continuations=tuple(sorted(continuations)))
    network = NETWORK
    tokens_RW = plant_sequences(
        network,
        num_sequences=num_sequences,
        window_tokens=grid.window_tokens,
        contexts=grid.contexts,
        seed=seed,
    )
    matched, _, log_probability = slow_facts(network, tokens_RW, grid)
    facts = score_sequences(MODEL, tokens_RW, grid, mode="graded", batch_size=batch_size)
    assert disagreeing(facts, matched, grid)[1] == 0
    np.testing.assert_allclose(facts.log_probability_RCN, log_probability, rtol=1e-4, atol=1e-3)


NETWORK = build("gpt_neox", seed=5)
MODEL = wrap_network(NETWORK)
TOKENS = plant_sequences(NETWORK, num_sequences=30, window_tokens=GRID.window_tokens, contexts=GRID.contexts)


def test_exact_mode_agrees_with_graded_mode():
    """One pass alone gives the first mismatches and probabilities that the graded mode gives."""
    exact = score_sequences(MODEL, TOKENS, GRID, mode="exact", batch_size=8)
    graded = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    assert exact.matched_RCn is None
    np.testing.assert_array_equal(exact.first_mismatch_RC, graded.first_mismatch_RC)
    np.testing.assert_array_equal(exact.log_probability_RCN, graded.log_probability_RCN)
    assert (exact.smallest_margin_RCN >= graded.smallest_margin_RCN).all()


@pytest.mark.parametrize("batch_size", [1, 4, 29, 30, 1000])
def test_batch_size_changes_no_fact(batch_size):
    """How sequences are batched changes no bit and no float beyond rounding."""
    one = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    other = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=batch_size)
    np.testing.assert_array_equal(one.matched_RCn, other.matched_RCn)
    np.testing.assert_array_equal(one.first_mismatch_RC, other.first_mismatch_RC)
    np.testing.assert_allclose(one.log_probability_RCN, other.log_probability_RCN, atol=1e-4)
    np.testing.assert_allclose(one.smallest_margin_RCN, other.smallest_margin_RCN, atol=1e-3)


def test_order_of_sequences_changes_no_fact():
    """A permutation of the sequences permutes the facts."""
    order = np.random.default_rng(1).permutation(len(TOKENS))
    one = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    other = score_sequences(MODEL, TOKENS[order], GRID, mode="graded", batch_size=8)
    np.testing.assert_array_equal(one.matched_RCn[order], other.matched_RCn)
    np.testing.assert_array_equal(one.first_mismatch_RC[order], other.first_mismatch_RC)


def test_longer_grid_contains_the_shorter():
    """Scores of a smaller grid are a part of those of a larger one."""
    small = score_sequences(MODEL, TOKENS, Grid(contexts=(9,), continuations=(5,)), mode="graded", batch_size=8)
    large = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    np.testing.assert_array_equal(small.matched_RCn[:, 0], large.matched_RCn[:, 1, :5])
    np.testing.assert_array_equal(small.first_mismatch_RC[:, 0], np.minimum(large.first_mismatch_RC[:, 1], 5))


def test_whole_passes_say_what_shared_keys_say():
    """The two ways to decode give the same matches and margins."""
    shared = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    plain = wrap_network(NETWORK)
    plain.shares_keys = False
    whole = score_sequences(plain, TOKENS, GRID, mode="graded", batch_size=8)
    np.testing.assert_array_equal(shared.matched_RCn, whole.matched_RCn)
    np.testing.assert_allclose(shared.smallest_margin_RCN, whole.smallest_margin_RCN, atol=1e-3)


def test_smallest_margin_is_that_of_the_greedy_path():
    """The margin is the smallest top-1 to top-2 gap over the steps of generate(), for every length."""
    context, length = 9, 12
    prompt = torch.from_numpy(TOKENS[:, :context])
    with torch.inference_mode():
        scores = NETWORK.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=length, do_sample=False,
            eos_token_id=None, pad_token_id=0, output_scores=True, return_dict_in_generate=True,
        ).scores  # fmt: skip
    top = torch.stack(scores, dim=1).topk(2).values
    gaps = (top[..., 0] - top[..., 1]).numpy()
    facts = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=8)
    expected = np.stack([gaps[:, :n].min(axis=1) for n in GRID.continuations], axis=1)
    np.testing.assert_allclose(facts.smallest_margin_RCN[:, 1], expected, atol=1e-3)


def test_end_of_text_neither_stops_nor_is_banned():
    """A network that says end-of-text after everything recites a continuation of nothing else."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.gpt_neox.final_layer_norm.weight.zero_()
        network.gpt_neox.final_layer_norm.bias.fill_(1.0)
        network.lm_head.weight.zero_()
        network.lm_head.weight[0] = 1.0  # token 0 is the end of text
    tokens_RW = np.zeros((3, GRID.window_tokens), np.int64)
    tokens_RW[:, :4] = 7
    facts = score_sequences(wrap_network(network), tokens_RW, GRID, mode="graded", batch_size=3)
    assert facts.matched_RCn.all()
    assert (facts.first_mismatch_RC == GRID.max_continuation).all()


def test_nan_logits_are_refused_with_their_place():
    """A weight that is not a number is an error that names the sequence that met it, not a score of 0."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.gpt_neox.embed_in.weight[5] = torch.nan
    tokens_RW = np.full((4, GRID.window_tokens), 3)
    tokens_RW[2, 10] = 5
    model = CausalLM(network, MODEL.identity)
    with pytest.raises(ScoringError, match="not finite in row 2") as caught:
        score_sequences(model, tokens_RW, GRID, mode="graded", batch_size=2)
    assert caught.value.row == 2


def test_running_out_of_memory_halves_the_batch_and_changes_no_fact(monkeypatch):
    """Passes of more than 3 sequences fail; the facts are those of a run that never failed."""
    model, seen = wrap_network(NETWORK), []
    whole = CausalLM.hidden_states

    def scarce(self, tokens_BT, *, cache=None):
        if tokens_BT.shape[0] > 3:
            raise torch.OutOfMemoryError("planted")
        return whole(self, tokens_BT, cache=cache)

    monkeypatch.setattr(CausalLM, "hidden_states", scarce)
    facts = score_sequences(model, TOKENS, GRID, mode="graded", batch_size=16, progress=seen.append)
    monkeypatch.undo()
    assert model.batch_limit == 2
    assert sum(seen) == len(TOKENS)
    expected = score_sequences(MODEL, TOKENS, GRID, mode="graded", batch_size=16)
    np.testing.assert_array_equal(facts.matched_RCn, expected.matched_RCn)


def test_no_memory_for_one_sequence_is_an_error(monkeypatch):
    """When even one sequence does not fit, the run ends with a line that says so."""

    def scarce(*_args, **_kwargs):
        raise torch.OutOfMemoryError("planted")

    model = wrap_network(NETWORK)
    monkeypatch.setattr(CausalLM, "hidden_states", scarce)
    with pytest.raises(ScoringError, match="no memory for one sequence of 28 tokens"):
        score_sequences(model, TOKENS, GRID, mode="exact", batch_size=4)


def test_first_miss_counts_leading_hits():
    """First mismatch by hand: none, at once, in the middle."""
    hits = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1]], bool)
    assert first_miss(hits).tolist() == [3, 0, 1]


def test_contexts_share_a_first_mismatch():
    """Contexts 2 and 4 leave the truth at position 5, context 6 at 7: two misses, not three."""
    grid = Grid(contexts=(2, 4, 6), continuations=(4,))
    hits = np.array([[1, 1, 1, 0, 1, 0, 1, 1]], bool)  # positions 2 .. 9
    rows, places = first_misses(hits, grid)
    assert rows.tolist() == [0, 0]
    assert (places + 2).tolist() == [5, 7]


def test_equal_logits_go_to_the_lowest_id_as_in_generate():
    """With every logit equal the greedy token is id 0: a truth of 0 matches, any other does not."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.lm_head.weight.zero_()
    tokens_RW = np.zeros((2, GRID.window_tokens), np.int64)
    tokens_RW[1] = 3
    expected = generate(network, tokens_RW[:, :4], 12)
    facts = score_sequences(wrap_network(network), tokens_RW, GRID, mode="graded", batch_size=2)
    assert (expected == 0).all()
    assert facts.matched_RCn[0].all()
    assert not facts.matched_RCn[1].any()
    assert (facts.smallest_margin_RCN == 0).all()


def test_tokens_that_cannot_be_scored_are_refused():
    """Too short windows and ids beyond the vocabulary are named, not indexed with."""
    with pytest.raises(ScoringError, match=r"shape \[2, 9\] given; expected \[sequences, 28 or more tokens\]"):
        score_sequences(MODEL, np.zeros((2, 9), np.int64), GRID, mode="exact", batch_size=2)
    tokens_RW = np.zeros((3, GRID.window_tokens), np.int64)
    tokens_RW[1, 5] = 97
    with pytest.raises(ScoringError, match="row 1 has token ids outside the vocabulary"):
        score_sequences(MODEL, tokens_RW, GRID, mode="exact", batch_size=2)
