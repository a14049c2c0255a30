"""The black box: asked over real HTTP it says what the network says, through every failure, and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from tokenizers import Tokenizer

from byte_tokens import save_tokenizer
from endpoints import completing
from mnemoscope.audit.endpoint import Endpoint
from mnemoscope.audit.endpoint_facts import ask_passages, endpoint_near, endpoint_recited, measure_likeness
from mnemoscope.audit.facts import Passages
from mnemoscope.audit.journal import JOURNAL_NAME, Journal
from mnemoscope.audit.pacing import Pace
from mnemoscope.audit.questions import EXTRA_TOKENS
from mnemoscope.audit.units import Units
from mnemoscope.errors import ConfigError, EndpointError, StoreError
from networks import VOCAB, build, generate, plant_sequences

CONTEXTS, CONTINUATIONS = (4, 8), (3, 6)
WINDOW = 14
TESTS = Path(__file__).parent


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


def passages_of(rows, lengths=None):
    num, width = rows.shape
    return Passages(
        tokens_RW=rows.astype(np.int32),
        length_R=np.full(num, width, np.int32) if lengths is None else np.array(lengths, np.int32),
        context_RC=np.tile(np.array(CONTEXTS, np.int32), (num, 1)),
        kind_R=["start"] * num,
        is_member_R=np.arange(num) % 3 != 2,
        document_R=np.arange(num, dtype=np.int32),
        line_R=np.arange(num, dtype=np.int64) + 1,
        start_R=np.zeros(num, np.int32),
    )


@pytest.fixture(scope="module")
def passages(network):
    """18 passages, of which the network recites some; the last is short, and one is there twice."""
    rows = plant_sequences(network, num_sequences=18, window_tokens=WINDOW, contexts=CONTEXTS)
    rows[16] = rows[15]
    return passages_of(rows, [WINDOW] * 17 + [11])


def asker(tokenizer, folder, *, context_labels=("4", "8"), **settings):
    """A function that asks a server about passages."""

    def ask(server, passages, **more):
        endpoint = Endpoint(**{"url": server.url, "model": "tiny", "timeout_seconds": 30, **settings, **more})
        return ask_passages(
            endpoint,
            passages,
            lambda tokens: tokenizer.decode(tokens.tolist(), skip_special_tokens=False),
            encode=lambda text: tokenizer.encode(text).ids,
            context_labels=context_labels,
            continuations=CONTINUATIONS,
            folder=folder,
        )

    return ask


@pytest.fixture
def ask(tokenizer, tmp_path):
    return asker(tokenizer, tmp_path / "facts")


def brute_force(network, passages):
    """Whether the network itself says each continuation, token by token; [R, C, N]."""
    found = np.zeros((len(passages.length_R), len(CONTEXTS), len(CONTINUATIONS)), bool)
    for row, column, place in np.ndindex(found.shape):
        k, n = CONTEXTS[column], CONTINUATIONS[place]
        if k + n <= passages.length_R[row]:
            said = generate(network, passages.tokens_RW[row : row + 1, :k].astype(np.int64), n)[0]
            found[row, column, place] = (said == passages.tokens_RW[row, k : k + n]).all()
    return found


def num_prompts(passages):
    """Different questions: by context and by how much can be asked for."""
    asked = set()
    for row, length in enumerate(passages.length_R):
        for k in CONTEXTS:
            longest = max(n for n in CONTINUATIONS if k + n <= length)
            asked.add((tuple(passages.tokens_RW[row, :k]), longest))
    return len(asked)


def units_of(passages):
    num = len(passages.length_R)
    return Units(cluster_R=np.arange(num), window_R=np.arange(num), is_kept_R=np.ones(num, bool))


def test_an_endpoint_recites_what_its_network_recites(network, tokenizer, passages, ask):
    """In every cell the text that comes over HTTP is a full match where the network's tokens are, and only there."""
    expected = brute_force(network, passages)
    assert 5 < expected.sum() < expected.size - 5
    with completing(network, tokenizer) as server:
        facts = ask(server, passages)
    np.testing.assert_array_equal(facts.recited_RCN, expected)
    lengths = np.array(CONTEXTS)[:, None] + np.array(CONTINUATIONS)
    np.testing.assert_array_equal(facts.known_RCN, lengths <= passages.length_R[:, None, None])
    assert len(server.questions) == num_prompts(passages) == 34  # 36 but for the passage that is there twice
    assert set(server.paths) == {"/v1/completions"}
    for question in server.questions:
        assert question["temperature"] == 0
        assert question["model"] == "tiny"
        assert question["max_tokens"] in {n + EXTRA_TOKENS for n in CONTINUATIONS}
    assert "token counts are approximate" in facts.notes[0]
    assert facts.notes[1].startswith("34 of 34 different prompts are answered")
    assert len(facts.notes) == 2
    assert facts.spending.num_requests == 34
    assert facts.spending.num_tokens == sum(
        len(tokenizer.encode(each["prompt"]).ids) + each["max_tokens"] for each in server.questions
    )


