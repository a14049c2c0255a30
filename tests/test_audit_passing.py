"""One pass over passages against the slow obvious way: a plain forward of each passage alone, and generate()."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from statsmodels.stats.proportion import proportion_confint

from audited_passages import SAMPLINGS, passages_of, planted, same, save, settings
from mnemoscope.audit import reading
from mnemoscope.audit.facts import AuditFacts, TokenFacts
from mnemoscope.audit.passing import choose_reference, pass_over
from mnemoscope.audit.settings import Sampling
from mnemoscope.audit.triggers import rungs
from mnemoscope.config import ModelConfig
from networks import VOCAB, WIDE, build, generate


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "gemma2", "bloom", "mamba"])
def test_facts_equal_those_of_each_passage_alone(architecture, tmp_path):
    """Greedy token, margin, log-probability, mean, deviation and sampled of every token: as a plain forward's."""
    network = build(architecture)
    passages = planted(network, num_rows=13)
    model = save(tmp_path / "model", network)
    check_facts(network, pass_over(model, settings(model), passages, folder=tmp_path / "facts"))


def test_facts_of_a_large_vocabulary(tmp_path):
    """A head that is cut into tiles gives the same facts as a plain forward."""
    torch.manual_seed(0)
    shape = WIDE | {"vocab_size": 9001, "max_position_embeddings": 128}
    network = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape)).eval()
    rng = np.random.default_rng(0)
    model = save(tmp_path / "model", network)
    passages = passages_of([rng.integers(0, 9001, length) for length in (21, 14, 21)])
    check_facts(network, pass_over(model, settings(model), passages, folder=tmp_path / "facts"))


def check_facts(network, facts: AuditFacts) -> None:
    """Each token's facts against a plain forward of its passage alone."""
    passages = facts.passages
    for row, length in enumerate(passages.length_R):
        tokens = torch.from_numpy(passages.tokens_RW[row, :length].astype(np.int64))
        with torch.inference_mode():
            logits = network(tokens[None]).logits[0, :-1].double()
        log_p, truth = logits.log_softmax(-1), tokens[1:, None]
        here = slice(1, length)
        known = facts.tokens
        assert known.generated_RW[row, here].tolist() == logits.argmax(-1).tolist()
        top = logits.topk(2).values
        close(known.margin_RW[row, here], top[:, 0] - top[:, 1])
        close(known.log_probability_RW[row, here], log_p.gather(1, truth)[:, 0])
        mean = (log_p.exp() * log_p).sum(-1)
        close(known.mean_RW[row, here], mean)
        close(known.deviation_RW[row, here], ((log_p.exp() * log_p**2).sum(-1) - mean**2).clamp_min(0).sqrt())
        for s, sampling in enumerate(SAMPLINGS):
            close(known.sampled_RSW[row, s, here], slow_sampled(logits, truth, sampling))
        for values in known[:5]:
            rest = np.delete(values[row], np.arange(1, length))
            assert (np.isnan(rest) | (rest == -1)).all()


def close(found, expected) -> None:
    """Equal to float32's accuracy at the size of logits; infinities and all."""
    np.testing.assert_allclose(found, expected.numpy(), atol=3e-4, rtol=3e-4)


