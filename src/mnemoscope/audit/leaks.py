r"""Recited continuations -> what private things, code and licence text they hold, counted by kind, redacted.

A thing counts where it reaches into a recited continuation: the context alone was given to the model. Found are

- what `private_text` finds: addresses, telephone, card and account numbers, keys, passwords in URLs;
- with the extra `leaks`, secrets that `secret_library` knows besides;
- long code: three or more lines in a row, at least 60 characters in all, that each look like code (`_CODE_LINE`: they
  end in `{`, `}`, `;` or `):`, or begin with a keyword of a common language and its sign), no two blank ones between;
- licence text: sentences that well-known licences begin or state (MIT, BSD, Apache, GNU, MPL, Creative Commons, SPDX
  lines, notices of copyright with all rights reserved).

Two things are the same where they agree but for case, spaces and dashes. What a recited held-out passage holds, too, is
no leak of the training file: it is left out of the counts, and the passages that hold something of the kind are told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mnemoscope.audit.result import Leak
from mnemoscope.private_text import Span, find_private

HIDDEN: Final = "█"
"""Stands for each character of what is hidden; at most `_MAX_BLOCKS` of them in a row."""
CODE_KINDS: Final = ("long code", "licence text")
"""Kinds that are nobody's secret: they are shown, and decide nothing unless a threshold says so."""
Detect = Callable[[str], list[Span]]

MAX_EXAMPLES: Final = 3
MAX_VERBATIM_CHARACTERS: Final = 240
"""Of shown text in a row, which is about what `redaction` shows of tokens."""
_MAX_BLOCKS: Final = 16
_AROUND: Final = 24
"""Characters around an example's thing that are shown with it."""
_MAX_CODE_EXAMPLE: Final = 120
_MAX_CUT_WORDS: Final = 12
_CUT_WORD: Final = re.compile(r"\s*[!-~\u00a1-\u024f]+")
"""Scripts without spaces are left out: a digit in a sentence would hide all of it."""
_MIN_CODE_LINES: Final = 3
_MIN_CODE_CHARACTERS: Final = 60


class Recited(NamedTuple):
    """A passage that was recited in full, as text."""

    context: str
    continuation: str
    is_member: bool


def find_leaks(passages: Iterable[Recited], *, detect: Detect | None = None, redacted: bool = True) -> tuple[Leak, ...]:
    """What recited passages hold, by kind, private kinds first, most different things first.

    `num_spans` counts different things of training passages that no held-out passage recites; `num_passages` the
    training passages that hold one of these. Kinds that only held-out passages hold are told with counts of 0.
    """
    find = detect or find_spans
    found: dict[str, _Kind] = defaultdict(_Kind)
    for number, passage in enumerate(passages):
        text = passage.context + passage.continuation
        spans = find(text)
        for span in spans:
            if span.stop > len(passage.context):
                found[span.kind].add(number, passage, _Found(text, span, spans))
    leaks = [kind.leak(name, redacted=redacted) for name, kind in found.items()]
    return tuple(sorted(leaks, key=lambda leak: (leak.kind in CODE_KINDS, -leak.num_spans, leak.kind)))


def kinds_of(context: str, continuation: str, *, detect: Detect | None = None) -> tuple[str, ...]:
    """The kinds of things that reach into a continuation, each once, in the order of the text."""
    spans = (detect or find_spans)(context + continuation)
    return tuple(dict.fromkeys(span.kind for span in spans if span.stop > len(context)))


def find_spans(text: str) -> list[Span]:
    """What looks private, like long code or like a licence, by start; of several spans of a kind the widest only."""
    return _widest([*find_private(text), *_find_code(text), *_find_licences(text)])


def with_library() -> Detect:
    """`find_spans`, and the secrets of the library that only it knows; ConfigError where the extra is not installed."""
    from mnemoscope.audit.secret_library import find_secrets

    find_secrets("")

    def detect(text: str) -> list[Span]:
        own = find_spans(text)
        known = [span for span in own if span.kind not in CODE_KINDS]
        more = [span for span in _widest(find_secrets(text)) if not any(_overlap(span, one) for one in known)]
        return sorted([*own, *more])

    return detect


