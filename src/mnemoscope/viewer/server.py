"""The explorer's server: a page, its scripts and styles, and answers in JSON; an application of values to values.

    /                              the page
    /assets/NAME                   its scripts and styles, out of a fixed list
    /api/study                     models, grid, groups
    /api/sequences?model=...       fifty sequences of a filter, and the cursor of the next ones
    /api/count?model=...           how many there are
    /api/sequences/GROUP/ID        one sequence

Nothing of a request is ever taken for a path. What cannot be meant is answered by 400, what is not there by 404, what
takes too long by 503, a study that cannot be read by 500: always with {"error": one line}.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, Final

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mnemoscope.errors import ConfigError, MnemoscopeError, StoreError
from mnemoscope.store import Study
from mnemoscope.viewer.answers import Library, tell_count, tell_page, tell_sequence, tell_study
from mnemoscope.viewer.filters import read_filter, read_group, read_sequence_id
from mnemoscope.viewer.guard import guarded
from mnemoscope.viewer.queries import Session, Stopped

MAX_SECONDS: Final = 20.0
"""That a question may take; a full look through 10^7 sequences takes a quarter of it."""
MAX_AT_ONCE: Final = 4
_WATCH_SECONDS: Final = 0.1
_REPORT: Final = ("page.css", "explorer.css", "elements.js", "sequence.js", "explorer.js")
_OWN: Final = ("view.html", "view.js")
_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
Answer = dict[str, Any] | None


def create_app(
    study: Study,
    *,
    redact: bool = False,
    max_seconds: float = MAX_SECONDS,
    is_ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The application that shows a study, with private-looking text hidden if `redact`.

    What takes longer than `max_seconds` is given up, and everything is once `is_ending` says so. StoreError for a study
    without a run.
    """
    if not study.runs:
        raise StoreError(f"{study.folder}: no model has been scored; expected at least one")
    library = Library.of(study, redact=redact)
    limiter = anyio.CapacityLimiter(MAX_AT_ONCE)

    def answering(work: Callable[[Request, Session], Answer]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            session = library.database.session()
            ends = time.monotonic() + max_seconds
            told = _told(lambda: work(request, session), session)
            value = await _watched(
                request, session, told, limiter, is_over=lambda: is_ending() or time.monotonic() > ends
            )
            return _not_there(request) if value is None else JSONResponse(value)

        return endpoint

    def study_of(_request: Request, _session: Session) -> Answer:
        return tell_study(library)

    def page_of(request: Request, session: Session) -> Answer:
        return tell_page(library, session, *read_filter(request.query_params.multi_items(), study))

    def count_of(request: Request, session: Session) -> Answer:
        return tell_count(library, session, read_filter(request.query_params.multi_items(), study)[0])

    def sequence_of(request: Request, _session: Session) -> Answer:
        group = read_group(request.path_params["group"], study)
        return tell_sequence(library, group, read_sequence_id(request.path_params["id"]))

    routes = [
        Route("/api/study", answering(study_of)),
        Route("/api/sequences", answering(page_of)),
        Route("/api/count", answering(count_of)),
        Route("/api/sequences/{group}/{id}", answering(sequence_of)),
        *_files(),
    ]
    handlers: dict[Any, Any] = {
        Exception: _unforeseen,
        ConfigError: _failing(400),
        MnemoscopeError: _failing(500),
        HTTPException: _http_error,
        TimeoutError: _failing(503),
    }
    return guarded(Starlette(routes=routes, exception_handlers=handlers))


async def _watched(
    request: Request,
    session: Session,
    work: Callable[[], Answer | Exception],
    limiter: anyio.CapacityLimiter,
    *,
    is_over: Callable[[], bool],
) -> Answer:
    """What `work` returns, from a thread; it is stopped when its time is over, or when nobody waits for it any more."""

    async def watch() -> None:
        while not is_over() and not await request.is_disconnected():
            await anyio.sleep(_WATCH_SECONDS)
        while True:  # again and again: a stop just before a question begins is lost to it
            session.stop()
            await anyio.sleep(_WATCH_SECONDS)

    value: Answer | Exception = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        try:
            value = await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
        finally:
            session.stop()
            tasks.cancel_scope.cancel()
    if isinstance(value, Exception):
        raise value
    return value


def _told(work: Callable[[], Answer], session: Session) -> Callable[[], Answer | Exception]:
    """The same with its errors as values, which a task group does not gather into groups of errors."""

    def tell() -> Answer | Exception:
        try:
            return work()
        except Stopped:
            return TimeoutError("it took too long; narrow the filters, or take the order of the corpus")
        except FileNotFoundError as error:
            return StoreError(f"{error.filename}: gone; restore it, or start again")
        except Exception as error:
            return error
        finally:
            session.close()

    return tell


def _files() -> list[Route]:
    """The page and its files, read once."""
    routes: list[Route] = []
    for package, names in (("mnemoscope.report", _REPORT), ("mnemoscope.viewer", _OWN)):
        for name in names:
            content = (resources.files(package) / "assets" / name).read_bytes()
            kind = _TYPES[name.rpartition(".")[2]]
            path = "/" if name == "view.html" else f"/assets/{name}"
            routes.append(Route(path, _sending(content, f"{kind}; charset=utf-8")))
    return routes


def _sending(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return endpoint


def _failing(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": " ".join(str(error).split())}, status_code=status)

    return answer


async def _unforeseen(_request: Request, error: Exception) -> Response:
    """An answer nevertheless; the server's log has the rest."""
    return JSONResponse({"error": f"something unforeseen went wrong ({type(error).__name__})"}, status_code=500)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _not_there(request) if error.status_code == 404 else JSONResponse({"error": error.detail}, error.status_code)


def _not_there(request: Request) -> Response:
    return JSONResponse({"error": f"{request.url.path[:200]!a}: not there"}, status_code=404)
