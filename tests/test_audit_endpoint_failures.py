"""An endpoint that fails, stalls, lies or costs: what is asked again, what is told, what is kept, what is spent."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from tokenizers import Tokenizer

from byte_tokens import save_tokenizer
from endpoints import (
    asker,
    brute_force,
    completing,
    num_prompts,
    recited_passages,
)
from mnemoscope.audit.black_box.pacing import Pace
from mnemoscope.audit.black_box.questions import EXTRA_TOKENS
from mnemoscope.errors import ConfigError, EndpointError
from networks import VOCAB, build


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


def promising():
    """A whole answer, of a body that promises more."""
    return StreamingResponse(iter([b'{"choices": [{"text": "wrong"}]}']), headers={"content-length": "500"})


FAILURES = {
    "500": lambda: PlainTextResponse("oh", 500),
    "503 without JSON": lambda: Response(b"\xff\xfe", 503),
    "429": lambda: JSONResponse({"error": {"message": "slow down", "code": None}}, 429),
    "truncated": truncated,
    "truncated behind a brace": promising,
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


def test_one_refusal_holds_every_thread(network, tokenizer, passages, ask):
    """Of two threads one is told to wait a second; the other, whose answer comes in then, asks nothing more before."""
    told = []
    refused = threading.Event()

    def hold_one(server, question, number):
        if number == 0:
            told.append(time.monotonic())
            refused.set()
            return PlainTextResponse("wait", 429, {"Retry-After": "1"})
        if number == 1:
            refused.wait(20)
            time.sleep(0.3)  # the refusal is read by then
        return None

    with completing(network, tokenizer, hold_one) as server:
        ask(server, passages, max_concurrent=2)
    assert len(server.questions) == num_prompts(passages) + 1
    assert min(server.times[2:]) - told[0] > 0.99


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
            for _ in range(50):
                yield b" "
                time.sleep(0.1)
            yield b'{"choices": [{"text": "too late"}]}'

        return StreamingResponse(letters()) if number == 0 else None

    with completing(network, tokenizer, drip) as server:
        facts = ask(server, passages, timeout_seconds=0.5, max_concurrent=1)
    assert len(server.questions) == num_prompts(passages) + 1
    assert "too late" not in {text for row in facts.answers for text in row}


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


def test_a_proxy_is_not_asked_for_this_machine(network, tokenizer, passages, ask, monkeypatch):
    """With proxies in the environment, loopback is asked directly."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with completing(network, tokenizer) as server:
        facts = ask(server, passages, max_requests=1)
    assert len(server.questions) == facts.spending.num_requests == 1
