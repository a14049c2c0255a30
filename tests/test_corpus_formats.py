"""Every format gives the rows that were written, however they are stored."""

import gzip
import itertools
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus_files import all_rows, write_lines, write_megatron
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import open_corpus
from mnemoscope.corpus.tables import Table

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 65535]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))


def document(path, rows=ROWS):
    path.write_bytes(np.array(rows, "<u2").tobytes())
    return path


@quick
@given(
    rows=st.lists(st.lists(st.integers(0, 127), max_size=5), min_size=1, max_size=8).filter(any),
    kind=st.sampled_from([("<u1", 1), ("<i1", 2), ("<i2", 3), ("<i4", 4), ("<i8", 5), ("<u2", 8)]),
    data=st.data(),
)
def test_megatron_roundtrip(tmp_path, rows, kind, data):
    """Any range of a Megatron corpus is the sequences that were written, for each integer type."""
    path = write_megatron(tmp_path / uuid.uuid4().hex, rows, dtype=kind[0], code=kind[1])
    corpus = open_corpus(CorpusConfig(path=str(path)))
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert [row.tolist() for row in corpus.tokens(start, stop)] == rows[start:stop]
    assert {row.dtype for row in corpus.tokens(0, len(rows))} == {np.dtype(kind[0])}


@quick
@given(num_rows=st.integers(1, 9), cuts=st.lists(st.integers(1, 1000), max_size=4))
def test_split_parts_are_the_single_file(tmp_path, num_rows, cuts):
    """A document.bin cut at any bytes gives the rows and the fingerprint of the uncut one."""
    content = np.arange(num_rows * 5, dtype="<u2").tobytes()
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    (folder / "document.bin").write_bytes(content)
    edges = sorted({0, len(content), *(cut % len(content) for cut in cuts)})
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        (folder / f"document-{number:05d}-of-{len(edges) - 1:05d}.bin").write_bytes(content[start:stop])
    whole = open_corpus(CorpusConfig(path="document.bin", row_tokens=5), base=folder)
    split = open_corpus(CorpusConfig(path="document-*.bin", row_tokens=5), base=folder)
    assert all_rows(split) == all_rows(whole) == np.arange(num_rows * 5).reshape(-1, 5).tolist()
    assert split.fingerprint == whole.fingerprint


def test_split_parts_with_an_index(tmp_path):
    """Parts with a document.idx beside them are read as the index says; a glob may bring the index along."""
    rows = [[1, 2], [3, 4, 5], [6]]
    content = write_megatron(tmp_path / "document", rows).read_bytes()
    (tmp_path / "document.bin").unlink()
    (tmp_path / "document-00000-of-00002.bin").write_bytes(content[:5])
    (tmp_path / "document-00001-of-00002.bin").write_bytes(content[5:])
    assert all_rows(open_corpus(CorpusConfig(path=str(tmp_path / "document*")))) == rows


def test_pairs_are_chained(tmp_path):
    """Two .bin with an .idx each are one corpus, in the order given; places name file and row."""
    write_megatron(tmp_path / "b", [[1], [2]])
    write_megatron(tmp_path / "a", [[3]], dtype="<i4", code=4)
    corpus = open_corpus(CorpusConfig(path=("b.bin", "a.bin")), base=tmp_path)
    assert all_rows(corpus) == [[1], [2], [3]]
    assert corpus.place(1).endswith("b.bin, row 1")
    assert corpus.place(2).endswith("a.bin, row 0")


def test_mapped_rows_are_views(tmp_path):
    """Rows of one local file share memory with their neighbours: nothing is copied."""
    corpus = open_corpus(CorpusConfig(path=str(document(tmp_path / "d.bin")), row_tokens=3))
    first, again = corpus.tokens(1, 2)[0], corpus.tokens(0, 3)[1]
    assert np.shares_memory(first, again)
    assert not first.flags.writeable


