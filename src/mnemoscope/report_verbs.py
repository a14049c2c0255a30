"""The verbs that make a study something to look at: report; `cli` has the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

from cyclopts import Parameter

from mnemoscope.errors import ConfigError


def report(
    folder: str | Path,
    *,
    out: Path | None = None,
    redact: Annotated[bool, Parameter(negative="")] = False,
    sequences: int = 300,
) -> None:
    """One self-contained page: what was found and how sure it is, figures, tables, single sequences, provenance.

    Parameters
    ----------
    folder
        Folder or address of the study.
    out
        File of the page (default: report.html where the study lies).
    redact
        Hide e-mail addresses, phone numbers, keys and card numbers in the sequences shown, and long verbatim text.
    sequences
        At most how many sequences can be looked at in the page; 0 for none.
    """
    from rich.console import Console

    from mnemoscope.reporting import REPORT_FILE, write_report
    from mnemoscope.store import open_study

    opened = open_study(folder)
    fewest = len(opened.config.groups)
    if sequences and sequences < fewest:
        raise ConfigError(f"--sequences: {sequences} given; expected 0, or {fewest} or more: one of each group")
    with _show_steps(sys.stderr) as tell:
        written = write_report(opened, out, redact=redact, num_sequences=sequences, tell=tell)
    line = f"report    {out or opened.where(REPORT_FILE)} ({written.num_bytes / 1e6:.1f} MB)"
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _show_steps(stream: TextIO) -> Generator[Callable[[str], None]]:
    """Something to tell what is being done: one line that changes in a terminal, plain lines otherwise."""
    if not stream.isatty():

        def write(words: str) -> None:
            stream.write(f"{words}\n")
            stream.flush()

        yield write
        return
    from rich.console import Console
    from rich.text import Text

    with Console(file=stream).status("") as status:
        yield lambda words: status.update(Text(words))
