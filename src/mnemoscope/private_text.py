r"""Text -> the spans of it that look private: addresses, telephone numbers, keys, card and account numbers.

What is found: e-mail addresses; telephone numbers written internationally (+49 ...), in North American groups, or with
a leading 0 and separators; keys of well-known makes (AWS, GitHub, GitLab, OpenAI, Anthropic, Stripe, Slack, Google,
Hugging Face, npm, PyPI, SendGrid), JSON web tokens, private keys in PEM blocks, the password of a URL; other runs of 32
or more characters that look random, in hexadecimal or base64; payment card numbers and IBANs whose check digits are
right.

What is not: names, street addresses, birthdays, passwords that are words, identity numbers, telephone numbers without
separators or prefix, obfuscated addresses (`john at example dot com`), and whatever is cut by the end of the text
before it can be told. Hashes and UUIDs are taken for keys. It is a net with holes: less is shown, not nothing.

Every search takes time linear in the text: quantifiers are bounded, or possessive behind a lookbehind that lets a run
be entered at its start only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

UNREADABLE: Final = "\ufffd"
"""Stands for a token that is no text by itself, such as a part of a character; it may belong to a name."""
_SEPARATOR: Final = r"[ \u00a0-]"


class _Pattern(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    is_right: Callable[[str], bool]


class Span(NamedTuple):
    """A part of a text, and what it looks like."""

    start: int
    stop: int
    kind: str


def find_private(text: str) -> list[Span]:
    """What looks private in a text, by start; spans may overlap."""
    spans = [
        Span(*found.span(), kind)
        for kind, pattern, is_right in _PATTERNS
        for found in pattern.finditer(text)
        if is_right(found.group())
    ]
    return sorted([*spans, *_pem_blocks(text), *_ibans(text)])


def _compile(kind: str, pattern: str, is_right: Callable[[str], bool] | None = None) -> _Pattern:
    return _Pattern(kind, re.compile(pattern), is_right or _always)


def _always(_found: str) -> bool:
    return True


def _is_card(found: str) -> bool:
    """Luhn's check digit (ISO/IEC 7812-1), and a leading number that cards have."""
    digits = [int(digit) for digit in found if digit.isdigit()]
    number = "".join(map(str, digits))
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    has_check = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return has_check and len(set(digits)) > 1 and any(len(number) in sizes for sizes in _issuer_sizes(number))


def _issuer_sizes(number: str) -> Iterator[tuple[int, ...]]:
    """The lengths of the cards that begin like a number."""
    two, three, four = int(number[:2]), int(number[:3]), int(number[:4])
    if number[0] == "4":
        yield 13, 16, 19
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        yield (16,)
    if two in (34, 37):
        yield (15,)
    if two in (36, 38, 39) or 300 <= three <= 305:
        yield (14,)
    if two in (35, 50, 62, 63, 65, 67) or four == 6011 or 644 <= three <= 649 or 56 <= two <= 58:
        yield 16, 17, 18, 19


def _is_random_hex(found: str) -> bool:
    digits = found[2:] if found[:2] in ("0x", "0X") else found
    return any(map(str.isdigit, digits)) and any(map(str.isalpha, digits)) and _entropy(digits) >= 3.0


def _is_random(found: str) -> bool:
    """Whether a run of letters and digits is unlike a word, a path or an alphabet.

    Words and names in code change between small letters, capitals and digits at every fifth place or so, random text
    in base64 at three of five.
    """
    kinds = [_kind(character) for character in found]
    known = [kind for kind in kinds if kind]
    if known.count("d") < 2 or len(set(known)) < 2 or not known:
        return False
    changes = sum(one != other for one, other in pairwise(known)) / len(known)
    return changes >= 0.3 and _entropy(found) >= (4.2 if len(set(known)) == 3 else 3.7)


def _kind(character: str) -> str:
    return "d" if character.isdigit() else "u" if character.isupper() else "l" if character.islower() else ""


