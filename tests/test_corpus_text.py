"""Text becomes the tokens that tokenizing it by hand gives, once, whatever it is stored in."""

import gzip
import json
import multiprocessing
import os
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus_files import WORDS, all_rows, write_lines, write_tokenizer
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import open_corpus, read_windows, token_cache, tokenized
from mnemoscope.errors import CorpusError

DATA = Path(os.environ.get("MNEMOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data is not at {DATA} (set MNEMOSCOPE_TEST_DATA)")
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOS, EOS = 1, 2
documents = st.lists(st.lists(st.sampled_from(WORDS[3:]), max_size=6), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer(tmp_path):
    return str(write_tokenizer(tmp_path / "tokenizer"))


def ids(words):
    return [WORDS.index(word) for word in words]


def write_text(path, texts):
    return write_lines(path, [{"text": text} for text in texts])


@quick
@given(words=documents, bos=st.booleans())
def test_documents_are_rows(tmp_path, tokenizer, words, bos):
    """Under `documents` row i is the tokens of document i, after the beginning-of-sequence token if asked for."""
    path = write_text(tmp_path / f"{uuid.uuid4().hex}.jsonl", [" ".join(document) for document in words])
    corpus = open_corpus(CorpusConfig(path=str(path), tokenizer=tokenizer, bos=bos))
    assert all_rows(corpus) == [[BOS] * bos + ids(document) for document in words]


@quick
@given(words=documents, bos=st.booleans(), row_tokens=st.integers(2, 7), batch=st.integers(1, 4))
def test_packed_is_naive_concatenation(tmp_path, tokenizer, words, bos, *, row_tokens, batch):
    """Packed rows are all documents end to end, end-of-text between them, cut; the rest is dropped and counted."""
    path = write_text(tmp_path / f"{uuid.uuid4().hex}.jsonl", [" ".join(document) for document in words])
    naive = [token for document in words for token in [EOS, *[BOS] * bos, *ids(document)]][1:]
    config = CorpusConfig(path=str(path), tokenizer=tokenizer, bos=bos, layout="packed", row_tokens=row_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenized, "_BATCH_DOCUMENTS", batch)
        if len(naive) < row_tokens:
            with pytest.raises(CorpusError, match=f"{len(naive)} tokens.*row_tokens"):
                open_corpus(config)
            return
        corpus = open_corpus(config)
    num_rows = len(naive) // row_tokens
    assert all_rows(corpus) == np.reshape(naive[: num_rows * row_tokens], (num_rows, row_tokens)).tolist()
    assert corpus.num_dropped_tokens == len(naive) - num_rows * row_tokens


@pytest.mark.parametrize(
    "name", ["x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.parquet.gz", "*.txt", "*.txt.gz", "memory"]
)
def test_storage_changes_no_token(tmp_path, tokenizer, name):
    """The same documents as JSON lines, Parquet, .txt, compressed or remote give the same rows."""
    texts = ["a b", "c", "d e a"]
    plain = write_text(tmp_path / "x.jsonl", texts)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", row_group_size=2)
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
        (tmp_path / f"{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    address = f"memory://{uuid.uuid4().hex}/x.jsonl"
    fsspec.filesystem("memory").pipe(address, plain.read_bytes())
    path = address if name == "memory" else str(tmp_path / name)
    assert all_rows(open_corpus(CorpusConfig(path=path, tokenizer=tokenizer))) == [ids(text.split()) for text in texts]


def test_places_of_documents(tmp_path, tokenizer):
    """A row's place is the file and line, row or whole file that its document came from."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (tmp_path / "b.txt").write_text("c")
    pq.write_table(pa.table({"text": ["d", "e"]}), tmp_path / "c.parquet")
    config = CorpusConfig(path=("a.jsonl", "b.txt", "c.parquet"), tokenizer=tokenizer)
    corpus = open_corpus(config, base=tmp_path)
    found = [Path(corpus.place(row)).name for row in range(5)]
    assert found == ["a.jsonl, line 1", "a.jsonl, line 3", "b.txt", "c.parquet, row 0", "c.parquet, row 1"]
    assert all_rows(corpus) == [[3], [4], [5], [6], [7]]


def test_text_is_tokenized_once(tmp_path, tokenizer, cache, monkeypatch):
    """A second opening reads the cache; other content or other settings make another entry; no leavings."""
    path = str(write_text(tmp_path / "x.jsonl", ["a b", "c"]))
    first = open_corpus(CorpusConfig(path=path, tokenizer=tokenizer))
    open_corpus(CorpusConfig(path=path, tokenizer=tokenizer, layout="packed", row_tokens=2))
    assert len(list(cache.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(tokenized, "_encode", None)  # would fail if it were called
        again = open_corpus(CorpusConfig(path=path, tokenizer=tokenizer))
    assert all_rows(again) == all_rows(first)
    write_text(tmp_path / "x.jsonl", ["a b", "d"])
    other = open_corpus(CorpusConfig(path=path, tokenizer=tokenizer))
    assert all_rows(other) == [[3, 4], [6]]
    assert other.fingerprint != first.fingerprint
    assert len(list(cache.iterdir())) == 3


def test_fingerprint_covers_what_changes_tokens(tmp_path, tokenizer):
    """Tokenizer, layout, row length, bos and column are in the fingerprint; the file's name is not."""
    path = str(write_lines(tmp_path / "x.jsonl", [{"text": "a b c", "other": "c b a"}]))
    (tmp_path / "y.jsonl").write_bytes((tmp_path / "x.jsonl").read_bytes())
    special = write_tokenizer(tmp_path / "special", special={"eos_token": "e", "bos_token": {"content": "d"}})
    settings_ = [{}, {"bos": True}, {"column": "other"}, {"layout": "packed", "row_tokens": 2}]
    settings_ += [{"layout": "packed", "row_tokens": 3}, {"bos": True, "tokenizer": str(special)}]
    found = {
        open_corpus(CorpusConfig(path=path, **{"tokenizer": tokenizer, **fields})).fingerprint for fields in settings_
    }
    assert len(found) == len(settings_)
    moved = open_corpus(CorpusConfig(path=str(tmp_path / "y.jsonl"), tokenizer=tokenizer))
    assert moved.fingerprint in found


def _open_rows(config):
    return all_rows(open_corpus(config))


def test_two_processes_may_race(tmp_path, tokenizer, cache):
    """Processes that tokenize the same text at once all get its rows and leave one entry."""
    config = CorpusConfig(path=str(write_text(tmp_path / "x.jsonl", ["a b"] * 3000)), tokenizer=tokenizer)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_open_rows, [config] * 4, chunksize=1) == [[[3, 4]] * 3000] * 4
    assert len(list(cache.iterdir())) == 1


def test_the_later_of_two_writers_yields(cache):
    """If the entry appears while it is being built, the first one stands and the second is cleaned up."""

    def build(folder):
        (folder / "x").write_text("mine")
        (cache / "key").mkdir()
        (cache / "key" / "x").write_text("theirs")

    assert (token_cache.prepare("key", build) / "x").read_text() == "theirs"
    assert [entry.name for entry in cache.iterdir()] == ["key"]


def test_a_damaged_entry_is_named(tmp_path, tokenizer, cache):
    """A cache entry whose facts or rows were cut is a CorpusError that names it."""
    config = CorpusConfig(path=str(write_text(tmp_path / "x.jsonl", ["a b", "c"])), tokenizer=tokenizer)
    open_corpus(config)
    entry = next(cache.iterdir())
    rows = (entry / "rows.bin").read_bytes()
    (entry / "rows.bin").write_bytes(rows[:-1])
    with pytest.raises(CorpusError, match=r"rows\.idx: sequence 1 has 6; expected an end within the 5 bytes"):
        open_corpus(config)
    (entry / "facts.json").write_text("{")
    with pytest.raises(CorpusError, match=f"{entry.name}: this cache entry is damaged .*delete it"):
        open_corpus(config)


def test_a_failure_leaves_nothing(tmp_path, tokenizer, cache):
    """Bad text half way leaves no cache entry, whole or not."""
    path = write_text(tmp_path / "x.jsonl", ["a"] * 2000)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 2001: not valid JSON"):
        open_corpus(CorpusConfig(path=str(path), tokenizer=tokenizer))
    assert list(cache.iterdir()) == []


def test_unwritable_cache_is_one_line(tmp_path, tokenizer, monkeypatch):
    """A cache that cannot be written is a CorpusError that names the folder and the variable to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(CorpusError, match=r"file/tokens: .*set MNEMOSCOPE_CACHE"):
        open_corpus(CorpusConfig(path=str(write_text(tmp_path / "x.jsonl", ["a"])), tokenizer=tokenizer))


def test_special_tokens(tmp_path):
    """bos and end-of-text come from tokenizer_config.json beside it, else from their usual names."""
    path = str(write_text(tmp_path / "x.jsonl", ["a", "b"]))
    named = write_tokenizer(tmp_path / "named", special={"bos_token": {"content": "d"}, "eos_token": "e"})
    config = CorpusConfig(path=path, tokenizer=str(named), bos=True, layout="packed", row_tokens=5)
    assert all_rows(open_corpus(config)) == [ids("daedb")]
    missing = write_tokenizer(tmp_path / "missing", special={"bos_token": "<none>", "eos_token": "<none>"})
    with pytest.raises(CorpusError, match=r"missing/tokenizer\.json: no bos_token: it has no <none>"):
        open_corpus(CorpusConfig(path=path, tokenizer=str(missing), bos=True))
    with pytest.raises(CorpusError, match="no eos_token"):
        open_corpus(CorpusConfig(path=path, tokenizer=str(missing), layout="packed"))


def test_truncation_and_padding_are_off(tmp_path):
    """A tokenizer.json that truncates and pads does neither here: documents keep all their tokens."""
    folder = write_tokenizer(tmp_path / "t")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    path = write_text(tmp_path / "x.jsonl", ["a b c d", "e"])
    config = CorpusConfig(path=str(path), tokenizer=str(folder / "tokenizer.json"))
    assert all_rows(open_corpus(config)) == [[3, 4, 5, 6], [7]]


def test_which_tokenizer(tmp_path, tokenizer):
    """config.tokenizer, relative to the study's folder, else the default; none is an error that tells what to set."""
    path = str(write_text(tmp_path / "x.jsonl", ["a b"]))
    assert open_corpus(CorpusConfig(path=path, tokenizer="tokenizer"), base=tmp_path).text([3, 4]) == "a b"
    assert all_rows(open_corpus(CorpusConfig(path=path), default_tokenizer=tokenizer)) == [[3, 4]]
    with pytest.raises(CorpusError, match=r"x\.jsonl: text needs a tokenizer; set `tokenizer`"):
        open_corpus(CorpusConfig(path=path))
    with pytest.raises(CorpusError, match="no such tokenizer"):
        open_corpus(CorpusConfig(path=path, tokenizer="./nowhere/"))
    with pytest.raises(CorpusError, match=r"holds no tokenizer\.json"):
        open_corpus(CorpusConfig(path=path, tokenizer=str(tmp_path)))


def test_hub_tokenizer(tmp_path, tokenizer, monkeypatch):
    """A hub name fetches tokenizer.json and, where there is one, tokenizer_config.json."""
    import huggingface_hub

    asked = []

    def download(name, file):
        asked.append((name, file))
        if file != "tokenizer.json":
            raise FileNotFoundError(file)
        return f"{tokenizer}/{file}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = str(write_text(tmp_path / "x.jsonl", ["a b"]))
    assert all_rows(open_corpus(CorpusConfig(path=path, tokenizer="some/name", bos=True))) == [[BOS, 3, 4]]
    assert asked[:2] == [("some/name", "tokenizer.json"), ("some/name", "tokenizer_config.json")]


def test_tokens_as_text(tmp_path, tokenizer):
    """Token corpora show text where a tokenizer is known, and say so where it is not; it changes no fingerprint."""
    path = str(write_lines(tmp_path / "x.jsonl", [{"tokens": [3, 4]}]))
    bare, known = (
        open_corpus(CorpusConfig(path=path)),
        open_corpus(CorpusConfig(path=path, tokenizer=tokenizer)),
    )
    assert known.text(known.tokens(0, 1)[0]) == "a b"
    assert bare.fingerprint == known.fingerprint
    assert open_corpus(CorpusConfig(path=path), default_tokenizer=str(tmp_path)).tokenizer is None
    with pytest.raises(CorpusError, match=r"no tokenizer.*set `tokenizer`"):
        bare.text([3])


@needs_data
def test_real_stories():
    """The 2,316 TinyStories with bos: each row is 1 and then the tokens of its text; none is shorter than 49."""
    from tokenizers import Tokenizer

    path, model = DATA / "corpora/tinystories_train_head.jsonl", DATA / "models/stories260K"
    corpus = open_corpus(CorpusConfig(path=str(path), bos=True), default_tokenizer=str(model))
    ids_ = np.arange(len(corpus))
    windows = read_windows(corpus, ids_, window_tokens=49, offset=0, seed=0, short_rows="error")
    assert windows.tokens.shape == (2316, 49)
    plain = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = path.read_text(encoding="utf-8").splitlines()
    for row in (0, 1023, 1024, 2315):
        expected = plain.encode(json.loads(lines[row])["text"], add_special_tokens=False).ids
        assert corpus.tokens(row, row + 1)[0].tolist() == [1, *expected]


@needs_data
def test_real_licences_under_the_pythia_tokenizer(tmp_path):
    """200 licences packed under GPT-NeoX: rows and rest are all tokens, one end-of-text (0) between documents."""
    from tokenizers import Tokenizer

    lines = (DATA / "corpora/licences_spdx.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    name = DATA / "tokenizers/gpt-neox-20b_tokenizer.json"
    corpus = open_corpus(CorpusConfig(path=str(tmp_path / "x.jsonl"), tokenizer=str(name), layout="packed"))
    texts = [json.loads(line)["text"] for line in lines]
    encoded = Tokenizer.from_file(str(name)).encode_batch(texts, add_special_tokens=False)
    naive = [token for encoding in encoded for token in [0, *encoding.ids]][1:]
    assert len(corpus) * 2049 + corpus.num_dropped_tokens == len(naive)
    assert np.concatenate(corpus.tokens(0, len(corpus))).tolist() == naive[: len(corpus) * 2049]