def test_npy(tmp_path):
    """A 2-D array gives its rows, a flat one rows of row_tokens, both in their own integer type and byte order."""
    np.save(tmp_path / "two.npy", np.array(ROWS, ">i4"))
    np.save(tmp_path / "one.npy", np.array(ROWS, "<u2").ravel())
    assert all_rows(open_corpus(CorpusConfig(path="two.npy"), base=tmp_path)) == ROWS
    assert all_rows(open_corpus(CorpusConfig(path="one.npy", row_tokens=3), base=tmp_path)) == ROWS


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".stream"])
def test_token_lists(tmp_path, kind, suffix):
    """Token lists of 700 rows in row groups of 300 read the same forward, backward and across groups."""
    rows = [[row % 50, row, 7] if kind == "fixed" else [*list(range(row % 6)), row] for row in range(700)]
    types = {
        "list": pa.list_(pa.int32()),
        "large_list": pa.large_list(pa.uint16()),
        "fixed": pa.list_(pa.int64(), 3),
    }
    table = pa.table({"id": list(range(700)), "input_ids": pa.array(rows, types[kind])})
    path = tmp_path / ("x.parquet" if suffix == ".parquet" else "x.arrow")
    if suffix == ".parquet":
        pq.write_table(table, path, row_group_size=300)
    else:
        new = pa.ipc.new_stream if suffix == ".stream" else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    corpus = open_corpus(CorpusConfig(path=(str(path), str(path))))
    assert len(corpus) == 1400
    for start, stop in [(0, 5), (290, 310), (250, 255), (690, 710), (3, 4), (0, 1400)]:
        assert [row.tolist() for row in corpus.tokens(start, stop)] == (rows + rows)[start:stop]
    assert corpus.place(701).endswith(f"{path.name}, row 1")


def test_row_groups_are_not_held(tmp_path):
    """Reading one row of a row group decodes at most 256 rows at a time."""
    pq.write_table(pa.table({"tokens": [[row] for row in range(2000)]}), tmp_path / "x.parquet")
    from mnemoscope.corpus.sources import find_sources

    table = Table(find_sources([str(tmp_path / "x.parquet")])[0])
    assert table.num_units == 1
    assert [len(block) for block in table.blocks("tokens", unit=0)] == [256] * 7 + [208]


