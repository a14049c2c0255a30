"""Two runs read side by side: joint counts against a naive loop, refusals, and intervals by cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from mnemoscope.analyses import pairs
from mnemoscope.analyses.cluster_shares import BY_CLUSTER, resample
from mnemoscope.analyses.pairs import (
    PairedCell,
    check_comparable,
    context_cells,
    continuation_cells,
    count_pairs,
    same_cells,
    sequence_clusters,
)
from mnemoscope.analyses.transitions import PairedRun, RunPair, transitions
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.identity import GroupIdentity, ModelIdentity, RunIdentity
from mnemoscope.resampling import draw_multiplicities, percentile_interval

GRID = Grid(contexts=(2, 4), continuations=(3, 10))


def run(label, size=10, *, source=None, step=None):
    return PairedRun(label=label, source=source or label, num_non_embedding_parameters=size, training_step=step)


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def scores_table(sequences, grid=GRID, *, repeats=True, ids=None):
    """A `scores` table: per sequence a group, copies, and the bits of each context."""
    n = grid.max_continuation
    rows = [
        (index, group, copies, context, np.array(bits[place]))
        for index, (group, copies, *bits) in enumerate(sequences)
        for place, context in enumerate(grid.contexts)
    ]
    packed = [np.packbits(row[4]).tobytes() for row in rows]
    ids = range(len(sequences)) if ids is None else ids
    return pa.table(
        {
            "sequence_id": pa.array([ids[row[0]] for row in rows], pa.int64()),
            "group": pa.array([row[1] for row in rows], pa.string()).dictionary_encode(),
            "context": pa.array([row[3] for row in rows], pa.int32()),
            "offset": pa.array([0] * len(rows), pa.int64()),
            "num_repeats": pa.array([row[2] if repeats else None for row in rows], pa.int32()),
            "matched": pa.array(packed, pa.binary(-(-n // 8))),
        }
    )


BITS = st.lists(st.booleans(), min_size=10, max_size=10)
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["member", "control"]), st.integers(1, 4), BITS, BITS, BITS, BITS),
    max_size=9,
)


def cut(table, *places):
    """The table in pieces, each of whole sequences."""
    ends = [0, *sorted(2 * place for place in places), table.num_rows]
    return [table.slice(start, max(stop - start, 0)) for start, stop in pairwise(ends)]


def naive(sequences, cells, weigh):
    counts = Counter()
    for group, copies, *rest in sequences:
        for cell in cells:
            one, other = rest[:2], rest[2:4]
            a = sum(one[GRID.contexts.index(cell.context_from)][: cell.continuation_from])
            b = sum(other[GRID.contexts.index(cell.context_to)][: cell.continuation_to])
            counts[group, cell, a, b] += copies if weigh else 1
    return counts


def flattened(counts, name):
    return Counter(
        {
            (group, cell, *place): int(getattr(tally, name)[tuple(place)])
            for (group, cell), tally in counts.strata.items()
            for place in np.argwhere(getattr(tally, name)).tolist()
        }
    )


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, st.integers(0, 9), st.integers(0, 9))
def test_joint_counts_are_the_naive_loops(sequences, cut_one, cut_other):
    """However each run is cut into tables, joint counts are a loop's; counts of parts add up to the whole's."""
    cells = [*same_cells(GRID), *context_cells(GRID), *continuation_cells(GRID)]
    one = scores_table([row[:4] for row in sequences])
    other = scores_table([(*row[:2], *row[4:6]) for row in sequences])
    cut_one, cut_other = min(cut_one, len(sequences)), min(cut_other, len(sequences))
    counts = count_pairs(cut(one, cut_one), cut(other, cut_other), grid=GRID, cells=cells)
    assert flattened(counts, "rows") == naive(sequences, cells, False)
    assert flattened(counts, "copies") == naive(sequences, cells, True)
    parts = [
        count_pairs([a], [b], grid=GRID, cells=cells)
        for a, b in zip(cut(one, cut_one), cut(other, cut_one), strict=True)
    ]
    for total in (parts[0] + parts[1], parts[1] + parts[0]):
        assert flattened(total, "rows") == flattened(counts, "rows")
        assert list(total.strata) == list(counts.strata)


def test_rows_read_few_at_a_time_count_alike(monkeypatch):
    """Pieces of one sequence count as the whole does, for contexts against one another too."""
    rng = np.random.default_rng(1)
    rows = [("member", 1, *(rng.random((2, 10)) < 0.7)) for _ in range(9)]
    table, cells = scores_table(rows), context_cells(GRID)
    whole = count_pairs([table], [table], grid=GRID, cells=cells)
    monkeypatch.setattr(pairs, "ROWS_AT_ONCE", 3)
    assert flattened(count_pairs([table], [table], grid=GRID, cells=cells), "rows") == flattened(whole, "rows")


def test_other_sequences_are_refused():
    """Another id, offset, grid or length is a StoreError that names the row; so is a cell outside the grid refused."""
    rows = [("member", 1, [True] * 10, [False] * 10)] * 3
    table, cells = scores_table(rows), same_cells(GRID)

    def count(other, **settings):
        return count_pairs([table], [other], **{"grid": GRID, "cells": cells, **settings})

    with pytest.raises(StoreError, match="row 2: sequence_id 1 in the first run, 7 in the second; expected two runs"):
        count(scores_table(rows, ids=[0, 7, 2]))
    moved = table.set_column(3, "offset", pa.array([0, 0, 0, 0, 5, 5], pa.int64()))
    with pytest.raises(StoreError, match="row 4: offset 0 in the first run, 5 in the second"):
        count(moved)
    with pytest.raises(StoreError, match="the first run has more rows"):
        count(table.slice(0, 4))
    with pytest.raises(StoreError, match=r"row 0: not in the order of the contexts \[4, 6\]"):
        count(table, grid=Grid(contexts=(4, 6), continuations=(3, 10)), cells=[])
    with pytest.raises(ConfigError, match="outside the grid"):
        count(table, cells=[PairedCell(2, 3, 2, 5)])
    bare = table.set_column(5, "matched", pa.nulls(6, pa.binary(2)))
    with pytest.raises(StoreError, match="no match bits"):
        count(bare)


def identity(**changes):
    model = ModelIdentity(
        architecture="GPTNeoX",
        num_parameters=10,
        num_non_embedding_parameters=5,
        vocab_size=8,
        max_positions=None,
        weights_sha256="w",
        config_sha256="c",
        commit=None,
        dtype="float32",
        device="cpu",
        attention="sdpa",
    )
    group = GroupIdentity(corpus="abc", selection="s", num_sequences=3, offset=0, seed=None, short_rows="error")
    facts = {"groups": {"member": group}, "contexts": (2, 4), "continuations": (3, 10), "mode": "graded"}
    rest = {"model": model, "batch_size": 1, "shard_rows": 4, "versions": {}}
    return RunIdentity(**{**facts, **rest, **changes})


def test_runs_over_other_texts_or_grids_are_refused_with_the_reason():
    """Another corpus or grid is told by name; other shards, batches and weights may be compared."""
    one = identity()
    check_comparable(one, identity(shard_rows=9, batch_size=3, model=replace(one.model, dtype="bfloat16")))
    other = {"member": replace(one.groups["member"], corpus="xyz")}
    with pytest.raises(ConfigError, match=r"groups\.member\.corpus: abc there, xyz here"):
        check_comparable(one, identity(groups=other))
    with pytest.raises(ConfigError, match="contexts: 2,4 there, 2 here"):
        check_comparable(one, identity(contexts=(2,)))
    with pytest.raises(ConfigError, match="mode 'exact'"):
        check_comparable(identity(mode="exact"), identity(mode="exact"))


def clustered(num_clusters, size, *, seed=0):
    """Sequences in clusters of this size whose rows agree, one bit long; and the table's clusters."""
    rng = np.random.default_rng(seed)
    grid = Grid(contexts=(2,), continuations=(1,))
    one, other = rng.random((2, num_clusters)) < np.array([[0.5], [0.4]])
    cluster = np.repeat(np.arange(num_clusters), size)
    tables = [scores_table([("member", 2, [[bit]][0]) for bit in bits[cluster]], grid) for bits in (one, other)]
    clusters = {"member": sequence_clusters(np.arange(len(cluster)), cluster)}
    return count_pairs([tables[0]], [tables[1]], grid=grid, cells=same_cells(grid), clusters=clusters), cluster


