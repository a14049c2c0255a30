"""A study's folder becomes one page: from stored findings, within its size, redacted on request, whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnemoscope import reporting
from mnemoscope.cli import app
from mnemoscope.derived import Derived
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.reporting import write_report
from mnemoscope.store import open_study
from mnemoscope.stored_findings import read_findings
from shown_studies import drawn_study
from test_page import Parsed


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two models over members and a control, traced and analysed."""
    return drawn_study(tmp_path_factory.mktemp("drawn") / "drawn-study")


def read(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def test_report_stands_in_the_study_and_says_its_size(study):
    """The page is report.html of the study's folder, as long as it says, under 5 MB, with a section per finding."""
    told = []
    written = write_report(study, tell=told.append)
    assert written == (study.folder / "report.html", (study.folder / "report.html").stat().st_size)
    assert written.num_bytes < 5_000_000
    page = read(written.path)
    sections = {one["id"] for one in page.attributes if (one.get("id") or "").startswith("section-")}
    stored = {path.stem for path in (study.folder / "analyses").glob("*.json")}
    assert sections == {f"section-{name}" for name in stored}
    assert not any("computing" in words for words in told)


def test_same_study_gives_the_same_page(study, tmp_path):
    """Written twice, the page is the same, byte for byte."""
    pages = [write_report(study, tmp_path / name).path.read_bytes() for name in ("one.html", "two.html")]
    assert pages[0] == pages[1]


def test_stale_findings_are_computed_anew_and_said_so(study, tmp_path):
    """Where a stored finding was changed by hand the page has the one that follows from the tables, and says so."""
    path = study.folder / "analyses" / "factors.json"
    genuine = path.read_text()
    sentence = json.loads(genuine)["finding"]
    path.write_text(genuine.replace("recites", "forgets"))
    told = []
    page = read(write_report(study, tmp_path / "page.html", tell=told.append).path)
    assert any(words.startswith("computing findings") for words in told)
    assert sentence in page.words.replace("\u00a0", " ")
    assert path.read_text() == genuine


@pytest.mark.parametrize(("num_rows", "is_anew"), [(1, True), (0, False)])
def test_predictions_that_no_finding_tells_of_are_analysed(study, tmp_path, monkeypatch, num_rows, is_anew):
    """Where rows were predicted after the last analysis, findings are computed anew; an empty table has none."""
    predicted = Derived(study.folder / "predictions" / "made-1m", "k8")
    predicted.folder.mkdir(parents=True)
    pq.write_table(pa.table({"row": list(range(num_rows))}), predicted.path(".parquet"))
    stored, calls = read_findings(study), []
    monkeypatch.setattr(reporting, "current_predictions", lambda _study: [predicted])
    monkeypatch.setattr(reporting, "analyze", lambda study: calls.append(study) or stored)
    monkeypatch.setattr(reporting, "write_findings", lambda _study, _results: None)
    write_report(study, tmp_path / "page.html", num_sequences=0)
    shutil.rmtree(study.folder / "predictions")
    assert bool(calls) == is_anew


def test_alien_records_make_nothing_stale(study, tmp_path):
    """A JSON file that no analysis wrote beside the findings does not have them computed anew."""
    alien = study.folder / "analyses" / "notes.json"
    alien.write_text("{}")
    told = []
    write_report(study, tmp_path / "page.html", num_sequences=0, tell=told.append)
    alien.unlink()
    assert not any("computing" in words for words in told)


def test_sequences_are_as_many_as_asked_for(study, tmp_path):
    """The page has the sequences asked for, and without any no explorer."""
    some = read(write_report(study, tmp_path / "some.html", num_sequences=40).path)
    assert len(some.data["explorer"]["sequences"]) == 40
    none = read(write_report(study, tmp_path / "none.html", num_sequences=0).path)
    assert none.data["explorer"] is None
    assert "explorer" not in {one.get("id") for one in none.attributes}


def test_redacted_page_has_no_long_verbatim_text(study, tmp_path):
    """With redact a note tells in each sequence what is hidden."""
    page = read(write_report(study, tmp_path / "page.html", num_sequences=30, redact=True).path)
    for sequence in page.data["explorer"]["sequences"]:
        assert any("hidden" in note for note in sequence["notes"])
        assert [index for index, token in enumerate(sequence["tokens"]) if token == -2] == sequence["redacted"]


def test_too_large_a_page_is_cut_and_too_large_figures_are_our_fault(study, tmp_path, monkeypatch):
    """Over the limit tables are cut further, then nothing is written: figures never carry that much."""
    whole = write_report(study, tmp_path / "page.html")
    monkeypatch.setattr(reporting, "MAX_PAGE_BYTES", whole.num_bytes - 1)
    cut = write_report(study, tmp_path / "cut.html")
    assert cut.num_bytes < whole.num_bytes
    tables = [read(path).data["tables"] for path in (cut.path, whole.path)]
    assert sum(one["is_cut"] for one in tables[0].values()) > sum(one["is_cut"] for one in tables[1].values())
    monkeypatch.setattr(reporting, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(AssertionError, match="figures carry too many rows"):
        write_report(study, tmp_path / "none.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.html", "page.html"]


def test_fewer_sequences_are_drawn_where_one_of_each_stratum_is_too_much(study, tmp_path, monkeypatch):
    """Over the limit with one sequence of each stratum a smaller sample is drawn: its weights add up to all, too."""
    monkeypatch.setattr(reporting, "_ROOMS", ((reporting.MAX_TABLE_CHARACTERS, 1),))
    one_each = write_report(study, tmp_path / "one_each.html", num_sequences=80)
    monkeypatch.setattr(reporting, "MAX_PAGE_BYTES", one_each.num_bytes - 1)
    told = []
    fewer = write_report(study, tmp_path / "fewer.html", num_sequences=80, tell=told.append)
    assert fewer.num_bytes < one_each.num_bytes
    assert "the page would be too large: 40 sequences at most" in told
    before, after = (read(path).data["explorer"]["sequences"] for path in (one_each.path, fewer.path))
    assert 2 <= len(after) < len(before)
    for sequences in (before, after):
        assert sum(one["weight"] for one in sequences) == pytest.approx(700 + 140, abs=0.01)


def test_study_without_scores_has_no_report(study, tmp_path):
    """A study of which nothing is scored is refused in one line."""
    (tmp_path / "study.toml").write_text((study.folder / "study.toml").read_text())
    with pytest.raises(StoreError, match="no model has been scored"):
        write_report(open_study(tmp_path))


def test_verb_prints_path_and_size(study, tmp_path, capsys):
    """`mnemoscope report STUDY --out FILE` writes the file and prints where it lies and its size."""
    target = tmp_path / "shared" / "page.html"
    with pytest.raises(SystemExit) as ended:
        app(["report", str(study.folder), "--out", str(target), "--sequences", "20", "--redact"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.out == f"report    {target} ({target.stat().st_size / 1e6:.1f} MB)\n"
    assert "writing the page" in printed.err


@pytest.mark.parametrize("number", ["-1", "1"])
def test_verb_refuses_too_few_sequences_at_once(study, tmp_path, number):
    """Fewer sequences than groups are refused in the option's own name, before anything is computed."""
    page = tmp_path / "page.html"
    with pytest.raises(ConfigError, match=f"^--sequences: {number} given; expected 0, or 2 or more"):
        app(["report", str(study.folder), "--out", str(page), "--sequences", number], exit_on_error=False)
    assert not page.exists()
