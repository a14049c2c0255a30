"""Clusters of duplicates from the scores' hashes, and what they do to every count and interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from mnemoscope.analyses.cluster_shares import BY_CLUSTER, BY_ROW, count_classes, share_intervals
from mnemoscope.analyses.clusters import clusters_of_scores, sequence_clusters
from mnemoscope.analyses.factors import ModelCounts, factors
from mnemoscope.analyses.matches import count_matches
from mnemoscope.analyses.paired_strata import PAIR
from mnemoscope.config import Grid, ModelConfig
from mnemoscope.errors import ConfigError
from mnemoscope.findings import analyze
from mnemoscope.run import run_study
from studies import make_study, save_model


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


GRID = Grid(contexts=(2,), continuations=(2, 4))


def match_table(rows):
    """The columns of `scores` that counts are made from, one context: (group, sequence_id, num_repeats, bits)."""
    bits = np.array([row[3] for row in rows], bool).reshape(-1, 4)
    margins = pa.array([[0.0, 1.0]] * len(rows), pa.list_(pa.float32(), 2))
    return pa.table(
        {
            "sequence_id": pa.array([row[1] for row in rows], pa.int64()),
            "group": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
            "context": pa.array([2] * len(rows), pa.int32()),
            "num_repeats": pa.array([row[2] for row in rows], pa.int32()),
            "first_mismatch": pa.array([int(np.argmin([*row, False])) for row in bits], pa.int32()),
            "matched": pa.array([np.packbits(row).tobytes() for row in bits], pa.binary(1)),
            "smallest_margin": margins,
        }
    )


HIT, MISS = [True] * 4, [True, False, True, False]


def planted(group="member", *, first_id=0, num_repeats=None):
    """60 sequences of their own, 6 memorized, and 10 clusters of 4, 3 memorized; rows and clusters."""
    keys = [*range(60), *(60 + i // 4 for i in range(40))]
    rows = [
        (group, first_id + i, num_repeats, HIT if key in (*range(6), 60, 61, 62) else MISS)
        for i, key in enumerate(keys)
    ]
    return rows, sequence_clusters(np.arange(100) + first_id, np.array(keys))


def model_of(counts):
    sizes = {"num_parameters": 20, "num_non_embedding_parameters": 10}
    return {"tiny": ModelCounts(label="tiny", source="tiny", counts=counts, **sizes)}


def factors_of(rows, clusters, **settings):
    return factors(model_of(count_matches([match_table(rows)], GRID, "graded", clusters=clusters, **settings)))


def longest(table, **wanted):
    rows = [row for row in table.to_pylist() if row["continuation"] == 4]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def ends_of(row):
    return row["share_low"], row["share_high"]


def test_planted_duplicates_by_hand():
    """18 of 100 rows and 9 of 70 unique are memorized; the interval is Wilson's at the n that the clusters allow.

    With R = 0.18 the clusters' squared residuals are 6 x 0.82^2 + 54 x 0.18^2 + 3 x 3.28^2 + 7 x 0.72^2 = 41.688, and
    0.18 x 0.82 x 100^2 / 41.688 = 35.4 independent rows would vary as much.
    """
    rows, clusters = planted()
    [row] = longest(factors_of(rows, {"member": clusters}).memorized)
    counts = [row[name] for name in ("num_memorized", "num_sequences", "num_unique_memorized", "num_unique")]
    assert counts == [18, 100, 9, 70]
    effective = 0.18 * 0.82 * 100**2 / 41.688
    assert ends_of(row) == pytest.approx(proportion_confint(0.18 * effective, effective, method="wilson"))
    assert row["interval_method"] == BY_CLUSTER
    assert row["share_high"] - row["share_low"] > 1.5 * np.subtract(*proportion_confint(18, 100, method="wilson")[::-1])


def test_every_table_counts_unique_sequences():
    """Of the rows with num_matched 2, first mismatch 1, and in bin 0.5, 82 in all, 61 are unique; 9 memorized are."""
    rows, clusters = planted(num_repeats=3)
    result = factors_of(rows, {"member": clusters})
    for table, wanted in (
        (result.num_matched, {"num_matched": 2}),
        (result.first_mismatch, {"first_mismatch": 1}),
        (result.bins, {"bin_label": "[0.5, 0.6)"}),
    ):
        [row] = longest(table, **wanted)
        assert (row["num_chosen"], row["num_unique"], row["interval_method"]) == (82, 61, BY_CLUSTER)
        assert sum(row["num_unique"] for row in longest(table)) == 70
    [memorized] = longest(result.memorized)
    for table in (result.repeats, result.repeat_classes):
        [row] = longest(table)
        assert (row["num_unique"], row["num_unique_memorized"], ends_of(row)) == (70, 9, ends_of(memorized))
    assert "recites 18 of 100 member sequences (9 of 70 unique), " in result.finding.sentence


def test_without_duplicates_intervals_are_wilsons():
    """Each sequence its own cluster: Wilson over rows to the last bit, and as many unique sequences as rows."""
    rows, _ = planted()
    alone = {"member": sequence_clusters(np.arange(100), np.arange(100) + 7)}
    known, unknown = factors_of(rows, alone), factors_of(rows, None)
    for name in ("memorized", "bins", "num_matched", "first_mismatch"):
        for one, other in zip(known.tables[name].to_pylist(), unknown.tables[name].to_pylist(), strict=True):
            assert (ends_of(one), one["interval_method"]) == (ends_of(other), BY_ROW)
            assert other["num_unique"] is None
            assert one["num_unique"] == one.get("num_chosen", 100)


def test_excess_takes_the_intervals_of_both_sides():
    """Member minus control: Newcombe's step from the two intervals by cluster, as the memorized table has them."""
    rows, clusters = planted()
    others, other_clusters = planted("control", first_id=5)
    others = [(*row[:3], MISS if row[1] >= 65 else row[3]) for row in others]
    result = factors_of(rows + others, {"member": clusters, "control": other_clusters})
    member, control = longest(result.memorized)
    [row] = longest(result.excess)
    assert (row["num_control_memorized"], row["num_control_unique_memorized"]) == (6, 6)
    assert (row["num_unique"], row["num_control_unique"], row["interval_method"]) == (70, 70, BY_CLUSTER)
    assert row["excess"] == pytest.approx(0.12)
    low = 0.12 - np.hypot(0.18 - member["share_low"], control["share_high"] - 0.06)
    high = 0.12 + np.hypot(member["share_high"] - 0.18, 0.06 - control["share_low"])
    assert (row["excess_low"], row["excess_high"]) == pytest.approx((low, high))


