"""A study's tables and scores as files: what is written is what is stored, and what comes back is what was scored."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnemoscope.config import ModelConfig
from mnemoscope.errors import StoreError
from mnemoscope.exported import export_study
from mnemoscope.findings import analyze, save_findings
from mnemoscope.imported import import_scores
from mnemoscope.run import run_study
from mnemoscope.store import open_study, read_scores
from studies import make_study, score_two, stored_matches

SIZES = {"tiny": 1000, "other": 2000}
PAIR = (
    *("relation", "model_from", "model_to", "group"),
    *("context_from", "continuation_from", "context_to", "continuation_to", "num_matched_from", "num_matched_to"),
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A study of two models, one of them at a named step, over members and a control, with its analyses."""
    study = score_two(tmp_path_factory.mktemp("scored"))
    save_findings(study, analyze(study), figures=False)
    return study


def imported_from(study, folder, **options):
    """The study as it comes back from its own export."""
    export_study(study, folder / "export")
    control = [str(folder / "export" / "scores-control" / "*.csv")]
    return import_scores(
        [str(folder / "export" / "scores" / "*.csv")],
        folder / "back",
        control=control,
        parameters=SIZES,
        **options,
    )


def test_round_trip_gives_the_same_matches(scored, tmp_path):
    """What export wrote and import read has the num_matched of every sequence, cell and model, members and control."""
    back = imported_from(scored, tmp_path)
    assert list(back.runs) == ["other@step7", "tiny"]
    assert back.run("other@step7").training_step == 7
    for label in back.runs:
        expected = stored_matches(scored, label)
        assert len(expected) == (11 + 5) * 4
        assert stored_matches(back, label) == expected


def test_exported_score_is_matches_over_n(scored, tmp_path):
    """Each file has the header idx,score, each sequence once, and the count of match bits over n."""
    written = export_study(scored, tmp_path)
    assert len(written.scores) == 2 * 2 * 4
    path = tmp_path / "scores" / "memorization_evals_tiny_8_13_final.csv"
    assert path in written.scores
    lines = path.read_text().splitlines()
    assert lines[0] == "idx,score"
    found = {int(idx): float(score) for idx, score in (line.split(",") for line in lines[1:])}
    bits = {
        (row["sequence_id"], row["context"]): np.unpackbits(np.frombuffer(row["matched"], np.uint8))[:5].tolist()
        for table in read_scores(scored, "tiny", group="member")
        for row in table.to_pylist()
    }
    assert found == {idx: sum(bits[idx, 8]) / 5 for idx in range(11)}
    assert (tmp_path / "scores" / "memorization_evals_other_4_7_7.csv").is_file()


def test_exported_tables_hold_what_the_analyses_hold(scored, tmp_path):
    """Every analysis table comes out as CSV, and as Parquet on request, with its columns, rows and values."""
    written = export_study(scored, tmp_path / "csv").tables
    again = export_study(scored, tmp_path / "parquet", format="parquet").tables
    sources = sorted((scored.folder / "analyses").glob("*/*.parquet"))
    assert len(sources) == len(written) == len(again) >= 10
    for source, path, other in zip(sources, written, again, strict=True):
        table = pq.read_table(source)
        assert pq.read_table(other).equals(table)
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == table.column_names
        assert len(rows) == table.num_rows
    memorized = pq.read_table(scored.folder / "analyses" / "factors" / "memorized.parquet").to_pylist()
    with (tmp_path / "csv" / "tables" / "factors" / "memorized.csv").open(newline="") as file:
        for row, text in zip(memorized, csv.DictReader(file), strict=True):
            assert (text["model"], int(text["num_memorized"])) == (row["model"], row["num_memorized"])
            assert float(text["share_high"]) == row["share_high"]


