"""Scores from elsewhere as runs of a study, and a study's own as files: what was known stays, nothing is made up."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnemoscope.analyses.pairs import check_comparable
from mnemoscope.config import Grid, ModelConfig
from mnemoscope.errors import ConfigError, CorpusError, StoreError
from mnemoscope.exported import export_study
from mnemoscope.findings import analyze, save_findings
from mnemoscope.imported import PYTHIA_PARAMETERS, import_scores
from mnemoscope.run import run_study
from mnemoscope.shards import num_matched
from mnemoscope.status import read_status
from mnemoscope.store import find_damage, open_study, read_scores
from studies import hash_tables, make_study, save_model

SIZES = {"tiny": 1000, "other": 2000}
PAIR = (
    *("relation", "model_from", "model_to", "group"),
    *("context_from", "continuation_from", "context_to", "continuation_to", "num_matched_from", "num_matched_to"),
)


def write(folder, model, context, continuation, rows, *, step="143000"):
    """A file of scores with these rows, {sequence_id: num_matched}; its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"memorization_evals_{model}_{context}_{context + continuation}_{step}.csv"
    path.write_text("idx,score\n" + "".join(f"{row},{count / continuation}\n" for row, count in rows.items()))
    return str(path)


def matches(study, label):
    """num_matched of a run, {(group, sequence_id, context, continuation): count}, cells that it lacks left out."""
    grid = study.run(label).identity.grid
    found = {}
    for table in read_scores(study, label):
        matched_RN = num_matched(table, grid)
        keys = zip(*(table.column(name).to_pylist() for name in ("group", "sequence_id", "context")), strict=True)
        for key, counts in zip(keys, matched_RN.tolist(), strict=True):
            found |= {(*key, n): count for n, count in zip(grid.continuations, counts, strict=True) if count >= 0}
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A study of two models, one of them at a named step, over members and a control, scored here."""
    folder = tmp_path_factory.mktemp("scored")
    save_model(folder / "other" / "step7", seed=3)
    config = make_study(folder / "in", num_rows=11, num_control=5)
    models = (*config.models, ModelConfig(source=str(folder / "other"), revision="step7", device="cpu"))
    study = run_study(replace(config, models=models), folder / "study")
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
        expected = matches(scored, label)
        assert len(expected) == (11 + 5) * 4
        assert matches(back, label) == expected


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


def test_unknown_is_null(tmp_path):
    """An imported row knows sequence, group, context and num_matched; every other column of scores is null."""
    files = [write(tmp_path, "70m-deduped-v0", 32, n, {5: 3, 8: n}) for n in (4, 8)]
    study = import_scores(files, tmp_path / "study")
    (table,) = read_scores(study, "70m-deduped-v0@step143000")
    unknown = (
        "offset",
        "num_repeats",
        "first_mismatch",
        "matched",
        "smallest_margin",
        "log_probability",
        "window_hash",
    )
    assert all(table.column(name).null_count == 2 for name in unknown)
    assert table.select(["sequence_id", "group", "context", "num_matched"]).to_pylist() == [
        {"sequence_id": 5, "group": "member", "context": 32, "num_matched": [3, 3]},
        {"sequence_id": 8, "group": "member", "context": 32, "num_matched": [4, 8]},
    ]


def test_cells_join_to_a_grid_with_gaps(tmp_path):
    """Files at a cross of contexts and continuations give those cells to factors and transitions, and no other."""
    cells = [(32, 4), (32, 8), (48, 4)]
    rows = {"70m": {0: 4, 1: 2, 2: 0}, "160m": {0: 4, 1: 4, 2: 0}}
    files = [write(tmp_path, model, k, n, rows[model]) for model in rows for k, n in cells]
    files.append(write(tmp_path, "160m", 48, 8, rows["160m"]))
    study = import_scores(files, tmp_path / "study")
    assert study.config.grid == Grid(contexts=(32, 48), continuations=(4, 8))
    results = analyze(study)
    memorized = {
        (row["model"], row["context"], row["continuation"]): row["num_memorized"]
        for row in results["factors"].memorized.to_pylist()
    }
    assert {key[1:] for key in memorized if key[0] == "70m@step143000"} == set(cells)
    assert {key[1:] for key in memorized if key[0] == "160m@step143000"} == {*cells, (48, 8)}
    assert (memorized["70m@step143000", 32, 4], memorized["160m@step143000", 32, 4]) == (1, 2)
    between = [row for row in results["transitions"].levels.to_pylist() if row["relation"] == "size"]
    assert {(row["context_from"], row["continuation_from"]) for row in between} == set(cells)
    at_48 = {
        (row["model_from"], row["continuation_from"])
        for row in results["transitions"].levels.to_pylist()
        if row["relation"] == "context"
    }
    assert at_48 == {("70m@step143000", 4), ("160m@step143000", 4), ("160m@step143000", 8)}


def test_a_model_with_no_cell_in_common_is_not_compared(tmp_path):
    """Two models without a shared cell have factors each and no transitions between them."""
    files = [write(tmp_path, "70m", 32, 4, {0: 1, 1: 4}), write(tmp_path, "160m", 48, 8, {0: 1, 1: 4})]
    assert set(analyze(import_scores(files, tmp_path / "study"))) == {"factors"}


def test_sequences_must_be_the_same_unless_joined(tmp_path):
    """Files over other sequences are refused with the first that one lacks; `inner` keeps those that all have."""
    one = write(tmp_path, "70m", 32, 4, {0: 1, 3: 4, 7: 2, 9: 0})
    other = write(tmp_path, "160m", 32, 4, {9: 3, 3: 2, 8: 1, 7: 4})
    with pytest.raises(CorpusError, match=r"160m_32_36_143000.csv: lacks idx 0, which .*70m.*\(4 and 4 rows\)"):
        import_scores([one, other], tmp_path / "study")
    shorter = write(tmp_path, "410m", 32, 4, {0: 1, 3: 4, 7: 2})
    with pytest.raises(CorpusError, match=r"410m.*lacks idx 9, which .*70m.*\(3 and 4 rows\).*--join inner"):
        import_scores([one, shorter], tmp_path / "study")
    assert not (tmp_path / "study").exists()
    study = import_scores([one, other, shorter], tmp_path / "study", join="inner")
    assert {key[1]: count for key, count in matches(study, "70m@step143000").items()} == {3: 4, 7: 2}
    assert {key[1]: count for key, count in matches(study, "160m@step143000").items()} == {3: 2, 7: 4}
    with pytest.raises(CorpusError, match="no idx is in every file"):
        import_scores([one, write(tmp_path, "12b", 32, 4, {100: 1})], tmp_path / "none", join="inner")


def test_many_sequences_over_several_shards(tmp_path, monkeypatch):
    """Cut into shards of 7 sequences, out of order and joined, every sequence keeps its own number."""
    monkeypatch.setattr("mnemoscope.imported.SHARD_ROWS", 7)
    rng = np.random.default_rng(0)
    rows = {int(i): int(rng.integers(0, 9)) for i in rng.permutation(200)[:100]}
    other = {i: 8 - count for i, count in rows.items() if i % 3}
    files = [write(tmp_path, "70m", 32, 8, rows), write(tmp_path, "160m", 32, 8, other)]
    study = import_scores(files, tmp_path / "study", join="inner")
    assert len(study.run("70m@step143000").shards) == -(-len(other) // 7) > 5
    for label, expected in (("70m", {i: rows[i] for i in other}), ("160m", other)):
        assert {key[1]: count for key, count in matches(study, f"{label}@step143000").items()} == expected


def test_same_files_again_change_nothing(tmp_path):
    """An import run again, or after a shard was lost, gives the same bytes; other scores are refused by name."""
    files = [write(tmp_path, "70m", 32, 4, {0: 1, 1: 4})]
    study = import_scores(files, tmp_path / "study")
    before = hash_tables(tmp_path / "study")
    assert (tmp_path / "study" / "manifest.json").is_file()
    (shard,) = (tmp_path / "study" / "scores" / "70m@step143000").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert find_damage(study.folder, study.run("70m@step143000"))
    import_scores(files, tmp_path / "study")
    assert {name: digest for name, digest in hash_tables(tmp_path / "study").items() if "damaged" not in name} == before
    assert read_status(tmp_path / "study").is_complete
    changed = [write(tmp_path / "other", "70m", 32, 4, {0: 1, 1: 3})]
    with pytest.raises(StoreError, match=r"holds another run of 70m@step143000 \(model.scores_sha256.member-32-4"):
        import_scores(changed, tmp_path / "study")


def test_models_are_added_to_an_import(tmp_path):
    """A second import over the same sequences and cells adds its models; over others it is refused."""
    import_scores([write(tmp_path, "70m", 32, 4, {0: 1, 1: 4})], tmp_path / "study")
    study = import_scores([write(tmp_path, "160m", 32, 4, {0: 2, 1: 4})], tmp_path / "study")
    assert set(study.runs) == {"70m@step143000", "160m@step143000"}
    assert "transitions" in analyze(study)
    with pytest.raises(StoreError, match=r"num_sequences: 2 there, 3 here"):
        import_scores([write(tmp_path, "410m", 32, 4, {0: 2, 1: 4, 2: 0})], tmp_path / "study")


def test_scored_and_imported_runs_do_not_mix(scored, tmp_path):
    """Neither does an import enter a scored study, nor a model to score an imported one; both are said so."""
    file = write(tmp_path, "70m", 4, 3, {0: 1})
    before = hash_tables(scored.folder)
    with pytest.raises(StoreError, match="mode: graded there, imported here"):
        import_scores([file], scored.folder)
    assert hash_tables(scored.folder) == before
    study = import_scores([file], tmp_path / "study")
    with pytest.raises(ConfigError, match="mode: 'imported' given, which import-scores writes"):
        run_study(study.config, tmp_path / "study")
    config = make_study(tmp_path / "in", num_rows=3)
    with pytest.raises(StoreError, match="mode: imported there, graded here"):
        run_study(config, tmp_path / "study")
    with pytest.raises(ConfigError, match="cannot be compared"):
        check_comparable(scored.run("tiny").identity, study.run("70m@step143000").identity)


def test_size_comes_from_the_suite_or_from_the_user(tmp_path):
    """Pythia's names bring their published sizes, other models need theirs; a size for no model is refused."""
    names = ["70m-deduped-v0", "pythia-160m", "2.8B", "mine"]
    files = [write(tmp_path, name, 32, 4, {0: 1}) for name in names]
    with pytest.raises(ConfigError, match=r"mine: its size is not known.*--parameters mine=COUNT"):
        import_scores(files, tmp_path / "study")
    with pytest.raises(ConfigError, match=r"parameters: 'yours' given; expected one of 2\.8B, 70m-deduped-v0, mine"):
        import_scores(files, tmp_path / "study", parameters={"mine": 5, "yours": 6})
    with pytest.raises(ConfigError, match="parameters: 0 given for mine"):
        import_scores(files, tmp_path / "study", parameters={"mine": 0})
    study = import_scores(files, tmp_path / "study", parameters={"mine": 5})
    found = {run.source: run.identity.model for run in study.runs.values()}
    assert found["mine"].num_non_embedding_parameters == 5
    assert found["mine"].num_parameters is None
    assert found["2.8B"].num_parameters == 2_775_208_960


