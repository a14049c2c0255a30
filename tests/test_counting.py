import json
import pickle
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_files import write_megatron
from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.corpus import open_corpus
from mnemoscope.count_parts import count_in_parts, plan_parts
from mnemoscope.counting import (
    SampledRows,
    count_corpus,
    count_rows,
    counts_schema,
    counts_table,
    find_clusters,
    plan_counts,
)
from mnemoscope.engines import Once
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.ngrams import HASHING, Hashing
from mnemoscope.texts import open_texts

HASHINGS = (HASHING, Hashing(0, 0), Hashing(1, 0), Hashing(0, HASHING.spread), Hashing(1, 1))
"""Good; all keys the last token in one slot; sums of tokens in one slot; last tokens and sums, spread."""


def occurrences(rows, ngram):
    """How often the slow obvious search finds the tokens in the rows."""
    size = len(ngram)
    return sum(row[start : start + size] == ngram for row in rows for start in range(len(row) - size + 1))


def answers(request, counts):
    """What the counts say of each place of each window, by table."""
    return [found[table.number_RP].tolist() for table, found in zip(request.tables, counts.occurrences, strict=True)]


def expected(windows, sizes, rows):
    """The same by search."""
    return [
        [[occurrences(rows, w[start : start + n]) for start in range(len(w) - n + 1)] for w in windows]
        for n in (*sizes, len(windows[0]))
    ]


def arrays(rows, dtype=np.uint16):
    return [np.array(row, dtype) for row in rows]


def table_of(windows, rows, *, ids=None, groups=None, sizes=(1, 2)):
    """The counts table of windows over rows, by column."""
    request = plan_counts(np.array(windows), ngram_sizes=sizes)
    ids = np.arange(len(windows)) if ids is None else np.array(ids)
    sampled = SampledRows(ids, groups or ["member"] * len(windows), np.zeros(len(windows), np.int64))
    return counts_table(request, count_rows(request, arrays(rows)), sampled, fingerprint="abc")


@st.composite
def samples(draw):
    """Ragged rows over few tokens, windows of which some are cut from the rows, n-gram sizes, a hash."""
    token = st.sampled_from(draw(st.sampled_from([(0, 1), (0, 1, 2, 3), (7, 65535, 2**31 - 1)])))
    rows = draw(st.lists(st.lists(token, max_size=24), max_size=8))
    width = draw(st.integers(1, 6))
    cuts = [row[at : at + width] for row in rows for at in range(len(row) - width + 1)]
    window = st.lists(token, min_size=width, max_size=width)
    windows = draw(st.lists(st.sampled_from(cuts) | window if cuts else window, min_size=1, max_size=6))
    sizes = draw(st.lists(st.integers(1, width), unique=True, max_size=3))
    return rows, windows, sizes, draw(st.sampled_from(HASHINGS))


@settings(deadline=None, max_examples=150)
@given(samples())
def test_counts_are_those_of_a_search(sample):
    """Every count equals that of a plain search of the rows, for any rows, windows, sizes and hash."""
    rows, windows, sizes, hashing = sample
    request = plan_counts(np.array(windows), ngram_sizes=sizes, hashing=hashing)
    counts = count_rows(request, arrays(rows, np.int64))
    assert answers(request, counts) == expected(windows, sizes, rows)
    assert (counts.num_rows, counts.num_tokens) == (len(rows), sum(map(len, rows)))


@settings(deadline=None, max_examples=60)
@given(samples(), st.data())
def test_parts_add_up_to_the_whole(sample, data):
    """Parts cut anywhere between rows, empty ones too, in any order and grouping, add up to the whole."""
    rows, windows, sizes, hashing = sample
    request = plan_counts(np.array(windows), ngram_sizes=sizes, hashing=hashing)
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))
    cut = (rows[:first], rows[first:second], rows[second:])
    a, b, c = (count_rows(request, arrays(part, np.uint32)) for part in cut)
    whole = count_rows(request, arrays(rows, np.uint32))
    for total in ((a + b) + c, a + (b + c), c + a + b):
        assert answers(request, total) == answers(request, whole)
        assert (total.num_rows, total.num_tokens) == (whole.num_rows, whole.num_tokens)


@settings(deadline=None, max_examples=40)
@given(samples(), st.randoms())
def test_order_and_doubling_of_rows(sample, random):
    """Rows in another order give the same counts; every row twice gives twice the counts."""
    rows, windows, sizes, _ = sample
    request = plan_counts(np.array(windows), ngram_sizes=sizes)
    once = answers(request, count_rows(request, arrays(rows, np.int64)))
    shuffled = random.sample(rows, len(rows))
    assert answers(request, count_rows(request, arrays(shuffled, np.int64))) == once
    twice = answers(request, count_rows(request, arrays(rows + shuffled, np.int64)))
    assert all(np.array_equal(2 * np.array(a), b) for a, b in zip(once, twice, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.data())
def test_clusters_are_first_equal_rows(width, data):
    """A window's cluster is the first row with its tokens."""
    windows = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), max_size=20))
    clusters = find_clusters(np.array(windows, np.int64).reshape(-1, width))
    assert clusters.tolist() == [windows.index(window) for window in windows]