def test_exported_parquet_holds_the_same_scores(scored, tmp_path):
    """Scores as Parquet have the rows of the CSV."""
    text = export_study(scored, tmp_path / "csv").scores
    for path, other in zip(text, export_study(scored, tmp_path / "parquet", format="parquet").scores, strict=True):
        assert (path.stem, other.suffix) == (other.stem, ".parquet")
        table = pq.read_table(other)
        assert table.column_names == ["idx", "score"]
        rows = [tuple(map(float, line.split(","))) for line in path.read_text().splitlines()[1:]]
        assert rows == list(zip(*table.to_pydict().values(), strict=True))


def test_two_runs_never_share_a_file(scored, tmp_path):
    """A label that ends as another's step would keeps its whole name: no file is written twice."""
    config = make_study(tmp_path / "in")
    tiny = config.models[0].source
    models = (
        ModelConfig(source=tiny, name="a", revision=None, device="cpu"),
        ModelConfig(source=tiny, name="a@step5", device="cpu"),
    )
    study = run_study(replace(config, models=models), tmp_path / "study")
    written = export_study(study, tmp_path / "export").scores
    assert len(set(written)) == 8
    back = import_scores([str(path) for path in written], tmp_path / "back", parameters={"a": 1, "a@step5": 1})
    assert set(back.runs) == {"a", "a@step5"}


def test_tables_of_imported_scores_count_as_those_scored_here(scored, tmp_path):
    """Factors and transitions of the import have the counts of the original; what an import cannot tell is null."""
    original, imported = analyze(scored), analyze(imported_from(scored, tmp_path))
    names = ("model", "group", "context", "continuation")
    for name, value in (("memorized", "num_memorized"), ("num_matched", "num_chosen"), ("bins", "num_chosen")):
        keys = [*names, *(["num_matched"] if name == "num_matched" else ["bin"] if name == "bins" else []), value]
        here, there = (result["factors"].tables[name].select(keys) for result in (original, imported))
        assert sorted(here.to_pylist(), key=str) == sorted(there.to_pylist(), key=str)
    for name in ("num_unique", "num_fragile", "share_if_flipped_low"):
        assert imported["factors"].memorized.column(name).null_count == imported["factors"].memorized.num_rows
    assert imported["factors"].first_mismatch.num_rows == 0
    assert original["factors"].first_mismatch.num_rows > 0
    scores = [
        {tuple(row[key] for key in PAIR): row["num_chosen"] for row in result["transitions"].scores.to_pylist()}
        for result in (original, imported)
    ]
    assert scores[0] and scores[0] == scores[1]


def test_scores_without_matches_are_not_exported(tmp_path):
    """In mode `exact` no score below 1 is known: tables come out, per-sequence scores do not."""
    study = run_study(make_study(tmp_path / "in", mode="exact"), tmp_path / "study")
    save_findings(study, analyze(study), figures=False)
    written = export_study(study, tmp_path / "export")
    assert written.scores == []
    assert written.tables
    assert not (tmp_path / "export" / "scores").exists()


def test_an_unfinished_study_is_not_exported(scored, tmp_path):
    """A missing shard is refused before a file takes its place."""
    study = run_study(make_study(tmp_path / "in"), tmp_path / "study")
    next(iter((tmp_path / "study" / "scores" / "tiny").glob("member-*4.json"))).unlink()
    with pytest.raises(StoreError, match="lack 1 of 3 shards"):
        export_study(open_study(study.folder), tmp_path / "export")
    assert not list((tmp_path / "export").rglob("*.csv"))


def test_no_text_in_a_csv_is_a_formula(scored, tmp_path):
    """Text that begins like a spreadsheet's formula gets an apostrophe; other text, nulls and numbers stay."""
    texts = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "a=1", "1-2", "", None]
    study = open_study(shutil.copytree(scored.folder, tmp_path / "study"))
    pq.write_table(
        pa.table({"source": texts, "value": [-1.5] * len(texts)}), study.folder / "analyses/factors/forged.parquet"
    )
    export_study(study, tmp_path / "out")
    with (tmp_path / "out/tables/factors/forged.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = ["'=1+1", "'+1", "'-1", "'@sum", "'\tx", "'\rx", "a=1", "1-2", "", ""]
    assert [row["source"] for row in rows] == expected
    assert {float(row["value"]) for row in rows} == {-1.5}
