"""Text from a corpus as text that a terminal only shows: what would move the cursor, or not be seen, is spelled out."""

from __future__ import annotations

import unicodedata
from typing import Final

_INVISIBLE: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"  # fillers, joiners, blanks
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))  # variation selectors
)
"""Characters that count as printable and show nothing of their own."""
_NAMED: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_MAX_MARKS: Final = 2
"""Combining marks in a row that are shown; more of them would climb over the lines above."""


def escape(text: str, *, keep: str = "", backslash: bool = True) -> str:
    r"""The text with control, bidirectional, zero-width, unassigned and stray combining characters as escapes.

    As in a Python string: `\n`, `\x1b`, `\u202e`; a backslash is doubled, so that it can be told from these, unless
    `backslash` is False. Characters in `keep` stay as they are.
    """
    shown: list[str] = []
    num_marks = _MAX_MARKS  # a mark at the start would sit on whatever is printed before
    for character in text:
        is_mark = unicodedata.category(character) in ("Mn", "Me")
        num_marks = num_marks + 1 if is_mark else 0
        is_plain = character.isprintable() and character not in _INVISIBLE and num_marks <= _MAX_MARKS
        if character in keep or (is_plain and (character != "\\" or not backslash)):
            shown.append(character)
        else:
            shown.append(_spell(character))
    return "".join(shown)


def _spell(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    digits = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _NAMED.get(character, digits)
