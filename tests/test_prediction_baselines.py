"""Baselines against hand counts and scikit-learn; training's bookkeeping; every predictor on disk and back."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mnemoscope.prediction import baselines, chain
from mnemoscope.prediction.chain import ChainLogits, Markov, from_markov, negative_log_likelihoods, to_markov
from mnemoscope.prediction.features import NUM_ENTROPY_AND_LOSS, FeatureSet, fit_reader
from mnemoscope.prediction.fitting import fit_predictors, predict_rows, splits_of
from mnemoscope.prediction.networks import build_network, shape_of
from mnemoscope.prediction.saving import load_predictor, save_predictor
from mnemoscope.prediction.settings import PREDICTORS
from mnemoscope.prediction.training import apply_network, train_network
from test_prediction_fitting import SMALL, K, L, planted

TRAIN = np.arange(200)


def test_a_markov_chain_and_its_scores_say_the_same():
    """From conditional log-odds to emissions and couplings and back."""
    generator = torch.Generator().manual_seed(0)
    first, match, miss = (2 * torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (1, 6, 6))
    found = to_markov(from_markov(Markov(first[:, 0], match, miss)))
    for here, there in zip(found, (first[:, 0], match, miss), strict=True):
        torch.testing.assert_close(here, there)


def test_the_majority_says_one_bit_for_all():
    """All matched where more than half of the training bits are, else all missed; 0.5 is added to either count."""
    examples = planted()
    matched = np.zeros((400, L), bool)
    matched[:50] = True
    found = baselines.fit_majority(replace(examples, matched_RL=matched), TRAIN).predict(examples, TRAIN)
    assert found.emission_RL.shape == (200, L)
    np.testing.assert_allclose(found.emission_RL.sigmoid().numpy(), (50 * L + 0.5) / (200 * L + 1))


def test_the_logistic_regression_is_scikit_learns():
    """Same penalty, same columns (entropy and loss alone), index by index: log-odds agree to 0.01."""
    examples = planted(300, seed=1)
    noise = np.random.default_rng(0).random((300, L)) < 0.2
    examples = replace(examples, matched_RL=examples.labels ^ noise)
    found = baselines.fit_logistic(examples, TRAIN).predict(examples, np.arange(300)).emission_RL.numpy()
    reader = fit_reader(examples, TRAIN, FeatureSet(task="context", states=False))
    summary = reader.read(examples, np.arange(300)).summary.numpy()[:, :NUM_ENTROPY_AND_LOSS]
    for index in range(L):
        reference = LogisticRegression(C=1 / 4.0, tol=1e-8, max_iter=1000)
        reference.fit(summary[TRAIN], examples.labels[TRAIN, index])
        np.testing.assert_allclose(found[:, index], reference.decision_function(summary), atol=0.01)


def test_bins_of_another_runs_answer():
    """0 matches, up to each quarter, all."""
    bits = np.arange(8) < np.array([0, 1, 2, 3, 4, 5, 7, 8])[:, None]
    np.testing.assert_array_equal(baselines.hint_bins(bits), [0, 1, 1, 2, 2, 3, 4, 5])


def test_a_hints_rate_is_the_training_splits():
    """Of its own bin and bit, drawn towards the bit's rate by one example's weight."""
    examples = planted(300, seed=2)
    hint = np.zeros((300, L), bool)
    hint[:100] = True
    matched = np.zeros((300, L), bool)
    matched[:80] = True
    examples = replace(examples, matched_RL=matched, hints={"earlier: half": hint})
    found = baselines.fit_hint(examples, TRAIN, "earlier: half").predict(examples, np.array([0, 150])).emission_RL
    on, off = (80 * L + 0.5) / (100 * L + 1), 0.5 / (100 * L + 1)
    expected = [(80 * L + on) / (100 * L + 1), off / (100 * L + 1)]
    np.testing.assert_allclose(found.sigmoid().numpy(), np.repeat(np.array(expected)[:, None], L, axis=1), rtol=1e-9)


def test_the_full_match_classifier_says_all_or_nothing():
    """P(all of the first n) is the classifier's of n; bits within a continuation stand and fall together."""
    examples = planted(300, seed=4)
    matched = examples.labels.copy()
    matched[::3, 2:] = False  # so that the longer continuation is matched more rarely
    examples = replace(examples, matched_RL=matched)
    features = FeatureSet(task="context", states=False)
    found = baselines.fit_full_match(examples, TRAIN, features, continuations=(2, 4), seed=0)
    rows = np.arange(200, 300)
    summary = fit_reader(examples, TRAIN, features).read(examples, rows).summary.double().numpy()
    markov = to_markov(found.predict(examples, rows))
    shorter = 1.0
    for n, trees in zip((2, 4), found.trees, strict=True):
        expected = np.minimum(1 / (1 + np.exp(-baselines.decision(trees, summary))), shorter)
        said = chain.full_match_log_probabilities(markov.prefix(n)).exp().numpy()
        np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-5)
        shorter = expected  # a longer continuation cannot be likelier
    marginal = chain.match_probabilities(markov).numpy()
    np.testing.assert_allclose(marginal[:, 0], marginal[:, 1], atol=1e-5)


