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

from mnemoscope.analyses import side_by_side
from mnemoscope.analyses.cluster_shares import BY_CLUSTER, BY_ROW, count_classes
from mnemoscope.analyses.clusters import sequence_clusters
from mnemoscope.analyses.pairs import (
    PairedCell,
    check_comparable,
    context_cells,
    continuation_cells,
    count_pairs,
    same_cells,
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
    monkeypatch.setattr(side_by_side, "ROWS_AT_ONCE", 3)
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
    """Four copies of 200 sequences: the interval is Wilson's of 200, twice as wide as 800 rows would claim."""
    runs = {"run_from": run("small"), "run_to": run("large", 40)}
    result = transitions([RunPair(relation="size", counts=clustered(200, 4)[0], **runs)])
    row = rows_of(result.prediction, measure="base rate")[0]
    ends = proportion_confint(row["num_chosen"] / 4, 200, method="wilson")
    assert row["interval_method"] == BY_CLUSTER
    assert (row["value_low"], row["value_high"]) == pytest.approx(ends)
    kept = rows_of(result.kept_gained_lost, fate="kept")[0]
    assert (kept["num_chosen"], kept["num_copies"]) == (4 * kept["num_unique"], 8 * kept["num_unique"])
    assert rows_of(result.tests, test="McNemar")[0]["unit"] == "unique sequences"


def test_interval_by_cluster_is_that_of_resampling_clusters():
    """Clusters of 1 to 4 rows that differ: the interval's width is that of drawing clusters one by one, within 5 %."""
    rng = np.random.default_rng(5)
    cluster = np.repeat(np.arange(300), rng.integers(1, 5, 300))
    often = rng.random(300)[cluster]
    one, other = rng.random((2, len(cluster))) < often
    grid = Grid(contexts=(2,), continuations=(1,))
    tables = [scores_table([("member", 2, [bit]) for bit in bits], grid) for bits in (one, other)]
    clusters = {"member": sequence_clusters(np.arange(len(cluster)), cluster)}
    counts = count_pairs([tables[0]], [tables[1]], grid=grid, cells=same_cells(grid), clusters=clusters)
    result = transitions([RunPair(relation="size", counts=counts, run_from=run("small"), run_to=run("large", 40))])
    weights_BR = draw_multiplicities(cluster, num_resamples=4000, seed=2)
    for name, top, bottom in (("precision", one & other, one), ("recall", one & other, other), ("base rate", other, 1)):
        row = rows_of(result.prediction, measure=name)[0]
        low, high = percentile_interval((weights_BR @ top) / (weights_BR @ (bottom * np.ones(len(cluster)))))
        assert row["value"] == pytest.approx((top.sum()) / (bottom * np.ones(len(cluster))).sum())
        assert row["value_high"] - row["value_low"] == pytest.approx(high - low, rel=0.05)
        wilson = proportion_confint(row["num_chosen"], row["num_sequences"], method="wilson")
        assert row["value_high"] - row["value_low"] > 1.05 * (wilson[1] - wilson[0])


def test_how_classes_meet_in_clusters_is_a_loop_over_them():
    """The matrix behind the variance is the sum of outer products over clusters, single rows included."""
    rng = np.random.default_rng(6)
    cluster, code = rng.integers(0, 40, 60), rng.integers(0, 5, 60)
    expected = np.zeros((5, 5), np.int64)
    for name in np.unique(cluster):
        held = np.bincount(code[cluster == name], minlength=5)
        expected += np.outer(held, held)
    shared = np.isin(cluster, np.flatnonzero(np.bincount(cluster) > 1))
    rows = np.bincount(code, minlength=5)
    found = count_classes(rows, np.zeros(5, np.int64), cluster[shared], code[shared])
    assert (found.products == expected).all()
    assert count_classes(rows, None, cluster, code).products is None


def test_without_duplicates_intervals_are_wilsons():
    """Clusters of one row: each share has Wilson's interval over rows, and says so."""
    runs = {"run_from": run("small"), "run_to": run("large", 40)}
    result = transitions([RunPair(relation="size", counts=clustered(300, 1)[0], **runs)])
    for row in result.kept_gained_lost.to_pylist():
        ends = proportion_confint(row["num_chosen"], row["num_sequences"], method="wilson")
        assert (row["share_low"], row["share_high"]) == pytest.approx(ends)
        assert (row["num_unique"], row["interval_method"]) == (row["num_chosen"], BY_ROW)


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
    with pytest.raises(ConfigError, match="expected one key for each"):
        sequence_clusters(np.array([0, 1]), np.array([0]))
