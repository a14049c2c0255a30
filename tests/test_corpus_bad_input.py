"""Every bad input is one line: the file, the place, what came, what was expected; and it costs no memory."""

import gzip
import io
import json
import struct
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus_files import all_rows, write_lines, write_megatron, write_tokenizer
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import open_corpus, read_windows
from mnemoscope.errors import CorpusError

ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))


def refuse(path, expected, **fields):
    """Open and read everything; the error's one line must match `expected` and is returned."""
    with pytest.raises(CorpusError, match=expected) as caught:
        corpus = open_corpus(CorpusConfig(**{"path": str(path), "row_tokens": 3, **fields}))
        corpus.tokens(0, len(corpus))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_missing_file_names_the_nearest(tmp_path):
    """A missing file names the nearest name in its folder, if one is near."""
    (tmp_path / "document.bin").write_bytes(b"123456")
    refuse(tmp_path / "documents.bin", r"documents\.bin: no such file; did you mean document\.bin\?")
    refuse(tmp_path / "zzz", r"zzz: no such file; expected an existing file")
    refuse(tmp_path / "no" / "x.bin", r"no such file, nor its folder")
    refuse(f"memory://{uuid.uuid4().hex}/x.bin", "no such file")


def test_addresses_that_cannot_be_meant(tmp_path):
    """Folders, globs without a match, unknown extensions and unknown protocols are refused by name."""
    (tmp_path / "x.docx").write_bytes(b"1")
    refuse(tmp_path, r"is a folder; expected a file, or a glob such as .*\*\.parquet")
    refuse(tmp_path / "*.bin", r"\*\.bin: this glob matches no file")
    refuse("memory://nowhere/*.bin", "this glob matches no file")
    refuse(tmp_path / "x.docx", r"unknown extension \.docx; expected one of \.bin .*\.parquet")
    refuse("nosuch://x/y.bin", "nosuch://x/y.bin: no filesystem for this address")
    refuse(tmp_path / "x.docx", "a file of .docx is not of it", format="tokens")


def test_kinds_do_not_mix(tmp_path):
    """Files of two kinds are no corpus; an index alone is none either."""
    write_megatron(tmp_path / "m", ROWS)
    np.save(tmp_path / "x.npy", np.array(ROWS))
    with pytest.raises(CorpusError, match="files of different kinds"):
        open_corpus(CorpusConfig(path=(str(tmp_path / "m.bin"), str(tmp_path / "x.npy"))))
    refuse(tmp_path / "m.idx", "an index given alone; expected its .bin")
    refuse(tmp_path / "x.npy", "format 'megatron' asked for", format="megatron")


@pytest.mark.parametrize("name", ["x.bin", "x.npy", "x.parquet", "x.arrow", "x.jsonl", "x.txt", "x.jsonl.gz"])
def test_empty_files(tmp_path, name):
    """An empty file of any format is refused as empty."""
    (tmp_path / name).write_bytes(b"")
    refuse(tmp_path / name, rf"{name}: the file is empty \(0 bytes\)")


@pytest.mark.parametrize("how", ["parquet", "jsonl", "npy", "gz"])
def test_empty_corpora(tmp_path, how):
    """A well-formed file without a row is refused too."""
    if how == "parquet":
        pq.write_table(pa.table({"tokens": pa.array([], pa.list_(pa.int32()))}), tmp_path / "x.parquet")
        refuse(tmp_path / "x.parquet", "holds no rows")
    elif how == "jsonl":
        (tmp_path / "x.jsonl").write_text("\n\n")
        refuse(tmp_path / "x.jsonl", "holds no line of JSON")
    elif how == "npy":
        np.save(tmp_path / "x.npy", np.zeros((0, 5), np.int32))
        refuse(tmp_path / "x.npy", r"shape \[0, 5\] holds no tokens")
    else:
        (tmp_path / "x.bin.gz").write_bytes(gzip.compress(b""))
        refuse(tmp_path / "x.bin.gz", "decompresses to nothing")


