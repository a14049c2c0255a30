"""What is read of the logits, against a brute-force reading of whole rows in double precision."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mnemoscope.head import BLOCK, TILE_POSITIONS, TILE_TOKENS, Head, HeadReader
from mnemoscope.packing import packed_layers, packed_linear
from mnemoscope.screening import Screen
from networks import build

WIDTH = 16


def model_over(output: nn.Module, **config: float) -> SimpleNamespace:
    """What a reader needs of a model whose head is given."""
    settings = SimpleNamespace(**config)
    network = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: settings), get_output_embeddings=lambda: output
    )
    head = Head(network)
    identity = SimpleNamespace(vocab_size=output.out_features)
    return SimpleNamespace(head=head, device=torch.device("cpu"), identity=identity, logits=head)


def linear(num_tokens: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(num_tokens)
    return nn.Linear(WIDTH, num_tokens, bias=bias)


@torch.inference_mode()
def read(model, hidden_PD, truth_P=None):
    """Readings as NumPy arrays."""
    return [values.numpy() for values in HeadReader(model).read(hidden_PD, truth_P)]


def brute_force(logits_PV: torch.Tensor, truth_P: torch.Tensor):
    """Token, margin and log-probability from sorted rows."""
    logits = logits_PV.double().numpy()
    top = np.sort(logits, axis=1)
    log_p = logits - np.log(np.exp(logits - top[:, -1:]).sum(1, keepdims=True)) - top[:, -1:]
    return logits.argmax(1), top[:, -1] - top[:, -2], log_p[np.arange(len(logits)), truth_P.numpy()]


@pytest.mark.parametrize("num_tokens", [2, 97, BLOCK, TILE_TOKENS, TILE_TOKENS + 1, 2 * TILE_TOKENS + 777])
@pytest.mark.parametrize("num_positions", [1, TILE_POSITIONS + 3])
def test_tiles_read_what_whole_rows_say(num_tokens, num_positions):
    """Any vocabulary, of one tile or several with a short last one, and any number of positions."""
    model = model_over(linear(num_tokens, bias=True), final_logit_softcapping=2.0, logit_scale=3.0)
    hidden_PD = torch.randn(num_positions, WIDTH)
    truth_P = torch.randint(0, num_tokens, (num_positions,))
    with torch.inference_mode():
        token, margin, log_p = brute_force(model.logits(hidden_PD), truth_P)
    found_token, found_margin, found_log_p = read(model, hidden_PD, truth_P)
    np.testing.assert_allclose(found_margin, margin, atol=1e-5)
    np.testing.assert_allclose(found_log_p, log_p, atol=1e-5)
    clear = margin > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found_token[clear], token[clear])


@pytest.mark.parametrize("tied", [(5, 6), (5, 5 + BLOCK), (5, 2 * TILE_TOKENS), (TILE_TOKENS - 1, TILE_TOKENS)])
def test_of_equal_logits_the_lowest_id_wins_wherever_they_are(tied):
    """Two tokens share the largest logit, in one block, in two, in two tiles: the lower id, with a margin of 0."""
    output = linear(2 * TILE_TOKENS + 5)
    with torch.no_grad():
        output.weight.clamp_(-0.1, 0.1)
        output.weight[list(tied)] = 1.0
    token, margin, _ = read(model_over(output), torch.ones(3, WIDTH))
    assert token.tolist() == [tied[0]] * 3
    assert margin.tolist() == [0.0] * 3


def test_banned_tokens_have_no_probability_and_harm_no_other():
    """A tile of logits of minus infinity counts for nothing; the others' probabilities sum to 1."""
    output = linear(TILE_TOKENS + BLOCK, bias=True)
    with torch.no_grad():
        output.bias[:TILE_TOKENS] = -torch.inf
    truth_P = torch.arange(TILE_TOKENS - 1, TILE_TOKENS + BLOCK)
    token, _, log_p = read(model_over(output), torch.ones(len(truth_P), WIDTH), truth_P)
    assert log_p[0] == -np.inf
    assert np.exp(log_p[1:].astype(float)).sum() == pytest.approx(1, abs=1e-5)
    assert (token >= TILE_TOKENS).all()


