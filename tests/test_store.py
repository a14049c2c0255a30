"""The store: what is committed is there whole, says what it was given, and is believed only while it is unchanged."""

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnemoscope import files
from mnemoscope.config import CorpusConfig, Grid, ModelConfig, StudyConfig
from mnemoscope.errors import StoreError
from mnemoscope.files import locked, remove_abandoned, write_atomically
from mnemoscope.identity import GroupIdentity, ModelIdentity, RunIdentity
from mnemoscope.shards import SequenceRows, ShardRange, plan_shards, scores_schema, scores_table
from mnemoscope.status import read_status
from mnemoscope.store import (
    Run,
    begin_run,
    commit_shard,
    encode_table,
    find_damage,
    matched_bits,
    open_study,
    outstanding_shards,
    per_continuation,
    read_run,
    read_scores,
    register_models,
    set_aside,
    shard_path,
)

GRID = Grid(contexts=(2, 4), continuations=(1, 10))
SHARD = ShardRange("member", 0, 2)


class Facts(tuple):
    """Stands for scoring's MatchFacts, so that no test here needs a model."""

    def __new__(cls, matched_RCn, first_mismatch_RC, smallest_margin_RCN, log_probability_RCN):
        self = super().__new__(cls)
        self.matched_RCn, self.first_mismatch_RC = matched_RCn, first_mismatch_RC
        self.smallest_margin_RCN, self.log_probability_RCN = smallest_margin_RCN, log_probability_RCN
        return self


def make_run(label: str = "tiny", **changes) -> Run:
    identity = RunIdentity(
        model=ModelIdentity(
            architecture="GPTNeoXForCausalLM",
            num_parameters=20,
            num_non_embedding_parameters=10,
            vocab_size=64,
            max_positions=None,
            weights_sha256="ab",
            config_sha256="cd",
            commit=None,
            dtype="float32",
            device="cpu",
            attention="sdpa",
        ),
        groups={
            "member": GroupIdentity(corpus="c", selection="s", num_sequences=3, offset=0, seed=None, short_rows="error")
        },
        contexts=GRID.contexts,
        continuations=GRID.continuations,
        mode="graded",
        batch_size=2,
        shard_rows=2,
        versions={"mnemoscope": "0"},
    )
    identity = replace(identity, **changes)
    return Run(
        label=label, source="x", revision=None, training_step=None, identity=identity, fingerprint=identity.fingerprint
    )


def make_table(run: Run, *, mode: str = "graded", num_repeats=None) -> pa.Table:
    """Sequences 5 and 7: bits 1100000001 and all ones for 5, none and the last for 7; margins count up from 0."""
    rows = ["1100000001", "1111111111"], ["0000000000", "0000000001"]
    bits = np.array([[[bit == "1" for bit in word] for word in row] for row in rows])
    facts = Facts(
        bits if mode == "graded" else None,
        np.array([[2, 10], [0, 0]], np.int32),
        np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        -np.arange(8, dtype=np.float32).reshape(2, 2, 2),
    )
    schema = scores_schema(GRID, mode=mode, label=run.label, fingerprint=run.fingerprint)
    sequences = SequenceRows(np.array([5, 7]), np.array([0, 3]), num_repeats, np.array([-9, 2**62]))
    return scores_table("member", sequences, facts, schema=schema, grid=GRID)


def make_folder(folder: Path, run: Run) -> Path:
    """A study's folder with its first shard of two."""
    config = StudyConfig(
        models=(ModelConfig(source="/x", name=run.label),),
        corpus=CorpusConfig(path="/c.npy"),
        contexts=GRID.contexts,
        continuations=GRID.continuations,
        shard_rows=2,
    )
    register_models(folder, config, replacing=[], before_change=lambda: None)
    begin_run(folder, run)
    commit_shard(folder, run, SHARD, make_table(run), num_short=0)
    return folder


def test_plan_covers_each_group_once():
    """7 members and 2 controls in shards of 3: 0-3, 3-6, 6-7 and 0-2; an empty group has none."""
    plan = plan_shards({"member": 7, "control": 2, "none": 0}, 3)
    assert plan == (("member", 0, 3), ("member", 3, 6), ("member", 6, 7), ("control", 0, 2))
    assert plan[1].name == "member-000000000003"