def patched(content, at, new):
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("at", "new", "expected"),
    [
        (0, b"MMIDBAD", "wrong magic"),
        (9, struct.pack("<Q", 2), "version 2 given; expected version 1"),
        (17, b"\x06", "dtype code 6 is a float; expected an integer's"),
        (17, b"\x63", "dtype code 99 is unknown"),
        (18, struct.pack("<Q", 2**61), "the header lies"),
        (18, struct.pack("<Q", 2), "the header lies"),
        (26, struct.pack("<Q", 2**60), "the header lies"),
        (34, struct.pack("<i", -3), "sequence 0 has -3; expected a size of 0 or more"),
        (
            38,
            struct.pack("<i", 4),
            "sequence 2 has 12; expected its pointer at the sum of the sizes before it",
        ),
        (
            42,
            struct.pack("<i", 2**31 - 1),
            r"sequence 2 has .*; expected an end within the 18 bytes of .*m\.bin",
        ),
        (42, struct.pack("<i", 2), r"m\.bin: 18 bytes found; expected 16, the sum of the sizes in .*m\.idx"),
        (54, struct.pack("<q", 5), "sequence 1 has 5; expected its pointer"),
        (46, struct.pack("<q", -8), "sequence 0 has -8; expected its pointer"),
    ],
)
def test_index_that_lies(tmp_path, at, new, expected):
    """Each field of the .idx is checked against the others and the .bin."""
    path = write_megatron(tmp_path / "m", ROWS)
    index = tmp_path / "m.idx"
    index.write_bytes(patched(index.read_bytes(), at, new))
    assert "m.idx" in refuse(path, expected)


@pytest.mark.parametrize("size", [1, 20, 33, 34, 40, 60, 93, 101])
def test_truncated_index(tmp_path, size):
    """An .idx cut anywhere is refused as truncated."""
    path = write_megatron(tmp_path / "m", ROWS)
    index = tmp_path / "m.idx"
    assert len(index.read_bytes()) == 34 + 3 * 12 + 4 * 8
    index.write_bytes(index.read_bytes()[:size])
    refuse(path, r"m\.idx: .*truncated")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 69), byte=st.integers(0, 255))
def test_index_with_any_byte_changed(tmp_path, at, byte):
    """A changed byte in header, sizes or pointers is a CorpusError, or an integer type of the same width."""
    path = write_megatron(tmp_path / "m", ROWS)
    index = tmp_path / "m.idx"
    content = index.read_bytes()
    index.write_bytes(patched(content, at, bytes([byte])))
    try:
        corpus = open_corpus(CorpusConfig(path=str(path)))
    except CorpusError as error:
        assert "\n" not in str(error)
    else:
        assert content[at] == byte or (at, byte) == (17, 3)
        assert all_rows(corpus) == ROWS


def test_truncated_bin(tmp_path):
    """A .bin smaller than its index says, or no whole number of rows, is truncated; a missing index is named."""
    path = write_megatron(tmp_path / "m", ROWS)
    path.write_bytes(path.read_bytes()[:-1])
    refuse(path, r"m\.idx: sequence 2 has 18; expected an end within the 17 bytes of .*m\.bin")
    (tmp_path / "m.idx").unlink()
    refuse(path, r"m\.bin: 17 bytes are 2 rows and 5 bytes over; expected whole rows of 3 uint16 .*truncated")
    refuse(path, r"m\.bin: no \.idx beside it", format="megatron")


def test_parts_out_of_order(tmp_path):
    """A missing part of a split document.bin is named: rows would be cut from the wrong bytes."""
    for part in (0, 2):
        (tmp_path / f"document-{part:05d}-of-00003.bin").write_bytes(b"123456")
    refuse(tmp_path / "document-*.bin", r"00002-of-00003\.bin: part 2 given where part 1 of 3 comes next")


def npy(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (npy(np.array(ROWS, np.int32))[:-5], "31 bytes of data found; expected 36 .*truncated"),
        (npy(np.array(ROWS, np.int32))[:50], "not a readable .npy header"),
        (b"not an array at all", "not a readable .npy header"),
        (npy(np.array(ROWS, np.float32)), "an array of float32 given; expected integers"),
        (npy(np.array([[1], "x"], object)), "an array of object given; expected integers"),
        (
            npy(np.zeros((2, 2, 2), np.int32)),
            r"shape \[2, 2, 2\] given; expected \[rows, length\] or \[tokens\]",
        ),
        (npy(np.asfortranarray(np.array(ROWS))), "in Fortran order given"),
        (npy(np.arange(7)), "a flat array of 7 tokens given; expected a multiple of row_tokens, 3"),
        (npy(np.array(ROWS, np.int32)).replace(b"(3, 3)", b"(3, 9)"), "36 bytes of data found; expected 108"),
        (
            npy(np.array(ROWS, np.int32)).replace(b"(3, 3), }" + b" " * 18, b"(3, 4611686018427387904), }"),
            "36 bytes of",
        ),
        (
            npy(np.array(ROWS, np.int32)).replace(b"(3, 3), }    ", b"(-3, -3), }  "),
            r"shape \[-3, -3\] given",
        ),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "not a readable .npy header"),
    ],
)
def test_bad_npy(tmp_path, content, expected):
    """An array that is cut, lies about its shape, or does not hold integers is refused; nothing is unpickled."""
    (tmp_path / "x.npy").write_bytes(content)
    assert "x.npy" in refuse(tmp_path / "x.npy", expected)