def test_a_state_that_is_no_number_has_no_probability():
    """NaN comes through, so that the caller can refuse it."""
    hidden_PD = torch.ones(2, WIDTH)
    hidden_PD[1, 3] = torch.nan
    _, _, log_p = read(model_over(linear(TILE_TOKENS + 9)), hidden_PD, torch.tensor([1, 1]))
    assert np.isnan(log_p).tolist() == [False, True]


@pytest.mark.parametrize("num_rows", [1, 7, 300])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_products_are_those_of_the_layer(num_rows, bias):
    """Any number of rows, with or without a bias, to float32 rounding."""
    layer, rows_PI = linear(333, bias=bias), torch.randn(num_rows, WIDTH)
    with torch.inference_mode():
        expected = layer.double()(rows_PI.double())
        found = packed_linear(layer.float().weight, layer.bias)(rows_PI)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_a_network_is_the_same_after_its_layers_were_packed(architecture):
    """Within, logits to rounding; after, also where scoring failed, the bits of before and no packed layer left."""
    network, tokens_BT = build(architecture), torch.arange(24).view(2, 12)
    with torch.inference_mode():
        before = network(tokens_BT).logits
        with pytest.raises(KeyError), packed_layers(network):
            torch.testing.assert_close(network(tokens_BT).logits, before, atol=1e-4, rtol=1e-4)
            raise KeyError("planted")
        assert torch.equal(network(tokens_BT).logits, before)
    assert not any("forward" in vars(module) for module in network.modules())


def screened(weight_VD: torch.Tensor, hidden_PD: torch.Tensor):
    """What a screen reads, whatever the processor (without the instructions it is only slow)."""
    with torch.inference_mode():
        return Screen(weight_VD).read(hidden_PD)


@pytest.mark.parametrize("spread", [1.0, 0.01, 100.0])
def test_a_screen_finds_the_two_best_of_all(spread):
    """Greedy tokens and margins in float32, for states of any size, beside tokens of very different norms."""
    torch.manual_seed(1)
    weight_VD = torch.randn(2 * TILE_TOKENS, 64) * torch.rand(2 * TILE_TOKENS, 1) ** 4
    hidden_PD = spread * torch.randn(50, 64)
    token, margin, _ = brute_force(hidden_PD @ weight_VD.T, torch.zeros(50, dtype=torch.long))
    best = screened(weight_VD, hidden_PD)
    np.testing.assert_array_equal(best.token_P.numpy(), token)
    np.testing.assert_allclose(best.margin_P.numpy(), margin, rtol=1e-4, atol=1e-5 * spread)


def test_a_screen_keeps_what_bfloat16_cannot_tell_apart():
    """Token 4000 is ahead of token 7 by a part in ten thousand, which bfloat16 rounds away; float32 sees it."""
    torch.manual_seed(2)
    weight_VD = torch.randn(2 * TILE_TOKENS, 64) * 0.01
    weight_VD[7] = torch.randn(64)
    weight_VD[4000] = weight_VD[7] * 1.0001
    hidden_PD = weight_VD[7:8] * torch.tensor([[1.0], [3.0]])
    assert (weight_VD[7].bfloat16() == weight_VD[4000].bfloat16()).float().mean() > 0.9
    best = screened(weight_VD, hidden_PD)
    assert best.token_P.tolist() == [4000, 4000]
    np.testing.assert_allclose(best.margin_P.numpy(), (hidden_PD @ (weight_VD[4000] - weight_VD[7])).numpy(), rtol=0.01)


def test_a_screen_gives_equal_logits_to_the_lowest_id():
    """Two tokens with the same weights: the lower id, margin 0."""
    torch.manual_seed(3)
    weight_VD = torch.randn(2 * TILE_TOKENS, 16) * 0.01
    weight_VD[[300, 5000]] = 1.0
    best = screened(weight_VD, torch.ones(4, 16))
    assert best.token_P.tolist() == [300] * 4
    assert best.margin_P.tolist() == [0.0] * 4


def test_a_screen_that_rules_out_too_little_says_nothing():
    """All tokens alike, or a state that is no number: the caller has to read all logits."""
    assert screened(torch.ones(2 * TILE_TOKENS, 16), torch.ones(4, 16)) is None
    assert screened(torch.randn(2 * TILE_TOKENS, 16), torch.full((4, 16), torch.nan)) is None
