"""The verb `view`: the explorer of sequences over a study's whole tables, in a browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from mnemoscope.errors import ConfigError

_EXTRA: Final = ("duckdb", "starlette", "uvicorn")


def view(
    folder: str | Path,
    *,
    port: int = 0,
    redact: Annotated[bool, Parameter(negative="")] = False,
    no_browser: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Every sequence of a study in a browser: filtered, ordered, searched; served to this machine only.

    Parameters
    ----------
    folder
        Folder or address of the study.
    port
        Port on 127.0.0.1 (default: any free one).
    redact
        Hide what looks like e-mail addresses, phone numbers, keys and card numbers, and long verbatim text; there is
        no search in text then.
    no_browser
        Only say where it is.
    """
    with suppress(KeyboardInterrupt):
        try:
            from mnemoscope.viewer.serving import serve
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA:
                raise
            raise ConfigError(
                f"view: {error.name} is not installed; expected it: pip install 'mnemoscope[view]'"
            ) from error
        from mnemoscope.store import open_study

        serve(open_study(folder), port=port, redact=redact, open_browser=not no_browser, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)  # also into a pipe, where somebody waits for it