def test_json_lines_with_tokens(tmp_path):
    """JSON lines may hold token lists; blank lines are no rows, and places count lines as an editor does."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"tokens": [1, 2]}\n\n{"tokens": []}\n{"tokens": [70000]}\n')
    corpus = open_corpus(CorpusConfig(path=str(path)))
    assert all_rows(corpus) == [[1, 2], [], [70000]]
    assert [corpus.place(row).rsplit(", ")[1] for row in range(3)] == ["line 1", "line 3", "line 4"]


def test_column_and_format_decide(tmp_path):
    """Token lists come before text under `auto`; `column` names another field."""
    path = write_lines(tmp_path / "x.jsonl", [{"text": "a", "tokens": [1], "other": [2]}])
    assert all_rows(open_corpus(CorpusConfig(path=str(path)))) == [[1]]
    assert all_rows(open_corpus(CorpusConfig(path=str(path), column="other"))) == [[2]]
    np.array([[1, 2, 3]], "<u2").tofile(tmp_path / "x.data")
    by_name = CorpusConfig(path=str(tmp_path / "x.data"), format="document", row_tokens=3)
    assert all_rows(open_corpus(by_name)) == [[1, 2, 3]]


def compressed(content, how):
    return gzip.compress(content) if how == "gz" else zstandard.ZstdCompressor().compress(content)


@quick
@given(num_rows=st.integers(1, 40), how=st.sampled_from(["gz", "zst"]), members=st.integers(1, 3))
def test_compressed_is_plain(tmp_path, num_rows, how, members):
    """A compressed .bin, in one member or several, has the rows and the fingerprint of the plain one."""
    content = np.arange(num_rows * 3, dtype="<u2").tobytes()
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    edges = [len(content) * part // members for part in range(members + 1)]
    pieces = [compressed(content[a:b], how) for a, b in itertools.pairwise(edges)]
    (folder / f"x.bin.{how}").write_bytes(b"".join(pieces))
    (folder / "y.bin").write_bytes(content)
    packed = open_corpus(CorpusConfig(path=f"x.bin.{how}", row_tokens=3), base=folder)
    plain = open_corpus(CorpusConfig(path="y.bin", row_tokens=3), base=folder)
    assert all_rows(packed) == all_rows(plain)
    assert packed.fingerprint == plain.fingerprint
    assert packed.place(0).endswith(f"x.bin.{how}, row 0")


@pytest.mark.parametrize("how", ["gz", "zst"])
@pytest.mark.parametrize("name", ["m.bin", "x.npy", "x.parquet", "x.jsonl"])
def test_every_format_compressed(tmp_path, how, name):
    """Compressing a file of any format (and an .idx) changes no row."""
    write_megatron(tmp_path / "m", ROWS)
    np.save(tmp_path / "x.npy", np.array(ROWS))
    pq.write_table(pa.table({"tokens": ROWS}), tmp_path / "x.parquet")
    write_lines(tmp_path / "x.jsonl", [{"tokens": row} for row in ROWS])
    for path in [tmp_path / name, tmp_path / "m.idx"]:
        path.with_name(f"{path.name}.{how}").write_bytes(compressed(path.read_bytes(), how))
        path.unlink()
    assert all_rows(open_corpus(CorpusConfig(path=str(tmp_path / f"{name}.{how}")))) == ROWS


@pytest.mark.parametrize("name", ["m.bin", "d.bin", "x.npy", "x.parquet", "x.arrow", "x.jsonl", "d.bin.gz"])
def test_remote_is_local(tmp_path, name):
    """A file behind an fsspec address has the rows and the fingerprint of the local file."""
    write_megatron(tmp_path / "m", ROWS)
    (tmp_path / "d.bin.gz").write_bytes(gzip.compress(document(tmp_path / "d.bin").read_bytes()))
    np.save(tmp_path / "x.npy", np.array(ROWS))
    table = pa.table({"tokens": ROWS})
    pq.write_table(table, tmp_path / "x.parquet")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    write_lines(tmp_path / "x.jsonl", [{"tokens": row} for row in ROWS])
    memory, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    for path in tmp_path.iterdir():
        if path.is_file():
            memory.pipe(f"{folder}/{path.name}", path.read_bytes())
    remote = open_corpus(CorpusConfig(path=f"memory:/{folder}/{name}", row_tokens=3))
    local = open_corpus(CorpusConfig(path=name, row_tokens=3), base=tmp_path)
    assert all_rows(remote) == all_rows(local) == ROWS
    assert [row.tolist() for row in remote.tokens(1, 2)] == ROWS[1:2]
    assert remote.fingerprint == local.fingerprint


def test_remote_glob_is_read_by_ranges(monkeypatch):
    """A remote document.bin in parts is read by ranges: no request takes more than the bytes asked for."""
    memory, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    content = np.arange(3000, dtype="<u2").tobytes()
    memory.pipe(f"{folder}/document-00000-of-00002.bin", content[:2501])
    memory.pipe(f"{folder}/document-00001-of-00002.bin", content[2501:])
    corpus = open_corpus(CorpusConfig(path=f"memory:/{folder}/document-*.bin", row_tokens=100))
    asked = []
    cat = type(memory).cat_file
    monkeypatch.setattr(
        type(memory),
        "cat_file",
        lambda self, path, start, end: asked.append(end - start) or cat(self, path, start, end),
    )
    assert corpus.tokens(12, 13)[0].tolist() == list(range(1200, 1300))
    assert asked == [101, 99]


def test_fingerprint_is_of_content(tmp_path):
    """The same content elsewhere has the same fingerprint; other bytes, dtype or row length another."""
    first = document(tmp_path / "one.bin", [[1, 2], [3, 4]])
    second = document(tmp_path / "two.bin", [[1, 2], [3, 4]])
    third = document(tmp_path / "three.bin", [[1, 2], [3, 5]])

    def fingerprint(path, **fields):
        return open_corpus(CorpusConfig(path=str(path), **{"row_tokens": 2, **fields})).fingerprint

    same = fingerprint(first)
    assert fingerprint(second) == same
    others = [fingerprint(third), fingerprint(first, row_tokens=4), fingerprint(first, token_dtype="int32")]
    assert len({same, *others}) == 4
