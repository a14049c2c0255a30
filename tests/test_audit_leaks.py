"""Private things, code and licences in what is recited are found, counted once, beside held-out text, and hidden."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from mnemoscope.audit.leaks import (
    CODE_KINDS,
    HIDDEN,
    MAX_EXAMPLES,
    Recited,
    find_leaks,
    find_spans,
    kinds_of,
    redact_passage,
    redact_text,
    with_library,
)
from mnemoscope.errors import ConfigError
from mnemoscope.private_text import Span, find_private

MAIL, OTHER, CARD = "jane.doe@example.org", "joe@example.net", "4111 1111 1111 1111"
CODE = "def load(path):\n    with open(path) as file:\n        return json.load(file)\n\n    print(path)\n"
BRACES = 'int main(void) {\n  printf("%d of %d\\n", 3, 4 * 5);\n  return 0;\n}\n'
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
WRAPPED = " * Redistribution and use in source and binary\n * forms, with or without modification, are permitted"
PROSE = (
    "It was a bright cold day in April, and the clocks were striking thirteen; nobody had told them.\nHe walked on.\n"
    "Let us go then; the evening is spread out (as they say) against the sky.\n- one; two; three.\nThe licence of "
    "the inn was hereby granted to its keeper, and the copyright of his songs to nobody.\n"
)


def member(context: str, continuation: str) -> Recited:
    return Recited(context, continuation, True)


def held_out(continuation: str) -> Recited:
    return Recited("", continuation, False)


def numbers(*passages: Recited) -> dict[str, tuple[int, int, int]]:
    """By kind: different things, training passages, held-out passages."""
    return {leak.kind: (leak.num_spans, leak.num_passages, leak.num_control_passages) for leak in find_leaks(passages)}


def test_only_what_reaches_into_the_continuation_counts():
    """What the model was given is no leak; what begins there and ends in what it says is one."""
    assert numbers(member(f"write to {MAIL}", " today")) == {}
    assert numbers(member("write to jane.d", "oe@example.org today")) == {"e-mail address": (1, 1, 0)}
    assert kinds_of(f"{MAIL} and ", CARD) == ("card number",)


def test_the_same_thing_counts_once():
    """One address in three passages and two forms of one card are two different things of five passages."""
    cards = (member("", f"pay {CARD} now"), member("", f"pay {CARD.replace(' ', '-')} now"))
    mails = (member("", f"to {MAIL} now"), member("", f"for {MAIL.upper()} only"), member("a ", f"{MAIL} and {OTHER}"))
    assert numbers(*cards, *mails) == {"card number": (1, 2, 0), "e-mail address": (2, 3, 0)}


def test_what_held_out_text_holds_is_left_out():
    """An address that a held-out passage recites, too, is no leak, nor are the passages that hold only it."""
    assert numbers(member("", f"to {MAIL}"), held_out(f"to {MAIL}")) == {"e-mail address": (0, 0, 1)}
    found = numbers(
        member("", f"{MAIL} or {OTHER}"), member("", f"to {MAIL}"), held_out(MAIL), held_out("x@example.com")
    )
    assert found == {"e-mail address": (1, 1, 2)}


def test_private_kinds_come_first():
    """By number of different things, code and licences behind all that is private; none at all gives no row."""
    leaks = find_leaks([member("", CODE), member("", MIT), member("", f"{MAIL} {OTHER} {CARD}")])
    assert [leak.kind for leak in leaks][:2] == ["e-mail address", "card number"]
    assert {leak.kind for leak in leaks[2:]} == set(CODE_KINDS)
    assert find_leaks([member("", PROSE)]) == ()
    assert find_leaks([]) == ()


def test_examples_hide_everything_private():
    """An example shows what stands around its thing, and of no private thing a character; told otherwise, all."""
    passages = [member("", f"call me, says {MAIL} to {OTHER}, paying with {CARD} at noon")]
    for leak in find_leaks(passages):
        (*_, example) = leak.examples
        assert HIDDEN in example
        assert not any(part in example for part in ("jane", "joe", "example", "4111"))
    shown = {leak.kind: leak.examples for leak in find_leaks(passages, redacted=False)}
    assert CARD in shown["card number"][0]
    assert any(MAIL in example for example in shown["e-mail address"])


def test_examples_are_few():
    """Of ten different addresses three are shown."""
    leaks = find_leaks([member("", f"number {i}: someone{i}@example.org, yours") for i in range(10)], redacted=False)
    assert leaks[0].num_spans == 10
    assert len(leaks[0].examples) == MAX_EXAMPLES


@pytest.mark.parametrize(
    ("context", "continuation"), [(f"mail {MAIL[:6]}", MAIL[6:]), (f"x {CARD[:9]}", CARD[9:] + " y")]
)
def test_what_lies_across_the_border_is_hidden_on_both_sides(context, continuation):
    """A thing that begins in the context is hidden there, too, though neither part alone looks private."""
    shown = redact_passage(context, continuation)
    assert not any(find_private("".join(shown)))
    assert shown[0].endswith(HIDDEN)
    assert shown[1].startswith(HIDDEN)


@pytest.mark.parametrize("secret", ["sk-ant-api03-7f2d8ab39c11", "+49 30 12 34 567", "ada.lovelace@example.org"])
def test_what_an_end_cuts_through_is_hidden(secret):
    """Wherever a passage ends within a number, address or key, no digit is shown of it, and no @."""
    for cut in range(1, len(secret)):
        end, start = redact_passage("the word is ", secret[:cut])[1], redact_passage(secret[cut:] + " so", " it is")[0]
        for shown in (end, start, redact_text(f"the word is {secret[:cut]}")):
            assert not any(sign.isdigit() or sign == "@" for sign in shown)
        assert start.endswith(" so")
    leak = find_leaks([Recited("call ", "+49 30 1234567 or ask ada@b.org, +49 40 98", True)])[0]
    assert leak.examples
    assert not any(sign.isdigit() for example in leak.examples for sign in example)


def test_what_no_end_cuts_through_is_shown():
    """A text's own start, words inside, and sentences of a script without spaces stay."""
    assert redact_text("1984 was a year of 12 months") == "1984 was a year of 12 months"
    assert redact_passage("in 3 of 4 cases", " it was 5 or so") == ("in 3 of 4 cases", " it was 5 or so")
    assert redact_passage("他有3本书", "，她有4本书") == ("他有3本书", "，她有4本书")


