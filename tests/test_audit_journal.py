"""The journal of an endpoint's answers: kills, torn lines and second processes lose nothing that was paid for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from byte_tokens import save_tokenizer
from endpoints import (
    CONTEXTS,
    WINDOW,
    asker,
    brute_force,
    completing,
    passages_of,
    recited_passages,
)
from mnemoscope.audit.black_box.journal import JOURNAL_NAME, Journal
from mnemoscope.errors import StoreError
from networks import VOCAB, build, plant_sequences


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """Tries follow one another at once; what a server asks for is waited for all the same."""
    monkeypatch.setattr("mnemoscope.retries.FIRST_SECONDS", 0.001)


@pytest.fixture(scope="module")
def network():
    return build("gpt_neox")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_file(str(save_tokenizer(tmp_path_factory.mktemp("t") / "tokenizer.json", vocab_size=VOCAB)))


@pytest.fixture(scope="module")
def passages(network):
    """18 passages, of which the network recites some; the last is short, and one is there twice."""
    return recited_passages(network)


@pytest.fixture
def ask(tokenizer, tmp_path):
    return asker(tokenizer, tmp_path / "facts")


TESTS = Path(__file__).parent


CLIENT = """
import sys
from pathlib import Path
import numpy as np
from tokenizers import Tokenizer
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.endpoint_facts import ask_passages
from endpoints import CONTINUATIONS, passages_of

url, folder = sys.argv[1:3]
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
ask_passages(
    Endpoint(url=url, model="tiny", max_concurrent=1),
    passages_of(np.load(f"{folder}/rows.npy")),
    lambda tokens: tokenizer.decode(tokens.tolist(), skip_special_tokens=False),
    context_labels=("4", "8"),
    continuations=CONTINUATIONS,
    folder=Path(folder) / "facts",
)
"""


def test_a_killed_client_goes_on_and_asks_nothing_twice_that_was_answered(network, tokenizer, tmp_path):
    """Killed while its eighth request is under way: this one is asked again, the seven before it are not."""
    rows = plant_sequences(network, num_sequences=12, window_tokens=WINDOW, contexts=CONTEXTS)
    np.save(tmp_path / "rows.npy", rows)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    arrived, release = threading.Event(), threading.Event()

    def hold_eighth(server, question, number):
        if number == 7:
            arrived.set()
            release.wait(60)

    with completing(network, tokenizer, hold_eighth) as server:
        command = [sys.executable, "-c", CLIENT, server.url, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
        client = subprocess.Popen(command, env=environment)
        assert arrived.wait(120)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        release.set()
        facts = asker(tokenizer, tmp_path / "facts")(server, passages_of(rows), max_concurrent=1)
    counts = Counter(server.prompts)
    assert counts.pop(server.prompts[7]) == 2
    assert set(counts.values()) == {1}
    assert len(server.questions) == 24 + 1 == facts.spending.num_requests
    np.testing.assert_array_equal(facts.recited_RCN, brute_force(network, passages_of(rows)))


def test_a_torn_last_line_is_asked_again_and_a_damaged_one_is_told(network, tokenizer, passages, ask, tmp_path):
    """Cut anywhere inside its last line the journal loses one answer; a line that is no record names its number."""
    path = tmp_path / "facts" / JOURNAL_NAME
    with completing(network, tokenizer) as server:
        whole = ask(server, passages, max_concurrent=1)
        content = path.read_bytes()
        num = len(server.questions)
        for cut in (1, 20):
            path.write_bytes(content[:-cut])
            again = ask(server, passages, max_concurrent=1)
            num += 1
            assert len(server.questions) == num
            assert again.answers == whole.answers
            assert all(json.loads(line) for line in path.read_bytes().splitlines())
        lines = content.splitlines(keepends=True)
        for damaged in (b"\x00" * 30 + b"\n", b'{"sent": 3}\n', b"[]\n"):
            path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
            with pytest.raises(StoreError, match=r"answers\.jsonl: line 3 is damaged"):
                ask(server, passages)
        assert len(server.questions) == num


def test_one_process_asks_at_a_time(tmp_path):
    """A second one is told, and the first one's answers stay."""
    with Journal(tmp_path) as first:
        first.answer("a", "text", 3)
        with pytest.raises(StoreError, match="another process is asking"):
            Journal(tmp_path)
    with Journal(tmp_path) as second:
        assert second.answers == {"a": "text"}
    assert (tmp_path / JOURNAL_NAME).stat().st_mode & 0o077 == 0


def test_the_journal_counts_what_was_spent_over_kills(tmp_path):
    """By hand: an answer costs what it cost, a failure what it may have, a request without an end its estimate."""
    limits = {"max_requests": None, "max_tokens": None}
    with Journal(tmp_path) as journal:
        for key, tokens in (("a", 10), ("b", 20), ("c", 30), ("d", 40)):
            assert journal.send(key, tokens, **limits)
        journal.answer("a", "x\u2028\ud800"[:2], 7)
        journal.fail("b", 0)
        journal.refuse("c", "too long")
    with Journal(tmp_path) as journal:
        assert journal.spending == (4, 7 + 0 + 0 + 40)
        assert journal.answers == {"a": "x\u2028"}
        assert journal.refusals == {"c": "too long"}
        assert journal.send("d", 40, **limits)
        journal.answer("d", "y", 5)
        assert journal.spending == (5, 7 + 40 + 5)
        assert not journal.send("e", 9, max_requests=5, max_tokens=None)
        assert not journal.send("e", 9, max_requests=None, max_tokens=60)
        assert journal.send("e", 8, max_requests=6, max_tokens=60)