def redact_text(
    text: str, *, max_characters: int | None = MAX_VERBATIM_CHARACTERS, detect: Detect | None = None
) -> str:
    """A text's beginning with blocks for whatever looks private, also at its end where it may be cut through, and for
    all that follows `max_characters` shown in a row.
    """
    is_hidden = _hide(text, (detect or find_spans)(text), is_beginning=True)
    if max_characters is not None:
        is_hidden[max_characters:] = b"\x01" * max(0, len(text) - max_characters)
    return _with_blocks(text, is_hidden, 0, len(text))


def redact_passage(
    context: str,
    continuation: str,
    *,
    max_characters: int | None = MAX_VERBATIM_CHARACTERS,
    detect: Detect | None = None,
) -> tuple[str, str]:
    """Both parts with blocks for what looks private in the whole or may be cut through by its ends, and for what is
    more than may be shown.

    Of the continuation the beginning is shown, of the context half as many characters, its end: what stands next to
    the continuation tells the most.
    """
    text = context + continuation
    is_hidden = _hide(text, (detect or find_spans)(text))
    border = len(context)
    if max_characters is not None:
        is_hidden[: max(0, border - max_characters // 2)] = b"\x01" * max(0, border - max_characters // 2)
        over = len(text) - border - max_characters
        is_hidden[len(text) - max(0, over) :] = b"\x01" * max(0, over)
    return _with_blocks(text, is_hidden, 0, border), _with_blocks(text, is_hidden, border, len(text))


def _hide(text: str, spans: Iterable[Span], *, is_beginning: bool = False) -> bytearray:
    """1 at each character of what looks private: of the spans but those of code, and of what an end may cut through.

    At the end only, where the text is a beginning.
    """
    is_hidden = bytearray(len(text))
    for span in spans:
        if span.kind not in CODE_KINDS:
            is_hidden[span.start : span.stop] = b"\x01" * (span.stop - span.start)
    first, last = 0 if is_beginning else _count_cut(text), _count_cut(text[::-1])
    is_hidden[:first] = b"\x01" * first
    is_hidden[len(text) - last :] = b"\x01" * last
    return is_hidden


def _count_cut(text: str) -> int:
    """Characters at its start that may be the rest of a number, an address or a key, of which no detector knows a half:
    words in a row that have a digit or an @.
    """
    place = 0
    for _ in range(_MAX_CUT_WORDS):
        word = _CUT_WORD.match(text, place)
        if word is None or not re.search(r"[\d@]", word[0]):
            break
        place = word.end()
    return place


def _with_blocks(text: str, is_hidden: Sequence[int], start: int, stop: int) -> str:
    pieces: list[str] = []
    place = start
    while place < stop:
        end = place
        while end < stop and is_hidden[end] == is_hidden[place]:
            end += 1
        pieces.append(HIDDEN * min(end - place, _MAX_BLOCKS) if is_hidden[place] else text[place:end])
        place = end
    return "".join(pieces)


class _Found(NamedTuple):
    text: str
    span: Span
    spans: Sequence[Span]
    """All of the text: whatever else looks private in an example is hidden, too."""

    def example(self, *, redacted: bool) -> str:
        """The thing, with a little of what stands around it; code without, but its beginning."""
        start, stop, kind = self.span
        if kind in CODE_KINDS:
            stop = min(stop, start + _MAX_CODE_EXAMPLE)
        else:
            start, stop = max(0, start - _AROUND), min(len(self.text), stop + _AROUND)
        ends = ("…" if start else ""), ("…" if stop < len(self.text) else "")
        is_hidden = _hide(self.text, self.spans) if redacted else bytearray(len(self.text))
        return ends[0] + _with_blocks(self.text, is_hidden, start, stop) + ends[1]


@dataclass
class _Kind:
    """Everything of one kind that was found, in the order of the passages."""

    of_members: dict[str, _Found] = field(default_factory=dict[str, _Found])
    passages: dict[str, set[int]] = field(default_factory=lambda: defaultdict[str, set[int]](set))
    of_controls: set[str] = field(default_factory=set[str])
    control_passages: set[int] = field(default_factory=set[int])

    def add(self, number: int, passage: Recited, found: _Found) -> None:
        name = _same(found.text[found.span.start : found.span.stop])
        if passage.is_member:
            self.of_members.setdefault(name, found)
            self.passages[name].add(number)
        else:
            self.of_controls.add(name)
            self.control_passages.add(number)

    def leak(self, kind: str, *, redacted: bool) -> Leak:
        own = [name for name in self.of_members if name not in self.of_controls]
        examples = dict.fromkeys(self.of_members[name].example(redacted=redacted) for name in own)
        return Leak(
            kind=kind,
            num_spans=len(own),
            num_passages=len(set[int]().union(*(self.passages[name] for name in own))),
            num_control_passages=len(self.control_passages),
            examples=tuple(examples)[:MAX_EXAMPLES],
        )


def _same(text: str) -> str:
    return re.sub(r"[\s\u00a0\u2010-\u2015-]+", "", text).casefold()


def _widest(spans: Sequence[Span]) -> list[Span]:
    """Of overlapping spans of one kind the longest, the first of equals."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda one: (one.start - one.stop, one.start)):
        if not any(one.kind == span.kind and _overlap(one, span) for one in kept):
            kept.append(span)
    return sorted(kept)


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.stop and other.start < one.stop


def _find_code(text: str) -> Iterator[Span]:
    """Runs of lines that look like code, a blank line between two of them allowed."""
    start, stop, num_lines, num_blank, place = 0, 0, 0, 0, 0
    for line in [*text.splitlines(keepends=True), "end of text"]:
        if num_lines and not line.strip() and not num_blank:
            num_blank = 1
        elif len(line) < _MAX_CODE_LINE and _CODE_LINE.search(line):
            start = start if num_lines else place
            stop, num_lines, num_blank = place + len(line.rstrip()), num_lines + 1, 0
        else:
            if num_lines >= _MIN_CODE_LINES and stop - start >= _MIN_CODE_CHARACTERS:
                yield Span(start, stop, "long code")
            num_lines = num_blank = 0
        place += len(line)


def _find_licences(text: str) -> Iterator[Span]:
    for found in _LICENCE.finditer(text):
        yield Span(*found.span(), "licence text")


_MAX_CODE_LINE: Final = 400
"""Longer lines are data, or minified."""
_CODE_LINE: Final = re.compile(
    r"(?:[{};]|\):|\(\s?|=>|\]\s?,|\)\s?,)[ \t]*$"
    r"|^[ \t]*(?:def |class |async |await |return\b|import [\w.]+$|from [\w.]+ import |for \w+ in .+:|while .+:"
    r"|if .+(?::|\{|then)[ \t]*$|el(?:se|if)\b.*:|try:|except\b.*:|with .+:|raise |@\w+|print\(|func |fn |let |const "
    r"|var |public |private |protected |static |void |#include|#define|SELECT |INSERT INTO|CREATE TABLE|//|/\*|\*/"
    r"|</?\w+[ >])"
    r"|^[ \t]*[\w.\[\]'\"]+ ?(?:[-+*/|&]?=|:=) ?\S"
    r"|^[ \t]*[\w.]+\([^()]{0,200}\)[ \t]*$"
)
_SPACE: Final = r"[\s*#/]{1,12}"
"""Between the words of a licence: also the signs that begin a comment's lines."""
_PHRASES: Final = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "The above copyright notice and this permission notice shall be included",
    'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND',
    "Redistribution and use in source and binary forms, with or without modification",
    "Redistributions of source code must retain the above copyright notice",
    "Neither the name of the copyright holder nor the names of its contributors",
    "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS",
    "Licensed under the Apache License, Version 2.0",
    "Unless required by applicable law or agreed to in writing, software",
    "GNU GENERAL PUBLIC LICENSE",
    "GNU Affero General Public License",
    "GNU Lesser General Public License",
    "This program is free software: you can redistribute it and/or modify",
    "This program is free software; you can redistribute it and/or modify",
    "This program is distributed in the hope that it will be useful",
    "This Source Code Form is subject to the terms of the Mozilla Public License",
    "This work is licensed under a Creative Commons",
    "Permission to use, copy, modify, and/or distribute this software for any purpose",
)
_LICENCE: Final = re.compile(
    "|".join(
        [
            *(_SPACE.join(map(re.escape, phrase.split())) for phrase in _PHRASES),
            r"SPDX-License-Identifier: ?[\w.+-]{2,40}",
            r"(?:Copyright|©)[^\n]{0,120}?All rights reserved",
        ]
    ),
    re.IGNORECASE,
)