def slow_sampled(logits: torch.Tensor, truth: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probability of the truth, by transformers' own warpers."""
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper

    if sampling.temperature != 1:
        logits = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k is not None:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    return logits.log_softmax(-1).gather(1, truth)[:, 0]


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma2", "bloom", "mamba"])
def test_paths_equal_generate(architecture, tmp_path):
    """The path from the reference context is what generate() says, token by token; -1 where the passage is short."""
    network = build(architecture)
    passages = planted(network, num_rows=13)
    model = save(tmp_path / "model", network)
    facts = pass_over(model, settings(model), passages, folder=tmp_path / "facts")
    assert facts.reference == (1, 12)
    fits = facts.fits(1, 12)
    assert 4 < fits.sum() < 13
    expected = generate(network, passages.tokens_RW[fits, :9].astype(np.int64), 12)
    np.testing.assert_array_equal(facts.path_Rn[fits], expected)
    assert (facts.path_Rn[~fits] == -1).all()
    assert 1 < facts.is_recited(1, 12).sum() < fits.sum()


def test_paths_of_turns_start_at_their_own_prompts(tmp_path):
    """Passages with contexts of different lengths in one batch: each path is generate()'s from the passage's own."""
    network = build("llama")
    rng = np.random.default_rng(3)
    contexts = [(int(length),) for length in rng.integers(1, 10, 16)]
    rows = [rng.integers(0, VOCAB, context + 12) for (context,) in contexts]
    for row, (context,) in zip(rows[::4], contexts[::4], strict=True):
        row[context:] = generate(network, row[None, :context], 12)[0]
    model = save(tmp_path / "model", network)
    facts = pass_over(model, settings(model), passages_of(rows, contexts), folder=tmp_path / "facts")
    assert facts.context_labels == ("prompt",)
    assert facts.reference == (0, 12)
    for row, (context,) in enumerate(contexts):
        assert facts.path_Rn[row].tolist() == generate(network, rows[row][None, :context], 12)[0].tolist()
    assert facts.is_recited(0, 12)[::4].all()
    assert 4 <= facts.is_recited(0, 12).sum() < 16


def test_rungs_of_the_ladder():
    """1, 2, 4, 8 and from there on one in between; only what is shorter than the context."""
    assert list(rungs(1)) == []
    assert list(rungs(9)) == [1, 2, 4, 8]
    assert list(rungs(129)) == [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert list(rungs(12)) == [1, 2, 4, 8]
    assert list(rungs(96)) == [1, 2, 4, 8, 12, 16, 24, 32, 48, 64]


def test_triggers_are_the_first_rung_that_recites(tmp_path):
    """For passages recited from their context, and only those: rung by rung, generate() says the continuation."""
    network = build("gpt_neox")
    rng = np.random.default_rng(5)
    rows = []
    for row in range(24):
        tokens = rng.integers(0, VOCAB, 9 + 3)
        known = (1, 2, 4, 8, 9)[row % 5]  # what is said after so many tokens alone
        tokens[9:] = generate(network, tokens[None, 9 - known : 9], 3)[0]
        rows.append(tokens)
    model = save(tmp_path / "model", network)
    own = settings(model, contexts=(9,), continuations=(3,))
    passages = passages_of(rows, [(9,)] * 24)._replace(kind_R=["start"] * 24)
    facts = pass_over(model, own, passages, folder=tmp_path / "facts")
    for row, tokens in enumerate(rows):
        reciting = [
            length
            for length in (1, 2, 4, 8, 9)
            if generate(network, tokens[None, 9 - length : 9], 3)[0].tolist() == tokens[9:].tolist()
        ]
        assert facts.trigger_R[row] == (reciting[0] if 9 in reciting else -1)
    assert len(set(facts.trigger_R.tolist())) > 2
    assert (facts.trigger_R == -1).any()


@pytest.mark.parametrize("architecture", ["gpt_neox", "bloom", "mamba"])
def test_neither_padding_nor_batches_change_facts(architecture, tmp_path):
    """Alone, in one batch, in any order, padded to twice the width: tokens and paths equal, numbers to 1e-4."""
    network = build(architecture)
    passages = planted(network, num_rows=13)
    model = save(tmp_path / "model", network)
    whole = pass_over(model, settings(model), passages, folder=tmp_path / "facts")
    wide = passages._replace(tokens_RW=np.pad(passages.tokens_RW, ((0, 0), (0, 21)), constant_values=7))
    for batch_size in (1, 40):
        found = pass_over(model, settings(model, batch_size=batch_size), passages, folder=tmp_path / f"b{batch_size}")
        same(whole, found, atol=3e-4, rtol=1e-4)
    found = pass_over(model, settings(model), wide, folder=tmp_path / "wide")
    tokens = TokenFacts._make(values[..., :21] for values in found.tokens)
    same(whole, replace(found, tokens=tokens), atol=3e-4, rtol=1e-4)
    order = np.random.default_rng(0).permutation(13)
    mixed = pass_over(model, settings(model), passages.take(order), folder=tmp_path / "mixed")
    assert mixed.reference == whole.reference
    np.testing.assert_array_equal(mixed.tokens.generated_RW, whole.tokens.generated_RW[order])
    np.testing.assert_array_equal(mixed.path_Rn, whole.path_Rn[order])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_k=5)])