def test_duplicates_widen_the_intervals():
    """Four copies of 200 sequences: the interval is that of 200, twice as wide as 800 rows would claim."""
    runs = {"run_from": run("small"), "run_to": run("large", 40)}
    result = transitions([RunPair(relation="size", counts=clustered(200, 4)[0], **runs)])
    row = rows_of(result.prediction, measure="base rate")[0]
    low, high = proportion_confint(row["num_chosen"], row["num_sequences"], method="wilson")
    assert row["interval_method"] == BY_CLUSTER
    assert row["value_high"] - row["value_low"] == pytest.approx(2 * (high - low), rel=0.15)
    kept = rows_of(result.kept_gained_lost, fate="kept")[0]
    assert (kept["num_chosen"], kept["num_copies"]) == (4 * kept["num_unique"], 8 * kept["num_unique"])
    assert rows_of(result.tests, test="McNemar")[0]["unit"] == "unique sequences"


def test_resampling_profiles_is_resampling_clusters():
    """The interval by profiles is that of drawing the clusters one by one, up to the noise of 4,000 resamples."""
    counts, cluster = clustered(60, 3)
    tally = next(iter(counts.strata.values()))
    drawn = resample(tally, num_resamples=4000, seed=1).drawn
    ends = np.quantile(drawn[:, :, -1].sum(axis=1) / drawn.sum(axis=(1, 2)), [0.025, 0.975])
    after = np.random.default_rng(0).random((2, 60))[1][cluster] < 0.4
    weights_BR = draw_multiplicities(cluster, num_resamples=4000, seed=2)
    expected = percentile_interval(weights_BR @ after / weights_BR.sum(axis=1))
    assert ends == pytest.approx(expected, abs=0.01)


