"""What tests of several files share: the command as a shell calls it, a Chromium, and pages that are built once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browsing import Visit, chromium, require_chromium, visit
from mnemoscope.__main__ import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from finetuned import FineTuned


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Call the command as a shell would; its exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mnemoscope", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def write_page(folder: Path) -> str:
    """The address of the page as the verb writes it, in a process of its own."""
    command = [sys.executable, "-m", "mnemoscope", "report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="session")
def executable() -> str:
    """That of Chromium; whatever needs it is skipped without one."""
    return require_chromium()


@pytest.fixture(scope="module")
def browser(executable: str) -> Iterator[Browser]:
    """A running Chromium; not for longer than a module, whose tests must not run event loops of their own."""
    with chromium(executable) as running:
        yield running


@pytest.fixture(scope="session")
def drawn_folder(executable: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with every perspective of traces, and hostile tokens."""
    from shown_studies import drawn_study

    return drawn_study(tmp_path_factory.mktemp("drawn") / "drawn-study").folder


@pytest.fixture(scope="session")
def drawn_page(drawn_folder: Path) -> str:
    """The address of its page."""
    return write_page(drawn_folder)


@pytest.fixture(scope="session")
def genuine_page(executable: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a study that networks scored."""
    from mnemoscope.reporting import write_report
    from shown_studies import genuine_study

    return write_report(genuine_study(tmp_path_factory.mktemp("genuine"))).path.as_uri()


@pytest.fixture
def seen(browser: Browser, drawn_page: str) -> Iterator[Visit]:
    """The drawn study's page, open on a desktop."""
    with visit(browser, drawn_page, accept_downloads=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """A model that was fine-tuned on a file with planted repeats; its training takes half a minute."""
    from finetuned import fine_tune

    return fine_tune(tmp_path_factory.mktemp("tuned"))
