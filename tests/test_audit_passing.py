"""One pass over passages against the slow obvious way: a plain forward of each passage alone, and generate()."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from statsmodels.stats.proportion import proportion_confint

from mnemoscope.audit import passing, reading
from mnemoscope.audit.fact_parts import Part, read_part
from mnemoscope.audit.facts import AuditFacts, Passages, TokenFacts
from mnemoscope.audit.passing import choose_reference, pass_over
from mnemoscope.audit.settings import AuditSettings, Sampling
from mnemoscope.audit.triggers import rungs
from mnemoscope.config import ModelConfig
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ModelError, ScoringError
from mnemoscope.model import FileHashes
from networks import VOCAB, WIDE, build, generate

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


def same(one: AuditFacts, other: AuditFacts, **tolerance) -> None:
    """The same facts; numbers to within a tolerance, which is none unless given."""
    for known, again in zip(
        (*one.tokens, one.path_Rn, one.trigger_R), (*other.tokens, other.path_Rn, other.trigger_R), strict=True
    ):
        assert known.dtype == again.dtype
        np.testing.assert_allclose(known, again, **({"atol": 0, "rtol": 0} | tolerance))
    assert one.reference == other.reference


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
    mixed = pass_over(model, replace(settings(model)), passages.take(order), folder=tmp_path / "mixed")
    if mixed.reference == whole.reference:  # who is a member moves with the order, what fits does not
        np.testing.assert_array_equal(mixed.tokens.generated_RW, whole.tokens.generated_RW[order])
        np.testing.assert_array_equal(mixed.path_Rn, whole.path_Rn[order])


class Recording:
    """An engine that notes which tasks it is given."""

    def __init__(self, workers: int = 1) -> None:
        self._engine = LocalEngine(workers)
        self.parts: list[int] = []

    def run(self, tasks, make_worker, tell):
        self.parts += [task.number for task in tasks]
        return self._engine.run(tasks, make_worker, tell)

    def workers_per_device(self, device):
        return self._engine.workers_per_device(device)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of four passages."""
    monkeypatch.setattr(passing, "PART_PASSAGES", 4)


def test_engines_give_the_same_facts(tmp_path, small_parts):
    """One process and two, bit for bit; each part is worked on once, and progress tells of every passage."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=14)
    model = save(tmp_path / "model", network)
    engines, told = [Recording(1), Recording(2)], []
    one, two = (
        pass_over(model, settings(model), passages, engine=engine, folder=tmp_path / f"{i}", progress=told.append)
        for i, engine in enumerate(engines)
    )
    same(one, two)
    assert [engine.parts for engine in engines] == [[0, 1, 2, 3]] * 2
    assert sum(told) == 28


def test_alike_passages_are_read_once(tmp_path, small_parts):
    """Passages with the same tokens and context share their facts: five different ones of fifteen are two parts."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=5)
    model = save(tmp_path / "model", network)
    engine = Recording()
    told = []
    repeated = passages.take(np.arange(15) % 5)
    facts = pass_over(model, settings(model), repeated, engine=engine, folder=tmp_path / "f", progress=told.append)
    assert engine.parts == [0, 1]
    assert sum(told) == 15
    for known in (*facts.tokens, facts.path_Rn, facts.trigger_R):
        np.testing.assert_array_equal(known[5:10], known[:5])
        np.testing.assert_array_equal(known[10:], known[:5])


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from mnemoscope.audit import passing
passing.PART_PASSAGES = 4
model, settings, passages = pickle.loads(Path(sys.argv[1]).read_bytes())
told = []
def die(number):
    told.append(number)
    if len(told) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
