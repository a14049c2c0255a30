"""Windows, selections and the vocabulary: which tokens of which rows are scored."""

import csv
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_files import write_megatron
from mnemoscope.config import CorpusConfig
from mnemoscope.corpus import check_vocabulary, open_corpus, read_windows, select_sequences
from mnemoscope.corpus.draws import draw_below, sample_below
from mnemoscope.errors import CorpusError


@pytest.fixture
def corpus(tmp_path):
    rows = [list(range(100 * row, 100 * row + length)) for row, length in enumerate([5, 9, 3, 7, 5, 0])]
    return open_corpus(CorpusConfig(path=str(write_megatron(tmp_path / "x", rows))))


def windows(corpus, ids, *, width=5, offset=0, seed=0, short_rows="skip"):
    return read_windows(corpus, np.array(ids), window_tokens=width, offset=offset, seed=seed, short_rows=short_rows)


def test_windows_by_hand(corpus):
    """A window is row[offset : offset + window_tokens]; rows too short for it are left out and counted."""
    read = windows(corpus, [0, 1, 2, 3, 4, 5], offset=1, width=4)
    assert read.sequence_ids.tolist() == [0, 1, 3, 4]
    assert read.offsets.tolist() == [1, 1, 1, 1]
    assert read.tokens.tolist() == [
        [1, 2, 3, 4],
        [101, 102, 103, 104],
        [301, 302, 303, 304],
        [401, 402, 403, 404],
    ]
    assert read.num_short == 2
    assert read.tokens.dtype == read.sequence_ids.dtype == np.int64


def test_windows_keep_the_order_asked_for(corpus):
    """Ids in any order, with gaps, give the windows in that order; none give none."""
    assert windows(corpus, [4, 1, 0]).tokens[:, 0].tolist() == [400, 100, 0]
    assert windows(corpus, []).tokens.shape == (0, 5)


def test_short_row_is_named(corpus):
    """A row too short is one line: file, row, its length, what was needed, and the way out."""
    with pytest.raises(CorpusError, match=r'x\.bin, row 2: 3 tokens; .* need 5 .*short_rows = "skip"'):
        windows(corpus, [0, 1, 2], short_rows="error")
    with pytest.raises(CorpusError, match=r"rows 6 to 7 asked for; the corpus holds rows 0 to 5"):
        windows(corpus, [6])


def test_random_offsets_depend_on_seed_and_row_alone(corpus):
    """The offset of a row is the same whatever else is read with it, and always leaves room for the window."""
    together = windows(corpus, [0, 1, 3, 4], offset="random", seed=3)
    for number, row in enumerate([0, 1, 3, 4]):
        alone = windows(corpus, [row], offset="random", seed=3)
        assert alone.offsets[0] == together.offsets[number]
        assert alone.tokens[0].tolist() == together.tokens[number].tolist()
    assert together.offsets[0] == together.offsets[3] == 0  # rows of exactly the window
    drawn = {int(windows(corpus, [1], offset="random", seed=seed).offsets[0]) for seed in range(60)}
    assert drawn == {0, 1, 2, 3, 4}


def test_draws_are_uniform():
    """60,000 draws below 6 fall 10,000 times on each face, within five standard errors (of 91)."""
    counts = np.bincount(draw_below(6, counters=np.arange(60_000), seed=1))
    assert len(counts) == 6
    assert np.abs(counts - 10_000).max() < 5 * 91.3


