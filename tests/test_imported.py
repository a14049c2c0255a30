"""Scores from elsewhere as runs of a study: what is known enters the analyses, nothing is made up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mnemoscope.analyses.pairs import check_comparable
from mnemoscope.config import Grid
from mnemoscope.coverage import audit_coverage
from mnemoscope.errors import ConfigError, CorpusError, StoreError
from mnemoscope.findings import analyze
from mnemoscope.imported import PYTHIA_PARAMETERS, import_scores
from mnemoscope.run import run_study
from mnemoscope.shards import num_matched
from mnemoscope.status import read_status
from mnemoscope.store import commit_shard, find_damage, read_scores
from studies import hash_tables, make_study, score_two, stored_matches


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A study of two models over members and a control, scored here."""
    return score_two(tmp_path_factory.mktemp("scored"))


def write(folder, model, context, continuation, rows, *, step="143000"):
    """A file of scores with these rows, {sequence_id: num_matched}; its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"memorization_evals_{model}_{context}_{context + continuation}_{step}.csv"
    path.write_text("idx,score\n" + "".join(f"{row},{count / continuation}\n" for row, count in rows.items()))
    return str(path)


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
    assert {key[1]: count for key, count in stored_matches(study, "70m@step143000").items()} == {3: 4, 7: 2}
    assert {key[1]: count for key, count in stored_matches(study, "160m@step143000").items()} == {3: 2, 7: 4}
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
        assert {key[1]: count for key, count in stored_matches(study, f"{label}@step143000").items()} == expected


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
    assert audit_coverage(study, "70m@step143000").is_complete
    changed = [write(tmp_path / "other", "70m", 32, 4, {0: 1, 1: 3})]
    with pytest.raises(StoreError, match=r"holds another run of 70m@step143000 \(model.scores_sha256.member-32-4"):
        import_scores(changed, tmp_path / "study")


def test_other_sequences_in_a_shard_are_seen(tmp_path):
    """An audit of imported scores finds rows that are missing, doubled, or of sequences that no file had."""
    study = import_scores([write(tmp_path, "70m", 32, 4, {3: 1, 5: 4, 6: 0})], tmp_path / "study")
    run = study.run("70m@step143000")
    assert audit_coverage(study, run.label).is_complete
    (table,), (shard,) = read_scores(study, run.label), run.shards
    for rows, missing, doubled, alien in (([0, 1], 1, 0, 1), ([0, 1, 1], 1, 1, 1), ([0, 1, 2, 2], 0, 1, 0)):
        commit_shard(study.folder, run, shard, table.take(rows), num_short=0)
        found = audit_coverage(study, run.label)
        assert (found.num_missing, found.num_doubled, found.num_alien) == (missing, doubled, alien)
    other = table.set_column(0, table.schema.field(0), pa.array([3, 5, 7]))
    commit_shard(study.folder, run, shard, other, num_short=0)
    assert audit_coverage(study, run.label).num_alien == 1


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