def test_a_cluster_may_span_numbers_of_repeats():
    """Three rows alike, listed with 1, 4 and 1 copies: one cluster in either stratum, one in all, by its first row."""
    rows = [("member", 0, 1, HIT), ("member", 1, 4, MISS), ("member", 2, 1, MISS), ("member", 3, 4, MISS)]
    clusters = {"member": sequence_clusters(np.arange(4), np.array([9, 9, 9, 2]))}
    result = factors_of(rows, clusters)
    counted = [(r["num_repeats"], r["num_unique"], r["num_unique_memorized"]) for r in longest(result.repeats)]
    assert counted == [(1, 1, 1), (4, 2, 0)]
    [row] = longest(result.memorized)
    assert (row["num_sequences"], row["num_unique"], row["num_unique_memorized"]) == (4, 2, 1)


def test_counts_of_parts_have_the_same_clusters():
    """Rows of one cluster in two parts: merged in any order, every number is that of the whole."""
    rows, clusters = planted()
    order = np.random.default_rng(0).permutation(100)
    parts = [[rows[i] for i in order[:37]], [rows[i] for i in order[37:]]]
    one, other = (count_matches([match_table(part)], GRID, "graded", clusters={"member": clusters}) for part in parts)
    whole = factors_of(rows, {"member": clusters})
    for total in (one + other, other + one):
        merged = factors(model_of(total))
        assert all(merged.tables[name].equals(table) for name, table in whole.tables.items())