def test_draws_are_splitmix():
    """The mixing is SplitMix64's: its first output for seed 0 is the published 0xE220A8397B1DCDAF."""
    from mnemoscope.corpus.draws import _mix

    assert int(_mix(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF


@settings(max_examples=60, deadline=None)
@given(bound=st.integers(1, 300), seed=st.integers(0, 2**40), data=st.data())
def test_sample_is_distinct_and_sorted(bound, seed, data):
    """A sample is `count` different rows in range, ascending, the same for the same seed."""
    count = data.draw(st.integers(0, bound))
    drawn = sample_below(bound, count=count, seed=seed)
    assert len(drawn) == count == len(set(drawn.tolist()))
    assert drawn.tolist() == sorted(drawn.tolist())
    assert all(0 <= row < bound for row in drawn.tolist())
    assert drawn.tolist() == sample_below(bound, count=count, seed=seed).tolist()


def test_sample_is_fair():
    """Over 6,000 seeds each of 10 rows is in a sample of 3 about 1,800 times (five standard errors: 178)."""
    counts = np.bincount(np.concatenate([sample_below(10, count=3, seed=seed) for seed in range(6000)]))
    assert np.abs(counts - 1800).max() < 178
    assert len(sample_below(10**15, count=1000, seed=0)) == 1000


def test_selection_of_all_holds_no_ids(corpus):
    """All rows: slices are int64 ranges."""
    selection = select_sequences(CorpusConfig(path="x"), corpus)
    assert len(selection) == 6
    assert selection.sequence_ids[2:5].tolist() == [2, 3, 4]
    assert selection.sequence_ids[4:99].tolist() == [4, 5]
    assert selection.num_repeats is None
    assert not isinstance(selection.sequence_ids, np.ndarray)


def test_selection_of_a_sample(corpus):
    """A sample is by seed, and its fingerprint changes with it; one larger than the corpus is refused."""
    first, again, other = (select_sequences(CorpusConfig(path="x", sample=3, seed=seed), corpus) for seed in (1, 1, 2))
    assert first.sequence_ids[:].tolist() == again.sequence_ids[:].tolist()
    assert first.fingerprint == again.fingerprint != other.fingerprint
    with pytest.raises(CorpusError, match="sample: 7 rows asked for; the corpus holds 6"):
        select_sequences(CorpusConfig(path="x", sample=7), corpus)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_selection_of_a_list(corpus, tmp_path, suffix):
    """A list of sequences is taken ascending, its repeats with it."""
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["sequence_id", "num_repeats"], [4, 40], [1, 10]])
    else:
        pq.write_table(pa.table({"sequence_id": [4, 1], "num_repeats": [40, 10]}), path)
    selection = select_sequences(CorpusConfig(path="x", sequences=path.name), corpus, base=tmp_path)
    assert selection.sequence_ids[:].tolist() == [1, 4]
    assert selection.num_repeats.tolist() == [10, 40]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id\n1\n", "no column 'sequence_id'; it has id"),
        ("sequence_id\n1.5\n", "holds double; expected integers"),
        ("sequence_id\n1\n6\n", "row 1: sequence_id 6; the corpus holds rows 0 to 5"),
        ("sequence_id\n-1\n", "row 0: sequence_id -1"),
        ("sequence_id\n2\n3\n2\n", "row 2: sequence_id 2 again; expected each once"),
        ("sequence_id,num_repeats\n2,\n3,4\n", "row 0: num_repeats is null"),
        ("sequence_id,num_repeats\n2,1\n3,2147483648\n", "row 1: num_repeats 2147483648; expected 0 to 2147483647"),
        ("sequence_id,num_repeats\n2,-1\n", "row 0: num_repeats -1; expected 0 to"),
        ("sequence_id\n", "lists no sequences|holds null"),
        ("", "the file is empty"),
    ],
)
def test_bad_lists_are_refused(corpus, tmp_path, content, expected):
    """A list that does not fit the corpus is one line that names file, row and what was expected."""
    path = tmp_path / f"{uuid.uuid4().hex}.csv"
    path.write_text(content)
    with pytest.raises(CorpusError, match=expected) as caught:
        select_sequences(CorpusConfig(path="x", sequences=str(path)), corpus)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vocabulary(corpus):
    """An id at or beyond the vocabulary names file, row, id, its index in the row, and the vocabulary's size."""
    read = windows(corpus, [0, 1], offset=2, width=3)
    check_vocabulary(read, 105, corpus)
    with pytest.raises(CorpusError, match=r"x\.bin, row 1: token id 104 at index 4; .* 104 ids, 0 to 103"):
        check_vocabulary(read, 104, corpus)
    with pytest.raises(CorpusError, match=r"row 3: token id 300 at index 0"):
        check_vocabulary(corpus.tokens(2, 4), 300, corpus, first_row=2)