def test_the_kept_weights_are_those_of_the_best_epoch():
    """Its validation loss is found again after training went on, and no epoch's was smaller."""
    examples = planted(300, seed=5, shuffled=True)
    splits = splits_of(examples, SMALL)
    reader = fit_reader(examples, splits["train"], FeatureSet(task="context", states=True))
    network = build_network(shape_of("transformer", reader, SMALL, context=K, continuation=L), seed=0)
    train, validation = splits["train"], splits["validation"]
    trained = train_network(network, reader, examples, train=train, validation=validation, settings=SMALL, seed=0)
    assert trained.best_epoch < SMALL.epochs - 1  # shuffled labels are overfitted, so the last is not the best
    said = apply_network(trained.network, reader, examples, validation, uses_states=trained.uses_states)
    losses = negative_log_likelihoods(to_markov(said), torch.from_numpy(examples.labels[validation]))
    assert float(losses.mean()) == pytest.approx(trained.validation_loss, rel=1e-6)


def test_a_predictor_transfers_to_another_model_without_being_trained_on_it():
    """Facts alone fit states of any width; what is said of the same facts is the same."""
    settings = replace(SMALL, predictors=("transformer-facts",), epochs=2)
    fitted = fit_predictors(planted(120), settings=settings)[0]
    examples = planted(120)
    wider = replace(examples, model="wide", context_states=np.zeros((120, 1, K, 50), np.float16))
    rows = np.arange(30)
    assert torch.equal(fitted.predict(wider, rows).emission_RL, fitted.predict(examples, rows).emission_RL)
    assert fitted.trained_on == "tiny"


@pytest.mark.parametrize("name", ["transformer", "lstm", "original", "majority", "index-rate", "logistic", "smaller"])
def test_every_kind_that_is_saved_says_the_same(name, tmp_path):
    """Both tasks, every prior and continuation, bit for bit."""
    hint = {"smaller: other": np.tile(np.arange(L) % 2 == 0, (120, 1))}
    examples = replace(planted(120), hints=hint)
    settings = replace(SMALL, predictors=(name,), epochs=1)
    for number, fitted in enumerate(fit_predictors(examples, settings=settings, continuations=(2, L))):
        save_predictor(fitted, tmp_path / f"{number}")
        loaded = load_predictor(tmp_path / f"{number}")
        rows = np.arange(60)
        for here, there in zip(predict_rows(fitted, examples, rows), predict_rows(loaded, examples, rows), strict=True):
            for value, other in zip(here, there, strict=True):
                np.testing.assert_array_equal(value, other)


def test_what_is_said_of_a_prefix_does_not_contradict_the_whole():
    """For one prior: the chance of a full match falls with n, and expected matches rise by at most a token each."""
    examples = planted(300, seed=6)
    settings = replace(SMALL, predictors=("index-rate",))
    fitted = fit_predictors(examples, settings=settings, continuations=(1, 2, 3, 4))[0]
    same = replace(fitted, calibrations={("natural", n): fitted.calibrations["natural", 4] for n in (1, 2, 3, 4)})
    said = predict_rows(same, examples, np.arange(10))
    for shorter, longer in itertools.pairwise(said):
        assert (longer.full_match_probability_R <= shorter.full_match_probability_R).all()
        gained = longer.expected_matched_R - shorter.expected_matched_R
        np.testing.assert_allclose(gained, longer.probability_Rn[:, -1], rtol=1e-4)


def test_every_predictor_has_its_rows():
    """All names of the settings, each for its tasks, one per seed."""
    hint = {name: np.zeros((120, L), bool) for name in ("smaller: a", "smaller: b", "earlier: c")}
    examples = replace(planted(120), hints=hint)
    settings = replace(SMALL, predictors=tuple(PREDICTORS), epochs=1)
    found = [(one.task, one.name, one.seed) for one in fit_predictors(examples, settings=settings, seeds=(0, 1))]
    simple = [
        (task, name) for name, tasks in PREDICTORS.items() for task in tasks if name not in ("smaller", "earlier")
    ]
    expected = [*simple, *(("context", name) for name in hint)]
    assert sorted(found) == sorted((*pair, seed) for pair in expected for seed in (0, 1))


def test_an_uncoupled_chain_has_no_couplings():
    """One row of zeros serves every sequence."""
    said = baselines.fit_index_rate(planted(), TRAIN).predict(planted(), TRAIN)
    assert isinstance(said, ChainLogits)
    assert said.coupling_RE.tolist() == [[0.0] * (L - 1)]
