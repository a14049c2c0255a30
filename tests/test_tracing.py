"""Traces against the slow obvious way: generate() with its scores and hidden states, and one plain pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mnemoscope.config import Grid
from mnemoscope.errors import ModelError
from mnemoscope.model import wrap_network
from mnemoscope.scoring import score_sequences
from mnemoscope.tracing import trace_contexts, trace_sequences
from networks import build, plant_sequences

GRID = Grid(contexts=(4, 9), continuations=(5, 12))
N_MAX = 12


def slow_path(network, tokens_RW, context):
    """Tokens, log-probabilities [R, n, V] and last-layer states [R, n, D] of generate() from a context."""
    prompt = torch.from_numpy(tokens_RW[:, :context])
    with torch.inference_mode():
        out = network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=N_MAX,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_scores=True,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    log_p = torch.stack(out.scores, dim=1).double().log_softmax(-1)
    states = torch.stack([step[-1][:, -1] for step in out.hidden_states], dim=1)
    return out.sequences[:, context:].numpy(), log_p, states.numpy()


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "bloom"])
@pytest.mark.parametrize("batch_size", [5, 40])
def test_path_facts_equal_those_of_generate(architecture, batch_size):
    """Token, entropy, log-probability, rank, margin and state of every step are those of plain greedy decoding."""
    network = build(architecture)
    tokens_RW = plant_sequences(network, num_sequences=18, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    traces = trace_sequences(wrap_network(network), tokens_RW, GRID, batch_size=batch_size)
    for c, context in enumerate(GRID.contexts):
        generated, log_p, states = slow_path(network, tokens_RW, context)
        truth = torch.from_numpy(tokens_RW[:, context : context + N_MAX, None])
        truth_log_p = log_p.gather(-1, truth)
        top = log_p.topk(2).values
        np.testing.assert_array_equal(traces.path.generated_token[:, c], generated)
        entropy = -(log_p.exp() * log_p).sum(-1).numpy()
        np.testing.assert_allclose(traces.path.entropy[:, c], entropy, atol=1e-3)
        np.testing.assert_allclose(traces.path.log_probability[:, c], truth_log_p[..., 0].numpy(), atol=2e-3)
        np.testing.assert_allclose(traces.path.margin[:, c], (top[..., 0] - top[..., 1]).numpy(), atol=2e-3)
        np.testing.assert_array_equal(traces.path.rank[:, c], (log_p > truth_log_p + 1e-9).sum(-1).numpy())
        np.testing.assert_allclose(traces.path_states_RCnD[:, c], states, atol=0.02, rtol=2e-3)


def test_context_facts_equal_those_of_one_plain_pass():
    """Inside the context index i holds what the model says of token i after the true tokens before it."""
    network = build("gpt_neox")
    tokens_RW = plant_sequences(network, num_sequences=9, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    traces = trace_sequences(wrap_network(network), tokens_RW, GRID, batch_size=4)
    with torch.inference_mode():
        out = network(torch.from_numpy(tokens_RW), output_hidden_states=True)
    log_p = out.logits.double().log_softmax(-1)[:, :-1]
    np.testing.assert_array_equal(traces.truth.generated_token[:, 1:], log_p.argmax(-1).numpy())
    entropy = -(log_p.exp() * log_p).sum(-1).numpy()
    np.testing.assert_allclose(traces.truth.entropy[:, 1:], entropy, atol=1e-3)
    assert np.isnan(traces.truth.entropy[:, 0]).all()
    assert (traces.truth.generated_token[:, 0] == -1).all()
    np.testing.assert_allclose(traces.truth_states_RWD, out.hidden_states[-1][:, :-1].numpy(), atol=0.02, rtol=2e-3)


def test_traces_agree_with_scores():
    """The matches, first mismatches and sums of log-probabilities of a trace are those that scoring stores."""
    network = build("llama")
    model = wrap_network(network)
    tokens_RW = plant_sequences(network, num_sequences=24, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    facts = score_sequences(model, tokens_RW, GRID, mode="graded", batch_size=7)
    traces = trace_sequences(model, tokens_RW, GRID, batch_size=7)
    for c, context in enumerate(GRID.contexts):
        truth = tokens_RW[:, context : context + N_MAX]
        np.testing.assert_array_equal(traces.path.generated_token[:, c] == truth, facts.matched_RCn[:, c])
        sums = traces.truth.log_probability[:, context : context + N_MAX].sum(axis=1)
        np.testing.assert_allclose(sums, facts.log_probability_RCN[:, c, -1], rtol=1e-4, atol=1e-3)
        margins = np.minimum.accumulate(traces.path.margin[:, c], axis=1)[:, [4, 11]]
        np.testing.assert_allclose(margins, facts.smallest_margin_RCN[:, c], atol=1e-3)


def test_logits_of_minus_infinity_add_nothing_to_the_entropy():
    """A banned token (logit -inf) leaves the entropy of the others: here of two equal ones, log 2."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.lm_head.weight.zero_()
        network.lm_head.bias = torch.nn.Parameter(torch.full((97,), -torch.inf))
        network.lm_head.bias[:2] = 1.0
    tokens_RW = np.zeros((2, GRID.window_tokens), np.int64)
    traces = trace_sequences(wrap_network(network), tokens_RW, GRID, batch_size=2)
    np.testing.assert_allclose(traces.path.entropy, np.log(2), rtol=1e-5)


def test_model_without_plain_head_is_refused():
    """States that cannot be told from logits are an error with advice, not an array of logits."""
    network = build("gpt_neox")
    plain = network.forward
    network.forward = lambda *args, **kwargs: _negated(plain(*args, **kwargs))
    with pytest.raises(ModelError, match="no plain function of its last-layer states"):
        trace_sequences(wrap_network(network), np.zeros((1, 21), np.int64), GRID, batch_size=1)


def _negated(output):
    output.logits = -output.logits
    return output


@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_contexts_alone_tell_what_the_whole_sequence_told_of_them(layers):
    """One pass over the context gives its states and facts; of the first generated token's truth it knows nothing."""
    network = build("gpt_neox")
    grid = Grid(contexts=(9,), continuations=(5,))
    tokens_RW = plant_sequences(network, num_sequences=10, window_tokens=14, contexts=(9,))
    model = wrap_network(network)
    whole = trace_sequences(model, tokens_RW, grid, batch_size=4, layers=layers)
    alone = trace_contexts(model, tokens_RW[:, :9], batch_size=3, layers=layers)
    states = whole.layer_states_RYKD if layers else whole.truth_states_RWD[:, None, :9]
    np.testing.assert_allclose(alone.states_RYKD, states, atol=4e-3)
    np.testing.assert_array_equal(alone.facts.generated_token, whole.truth.generated_token[:, :10])
    np.testing.assert_array_equal(alone.facts.rank[:, :9], whole.truth.rank[:, :9])
    np.testing.assert_allclose(alone.facts.log_probability[:, 1:9], whole.truth.log_probability[:, 1:9], atol=1e-4)
    for name in ("entropy", "margin"):
        np.testing.assert_allclose(getattr(alone.facts, name)[:, 1:], getattr(whole.truth, name)[:, 1:10], atol=1e-4)
    assert np.isnan(alone.facts.log_probability[:, 9]).all()
    assert (alone.facts.rank[:, 9] == -1).all()
