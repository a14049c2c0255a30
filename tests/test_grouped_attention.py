"""Grouped attention of a masked step: transformers' own results, without its copies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers.integrations.sdpa_attention as usual

from mnemoscope import grouped_attention
from mnemoscope.config import Grid
from mnemoscope.model import wrap_network
from mnemoscope.scoring import score_sequences
from networks import build

GRID = Grid(contexts=(4, 8, 12), continuations=(4, 8))


@pytest.mark.parametrize(("heads", "key_heads"), [(8, 2), (6, 3), (4, 1), (4, 4)])
def test_equals_attention_over_repeated_keys(heads, key_heads):
    """Any grouping of heads: the same numbers as with every key repeated, up to the order of sums."""
    generator = torch.Generator().manual_seed(heads)
    query = torch.randn(3, heads, 5, 8, generator=generator)
    key, value = torch.randn(2, 3, key_heads, 11, 8, generator=generator).unbind()
    mask = torch.where(torch.rand(3, 1, 5, 11, generator=generator) < 0.4, torch.finfo(torch.float32).min, 0.0)
    module = SimpleNamespace(num_key_value_groups=heads // key_heads, training=False, is_causal=True)
    found, weights = grouped_attention._attend(module, query, key, value, mask, scaling=0.3, dropout=0.0)
    expected, _ = usual.sdpa_attention_forward(module, query, key, value, mask, scaling=0.3, dropout=0.0)
    assert weights is None
    assert found.shape == expected.shape == (3, 5, heads, 8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_decoding_repeats_no_keys(architecture, monkeypatch):
    """A grid is decoded with no call of the function that repeats keys, but in the pass without a mask."""
    model = wrap_network(build(architecture))
    tokens = np.random.default_rng(0).integers(0, 64, (6, GRID.window_tokens))
    expected = score_sequences(model, tokens, GRID, mode="graded", batch_size=4)
    repeated: list[int] = []

    def watch(states: torch.Tensor, num_groups: int) -> torch.Tensor:
        repeated.append(states.shape[2])
        return states.repeat_interleave(num_groups, dim=1)

    monkeypatch.setattr(usual, "repeat_kv", watch)
    found = score_sequences(model, tokens, GRID, mode="graded", batch_size=4)
    assert set(repeated) <= {GRID.window_tokens - 1}  # the teacher-forced pass
    np.testing.assert_array_equal(found.matched_RCn, expected.matched_RCn)
    monkeypatch.setattr(grouped_attention, "_has_groups", lambda config: False)
    usually = score_sequences(model, tokens, GRID, mode="graded", batch_size=4)
    assert max(repeated) > GRID.window_tokens - 1  # it is watched at the right place
    np.testing.assert_array_equal(usually.matched_RCn, expected.matched_RCn)


def test_the_network_is_as_it_was():
    """Afterwards, an error or not, the network attends as before; other kinds of attention are left alone."""
    config = build("llama").config
    with pytest.raises(ZeroDivisionError), grouped_attention.grouped_attention(config):
        assert config._attn_implementation == "mnemoscope_grouped"
        raise ZeroDivisionError
    assert config._attn_implementation == "sdpa"
    config._attn_implementation = "eager"
    with grouped_attention.grouped_attention(config):
        assert config._attn_implementation == "eager"
