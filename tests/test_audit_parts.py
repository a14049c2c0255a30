"""Parts of a pass: on any engine, after a kill, damaged or out of memory the facts are the same; what is refused."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from audited_passages import SAMPLINGS, Recording, passages_of, planted, same, save, settings
from mnemoscope.audit import passing, reading
from mnemoscope.audit.fact_parts import Part, read_part
from mnemoscope.audit.passing import pass_over
from mnemoscope.errors import ModelError, ScoringError
from mnemoscope.model import FileHashes
from networks import VOCAB, build


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Here and in other processes: bits follow the number of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


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
