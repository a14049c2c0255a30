"""A real headless Chromium that keeps a record of whatever a page does wrong.

The executable is that of MNEMOSCOPE_CHROMIUM, else the first of the usual names on PATH. Without one the tests that
need it are skipped, or fail where MNEMOSCOPE_BROWSER_TESTS is `required`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

EXECUTABLES: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP: Final = (1440, 900)
PHONE: Final = (390, 844)
PATIENCE_MS: Final = 20_000
_WATCH: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


class Visit(NamedTuple):
    """A page that is open, and what was held against it so far."""

    page: Page
    complaints: list[str]
    """Console errors and warnings, exceptions, crashes, requests that failed."""
    requests: list[str]
    """Every address that was asked for, data: and blob: left out: nothing leaves the page for them."""

    def faults(self) -> list[str]:
        """Everything that should not have been, refusals by the content-security policy among it."""
        return [*self.complaints, *self.page.evaluate("window.violations")]

    def data(self) -> Any:
        """The JSON that the page carries."""
        return json.loads(self.page.locator("#data").text_content() or "")

    def wait_for(self, condition: str, argument: Any = None) -> None:
        """Until a JavaScript function of `argument` is true."""
        self.page.wait_for_function(condition, arg=argument, timeout=PATIENCE_MS)


def find_chromium() -> str | None:
    """The executable; None where there is none."""
    named = os.environ.get("MNEMOSCOPE_CHROMIUM")
    return named or next((path for name in EXECUTABLES if (path := shutil.which(name))), None)


def require_chromium() -> str:
    """The executable; the test that asks for it is skipped where there is none, or fails where one is required."""
    executable = find_chromium()
    if executable is None:
        reason = f"no Chromium: set MNEMOSCOPE_CHROMIUM, or have one of {', '.join(EXECUTABLES)} on PATH"
        if os.environ.get("MNEMOSCOPE_BROWSER_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    pytest.importorskip("playwright.sync_api")
    return executable


@contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A running browser. While it runs this thread has an event loop: no other one, and no second browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def visit(
    browser: Browser,
    address: str,
    *,
    size: tuple[int, int] = DESKTOP,
    ready: str = "body[data-ready='true']",
    **context,
) -> Iterator[Visit]:
    """An address open in a window of its own, once it is ready."""
    width, height = size
    with browser.new_context(viewport={"width": width, "height": height}, **context) as window:
        window.add_init_script(_WATCH)
        page = window.new_page()
        seen = watch(page)
        page.goto(address)
        page.wait_for_selector(ready, state="attached", timeout=PATIENCE_MS)
        yield seen


def watch(page: Page) -> Visit:
    """A record of what the page does from now on."""
    seen = Visit(page, [], [])
    page.on("console", lambda told: told.type in ("error", "warning") and seen.complaints.append(told.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("crash", lambda _: seen.complaints.append("crashed"))
    page.on("requestfailed", lambda request: _note_failure(seen, request))
    page.on("request", lambda request: _note(seen, request.url))
    return seen


def _note_failure(seen: Visit, request: Request) -> None:
    if request.failure != "net::ERR_ABORTED":  # the page itself lets go of an answer that it needs no more
        seen.complaints.append(f"failed: {request.url} {request.failure}")


def _note(seen: Visit, url: str) -> None:
    if urlsplit(url).scheme not in ("data", "blob"):
        seen.requests.append(url)


def draw_everything(opened: Visit) -> None:
    """Open whatever is closed, pass by every figure, and wait until each is drawn."""
    opened.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for name in opened.page.locator("figure[data-figure]").evaluate_all("all => all.map(one => one.dataset.figure)"):
        draw_figure(opened, name)


def draw_figure(opened: Visit, name: str) -> None:
    """Come near a figure, and wait until it is drawn."""
    figure = opened.page.locator(f"figure[data-figure='{name}']")
    figure.evaluate("figure => { const box = figure.closest('details'); if (box) box.open = true; }")
    figure.scroll_into_view_if_needed()
    opened.wait_for("(figure) => figure.dataset.drawn !== undefined", figure.element_handle())
