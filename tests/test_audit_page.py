"""The audit's page, as text and in a real browser: verdict first, quiet, alone, legible, deaf to hostile text."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from dataclasses import replace

import altair
import pytest

from audit_results import ALL, WORST, draft, exposed, failing, hostile, much, passing, undecided
from browsing import PHONE, draw_everything, visit
from mnemoscope.audit.figures import audit_figures
from mnemoscope.audit.page import LIMITS, SCRIPTS, audit_name, audit_page
from mnemoscope.audit.result import Dose
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.audit.verdict import judge
from mnemoscope.report.escapes import escape
from mnemoscope.report.page import asset_text
from mnemoscope.report.theme import MAX_WIDTH
from test_page import Parsed

PLAIN = "plain words"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory) -> dict[str, str]:
    """The pages of all examples, as files."""
    folder = tmp_path_factory.mktemp("audit-pages")
    made = {}
    for name, make in ALL.items():
        (folder / f"{name}.html").write_text(audit_page(make()))
        made[name] = (folder / f"{name}.html").as_uri()
    return made


@pytest.fixture(scope="module")
def worst() -> Parsed:
    """The page whose every word is hostile."""
    return Parsed(audit_page(hostile()))


def test_hostile_words_make_no_element_and_no_listener(worst):
    """With hostile words the page has the elements that it has with plain ones, and no attribute that runs anything."""
    plain = Parsed(audit_page(hostile(PLAIN)))
    assert worst.tags == plain.tags
    assert [sorted(one) for one in worst.attributes] == [sorted(one) for one in plain.attributes]
    assert not [name for one in worst.attributes for name in one if name.startswith("on") or name == "style"]


def test_hostile_words_are_shown_as_they_are(worst):
    """Model, notes, examples, passages and provenance say the words, what is not seen spelled out."""
    shown = " ".join(escape(WORST, keep="\n", backslash=False).split())
    assert " ".join(worst.words.split()).count(shown) >= 15
    for signs in ("\u202e", "\u2028", "\x1b"):
        assert signs not in worst.words


def test_policy_names_what_stands_in_the_page(worst):
    """The policy allows exactly the page's own style and scripts, by their hashes; no address is named but anchors."""
    (policy,) = (one["content"] for one in worst.attributes if one.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))

    def hashed(wanted: str) -> list[str]:
        texts = [text for tag, attrs, text in worst.raw if tag == wanted and "type" not in attrs]
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return [f"'sha256-{digest}'" for digest in digests]

    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == hashed("script")
    assert directives["style-src"].split() == hashed("style")
    assert len(hashed("script")) == 1 + len(SCRIPTS) + 1
    targets = [one[name] for one in worst.attributes for name in ("src", "href") if name in one]
    assert [target for target in targets if not target.startswith("#")] == ["data:,"]


def test_own_script_never_parses_markup():
    """The page's script is strict and makes no element from text."""
    script = asset_text("audit.js", "mnemoscope.audit")
    assert script.startswith('"use strict";')
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    for name in ("audit.js", "audit.css"):
        assert not re.search(r"</(script|style)|<!--|\r", asset_text(name, "mnemoscope.audit"))


def test_page_says_verdict_then_why_then_what_to_do():
    """State and headline stand before the criteria, failed ones first, these before the deeds, and then the rest."""
    result = failing()
    words = " ".join(Parsed(audit_page(result)).words.split())
    one = next(one for one in result.criteria if one.name == "max_leaks")
    order = [
        result.headline,
        "Why",
        one.sentence,
        "What to do about it",
        "What is recited",
        "The most exposed",
        *LIMITS,
    ]
    places = [words.index(part) for part in order]
    assert places == sorted(places)
    rows = re.findall(r'class="criterion" data-state="(\w+)"', audit_page(result))
    assert rows == ["fail"] * 5 + ["pass"] * 2


