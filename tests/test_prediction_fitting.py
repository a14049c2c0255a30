"""Predictors: what is planted is learned, what is not is not; no batch matters; what is saved says the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.prediction.examples import Examples, join_facts
from mnemoscope.prediction.fitting import NetworkPredictor, fit_predictors, predict_rows, splits_of
from mnemoscope.prediction.saving import load_predictor, save_predictor
from mnemoscope.prediction.settings import PredictionSettings

K, L, WIDTH = 8, 4, 6
SMALL = PredictionSettings(
    width=16, layers=2, heads=2, epochs=12, patience=12, original_width=16, predictors=("transformer",)
)


def planted(num_rows=400, *, seed=0, shuffled=False):
    """A sequence is recited to the end when its context is certain (low entropy), and not at all otherwise.

    9 of 10 follow the rule; states are noise. Shuffled, the bits belong to other sequences.
    """
    rng = np.random.default_rng(seed)
    certain = rng.random(num_rows) < 0.5
    entropy = np.where(certain[:, None], 0.3, 3.0) + 0.2 * rng.random((num_rows, K + 1))
    matched = np.repeat((certain ^ (rng.random(num_rows) < 0.1))[:, None], L, axis=1)
    if shuffled:
        matched = matched[rng.permutation(num_rows)]
    unknown = np.full((num_rows, 1), np.nan)
    facts = join_facts(
        entropy,
        8 - entropy,
        np.concatenate([-entropy[:, :K], unknown], axis=1),
        np.concatenate([np.round(entropy[:, :K]), unknown], axis=1),
    )
    return Examples(
        model="tiny",
        sequence_id=np.arange(num_rows),
        group=np.full(num_rows, "member"),
        cluster=np.arange(num_rows),
        design_weight=np.ones(num_rows),
        num_matched=matched.sum(axis=1),
        context_states=rng.normal(size=(num_rows, 1, K, WIDTH)).astype(np.float16),
        context_facts=facts,
        matched_RL=matched,
        decode_states=rng.normal(size=(num_rows, L, WIDTH)).astype(np.float16),
        decode_facts=rng.random((num_rows, L, 2)).astype(np.float32),
    )


def token_accuracy(fitted, examples):
    """On the test split, every number of matches weighing the same."""
    test = splits_of(examples, SMALL)["test"]
    (said,) = (one for one in predict_rows(fitted, examples, test) if one.prior == "balanced")
    return (said.predicted_Rn == examples.labels[test]).mean()


@pytest.fixture(scope="module")
def fitted():
    """The context's transformer, trained on what is planted."""
    return fit_predictors(planted(), settings=SMALL)[0]


def test_a_planted_rule_is_learned(fitted):
    """9 of 10 sequences follow it, and about so many bits are right; a guess would have half of them."""
    assert (fitted.task, fitted.name) == ("context", "transformer")
    assert token_accuracy(fitted, planted()) > 0.8


def test_shuffled_labels_give_chance():
    """Bits of other sequences cannot be told: right in about half, five standard errors at most from it."""
    examples = planted(shuffled=True)
    num_test = len(splits_of(examples, SMALL)["test"])
    found = token_accuracy(fit_predictors(examples, settings=SMALL)[0], examples)
    assert abs(found - 0.5) < 5 * 0.5 / np.sqrt(num_test)


@pytest.mark.parametrize("name", ["transformer", "transformer-facts", "lstm", "original-fixed"])
@pytest.mark.parametrize("task", ["context", "decode"])
def test_an_examples_prediction_does_not_depend_on_its_batch(name, task):
    """Alone, among others and in another order: the same logits to 1e-5."""
    settings = replace(SMALL, epochs=1, predictors=(name,))
    examples = planted(120)
    found = [one for one in fit_predictors(examples, settings=settings) if one.task == task]
    if not found:
        pytest.skip(f"{name} has no task {task}")
    rows = np.array([5, 17, 40, 80, 99])
    together = found[0].predict(examples, rows).emission_RL
    for place, row in enumerate(rows):
        alone = found[0].predict(examples, np.array([row])).emission_RL
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found[0].predict(examples, rows[::-1].copy()).emission_RL.flip(0), together, atol=1e-5, rtol=1e-5
    )


