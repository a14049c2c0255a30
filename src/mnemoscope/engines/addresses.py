"""Whether a Ray answers at an address, found out in bounded time and without Ray in this process."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from mnemoscope.errors import ConfigError, EngineError

CHECK_SECONDS: Final = 5.0
"""Between two looks at the cluster (its head, its size), and for a head to take a call."""
START_SECONDS: Final = 60.0
"""For an address to answer, or for the first actor to start."""
_PROBE: Final = "import sys, ray; ray.init(address=sys.stdin.read(), log_to_driver=False, logging_level='ERROR')"


def check_address(address: str) -> None:
    """EngineError where no Ray answers; found out by another process, since Ray's own tries go on for minutes."""
    place = place_of(address)
    if place is None and address != "auto":
        raise ConfigError(f"address: {address!r} given; expected HOST:PORT, ray://HOST:PORT or 'auto'")
    advice = "expected the address of a Ray head: start one by `ray start --head`, or leave out --address"
    if place is not None and not answers(place):
        raise EngineError(f"{address}: nobody answers; {advice}")
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _PROBE],
            input=address,
            text=True,
            capture_output=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"{address}: no Ray answers within {START_SECONDS:.0f} seconds; {advice} (where its head asks for a token, "
            "set RAY_AUTH_MODE and RAY_AUTH_TOKEN as there)"
        ) from error
    if asked.returncode:
        words = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        raise EngineError(f"{address}: {words}; {advice}")


def place_of(address: str) -> str | None:
    """HOST:PORT of an address; None where it has none."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    with suppress(ValueError):
        return f"{parts.hostname}:{parts.port}" if parts.hostname and parts.port else None
    return None


def answers(place: str) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CHECK_SECONDS).close()
    except OSError:
        return False
    return True
