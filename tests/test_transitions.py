"""Perspective 2: joint counts against a naive loop, statistics against statsmodels, the published matrices."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables
from statsmodels.stats.proportion import proportion_confint

from mnemoscope.analyses import agreement, pairs
from mnemoscope.analyses.agreement import LEVELS, class_of_scores, level_of_scores
from mnemoscope.analyses.cluster_shares import BY_CLUSTER, BY_ROW, resample
from mnemoscope.analyses.pairs import (
    PairCounts,
    PairedCell,
    PairStratum,
    PairTally,
    check_comparable,
    context_cells,
    continuation_cells,
    count_pairs,
    same_cells,
    sequence_clusters,
)
from mnemoscope.analyses.transition_columns import PAIR_COLUMNS
from mnemoscope.analyses.transitions import PairedRun, RunPair, plan_pairs, transitions
from mnemoscope.config import Grid
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.identity import GroupIdentity, ModelIdentity, RunIdentity
from mnemoscope.report.transition_figures import transition_specs
from mnemoscope.resampling import draw_multiplicities, percentile_interval

GRID = Grid(contexts=(2, 4), continuations=(3, 10))
CELL = PairedCell(32, 5, 32, 5)
REFERENCE = Path(
    os.environ.get("MNEMOSCOPE_TEST_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
)
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "paper_reference.json").is_file(),
    reason=f"the published matrices are not at {REFERENCE} (set MNEMOSCOPE_TEST_REFERENCE)",
)
TABLES = st.lists(st.integers(0, 30), min_size=25, max_size=25).map(lambda c: np.array(c, np.int64).reshape(5, 5))


def run(label, size=10, *, source=None, step=None):
    return PairedRun(label=label, source=source or label, num_non_embedding_parameters=size, training_step=step)


def pair(scores, *, relation="size", names=("small", "large"), group="member", cell=CELL, sizes=(10, 40)):
    """Two runs with one stratum of these joint counts of num_matched."""
    tally = PairTally(rows=np.asarray(scores, np.int64), copies=None, unique=None, duplicates=None)
    one, other = (run(name, size) for name, size in zip(names, sizes, strict=True))
    counts = PairCounts({PairStratum(group, cell): tally})
    return RunPair(relation=relation, run_from=one, run_to=other, counts=counts)


def scores_of(levels):
    """Joint counts at n = 5 whose levels these are: num_matched 1 to 5 are the five levels."""
    scores = np.zeros((6, 6), np.int64)
    scores[1:, 1:] = levels
    return scores


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def matrix(table, column, **wanted):
    """A column of a table of levels as a 5 x 5 array."""
    rows = rows_of(table, **wanted)
    cells = {(LEVELS.index(row["level_from"]), LEVELS.index(row["level_to"])): row[column] for row in rows}
    return np.array([[cells[i, j] for j in range(5)] for i in range(5)], float)


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
    st.tuples(st.sampled_from(["member", "control"]), st.integers(1, 4), BITS, BITS, BITS, BITS, st.integers(0, 3)),
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


def test_levels_end_where_the_paper_says():
    """Levels are [0, .2], (.2, .4], (.4, .6], (.6, .8], (.8, 1], in exact fractions; full matches are a class."""
    for n in (1, 2, 5, 7, 10, 16, 33, 64):
        levels = level_of_scores(n)
        assert levels.tolist() == [max(math.ceil(Fraction(5 * m, n)) - 1, 0) for m in range(n + 1)]
        assert class_of_scores(n).tolist() == [*levels.tolist()[:-1], 5]
    assert level_of_scores(10).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_bowker_is_statsmodels(counts):
    """Bowker's statistic, degrees of freedom and p-value are statsmodels', where no pair of cells is empty."""
    counts = counts + 1
    expected = contingency_tables.SquareTable(counts, shift_zeros=False).symmetry()
    found = agreement.bowker(counts)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.degrees_of_freedom == expected.df == 10


def test_empty_pairs_of_cells_have_no_degree_of_freedom():
    """By hand: 6 against 2 moved, nothing else: (6 - 2)^2 / 8 = 2 on one degree of freedom; none moved, no p-value."""
    counts = np.diag([5, 5, 5]) + np.array([[0, 6, 0], [2, 0, 0], [0, 0, 0]])
    assert agreement.bowker(counts) == pytest.approx((2.0, 1, float(stats.chi2.sf(2, 1))))
    assert agreement.bowker(np.diag([5, 5])) == (0.0, 0, None)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels_less_half_the_atom_twice(lost, gained):
    """The mid-p-value is statsmodels' exact p-value less the probability of the very count seen; 1 for equal counts."""
    found = agreement.mcnemar(lost, gained)
    if lost + gained == 0:
        assert found.p_value is None
        return
    exact = contingency_tables.mcnemar([[5, lost], [gained, 7]], exact=True)
    atom = stats.binom.pmf(min(lost, gained), lost + gained, 0.5)
    assert found.statistic == exact.statistic
    assert found.p_value == pytest.approx(1.0 if lost == gained else exact.pvalue - atom)


