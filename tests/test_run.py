"""A run: how it is cut, batched, stopped and resumed never changes what it says; what cannot be meant is refused."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnemoscope import run as run_module
from mnemoscope import texts
from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.coverage import audit_coverage
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import CorpusError, ModelError, StoreError
from mnemoscope.manifest import read_manifest
from mnemoscope.run import run_study
from mnemoscope.shards import ShardRange
from mnemoscope.status import read_status
from mnemoscope.store import Study, commit_shard, read_scores, read_shard, shard_path
from studies import hash_tables, make_study, save_model, save_rows

NUM_FLOATS = ("smallest_margin", "log_probability")


def read_all(study: Study, label: str = "tiny", **settings) -> pa.Table:
    return pa.concat_tables(read_scores(study, label, **settings)).replace_schema_metadata()


def assert_same_facts(left: pa.Table, right: pa.Table) -> None:
    """Integers and bits equal, floats within 1e-4."""
    exact = [name for name in left.column_names if name not in NUM_FLOATS]
    assert left.select(exact).equals(right.select(exact))
    for name in NUM_FLOATS:
        numbers = [np.array(table.column(name).to_pylist()) for table in (left, right)]
        np.testing.assert_allclose(*numbers, atol=1e-4)


def greedy(folder: Path, context: np.ndarray, num_tokens: int) -> np.ndarray:
    """Plain greedy decoding, one whole pass per token: the naive reference."""
    import torch
    from transformers import GPTNeoXForCausalLM

    network = GPTNeoXForCausalLM.from_pretrained(folder).eval()
    tokens = torch.from_numpy(context.astype(np.int64))[None]
    with torch.inference_mode():
        for _ in range(num_tokens):
            tokens = torch.cat([tokens, network(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0, len(context) :].numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def config(place) -> StudyConfig:
    """10 members, 3 controls; member 2 continues its first 4 tokens as the model does, for all 5 tokens."""
    study = make_study(place, num_rows=10, num_control=3)
    rows = np.load(place / "member.npy")
    rows[2, 4:9] = greedy(place / "tiny", rows[2, :4], 5)
    np.save(place / "member.npy", rows)
    return study


@pytest.fixture(scope="module")
def study(config, place) -> Study:
    return run_study(config, place / "out")


def test_every_sequence_once(study):
    """13 sequences x 2 contexts: each row once, as the audit that reads all of them says."""
    table = read_all(study)
    pairs = list(zip(*(table.column(name).to_pylist() for name in ("group", "sequence_id", "context")), strict=True))
    expected = [("member", i, k) for i in range(10) for k in (4, 8)] + [
        ("control", i, k) for i in range(3) for k in (4, 8)
    ]
    assert pairs == expected
    coverage = audit_coverage(study, "tiny")
    assert coverage.is_complete
    assert (coverage.num_sequences, coverage.num_expected, coverage.num_missing) == (13, 26, 0)


def test_facts_are_those_of_greedy_decoding(study, place):
    """Stored bits equal plain greedy decoding, token by token; the planted row is the one that is memorized."""
    table = read_all(study, group="member")
    rows = np.load(place / "member.npy").astype(np.int64)
    for row in table.to_pylist()[:8]:
        tokens, k = rows[row["sequence_id"]], row["context"]
        hits = greedy(place / "tiny", tokens[:k], 5) == tokens[k : k + 5]
        assert row["matched"] == np.packbits(hits).tobytes()
        assert row["first_mismatch"] == (5 if hits.all() else int(np.argmin(hits)))
    full = [row for row in table.to_pylist() if row["first_mismatch"] == 5 and row["context"] == 4]
    assert [row["sequence_id"] for row in full] == [2]


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 7}, {"shard_rows": 1}, {"shard_rows": 100}])
def test_how_it_is_cut_changes_no_fact(config, study, tmp_path, settings):
    """Batch size and shard size give the same integers and bits, and floats within 1e-4."""
    other = run_study(replace(config, **settings), tmp_path / "out")
    assert_same_facts(read_all(other), read_all(study))


def test_run_twice_gives_the_same_bytes(config, study, tmp_path):
    """Two runs of one study write byte-identical tables, commits and run files."""
    run_study(config, tmp_path / "out")
    assert hash_tables(tmp_path / "out") == hash_tables(study.folder)


def test_complete_study_is_left_alone(config, study, monkeypatch):
    """Running a complete study again loads no model, and changes no file, not even its time."""
    monkeypatch.setattr(run_module, "_load", lambda _config: pytest.fail("the model was loaded"))
    times = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if path.is_file()}
    again = run_study(config, study.folder)
    assert again.runs == study.runs
    assert times == {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if path.is_file()}


def test_resolved_study_replays_itself(study, tmp_path):
    """study.toml of the results, run elsewhere, gives the same tables."""
    run_study(study.config, tmp_path / "out")
    assert hash_tables(tmp_path / "out") == hash_tables(study.folder)


def test_manifest_lists_what_is_there(study):
    """The manifest has every shard with its checksum, the rows in all, and says how they came about."""
    manifest = read_manifest(study.folder)
    assert manifest is not None
    table = manifest["tables"]["scores"]["tiny"]
    assert (table["num_rows"], table["num_sequences"], table["num_short"]) == (26, 13, 0)
    sums = hash_tables(study.folder)
    assert {shard["path"]: shard["sha256"] for shard in table["shards"]} == {
        path: digest for path, digest in sums.items() if path.endswith(".parquet")
    }
    assert manifest["models"]["tiny"]["identity"]["model"]["num_non_embedding_parameters"] == 17152
    assert {"versions", "platform", "command", "duration_seconds"} <= set(manifest["provenance"])


def harmed(path: Path, harm: str) -> None:
    content = bytearray(path.read_bytes())
    if harm == "deleted":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 16
        path.write_bytes(content)


@pytest.mark.parametrize("harm", ["flipped", "truncated", "deleted"])
def test_damaged_shard_is_redone(config, study, tmp_path, caplog, harm):
    """One bit flipped, a cut, a loss: set aside with a warning, scored again, byte-identical in the end."""
    folder = tmp_path / "out"
    run_study(config, folder)
    path = shard_path(folder, study.runs["tiny"], ShardRange("member", 4, 8))
    harmed(path, harm)
    run_study(config, folder)
    assert "tiny: shard member-000000000004 is damaged (" in caplog.text
    aside = sorted(each.name for each in folder.rglob("*.damaged-1"))
    names = ["member-000000000004.json.damaged-1", "member-000000000004.parquet.damaged-1"]
    assert aside == (names[:1] if harm == "deleted" else names)
    found = {name: digest for name, digest in hash_tables(folder).items() if "damaged" not in name}
    assert found == hash_tables(study.folder)
    assert read_manifest(folder) is not None


def test_other_settings_are_refused(config, study):
    """Another grid, mode, batch size or model in the same folder is refused by name; the folder stays as it is."""
    before = {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()}
    for settings, words in (
        ({"contexts": (4,)}, "contexts: 4,8 there, 4 here"),
        ({"mode": "exact"}, "mode: graded there, exact here"),
        ({"batch_size": 3}, "batch_size: 2 there, 3 here"),
        ({"corpus": replace(config.corpus, sample=3)}, "groups.member.num_sequences: 10 there, 3 here"),
        ({"control": None}, "groups.control.corpus: "),
        ({"models": (replace(config.models[0], dtype="bfloat16"),)}, "model.dtype: float32 there, bfloat16 here"),
    ):
        with pytest.raises(StoreError) as caught:
            run_study(replace(config, **settings), study.folder)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in study.folder.rglob("*") if path.is_file()}


def test_model_is_added_to_a_study(config, place, tmp_path):
    """A second model joins the folder; the first one's tables stay, and the manifest names both."""
    folder = tmp_path / "out"
    run_study(config, folder)
    before = hash_tables(folder)
    other = ModelConfig(source=str(save_model(tmp_path / "other", seed=1)), device="cpu")
    study = run_study(replace(config, models=(other,)), folder)
    assert list(study.runs) == ["tiny", "other"]
    assert before.items() < hash_tables(folder).items()
    manifest = read_manifest(folder)
    assert manifest is not None and list(manifest["models"]) == ["tiny", "other"]
    assert read_all(study, "other").num_rows == 26