def test_resamples_have_the_mean_of_the_rows():
    """Over 4,000 resamples every pair of classes stands as often as in the rows, within four standard errors."""
    tally = next(iter(clustered(60, 3)[0].strata.values()))
    found = resample(tally, num_resamples=4000, seed=3)
    error = found.drawn.std(axis=0) / 4000**0.5
    assert (abs(found.drawn.mean(axis=0) - found.rows) <= 4 * error).all()
    assert found.rows[0, -1] != found.rows[-1, 0]


def test_an_effective_n_is_never_more_than_there_are_rows():
    """Clusters of one row: the interval is Wilson's over rows within the bootstrap's noise, and never narrower."""
    runs = {"run_from": run("small"), "run_to": run("large", 40)}
    result = transitions([RunPair(relation="size", counts=clustered(300, 1)[0], **runs)], num_resamples=4000)
    for row in result.kept_gained_lost.to_pylist():
        low, high = proportion_confint(row["num_chosen"], row["num_sequences"], method="wilson")
        assert row["share_low"] <= low + 1e-12
        assert row["share_high"] >= high - 1e-12
        assert (row["share_low"], row["share_high"]) == pytest.approx((low, high), abs=0.004)


def test_a_share_of_none_has_an_upper_bound_by_cluster():
    """Where no resample can differ the interval is Wilson's over the clusters, not over their rows."""
    counts, _ = clustered(50, 3)
    runs = {"run_from": run("small"), "run_to": run("large", 40)}
    levels = transitions([RunPair(relation="size", counts=counts, **runs)]).levels
    empty = rows_of(levels, level_from="very low", level_to="medium")[0]
    num_clusters = empty["num_from"] // 3
    ends = proportion_confint(0, num_clusters, method="wilson")
    assert (empty["share_low"], empty["share_high"]) == pytest.approx(ends)


def test_a_sequence_without_a_cluster_is_refused():
    """Clusters must name every scored sequence of every group."""
    table = scores_table([("member", 1, [True] * 10, [True] * 10)] * 2)
    for clusters, message in (
        ({"member": sequence_clusters(np.array([0, 5]), np.array([0, 0]))}, "no cluster for sequence 1"),
        ({}, "none for group 'member'"),
    ):
        with pytest.raises(ConfigError, match=message):
            count_pairs([table], [table], grid=GRID, cells=same_cells(GRID), clusters=clusters)
    with pytest.raises(ConfigError, match="expected one cluster for each"):
        sequence_clusters(np.array([0, 1]), np.array([0]))
