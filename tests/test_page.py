"""The page as text: hostile words stay words, its policy names the very scripts, data come back, links lead."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from mnemoscope.report.escapes import escape
from mnemoscope.report.page import SCRIPTS, STYLES, PageContent, asset_text, build_page, vega_bundle
from mnemoscope.report.page_data import dump_json, figure_data, study_data, table_data
from mnemoscope.report.provenance import ProvenanceTable
from mnemoscope.report.rigor import RigorRow
from mnemoscope.report.sections import Section, SectionTable
from mnemoscope.report.verdict import Claim, Verdict
from worded_studies import bare_facts, model_facts, study_facts

HOSTILE = """</script><script>alert(1)</script><!--<script>"'><img src=x onerror=alert(1)>{{ 7 * 7 }}&amp;\u2028"""
SHOWN = HOSTILE.replace("\u2028", "\\u2028")
"""As a reader sees it: what has no shape of its own is spelled out."""


class Parsed(HTMLParser):
    """A page taken apart as a browser does: its tags in order, attributes, and texts by the element they stand in."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data):
        if self.cdata_elem:
            tag, attrs, text = self.raw[-1]
            self.raw[-1] = (tag, attrs, text + data)
        else:
            self.words += data

    @property
    def data(self) -> dict:
        """The JSON of the page."""
        return json.loads(next(text for _, attrs, text in self.raw if attrs.get("id") == "data"))


def content(words: str = "plain words", **changes) -> PageContent:
    """A page that says `words` wherever a study, its corpus or its models could put them."""
    section = Section(
        name="factors",
        title=words,
        question=words,
        finding=words,
        state="holds",
        figures=("shares",),
        tables=(SectionTable("memorized", words, pa.table({"model": [words], "share": [0.25]})),),
        checks=(words,),
        n=words,
    )
    spec = {"mark": "point", "datasets": {"rows": [{"a": words}]}, "usermeta": {"title": words, "caption": words}}
    explorer = {"note": words, "texts": {"1": words}, "sequences": [{"id": 0, "group": "member", "notes": [words]}]}
    whole = {
        "facts": study_facts(name=words, models=(model_facts(words),), command=words),
        "folder": words,
        "verdict": Verdict(words, (Claim(words, "found"),)),
        "sections": (section,),
        "rigor": (RigorRow(words, words, "done", words),),
        "provenance": (ProvenanceTable(words, ((words, words),)),),
        "figures": {"factors": {"shares": spec}},
        "explorer": explorer,
    }
    return PageContent(**(whole | changes))


@pytest.fixture(scope="module")
def hostile() -> Parsed:
    """The page of a study whose every word is hostile."""
    return Parsed(build_page(content(HOSTILE)))


def test_hostile_words_make_no_element_and_no_listener(hostile):
    """With hostile words the page has the elements that it has with plain ones, and no attribute that runs anything."""
    plain = Parsed(build_page(content()))
    assert hostile.tags == plain.tags
    assert [sorted(one) for one in hostile.attributes] == [sorted(one) for one in plain.attributes]
    assert not [name for one in hostile.attributes for name in one if name.startswith("on") or name == "style"]


def test_hostile_words_are_shown_as_they_are(hostile):
    """Headline, claims, finding, checks, rigor and provenance say the words, letter by letter."""
    assert hostile.words.count(SHOWN) >= 15
    assert all(one.get("aria-label") == SHOWN for one in hostile.attributes if "data-figure" in one)


def test_data_come_back_as_they_were(hostile):
    """Texts and rows of figures are read as they were given; cells of tables with what is not seen spelled out."""
    data = hostile.data
    assert data["explorer"]["texts"] == {"1": HOSTILE}
    assert data["tables"]["factors/memorized"]["rows"] == [[escape(HOSTILE, backslash=False), 0.25]]
    assert data["figures"]["shares"]["datasets"]["rows"] == {"shapes": [["a"]], "texts": [], "rows": [[0, HOSTILE]]}
    assert data["study"]["name"] == HOSTILE


def test_json_has_no_sign_that_html_would_read():
    """In a script element neither an end tag nor a comment nor a line separator can begin; NaN is no JSON."""
    value = {"a": ["</script>", "<!--", "&lt;", "\u2028\u2029", "é", '"\\'], "b": None}
    text = dump_json(value)
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)
    with pytest.raises(ValueError, match="JSON"):
        dump_json([math.nan])


def test_policy_names_the_very_scripts_and_nothing_else(hostile):
    """Each script and style of the page has its hash in the policy, which allows no others, no eval, no network."""
    metas = (one for one in hostile.attributes if one.get("http-equiv") == "Content-Security-Policy")
    policy = dict(part.split(" ", 1) for part in next(metas)["content"].split("; "))

    def hashed(wanted: str) -> list[str]:
        texts = [text for tag, attrs, text in hostile.raw if tag == wanted and "type" not in attrs]
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return [f"'sha256-{digest}'" for digest in digests]

    assert policy == {
        "default-src": "'none'",
        "script-src": " ".join(hashed("script")),
        "style-src": " ".join(hashed("style")),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(hashed("script")) == len(SCRIPTS) + 1


def test_page_names_no_address(hostile):
    """No element of the page has an address but anchors within it and an empty icon."""
    addresses = [one[name] for one in hostile.attributes for name in ("src", "href") if name in one]
    assert [address for address in addresses if not address.startswith("#")] == ["data:,"]
    assert "srcset" not in {name for one in hostile.attributes for name in one}


def test_scripts_never_parse_markup():
    """Our scripts are strict and make elements one by one; no script or style closes its own element."""
    for name in SCRIPTS:
        script = asset_text(name)
        assert script.startswith('"use strict";'), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script), (
            name
        )
    for text in (vega_bundle(), *map(asset_text, (*SCRIPTS, *STYLES))):
        assert not re.search(r"</(script|style)|<!--|\r", text)


def test_what_cannot_be_seen_is_spelled_out():
    """A right-to-left mark in a headline is told as an escape, and half a character from a file's name as ?."""
    page = Parsed(build_page(content(verdict=Verdict("a\u202eb\u200bc\x07", ()), folder="half\udcff")))
    assert "a\\u202eb\\u200bc\\x07" in page.words
    assert page.data["study"]["folder"] == "half?"