def parquet(**columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (parquet(tokens=[[1, 2]] * 99)[:-9], "truncated or damaged Parquet data"),
        (b"PAR1 this is not parquet PAR1", "truncated or damaged Parquet data"),
        (parquet(other=[[1]], id=[1]), "has the columns other, id; expected tokens / input_ids"),
        (parquet(tokens=[[1], None, [2]]), r"row 1: column 'tokens' is null"),
        (parquet(tokens=[[1], [2, None], [2]]), r"row 1: a token is null; expected integers"),
        (parquet(tokens=[[1], [2, -7]]), r"row 1: token id -7 at index 1; expected 0 or more"),
        (parquet(tokens=[[1.5]]), "has the columns tokens; expected"),
        (parquet(text=["a", None]), r"row 1: column 'text' is null"),
    ],
)
def test_bad_parquet(tmp_path, content, expected):
    """Damage, a missing column, nulls and negative ids name file and row."""
    (tmp_path / "x.parquet").write_bytes(content)
    tokenizer = str(write_tokenizer(tmp_path / "t"))
    assert "x.parquet" in refuse(tmp_path / "x.parquet", expected, tokenizer=tokenizer)


def test_parquet_with_damaged_pages(tmp_path):
    """A Parquet file whose footer is whole but whose data is not is refused on reading."""
    content = parquet(tokens=[list(range(row, row + 50)) for row in range(200)])
    (tmp_path / "x.parquet").write_bytes(patched(content, 4, b"\xff" * 400))
    refuse(tmp_path / "x.parquet", "truncated or damaged Parquet data")


def test_bad_arrow(tmp_path):
    """A cut Arrow file, in either format, is refused."""
    table = pa.table({"tokens": [[1, 2]] * 500})
    for new in (pa.ipc.new_stream, pa.ipc.new_file):
        with new(str(tmp_path / "x.arrow"), table.schema) as writer:
            writer.write_table(table)
        content = (tmp_path / "x.arrow").read_bytes()
        (tmp_path / "x.arrow").write_bytes(content[: len(content) // 2])
        refuse(tmp_path / "x.arrow", "truncated or damaged Arrow data")


def test_wanted_column(tmp_path):
    """A named column must be there and hold what the format needs; plain text has none."""
    tokenizer = str(write_tokenizer(tmp_path / "t"))
    path = write_lines(tmp_path / "x.jsonl", [{"text": "a", "n": 3}])
    refuse(path, "no column 'body'; it has text, n", column="body")
    refuse(path, "column 'n' holds neither strings nor lists of integers", column="n")
    refuse(path, "column 'text' holds strings; expected lists of integers", column="text", format="tokens")
    (tmp_path / "x.txt").write_text("a")
    refuse(tmp_path / "x.txt", "plain text has no column 'text'", column="text", tokenizer=tokenizer)
    tokens = write_lines(tmp_path / "y.jsonl", [{"tokens": [1]}])
    refuse(tokens, "bos is for text; this file has tokens already", bos=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', r"line 3: not valid JSON"),
        ("[" * 100_000, r"line 3: not valid JSON"),
        ('["a"]', r"line 3: a JSON list given; expected an object"),
        ('{"body": "a"}', r"line 3: has no field 'text'"),
        ('{"text": 5}', r"line 3: field 'text' is int; expected a string"),
        ('{"text": null}', r"line 3: field 'text' is null; expected a string"),
        ('{"text": "\\ud800"}', r"line 3: the text has half a surrogate pair"),
        (b'{"text": "\xff"}', r"line 3: not valid JSON .*utf-8"),
    ],
)
def test_bad_lines_of_text(tmp_path, line, expected):
    """A bad line is named by its number, blank lines counted."""
    content = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n\n' + content + b"\n")
    assert "x.jsonl" in refuse(tmp_path / "x.jsonl", expected, tokenizer=str(write_tokenizer(tmp_path / "t")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1, -2]", "token id -2 at index 1; expected 0 to 2147483647"),
        ("[4294967296]", "token id 4294967296 at index 0"),
        ("[99999999999999999999999]", "no list of token ids|other things than integers"),
        ("[1.5]", "other things than integers"),
        ('["a"]', "other things than integers"),
        ("[[1], [2, 3]]", "no list of token ids"),
        ('"text"', "is str; expected a list of token ids"),
    ],
)
def test_bad_lines_of_tokens(tmp_path, value, expected):
    """Token lists hold whole numbers from 0 to the largest int32."""
    (tmp_path / "x.jsonl").write_text('{"tokens": [1]}\n{"tokens": ' + value + "}\n")
    refuse(tmp_path / "x.jsonl", rf"x\.jsonl, line 2: field 'tokens'.*({expected})")