def test_stored_facts_read_as_they_were(tmp_path):
    """Bits, mismatches, margins and log-probabilities come back; contexts of a sequence stand together."""
    run = make_run()
    study = open_study(make_folder(tmp_path, run))
    [table] = read_scores(study, "tiny", partial=True)
    assert table.column("sequence_id").to_pylist() == [5, 5, 7, 7]
    assert table.column("context").to_pylist() == [2, 4, 2, 4]
    assert table.column("offset").to_pylist() == [0, 0, 3, 3]
    assert table.column("window_hash").to_pylist() == [-9, -9, 2**62, 2**62]
    assert table.column("group").to_pylist() == ["member"] * 4
    assert table.column("num_repeats").null_count == 4
    assert table.column("first_mismatch").to_pylist() == [2, 10, 0, 0]
    assert table.column("matched").to_pylist() == [b"\xc0\x40", b"\xff\xc0", b"\x00\x00", b"\x00\x40"]
    assert matched_bits(table, 10).sum(axis=1).tolist() == [3, 10, 0, 1]
    assert matched_bits(table.slice(1, 2), 10).sum(axis=1).tolist() == [10, 0]
    assert per_continuation(table, "smallest_margin").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert per_continuation(table.slice(3), "log_probability").tolist() == [[-6, -7]]


def test_schema_says_what_the_table_is():
    """Fingerprint, grid, mode, model and a unit for every column stand in the file's metadata."""
    run = make_run()
    schema = pq.read_schema(pa.BufferReader(encode_table(make_table(run, num_repeats=np.array([1, 9])))))
    metadata = {name.decode(): value.decode() for name, value in schema.metadata.items()}
    assert (metadata["fingerprint"], metadata["model"], metadata["mode"]) == (run.fingerprint, "tiny", "graded")
    assert (metadata["contexts"], metadata["continuations"]) == ("[2, 4]", "[1, 10]")
    assert list(json.loads(metadata["units"])) == schema.names
    assert schema.equals(make_table(run).schema)


def test_duckdb_reads_bits_left_to_right(tmp_path):
    """`matched::BIT` shows index 0 of the continuation first."""
    import duckdb

    folder = make_folder(tmp_path, make_run())
    path = shard_path(folder, make_run(), SHARD)
    bits = duckdb.sql(f"select matched::BIT::VARCHAR from '{path}'").fetchall()
    assert [row[0][:10] for row in bits] == ["1100000001", "1111111111", "0000000000", "0000000001"]


def test_exact_mode_stores_no_bits():
    """In `exact` mode the bits are null, and asking for them says so."""
    table = make_table(make_run(), mode="exact")
    assert table.column("matched").null_count == 4
    with pytest.raises(StoreError, match="no match bits"):
        matched_bits(table, 10)


