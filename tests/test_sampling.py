"""The stratified sample: who is in it, and what the weights are good for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.config import Grid
from mnemoscope.facts import MatchFacts
from mnemoscope.sampling import draw_sample
from mnemoscope.shards import SequenceRows, scores_schema, scores_table

GRID = Grid(contexts=(4, 8), continuations=(4, 10))


def score_tables(num_sequences, *, shard_rows, seed=0):
    """Tables of random match bits, cut into shards, and the matches [R, C, n] themselves."""
    rng = np.random.default_rng(seed)
    matched = rng.random((num_sequences, 2, 10)) < rng.random((num_sequences, 1, 1)) ** 4  # most match little
    first = np.where(matched.all(axis=2), 10, matched.argmin(axis=2)).astype(np.int32)
    zeros = np.zeros((num_sequences, 2, 2), np.float32)
    schema = scores_schema(GRID, mode="graded", label="m", fingerprint="f")
    tables = []
    for start in range(0, num_sequences, shard_rows):
        part = slice(start, start + shard_rows)
        ids = np.arange(num_sequences)[part] * 3
        rows = SequenceRows(ids, np.zeros_like(ids), None, ids)
        facts = MatchFacts(matched[part], first[part], zeros[part], zeros[part])
        tables.append(scores_table("member", rows, facts, schema=schema, grid=GRID))
    return tables, matched


def draw(tables, **changes):
    return draw_sample(
        tables, **({"context": 8, "grid": GRID, "continuation": 4, "per_stratum": 5, "seed": 1} | changes)
    )


@settings(max_examples=20, deadline=None)
@given(num_sequences=st.integers(1, 120), shard_rows=st.integers(1, 130), per_stratum=st.integers(1, 40))
def test_strata_are_the_numbers_of_matched_tokens(num_sequences, shard_rows, per_stratum):
    """Each stratum gives as many sequences as asked or all it has; sizes and scores are those of a naive count."""
    tables, matched = score_tables(num_sequences, shard_rows=shard_rows)
    sample = draw(tables, per_stratum=per_stratum)
    num_matched = matched[:, 1, :4].sum(axis=1)
    sizes = np.bincount(num_matched, minlength=5)
    sampled = np.bincount(sample.num_matched, minlength=5)
    np.testing.assert_array_equal(sampled, np.minimum(sizes, per_stratum))
    np.testing.assert_array_equal(sample.num_matched, num_matched[sample.sequence_id // 3])
    np.testing.assert_array_equal(sample.num_stratum, sizes[sample.num_matched])
    assert len(set(sample.sequence_id.tolist())) == len(sample.sequence_id)
    assert sample.design_weight.sum() == pytest.approx(num_sequences)


def test_shards_and_their_order_change_nobody_in_the_sample():
    """The same sequences are drawn however the scores are cut and ordered; another seed draws others."""
    one = draw(score_tables(300, shard_rows=300)[0])
    other = draw(score_tables(300, shard_rows=7)[0][::-1])
    np.testing.assert_array_equal(one.sequence_id, other.sequence_id)
    assert set(one.sequence_id) != set(draw(score_tables(300, shard_rows=300)[0], seed=2).sequence_id)


def test_weighted_mean_estimates_the_population_without_bias():
    """Over 400 seeds the Horvitz-Thompson mean of a quantity is the population's, where the plain mean is not."""
    tables, matched = score_tables(400, shard_rows=400)
    quantity = matched[:, 0].sum(axis=1) + 5.0 * matched[:, 1, :4].all(axis=1)
    weighted, plain = [], []
    for seed in range(400):
        sample = draw(tables, per_stratum=8, seed=seed)
        values = quantity[sample.sequence_id // 3]
        weighted.append((sample.design_weight * values).sum() / 400)
        plain.append(values.mean())
    error = np.std(weighted) / np.sqrt(400)
    assert np.mean(weighted) == pytest.approx(quantity.mean(), abs=4 * error)
    assert abs(np.mean(plain) - quantity.mean()) > 10 * error


def test_no_rows_give_an_empty_sample():
    """A group without sequences is an empty sample, not an error."""
    assert len(draw([]).sequence_id) == 0