def test_fragile_rows_bound_the_share():
    """All rows fragile at n = 2, none at n = 4: the share lies between 0 and 1 there, and is what it is here."""
    rows, _ = planted()
    short, long = factors_of(rows, None).memorized.to_pylist()
    assert (short["num_fragile"], short["share_if_flipped_low"], short["share_if_flipped_high"]) == (100, 0, 1)
    assert (long["num_fragile"], long["share_if_flipped_low"], long["share_if_flipped_high"]) == (0, 0.18, 0.18)
    some = factors_of(rows, None, fragile_margin_logits=0.0).memorized.to_pylist()
    assert {row["share_if_flipped_high"] for row in some} == {0.18}


def test_intervals_cover_what_clusters_are_drawn_from():
    """Of 600 draws of 60 clusters of 1, 2 or 8 alike rows, some 95 % cover the share; Wilson over rows far fewer."""
    rng = np.random.default_rng(8)
    covered = np.zeros(2)
    for _ in range(600):
        sizes = rng.choice([1, 2, 8], 60)
        memorized = np.repeat(rng.random(60) < 0.3, sizes)
        cluster = np.repeat(np.arange(60), sizes)
        rows = np.array([(~memorized).sum(), memorized.sum()])
        first = np.unique(cluster, return_index=True)[1]
        unique = np.bincount(memorized[first], minlength=2)
        shared = np.repeat(sizes, sizes) > 1
        counts = count_classes(rows, unique, cluster[shared], memorized[shared].astype(np.int64))
        top, all_rows = np.array([[0], [1]]), np.array([[1], [1]])
        for place, known in enumerate((counts, counts._replace(products=None))):
            low, high, _ = share_intervals(known, top, all_rows, 0.95)
            covered[place] += low[0] <= 0.3 <= high[0]
    assert 0.92 <= covered[0] / 600 <= 0.98
    assert covered[1] / 600 < 0.8


@pytest.mark.filterwarnings("ignore")
def test_a_study_with_duplicate_rows_tells_unique_sequences(tmp_path):
    """Ten rows of which three stand twice, scored by two models: 10 sequences, 7 unique, in factors and transitions."""
    config = make_study(tmp_path, num_rows=10)
    rows = np.load(tmp_path / "member.npy")
    rows[7:] = rows[:3]
    np.save(tmp_path / "member.npy", rows)
    models = tuple(
        ModelConfig(source=str(save_model(tmp_path / name, seed=seed)), device="cpu")
        for seed, name in enumerate(("one", "two"))
    )
    results = analyze(run_study(replace(config, models=models), tmp_path / "out"))
    for row in results["factors"].tables["memorized"].to_pylist():
        assert (row["num_sequences"], row["num_unique"], row["interval_method"]) == (10, 7, BY_CLUSTER)
    tables = results["transitions"].tables
    for relation in ("size", "context", "continuation"):
        chosen = [row for row in tables["levels"].to_pylist() if row["relation"] == relation]
        cells = {tuple(row[name] for name in PAIR) for row in chosen}
        assert sum(row["num_chosen"] for row in chosen) == 10 * len(cells)
        assert sum(row["num_unique"] for row in chosen) == 7 * len(cells)
        assert {row["interval_method"] for row in chosen} == {BY_CLUSTER}
    sides = {(row["model_from"], row["model_to"]) for row in tables["levels"].to_pylist() if row["relation"] != "size"}
    assert sides == {("one", "one"), ("two", "two")}
    assert {row["unit"] for row in tables["tests"].to_pylist()} == {"unique sequences"}