def test_missing_parts_leave_no_hole():
    """Without sections, sample, rigor and provenance nothing of them is there, and every link still leads somewhere."""
    bare = content(facts=bare_facts(), sections=(), figures={}, rigor=(), provenance=(), explorer=None)
    for page in (Parsed(build_page(bare)), Parsed(build_page(content()))):
        ids = [one["id"] for one in page.attributes if "id" in one]
        assert len(ids) == len(set(ids))
        assert {one["href"][1:] for one in page.attributes if (one.get("href") or "").startswith("#")} <= set(ids)
        assert {one["for"] for one in page.attributes if "for" in one} <= set(ids)
    page = Parsed(build_page(bare))
    assert {"section", "figure", "table"}.isdisjoint(page.tags)
    assert page.data["explorer"] is None
    assert page.data["tables"] == {}


def test_figures_that_a_section_does_not_name_come_last():
    """Named figures stand first in their order; a name without a figure is left out."""
    section = content().sections[0]._replace(figures=("b", "missing", "a"))
    figures = {"factors": {name: {"mark": "point"} for name in ("c", "a", "b")}}
    page = Parsed(build_page(content(sections=(section,), figures=figures)))
    assert [one["data-figure"] for one in page.attributes if "data-figure" in one] == ["b", "a", "c"]


