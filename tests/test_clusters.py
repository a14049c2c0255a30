"""Clusters of duplicates from the scores' hashes, and what they do to every count and interval."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.analyses.clusters import clusters_of_scores, sequence_clusters
from mnemoscope.errors import ConfigError


def scores_table(sequences, contexts=(2, 4)):
    """The columns of `scores` that clusters are read from: rows of (group, sequence_id, hash)."""
    rows = [(*sequence, context) for sequence in sequences for context in contexts]
    return pa.table(
        {
            "sequence_id": pa.array([row[1] for row in rows], pa.int64()),
            "group": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
            "context": pa.array([row[3] for row in rows], pa.int32()),
            "window_hash": pa.array([row[2] for row in rows], pa.int64()),
        }
    )


HASHES = st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1])
SEQUENCES = st.lists(st.tuples(st.sampled_from(["member", "control"]), st.integers(0, 99), HASHES), max_size=12).map(
    lambda rows: list({row[:2]: row for row in rows}.values())
)


@settings(max_examples=80, deadline=None)
@given(SEQUENCES, st.integers(0, 12))
def test_clusters_are_the_naive_loops(sequences, cut):
    """In any order and cut into tables: a cluster is named by the smallest id of its group with the hash."""
    found = clusters_of_scores([scores_table(sequences[:cut]), scores_table(sequences[cut:])], context=4)
    assert set(found) == {group for group, _, _ in sequences}
    for group, clusters in found.items():
        own = sorted((row, hashed) for name, row, hashed in sequences if name == group)
        mates = {row: [other for other, same in own if same == hashed] for row, hashed in own}
        assert clusters.sequence_ids.tolist() == [row for row, _ in own]
        assert clusters.clusters.tolist() == [min(mates[row]) for row, _ in own]
        assert clusters.leads.tolist() == [min(mates[row]) == row for row, _ in own]
        assert clusters.alone.tolist() == [len(mates[row]) == 1 for row, _ in own]


def test_clusters_take_few_bytes():
    """What is kept of a sequence is two numbers of 8 bytes and two flags of one: 18 bytes."""
    found = sequence_clusters(np.arange(1000), np.arange(1000) // 2)
    arrays = (found.sequence_ids, found.clusters, found.leads, found.alone)
    assert sum(array.nbytes for array in arrays) == 18 * 1000


def test_clusters_need_a_key_for_each_sequence():
    """Another number of keys than of sequences is refused with both."""
    with pytest.raises(ConfigError, match=r"shapes \(2,\) and \(1,\); expected one key for each"):
        sequence_clusters(np.array([0, 1]), np.array([0]))