def _entropy(text: str) -> float:
    """Bits per character."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def _pem_blocks(text: str) -> Iterator[Span]:
    """Private keys, also those of which the text has one end only."""
    start, is_begun = 0, False
    for found in _PEM.finditer(text):
        if found["side"] == "END":
            yield Span(start, found.end(), "private key")
            start, is_begun = found.end(), False
        elif not is_begun:
            start, is_begun = found.start(), True
    if is_begun:
        yield Span(start, len(text), "private key")


def _ibans(text: str) -> Iterator[Span]:
    """Account numbers of the right length for their country, whose check digits are right (ISO 13616, ISO 7064)."""
    start = 0
    while found := _IBAN.search(text, start):
        start = found.start() + 1  # what comes next may have been taken for a part of this one
        size = _IBAN_SIZES.get(found.group()[:2])
        places = [place for place, character in enumerate(found.group()) if character.isalnum()]
        if size is None or len(places) < size:
            continue
        stop = places[size - 1] + 1
        number = "".join(character for character in found.group()[:stop] if character.isalnum())
        if int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1:
            yield Span(found.start(), found.start() + stop, "account number")


_KEY: Final = (
    r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|[spr]k_(?:live|test)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}"
    r"|SG\.[\w-]{16,64}\.[\w-]{16,}|eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)?"
)
_LOCAL: Final = rf"\w{UNREADABLE}.%+\-"
_BEFORE: Final = r"(?<![\w.+/-])"
"""A number of its own: not a part of a longer one, of a version, a path or a sum."""
_AFTER: Final = r"(?![\w-]|\.[0-9])"
_PATTERNS: Final = (
    _compile(
        "e-mail address",
        rf"(?<![{_LOCAL}])(?<![{_LOCAL}]')(?:[{_LOCAL}]++'?)++@"
        rf"(?:[\w{UNREADABLE}-]++\.)+(?:xn--[A-Za-z0-9-]++|[^\W\d_]{{2,24}})",
    ),
    _compile("password", r"(?<=://)[^\s/:@'\"]*+:[^\s/@'\"]++@"),
    _compile(
        "telephone number", r"(?<![\w)\]}+'\"])\+\(?[1-9](?:[ \u00a0()./\u2010-\u2013-]{0,2}[0-9]){7,14}(?![0-9])"
    ),
    _compile(
        "telephone number",
        rf"{_BEFORE}(?:1[ .-])?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[.-])[2-9][0-9]{{2}}[ .-][0-9]{{4}}{_AFTER}",
    ),
    _compile(
        "telephone number",
        rf"{_BEFORE}\(?0[1-9][0-9]{{0,4}}\)?[ /-]{{1,3}}[1-9][0-9]{{2,4}}(?:[ -]?[0-9]{{2,5}}){{1,2}}{_AFTER}",
    ),
    _compile("telephone number", rf"{_BEFORE}0[1-9](?:[ .-][0-9]{{2}}){{4}}{_AFTER}"),
    _compile("key", rf"(?<![A-Za-z0-9])(?:{_KEY})"),
    _compile("key", r"(?<![0-9A-Za-z])(?:0[xX])?[0-9a-fA-F]{32,}+(?![0-9A-Za-z])", _is_random_hex),
    _compile("key", r"(?<![0-9A-Za-z])[0-9A-Za-z]{32,}+", _is_random),
    _compile("key", r"(?<![0-9A-Za-z+/_-])[0-9A-Za-z+/_-]{32,}+={0,2}", _is_random),
    _compile("card number", rf"{_BEFORE}[2-6][0-9]{{12,15}}{_AFTER}", _is_card),
    _compile(
        "card number",
        rf"{_BEFORE}[2-6][0-9]{{3}}(?:{_SEPARATOR}[0-9]{{4}}){{3}}{_AFTER}",  # a month or a code may come next
        _is_card,
    ),
    _compile(
        "card number",
        rf"{_BEFORE}[2-6][0-9]{{3}}(?:{_SEPARATOR}[0-9]{{4}}){{3}}{_SEPARATOR}[0-9]{{1,3}}{_AFTER}",
        _is_card,
    ),
    _compile("card number", rf"{_BEFORE}3[0-9]{{3}}{_SEPARATOR}[0-9]{{6}}{_SEPARATOR}[0-9]{{4,5}}{_AFTER}", _is_card),
)
_PEM: Final = re.compile(r"-----(?P<side>BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
_IBAN_SIZES: Final = {
    country: int(size)
    for size, countries in {
        "15": "NO", "16": "BE", "18": "DK FI NL", "19": "SI", "20": "AT EE LT LU", "21": "CH HR LI LV",
        "22": "BG DE GB IE RS", "23": "AE IL", "24": "AD CZ ES RO SA SE SK", "25": "PT", "26": "IS TR",
        "27": "FR GR IT MC SM", "28": "CY HU PL", "29": "BR UA", "31": "MT",
    }.items()
    for country in countries.split()
}  # fmt: skip
