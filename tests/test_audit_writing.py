"""A result comes back from its JSON as it was, what is no result is refused, and a summary shows text as text."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from audit_results import ALL, WORST, draft, exposed, failing, hostile, much
from mnemoscope.audit import result as contract
from mnemoscope.audit.markdown import MAX_CHARACTERS, code, plain, to_markdown
from mnemoscope.audit.result import SCHEMA
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.audit.verdict import judge
from mnemoscope.audit.writing import from_json, schema, to_json
from mnemoscope.errors import ConfigError
from mnemoscope.report.escapes import escape

STORED = Path(__file__).parents[1] / "docs" / "audit.schema.json"
ANY_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("`|\\<>&*_[]()!#@~ \n"), max_size=60)


@pytest.mark.parametrize("name", ALL)
def test_result_comes_back_from_json(name):
    """Written and read it is the same, numbers to the last digit; written again it is the same text."""
    result = ALL[name]()
    assert from_json(to_json(result)) == result
    assert to_json(from_json(to_json(result).encode())) == to_json(result)


def test_no_number_is_null():
    """What is infinite or not a number is null, and read as nothing known; JSON has no word for it."""
    result = replace(much(), exposed=(exposed(0, log_probability=-math.inf, samples_needed={"T = 1": math.nan}),))
    text = to_json(result)
    assert json.loads(text, parse_constant=pytest.fail)["exposed"][0]["log_probability"] is None
    (read,) = from_json(text).exposed
    assert read.log_probability is None
    assert read.samples_needed == {"T = 1": None}


def test_what_cannot_be_read_again_is_not_written():
    """A result with a value that its contract does not allow is refused before it lies on a disk."""
    with pytest.raises(ConfigError, match="the result: damaged"):
        to_json(replace(much(), state="perhaps"))
    with pytest.raises(TypeError):
        to_json(replace(much(), provenance={"path": Path("x")}))


def test_schema_is_stored():
    """docs/audit.schema.json is what the code says; each field of the contract stands in it."""
    assert STORED.read_text() == schema(), "run: python -c 'from mnemoscope.audit.writing import schema; ...'"
    read = json.loads(schema())
    assert read["title"] == read["properties"]["schema"]["const"] == SCHEMA
    for name, kind in vars(contract).items():
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
            described = read if name == "AuditResult" else read["$defs"][name]
            assert set(described["properties"]) == set(kind.__dataclass_fields__), name
    assert read["$defs"]["Exposed"]["properties"]["line"]["description"].startswith("Of the training file")


@pytest.mark.parametrize("name", ALL)
def test_results_keep_to_the_schema(name):
    """Every written result is valid by the stored schema; without a field that it needs it is not."""
    stored, value = json.loads(STORED.read_text()), json.loads(to_json(ALL[name]()))
    jsonschema.validate(value, stored)
    for field in stored["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({key: part for key, part in value.items() if key != field}, stored)


def damaged(change) -> str:
    value = json.loads(to_json(failing()))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "no audit of mnemoscope"),
        ("3", "no audit of mnemoscope"),
        ('{"schema": "somebody.else/1"}', "no audit of mnemoscope"),
        ('{"schema": 1}', "no audit of mnemoscope"),
        ('{"schema": "mnemoscope.audit/2"}', "schema mnemoscope.audit/2 found; this version of mnemoscope reads"),
        ('{"schema": "mnemoscope.audit/1"}', "damaged: state: Field required"),
        (damaged(lambda value: value.pop("leaks")), "damaged: leaks: Field required"),
        (damaged(lambda value: value.update(state="maybe")), "damaged: state"),
        (damaged(lambda value: value["matches"][0]["member"].update(count="3")), "matches.0.member.count"),
        (damaged(lambda value: value["matches"][0]["member"].update(count=3.5)), "matches.0.member.count"),
        (damaged(lambda value: value["matches"][0]["member"].update(low=None)), "matches.0.member.low"),
        (damaged(lambda value: value.update(matches={})), "damaged: matches"),
        (damaged(lambda value: value["outcomes"].update(nonsense="m11")), "outcomes: nonsense: m11"),
        (damaged(lambda value: value["outcomes"].update({"0" * 16: "x11"})), "outcomes: 0000000000000000: x11"),
        (damaged(lambda value: value["matches"][0]["member"].update(low=math.nan)), "NaN is no number of JSON"),
        (damaged(lambda value: value["matches"][0]["member"].update(low=-math.inf)), "-Infinity is no number of JSON"),
        (damaged(lambda _: None).replace('"p_value": 1e-32', '"p_value": 1e999'), "too large for a float"),
        (to_json(failing())[:-40], "not valid JSON"),
    ],
)
def test_what_is_no_audit_is_refused(text, told):
    """Each kind of damage is told in one line that names the file, and nothing else is raised."""
    with pytest.raises(ConfigError) as caught:
        from_json(text, name="earlier.json")
    assert str(caught.value).startswith("earlier.json: ")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_later_field_is_passed_over():
    """A field that this version does not know harms nothing: a later one may have added it."""
    assert from_json(damaged(lambda value: value.update(more={"deep": [1]}))) == failing()


def test_too_much_is_not_parsed(monkeypatch):
    """A text beyond the limit is refused by its length alone."""
    monkeypatch.setattr("mnemoscope.audit.writing.MAX_CHARACTERS", 10)
    with pytest.raises(ConfigError, match="11 characters; expected an audit of at most 10"):
        from_json("x" * 11)


class Rendered(HTMLParser):
    """Markdown as a site renders it: tags, attributes and visible text."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.codes: list[str] = []
        self.words = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "style") or name.startswith("on")]
        if tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag):
        if tag == "code":
            self.codes.append("")

    def handle_data(self, data):
        self.words += data
        if self.codes:
            self.codes[-1] += data