def test_long_text_is_hidden_from_a_length_on():
    """The continuation is shown up to so many characters, of the context half as many before it; none: all of it."""
    context, continuation = "a" * 500, "b" * 500
    shown = redact_passage(context, continuation, max_characters=100)
    assert shown[0].strip(HIDDEN) == "a" * 50
    assert shown[1].strip(HIDDEN) == "b" * 100
    assert redact_passage(context, continuation, max_characters=None) == (context, continuation)
    assert redact_text("b" * 500, max_characters=10).strip(HIDDEN) == "b" * 10
    assert len(redact_text("b" * 500, max_characters=10)) < 40  # blocks do not tell how much is hidden


def test_code_is_shown():
    """Code and licences are nobody's secret: they are counted, and stay readable."""
    assert redact_text(CODE) == CODE
    assert redact_text(MIT) == MIT


@pytest.mark.parametrize(
    "text", [CODE, BRACES, "x = 1\ny += load(x)\nif x > y:\n    raise ValueError(f'{x} and {y}, too')\n"]
)
def test_code_is_found(text):
    """Three lines of code or more are one stretch, between prose as well; two lines are none."""
    assert [span.kind for span in find_spans(text)] == ["long code"]
    (span,) = find_spans(f"Once upon a time.\n\n{text}\nAnd so they lived.\n")
    assert span.stop - span.start >= len(text.strip()) - 2
    assert find_spans("".join(text.splitlines(keepends=True)[:2])) == []


@pytest.mark.parametrize(
    "text",
    [
        MIT,
        WRAPPED,
        "Licensed under the Apache License, Version 2.0 (the",
        "# SPDX-License-Identifier: GPL-3.0-or-later",
        "Copyright (c) 2019 Example Ltd. All rights reserved.",
    ],
)
def test_licences_are_found(text):
    """Sentences of licences are, also broken over the lines of a comment, in any case of letters."""
    for written in (text, text.upper(), f"some words, then {text}"):
        assert [span.kind for span in find_spans(written)] == ["licence text"]


def test_prose_is_neither():
    """Sentences with semicolons, brackets and talk of licences are no code and no licence."""
    assert find_spans(PROSE) == []


def test_the_libraries_of_python_are_code():
    """In each of Python's own longer modules there is long code, and in the licence of this package a licence."""
    folder = Path(sysconfig.get_path("stdlib"))
    for name in ("argparse", "ast", "bdb", "csv", "difflib", "gzip", "heapq", "shlex", "tarfile", "zipapp"):
        kinds = {span.kind for span in find_spans((folder / f"{name}.py").read_text()[:20_000])}
        assert "long code" in kinds, name
    licence = (Path(__file__).parents[1] / "LICENSE").read_text()
    assert "licence text" in {span.kind for span in find_spans(licence)}


def test_spans_of_a_kind_do_not_overlap():
    """Of things of one kind that share characters only the widest is counted."""
    spans = find_spans(f"https://jane:hunter2@example.org {MAIL} " + CODE + MIT + "\n" + CODE)
    for one in spans:
        for other in spans:
            if one is not other and one.kind == other.kind:
                assert one.stop <= other.start or other.stop <= one.start


def test_library_adds_what_only_it_knows():
    """With the extra, a password given to a name is a secret; what both know counts once, and prose is none."""
    pytest.importorskip("detect_secrets")
    detect = with_library()
    assert [span.kind for span in detect("password = 'hunter2horse'")] == ["secret"]
    assert [span.kind for span in detect("key AKIAQWERTYUIOP123456 here")] == ["key"]
    assert detect(PROSE) == []
    text = "a line\npassword = 'hunter2horse'\nanother"
    (span,) = detect(text)
    assert "hunter2horse" in text[span.start : span.stop]
    (leak,) = find_leaks([member("", text)], detect=detect)
    assert (leak.kind, leak.num_spans) == ("secret", 1)
    assert "hunter2" not in leak.examples[0]


def test_library_that_is_not_there_is_asked_for(monkeypatch):
    """Without the extra the wish for it is refused with what to install, before anything is read."""
    from mnemoscope.audit import secret_library

    secret_library._detectors.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "detect_secrets.core.plugins.util", None)
    with pytest.raises(ConfigError, match=r"not installed; install `mnemoscope\[leaks\]`"):
        with_library()
    secret_library._detectors.cache_clear()


def test_a_detector_of_ones_own():
    """Whatever finds spans can be asked: counts and examples follow it."""

    def names(text: str) -> list[Span]:
        place = text.find("Rumpelstiltskin")
        return [] if place < 0 else [Span(place, place + 15, "name")]

    (leak,) = find_leaks([member("my name is ", "Rumpelstiltskin!")], detect=names)
    assert (leak.kind, leak.num_spans, leak.examples) == ("name", 1, (f"my name is {HIDDEN * 15}!",))