def test_rows_count_members_beside_heldout_passages(network, tokenizer, passages, ask):
    """Counts of full matches by cell equal those of brute force; a full match is near-verbatim by every criterion."""
    with completing(network, tokenizer) as server:
        facts = ask(server, passages)
    expected = brute_force(network, passages)
    rows = endpoint_recited(facts, units_of(passages))
    assert [(row.context, row.continuation) for row in rows] == [("4", 3), ("4", 6), ("8", 3), ("8", 6)]
    for row, (column, place) in zip(rows, np.ndindex(2, 2), strict=True):
        for share, own in ((row.member, passages.is_member_R), (row.control, ~passages.is_member_R)):
            known = facts.known_RCN[own, column, place]
            assert (share.count, share.n) == (expected[own, column, place].sum(), known.sum())
    similar, run = endpoint_near(facts, units_of(passages), context=1, continuation=6, least_similarity=0.8)
    for row in (similar, run):
        assert row.member.count >= rows[3].member.count
        assert row.control.count >= rows[3].control.count
    near = np.nan_to_num(facts.similarity_RCN[passages.is_member_R, 1, 1], nan=-1) >= 0.8 - 1e-9
    assert similar.member.count == near.sum()
    assert run.what == "common run of 3 tokens or more"
    assert run.member.count == (facts.longest_run_RCN[passages.is_member_R, 1, 1] >= 3).sum()


def test_what_comes_out_does_not_depend_on_how_it_was_asked(network, tokenizer, passages, tmp_path):
    """One question at a time, eight at once, and one context only: the same facts."""
    with completing(network, tokenizer) as server:
        one = asker(tokenizer, tmp_path / "1")(server, passages, max_concurrent=1)
        many = asker(tokenizer, tmp_path / "8")(server, passages, max_concurrent=8)
    assert one.answers == many.answers
    np.testing.assert_array_equal(one.recited_RCN, many.recited_RCN)
    np.testing.assert_array_equal(one.similarity_RCN, many.similarity_RCN)
    np.testing.assert_array_equal(one.longest_run_RCN, many.longest_run_RCN)


def test_several_questions_are_under_way_but_no_more_than_allowed(network, tokenizer, passages, ask):
    """The server answers its first three only once it has all three; it never has four."""
    together = threading.Barrier(3, timeout=20)

    def wait_for_others(server, question, number):
        if number < 3:
            together.wait()

    with completing(network, tokenizer, wait_for_others) as server:
        ask(server, passages, max_concurrent=3)
    assert not together.broken
    assert server.peak == 3


def truncated():
    """A body that promises more than it has."""
    return StreamingResponse(iter([b'{"choices": [{"text'.ljust(60)]), headers={"content-length": "500"})