def test_no_attention_asked_for_means_the_default(config, tmp_path, monkeypatch):
    """Eager attention is not the default (sdpa): refused by its name; the default asked for by name is the same run."""
    eager = replace(config, models=(replace(config.models[0], attention="eager"),))
    run_study(eager, tmp_path / "eager")
    with pytest.raises(StoreError, match=r"model.attention: eager there, sdpa here"):
        run_study(config, tmp_path / "eager")
    run_study(config, tmp_path / "default")
    named = replace(config, models=(replace(config.models[0], attention="sdpa"),))
    before = hash_tables(tmp_path / "default")
    run_study(named, tmp_path / "default")
    run_study(config, tmp_path / "default")
    assert hash_tables(tmp_path / "default") == before
    monkeypatch.setattr(run_module, "_load", lambda _config: pytest.fail("the model was loaded"))
    run_study(config, tmp_path / "default")


def test_stopped_run_keeps_its_batch_size(config, tmp_path, monkeypatch):
    """`auto` is resolved once: a resume takes the recorded number, whatever memory would allow now."""
    from mnemoscope import memory

    auto = replace(config, batch_size="auto")
    monkeypatch.setattr(memory, "choose_batch_size", lambda *_, **__: 3)
    study = run_study(auto, tmp_path / "out")
    before = hash_tables(study.folder)
    assert study.runs["tiny"].identity.batch_size == 3
    shard_path(study.folder, study.runs["tiny"], ShardRange("member", 0, 4)).with_suffix(".json").unlink()
    monkeypatch.setattr(memory, "choose_batch_size", lambda *_, **__: 1)
    run_study(auto, study.folder)
    assert hash_tables(study.folder) == before