def test_the_originals_prediction_depends_on_its_batch():
    """Attention across the batch: in another company a sequence is told something else."""
    settings = replace(SMALL, predictors=("original",))
    examples = planted(120)
    (original,) = fit_predictors(examples, settings=settings)
    one = original.predict(examples, np.array([5, 17, 40])).emission_RL[0]
    other = original.predict(examples, np.array([5, 80, 99])).emission_RL[0]
    assert (one - other).abs().max() > 1e-3


def test_a_seed_gives_the_same_predictor_in_any_number_of_threads():
    """Weights are bit-identical for 1 and 2 threads, and differ between seeds; no global generator is touched."""
    settings = replace(SMALL, epochs=2)
    state = torch.get_rng_state()
    one, two = (fit_predictors(planted(120), settings=settings, seeds=(0, 1), num_threads=n) for n in (1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [[one_fit.predictor.network.state_dict() for one_fit in fits] for fits in (one, two)]
    for here, there in zip(*weights, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in here)
    assert not torch.equal(weights[0][0]["query"], weights[0][1]["query"])


def test_labels_are_not_read_when_predicting(fitted):
    """With every bit turned around and the truth's numbers gone, the logits are the same."""
    examples = planted()
    blind = replace(examples, matched_RL=None, num_matched=np.full(len(examples), -1))
    rows = np.arange(20)
    assert torch.equal(fitted.predict(examples, rows).emission_RL, fitted.predict(blind, rows).emission_RL)


def test_what_is_saved_says_the_same(fitted, tmp_path):
    """Loaded from safetensors and JSON: bit-identical logits and the same calibrations; a torn file is refused."""
    save_predictor(fitted, tmp_path / "predictor")
    loaded = load_predictor(tmp_path / "predictor")
    examples, rows = planted(), np.arange(30)
    assert isinstance(loaded.predictor, NetworkPredictor)
    assert torch.equal(loaded.predict(examples, rows).emission_RL, fitted.predict(examples, rows).emission_RL)
    assert loaded.calibrations == fitted.calibrations
    (tmp_path / "predictor.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(StoreError, match="not a saved predictor"):
        load_predictor(tmp_path / "predictor")
    with pytest.raises(StoreError, match="not there"):
        load_predictor(tmp_path / "nothing")


def test_boosted_trees_are_not_saved(tmp_path):
    """They have no format that is safe to read."""
    settings = replace(SMALL, predictors=("boosting",))
    (boosting,) = fit_predictors(planted(120), settings=settings)
    with pytest.raises(ConfigError, match="no safe format"):
        save_predictor(boosting, tmp_path / "trees")


def test_rates_and_hints_are_those_of_the_training_split():
    """By hand: the share of matches at each index, and given another run's bit of the same sequence."""
    examples = planted(300, seed=3)
    hint = np.repeat((np.arange(300) % 2 == 0)[:, None], L, axis=1)
    matched = hint ^ (np.arange(300)[:, None] % 10 == 0)
    examples = replace(examples, matched_RL=matched, num_matched=matched.sum(1), hints={"smaller: other": hint})
    settings = replace(SMALL, predictors=("index-rate", "smaller"))
    rate, smaller = fit_predictors(examples, settings=settings)
    train = splits_of(examples, settings)["train"]
    probability = rate.predict(examples, np.array([0])).emission_RL.sigmoid().numpy()[0]
    np.testing.assert_allclose(probability, matched[train].mean(axis=0), atol=0.02)
    test = splits_of(examples, settings)["test"]
    said = smaller.predict(examples, test).emission_RL > 0
    np.testing.assert_array_equal(said.numpy(), hint[test])


def test_too_few_sequences_are_refused():
    """The message says how many there are and what to do."""
    with pytest.raises(ConfigError, match="expected 10 or more: trace more of them"):
        fit_predictors(planted(12), settings=SMALL)


def test_every_setting_is_checked():
    """Unknown predictors, a width that heads do not divide, rates beyond one."""
    for wrong in ({"predictors": ("oracle",)}, {"width": 10, "heads": 4}, {"dropout": 1.0}, {"epochs": 0}):
        with pytest.raises(ConfigError):
            PredictionSettings(**wrong)