def test_hostile_words_make_nothing_live():
    """In the summary no word of a corpus, a file or a model becomes a link, a picture, a script or another element."""
    ours = set(Rendered(to_markdown(failing())).tags)
    rendered = Rendered(to_markdown(hostile()))
    assert set(rendered.tags) <= ours
    assert ours <= {
        *("h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "br", "ol", "ul", "li", "strong", "em"),
        *("details", "summary"),
    }
    assert rendered.addresses == ["text-align:right"] * len(rendered.addresses)
    assert "window.planted=1" in rendered.words
    assert "7 * 7" in rendered.words


def test_summary_has_what_a_reviewer_asks():
    """State first, then the headline; each criterion, deed, cell, dose and cluster has its place."""
    text = to_markdown(failing())
    assert text.startswith("## ❌ Memorization audit: fail\n\nNot fit for release as it is")
    for one in failing().criteria:
        assert f"`{one.name}`" in text
    for words in ("What to do", "Deduplicate these first", "Since the baseline", "Canaries", "What leaks"):
        assert f"### {words}\n" in text
    assert "| 64 | 32 | 318 of 4,000, 8.0 % (7.2 to 8.8) | 3 of 2,000, 0.15 % (0.05 to 0.44) |" in text
    assert [row.count("|") for row in text.splitlines() if row.startswith("| 64 | 3, 100")] == [7]
    assert text.index("### What to do") < text.index("### Recited word for word")


@pytest.mark.parametrize("words", ["x" * 100_000, WORST * 3000, "`" * 50_000, "|" * 50_000])
def test_summary_fits_a_comment(words):
    """However much there is, it stays below 60,000 characters, and says where it was cut."""
    result = hostile(words)
    result = replace(result, criteria=result.criteria * 40, notes=(words,) * 500)
    text = to_markdown(result)
    assert len(text) < MAX_CHARACTERS
    assert "Cut here" in text
    assert text.startswith("## ❌")


@given(ANY_TEXT)
def test_code_spans_show_any_text(text):
    """In a table's cell a code span shows the text, what cannot be seen spelled out, and makes no other cell."""
    rendered = Rendered(f"| a | b |\n| - | - |\n| {code(text, most=10_000)} | end |\n")
    shown = escape(text, backslash=False)
    assert rendered.tags.count("td") == 2
    assert rendered.tags.count("code") == 1
    assert rendered.codes[0].strip(" ") == shown.strip(" ")


@given(ANY_TEXT)
def test_plain_text_stays_text(text):
    """Text that is not ours is read as it was, and is no markup, wherever in a line it stands."""
    for line in (plain(text), f"word {plain(text)}", f"- {plain(text)}"):
        rendered = Rendered(line)
        assert set(rendered.tags) <= {"p", "ul", "li"}
        assert rendered.tags.count("li") <= 1
        told = "".join(rendered.words.split())
        assert told.removeprefix("word") == "".join(escape(text, backslash=False).split()) or not line.startswith(
            "word"
        )


def test_addresses_mentions_and_references_are_parted():
    """What a site would turn into a link or a mention has an empty comment inside, which nobody sees."""
    text = plain("see https://evil.example, www.evil.example, @someone, #12 and GH-12")
    assert not re.search(r"://|www\.|@\w|#\d|GH-\d", text)
    assert html.unescape(re.sub(r"<!-- -->|\\", "", text)) == (
        "see https://evil.example, www.evil.example, @someone, #12 and GH-12"
    )


def test_a_bare_result_is_told():
    """An audit that found nothing to say has a summary and JSON, too."""
    result = judge(draft(), Thresholds())
    assert to_markdown(result).startswith("## ❔ Memorization audit: could not tell")
    assert from_json(to_json(result)) == result
    assert asdict(result)["schema"] == SCHEMA