def test_same_facts_same_bytes():
    """Encoding is a function of the rows: twice here, and in another process, the same bytes."""
    run = make_run()
    digest = hashlib.sha256(encode_table(make_table(run))).hexdigest()
    assert digest == hashlib.sha256(encode_table(make_table(run))).hexdigest()
    program = (
        "import hashlib; from test_store import *; "
        "print(hashlib.sha256(encode_table(make_table(make_run()))).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *map(os.path.abspath, sys.path)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == digest


def test_commit_names_size_and_checksum(tmp_path):
    """The commit beside a shard holds its range, rows, size and sha256."""
    run = make_run()
    folder = make_folder(tmp_path, run)
    content = (folder / "scores/tiny/member-000000000000.parquet").read_bytes()
    assert json.loads((folder / "scores/tiny/member-000000000000.json").read_text()) == {
        "group": "member",
        "start": 0,
        "stop": 2,
        "num_rows": 4,
        "num_sequences": 2,
        "num_short": 0,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "fingerprint": run.fingerprint,
        "num_audited": 0,
    }


def test_status_counts_commits(tmp_path):
    """One shard of two, two sequences of three: not complete; with the other one it is."""
    run = make_run()
    folder = make_folder(tmp_path, run)
    [model] = read_status(folder).models
    assert model.groups[0] == ("member", 1, 2, 2, 3, 0) and not model.is_complete
    with pytest.raises(StoreError, match=r"lack 1 of 2 shards; run the study again"):
        next(read_scores(open_study(folder), "tiny"))
    commit_shard(folder, run, ShardRange("member", 2, 3), make_table(run).slice(0, 2), num_short=0)
    assert read_status(folder).is_complete and outstanding_shards(folder, run) == []


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "suffix", "reason"),
    [
        (flip_bit, "parquet", "checksum"),
        (cut, "parquet", "bytes, "),
        (Path.unlink, "parquet", "gone"),
        (cut, "json", "unreadable"),
        (lambda path: path.write_text(path.read_text().replace('"stop": 2', '"stop": 3')), "json", "another run's"),
    ],
)
def test_damage_is_found_and_set_aside(tmp_path, harm, suffix, reason):
    """A flipped bit, a cut, a loss, or a commit that lies is found; set aside, the shard is to do again."""
    run = make_run()
    folder = make_folder(tmp_path, run)
    assert find_damage(folder, run) == []
    path = shard_path(folder, run, SHARD).with_suffix(f".{suffix}")
    harm_whole = (
        harm if harm is not cut or suffix == "parquet" else lambda path: path.write_bytes(path.read_bytes()[:9])
    )
    harm_whole(path)
    [damage] = find_damage(folder, run)
    assert damage.shard == SHARD and reason in damage.reason
    set_aside(folder, run, SHARD)
    assert find_damage(folder, run) == [] and SHARD in outstanding_shards(folder, run)
    assert not list(folder.rglob("*.parquet")) and list(folder.rglob("*.damaged-1"))
    commit_shard(folder, run, SHARD, make_table(run), num_short=0)
    flip_bit(shard_path(folder, run, SHARD))
    set_aside(folder, run, SHARD)
    assert (shard_path(folder, run, SHARD).parent / "member-000000000000.parquet.damaged-2").is_file()


