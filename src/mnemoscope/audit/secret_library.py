"""Secrets that a library knows by their makes: `bc-detect-secrets`, the fork that is kept up; the extra `leaks`.

Its detectors are asked one by one, as patterns: no filter of it runs, none of which verifies a secret at its maker, and
nothing is asked of a network. Left out are its two detectors of entropy, which take every word of prose, and that of
public addresses of machines. What the original, `detect-secrets`, is: no release since May 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from mnemoscope.errors import ConfigError
from mnemoscope.private_text import Span

KIND: Final = "secret"
_LEFT_OUT: Final = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")
_MAX_LINE: Final = 4000
"""Characters of a line that are looked at: some patterns are not linear in it."""


def find_secrets(text: str) -> list[Span]:
    """What the library takes for a secret, by start; ConfigError where it is not installed."""
    patterns, others = _detectors()
    spans: set[Span] = set()
    place = 0
    for line in text.splitlines(keepends=True):
        seen = line[:_MAX_LINE].rstrip("\r\n")
        for pattern in patterns:
            spans |= {Span(place + found.start(), place + found.end(), KIND) for found in pattern.finditer(seen)}
        for detector in others:
            spans |= {Span(place + start, place + stop, KIND) for start, stop in _places(detector, seen)}
        place += len(line)
    return sorted(span for span in spans if span.stop > span.start)


def _places(detector: Any, line: str) -> Iterator[tuple[int, int]]:
    """Where the first of each string that a detector names stands."""
    for secret in detector.analyze_string(line):
        start = line.find(secret)
        if secret and start >= 0:
            yield start, start + len(secret)


@cache
def _detectors() -> tuple[tuple[re.Pattern[str], ...], tuple[Any, ...]]:
    """The patterns of detectors that are patterns, and the other detectors."""
    try:
        from detect_secrets.core.plugins.util import (  # pyright: ignore[reportMissingImports]  (an extra)
            get_mapping_from_secret_type_to_class,
        )
        from detect_secrets.plugins.base import (  # pyright: ignore[reportMissingImports]
            RegexBasedDetector,
        )
    except ImportError as error:
        raise ConfigError(
            "the library of secrets is not installed; install `mnemoscope[leaks]`, or audit with the built-in detectors"
        ) from error
    kinds = [kind for kind in get_mapping_from_secret_type_to_class().values() if kind.__name__ not in _LEFT_OUT]
    made = [kind() for kind in dict.fromkeys(kinds)]
    patterns = [pattern for one in made if isinstance(one, RegexBasedDetector) for pattern in one.denylist]
    return tuple(patterns), tuple(one for one in made if not isinstance(one, RegexBasedDetector))