def test_sections_are_of_what_there_is():
    """A result without canaries, leaks, signals or a baseline has no such sections, nor contents that lead nowhere."""
    for make in ALL.values():
        page = Parsed(audit_page(make()))
        ids = {one["id"] for one in page.attributes if "id" in one}
        anchors = {one["href"][1:] for one in page.attributes if (one.get("href") or "").startswith("#")}
        assert anchors <= ids
    bare = Parsed(audit_page(judge(draft(), Thresholds())))
    ids = {one["id"] for one in bare.attributes if "id" in one}
    assert not {"canaries", "leaks", "signals", "changes", "exposed", "recited", "copies"} & ids
    assert {"why", "limits", "provenance", "verdict"} <= ids
    assert "figure" not in bare.tags


def test_hidden_text_is_blocks():
    """What is hidden is one element each, that says so; the words beside it stay."""
    result = judge(replace(much(), exposed=(exposed(1),)), Thresholds())
    page = audit_page(result)
    assert (
        '<span class="hidden" title="hidden: looks private, or is more than may be shown">████████████████</span>'
        in page
    )
    assert "on weekdays before" in page


def test_model_is_named_without_its_home():
    """The name is the model's label, else its source with the home folder as ~, else `audit`."""
    assert audit_name(failing()) == "support-bot-1b"
    assert audit_name(draft(provenance={"model": {"source": "/home/jane/models/x"}})) == "~/models/x"
    assert audit_name(draft(provenance={"model": "gpt"})) == "gpt"
    assert audit_name(draft(provenance={})) == "audit"
    secret = draft(provenance={"command": "mnemoscope audit --model /home/jane/x", "a": {"b": ["/home/jane/y"]}})
    assert "jane" not in audit_page(judge(secret, Thresholds()))


def test_figures_are_valid_and_no_wider_than_a_column():
    """Each description keeps to Vega-Lite's schema, says what it draws and how many, and is drawn of what there is."""
    for make in (failing, hostile, passing, undecided):
        for name, spec in audit_figures(make()).items():
            altair.Chart.from_dict(spec)
            assert json.loads(json.dumps(spec, allow_nan=False)) == spec
            assert spec["usermeta"]["caption"].endswith("intervals.")
            widths = [panel["width"] for panel in spec.get("concat", [spec])]
            assert sum(widths[: spec.get("columns", 1)]) < MAX_WIDTH, name
            for rows in spec["datasets"].values():
                assert all({"told_what", "told_value", "told_n"} <= row.keys() for row in rows)
    assert set(audit_figures(failing())) == {"recited", "samples", "copies", "canaries", "signals"}
    assert set(audit_figures(undecided())) == {"recited", "signals"}
    assert audit_figures(draft()) == {}


def test_figures_draw_the_numbers():
    """The points of the recited figure are the shares, with their intervals, of both sides in every cell."""
    (rows,) = itertools.islice(audit_figures(failing())["recited"]["datasets"].values(), 1)
    drawn = {(row["side"], row["place"]): (row["share"], row["low"], row["high"]) for row in rows}
    for place, context in enumerate(("16", "32", "64")):
        row = next(
            row for row in failing().matches if (row.kind, row.context, row.continuation) == ("all", context, 16)
        )
        assert drawn["training passages", place] == (row.member.share, row.member.low, row.member.high)
        assert drawn["held-out passages", place] == (row.control.share, row.control.low, row.control.high)


def test_one_dose_is_no_figure():
    """A dose-response takes two doses; one is told in the table."""
    one = draft(doses=(Dose(1, 1, failing().doses[0].recited),))
    assert "copies" not in audit_figures(one)
    assert "38 of 2,900" in audit_page(judge(one, Thresholds()))


@pytest.mark.parametrize("name", ALL)
def test_page_opens_in_silence_and_asks_for_nothing(browser, addresses, name):
    """Every figure is drawn without error, warning or refusal, in either theme; no address is asked for but its own."""
    with visit(browser, addresses[name]) as opened:
        draw_everything(opened)
        for theme in ("light", "dark"):
            opened.wait_for("(theme) => !document.querySelector(`figure:not([data-drawn='${theme}'])`)", theme)
            opened.page.click("#theme")
        assert opened.page.locator("#headline").is_visible()
        assert opened.page.evaluate("window.planted") is None
        assert opened.faults() == []
        assert opened.requests == [addresses[name]]


