"""The report's page in a real browser: quiet, self-contained, interactive, legible everywhere, deaf to hostile text."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest

from browsing import PHONE, draw_everything, visit

PERSPECTIVES = ("factors", "transitions", "frequency", "entropy", "embeddings")
SECTIONS = (*(f"section-{name}" for name in PERSPECTIVES), "explorer", "rigor", "provenance")


@pytest.fixture(params=["drawn", "genuine", "given"])
def any_page(request) -> str:
    """Pages of both shown studies, and the one that MNEMOSCOPE_DEMO_PAGE names."""
    if request.param != "given":
        return request.getfixturevalue(f"{request.param}_page")
    if not os.environ.get("MNEMOSCOPE_DEMO_PAGE"):
        pytest.skip("MNEMOSCOPE_DEMO_PAGE names no page")
    return Path(os.environ["MNEMOSCOPE_DEMO_PAGE"]).resolve().as_uri()


def pictures(opened) -> dict[str, str]:
    """What each drawn figure shows, as SVG; Vega numbers clippings anew at each drawing, so without their numbers."""
    return opened.page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('figure[data-drawn]')].map((figure) =>"
        " [figure.dataset.figure, figure.querySelector('.plot svg').innerHTML.replace(/clip\\d+/g, 'clip')]))"
    )


def test_page_opens_in_silence_and_asks_for_nothing(browser, any_page):
    """Every figure is drawn without error, warning or refusal, and no address is asked for but the file's own."""
    with visit(browser, any_page) as opened:
        assert opened.page.locator("#headline").inner_text().strip()
        draw_everything(opened)
        drawn = opened.page.locator("figure[data-figure]").evaluate_all("all => all.map(one => one.dataset.drawn)")
        assert len(drawn) >= 5
        assert set(drawn) == {"light"}
        assert set(opened.data()["figures"]) >= set(pictures(opened))
        assert opened.faults() == []
        assert opened.requests == [any_page]


def test_every_part_of_the_report_is_there(seen):
    """Each perspective has a finding, a figure and a table; the rigor table has 25 rows or more, all with a state."""
    page = seen.page
    for name in PERSPECTIVES:
        section = page.locator(f"#section-{name}")
        assert section.locator(".finding").first.inner_text().strip(), name
        assert section.get_attribute("data-state") in ("holds", "fails", "undecided")
        assert section.locator("figure[data-figure]").count() >= 1, name
        assert section.locator("div.table-box").count() >= 1, name
    states = page.locator("#rigor tbody tr").evaluate_all("rows => rows.map(row => row.dataset.state)")
    assert len(states) >= 25
    assert set(states) <= {"done", "partly", "not done", "not applicable"}
    assert page.locator("#claims > li.claim").count() >= 4
    assert "made-8m" in page.locator("#provenance").inner_text()


def test_contents_lead_to_what_is_there(seen):
    """Every link of the contents has its target."""
    targets = seen.page.locator("nav#contents a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert {f"#{name}" for name in SECTIONS} <= set(targets)
    for target in targets:
        assert seen.page.locator(target).count() == 1, target


def test_choices_change_the_figures_that_follow_them(seen):
    """After a choice the figures that claim to follow it look otherwise, the others as before; reset undoes it."""
    draw_everything(seen)
    page, before = seen.page, pictures(seen)
    for kind in ("model", "context", "continuation"):
        options = page.locator(f"#choice-{kind} option").evaluate_all("options => options.map(option => option.value)")
        assert len(options) == 1 + len(seen.data()["study"][f"{kind}s"])
        page.select_option(f"#choice-{kind}", options[-1])
        following = figures_that_follow(seen, f"{kind}={options[-1]}")
        assert following
        wait_for_pictures(seen, {name: before[name] for name in following}, "!==")
        after = pictures(seen)
        assert {name for name in before if before[name] != after[name]} == set(following)
        page.click("#choice-reset")
        seen.wait_for("() => !document.querySelector('figure[data-chosen]:not([data-chosen=\"\"])')")
        wait_for_pictures(seen, before, "===")
    assert seen.faults() == []


def figures_that_follow(opened, choice: str) -> list[str]:
    """The figures that claim to follow a choice, as soon as there are any."""
    followers = f"figure[data-chosen~='{choice}']"
    opened.page.wait_for_selector(followers)
    return opened.page.locator(followers).evaluate_all("figures => figures.map(figure => figure.dataset.figure)")


def wait_for_pictures(opened, svgs: dict[str, str], comparison: str) -> None:
    """Until each of these figures is drawn as given, or otherwise."""
    opened.wait_for(
        "(svgs) => Object.entries(svgs).every(([name, svg]) =>"
        " document.querySelector(`figure[data-figure='${name}'] .plot svg`)?.innerHTML.replace(/clip\\d+/g, 'clip')"
        f" {comparison} svg)",
        svgs,
    )


def test_hover_tells_value_and_n(seen):
    """The tooltip of a mark of the first figure tells a number of sequences."""
    figure = seen.page.locator("#section-factors figure[data-figure]").first
    figure.scroll_into_view_if_needed()
    seen.wait_for("(figure) => figure.dataset.drawn !== undefined", figure.element_handle())
    marks = figure.locator(".plot svg .mark-symbol path, .plot svg .mark-rect path")
    assert marks.count() > 0
    marks.first.hover(force=True)
    seen.wait_for("() => !document.querySelector('#tooltip').hidden")
    assert re.search(r"\bn\b.*\d|\bsequences\b", seen.page.locator("#tooltip").inner_text())


def first_table(opened):
    """The first open table of the factors, and its JSON."""
    box = opened.page.locator("#section-factors div.table-box:has(table)").first
    box.scroll_into_view_if_needed()
    return box, opened.data()["tables"][box.get_attribute("data-table")]


def show_all_rows(box) -> None:
    """Press for more rows until there are none."""
    more = box.locator("[data-action='more-rows']")
    while more.is_visible():
        more.click()


def shown_column(box, place: int) -> list[float]:
    """The numbers of a column from top to bottom, those that are missing left out."""
    cells = box.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
    texts = [text.replace(",", "").replace("−", "-").strip() for text in cells]
    return [float(text) for text in texts if re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text)]