def test_published_sizes_follow_from_the_architecture():
    """Pythia's counts: 12 d^2 + 13 d a layer, 2 d for the last norm, two embeddings of a padded vocabulary."""
    shapes = {
        **{"70m": (6, 512, 50304), "160m": (12, 768, 50304), "410m": (24, 1024, 50304), "1b": (16, 2048, 50304)},
        **{"1.4b": (24, 2048, 50304), "2.8b": (32, 2560, 50304), "6.9b": (32, 4096, 50432), "12b": (36, 5120, 50688)},
    }
    for size, (layers, width, vocabulary) in shapes.items():
        inner = layers * (12 * width**2 + 13 * width) + 2 * width
        assert PYTHIA_PARAMETERS[size] == (inner + 2 * vocabulary * width, inner), size


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: [], CorpusError, "no file given"),
        (lambda p: [str(p / "*.csv")], CorpusError, "matches no file"),
        (
            lambda p: [write(p, "70m", 32, 4, {0: 1}), write(p / "b", "70m", 32, 4, {0: 1})],
            ConfigError,
            "the same model",
        ),
        (lambda p: [write(p, ".70m", 32, 4, {0: 1})], ConfigError, "expected letters, digits"),
        (lambda p: [write(p, "70m", 32, 4, {0: 1}), write(p, "160m", 32, 4, {})], CorpusError, "no rows"),
    ],
)
def test_bad_files_are_refused_before_anything_is_written(tmp_path, make, error, message):
    """Nothing to read, a file twice, a name that names no folder, an empty file: refused, and no folder is there."""
    with pytest.raises(error, match=message):
        import_scores(make(tmp_path), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_control_of_some_models_is_refused(tmp_path):
    """Every model has a control or none has: the excess would otherwise have no control to be over."""
    files = [write(tmp_path, name, 32, 4, {0: 1}) for name in ("70m", "160m")]
    control = write(tmp_path / "control", "70m", 32, 4, {0: 1})
    with pytest.raises(ConfigError, match="control: files of 160m@step143000 in one group only"):
        import_scores(files, tmp_path / "study", control=[control])


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


def test_num_matched_counts_the_bits_of_each_continuation():
    """Set bits among the first n, for each n, against a plain sum; from the column where there is one."""
    rng = np.random.default_rng(1)
    bits = rng.random((50, 21)) < 0.6
    packed = pa.array([row.tobytes() for row in np.packbits(bits, axis=1)], pa.binary(3))
    grid = Grid(contexts=(4,), continuations=(1, 7, 8, 9, 16, 21))
    expected = [[int(row[:n].sum()) for n in grid.continuations] for row in bits]
    assert num_matched(pa.table({"matched": packed}), grid).tolist() == expected
    lists = pa.array([[1, None], [3, 0]], pa.list_(pa.int32(), 2))
    assert num_matched(pa.table({"num_matched": lists}), Grid(contexts=(4,), continuations=(3, 5))).tolist() == [
        [1, -1],
        [3, 0],
    ]
    sliced = pa.table({"matched": packed}).slice(13, 9)
    assert num_matched(sliced, grid).tolist() == expected[13:22]