FAILURES = {
    "500": lambda: PlainTextResponse("oh", 500),
    "503 without JSON": lambda: Response(b"\xff\xfe", 503),
    "429": lambda: JSONResponse({"error": {"message": "slow down", "code": None}}, 429),
    "truncated": truncated,
    "a page": lambda: PlainTextResponse("<html>proxy</html>"),
    "an error with status 200": lambda: JSONResponse({"error": {"message": "overloaded"}}),
    "nothing": lambda: Response(b""),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_that_passes_is_tried_again(network, tokenizer, passages, ask, failure):
    """Each third request fails once: the facts are those of brute force, at one more request for each failure."""
    failed = []

    def fail(server, question, number):
        if number % 3 == 0:
            failed.append(number)
            return FAILURES[failure]()
        return None

    with completing(network, tokenizer, fail) as server:
        facts = ask(server, passages)
    np.testing.assert_array_equal(facts.recited_RCN, brute_force(network, passages))
    assert len(server.questions) == num_prompts(passages) + len(failed) == facts.spending.num_requests
    assert len(failed) > 5


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(network, tokenizer, passages, ask):
    """After 429 with Retry-After: 1 and a date two seconds ahead nothing arrives before that time, from any thread."""
    from email.utils import formatdate

    held = []

    def hold(server, question, number):
        if number == 0:
            held.append((time.monotonic(), 1))
            return PlainTextResponse("wait", 429, {"Retry-After": "1"})
        if number == 1:
            until = int(time.time()) + 2
            held.append((time.monotonic(), until - time.time()))
            return PlainTextResponse("wait", 503, {"Retry-After": formatdate(until, usegmt=True)})
        return None

    with completing(network, tokenizer, hold) as server:
        ask(server, passages, max_concurrent=1)
    for (said, seconds), following in zip(held, server.times[1:], strict=False):
        assert following - said > seconds - 0.01


def test_requests_are_spaced_by_the_minutes_limit():
    """Of 600 per minute six leave from three threads in no less than half a second."""
    pace = Pace(600, threading.Event())
    begun = time.monotonic()
    threads = [threading.Thread(target=lambda: [pace.enter(), pace.enter()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun >= 0.5


def test_a_stop_ends_every_wait():
    """Whoever waits for a turn in an hour is told to stop."""
    stop = threading.Event()
    pace = Pace(None, stop)
    pace.hold(3600)
    said = []
    thread = threading.Thread(target=lambda: said.append(pace.enter()))
    thread.start()
    stop.set()
    thread.join(10)
    assert said == [False]


def test_a_slow_server_is_asked_again_and_what_it_may_have_cost_counts(network, tokenizer, passages, ask):
    """An answer that takes longer than allowed is asked for again; its tokens stay in the sum as an estimate."""
    release = threading.Event()

    def stall(server, question, number):
        if number == 0:
            release.wait(20)

    with completing(network, tokenizer, stall) as server:
        facts = ask(server, passages, timeout_seconds=1, max_concurrent=1)
        release.set()
    assert len(server.questions) == num_prompts(passages) + 1
    first = server.questions[0]
    assert server.prompts[:2] == [first["prompt"]] * 2
    cost = [len(tokenizer.encode(each["prompt"]).ids) + each["max_tokens"] for each in server.questions]
    assert facts.spending.num_tokens == sum(cost)


def test_a_body_that_drips_is_given_up(network, tokenizer, passages, ask):
    """A byte now and then keeps the connection alive, but not beyond the time for one answer."""

    def drip(server, question, number):
        def letters():
            for _ in range(100):
                yield b" "
                time.sleep(0.1)

        return StreamingResponse(letters()) if number == 0 else None

    with completing(network, tokenizer, drip) as server:
        facts = ask(server, passages, timeout_seconds=0.5, max_concurrent=1)
    assert len(server.questions) == num_prompts(passages) + 1
    assert facts.known_RCN.any()


def always(response):
    return lambda server, question, number: response()


FINAL = {
    "no key": (lambda: PlainTextResponse("no", 401), ("HTTP 401", "the variable that holds the API key")),
    "nothing there": (
        lambda: JSONResponse({"error": {"message": "no such model"}}, 404),
        ("HTTP 404", "no such model"),
    ),
    "chat": (lambda: JSONResponse({"choices": [{"message": {"content": "x"}}]}), ("chat endpoint",)),
    "other JSON": (lambda: JSONResponse({"choices": []}), ("no choices with a text",)),
    "no object": (lambda: JSONResponse([1]), ("no choices with a text",)),
    "no text": (lambda: JSONResponse({"choices": [{"text": None}]}), ("no choices with a text",)),
    "huge": (lambda: StreamingResponse(b" " * 65536 for _ in range(80)), ("more than 4194304 bytes",)),
    "quota": (
        lambda: JSONResponse({"error": {"message": "pay", "code": "insufficient_quota"}}, 429),
        ("HTTP 429", "insufficient_quota"),
    ),
    "long wait": (lambda: Response(b"", 429, {"Retry-After": "7200"}), ("left alone for 7200 seconds", "run again")),
    "every prompt": (lambda: PlainTextResponse("bad temperature", 400), ("refuses every prompt", "bad temperature")),
    "always broken": (lambda: Response(b"", 502), ("no answer in 2 tries", "HTTP 502", "run again")),
}


@pytest.mark.parametrize("case", FINAL)
def test_a_failure_that_stays_is_told_in_one_line(network, tokenizer, passages, ask, case):
    """The address, what came and what to do; not one request for each passage is wasted on it."""
    response, words = FINAL[case]
    with completing(network, tokenizer, always(response)) as server, pytest.raises(EndpointError) as caught:
        ask(server, passages, max_tries=2)
    message = str(caught.value)
    assert message.startswith(f"{server.url}/completions: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert len(server.questions) <= 12


def test_a_redirect_is_not_followed(network, tokenizer, passages, ask, monkeypatch):
    """Neither texts nor key go where a server points to."""
    monkeypatch.setenv("SOME_KEY", "sk-secret-0123456789")
    with completing(network, tokenizer) as other:
        target = f"{other.url}/completions"
        for status in (301, 302, 303, 307, 308):
            away = always(lambda status=status: RedirectResponse(target, status))
            with completing(network, tokenizer, away) as server, pytest.raises(EndpointError, match="not followed"):
                ask(server, passages, key_variable="SOME_KEY")
    assert other.questions == []


def test_nobody_listening_is_told(tokenizer, passages, ask):
    """A port without a server: refused, tried as often as allowed, and told in a line."""

    class Nobody:
        url = "http://127.0.0.1:9/v1"

    with pytest.raises(EndpointError, match=r"no answer in 2 tries .*refused"):
        ask(Nobody, passages, max_tries=2)


def test_the_key_goes_to_the_server_and_nowhere_else(network, tokenizer, passages, tmp_path, monkeypatch):
    """It is in the header of each request; in no file and no message, not even where the server repeats it."""
    key, ask = "sk-secret-0123456789", asker(tokenizer, tmp_path / "facts")
    monkeypatch.setenv("SOME_KEY", key)
    with completing(network, tokenizer) as server:
        ask(server, passages, key_variable="SOME_KEY")
    assert {each["authorization"] for each in server.headers} == {f"Bearer {key}"}
    tell = always(lambda: JSONResponse({"error": {"message": f"no such key {key}\x1b[31m"}}, 401))
    with completing(network, tokenizer, tell) as server, pytest.raises(EndpointError) as caught:
        ask(server, passages, key_variable="SOME_KEY")
    assert "no such key ..." in str(caught.value)
    assert "SOME_KEY" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    echo = always(lambda: JSONResponse({"choices": [{"text": key}]}))
    with (
        completing(network, tokenizer, echo) as server,
        pytest.raises(EndpointError, match="has the API key in it") as two,
    ):
        ask(server, passages, key_variable="SOME_KEY")
    assert key not in str(caught.value) + str(two.value)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()


def test_without_a_key_none_is_sent(network, tokenizer, passages, ask, monkeypatch):
    """No Authorization header; a variable that is named and empty, or holds a line break, is a ConfigError."""
    with completing(network, tokenizer) as server:
        ask(server, passages)
        assert not any("authorization" in each for each in server.headers)
        for wrong in ("", "a b", "a\nHost: x"):
            monkeypatch.setenv("SOME_KEY", wrong)
            with pytest.raises(ConfigError, match="SOME_KEY"):
                ask(server, passages, key_variable="SOME_KEY")


def test_prompts_that_are_refused_count_nowhere(network, tokenizer, passages, ask):
    """A server that refuses long prompts: their cells are unknown, told of, and not asked again."""

    def refuse_long(server, question, number):
        if len(question["prompt"].split()) > 4:
            return JSONResponse({"error": {"message": "context too long", "code": 400}}, 400)
        return None

    with completing(network, tokenizer, refuse_long) as server:
        facts = ask(server, passages, max_concurrent=1)
        again = ask(server, passages, max_concurrent=1)
    assert not facts.known_RCN[:, 1].any()
    assert facts.known_RCN[:, 0].all()
    assert facts.notes[2] == "17 prompts were refused, and count nowhere; the first: HTTP 400 (context too long)"
    assert len(server.questions) == num_prompts(passages)
    assert again.notes == facts.notes


def test_a_budget_of_requests_holds_and_the_rest_is_unknown(network, tokenizer, passages, ask):
    """Five requests are five, and after them none; without the budget the others follow and nothing is asked twice."""
    with completing(network, tokenizer) as server:
        facts = ask(server, passages, max_requests=5)
        assert len(server.questions) == 5
        assert "29 prompts were not answered within the budget" in facts.notes[2]
        assert len({text for row in facts.answers for text in row} - {None}) <= 5
        known = facts.known_RCN.any(2).sum()
        assert 5 <= known <= 7  # equal passages share their answers
        ask(server, passages, max_requests=5)
        assert len(server.questions) == 5
        whole = ask(server, passages)
    assert len(server.questions) == num_prompts(passages)
    np.testing.assert_array_equal(whole.recited_RCN, brute_force(network, passages))


def test_a_budget_of_requests_counts_failures(network, tokenizer, passages, ask):
    """Where every other request fails, six requests are six."""

    def fail(server, question, number):
        return Response(b"", 500) if number % 2 else None

    with completing(network, tokenizer, fail) as server:
        facts = ask(server, passages, max_requests=6)
    assert len(server.questions) == 6 == facts.spending.num_requests


def test_a_budget_of_tokens_is_not_exceeded(network, tokenizer, passages, ask):
    """The server's own count of tokens stays within the budget, and within one question of it."""
    with completing(network, tokenizer) as server:
        facts = ask(server, passages, max_tokens=150)
    spent = sum(len(tokenizer.encode(each["prompt"]).ids) + each["max_tokens"] for each in server.questions)
    assert 150 - (8 + 6 + EXTRA_TOKENS) < spent <= 150
    assert facts.spending.num_tokens == spent


CLIENT = """
import sys
from pathlib import Path
import numpy as np
from tokenizers import Tokenizer
from mnemoscope.audit.endpoint import Endpoint
from mnemoscope.audit.endpoint_facts import ask_passages
from test_audit_endpoint import CONTINUATIONS, passages_of

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


def test_another_model_or_prompt_is_another_question(network, tokenizer, passages, ask):
    """Answers of one model are not taken for another's."""
    with completing(network, tokenizer) as server:
        ask(server, passages)
        ask(server, passages, model="other")
    assert len(server.questions) == 2 * num_prompts(passages)


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


def test_blanks_count_and_a_server_that_drops_them_is_told_of(network, tokenizer, passages, ask):
    """Answers without their first blank are no full matches; how many would be one is noted."""
    expected = brute_force(network, passages)

    def strip(server, question, number):
        return server.complete(question, change=str.lstrip)

    with completing(network, tokenizer, strip) as server:
        facts = ask(server, passages)
    assert not facts.recited_RCN.any()
    np.testing.assert_array_equal(facts.unspaced_RCN, expected)
    assert facts.notes[2].startswith(f"{expected.any((1, 2)).sum()} passages are recited but for blanks")


def test_text_that_cannot_be_cut_is_not_asked_about(tmp_path):
    """By hand, with bytes as tokens: a context that ends inside é has no question; a continuation that does ends
    before it; halves of surrogates are mended.
    """
    asked = []

    def decode(tokens):
        return bytes(tokens.tolist()).decode("utf-8", "replace")

    def echo(server, question, number):
        asked.append(question["prompt"])
        return Response('{"choices": [{"text": "fgh\\ud800ij"}]}', media_type="application/json")

    texts = ["abcdefgh", "abc\u00e9efgh", "abcdfgh\u00e9", "    "]
    rows = np.zeros((4, 9), np.int32)
    lengths = [len(text.encode()) for text in texts]
    for row, text in enumerate(texts):
        rows[row, : lengths[row]] = list(text.encode())
    passages = passages_of(rows, lengths)
    with completing(None, None, echo) as server:
        facts = ask_passages(
            Endpoint(url=server.url, model="m"),
            passages,
            decode,
            context_labels=("4", "8"),
            continuations=(3, 4),
            contexts=(0,),
            folder=tmp_path,
        )
    assert asked == ["abcd"]  # of the first passage and of the third
    assert facts.truths[0][0] == ("efg", "efgh")
    assert facts.truths[1][0] == (None, None)
    assert facts.truths[2][0] == ("fgh", "fgh")
    assert facts.recited_RCN[:, 0].tolist() == [[False, False], [False, False], [True, True], [False, False]]
    assert facts.answers[2][0] == "fgh\ufffdij"
    assert "1 contexts cannot be asked about as text" in facts.notes[2]


def naive_likeness(true, said):
    """Edit distance and longest common run by their definitions."""
    previous = list(range(len(said) + 1))
    for i, a in enumerate(true, 1):
        current = [i]
        for j, b in enumerate(said, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    runs = [
        n
        for n in range(len(true) + 1)
        for i in range(len(true) - n + 1)
        for j in range(len(said) - n + 1)
        if true[i : i + n] == said[j : j + n]
    ]
    return 1 - previous[-1] / len(true), max(runs)


def test_likeness_is_that_of_its_definition():
    """Over random token lists, shorter answers among them, equal to the naive version; by hand for one."""
    assert measure_likeness([1, 2, 3, 4], [9, 1, 2, 3]) == (1 - 2 / 4, 3)
    assert measure_likeness([1, 2], []) == (0, 0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        true, said = (rng.integers(0, 4, size).tolist() for size in (rng.integers(1, 9), rng.integers(0, 9)))
        said = said[: len(true)]
        similarity, run = measure_likeness(true, said)
        expected = naive_likeness(true, said)
        assert similarity == pytest.approx(expected[0])
        assert run == expected[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "ftp://host/v1"}, "https://host/v1"),
        ({"url": "host/v1"}, "https://host/v1"),
        ({"url": "http://host/v1"}, "--insecure-http"),
        ({"url": "http://127.0.0.1.example.org/v1"}, "--insecure-http"),
        ({"url": "https://user:secret@host/v1"}, "user or password"),
        ({"url": "https://host/v1?key=secret"}, "expected an address"),
        ({"url": "https://host:99999/v1"}, "no address"),
        ({"url": "https://ho st/v1"}, "no blanks"),
        ({"url": "https://" + "a" * 70 + "/v1"}, "no address"),
        ({"model": ""}, "model"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"max_concurrent": 1000}, "at most 256"),
        ({"max_requests": 0}, "max_requests"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tries": 0}, "max_tries"),
        ({"requests_per_minute": 0.0}, "requests_per_minute"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    """One line with what is expected, and never a password or what stands behind a question mark."""
    with pytest.raises(ConfigError) as caught:
        Endpoint(**{"url": "https://host/v1", "model": "m", **settings})
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_loopback", "address"),
    [
        ("http://localhost:8000/v1/", True, "http://localhost:8000/v1/completions"),
        ("http://127.3.2.1/v1", True, "http://127.3.2.1/v1/completions"),
        ("http://[::1]:8/v1/completions", True, "http://[::1]:8/v1/completions"),
        ("https://api.host/v1", False, "https://api.host/v1/completions"),
    ],
)
def test_addresses_are_known(url, is_loopback, address):
    """http is for this machine alone; the path is added once."""
    endpoint = Endpoint(url=url, model="m")
    assert (endpoint.is_loopback, endpoint.address) == (is_loopback, address)
    assert Endpoint(url="http://10.0.0.1/v1", model="m", insecure_http=True).is_loopback is False


def test_a_proxy_is_not_asked_for_this_machine(network, tokenizer, passages, ask, monkeypatch):
    """With proxies in the environment, loopback is asked directly."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with completing(network, tokenizer) as server:
        facts = ask(server, passages, max_requests=1)
    assert len(server.questions) == facts.spending.num_requests == 1


def test_it_runs_without_torch():
    """Asking an endpoint needs no torch: it is not imported."""
    words = "import sys, mnemoscope.audit.endpoint_facts, mnemoscope.audit.planting; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
