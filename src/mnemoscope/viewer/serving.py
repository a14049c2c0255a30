"""The explorer served to this machine's own browser, until Ctrl-C."""

from __future__ import annotations

import errno
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import uvicorn

from mnemoscope.errors import ConfigError
from mnemoscope.store import Study
from mnemoscope.viewer.server import create_app

ADDRESS: Final = "127.0.0.1"
"""The loopback interface of this machine: no other machine reaches it. There is no way to choose another one."""
_PATIENCE_SECONDS: Final = 1


def serve(study: Study, *, port: int, redact: bool, open_browser: bool, say: Callable[[str], None]) -> None:
    """Serve a study at a port, any free one for 0, until Ctrl-C; `say` hears where, once it can be opened.

    ConfigError for a port that cannot be had.
    """
    with _listen(port) as listening, suppress(KeyboardInterrupt):
        app = create_app(study, redact=redact, is_ending=lambda: server.should_exit)
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,  # nobody stands in between, whatever a request says
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE_SECONDS,
        )
        server = uvicorn.Server(config)
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
        say(f"{study.folder.resolve().name}: {address} (on this machine only; Ctrl-C ends it)")
        if open_browser:  # some browsers keep who opens them waiting
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    """A socket that takes connections from now on."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: {port} given; expected 1 to 65535, or 0 for any free one")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((ADDRESS, port))
        listening.listen()
    except OSError as error:
        listening.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise ConfigError(f"port: {port} {why}; choose another one, or --port 0 for any that is free") from error
    return listening