@pytest.mark.parametrize("correlation", [-0.7, 0.0, 0.3, 0.9, 0.99])
def test_binormal_distribution_is_scipys(correlation):
    """P(X <= h, Y <= k) is scipy's bivariate normal distribution to 1e-6, scipy's own precision."""
    h, k = np.array([-2.0, 0.0, 1.3]), np.array([-1.0, 0.4, 3.0])
    normal = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]])
    expected = [[normal.cdf([a, b]) for b in k] for a in h]
    assert agreement.binormal_below(h, k, correlation) == pytest.approx(np.array(expected), abs=1e-6)


def test_regression_finds_the_correlation_it_was_given():
    """Counts made by cutting two normals of correlation 0.8 are given back, with their margins and correlation."""
    inner = np.array([-1.0, 0.0, 0.5, 1.5])
    edges = np.concatenate([[-8.5], inner, [8.5]])
    shares = np.diff(np.diff(agreement.binormal_below(edges, edges + 0.2 * (abs(edges) < 8), 0.8), axis=0), axis=1)
    counts = np.rint(shares * 1e6).astype(np.int64)
    found = agreement.regressed(counts)
    assert found.correlation == pytest.approx(0.8, abs=1e-3)
    assert found.expected == pytest.approx(counts, rel=0.02, abs=20)


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_nulls_keep_what_they_say(counts):
    """Regression and independence keep both margins, symmetry the diagonal and the sum; all keep the total."""
    counts[0, 0] += 1
    regression, product = agreement.regressed(counts), agreement.independent(counts)
    for expected in (regression.expected, product):
        assert expected.sum(axis=0) == pytest.approx(counts.sum(axis=0), abs=1e-4 * counts.sum())
        assert expected.sum(axis=1) == pytest.approx(counts.sum(axis=1), abs=1e-4 * counts.sum())
    halves = agreement.symmetric(counts)
    assert (halves == halves.T).all()
    assert (np.diag(halves) == np.diag(counts)).all()
    assert halves.sum() == counts.sum()


def test_independence_is_the_mean_over_permutations():
    """The independent table is what shuffling the second run's sequences gives on average."""
    rng = np.random.default_rng(0)
    counts = np.array([[6, 1], [2, 3]])
    one, other = np.repeat([0, 0, 1, 1], counts.ravel()), np.repeat([0, 1, 0, 1], counts.ravel())
    shuffled = np.zeros((2, 2))
    for _ in range(4000):
        np.add.at(shuffled, (one, rng.permutation(other)), 1 / 4000)
    assert agreement.independent(counts) == pytest.approx(shuffled, abs=0.06)


@settings(max_examples=15, deadline=None)
@given(TABLES)
def test_transposition_swaps_forward_and_inverse(counts):
    """The large model against the small one has the same shares with forward and inverse exchanged."""
    there, back = (transitions([pair(scores_of(table))]).levels for table in (counts, counts.T))
    for one, other in (("share", "inverse_share"), ("share_low", "inverse_low"), ("num_from", "num_to")):
        assert matrix(there, one) == pytest.approx(matrix(back, other).T, nan_ok=True)
    rows = matrix(there, "share").sum(axis=1)
    assert rows == pytest.approx(np.where(counts.sum(axis=1) > 0, 1.0, np.nan), nan_ok=True)


def published(index):
    return json.loads((REFERENCE / "paper_reference.json").read_text())["transition_matrices"]["rows"][index]


def published_counts(index):
    """The joint level counts of a published matrix."""
    found = published(index)
    return np.rint(np.array(found["marginal_row"])[:, None] * np.array(found["matrix"])).astype(np.int64)