@pytest.mark.parametrize("hashing", HASHINGS)
def test_thousands_of_ngrams_against_a_counter(hashing):
    """Where rows are longer than a block and n-grams many, counts equal those of a Counter for any hash."""
    generator = np.random.default_rng(3)
    rows = generator.zipf(1.3, (6, 1500)).clip(max=300).astype(np.uint16)
    windows = rows[:, 100:164]
    request = plan_counts(windows, ngram_sizes=(1, 2, 3), hashing=hashing)
    counts = count_rows(request, rows)
    for n, found in zip((1, 2, 3, 64), answers(request, counts), strict=True):
        counter = Counter(tuple(row[at : at + n]) for row in rows.tolist() for at in range(len(row) - n + 1))
        assert found == [[counter[tuple(w[at : at + n])] for at in range(64 - n + 1)] for w in windows.tolist()]


def test_overlapping_copies_all_count():
    """A row of 1000 times one token holds 1000 - 64 + 1 copies of its window, each start one."""
    column = table_of([[5] * 64], [[5] * 1000])
    assert column["num_copies"].to_pylist() == [1000 - 64]
    assert column["ngram_1"].to_pylist() == [[1000] * 64]
    assert column["ngram_2"].to_pylist() == [[None, *[999] * 63]]


def test_no_ngram_lies_across_rows():
    """The end of a row and the start of the next make no n-gram, whether the rows are arrays or one matrix."""
    request = plan_counts(np.array([[1, 2]]), ngram_sizes=())
    assert answers(request, count_rows(request, arrays([[1], [2], [0, 1], [2, 1], []]))) == [[[0]]]
    assert answers(request, count_rows(request, np.array([[0, 1], [2, 1], [1, 2]]))) == [[[1]]]


