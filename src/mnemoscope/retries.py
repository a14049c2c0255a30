"""A request to a store that may fail for the moment -> its answer, after as many tries as it takes, within bounds.

Waits double from `FIRST_SECONDS` and are drawn from their upper half, so that many workers that were refused at once do
not come back at once (full and equal jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from mnemoscope.errors import StoreError

MAX_TRIES: Final = 10
FIRST_SECONDS: Final = 0.1
MOST_SECONDS: Final = 20.0
"""Of one wait; all waits of a request together are about a minute at most."""
NOTICED_SECONDS: Final = 3.0
"""A request that failed after so long is told of at once; of others, only the third failure is."""
_BUSY: Final = (408, 409, 425, 429)
"""HTTP: timed out, written by another at this moment, too early, too many requests. From 500 on it is the server."""
_MOVED: Final = (301, 308)
"""HTTP: at another endpoint, and for good."""
_FINAL: Final = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,  # fsspec's word for what a store cannot do: it will not learn it
)
_NO_CREDENTIALS: Final = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "ConfigNotFound",
    "ConfigParseError",
    "InvalidConfigError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
)
_MISTYPED: Final = ("ParamValidationError", "InvalidRegionError", "NoRegionError", "UnknownEndpointError")
_FINAL_NUMBERS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EINVAL, errno.ENAMETOOLONG, errno.EROFS, errno.ENOSYS)
_CLIENTS: Final = frozenset(
    {"aiohttp", "aiobotocore", "azure", "botocore", "fsspec", "gcsfs", "google", "http", "requests", "s3fs", "urllib3"}
)
"""Packages whose errors are about a request; those of others are ours."""
_T = TypeVar("_T")

_log = logging.getLogger(__name__)
_random = random.Random()


def persist(request: Callable[[], _T], place: str) -> _T:
    """What a request answers, tried again while that may help.

    FileNotFoundError and FileExistsError are answers. StoreError, in one line with the place, where the store refuses,
    or did not answer in `MAX_TRIES`; an error that is no request's is raised as it is.
    """
    for number in range(1, MAX_TRIES + 1):
        began = time.monotonic()
        try:
            return request()
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            if not _is_of_request(error):
                raise
            if not is_transient(error):
                raise StoreError(_refusal(place, error)) from error
            if number == MAX_TRIES:
                raise StoreError(
                    f"{place}: no answer in {MAX_TRIES} tries ({reason(error)}); "
                    "what is stored stays: run again when the store can be reached"
                ) from error
            seconds = wait_seconds(number)
            is_short = number < 3 and time.monotonic() - began < NOTICED_SECONDS
            level = logging.INFO if is_short else logging.WARNING
            _log.log(level, "%s: %s; try %d follows in %.1f seconds", place, reason(error), number + 1, seconds)
            time.sleep(seconds)
    raise AssertionError("unreachable")


def wait_seconds(number: int) -> float:
    """How long to wait after the try of a number, from 1."""
    return min(MOST_SECONDS, FIRST_SECONDS * 2.0**number) * _random.uniform(0.5, 1.0)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed in a while: time is up, connections break, the server is busy or broken."""
    status = http_status(error)
    if status is not None and (status >= 400 or status in _MOVED):
        return status in _BUSY or (status >= 500 and status != 501)
    if isinstance(error, (*_FINAL, ValueError)) or type(error).__name__ in (*_NO_CREDENTIALS, *_MISTYPED):
        return False
    if isinstance(error, OSError) and error.errno in _FINAL_NUMBERS:
        return False
    return _is_of_request(error)


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error, as the clients of S3, Google, Azure and plain HTTP tell it; None without one."""
    for each in _chain(error):
        response: Any = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            names = ("status", "status_code", "code")
            status = next((found for name in names if isinstance(found := getattr(each, name, None), int)), None)
        if isinstance(status, int):
            return status
    return None


def reason(error: BaseException) -> str:
    """An error's text on one line of at most 200 characters, without anything that opens a door."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"//[^/@\s]*@", "//", text)
    text = re.sub(r"(://[^\s?\"']*)\?[^\s\"']*", r"\1", text)
    text = re.sub(r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}", "...", text)
    for name, value in os.environ.items():
        if len(value) > 7 and re.search(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|ACCOUNT_KEY|CONNECTION_STRING", name):
            text = text.replace(value, "...")
    return text[:200]


def _refusal(place: str, error: Exception) -> str:
    name, status = type(error).__name__, http_status(error)
    if isinstance(error, PermissionError) or name in _NO_CREDENTIALS or status in (401, 403):
        return (
            f"{place}: refused ({reason(error)}); expected credentials that may read and write there, "
            "where the store's client looks for them"
        )
    if isinstance(error, ValueError) or name in _MISTYPED or status in _MOVED:
        return (
            f"{place}: refused ({reason(error)}); expected an address such as s3://bucket/study, and an endpoint and "
            "region, where they are set, such as https://host:9000 and us-east-1"
        )
    return f"{place}: refused ({reason(error)}); choose another results folder"


def _is_of_request(error: BaseException) -> bool:
    """Whether it is about a request: by its kind, or because a client raised it of what it was told to ask."""
    # Python's own kinds: of a client they are refusals, of anything else a bug that must be seen.
    if isinstance(error, (ValueError, NotImplementedError)) and _is_of_client(_origin(error)):
        return True
    return isinstance(error, (OSError, EOFError)) or any(_is_of_client(kind.__module__) for kind in type(error).__mro__)


def _is_of_client(module: str) -> bool:
    return module.partition(".")[0] in _CLIENTS


def _origin(error: BaseException) -> str:
    """The module that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__