def test_nothing_is_written_for_bad_input(config, place, tmp_path):
    """Ids outside the vocabulary, short rows, a window longer than the model: one line, and no folder at all."""
    rows = np.load(save_rows(tmp_path / "rows.npy", num_rows=9))
    rows[7, 3] = 64
    np.save(tmp_path / "ids.npy", rows)
    short = tmp_path / "short.parquet"
    pq.write_table(pa.table({"tokens": [[1] * 16, [1] * 12]}), short)
    for settings, error, words in (
        ({"corpus": CorpusConfig(path=str(tmp_path / "ids.npy"))}, CorpusError, "token id 64 at index 3"),
        ({"corpus": CorpusConfig(path=str(short))}, CorpusError, "12 tokens; the grid and offset need 13"),
        ({"contexts": (4, 44)}, ModelError, "is 49 tokens, the model has 48 positions"),
        ({"models": (ModelConfig(source=str(tmp_path / "none")),)}, ModelError, "no such folder"),
    ):
        with pytest.raises(error) as caught:
            run_study(replace(config, **settings), tmp_path / "out")
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_rows_that_were_not_checked_first_are_checked_in_their_shard(config, tmp_path, monkeypatch):
    """A bad id outside the rows looked at beforehand stops its own shard; the shards before it stay and count."""
    monkeypatch.setattr(texts, "MAX_CHECKED_ROWS", 5)  # of 10 rows every other one
    rows = np.load(save_rows(tmp_path / "rows.npy", num_rows=10))
    rows[5, 0] = 64
    np.save(tmp_path / "rows.npy", rows)
    bad = replace(config, corpus=CorpusConfig(path=str(tmp_path / "rows.npy")))
    with pytest.raises(CorpusError, match="token id 64 at index 0"):
        run_study(bad, tmp_path / "out")
    assert read_status(tmp_path / "out").models[0].groups[0].num_shards_done == 1


