"""The black box: asked over real HTTP it says what the network says, through every failure, and nothing twice."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response
from tokenizers import Tokenizer

from byte_tokens import save_tokenizer
from endpoints import (
    CONTEXTS,
    CONTINUATIONS,
    asker,
    brute_force,
    completing,
    num_prompts,
    passages_of,
    recited_passages,
)
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.black_box.endpoint_facts import ask_passages, measure_likeness
from mnemoscope.audit.black_box.endpoint_rows import endpoint_exposed, endpoint_near, endpoint_recited
from mnemoscope.audit.black_box.questions import EXTRA_TOKENS
from mnemoscope.audit.exposed import Described
from mnemoscope.audit.units import Units
from mnemoscope.errors import ConfigError
from networks import VOCAB, build, generate


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


def test_the_most_exposed_come_first_and_each_once(network, tokenizer, passages, ask):
    """Of the cell of brute force: every recited member, then the nearly recited, copies deciding among equals."""
    with completing(network, tokenizer) as server:
        facts = ask(server, passages)
    expected = brute_force(network, passages)[:, 0, 1] & passages.is_member_R
    copies = np.arange(len(expected))
    units = units_of(passages)
    cell = {"context": 0, "continuation": 6, "least_similarity": 0.1}

    def describe(context, continuation):
        return Described(tokenizer.decode(context.tolist()), tokenizer.decode(continuation.tolist()), ("kind",))

    rows = endpoint_exposed(facts, units, copies, **cell, describe=describe)
    full = [row for row in rows if row.is_full]
    assert rows[: len(full)] == tuple(full)
    assert [row.passage for row in full] == np.flatnonzero(expected)[::-1].tolist()
    for row in rows:
        tokens = passages.tokens_RW[row.passage]
        said = generate(network, tokens[None, :4].astype(np.int64), 6)[0]
        assert row.num_recited == (6 if row.is_full else int(np.argmax(said != tokens[4:10])))
        assert row.is_full or 0.1 <= row.similarity < 1
        assert (row.context, row.continuation, row.line) == (4, 6, row.passage + 1)
        assert row.continuation_text == tokenizer.decode(tokens[4:10].tolist())
    near = [row.similarity for row in rows if not row.is_full]
    assert near
    assert near == sorted(near, reverse=True)
    assert endpoint_exposed(facts, units, copies, **cell, describe=describe, limit=2) == rows[:2]


def test_what_comes_out_does_not_depend_on_how_it_was_asked(network, tokenizer, passages, tmp_path):
    """One question at a time, eight at once, and one context only: the same facts."""
    with completing(network, tokenizer) as server:
        one = asker(tokenizer, tmp_path / "1")(server, passages, max_concurrent=1)
        many = asker(tokenizer, tmp_path / "8")(server, passages, max_concurrent=8)
    assert one.answers == many.answers
    np.testing.assert_array_equal(one.recited_RCN, many.recited_RCN)
    np.testing.assert_array_equal(one.similarity_RCN, many.similarity_RCN)
    np.testing.assert_array_equal(one.longest_run_RCN, many.longest_run_RCN)


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


def test_another_model_or_prompt_is_another_question(network, tokenizer, passages, ask):
    """Answers of one model are not taken for another's."""
    with completing(network, tokenizer) as server:
        ask(server, passages)
        ask(server, passages, model="other")
    assert len(server.questions) == 2 * num_prompts(passages)


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


def test_it_runs_without_torch():
    """Asking an endpoint needs no torch: it is not imported."""
    modules = "mnemoscope.audit.black_box.endpoint_facts, mnemoscope.audit.files.planting"
    words = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
