"""Files of per-sequence scores: names, readings, and a clear word for each way in which a file can be wrong."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import zstandard

from mnemoscope.corpus.sources import find_sources
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.score_files import ScoreFileName, parse_name, read_score_file

NAME = "memorization_evals_70m-deduped-v0_32_48_143000.csv"


def read(tmp_path, content, *, continuation=16, name=NAME):
    """What a file with this content holds: sequence_ids and num_matched."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (source,) = find_sources([str(path)])
    scores = read_score_file(source, continuation=continuation, folder=tmp_path, stem="0")
    return scores.sequence_ids.tolist(), scores.num_matched.tolist()


@pytest.mark.parametrize(
    "name",
    [
        ScoreFileName("70m-deduped-v0", 143000, 32, 16),
        ScoreFileName("my_model_2@main", None, 1, 1),
        ScoreFileName("a", 0, 96, 64),
    ],
)
def test_name_says_what_it_was_made_of(name):
    """A file's name is read as the model, step and lengths that it was made of, compressed or not."""
    for suffix in ("", ".gz", ".zst"):
        assert parse_name(f"s3://bucket/folder/{name}{suffix}") == name
    assert str(ScoreFileName("70m-deduped-v0", 143000, 32, 16)) == NAME


@pytest.mark.parametrize(
    "name",
    [
        "scores.csv",
        "memorization_evals_70m_32_48.csv",
        "memorization_evals_70m_32_48_latest.csv",
        "memorization_evals_70m_48_32_143000.csv",
        "memorization_evals_70m_0_16_143000.csv",
        "memorization_evals_70m_32_48_143000_7.csv",
        "memorization_evals_70m_32_48_143000.parquet",
    ],
)
def test_name_that_says_nothing_is_refused(name):
    """A name without model, lengths and step, or with lengths that cannot be, is refused with the pattern."""
    with pytest.raises(ConfigError, match=r"memorization_evals_MODEL_K_K\+N_STEP\.csv"):
        parse_name(name)


@pytest.mark.parametrize(
    "content",
    [
        "idx,score\n3,0.5\n4,1.0\n9,0\n",
        "idx,score\n9,0.0\n3,0.5\n4,1\n",
        ",idx,score\n0,3,0.5\n1,4,1.0\n2,9,0.0\n",
        "idx,score\r\n3,0.5\r\n4,1.0\r\n9,0.0\r\n",
        '"idx","score"\n"3","0.5"\n4,1.0\n9,-0.0',
        "\ufeffidx,score\n3,5e-1\n\n4,1.000000\n9,0\n",
    ],
    ids=["plain", "out of order", "row numbers of pandas", "CRLF", "quotes", "BOM, blank line"],
)
def test_rows_are_read_in_order_whatever_the_dialect(tmp_path, content):
    """Order of rows, line ends, quotes, byte order mark and pandas' unnamed column change nothing."""
    assert read(tmp_path, content) == ([3, 4, 9], [8, 16, 0])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_read_as_plain_ones(tmp_path, suffix):
    """gz and zst give the same rows; a cut stream is refused by name."""
    content = ("idx,score\n" + "".join(f"{i},{i % 17 / 16}\n" for i in range(5000))).encode()
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.ZstdCompressor().compress(content)
    ids, matched = read(tmp_path, packed, name=NAME + suffix)
    assert ids == list(range(5000))
    assert matched == [i % 17 for i in range(5000)]
    with pytest.raises(CorpusError, match=f"csv{suffix}: truncated or damaged"):
        read(tmp_path, packed[:-7], name=NAME + suffix)


@pytest.mark.parametrize("continuation", [3, 16, 48, 64, 96, 16000])
def test_float32_and_five_decimals_are_whole_numbers(tmp_path, continuation):
    """Every num_matched / n comes back from float32's shortest text; up to n = 96 from five decimals too."""
    counts = np.unique(np.linspace(0, continuation, 97).astype(int))
    shares = (counts / continuation).astype(np.float32)
    texts = ["".join(f"{i},{share}\n" for i, share in enumerate(shares))]
    if continuation <= 96:
        texts.append("".join(f"{i},{count / continuation:.5f}\n" for i, count in enumerate(counts)))
    for text in texts:
        assert read(tmp_path, "idx,score\n" + text, continuation=continuation)[1] == counts.tolist()