def test_manifest_never_stands_beside_unfinished_work(config, tmp_path):
    """While anything is missing there is no manifest, even where there was one before."""
    study = run_study(config, tmp_path / "out")
    shard_path(study.folder, study.runs["tiny"], ShardRange("member", 4, 8)).unlink()
    stood = []

    class Watching:
        def run(self, tasks, make_worker, tell):
            stood.append(read_manifest(study.folder))
            return LocalEngine().run(tasks, make_worker, tell)

    run_study(config, study.folder, engine=Watching())
    assert stood == [None] and read_manifest(study.folder) is not None


@pytest.mark.parametrize(
    "change",
    [{"provenance": []}, {"provenance": {}}, {"tables": None}, {"tables": {"scores": {"tiny": 3}}}, {"models": "tiny"}],
)
def test_a_manifest_of_another_shape_is_none(study, tmp_path, change):
    """What no writer here left is read as if it were not there, whichever part is of another shape."""
    content = read_manifest(study.folder)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path) == content
    (tmp_path / "manifest.json").write_text(json.dumps(content | change))
    assert read_manifest(tmp_path) is None


def test_tokenizer_larger_than_the_model_is_refused(config, tmp_path):
    """A tokenizer with more ids than the model's vocabulary is another model's."""
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(65)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    corpus = replace(config.corpus, tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has 65 token ids, the model's vocabulary 64; expected the model's own"):
        run_study(replace(config, corpus=corpus), tmp_path / "out")


def test_short_rows_are_left_out_and_counted(config, tmp_path):
    """Of rows of 16, 12, 13 and 2 tokens the window of 13 fits two; the audit finds that just those are absent."""
    rows = [[1] * 16, [2] * 12, [3] * 13, [4] * 2]
    pq.write_table(pa.table({"tokens": rows}), tmp_path / "rows.parquet")
    corpus = CorpusConfig(path=str(tmp_path / "rows.parquet"), short_rows="skip")
    study = run_study(replace(config, corpus=corpus, control=None, shard_rows=1), tmp_path / "out")
    assert read_all(study).column("sequence_id").to_pylist() == [0, 0, 2, 2]
    [group] = read_status(study.folder).models[0].groups
    assert (group.num_sequences_done, group.num_short) == (4, 2)
    coverage = audit_coverage(study, "tiny")
    assert coverage.is_complete and (coverage.num_short, coverage.num_expected) == (2, 4)


def test_repeats_come_from_the_selection(config, tmp_path):
    """`num_repeats` of the list of sequences stands in each of their rows, also beside short rows."""
    pq.write_table(pa.table({"tokens": [[1] * 16, [2] * 2, [3] * 16, [4] * 16]}), tmp_path / "rows.parquet")
    pq.write_table(pa.table({"sequence_id": [3, 1, 0], "num_repeats": [30, 10, 1]}), tmp_path / "ids.parquet")
    corpus = CorpusConfig(
        path=str(tmp_path / "rows.parquet"), sequences=str(tmp_path / "ids.parquet"), short_rows="skip"
    )
    table = read_all(run_study(replace(config, corpus=corpus, control=None), tmp_path / "out"))
    assert table.column("sequence_id").to_pylist() == [0, 0, 3, 3]
    assert table.column("num_repeats").to_pylist() == [1, 1, 30, 30]


def test_windows_have_their_hashes(study, place):
    """In each of a sequence's rows: the first 8 bytes of blake2b over its 13 tokens as int64, little-endian."""
    for group in ("member", "control"):
        table = read_all(study, group=group)
        hashes = {
            row: hashlib.blake2b(b"".join(int(t).to_bytes(8, "little") for t in tokens[:13])).digest()[:8]
            for row, tokens in enumerate(np.load(place / f"{group}.npy"))
        }
        expected = [int.from_bytes(hashes[row], "little", signed=True) for row in table["sequence_id"].to_pylist()]
        assert table["window_hash"].to_pylist() == expected
        assert len(set(expected)) == len(hashes)


def test_scores_of_another_format_are_refused(config, study, monkeypatch):
    """A folder whose scores have other columns takes in no more of them: the format is in the fingerprint."""
    monkeypatch.setattr("mnemoscope.run.SCORES_FORMAT", 1)
    with pytest.raises(StoreError, match=r"versions\.scores: 2 there, 1 here"):
        run_study(config, study.folder)
    another = (replace(config.models[0], name="another"),)
    with pytest.raises(StoreError, match=r"another run of tiny \(scores_format: 2 there, 1 here\)"):
        run_study(replace(config, models=another), study.folder)


def test_audit_finds_planted_faults(config, tmp_path):
    """A row taken out, one put in twice, a stranger, a foreign file, a lost shard: each is counted."""
    study = run_study(config, tmp_path / "out")
    run, shard = study.runs["tiny"], ShardRange("member", 0, 4)
    whole = read_shard(study.folder, run, shard)

    def audited(table: pa.Table) -> tuple[int, int, int]:
        commit_shard(study.folder, run, shard, table, num_short=0)
        coverage = audit_coverage(study, "tiny")
        assert not coverage.is_complete
        return coverage.num_missing, coverage.num_doubled, coverage.num_alien

    assert audited(whole.slice(1)) == (1, 0, 0)
    assert audited(whole.slice(2)) == (2, 0, 0)  # a sequence gone from every context is missing, not short
    assert audited(pa.concat_tables([whole, whole.slice(3, 2)])) == (0, 2, 0)
    stranger = read_shard(study.folder, run, ShardRange("member", 4, 8)).slice(0, 3)
    assert audited(pa.concat_tables([whole, stranger])) == (0, 0, 3)
    commit_shard(study.folder, run, shard, whole, num_short=0)
    assert audit_coverage(study, "tiny").is_complete
    path = shard_path(study.folder, run, shard)
    path.with_name("member-000000000001.parquet").write_bytes(path.read_bytes())
    assert audit_coverage(study, "tiny").num_alien == 8
    path.unlink()
    assert audit_coverage(study, "tiny").num_missing == 8


def test_another_engine_says_the_same(config, study, tmp_path):
    """An engine that works through the shards backwards leaves byte-identical tables."""

    class Backwards:
        def run(self, tasks, make_worker, tell):
            return LocalEngine().run(tasks[::-1], make_worker, tell)

    run_study(config, tmp_path / "out", engine=Backwards())
    assert hash_tables(tmp_path / "out") == hash_tables(study.folder)


def test_progress_ends_at_the_whole(config, tmp_path):
    """Progress starts at what is there, never falls, and ends at all 13 sequences; a resume starts where it was."""
    told = []
    study = run_study(config, tmp_path / "out", progress=lambda *facts: told.append(facts))
    assert told[0] == ("tiny", 0, 13) and told[-1] == ("tiny", 13, 13)
    assert [facts[1] for facts in told] == sorted(facts[1] for facts in told)
    shard_path(study.folder, study.runs["tiny"], ShardRange("member", 4, 8)).with_suffix(".json").unlink()
    told.clear()
    run_study(config, study.folder, progress=lambda *facts: told.append(facts))
    assert told[0] == ("tiny", 9, 13) and told[-1] == ("tiny", 13, 13)


def test_reading_a_study_needs_no_model():
    """Store, status, coverage and manifest import neither torch nor transformers nor the run."""
    program = (
        "import sys, mnemoscope.store, mnemoscope.status, mnemoscope.coverage, mnemoscope.manifest; "
        "print(sorted({'torch', 'transformers', 'mnemoscope.run', 'mnemoscope.model'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    found = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