@pytest.mark.parametrize("name", ALL)
def test_phone_has_no_sideways_scroll(browser, addresses, name):
    """At 390 pixels nothing is wider than the screen, with everything open and drawn."""
    with visit(browser, addresses[name], size=PHONE) as opened:
        draw_everything(opened)
        for section in opened.page.locator("section[id], footer, header").all():
            section.scroll_into_view_if_needed()
            assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= 390, section.get_attribute("id")
        assert opened.faults() == []


def test_verdict_is_seen_before_anything_is_scrolled(browser, addresses):
    """On a desktop and on a phone state and headline stand in the first screen."""
    for size in ((1440, 900), PHONE):
        with visit(browser, addresses["failing"], size=size) as opened:
            box = opened.page.locator("#verdict").bounding_box()
            assert box["y"] + box["height"] < size[1]


def test_filter_lists_exactly_what_fits(browser, addresses):
    """Kind, word-for-word, private and words narrow the passages to those of the result that fit, a page at a time."""
    some = failing().exposed

    with visit(browser, addresses["failing"]) as opened:
        page = opened.page

        def listed() -> list[str]:
            return page.locator(
                "#passages > details:not([hidden]) .where"
            ).all_text_contents()  # what is not near is not laid out: it has no inner text

        def expected(fits) -> list[str]:
            return [f"line {one.line:,}, {one.kind}" for one in some if fits(one)]

        assert listed() == expected(lambda one: True)[:20]
        page.click("#passage-more")
        assert listed() == expected(lambda one: True)
        page.select_option("select[name=kind]", "offset")
        assert listed() == expected(lambda one: one.kind == "offset")
        page.check("input[name=whole]")
        assert listed() == expected(lambda one: one.kind == "offset" and one.is_full)
        page.check("input[name=private]")
        assert listed() == expected(lambda one: one.kind == "offset" and one.is_full and one.private)
        page.uncheck("input[name=whole]")
        page.uncheck("input[name=private]")
        page.select_option("select[name=kind]", "")
        page.fill("input[name=words]", "COUNTY court")
        found = expected(lambda one: "county court" in one.continuation_text)
        assert listed() == found
        assert page.locator("#passage-count").inner_text() == f"{len(found)} of {len(some)} passages"
        page.fill("input[name=words]", "nowhere to be found")
        assert listed() == []
        assert opened.faults() == []


def test_keyboard_reaches_everything(browser, addresses):
    """Tab comes to contents, filter and passages; Enter opens a passage and shows what it is made of."""
    with visit(browser, addresses["failing"]) as opened:
        page = opened.page
        page.locator("#passage-filter input[name=private]").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert not page.locator("#passages .passage-body").first.is_visible()
        page.keyboard.press("Enter")
        body = page.locator("#passages .passage-body").first
        assert body.is_visible()
        assert "32 of 32" in body.inner_text()
        for name in ("#contents a", "#theme", ".table-scroll", "#passage-more"):
            page.locator(name).first.focus()
            assert page.evaluate(f"document.activeElement.matches('{name}')"), name


def test_page_stands_without_scripts(browser, addresses):
    """With scripts off verdict, criteria, numbers and every passage are there; the filter, which needs them, is not."""
    with visit(browser, addresses["failing"], ready="#verdict", java_script_enabled=False) as opened:
        page = opened.page
        assert page.locator("#headline").is_visible()
        assert page.locator("#criteria > li").count() == 7
        assert page.locator("#passages > details:visible").count() == len(failing().exposed)
        assert not page.locator("#passage-filter").is_visible()


def test_print_shows_what_is_closed(browser, addresses):
    """When the page is printed, every closed part is open."""
    with visit(browser, addresses["failing"]) as opened:
        page = opened.page
        assert page.locator("details:not([open])").count() > 0
        page.evaluate(
            "addEventListener('beforeprint', () => {"
            " window.closed = document.querySelectorAll('details:not([open])').length; })"
        )
        assert page.pdf().startswith(b"%PDF")
        assert page.evaluate("window.closed") == 0