BAD = {
    "other header": ("index;value\n0,1\n", "first line is 'index;value'; expected the header idx,score"),
    "no header": ("0,1.0\n1,0.5\n", "first line is '0,1.0'; expected the header"),
    "header twice": ("idx,idx,score\n1,1,1\n", "expected the header"),
    "UTF-16": ("idx,score\n0,1\n".encode("utf-16"), "expected the header"),
    "no rows": ("idx,score\n", "no rows below the header"),
    "header only, no line end": ("idx,score", "not a readable CSV"),
    "binary": (bytes(range(256)), "expected the header"),
    "NaN": ("idx,score\n0,0.5\n1,nan\n", "line 3: score nan"),
    "infinite": ("idx,score\n0,-inf\n", "line 2: score -inf"),
    "negative": ("idx,score\n0,-0.25\n", "line 2: score -0.25 is -4 of 16 tokens; expected a whole number"),
    "above one": ("idx,score\n0,1.0625\n", "line 2: score 1.0625 is 17 of 16"),
    "no whole number": ("idx,score\n0,0.5\n7,0.3\n", "line 3: score 0.3 is 4.8 of 16 tokens"),
    "overflow": ("idx,score\n0,1e308\n", r"line 2: score 1e\+308"),
    "empty score": ("idx,score\n0,\n", "line 2: score ''; expected num_matched / n"),
    "text": ("idx,score\n0,\x1b[31mred\n", r"line 2: score '\\x1b\[31mred'"),
    "negative idx": ("idx,score\n5,1\n-1,0.5\n", "line 3: idx -1; expected a row of the corpus"),
    "huge idx": ("idx,score\n0,1\n99999999999999999999,1\n", "line 3: idx '99999999999999999999'"),
    "fractional idx": ("idx,score\n1.0,1\n", "line 2: idx '1.0'"),
    "idx twice": ("idx,score\n5,1\n6,0\n5,1\n", "line 4: idx 5 again, first in line 2"),
    "too many fields": ("idx,score\n0,1,2\n", "line 2: not a row of idx,score"),
    "open quote": ('idx,score\n"0,1\n2,3\n', "not a"),
    "endless line": ("idx,score\n" + "1" * 3_000_000 + ",1\n", "not a readable CSV"),
}


@pytest.mark.parametrize("kind", BAD)
def test_file_that_is_no_table_of_scores_is_refused(tmp_path, kind):
    """Each kind of bad file: one line that names the file, the line where there is one, and what was expected."""
    content, message = BAD[kind]
    with pytest.raises(CorpusError, match=message) as caught:
        read(tmp_path, content)
    assert NAME in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_late_line_is_named(tmp_path):
    """The line of a bad value is right far behind the first block of text, and for a value found after parsing."""
    rows = [f"{i},0.5" for i in range(300_000)]
    rows[250_000] = "250000,x"
    with pytest.raises(CorpusError, match="line 250002: score 'x'"):
        read(tmp_path, "idx,score\n" + "\n".join(rows) + "\n")
    rows[250_000] = "250000,0.51"
    with pytest.raises(CorpusError, match=r"line 250002: score 0\.51"):
        read(tmp_path, "idx,score\n" + "\n".join(rows) + "\n")


def test_hash_follows_the_rows_alone(tmp_path):
    """Order, dialect and compression leave a file's hash as it is; one match more changes it."""
    (tmp_path / "a").mkdir()
    plain, other = "idx,score\n3,0.5\n4,1.0\n", ",idx,score\r\n0,4,1\r\n1,3,0.5\r\n"
    hashes = []
    for content in (plain.encode(), gzip.compress(other.encode()), plain.replace("0.5", "0.5625").encode()):
        path = tmp_path / (NAME + (".gz" if content[:2] == b"\x1f\x8b" else ""))
        path.write_bytes(content)
        (source,) = find_sources([str(path)])
        hashes.append(read_score_file(source, continuation=16, folder=tmp_path / "a", stem="0").sha256)
    assert hashes[0] == hashes[1] != hashes[2]
