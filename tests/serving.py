"""A real `mnemoscope view` on loopback, for tests and benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Server(NamedTuple):
    """A process that serves a study."""

    process: subprocess.Popen[str]
    address: str
    """With a slash at the end."""


@contextmanager
def serving(folder: Path) -> Generator[Server]:
    """A running server of a study, from the moment at which it says where it is; ended with the block."""
    command = [sys.executable, "-m", "mnemoscope", "view", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://[\w.\[\]:]+", line):
                yield Server(process, f"{found[0].rstrip('/')}/")
                return
        raise RuntimeError(f"{' '.join(command)}: ended without an address\n{''.join(said)}")
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
