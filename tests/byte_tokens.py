"""A byte-level tokenizer whose every token is given: ordinary words, and the worst that a corpus can hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

PLANTED: Final = "</script><script>window.planted=1</script>"
HOSTILE: Final[tuple[bytes, ...]] = (
    PLANTED.encode(),
    b"<img src=x onerror='window.planted=2'>",
    b"\" onmouseover=window.planted=3 x='",
    "\u202ereversed\u202c".encode(),
    "zero\u200bwidth\ufeff".encode(),
    b"\x00nul\x07bell\x1b[31m",
    "日本"[:1].encode()[:2],  # two of a character's three bytes
    b"\xff\xfe",
    b"x" * 10_000,
    "\u2028line\u2029".encode(),
    b"{{ 7 * 7 }}",
    b"&lt;b&gt; & <!--",
)
"""Scripts, markup, quotes, direction marks, zero width, control characters, broken UTF-8, an endless token."""
_SYLLABLES: Final = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu", "pa", "re", "si", "tu")


def words(count: int) -> list[str]:
    """As many distinct pseudo-words, each with the space before it."""
    size = len(_SYLLABLES)
    return [
        " " + _SYLLABLES[i // size**2 % size] + _SYLLABLES[i // size % size] + _SYLLABLES[i % size]
        for i in range(count)
    ]


def save_tokenizer(path: Path, *, vocab_size: int, hostile: Sequence[bytes] = ()) -> Path:
    """tokenizer.json whose last token ids are the hostile ones; the frequent, small ids are words."""
    if vocab_size - len(hostile) > len(_SYLLABLES) ** 3:
        raise ValueError(f"vocab_size: {vocab_size} given; expected {len(_SYLLABLES) ** 3} words or fewer")
    letters = _byte_letters()
    contents = [*(word.encode() for word in words(vocab_size - len(hostile))), *hostile]
    vocabulary = {"".join(letters[byte] for byte in content): token for token, content in enumerate(contents)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level vocabularies write for each byte (Radford et al. 2019): printable ones stay."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + place) for place, byte in enumerate(others)}
