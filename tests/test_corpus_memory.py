"""Memory is bounded whatever the corpus's size, and opening a huge one takes no time."""

import subprocess
import sys
import time

import numpy as np

from corpus_files import write_tokenizer
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import open_corpus

_READ = """
import resource, sys
import numpy as np
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import open_corpus, read_windows, select_sequences
config = CorpusConfig(**eval(sys.argv[1]))
corpus = open_corpus(config)
ids = select_sequences(config, corpus).sequence_ids
for start in range(0, len(ids), 1000):
    read_windows(corpus, ids[start:start+1000], window_tokens=64, offset=0, seed=0, short_rows="error")
print(len(corpus), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mib(cache, **fields):
    """Rows of a corpus, and the peak resident MiB of a process that opens it and reads the selected rows."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, repr(fields)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "MNEMOSCOPE_CACHE": str(cache), "PATH": ""},
    )
    return tuple(int(word) for word in done.stdout.split())


def sparse(path, num_rows):
    with path.open("wb") as file:
        file.truncate(num_rows * 2049 * 2)
    return path


def test_four_gigabytes_read_as_forty_megabytes(tmp_path):
    """1,000 rows of a 4 GB document.bin take no more memory than of a 40 MB one, within 20 MiB."""
    small, large = sparse(tmp_path / "small.bin", 10_000), sparse(tmp_path / "large.bin", 1_000_000)
    rows, of_small = peak_mib(tmp_path, path=str(small), sample=1000)
    assert rows == 10_000
    rows, of_large = peak_mib(tmp_path, path=str(large), sample=1000)
    assert rows == 1_000_000
    assert of_large < of_small + 20


def test_a_sweep_gives_its_pages_back(tmp_path):
    """Reading all of 400 MB row by row keeps less than 40 MiB more resident than reading 4 MB."""
    _, of_small = peak_mib(tmp_path, path=str(sparse(tmp_path / "small.bin", 1000)))
    _, of_large = peak_mib(tmp_path, path=str(sparse(tmp_path / "large.bin", 100_000)))
    assert of_large < of_small + 40


def test_opening_is_instant(tmp_path):
    """A 4 GB document.bin opens in under two seconds."""
    path = sparse(tmp_path / "large.bin", 1_000_000)
    began = time.monotonic()
    assert len(open_corpus(CorpusConfig(path=str(path)))) == 1_000_000
    assert time.monotonic() - began < 2


def test_a_large_index_is_checked_in_pieces(tmp_path):
    """An .idx of 3,000,000 sequences takes no more than 60 MiB over one of 3,000."""
    import struct

    for name, count in (("small", 3000), ("large", 3_000_000)):
        (tmp_path / f"{name}.bin").write_bytes(bytes(64 * 2 * 3000))
        with (tmp_path / f"{name}.idx").open("wb") as index:
            index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, 1))
            sizes = np.zeros(count, "<i4")
            sizes[:3000] = 64
            index.write(sizes.tobytes())
            index.write((np.cumsum(sizes, dtype="<i8") * 2 - sizes * 2).astype("<i8").tobytes())
            index.write(bytes(8))
    ids = tmp_path / "ids.csv"
    ids.write_text("sequence_id\n1\n2999\n")
    _, of_small = peak_mib(tmp_path, path=str(tmp_path / "small.bin"), sequences=str(ids))
    rows, of_large = peak_mib(tmp_path, path=str(tmp_path / "large.bin"), sequences=str(ids))
    assert rows == 3_000_000
    assert of_large < of_small + 60


def test_text_is_tokenized_in_constant_memory(tmp_path):
    """Tokenizing 7.5 MB of text takes no more than 20 MiB over tokenizing 1.5 MB."""
    tokenizer = str(write_tokenizer(tmp_path / "t"))
    line = '{"text": "' + "a b c d e " * 150 + '"}\n'
    peaks = []
    for name, count in (("small", 1000), ("large", 5_000)):
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            for _ in range(count):
                file.write(line)
        rows, peak = peak_mib(tmp_path / "cache", path=str(path), tokenizer=tokenizer, sample=10)
        assert rows == count
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20