def test_the_place_taken_from_is_left_out():
    """Of own windows the place they were taken from is not a copy; of a control's nothing is subtracted."""
    rows = [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    windows = [[1, 2, 3], [1, 2, 3], [4, 5, 6], [1, 2, 3], [9, 9, 9]]
    groups = ["member"] * 3 + ["control"] * 2
    column = table_of(windows, rows, ids=[0, 1, 2, 0, 1], groups=groups)
    assert column["num_copies"].to_pylist() == [1, 1, 0, 2, 0]


def test_a_doubled_corpus_has_2c_plus_1_copies():
    """With c copies beside the own place, the corpus twice over has 2c + 1."""
    rows = [[1, 2, 1, 2, 1], [1, 2]]
    once, twice = (table_of([[1, 2], [2, 1]], rows * k)["num_copies"].to_numpy() for k in (1, 2))
    assert once.tolist() == [2, 1]
    assert twice.tolist() == (2 * once + 1).tolist()


def test_clusters_follow_content_across_groups():
    """Equal windows share a cluster in any group; equal ids of two corpora with other windows do not."""
    windows = [[1, 1], [2, 2], [1, 1], [2, 2], [3, 3], [3, 3], [4, 4]]
    groups = ["member"] * 3 + ["control"] * 4
    column = table_of(windows, [[1, 1], [2, 2]], ids=[7, 0, 5, 1, 5, 3, 0], groups=groups)
    assert column["cluster"].to_pylist() == [5, 0, 5, 0, -4, -4, -1]


def test_the_frequency_at_an_index_is_of_the_ngram_that_ends_there():
    """In rows a b a, b: b occurs twice, a b once, a b a once, and before index n - 1 nothing is known."""
    column = table_of([[0, 1, 0]], [[0, 1, 0], [1]], sizes=(1, 2, 3))
    assert column["ngram_1"].to_pylist() == [[2, 2, 2]]
    assert column["ngram_2"].to_pylist() == [[None, 1, 1]]
    assert column["ngram_3"].to_pylist() == [[None, None, 1]]


def test_a_corpus_is_counted_in_any_chunks(tmp_path):
    """A corpus on disk gives the same counts whatever the rows at once and the parts, and progress is told."""
    rows = [[1, 2, 3, 1, 2], [], [2], [1, 2, 1, 2], [3, 3, 3]] * 3
    corpus = open_corpus(CorpusConfig(path=str(write_megatron(tmp_path / "corpus", rows))))
    request = plan_counts(np.array([[1, 2], [3, 3]]))
    seen = []
    for size in (1, 4, 15, 100):
        counts = count_corpus(request, corpus, rows_at_once=size, progress=lambda *done: seen.append(done))
        assert answers(request, counts) == expected([[1, 2], [3, 3]], (1, 2), rows)
    assert seen[-6:] == [(4, 15), (8, 15), (12, 15), (15, 15), (15, 15), (15, 15)]
    parts = count_corpus(request, corpus, stop=7) + count_corpus(request, corpus, start=7)
    assert answers(request, parts) == expected([[1, 2], [3, 3]], (1, 2), rows)
    assert (parts.num_rows, parts.num_tokens) == (15, 39)


def test_a_corpus_is_counted_by_several_processes(tmp_path):
    """Parts cover the rows once; two processes give the counts of one, and tell of every row."""
    rows = [[1, 2, 3, 1, 2], [], [2], [1, 2, 1, 2], [3, 3, 3]] * 3
    section = CorpusConfig(path=str(write_megatron(tmp_path / "corpus", rows)))
    config = StudyConfig(models=(ModelConfig(source="/x"),), corpus=section, contexts=(1,), continuations=(1,))
    texts = Once(partial(open_texts, config))
    corpus = texts()["member"].corpus
    parts = plan_parts(corpus, part_tokens=13)  # of 39 tokens
    assert parts == [(0, 5), (5, 10), (10, 15)]
    assert plan_parts(corpus, part_tokens=40) == [(0, 15)]
    assert len(plan_parts(corpus, part_tokens=1)) == 15
    request = plan_counts(np.array([[1, 2], [3, 3]]))
    told = []
    engine = LocalEngine(workers=2)
    counts = count_in_parts(request, texts, engine=engine, progress=lambda *rows: told.append(rows), part_tokens=13)
    assert answers(request, counts) == expected([[1, 2], [3, 3]], (1, 2), rows)
    assert (counts.num_rows, counts.num_tokens) == (15, 39)
    assert told[-1] == (15, 15)


def test_requests_and_counts_travel():
    """A request and its counts that went to another process and back say the same."""
    request = plan_counts(np.array([[1, 2, 3, 4]]))
    there = pickle.loads(pickle.dumps(request))
    counts = pickle.loads(pickle.dumps(count_rows(there, arrays([[0, 1, 2, 3, 4, 1]]))))
    assert answers(request, counts + count_rows(request, [])) == [[[2, 1, 1, 1]], [[1, 1, 1]], [[1]]]


def test_the_table_says_what_it_holds():
    """Every column of the counts table has its unit in the metadata, beside fingerprint and corpus size."""
    table = table_of([[1, 2]], [[1, 2], [3]])
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["fingerprint"] == "abc"
    assert (metadata["num_corpus_rows"], metadata["num_corpus_tokens"]) == ("2", "3")
    assert list(json.loads(metadata["units"])) == table.column_names
    assert json.loads(metadata["units"])["ngram_2"].endswith(
        "the 2 tokens that end at this index of the window; null before index 2-1"
    )
    assert table.schema.equals(counts_schema((1, 2), fingerprint="abc"))
    assert table.to_pylist() == [
        {
            "sequence_id": 0,
            "group": "member",
            "offset": 0,
            "ngram_1": [1, 1],
            "ngram_2": [None, 1],
            "num_copies": 0,
            "cluster": 0,
        }
    ]


def test_refusals():
    """What cannot be counted or added is refused in one line with what came and what is expected."""
    one, other = plan_counts(np.array([[1, 2]])), plan_counts(np.array([[1, 3]]))
    with pytest.raises(ConfigError, match="expected parts counted for one sample"):
        count_rows(one, []) + count_rows(other, [])
    with pytest.raises(ConfigError, match="expected what belongs together"):
        sampled = SampledRows(np.array([0]), ["member"], np.array([0]))
        counts_table(one, count_rows(other, []), sampled, fingerprint="")
    for sizes in ((0,), (3,), (1, 1)):
        with pytest.raises(ConfigError, match="expected different sizes of 1 to 2 tokens"):
            plan_counts(np.array([[1, 2]]), ngram_sizes=sizes)
    with pytest.raises(ConfigError, match=r"windows of shape \[2\]; expected"):
        find_clusters(np.array([1, 2]))
    for token in (-1, 2**31, 2**32):
        with pytest.raises(CorpusError, match=f"token id {token}; expected 0 to 2147483647"):
            count_rows(one, [np.array([0, token])])
        with pytest.raises(CorpusError, match=f"token id {token}; expected 0 to 2147483647"):
            count_rows(one, [np.array([0], np.uint16), np.array([0, token])])
    with pytest.raises(CorpusError, match="the window of member sequence 0 at offset 0 is nowhere in the 1 rows"):
        table_of([[1, 2]], [[2, 1]])
