"""Two phases in one study: what is stored, what it stands for, and that estimates find the full count."""

from __future__ import annotations

import numpy as np
import pytest

from mnemoscope.config import Grid
from mnemoscope.model import wrap_network
from mnemoscope.scoring import score_sequences
from networks import build, plant_sequences

GRID = Grid(contexts=(4, 9, 16), continuations=(1, 5, 12))


@pytest.mark.parametrize("architecture", ["gpt_neox", "mamba"])
def test_chosen_rows_are_those_of_mode_graded_and_the_others_those_of_exact(architecture):
    """Match bits of the chosen rows are those of `graded`, every other fact of the rest that of `exact`."""
    network = build(architecture)
    tokens_RW = plant_sequences(network, num_sequences=36, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    model = wrap_network(network)
    seen = []

    def choose(rows, first_mismatch_BC):
        seen.append((rows, first_mismatch_BC.copy()))
        return np.arange(rows.start, rows.stop) % 3 == 1

    exact, graded = (score_sequences(model, tokens_RW, GRID, mode=mode, batch_size=7) for mode in ("exact", "graded"))
    both = score_sequences(model, tokens_RW, GRID, mode="graded", batch_size=7, choose=choose)
    chosen = np.arange(36) % 3 == 1
    np.testing.assert_array_equal(both.matched_RCn[chosen], graded.matched_RCn[chosen])
    np.testing.assert_array_equal(both.first_mismatch_RC, exact.first_mismatch_RC)
    np.testing.assert_array_equal(both.log_probability_RCN, exact.log_probability_RCN)
    np.testing.assert_array_equal(both.smallest_margin_RCN[~chosen], exact.smallest_margin_RCN[~chosen])
    np.testing.assert_allclose(both.smallest_margin_RCN[chosen], graded.smallest_margin_RCN[chosen], atol=1e-4)
    assert [(rows.start, rows.stop) for rows, _ in seen] == [(i, min(i + 7, 36)) for i in range(0, 36, 7)]
    np.testing.assert_array_equal(np.concatenate([first for _, first in seen]), exact.first_mismatch_RC)


def test_what_is_not_chosen_is_not_decoded():
    """Where no sequence is chosen, the network reads the truth and not a token more."""
    network = build("gpt_neox")
    tokens_RW = plant_sequences(network, num_sequences=8, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    model = wrap_network(network)
    num_tokens = []
    network.register_forward_pre_hook(lambda _module, _args, kwargs: num_tokens.append(1), with_kwargs=True)
    body = network.base_model.register_forward_pre_hook(
        lambda _module, args, kwargs: num_tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score_sequences(
        model, tokens_RW, GRID, mode="graded", batch_size=8, choose=lambda rows, _: np.zeros(rows.stop, np.bool_)
    )
    body.remove()
    assert num_tokens == [8 * (GRID.window_tokens - 1)]
