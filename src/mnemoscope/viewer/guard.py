"""What every request must be, and what every answer carries, errors among them: an ASGI application around another.

The server listens on the loopback address, where every page that is open in a browser can send requests, and where a
name of somebody else's can be made to point (DNS rebinding). So a request must be addressed to this machine by one of
its own names, must not come from another site's page, and can only read; and no answer may be used by another site.
"""

from __future__ import annotations

import json
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
METHODS: Final = ("GET", "HEAD")
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def guarded(application: ASGIApp) -> ASGIApp:
    """The application behind the checks; a request that fails one gets a JSON error, and never reaches it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await application(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']}: only http is served")

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message.get("headers", [])}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        refused = _refuse(scope)
        if refused is None:
            await application(scope, receive, send_safely)
        else:
            await _send_error(send_safely, *refused, with_body=scope["method"] != "HEAD")

    return answer


def _refuse(scope: Scope) -> tuple[int, str] | None:
    """Status and reason; None for a request that may pass."""
    headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [value for name, value in headers if name == b"host"]
    port = scope["server"][1]
    allowed = [f"{host}:{port}" for host in HOSTS] + (list(HOSTS) if port == 80 else [])
    if len(hosts) != 1 or hosts[0].lower() not in allowed:
        return 400, f"Host: {', '.join(hosts)[:80]!a} given; expected one of {', '.join(allowed)}"
    if scope["method"] not in METHODS:
        return 405, f"{scope['method'][:20]!a} given; expected GET or HEAD: this server only reads"
    origins = {value.lower() for name, value in headers if name == b"sec-fetch-site"}
    if scope["path"].startswith("/api") and not origins <= {"same-origin", "none"}:
        return 403, "asked for by another site's page; expected this server's own"
    return None


async def _send_error(send: Send, status: int, reason: str, *, with_body: bool) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append((b"allow", ", ".join(METHODS).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})