def test_reader_refuses_a_damaged_page(tmp_path):
    """A table altered behind the store's back is no table: the page's checksum tells."""
    run = make_run()
    folder = make_folder(tmp_path, run)
    path = shard_path(folder, run, SHARD)
    content = bytearray(path.read_bytes())
    where = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content[where.data_page_offset + where.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        list(read_scores(open_study(folder), "tiny", partial=True))


def test_scores_without_a_column_are_refused(tmp_path):
    """A table of an older version lacks what is asked for: one line that names the column and says what to do."""
    run = make_run()
    folder = make_folder(tmp_path, run)
    commit_shard(folder, run, SHARD, make_table(run).drop_columns(["window_hash"]), num_short=0)
    with pytest.raises(StoreError, match=r"no column window_hash; .*: score the study again"):
        list(read_scores(open_study(folder), "tiny", columns=["sequence_id", "window_hash"], partial=True))


def test_another_run_is_refused(tmp_path):
    """A run of other facts in the same folder is refused, naming them; nothing there is changed."""
    folder = make_folder(tmp_path, make_run())
    before = (folder / "scores/tiny/run.json").read_bytes()
    with pytest.raises(StoreError, match=r"contexts: 2,4 there, 2 here; mode: graded there, exact here"):
        begin_run(folder, make_run(contexts=(2,), mode="exact"))
    assert (folder / "scores/tiny/run.json").read_bytes() == before


def test_models_of_a_study_share_its_grid(tmp_path):
    """Another model joins a study's folder if it has the study's texts, grid and mode, and only then."""
    folder = make_folder(tmp_path, make_run())
    with pytest.raises(StoreError, match=r"another run of tiny \(shard_rows: 2 there, 3 here\)"):
        begin_run(folder, make_run("other", shard_rows=3))
    begin_run(folder, make_run("other", batch_size=7))
    config = replace(open_study(folder).config, models=(ModelConfig(source="/y", name="other"),))
    register_models(folder, config, replacing=["other"], before_change=lambda: None)
    assert list(open_study(folder).runs) == ["tiny", "other"]


def test_damaged_run_file(tmp_path):
    """A run.json whose facts no longer have its fingerprint is refused, not believed."""
    folder = make_folder(tmp_path, make_run())
    path = folder / "scores/tiny/run.json"
    path.write_text(path.read_text().replace('"vocab_size": 64', '"vocab_size": 65'))
    with pytest.raises(StoreError, match=r"run\.json: damaged"):
        open_study(folder)
    with pytest.raises(StoreError, match=r"no study\.toml; expected the results folder of a study"):
        open_study(tmp_path / "scores")


@pytest.mark.parametrize("name", ["label", "group"])
def test_run_file_names_nothing_outside_the_study(tmp_path, name):
    """A run.json whose label or group would lead to other folders is refused, with a fingerprint that fits."""
    folder = make_folder(tmp_path, make_run())
    run = read_run(folder, "tiny")
    groups = {"../../../member": next(iter(run.identity.groups.values()))}
    identity = replace(run.identity, groups=groups) if name == "group" else run.identity
    label = "../../elsewhere" if name == "label" else "tiny"
    forged = replace(run, label=label, identity=identity, fingerprint=identity.fingerprint)
    (folder / "scores/tiny/run.json").write_text(json.dumps(asdict(forged)))
    with pytest.raises(StoreError, match=r"run\.json: damaged"):
        open_study(folder)


def test_unwritable_folder(tmp_path):
    """A folder that cannot be made is one line that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/out/study\.toml: cannot be written \(Not a directory\); choose"):
        write_atomically(tmp_path / "file/out/study.toml", b"x")


def test_file_is_replaced_never_rewritten(tmp_path):
    """Who has the old file open reads it to its end; who opens it anew reads the new one: never a mixture."""
    write_atomically(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        write_atomically(tmp_path / "a", b"newer")
        assert (reader.read(), (tmp_path / "a").read_bytes()) == (b"old", b"newer")


def test_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    """No space at the sync: a StoreError, the old file whole, no temporary file left."""
    write_atomically(tmp_path / "a", b"old")

    def refuse(_number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(StoreError, match=r"a: cannot be written \(No space left on device\); free space and run"):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_file_too_large_keeps_what_is_there(tmp_path):
    """A write that the system cuts short half-way leaves no file and no temporary file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be written \(File too large\); free space"):
            write_atomically(tmp_path / "a", bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_really_full_disk(tmp_path):
    """On a file system of 64 KiB the shard that does not fit leaves those that did, and is told in one line."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        write_atomically(tmp_path / "fits", bytes(1 << 14))
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); free space"):
            write_atomically(tmp_path / "large", bytes(1 << 17))
        assert [path.name for path in tmp_path.iterdir()] == ["fits"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_only_dead_runs_are_tidied_up(tmp_path):
    """A temporary file goes once its writer is dead, and not while it lives."""
    with files._temporary_file(tmp_path / "a") as alive:
        (tmp_path / ".b.0123.tmp").write_text("left by a dead run")
        remove_abandoned(tmp_path)
        assert [str(path) for path in tmp_path.iterdir()] == [alive.name]


def hold(path: Path, told: Connection) -> None:
    with locked(path):
        told.send("held")
        told.recv()


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path):
    """Who asks for a lock that another process holds has it when that one lets go, or is killed; no file stays."""
    context = multiprocessing.get_context("spawn")

    def enter(is_free: threading.Event, entered: list[bool]) -> None:
        with locked(tmp_path / "study.toml"):
            entered.append(is_free.is_set())

    for is_killed in (False, True):
        here, there = context.Pipe()
        holder = context.Process(target=hold, args=(tmp_path / "study.toml", there))
        holder.start()
        assert here.recv() == "held"
        assert [path.name for path in tmp_path.iterdir()] == [".study.toml.lock.tmp"]
        is_free, entered = threading.Event(), list[bool]()
        waiter = threading.Thread(target=enter, args=(is_free, entered))
        waiter.start()
        time.sleep(0.1)  # time enough to come in where nothing keeps it out
        is_free.set()
        holder.kill() if is_killed else here.send("go")
        waiter.join()
        holder.join()
        assert entered == [True]
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path, monkeypatch):
    """On a read-only disk there is nothing to guard; what else forbids a lock is told."""

    def refuse(number: int) -> BinaryIO:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_lock", lambda name: refuse(errno.EROFS))
    with locked(tmp_path / "study.toml"):
        pass
    monkeypatch.setattr(files, "_lock", lambda name: refuse(errno.ENOLCK))
    with pytest.raises(StoreError, match="cannot be locked"), locked(tmp_path / "study.toml"):
        pass
