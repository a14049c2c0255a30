"""Splits by cluster of duplicates: no leak, the same for every model, and independent of how sequences were drawn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mnemoscope.config import Grid
from mnemoscope.prediction.examples import build_examples
from mnemoscope.prediction.splits import assign_splits
from mnemoscope.sampling import draw_sample

MEMBERS = np.full(3000, "member")


def test_a_copy_of_a_training_sequence_never_lies_in_the_test_split():
    """All rows of a cluster are on one side, members with members."""
    cluster_R = np.random.default_rng(0).integers(0, 400, 3000)
    split_R = assign_splits(cluster_R, MEMBERS, seed=3)
    for cluster in np.unique(cluster_R):
        assert len(set(split_R[cluster_R == cluster])) == 1


def test_shares_are_60_20_20_in_expectation():
    """Counts of 20,000 clusters lie within five standard deviations of the binomial's."""
    split_R = assign_splits(np.arange(20_000), np.full(20_000, "member"), seed=0)
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs((split_R == name).sum() - share * 20_000) < 5 * np.sqrt(20_000 * share * (1 - share))


def test_controls_are_never_trained_on_and_copied_ones_are_no_control():
    """A held-out window that members hold too is set apart."""
    group_R = np.array(["member"] * 50 + ["control"] * 50)
    cluster_R = np.concatenate([np.arange(50), np.arange(40, 90)])
    split_R = assign_splits(cluster_R, group_R, seed=0)
    assert set(split_R[50:60]) == {"copied"}
    assert set(split_R[60:]) == {"control"}
    assert set(split_R[:50]) <= {"train", "validation", "test"}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_does_not_follow_the_draw_of_the_sample(seed):
    """Of a stratum that was sampled to a half with the same seed, a fifth is in the test split, as of any other.

    Were both decided by one stream of numbers, the sample would keep the smallest and the test would get none.
    """
    table = pa.table(
        {
            "sequence_id": pa.array(np.arange(4000)),
            "offset": pa.array(np.zeros(4000, np.int64)),
            "context": pa.array(np.full(4000, 8, np.int32)),
            "num_repeats": pa.nulls(4000, pa.int32()),
            "matched": pa.array([b"\x00"] * 4000, pa.binary(1)),
        }
    )
    grid = Grid(contexts=(8,), continuations=(8,))
    sample = draw_sample([table], context=8, grid=grid, continuation=8, per_stratum=2000, seed=seed)
    split_R = assign_splits(sample.sequence_id, np.full(2000, "member"), seed=seed)
    assert abs((split_R == "test").sum() - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_rows_that_share_their_context_are_on_one_side():
    """Boilerplate with different tails: two windows that differ behind the context alone share a cluster."""
    tokens = np.random.default_rng(0).integers(0, 50, (6, 12))
    tokens[3:, :8] = tokens[:3, :8]  # rows 3 to 5 repeat the contexts of rows 0 to 2
    num_rows, window, k = 6, 12, 8
    traces = pa.table(
        {
            "sequence_id": np.arange(num_rows),
            "group": pa.array(["member"] * num_rows).dictionary_encode(),
            "offset": np.zeros(num_rows, np.int64),
            "context": np.full(num_rows, k, np.int32),
            "num_matched": np.zeros(num_rows, np.int32),
            "design_weight": np.ones(num_rows),
            **{
                name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), window)
                for name, values in {
                    "true_token": tokens.astype(np.int32),
                    "generated_token": tokens.astype(np.int32),
                    "rank": np.zeros((num_rows, window), np.int32),
                    **{
                        name: np.zeros((num_rows, window), np.float32)
                        for name in ("entropy", "log_probability", "margin")
                    },
                }.items()
            },
        }
    )
    counts = traces.select(["sequence_id", "group", "offset"]).append_column("cluster", pa.array(np.arange(num_rows)))
    states = np.zeros((num_rows, window - 1, 4), np.float16)
    examples = build_examples(traces, states, counts, model="tiny")
    assert examples.cluster[:3].tolist() == examples.cluster[3:].tolist()
    assert len(set(examples.cluster.tolist())) == 3