def test_text_that_is_not_utf8(tmp_path):
    """A .txt that is not UTF-8 names the byte."""
    (tmp_path / "x.txt").write_bytes(b"ab\xff")
    refuse(tmp_path / "x.txt", r"x\.txt: byte 2 is not UTF-8", tokenizer=str(write_tokenizer(tmp_path / "t")))


@pytest.mark.parametrize("how", ["gz", "zst"])
@pytest.mark.parametrize("name", ["x.bin", "x.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "cut to one byte", "changed", "not compressed"])
def test_damaged_compression(tmp_path, how, name, damage):
    """A cut or damaged gzip or zstd file is refused, and nothing of it is kept."""
    rng = np.random.default_rng(0)
    content = rng.integers(0, 9, 3000).astype("<u2").tobytes()
    if name == "x.jsonl":
        content = b"".join(json.dumps({"tokens": [int(token)]}).encode() + b"\n" for token in rng.integers(0, 9, 3000))
    packed = gzip.compress(content) if how == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(content)
    half = len(packed) // 2
    damaged = {
        "cut": packed[:-3],
        "cut to one byte": packed[:1],
        "changed": patched(packed, half, bytes(255 - byte for byte in packed[half : half + 40])),
        "not compressed": content,
    }[damage]
    path = tmp_path / f"{name}.{how}"
    path.write_bytes(damaged)
    refuse(path, rf"{name}\.{how}: truncated or damaged (gzip|zstd) data|line \d+: |tokens")
    assert not [*(tmp_path / "cache").glob("tokens/*"), *(tmp_path / "cache").glob("tokens/.*")]


def test_bad_tokenizer(tmp_path):
    """A tokenizer.json that is none, or a config beside it that is not JSON, is named."""
    path = write_lines(tmp_path / "x.jsonl", [{"text": "a"}])
    folder = write_tokenizer(tmp_path / "t")
    (folder / "tokenizer_config.json").write_text("{")
    refuse(path, "tokenizer_config.json: not valid JSON", tokenizer=str(folder))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    refuse(path, "tokenizer.json: not a readable tokenizer.json", tokenizer=str(folder))


def test_settings_without_effect(tmp_path):
    """bos and packing are for text: on a file of tokens they are refused, not ignored."""
    path = write_megatron(tmp_path / "m", ROWS)
    refuse(path, r"m\.bin: bos is for text; this file has tokens already", bos=True)
    refuse(path, r'm\.bin: layout = "packed" is for text', layout="packed")


def test_negative_ids_in_binaries(tmp_path):
    """A negative id in a signed binary names file, row, index and id."""
    path = write_megatron(tmp_path / "m", [[1, 2], [3, -4]], dtype="<i4", code=4)
    refuse(path, r"m\.bin, row 1: token id -4 at index 1; expected 0 or more")
    corpus = open_corpus(CorpusConfig(path=str(path)))
    with pytest.raises(CorpusError, match="row 1: token id -4"):
        read_windows(corpus, np.array([0, 1]), window_tokens=1, offset=0, seed=0, short_rows="error")


def test_errors_travel_between_processes(tmp_path):
    """A CorpusError is picklable, text and all."""
    import pickle

    with pytest.raises(CorpusError) as caught:
        open_corpus(CorpusConfig(path=str(tmp_path / "x.bin")))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