def test_long_tables_are_cut_and_say_so():
    """As many first rows as fit are carried, at least one, beside the number of all."""
    table = pa.table({"n": list(range(1000))})
    cut = table_data(table, "", max_characters=100)
    assert cut["rows"] == [[n] for n in range(10 + (100 - 30) // 4)]  # [0] to [9] take 3 characters, [10] and on 4
    assert (cut["num_rows"], cut["is_cut"]) == (1000, True)
    assert table_data(table, "", max_characters=1)["rows"] == [[0]]
    whole = table_data(table.slice(0, 3), "")
    assert (whole["rows"], whole["is_cut"]) == ([[0], [1], [2]], False)


def test_where_not_all_rows_fit_those_of_the_largest_model_come_first():
    """Of rows of a, b, a, b ... a cut table has b's in their order, then a's; a whole one stays as it is."""
    table = pa.table({"model": ["a", "b"] * 50, "n": list(range(100))})
    cut = table_data(table, "", max_characters=500, model="b")
    assert [row[1] for row in cut["rows"]] == [*range(1, 100, 2), *range(0, 100, 2)][: len(cut["rows"])]
    assert 50 < len(cut["rows"]) < 100
    assert cut["first"] == "b"
    whole = table_data(table, "", model="b")
    assert ([row[1] for row in whole["rows"]], whole["first"]) == (list(range(100)), None)
    pairs = table_data(table.rename_columns(["model_to", "n"]), "", max_characters=20, model="b")
    assert pairs["rows"] == [["b", 1], ["b", 3]]
    assert table_data(table, "", max_characters=20, model="c")["first"] is None


def test_tables_carry_meanings_and_plain_values():
    """Columns have their meaning, unit and kind; reals six digits, and null where they are no numbers."""
    field = pa.field("share", pa.float64(), metadata={"meaning": "of all", "unit": "1"})
    columns = [[1 / 3, math.nan, math.inf, 2.0, None], [True, None, False, True, True], ["a", None, "b", "c", "d"]]
    schema = pa.schema([field, pa.field("small", pa.bool_()), pa.field("model", pa.string())])
    found = table_data(pa.table(columns, schema=schema), "told")
    assert found["columns"] == [
        {"name": "share", "meaning": "of all", "unit": "1", "type": "number"},
        {"name": "small", "meaning": "", "unit": "", "type": "flag"},
        {"name": "model", "meaning": "", "unit": "", "type": "text"},
    ]
    assert found["rows"] == [
        [0.333333, True, "a"],
        [None, None, None],
        [None, False, "b"],
        [2, True, "c"],
        [None, True, "d"],
    ]


def test_packed_rows_keep_what_is_missing_apart_from_null():
    """A row that lacks a column is packed without it, and a null one with it."""
    rows = [{"a": 1, "b": None}, {"a": 2}, {"b": 3, "a": 4}]
    packed = figure_data({"datasets": {"rows": rows}})["datasets"]["rows"]
    again = [dict(zip(packed["shapes"][shape], values, strict=True)) for shape, *values in packed["rows"]]
    assert again == rows


def test_packed_texts_that_occur_again_are_written_once():
    """Two rows of one model: its name stands in `texts`, and in both rows its index; a text that stands once stays."""
    rows = [{"model": "demo", "told": "1 %"}, {"model": "demo", "told": "2 %"}]
    packed = figure_data({"datasets": {"rows": rows}})["datasets"]["rows"]
    assert packed == {"shapes": [("model", "told")], "texts": ["demo"], "rows": [[0, [0], "1 %"], [0, [0], "2 %"]]}


def test_levels_are_ranges_of_matched_tokens():
    """Of 16 tokens 3 are the most of a fifth, 6 of two, 9 of three, 12 of four; of 3 none are a medium level."""
    levels = study_data(study_facts(continuations=(3, 16)), folder="here")["levels"]
    names = ("very low", "low", "medium", "high", "very high")
    assert levels["16"] == list(zip(names, (0, 4, 7, 10, 13), (3, 6, 9, 12, 16), strict=True))
    assert levels["3"] == [("very low", 0, 0), ("low", 1, 1), ("high", 2, 2), ("very high", 3, 3)]
