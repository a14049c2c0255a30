"""The chain over matched bits against brute force: every one of the 2^L vectors, scored and summed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mnemoscope.prediction import chain
from mnemoscope.prediction.calibration import Calibration, fit_calibration, prior_weights
from mnemoscope.prediction.chain import ChainLogits


def drawn(length, *, rows=4, seed=0):
    """A chain with strong and weak, positive and negative couplings, in float64."""
    generator = torch.Generator().manual_seed(seed)
    emission_RL = 2 * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    coupling_RE = 1.5 * torch.randn(rows, length - 1, generator=generator, dtype=torch.float64)
    return ChainLogits(emission_RL, coupling_RE)


def enumerate_vectors(logits):
    """All vectors, bool [2^L, L], and their probabilities, float64 [R, 2^L], by the definition of the score."""
    length = logits.emission_RL.shape[1]
    vectors = np.array(list(itertools.product([False, True], repeat=length)))
    agree = (vectors[:, 1:] == vectors[:, :-1]).astype(float)
    coupling = logits.coupling_RE.expand(len(logits.emission_RL), -1).numpy()
    score = logits.emission_RL.numpy() @ vectors.T.astype(float) + coupling @ agree.T
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    return vectors, weight / weight.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_everything_is_that_of_brute_force(length, seed):
    """Marginals, P(all match), the distribution of the number of matches, the most probable vector, likelihoods."""
    logits = drawn(length, seed=seed)
    vectors, probability = enumerate_vectors(logits)
    markov = chain.to_markov(logits)
    np.testing.assert_allclose(chain.match_probabilities(markov).numpy(), probability @ vectors, atol=1e-12)
    full = chain.full_match_log_probabilities(markov).exp().numpy()
    np.testing.assert_allclose(full, probability[:, vectors.all(axis=1)][:, 0], atol=1e-12)
    numbers = np.stack([probability[:, vectors.sum(1) == n].sum(1) for n in range(length + 1)], axis=1)
    np.testing.assert_allclose(chain.num_matched_distributions(markov).numpy(), numbers, atol=1e-12)
    np.testing.assert_array_equal(chain.most_probable(markov).numpy(), vectors[probability.argmax(axis=1)])
    for place in range(0, len(vectors), 3):
        bits = torch.from_numpy(np.tile(vectors[place], (4, 1)))
        found = chain.negative_log_likelihoods(markov, bits).numpy()
        np.testing.assert_allclose(found, -np.log(probability[:, place]), atol=1e-9)


@pytest.mark.parametrize("prefix", [1, 3, 6])
def test_a_prefix_sums_the_rest_out(prefix):
    """The first indices of a chain have the marginal distribution that brute force over all gives."""
    logits = drawn(6)
    vectors, probability = enumerate_vectors(logits)
    markov = chain.to_markov(logits).prefix(prefix)
    starts = np.array(list(itertools.product([False, True], repeat=prefix)))
    marginal = np.stack([probability[:, (vectors[:, :prefix] == start).all(1)].sum(1) for start in starts], axis=1)
    np.testing.assert_array_equal(chain.most_probable(markov).numpy(), starts[marginal.argmax(axis=1)])
    np.testing.assert_allclose(chain.full_match_log_probabilities(markov).exp().numpy(), marginal[:, -1], atol=1e-12)


def test_without_couplings_indices_are_independent():
    """The logistic function of each emission, and the product of all for a full match."""
    emission_RL = drawn(5).emission_RL
    markov = chain.to_markov(chain.uncoupled(emission_RL))
    probability = 1 / (1 + np.exp(-emission_RL.numpy()))
    np.testing.assert_allclose(chain.match_probabilities(markov).numpy(), probability, atol=1e-12)
    full = chain.full_match_log_probabilities(markov).exp().numpy()
    np.testing.assert_allclose(full, probability.prod(axis=1), atol=1e-12)


def test_calibration_finds_the_shift_and_coupling_that_made_the_bits():
    """Bits drawn from a chain with coupling 1 and shift -0.7, told by uncoupled logits: both are found back."""
    rng = np.random.default_rng(0)
    emission = rng.normal(size=(4000, 4))
    truth = ChainLogits(torch.from_numpy(emission - 0.7), torch.full((1, 3), 1.0, dtype=torch.float64))
    vectors, probability = enumerate_vectors(truth)
    place = (probability.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    said = chain.uncoupled(torch.from_numpy(emission))
    found = fit_calibration(said, torch.from_numpy(vectors[place]), np.ones(4000))
    assert found.scale == pytest.approx(1, abs=0.08)
    assert found.shift == pytest.approx(-0.7, abs=0.08)
    assert found.coupling == pytest.approx(1, abs=0.08)


def test_the_balanced_prior_weighs_every_number_of_matches_alike():
    """3 of one number and 1 of another: each number weighs 2 in all, within it by design; natural keeps the design."""
    num_matched, design = np.array([0, 0, 0, 4]), np.array([10.0, 10.0, 20.0, 30.0])
    balanced = prior_weights(num_matched, design, "balanced")
    assert balanced[:3].sum() == pytest.approx(balanced[3])
    assert balanced[2] == pytest.approx(2 * balanced[0])
    natural = prior_weights(num_matched, design, "natural")
    np.testing.assert_allclose(natural / natural[0], design / 10)
    assert Calibration(1.0, 0.0, 0.0).apply(drawn(3)).emission_RL.equal(drawn(3).emission_RL)
