"""One pass over passages against the slow obvious way: a plain forward of each passage alone, and generate()."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mnemoscope.audit.facts import Passages
from mnemoscope.audit.passing import pass_over
from mnemoscope.audit.settings import AuditSettings, Sampling
from mnemoscope.config import ModelConfig
from networks import VOCAB, build, generate

CONTEXTS, CONTINUATIONS = (4, 9), (5, 12)
SAMPLINGS = (Sampling(), Sampling(temperature=0.7, top_k=5), Sampling(temperature=2.0), Sampling(top_k=1000))


def save(folder: Path, network, **changes) -> ModelConfig:
    """The network in a folder."""
    network.save_pretrained(folder)
    return ModelConfig(source=str(folder), **changes)


def settings(model: ModelConfig, **changes) -> AuditSettings:
    """A small grid."""
    given = {"contexts": CONTEXTS, "continuations": CONTINUATIONS, "samplings": SAMPLINGS, "batch_size": 5}
    return AuditSettings(model=model, train=("t",), heldout=("h",), **(given | changes))


def passages_of(rows: list[np.ndarray], contexts: list[tuple[int, ...]] | None = None) -> Passages:
    """Passages of given tokens; every other one is held out, and those with one context are turns."""
    contexts = contexts or [CONTEXTS] * len(rows)
    tokens_RW = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for tokens_W, row in zip(tokens_RW, rows, strict=True):
        tokens_W[: len(row)] = row
    return Passages(
        tokens_RW=tokens_RW,
        length_R=np.array([len(row) for row in rows], np.int32),
        context_RC=np.array(contexts, np.int32),
        kind_R=["turn" if len(contexts[0]) == 1 else "start"] * len(rows),
        is_member_R=np.arange(len(rows)) % 2 == 0,
        document_R=np.arange(len(rows), dtype=np.int32),
        line_R=np.arange(1, len(rows) + 1),
        start_R=np.zeros(len(rows), np.int32),
    )


def planted(network, *, num_rows: int, seed: int = 0) -> Passages:
    """Passages of several lengths; a third recited from context 9 on, a third so but for one token."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(num_rows):
        tokens = rng.integers(0, VOCAB, [21, 17, 14, 9, 21, 21][row % 6])
        if row % 3 and len(tokens) > 9:
            tokens[9:] = generate(network, tokens[None, :9], len(tokens) - 9)[0]
            if row % 3 == 2:
                tokens[rng.integers(9, len(tokens))] ^= 1
        rows.append(tokens)
    return passages_of(rows)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2", "gemma2", "bloom", "mamba"])
def test_facts_equal_those_of_each_passage_alone(architecture, tmp_path):
    """Greedy token, margin, log-probability, mean, deviation and sampled of every token: as a plain forward's."""
    network = build(architecture)
    passages = planted(network, num_rows=13)
    model = save(tmp_path / "model", network)
    facts = pass_over(model, settings(model), passages, folder=tmp_path / "facts")
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