@needs_reference
@pytest.mark.parametrize("index", range(4))
def test_published_matrices_carry_one_models_counts_to_the_others(index):
    """Corrected published matrices make one model's published level counts the other's within 2 %; as labelled, not."""
    found = published(index)
    counts = np.array(found["marginal_row"])
    carried = agreement.carry(counts, np.array(found["matrix"]))
    assert carried == pytest.approx(np.array(found["marginal_column"]), rel=0.02)
    assert carried / found["marginal_column"] == pytest.approx(np.array(found["flow_ratio_corrected"]), abs=1e-3)
    wrong = agreement.carry(counts, np.array(found["as_labelled_in_png"]))
    assert abs(wrong / found["marginal_column"] - 1).max() > 1


@needs_reference
@pytest.mark.parametrize(("there", "back"), [(0, 3), (1, 2)])
def test_published_inverse_is_the_inverse_of_the_published(there, back):
    """P(smaller | larger) computed from the published forward matrix is the published inverse one within 0.015."""
    levels = transitions([pair(scores_of(published_counts(there)))]).levels
    assert matrix(levels, "share") == pytest.approx(np.array(published(there)["matrix"]), abs=0.002)
    inverse = matrix(levels, "inverse_share").T
    assert inverse == pytest.approx(np.array(published(back)["matrix"]), abs=0.015)


@needs_reference
def test_published_levels_persist_more_than_regression_to_the_mean_and_ever_more():
    """The published claim holds: diagonals dominate, grow, and exceed at the top what one correlation would keep."""
    names = (("410m", "2.8b"), ("2.8b", "12b"))
    result = transitions([pair(scores_of(published_counts(i)), names=names[i]) for i in (0, 1)])
    assert result.finding.verdict == "holds"
    figures = result.finding.figures
    assert (figures["dominance_num_dominant"], figures["dominance_num_levels"]) == (10, 10)
    assert (figures["growth_num_rising"], figures["growth_num_falling"]) == (5, 0)
    assert figures["very_high_share"] == pytest.approx(0.870, abs=0.002)
    assert figures["regression_share"] == pytest.approx(0.721, abs=0.005)
    fall = rows_of(result.regression, null="regression", model_to="12b", level_from="very high", level_to="very low")[0]
    assert (fall["share"], fall["expected_share"]) == pytest.approx((0.041, 0.004), abs=0.001)


def example():
    """40 memorized by both, 10 lost, 20 gained, 130 by neither; 3 of 200 at other levels."""
    scores = np.zeros((6, 6), np.int64)
    scores[5, 5], scores[5, 0], scores[0, 5], scores[0, 0], scores[3, 3] = 40, 10, 20, 127, 3
    return scores


def test_kept_gained_and_lost_by_hand():
    """Kept 40 and lost 10 of 50, gained 20 of 150, new 20 of 60, with statsmodels' Wilson intervals."""
    result = transitions([pair(example())])
    found = {row["fate"]: row for row in result.kept_gained_lost.to_pylist()}
    expected = {"kept": (40, 50), "lost": (10, 50), "gained": (20, 150), "new": (20, 60)}
    for name, (count, n) in expected.items():
        row = found[name]
        assert (row["num_chosen"], row["num_sequences"], row["share"]) == (count, n, count / n)
        ends = proportion_confint(count, n, method="wilson")
        assert (row["share_low"], row["share_high"]) == pytest.approx(ends)
        assert (row["interval_method"], row["num_unique"]) == (BY_ROW, None)


def test_prediction_by_hand():
    """Precision 40/50, recall 40/60, F1 80/110, base rate 60/200, lift (4/5) / (3/10)."""
    rows = {row["measure"]: row for row in transitions([pair(example())]).prediction.to_pylist()}
    values = {name: row["value"] for name, row in rows.items()}
    assert values == pytest.approx({"precision": 0.8, "recall": 2 / 3, "F1": 80 / 110, "base rate": 0.3})
    assert rows["precision"]["lift"] == pytest.approx(8 / 3)
    low, high = proportion_confint(40, 70, method="wilson")
    ends = rows["F1"]["value_low"], rows["F1"]["value_high"]
    assert ends == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))


