"""`mnemoscope view` in a real browser, served by a real process: the explorer over every sequence of a study."""

from __future__ import annotations

import unicodedata
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from browsing import PHONE, visit
from byte_tokens import HOSTILE, PLANTED
from explorer_pages import CASES, Case, Explorer, fitting, known_of_study
from mnemoscope.shards import matched_bits
from mnemoscope.store import open_study, read_scores
from mnemoscope.texts import open_texts
from serving import serving
from test_page_explorer_browser import CUT, INVISIBLE, LARGEST, VOCAB

PAGE_ROWS = 50
READY = "#explorer-list [role='option']"


@pytest.fixture(scope="module")
def address(drawn_folder):
    """Where the drawn study is served."""
    with serving(drawn_folder) as server:
        yield server.address


@pytest.fixture(scope="module")
def known(drawn_folder):
    """Its 840 sequences, looked up the slow way."""
    return known_of_study(open_study(drawn_folder))


@pytest.fixture(scope="module")
def viewed(browser, address):
    """The served page, opened once for all tests."""
    with visit(browser, address, ready=READY) as opened:
        yield opened


def test_view_opens_in_silence_and_asks_loopback_alone(viewed, address):
    """No error, warning or refusal; each address that is asked for is the server's own."""
    explorer = Explorer(viewed)
    explorer.open(explorer.listed()[3].key)
    assert viewed.faults() == []
    assert address.startswith("http://127.0.0.1:")
    assert viewed.requests
    assert {url for url in viewed.requests if not url.startswith(address)} == set()


def test_all_sequences_are_listed_page_by_page(viewed, known):
    """Without filters each sequence of the study is listed once, fifty at a time, and their number is told."""
    explorer = Explorer(viewed)
    explorer.clear()
    assert explorer.total == len(known) == 840
    assert viewed.page.locator(READY).count() == PAGE_ROWS
    viewed.page.click("#explorer-more")
    explorer.settle()
    assert viewed.page.locator(READY).count() == 2 * PAGE_ROWS
    everything = Case({}, lambda one, cell: True)
    assert explorer.listed_keys() == fitting(known, everything, (LARGEST, 8, 8))


@pytest.mark.parametrize("name", CASES)
def test_filters_list_exactly_what_fits(viewed, known, name):
    """Each filter lists those sequences of the whole study that fit it, over all pages, and no other."""
    explorer, case = Explorer(viewed), CASES[name]
    explorer.clear()
    assert explorer.cell == (LARGEST, 8, 8)
    explorer.set(**case.filters)
    expected = fitting(known, case, (LARGEST, 8, 8))
    assert explorer.listed_keys() == expected
    assert explorer.total in (len(expected), None if "text" in case.filters else len(expected))
    assert viewed.faults() == []


def test_orders_hold_over_pages(viewed, known):
    """By matches or probability the rows fall from the first page to the last, and none is lost or doubled."""
    explorer = Explorer(viewed)
    explorer.clear()
    explorer.set(model=0, context=16, continuation=4)
    for order in ("matched", "log_probability"):
        explorer.set(order=order)
        rows = explorer.listed()
        assert sorted(row.key for row in rows) == sorted(one.key for one in known)
        if order == "matched":
            counts = [row.num_matched for row in rows]
            assert counts == sorted(counts, reverse=True)
            assert {row.key: row.num_matched for row in rows} == {one.key: one.num_matched[0, 16, 4] for one in known}


def test_a_sequence_is_shown_as_it_is_stored(viewed, drawn_folder):
    """Its texts are the corpus's tokens, its signs the stored bits with the first miss marked."""
    explorer, study = Explorer(viewed), open_study(drawn_folder)
    explorer.clear()
    explorer.set(model=LARGEST, context=16, continuation=8, group="member")
    rows = np.load(study.config.corpus.path, mmap_mode="r")
    tokenizer = open_texts(study.config)["member"].corpus.tokenizer
    table = next(read_scores(study, "made-8m", group="member"))
    table = table.filter(table["context"].to_numpy() == 16)
    bits, firsts = matched_bits(table, 8), table["first_mismatch"].to_pylist()
    for place in range(0, 40, 7):
        explorer.open(("member", place))
        signs = ["=" if bit else "x" for bit in bits[place]]
        if firsts[place] < 8:
            signs[firsts[place]] = "X"
        tokens = viewed.page.locator("#sequence .tokens[data-part='continuation'] .token")
        assert tokens.evaluate_all("all => all.map(one => one.dataset.match)") == signs
        shown = viewed.page.locator("#sequence .token .token-truth").all_text_contents()
        assert len(shown) == 24
        for text, token in zip(shown, rows[place].tolist(), strict=True):
            if token < VOCAB - len(HOSTILE):
                assert text == tokenizer.decode([token]).replace(" ", "·")


def test_hostile_text_is_only_shown(viewed, known, drawn_folder):
    """Planted scripts do not run wherever their sequences are listed or shown, and nothing invisible is in the page."""
    explorer = Explorer(viewed)
    explorer.clear()
    rows = np.load(open_study(drawn_folder).config.corpus.path, mmap_mode="r")
    hostile = range(VOCAB - len(HOSTILE), VOCAB)
    holders = {token: int(np.flatnonzero((rows[:, :16] == token).any(axis=1))[0]) for token in hostile}
    explorer.set(context=8, continuation=8, group="member")
    explorer.listed()
    for token, place in holders.items():
        explorer.open(("member", place))
        index = rows[place].tolist().index(token)
        text = viewed.page.locator(f"#sequence .token[data-index='{index}'] .token-truth").text_content()
        assert text
        assert len(text) <= CUT + 8
        if token == hostile[0]:
            assert text.startswith(PLANTED[:12])
        body = viewed.page.locator("body").inner_text()
        assert not {unicodedata.category(mark) for mark in body.replace("\n", "").replace("\t", "")} & INVISIBLE
    assert viewed.page.evaluate("window.planted") is None
    assert viewed.faults() == []


def test_phone_has_no_sideways_scroll(browser, address):
    """At 390 pixels neither the list nor a sequence with an endless token is wider than the screen."""
    with visit(browser, address, ready=READY, size=PHONE) as opened:
        explorer = Explorer(opened)
        explorer.clear()
        explorer.set(text="xxxxxxxxxxxxxxxx")
        explorer.open(explorer.listed_keys()[0])
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert opened.page.locator("#sequence").bounding_box()["width"] <= 390


def test_keyboard_walks_the_list(viewed):
    """Focus on the list and arrows choose sequences, which are then shown."""
    explorer = Explorer(viewed)
    explorer.clear()
    viewed.page.locator("#explorer-list").focus()
    for press, place in (("Home", 0), ("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", PAGE_ROWS - 1)):
        viewed.page.keyboard.press(press)
        explorer.wait_for_sequence(("member", place))


@pytest.mark.parametrize("path", ["", "api/study", "api/sequences?model=0&context=8&continuation=8", "no/such/page"])
def test_every_answer_is_locked_down(address, path):
    """Each answer forbids foreign scripts, frames, sniffing and referrers, errors not excepted."""
    try:
        answer = urlopen(address + path, timeout=20)
    except HTTPError as error:
        answer = error
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_another_host_is_refused(address):
    """A name that resolves to loopback, as a foreign page could use, gets no answer."""
    request = Request(address + "api/study", headers={"Host": "evil.example"})
    with pytest.raises(HTTPError) as refused:
        urlopen(request, timeout=20)
    assert 400 <= refused.value.code < 500
    assert b"made-8m" not in refused.value.read()
