"""Stored results: what is read is what was analysed, and nothing stale or damaged is ever read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from mnemoscope import stored_findings
from mnemoscope.findings import all_specs, analyze, read_findings, save_findings
from mnemoscope.store import open_study
from studies import score_two


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A study of two models with its findings, and these."""
    study = score_two(tmp_path_factory.mktemp("findings"))
    results = analyze(study)
    save_findings(study, results, figures=False)
    return study, results


@pytest.fixture
def study(analysed, tmp_path):
    """A copy of the study, to be broken."""
    shutil.copytree(analysed[0].folder, tmp_path / "study")
    return open_study(tmp_path / "study")


def test_what_is_read_is_what_was_analysed(analysed):
    """Findings, tables, their order, and the units in their schemas come back as `analyze` returned them."""
    study, results = analysed
    found = read_findings(study)
    assert found is not None
    assert list(found) == list(results) == ["factors", "transitions"]
    for name, result in results.items():
        assert type(found[name]) is type(result)
        assert found[name].finding == result.finding
        assert list(found[name].tables) == list(result.tables)
        for table_name, table in result.tables.items():
            assert found[name].tables[table_name].equals(table, check_metadata=True)


def test_specs_follow_from_what_is_read(analysed):
    """Figures of stored results are those of fresh ones."""
    study, results = analysed
    assert all_specs(study, read_findings(study) or {}) == all_specs(study, results)


def test_nothing_stored_is_none(study):
    """A study without analyses has None, not an empty dictionary."""
    shutil.rmtree(study.folder / "analyses")
    assert read_findings(study) is None


@pytest.mark.parametrize("damage", ["torn record", "lost table", "changed table", "changed sentence", "other table"])
def test_damage_is_not_read(study, damage):
    """A record or table that is torn, gone, or not the one that was written takes its result with it, and no other."""
    record, table = study.folder / "analyses" / "factors.json", study.folder / "analyses" / "factors" / "bins.parquet"
    match damage:
        case "torn record":
            record.write_bytes(record.read_bytes()[:-9])
        case "lost table":
            table.unlink()
        case "changed table":
            table.write_bytes(table.read_bytes()[:-1] + b"x")
        case "changed sentence":
            record.write_text(record.read_text().replace(" member sequences", " member  sequences", 1))
        case _:
            shutil.copy(table.with_name("excess.parquet"), table)
    assert list(read_findings(study) or {}) == ["transitions"]


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"sha256": 1, "provenance": []}'])
def test_records_of_another_shape_are_not_read(study, content):
    """JSON that is no record is as good as none."""
    (study.folder / "analyses" / "factors.json").write_text(content)
    assert "factors" not in (read_findings(study) or {})


def test_other_runs_are_not_read(study):
    """Results of runs that are no longer the study's, or that lack one of them, are stale."""
    label, run = next(iter(study.runs.items()))
    other = replace(study, runs={**study.runs, label: replace(run, fingerprint="0" * 64)})
    assert read_findings(other) is None
    assert read_findings(replace(study, runs={label: run})) is None


def test_other_versions_are_not_read(study, monkeypatch):
    """What an older version stored is analysed anew: its columns may mean something else."""
    monkeypatch.setattr(stored_findings, "__version__", "0.0.0")
    assert read_findings(study) is None


def test_interrupted_writing_leaves_nothing_to_read(study, analysed, monkeypatch):
    """Tables of a new result under the record of an old one are not read."""
    results = {"factors": analysed[1]["factors"]}
    cut = {"factors": replace(results["factors"], bins=results["factors"].bins.slice(1))}

    def refuse(path, content, write=stored_findings.write_atomically):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(stored_findings, "write_atomically", refuse)
    with pytest.raises(KeyboardInterrupt):
        save_findings(study, cut, figures=False)
    assert "factors" not in (read_findings(study) or {})


def test_factors_are_written_last(study, analysed, monkeypatch):
    """Whoever is interrupted leaves no factors behind, so that what is there is not taken for everything."""
    shutil.rmtree(study.folder / "analyses")
    written = []

    def note(path, content, write=stored_findings.write_atomically):
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(stored_findings, "write_atomically", note)
    save_findings(study, analysed[1], figures=False)
    assert [name for name in written if name.endswith(".json")] == ["transitions.json", "factors.json"]
    assert list(read_findings(study) or {}) == ["factors", "transitions"]


def test_provenance_names_every_run(study):
    """The record beside the tables has each run's fingerprint, for whoever reads it without this package."""
    record = json.loads((study.folder / "analyses" / "factors.json").read_text())
    assert record["provenance"]["fingerprints"] == {label: run.fingerprint for label, run in study.runs.items()}