def test_tests_are_holm_adjusted_within_their_name():
    """Two pairs: the smaller of each name's two p-values is doubled; fell and rose are counted."""
    other = example()
    other[0, 5] = 10
    result = transitions([pair(example()), pair(other, names=("large", "larger"), sizes=(40, 90))])
    mcnemar = rows_of(result.tests, test="McNemar")
    p_values = [row["p_symmetric"] for row in mcnemar]
    assert p_values == pytest.approx([agreement.mcnemar(10, 20).p_value, 1.0])
    assert [row["p_symmetric_holm"] for row in mcnemar] == pytest.approx([2 * p_values[0], 1.0])
    fell_and_rose = [(row["num_fell"], row["num_rose"]) for row in rows_of(result.tests, test="Bowker")]
    assert fell_and_rose == [(10, 20), (10, 10)]
    assert [(row["num_fell"], row["num_rose"], row["unit"]) for row in mcnemar] == [(10, 20, "rows"), (10, 10, "rows")]


def test_small_and_empty_strata_are_said_so():
    """Under 30 sequences at a level are flagged, none give no share and the interval [0, 1]; neither is counted."""
    result = transitions([pair(example())])
    medium = rows_of(result.levels, level_from="medium", level_to="medium")[0]
    assert (medium["share"], medium["num_from"], medium["small_stratum"]) == (1.0, 3, True)
    assert "not to be averaged" in medium["note"]
    low = rows_of(result.levels, level_from="low", level_to="low")[0]
    assert (low["share"], low["share_low"], low["share_high"], low["note"]) == (
        None,
        0,
        1,
        "no sequences at this level",
    )
    assert "in 2 of 2 levels between consecutive sizes (3 too small to say)" in result.finding.sentence
    assert result.finding.verdict == "undecided"


def test_continuations_of_one_run_are_not_tested_for_gains():
    """A longer full match contains the shorter one: McNemar has no p-value there, and says why."""
    counts = pair(example(), relation="continuation", names=("one", "one"), cell=PairedCell(32, 5, 32, 5))
    row = rows_of(transitions([counts]).tests, test="McNemar")[0]
    assert (row["p_symmetric"], row["p_symmetric_holm"]) == (None, None)
    assert "by construction" in row["note"]


def test_contexts_are_said_to_continue_other_tokens():
    """Between contexts the tokens to be continued differ too, and the test's row says so."""
    counts = pair(example(), relation="context", names=("one", "one"), cell=PairedCell(16, 5, 32, 5))
    row = rows_of(transitions([counts]).tests, test="McNemar")[0]
    assert row["p_symmetric"] == agreement.mcnemar(10, 20).p_value
    assert "other tokens" in row["note"]


def test_a_diagonal_that_is_surely_not_the_largest_fails():
    """Where most of a level leave it for another one, the finding fails and says in how many levels."""
    levels = np.diag([100, 100, 100, 100, 100])
    levels[2, 0] = 300
    finding = transitions([pair(scores_of(levels))]).finding
    assert finding.verdict == "fails"
    assert "in 1 another level is surely commoner" in finding.sentence


@pytest.mark.parametrize(("stay", "verdict"), [(400, "undecided"), (490, "holds"), (310, "fails")])
def test_the_verdict_follows_growth(stay, verdict):
    """From 400 of 500 that stay to 490 it holds, to 310 it fails, to 400 it cannot be said; diagonals lead in all."""
    steps = []
    for kept, names, sizes in ((400, ("a", "b"), (10, 40)), (stay, ("b", "c"), (40, 90))):
        levels = np.diag([kept] * 5) + np.roll(np.diag([500 - kept] * 5), 1, axis=1)
        steps.append(pair(scores_of(levels), names=names, sizes=sizes))
    finding = transitions(steps).finding
    assert finding.verdict == verdict
    assert finding.figures["growth_very_high"] == pytest.approx(stay / 500 - 0.8)
    assert "(x4.0) to the last (x2.2)" in finding.sentence


def test_a_twin_is_the_noise_floor():
    """Beside each pair of the run stand the shares that its twin alone changes: 2 of 100 levels, 1 of 100 memorized."""
    twin = np.zeros((6, 6), np.int64)
    twin[0, 0], twin[5, 5], twin[0, 1], twin[5, 4], twin[0, 2] = 57, 40, 1, 1, 1
    result = transitions([pair(example()), pair(twin, relation="twin", names=("large", "large-bf16"))])
    rows = {row["changed"]: row for row in rows_of(result.noise, relation="size")}
    found = {name: (row["num_chosen"], row["noise_share"], row["twin"]) for name, row in rows.items()}
    assert found == {"level": (30, 0.02, "large-bf16"), "memorized": (30, 0.01, "large-bf16")}
    top = rows_of(result.levels, relation="size", level_from="very high", level_to="very high")[0]
    assert top["noise_share"] == 40 / 41
    assert "its twin large-bf16 alone changes" in result.finding.sentence
    assert transitions([pair(example())]).noise.num_rows == 0


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