passing.pass_over(model, settings, passages, folder=Path(sys.argv[2]), progress=die)
"""


def test_a_killed_pass_goes_on(tmp_path, small_parts):
    """SIGKILL after two of four parts: the others alone are read again, and the facts are those of a pass in one go."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=14)
    model = save(tmp_path / "model", network)
    whole = pass_over(model, settings(model), passages, folder=tmp_path / "whole")
    asked = tmp_path / "asked.pickle"
    asked.write_bytes(pickle.dumps((model, settings(model), passages)))
    command = [sys.executable, "-c", KILLED, str(asked), str(tmp_path / "facts")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    engine = Recording()
    same(whole, pass_over(model, settings(model), passages, engine=engine, folder=tmp_path / "facts"))
    assert engine.parts == [2, 3]
    again = Recording()
    same(whole, pass_over(model, settings(model), passages, engine=again, folder=tmp_path / "facts"))
    assert again.parts == []


def test_a_part_that_does_not_fit_is_read_anew(tmp_path, small_parts):
    """Cut short, empty, gone, of other settings, passages or weights; those of a larger audit are removed."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=14)
    model = save(tmp_path / "model", network)
    folder = tmp_path / "facts"
    whole = pass_over(model, settings(model), passages, folder=folder)
    first, second, third, _ = sorted(folder.glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    third.unlink()

    def parts_read(asked, given):
        engine = Recording()
        return engine.parts, pass_over(asked.model, asked, given, engine=engine, folder=folder)

    parts, facts = parts_read(settings(model), passages)
    same(whole, facts)
    assert parts == [0, 1, 2]
    assert parts_read(settings(model, samplings=SAMPLINGS[:1]), passages)[0] == [0, 1, 2, 3]
    assert parts_read(settings(model, samplings=SAMPLINGS[:1], batch_size=3), passages)[0] == []
    changed = passages._replace(tokens_RW=passages.tokens_RW.copy())
    longest = int(np.lexsort((np.arange(14), passages.length_R))[-1])
    changed.tokens_RW[longest, 0] ^= 1
    assert parts_read(settings(model, samplings=SAMPLINGS[:1]), changed)[0] == [3]
    other = save(tmp_path / "model", build("gpt_neox", seed=1))
    parts, _ = parts_read(settings(other, samplings=()), passages.take(np.arange(6)))
    assert parts == [0, 1]
    assert len(list(folder.glob("*"))) == 2


def test_no_flipped_bit_gets_through(tmp_path):
    """Whichever byte of a part's file has a bit flipped: the part is not taken, or says what it said."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=4)
    model = save(tmp_path / "model", network)
    pass_over(model, settings(model), passages, folder=tmp_path / "facts")
    path = tmp_path / "facts" / "part-00000.parquet"
    content, part = path.read_bytes(), Part(0, 0, 4)
    key = pq.read_schema(path).metadata[b"mnemoscope.audit.key"].decode()
    whole = read_part(tmp_path / "facts", part, key)
    assert whole is not None
    taken = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        found = read_part(tmp_path / "facts", part, key)
        if found is not None:
            taken += 1
            for known, again in zip((*whole.tokens, *whole[1:]), (*found.tokens, *found[1:]), strict=True):
                np.testing.assert_array_equal(known, again)
    assert taken < len(content) / 7 / 2  # the rest is metadata that nobody asks for


def test_out_of_memory_halves_the_batch(tmp_path, monkeypatch):
    """A batch that does not fit is halved until it does, and the facts are the same; one alone is an error."""
    network = build("gpt_neox")
    passages = planted(network, num_rows=9)
    model = save(tmp_path / "model", network)
    whole = pass_over(model, settings(model), passages, folder=tmp_path / "whole")
    most, tried = [2], []
    genuine = reading.read_passages
    monkeypatch.setattr(reading, "read_passages", lambda *a, **k: read_with(genuine, tried, most, *a, **k))
    found = pass_over(model, settings(model, batch_size=8), passages, folder=tmp_path / "halved")
    same(whole, found, atol=3e-4, rtol=1e-4)
    assert tried == [8, 4, 2]
    most[0] = 0
    with pytest.raises(ScoringError, match="no memory for one sequence of 21 tokens"):
        pass_over(model, settings(model), passages, folder=tmp_path / "none")


def read_with(genuine, tried, most, *arguments, batch_size, **given):
    """A reading that runs out of memory with more than so many passages per pass."""
    tried.append(batch_size)
    if batch_size > most[0]:
        raise torch.OutOfMemoryError
    return genuine(*arguments, batch_size=batch_size, **given)


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


def test_passages_that_a_model_cannot_take_are_refused(tmp_path):
    """More positions or ids than it has, and weights that are no numbers: errors that name the passage."""
    network = build("gpt2")
    model = save(tmp_path / "model", network)
    asked = settings(model, contexts=(100,), continuations=(40,))
    rows = [np.zeros(140, np.int32)] * 2
    with pytest.raises(ModelError, match=r"the longest passage .* has 140 tokens, the model 128 positions: shorten"):
        pass_over(model, asked, passages_of(rows, [(100,)] * 2), folder=tmp_path / "f")
    passages = passages_of([np.full(21, 5), np.full(21, 96), np.full(21, VOCAB)])
    with pytest.raises(
        ModelError, match=r"training file, line or row 3, passage .* token id 97; the model's vocabulary"
    ):
        pass_over(model, settings(model), passages, folder=tmp_path / "f")
    with torch.no_grad():
        network.transformer.wte.weight[7] = torch.nan
    broken = save(tmp_path / "broken", network)
    passages = passages_of([np.full(21, 5), np.arange(21)])
    with pytest.raises(ScoringError, match=r"broken, .*line or row \d, .* not finite at token 1 of the passage"):
        pass_over(broken, settings(broken), passages, folder=tmp_path / "f")


def test_weights_that_change_on_the_way_are_noticed(tmp_path, monkeypatch):
    """The model that a worker loads must be the one that the parts' keys were made of."""
    network = build("gpt_neox")
    model = save(tmp_path / "model", network)
    hashes = iter([FileHashes("0", "0"), FileHashes("1", "0")])
    monkeypatch.setattr("mnemoscope.model.hash_files", lambda folder, with_code: next(hashes))
    with pytest.raises(ModelError, match="model: its files changed while it was audited; expected them to stay"):
        pass_over(model, settings(model), planted(network, num_rows=4), folder=tmp_path / "f")


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
