"""What looks private is found in text and hidden token by token, in the truth and in what models said; else little."""

from __future__ import annotations

import ast
import random
import sysconfig
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mnemoscope.private_text import find_private
from mnemoscope.redaction import hide_tokens, hide_verbatim, redact_sequence
from mnemoscope.sequence_facts import HIDDEN, ScoreKey, SequenceFacts, Trace

AWS = "AKIA" + "QWERTYUIOP123456"
PRIVATE = [
    ("e-mail address", "jane.doe+news@mail.example.co.uk"),
    ("e-mail address", "J\u00fcrgen@b\u00fccher.de"),
    ("e-mail address", "O'Brien@example.ie"),
    ("e-mail address", "x@example.xn--p1ai"),
    ("password", "jane:hunter2@"),
    ("telephone number", "+49 30 1234567"),
    ("telephone number", "+1 (415) 555-2671"),
    ("telephone number", "(415) 555-2671"),
    ("telephone number", "415-555-2671"),
    ("telephone number", "415.555.2671"),
    ("telephone number", "030 1234567"),
    ("telephone number", "01 23 45 67 89"),
    ("key", AWS),
    ("key", "ghp_" + "a1B2" * 9),
    ("key", "sk-proj-" + "a1B2c3D4" * 4),
    ("key", "xoxb-" + "123456789012-abcdEFGH"),
    ("key", "AIza" + "SyA1_b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    ("key", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    ("key", "wJalrXUtnFEMI7K2MDENGbPxRfiCY4EXAMPLEKEY"),
    ("card number", "4111111111111111"),
    ("card number", "5500 0055 5555 5559"),
    ("card number", "3782-822463-10005"),
    ("account number", "DE89 3704 0044 0532 0130 00"),
    ("account number", "GB82WEST12345698765432"),
]
ORDINARY = [
    "version 3.11.4, build 20240115.1, numpy==1.26.4, 192.168.178.123, 10.0.0.1:8080",
    "2024-01-15T12:34:56+00:00 and 15/01/2024 12:34:56,789",
    "@property\n    def size(self): return self.a @ other.b",
    "x = [1000, 2000, 3000]; y = 3.14159265358979323846; z = 0x7fffffffffffffff; w = 1e-10",
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "test_a_very_long_function_name_that_says_what_it_tests_123",
    "site-packages/transformers/models/gpt_neox/modeling_gpt_neox.py:1024",
    "AbstractAsyncContextManagerFactoryBuilder2 and 00000000000000000000000000000000",
    "-----BEGIN CERTIFICATE-----",
    "https://example.org:8080/path?query=1#top",
    "4111111111111112 and 1234 5678 9012 3456",
    "DE89 3704 0044 0532 0130 01",
]


def cut(text, rng):
    """The text in random pieces, some of them empty."""
    places = sorted(rng.choices(range(len(text) + 1), k=max(1, len(text) // 3)))
    return [text[start:stop] for start, stop in pairwise([0, *places, len(text)])]


@pytest.mark.parametrize(("kind", "secret"), PRIVATE)
def test_private_text_is_found_whole(kind, secret):
    """Each kind is found with its first and its last character, at the ends of a text and among ordinary words."""
    inside = "://" if kind == "password" else " "
    start = inside if kind == "password" else ""
    for before, after in ((start, ""), (f"x ={inside}", " and more"), (f"\n{inside}", "\n"), (f"({inside}", ")")):
        found = find_private(f"{before}{secret}{after}")
        spans = [span for span in found if (span.start, span.stop) == (len(before), len(before) + len(secret))]
        assert kind in {span.kind for span in spans}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text):
    """Versions, dates, addresses of machines, names in code, alphabets and wrong check digits are nothing private."""
    assert find_private(text) == []


def test_real_code_is_left_alone():
    """In a million characters of Python's library nothing but e-mail addresses looks private."""
    library = Path(sysconfig.get_path("stdlib"))
    names = "argparse ast bdb calendar configparser datetime difflib doctest functools heapq inspect ipaddress locale"
    names += " mailbox optparse pickle pickletools platform plistlib random statistics string subprocess tarfile"
    names += " textwrap threading tokenize turtle typing zipfile _pydecimal _pyio"
    found, num_characters = [], 0
    for name in names.split():
        text = (library / f"{name}.py").read_text("utf-8", "replace") if (library / f"{name}.py").is_file() else ""
        num_characters += len(text)
        found += [text[span.start : span.stop] for span in find_private(text) if span.kind != "e-mail address"]
    assert num_characters > 1_000_000
    assert found == []


@pytest.mark.parametrize("wrong", [0, 1, 9])
def test_card_has_its_check_digit(wrong):
    """Of the ten last digits of a card number one is right: Luhn's, counted the slow way."""
    rng = random.Random(wrong)
    for _ in range(20):
        start = "4" + "".join(str(rng.randrange(10)) for _ in range(14))
        right = []
        for last in range(10):
            digits = [int(digit) for digit in f"{start}{last}"]
            total = sum(
                digit if place % 2 == 0 else (2 * digit if digit < 5 else 2 * digit - 9)
                for place, digit in enumerate(reversed(digits))
            )
            right += [last] if total % 10 == 0 else []
        hits = [
            last for last in range(10) if any(span.kind == "card number" for span in find_private(f"{start}{last}"))
        ]
        assert hits == right


@pytest.mark.parametrize("kind", ["card number", "account number", "telephone number"])
@pytest.mark.parametrize(
    "after", [" 123", " 12/27", " 1", " 5500 0055 5555 5559", " DE89 3704 0044 0532 0130 00", " AB12"]
)
def test_what_comes_behind_hides_nothing(kind, after):
    """A number is found with a month, a code, a word or another number behind it, which may look like its own part."""
    secrets = [secret for own, secret in PRIVATE if own == kind]
    assert secrets
    for secret in secrets:
        spans = find_private(f"to {secret}{after} or")
        assert any(span.start <= 3 and span.stop >= 3 + len(secret) for span in spans), secret


def test_a_row_of_account_numbers_is_found_whole():
    """Each account number of a row is found, also those that could be the tail of the one before."""
    numbers = ["GB82WEST12345698765432", "NO9386011117947", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"]
    found = [span for span in find_private(" ".join(numbers)) if span.kind == "account number"]
    assert [span.stop - span.start for span in found] == [len(number) for number in numbers]


def test_private_key_is_hidden_also_where_the_window_cuts_it():
    """A PEM block is one span; without its end it goes on to the text's end, without its beginning it began before."""
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    spans = {text: [(s.start, s.stop) for s in find_private(text) if s.kind == "private key"] for text in (
        f"a {begin}\nMII\n{end} b", f"a {begin}\nMII", f"MII\n{end} b", f"{begin} x {begin} y {end}", begin,
    )}  # fmt: skip
    assert spans == {
        f"a {begin}\nMII\n{end} b": [(2, 2 + 31 + 5 + 29)],
        f"a {begin}\nMII": [(2, 37)],
        f"MII\n{end} b": [(0, 33)],
        f"{begin} x {begin} y {end}": [(0, 31 + 3 + 31 + 3 + 29)],
        begin: [(0, 31)],
    }


HOSTILE = [
    "a",
    "a@",
    "@a.",
    "a'",
    "x@y.y.y.",
    "1",
    "1-",
    "12 ",
    "+1",
    "0 ",
    "0f",
    "aB3/",
    "eyJa.",
    "-----BEGIN ",
    "://a:",
]


@pytest.mark.parametrize("unit", [*HOSTILE, "-----END X PRIVATE KEY", "DE89 ", "SG.", "4111 ", "(", "\ufffd"])
def test_long_hostile_text_is_searched_to_its_end(unit):
    """Half a million characters made to send a search backwards are answered, and what follows them is still found."""
    text = (unit * 500_000)[:500_000] + " ://, jane@example.org"
    assert [text[span.start : span.stop] for span in find_private(text)][-1] == "jane@example.org"


def test_a_token_is_hidden_iff_it_shares_a_character_with_a_span():
    """However text is cut into tokens, those that overlap a span are hidden and no others, counted per character."""
    rng = random.Random(1)
    for _ in range(200):
        parts = [rng.choice([secret for _, secret in PRIVATE] + ORDINARY) for _ in range(4)]
        text = " | ".join(parts)
        is_private = [False] * len(text)
        for span in find_private(text):
            is_private[span.start : span.stop] = [True] * (span.stop - span.start)
        tokens = cut(text, rng)
        is_hidden = hide_tokens(tokens).tolist()
        start = 0
        for token, is_out in zip(tokens, is_hidden, strict=True):
            if token:
                assert is_out == any(is_private[start : start + len(token)])
            start += len(token)


def test_verbatim_text_ends_at_the_limit():
    """After so many shown tokens in a row all the rest is hidden; a hidden one in between starts the count anew."""
    none = np.zeros(10, np.bool_)
    assert hide_verbatim(none, max_verbatim_tokens=4).tolist() == [False] * 4 + [True] * 6
    assert not hide_verbatim(none, max_verbatim_tokens=10).any()
    broken = np.arange(10) == 3
    assert np.flatnonzero(hide_verbatim(broken, max_verbatim_tokens=4)).tolist() == [3, 8, 9]


def facts_of(truth, said, *, context, texts=True):
    """Facts of one sequence: a token for each text; -1 at index 0 of what was said."""
    words = sorted({*truth, *said})
    ids = {word: number for number, word in enumerate(words)}
    trace = Trace(
        np.array([ids[word] for word in truth], np.int64),
        np.array([-1, *(ids[word] for word in said[1:])], np.int64),
        np.zeros(len(truth)),
    )
    return SequenceFacts(
        sequence_id=0,
        group="member",
        offset=0,
        num_repeats=None,
        tokens=tuple(ids[word] for word in truth),
        texts={number: word for word, number in ids.items()} if texts else None,
        scores={},
        traces={ScoreKey("a", context): trace},
        notes=(),
    )


def generated(facts):
    return next(iter(facts.traces.values())).generated_tokens_P.tolist()


def test_a_secret_is_hidden_wherever_it_is_said():
    """A true secret hides what the model said in its place, its texts are gone, and the rest stays."""
    truth = ["write", " to", " jane", "@", "example", ".org", " now", " or"]
    said = ["?", " by", " jane", "@", "sample", ".org", " now", " then"]
    found = redact_sequence(facts_of(truth, said, context=2))
    assert found.redacted == (2, 3, 4, 5)
    assert [found.texts.get(token, "#") for token in found.tokens] == ["write", " to", *"####", " now", " or"]
    assert [found.texts.get(token, "#") for token in generated(found)[1:]] == [" by", *"####", " now", " then"]
    assert next(iter(found.traces.values())).true_tokens_P.tolist() == list(found.tokens)
    assert not {" jane", "@", "example", "sample", ".org"} & set(found.texts.values())
    assert "4 of 8 tokens are hidden" in found.notes[-1]


def test_a_secret_that_only_the_model_says_is_hidden():
    """A generated address that begins in the context hides its part of the context, and no true token that differs."""
    truth = ["write", " jane", " is", " a", " friend"]
    said = ["?", " to", "@", "example.org", " friend"]
    found = redact_sequence(facts_of(truth, said, context=2))
    assert found.redacted == (1,)
    assert [found.texts.get(token, "#") for token in generated(found)[1:]] == ["#", "#", "#", " friend"]
    assert [found.texts.get(token, "#") for token in found.tokens] == ["write", "#", " is", " a", " friend"]


def test_a_hidden_generation_hides_the_same_true_token():
    """Where a model's own secret takes in a token that is also the true one, the true one is hidden too."""
    truth = ["call", " +49", " 30", " what"]
    said = ["?", " +49", " 30", " 1234567"]
    found = redact_sequence(facts_of(truth, said, context=1))
    assert found.redacted == (1, 2)
    assert generated(found) == [-1, HIDDEN, HIDDEN, HIDDEN]


def test_nothing_is_shown_where_nothing_can_be_told():
    """Without a tokenizer all tokens are hidden, true and generated, and a note says why."""
    found = redact_sequence(facts_of(list("abcd"), list("abcd"), context=2, texts=False))
    assert set(found.tokens) == {HIDDEN}
    assert generated(found) == [-1, HIDDEN, HIDDEN, HIDDEN]
    assert "without a tokenizer" in found.notes[-1]


def test_a_token_without_text_may_belong_to_an_address():
    """A name whose letter is spread over two tokens is hidden with the letter's parts."""
    facts = facts_of(["to ", "J", "X", "Y", "rgen@example.org", "!"], list("zzzzzz"), context=6)
    texts = {token: text for token, text in facts.texts.items() if text not in ("X", "Y")}
    assert redact_sequence(replace(facts, texts=texts)).redacted == (1, 2, 3, 4)


def test_nothing_of_a_planted_secret_remains():
    """Property: secrets among ordinary words, cut at random into tokens: no character of one is left, all else is."""
    rng = random.Random(2)
    words = [word for word in ast.__doc__.split() if word.isalpha()]
    for _ in range(100):
        _, secret = rng.choice([pair for pair in PRIVATE if pair[0] != "password"])
        before, after = (" ".join(rng.choices(words, k=5)) for _ in range(2))
        head, tail = cut(before + " ", rng), cut(" " + after, rng)
        truth = [*head, *cut(secret, rng), *tail]
        truth = [token for token in truth if token]
        found = redact_sequence(facts_of(truth, ["?"] * len(truth), context=len(truth)), max_verbatim_tokens=1000)
        shown = "".join("" if token == HIDDEN else found.texts[token] for token in found.tokens)
        assert shown == f"{before}  {after}"


def test_redacting_leaves_what_is_not_text():
    """Scores, offsets and a sequence without tokens are as they were."""
    facts = facts_of(["a", "b"], ["a", "b"], context=1)
    assert redact_sequence(replace(facts, tokens=None, traces={})) == replace(facts, tokens=None, traces={})
    assert redact_sequence(facts).tokens == facts.tokens
    alone = facts_of(["to", " jane@example.org"], ["?", " jane@example.org"], context=1)
    found = redact_sequence(replace(alone, tokens=None))  # of which only a trace is left
    assert (generated(found), found.tokens) == ([-1, HIDDEN], (alone.tokens[0], HIDDEN))
    assert redact_sequence(facts).texts == facts.texts
