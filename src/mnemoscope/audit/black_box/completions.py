"""One question to a completions endpoint -> its answer, or why there is none.

The standard library's client is enough: one POST and one JSON object. It follows no redirect here, takes no more bytes
than it should, and no longer.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from typing import Any, Final, Literal, NamedTuple, cast, final

from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.retries import is_transient, reason
from mnemoscope.version import __version__

MAX_ANSWER_BYTES: Final = 4 * 2**20
_BLOCK_BYTES: Final = 65_536
_REFUSED_PROMPT: Final = (400, 413, 422)
"""HTTP: bad request, too large, cannot be processed - such as a prompt longer than the model's context."""
Kind = Literal["again", "prompt", "final"]


class Answer(NamedTuple):
    """What a model said."""

    text: str
    num_tokens: int | None
    """Of prompt and answer, as the server counts them; None where it does not tell."""


@final
class NoAnswerError(Exception):
    """Why there is no answer; caught where questions are asked."""

    def __init__(self, message: str, kind: Kind, *, wait_seconds: float | None = None, is_free: bool = False) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        """`again`: the same question may succeed in a while; `prompt`: this one never; `final`: none will."""
        self.wait_seconds = wait_seconds
        """As the server has asked for."""
        self.is_free = is_free
        """Whether the server refused before it generated anything."""


@final
class CompletionsClient:
    """Asks one endpoint; for several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._key = endpoint, endpoint.read_key()
        # A proxy that the environment names is for other machines, and would read what http sends.
        proxies = None if endpoint.is_encrypted and not endpoint.is_loopback else {}
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            _StayingHandler(),
        )

    def ask(self, prompt: str, max_tokens: int) -> Answer:
        """The greedy continuation of a prompt; NoAnswerError where there is none."""
        try:
            return _read_answer(self._post(prompt, max_tokens))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._breakdown(error) from None

    def _post(self, prompt: str, max_tokens: int) -> bytes:
        question = {"model": self._endpoint.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        headers = {"Content-Type": "application/json", "User-Agent": f"mnemoscope/{__version__}"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._endpoint.address, json.dumps(question).encode(), headers)
        deadline = time.monotonic() + self._endpoint.timeout_seconds
        with self._opener.open(request, timeout=self._endpoint.timeout_seconds) as response:
            body = _read_body(response, deadline)
        if self._key is not None and self._key.encode() in body:
            raise NoAnswerError("the answer has the API key in it; nothing of it is kept", "final")
        return body

    def _refusal(self, error: urllib.error.HTTPError) -> NoAnswerError:
        status = error.code
        said = self._clean(_told(error))
        message = f"HTTP {status}{f' ({said})' if said else ''}"
        if 300 <= status < 400:
            return NoAnswerError(f"{message}: redirects are not followed; expected the endpoint's own address", "final")
        if status in (401, 403):
            where = self._endpoint.key_variable
            hint = f"a valid key in {where}" if where else "the name of the variable that holds the API key"
            return NoAnswerError(f"{message}; expected {hint}", "final")
        if status in _REFUSED_PROMPT:
            return NoAnswerError(message, "prompt", is_free=True)
        # A quota that is used up is told with the status of a rate limit, and does not come back in a minute.
        if is_transient(error) and "insufficient_quota" not in said:
            return NoAnswerError(message, "again", wait_seconds=_retry_after(error), is_free=True)
        return NoAnswerError(f"{message}; expected an OpenAI-compatible completions endpoint with this model", "final")

    def _breakdown(self, error: OSError | http.client.HTTPException) -> NoAnswerError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        cause = cause if isinstance(cause, BaseException) else error
        kind: Kind = "final" if isinstance(cause, ssl.SSLError) and not is_transient(cause) else "again"
        name = "took too long" if isinstance(cause, TimeoutError) else self._clean(reason(cause))
        return NoAnswerError(name, kind, is_free=isinstance(cause, ConnectionRefusedError))

    def _clean(self, text: str) -> str:
        """One line of at most 200 printable characters, without the key."""
        text = text if self._key is None else text.replace(self._key, "...")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]


@final
class _StayingHandler(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:  # noqa: PLR0917  theirs
        """None, always: a redirect would take texts and key elsewhere."""


def _read_body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    blocks: list[bytes] = []
    num_bytes = 0
    while block := response.read1(_BLOCK_BYTES):
        blocks.append(block)
        num_bytes += len(block)
        if num_bytes > MAX_ANSWER_BYTES:
            raise NoAnswerError(f"an answer of more than {MAX_ANSWER_BYTES} bytes", "final")
        if time.monotonic() > deadline:
            raise NoAnswerError("took too long", "again")
    if response.length:  # read1 does not tell of a body that breaks off
        raise NoAnswerError(f"the answer breaks off {response.length} bytes before its end", "again")
    return b"".join(blocks)


def _read_answer(body: bytes) -> Answer:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise NoAnswerError("the answer is not JSON", "again") from None
    if isinstance(found, dict) and "choices" not in found and "error" in found:
        raise NoAnswerError("the server reports an error", "again")
    match found:
        case {"choices": [{"text": str(text)}, *_]}:
            usage = cast(dict[str, Any], found).get("usage")
            total = cast(dict[str, Any], usage).get("total_tokens") if isinstance(usage, dict) else None
            is_count = isinstance(total, int) and not isinstance(total, bool) and 0 <= total < 2**40
            return Answer(_mend(text), total if is_count else None)
        case {"choices": [{"message": _}, *_]}:
            raise NoAnswerError("the answer is that of a chat endpoint; expected one for /completions", "final")
        case _:
            raise NoAnswerError("the answer has no choices with a text; expected those of /completions", "final")


def _mend(text: str) -> str:
    """The text with halves of surrogate pairs replaced: JSON can hold them, files and tokenizers cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _told(error: urllib.error.HTTPError) -> str:
    """What a server says of its refusal."""
    try:
        body = error.read(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException):
        return ""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")[:500]
    match found:
        case {"error": {"message": str(message), "code": str(code)}}:
            return f"{code}: {message}"
        case {"error": {"message": str(message)}} | {"message": str(message)} | {"error": str(message)}:
            return message
        case _:
            return json.dumps(found)[:500]


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server wants to be left alone, from its header: a number, or a date."""
    text = error.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None  # noqa: PLR0124  NaN is no time