def test_probabilities_agree_with_real_samples(sampling, tmp_path):
    """exp(sum of sampled) is the share of 10,000 draws of generate() that say it, within Wilson's 99.9 %."""
    network = build("gpt_neox")
    with torch.no_grad():
        network.get_output_embeddings().weight.mul_(8)  # continuations of a probability that draws can meet
    prompts = np.random.default_rng(1).integers(0, VOCAB, (6, 4))
    rows = list(np.concatenate([prompts, generate(network, prompts, 3)], axis=1))
    model = save(tmp_path / "model", network)
    own = settings(model, contexts=(4,), continuations=(3,), samplings=(sampling,))
    passages = passages_of(rows, [(4,)] * 6)._replace(kind_R=["start"] * 6)
    facts = pass_over(model, own, passages, folder=tmp_path / "facts")
    probability_R = np.exp(facts.continuation_of(facts.tokens.sampled_RSW[:, 0], 0, 3).sum(1))
    assert 0.01 < probability_R.min() < probability_R.max() < 0.7
    for row, probability in enumerate(probability_R):
        said = draw(network, prompts[row], sampling, 10_000, seed=row)
        low, high = proportion_confint((said == rows[row][4:]).all(1).sum(), 10_000, alpha=0.001, method="wilson")
        assert low <= probability <= high


def draw(network, prompt: np.ndarray, sampling: Sampling, count: int, *, seed: int) -> np.ndarray:
    """What transformers' own generate() draws after a prompt, [count, 3]."""
    torch.manual_seed(seed)
    with torch.inference_mode():
        out = network.generate(
            torch.from_numpy(prompt)[None].expand(count, -1),
            attention_mask=torch.ones(count, len(prompt), dtype=torch.long),
            max_new_tokens=3,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k or 0,
            top_p=1.0,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[:, len(prompt) :].numpy()


def test_what_cannot_be_drawn_has_no_probability():
    """Outside the top k: -inf. Ties at the k-th place may all be drawn, banned tokens never; moments by hand."""
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0, -torch.inf]]).repeat(5, 1)
    ways = (Sampling(), Sampling(top_k=1), Sampling(temperature=0.5, top_k=2), Sampling(top_k=99))
    read = reading._read_chunk(logits.clone(), torch.arange(5), ways)
    share = np.exp([2, 1, 1, 0])
    full = [*np.log(share / share.sum()), -np.inf]
    np.testing.assert_allclose(read.sampled_PS[:, 0], full, rtol=1e-6)
    np.testing.assert_allclose(read.sampled_PS[:, 3], full, rtol=1e-6)
    assert read.sampled_PS[:, 1].tolist() == [0, -np.inf, -np.inf, -np.inf, -np.inf]
    halved = np.exp([4, 2, 2])
    np.testing.assert_allclose(read.sampled_PS[:, 2], [*np.log(halved / halved.sum()), -np.inf, -np.inf], rtol=1e-6)
    np.testing.assert_allclose(read.log_probability_P, full, rtol=1e-6)
    p, log_p = share / share.sum(), np.array(full[:4])
    np.testing.assert_allclose(read.mean_P, (p * log_p).sum(), rtol=1e-6)
    np.testing.assert_allclose(read.deviation_P, np.sqrt((p * log_p**2).sum() - (p * log_p).sum() ** 2), rtol=1e-5)
    assert read.margin_P.tolist() == [1.0] * 5


def test_the_reference_is_what_half_of_the_members_fit():
    """The longest continuation, then the longest context, of at least half; the smallest cell where there is none."""
    asked = settings(ModelConfig(source="m"))
    for lengths, expected in (
        ([21, 21, 9, 9], (1, 12)),
        ([21, 16, 9, 9], (0, 12)),
        ([21, 15, 15, 9], (1, 5)),
        ([9, 9, 9, 21], (0, 5)),
        ([8, 8, 8], (0, 5)),
    ):
        rows = [np.zeros(length, np.int32) for length in lengths for _ in range(2)]  # the second is held out
        assert choose_reference(passages_of(rows), asked) == expected
    held_out = passages_of([np.zeros(21, np.int32)] * 2).take(np.array([1]))
    assert choose_reference(held_out, asked) == (0, 5)


def test_all_recited_and_none(tmp_path):
    """Every passage recited: no branch is decoded, all have a trigger; none: every path leaves the truth."""
    network = build("gpt_neox")
    prompts = np.random.default_rng(2).integers(0, VOCAB, (6, 9))
    said = generate(network, prompts, 12)
    model = save(tmp_path / "model", network)
    for name, continuation in (("all", said), ("none", (said + 1) % VOCAB)):
        rows = list(np.concatenate([prompts, continuation], axis=1))
        facts = pass_over(model, settings(model), passages_of(rows), folder=tmp_path / name)
        np.testing.assert_array_equal(facts.path_Rn, said)
        assert (facts.trigger_R > 0).all() == (name == "all")
        assert facts.is_recited(1, 12).all() == (name == "all")
