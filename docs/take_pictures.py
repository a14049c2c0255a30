"""The pictures of this folder, taken of a report in a headless Chromium: python docs/take_pictures.py REPORT.html

Run with the package's `dev` extra, after `make demo`; the executable is found as CONTRIBUTING says.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

from playwright.sync_api import Page, sync_playwright


class Picture(NamedTuple):
    """What is taken: the part of the page at the top of the window, and how the window is."""

    name: str
    part: str
    width: int
    height: int
    scheme: Literal["light", "dark"] = "light"


PICTURES: Final = (
    Picture("report.png", "body", 1440, 1000),
    Picture("report_transitions.png", "#section-transitions", 1440, 1000),
    Picture("report_sequences.png", "#explorer", 1440, 1000),
    Picture("report_rigor.png", "#rigor", 1440, 900),
    Picture("report_dark.png", "#section-entropy", 1440, 1000, "dark"),
    Picture("report_phone.png", "#section-factors", 390, 844),
    Picture("report_phone_sequence.png", "#sequence", 390, 844, "dark"),
)
EXECUTABLES: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def take(page: Page, picture: Picture, report: Path) -> None:
    """Writes the picture beside this file, once every figure in sight is drawn."""
    page.set_viewport_size({"width": picture.width, "height": picture.height})
    page.emulate_media(color_scheme=picture.scheme, reduced_motion="reduce")
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-ready=true]")
    page.locator(picture.part).first.evaluate("part => part.scrollIntoView()")
    page.wait_for_function(
        """() => [...document.querySelectorAll("figure[data-figure]")].every((figure) => {
            const { top, bottom } = figure.getBoundingClientRect();
            return bottom < 0 || top > innerHeight || figure.offsetParent === null || figure.dataset.drawn;
        })"""
    )
    page.locator(picture.part).first.evaluate("part => part.scrollIntoView()")
    page.screenshot(path=Path(__file__).with_name(picture.name))


def main() -> None:
    """Takes all of them."""
    executable = os.environ.get("MNEMOSCOPE_CHROMIUM") or next(filter(None, map(shutil.which, EXECUTABLES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        page = browser.new_page()
        for picture in PICTURES:
            take(page, picture, Path(sys.argv[1]))
        browser.close()


if __name__ == "__main__":
    main()