def test_pairs_are_planned_by_size_step_and_twin():
    """Final models by size, checkpoints in order and against their final one, two runs of one checkpoint as twins."""
    runs = [
        run("big", 90),
        run("mid@1", 40, source="mid", step=1),
        run("mid@2", 40, source="mid", step=2),
        run("mid", 40),
        run("small", 10),
        run("big-bf16", 90, source="big"),
    ]
    planned = [(relation, one.label, other.label) for relation, one, other in plan_pairs(runs)]
    assert planned == [
        ("size", "small", "mid"),
        ("size", "mid", "big"),
        ("step", "mid@1", "mid@2"),
        ("step", "mid@2", "mid"),
        ("final", "mid@1", "mid"),
        ("twin", "big", "big-bf16"),
    ]


def test_every_column_says_what_it_is():
    """Each column of each table has its meaning in the schema; no column of pairs is without a table."""
    result = transitions([pair(example()), pair(example(), relation="twin", names=("small", "twin"))])
    seen = set()
    for table in result.tables.values():
        assert all(field.metadata[b"meaning"] for field in table.schema)
        seen |= set(table.column_names)
    assert set(PAIR_COLUMNS) <= seen


def test_no_pairs_are_refused():
    """Without a pair there is nothing to say; pairs of controls only are undecided."""
    with pytest.raises(ConfigError, match="no pairs of runs given"):
        transitions([])
    assert transitions([pair(example(), group="control")]).finding.verdict == "undecided"


def drawn(spec):
    """The cells of each heatmap of a figure, rows of heatmaps one after the other."""
    return [spec["datasets"][chart["data"]["name"]] for row in spec["vconcat"] for chart in row["hconcat"]]


def test_heatmaps_hold_the_tables_shares_in_level_order():
    """Each heatmap has the 25 cells of its table with share and number, levels in order, the null beside it."""
    result = transitions([pair(example())])
    spec = transition_specs(result)["transitions_by_size"]
    observed, null = drawn(spec)
    shares = {(cell["from"], cell["to"]): (cell["label"], cell["number"], cell["small"]) for cell in observed}
    assert len(observed) == len(null) == 25
    assert shares["very high", "very high"] == (".800", "40", False)
    assert shares["medium", "medium"] == ("1", "3", True)
    assert shares["low", "high"] == ("–", "0", True)
    x, y = (spec["vconcat"][0]["hconcat"][0]["layer"][0]["encoding"][axis] for axis in "xy")
    assert (x["sort"], y["sort"]) == (list(LEVELS), list(LEVELS)[::-1])
    assert (x["title"], y["title"]) == ("level under large", "level under small")
    assert "200 member sequences" in spec["title"]["subtitle"][0]
    expected = rows_of(result.regression, null="regression", level_from="very high", level_to="very high")[0]
    top = next(cell for cell in null if (cell["from"], cell["to"]) == ("very high", "very high"))
    assert top["share"] == expected["expected_share"]


def test_figures_are_drawn_for_what_there_is():
    """Sizes give a figure and its inverse, steps theirs, controls none; each is drawn by the renderer."""
    import vl_convert

    specs = transition_specs(transitions([pair(example())]))
    assert list(specs) == ["transitions_by_size", "transitions_inverse"]
    assert vl_convert.vegalite_to_svg(specs["transitions_by_size"]).startswith("<svg")
    assert list(transition_specs(transitions([pair(example(), relation="step")]))) == ["transitions_by_step"]
    contexts = pair(example(), relation="context", names=("one", "one"), cell=PairedCell(16, 5, 32, 5))
    spec = transition_specs(transitions([contexts]))["transitions_by_context"]
    assert spec["vconcat"][0]["hconcat"][0]["title"]["text"] == "k = 16 → k = 32"
    assert transition_specs(transitions([pair(example(), group="control")])) == {}