def test_table_sorts_by_any_number(seen):
    """A click orders the rows by the column's values, a second one the other way round, and aria-sort says so."""
    box, table = first_table(seen)
    show_all_rows(box)
    names = box.locator("th[data-column]").evaluate_all("heads => heads.map(head => head.dataset.column)")
    kinds = {column["name"]: column["type"] for column in table["columns"]}
    numbers = [name for name in names if kinds[name] == "number"]
    assert len(numbers) >= 3
    for name in numbers:
        head, place = box.locator(f"th[data-column='{name}']"), names.index(name)
        values = [row[[column["name"] for column in table["columns"]].index(name)] for row in table["rows"]]
        for direction in ("ascending", "descending"):
            head.locator("button").click()
            show_all_rows(box)
            assert head.get_attribute("aria-sort") == direction
            shown = shown_column(box, place)
            assert shown == sorted(shown, reverse=direction == "descending"), name
            assert len(shown) == sum(value is not None for value in values)
    assert box.locator("th[aria-sort='ascending'], th[aria-sort='descending']").count() == 1


def test_saved_csv_is_the_table(seen):
    """The file that the button saves has the table's columns, rows and numbers, none lost and none rounded."""
    box, table = first_table(seen)
    with seen.page.expect_download() as waiting:
        box.locator("[data-action='csv']").click()
    saved = waiting.value
    assert re.fullmatch(r"[\w.-]+-factors-\w+\.csv", saved.suggested_filename)
    rows = list(csv.reader(io.StringIO(Path(saved.path()).read_text(encoding="utf-8-sig"))))
    assert rows[0] == [column["name"] for column in table["columns"]]
    assert len(rows) - 1 == len(table["rows"]) >= 3
    for saved_row, row in zip(rows[1:], table["rows"], strict=True):
        for text, value in zip(saved_row, row, strict=True):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert float(text) == value
            elif isinstance(value, str):
                assert text.lstrip("'") == value
            elif value is None:
                assert text == ""


def luminance(opened) -> float:
    """Of the page's background: 0 is black, 1 white."""
    colour = opened.page.evaluate(
        "[document.body, document.documentElement].map(one => getComputedStyle(one).backgroundColor)"
        ".find(colour => colour !== 'rgba(0, 0, 0, 0)')"
    )
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_and_light(browser, drawn_page):
    """The page follows the reader's system; its button turns page and figures to the other theme."""
    with visit(browser, drawn_page, color_scheme="light") as opened:
        assert luminance(opened) > 0.7
    with visit(browser, drawn_page, color_scheme="dark") as opened:
        assert luminance(opened) < 0.2
        draw_everything(opened)
        for theme in ("dark", "light"):
            opened.wait_for("(theme) => !document.querySelector(`figure:not([data-drawn='${theme}'])`)", theme)
            if theme == "dark":
                opened.page.click("#theme")
        assert luminance(opened) > 0.7
        assert opened.faults() == []


def test_phone_has_no_sideways_scroll(browser, any_page):
    """At 390 pixels nothing is wider than the screen in any section, with everything open and drawn."""
    with visit(browser, any_page, size=PHONE) as opened:
        draw_everything(opened)
        page = opened.page
        for section in page.locator("section[id], footer, header").all():
            section.scroll_into_view_if_needed()
            assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, section.get_attribute("id")
        page.evaluate("window.scrollTo(500, 0)")
        assert page.evaluate("window.scrollX") == 0
        assert opened.faults() == []


def test_print_shows_what_is_closed(seen):
    """When the page is printed, every closed part is open and every figure drawn."""
    page = seen.page
    assert page.locator("details:not([open])").count() > 0
    page.evaluate(
        "addEventListener('beforeprint', () => {"
        " window.closed = document.querySelectorAll('details:not([open])').length; })"
    )
    sheet = page.pdf()
    assert sheet.startswith(b"%PDF")
    assert page.evaluate("window.closed") == 0
