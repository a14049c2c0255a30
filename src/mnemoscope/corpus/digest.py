"""Content -> a hash that follows the content wherever it lies; names and times have no part in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from mnemoscope.corpus.parts import Parts

_WHOLE_BYTES: Final = 64 << 20
_BLOCK_BYTES: Final = 64 << 10
_NUM_BLOCKS: Final = 1024


def digest_bytes(parts: Parts) -> str:
    """The sha256, hex, of files end to end, whole up to 64 MiB, sampled beyond.

    Of more than 64 MiB it covers the size, the first and last 64 KiB, and 1,024 blocks of 64 KiB evenly
    spaced, so that a corpus of any size opens at once: an edit that keeps the size and misses every block is
    not seen. A file cut into parts has the hash of the uncut file.
    """
    hashed = hashlib.sha256(f"{parts.size}\n".encode())
    if parts.size <= _WHOLE_BYTES:
        starts = range(0, parts.size, _BLOCK_BYTES)
    else:
        last = parts.size - _BLOCK_BYTES
        starts = [0, *(last * block // (_NUM_BLOCKS + 1) for block in range(1, _NUM_BLOCKS + 1)), last]
    for start in starts:
        hashed.update(parts.copy(start, min(start + _BLOCK_BYTES, parts.size)))
    return hashed.hexdigest()


def digest_facts(facts: Mapping[str, object]) -> str:
    """The sha256, hex, of named JSON values, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
