"""A model behind an OpenAI-compatible completions endpoint: where it is, and how much may be asked of it."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import re
from dataclasses import dataclass
from typing import Final, final
from urllib.parse import SplitResult, urlsplit

from mnemoscope.errors import ConfigError
from mnemoscope.retries import MAX_TRIES

_PATH: Final = "/completions"


@final
@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Settings of an endpoint; the key itself is in none of them, nor in anything that is written."""

    url: str
    """Of the API, such as https://host/v1; `/completions` is added where it does not end so."""
    model: str
    """The name by which the server knows the model."""
    key_variable: str | None = None
    """The environment variable that holds the API key; None: no key is sent."""
    requests_per_minute: float | None = None
    """Requests are spaced evenly; None: as fast as `max_concurrent` allows."""
    max_concurrent: int = 4
    """Requests under way at once."""
    max_requests: int | None = None
    """The budget in requests, repeated ones and those of interrupted audits among them; None: no limit."""
    max_tokens: int | None = None
    """The budget in tokens, of prompts and answers; a request that might go beyond it is not sent. None: no limit."""
    timeout_seconds: float = 120.0
    """For one answer."""
    max_tries: int = MAX_TRIES
    """Of one request."""
    insecure_http: bool = False
    """Allow http to another machine: texts and key can be read on the way."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model: '' given; expected the name by which the endpoint knows the model")
        for name, value in (
            ("max_concurrent", self.max_concurrent),
            ("max_requests", self.max_requests),
            ("max_tokens", self.max_tokens),
            ("max_tries", self.max_tries),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} given; expected 1 or more")
        if self.max_concurrent > 256:
            raise ConfigError(f"max_concurrent: {self.max_concurrent} given; expected at most 256")
        for name, number in (
            ("requests_per_minute", self.requests_per_minute),
            ("timeout_seconds", self.timeout_seconds),
        ):
            if number is not None and not (0 < number < math.inf):
                raise ConfigError(f"{name}: {number} given; expected more than 0")
        self._check_url()

    def _check_url(self) -> None:
        parts = _split(self.url)
        if parts.username is not None or parts.password is not None:
            # Not shown: what stands before the @ may be a password.
            raise ConfigError("url: has a user or password in it; expected none (name the key's variable instead)")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"url: {_shown(self.url)!r} given; expected an address such as https://host/v1")
        if re.search(r"[^\x21-\x7e]", self.url):
            raise ConfigError(f"url: {_shown(self.url)!r} given; expected no blanks and no letters outside ASCII")
        if parts.scheme == "http" and not self.is_loopback and not self.insecure_http:
            raise ConfigError(
                f"url: {_shown(self.url)!r} given, and http lets others read texts and key; expected https "
                "(or allow it with --insecure-http)"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        host = _split(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_encrypted(self) -> bool:
        """Whether it is asked by https."""
        return _split(self.url).scheme == "https"

    @property
    def address(self) -> str:
        """Where completions are asked for."""
        bare = self.url.rstrip("/")
        return bare if bare.endswith(_PATH) else bare + _PATH

    def read_key(self) -> str | None:
        """The API key from the environment; ConfigError where its variable has none that can be sent."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ConfigError(f"{self.key_variable}: not set; expected the endpoint's API key in this variable")
        if re.search(r"[^\x21-\x7e]", key):
            raise ConfigError(f"{self.key_variable}: holds blanks or letters outside ASCII; expected an API key")
        return key

    def question_key(self, prompt: str, max_tokens: int) -> str:
        """The sha256, hex, of everything that an answer depends on."""
        facts = [1, self.address, self.model, prompt, max_tokens]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"url: no address ({error}); expected one such as https://host/v1") from error
    return parts


def _shown(url: str) -> str:
    """The address without what stands behind a question mark, which may be a key."""
    return url.partition("?")[0]
