"""Duplicates of documents and copies of passages against brute force; what copies do against statsmodels."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm

from audited_facts import different_rows, facts_of, passages_of, units_of
from mnemoscope.audit import copies
from mnemoscope.audit.copies import DoseWindows, count_copies, deduplicate_first, dose_windows, doses, smooth_rates
from mnemoscope.audit.duplicates import cluster_documents
from mnemoscope.audit.trends import fit_logistic, measure_trend, permute_clusters
from mnemoscope.audit.units import find_units, seen_in_training


class Rows:
    """Documents in memory."""

    def __init__(self, rows):
        self._rows = [np.asarray(row, np.int32) for row in rows]
        self.lines = np.arange(len(rows)) + 1

    @property
    def num(self):
        return len(self._rows)

    def tokens(self, document):
        return self._rows[document]


def shingles(tokens):
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def naive_components(rows):
    """The smallest index of what each row is linked to, by comparing all pairs on their shingles."""
    names = list(range(len(rows)))
    for one, other in itertools.combinations(range(len(rows)), 2):
        left, right = shingles(rows[one]), shingles(rows[other])
        shared = len(left & right)
        is_near = bool(left and right) and shared / (len(left) + len(right) - shared) >= 0.8
        if is_near or rows[one] == rows[other]:
            low, high = sorted((names[one], names[other]))
            names = [low if name == high else name for name in names]
    return names


def partition(names):
    """Which rows share a name, as sets."""
    return {frozenset(np.flatnonzero(np.asarray(names) == name).tolist()) for name in set(np.asarray(names).tolist())}


def edited(generator, row, num_edits):
    """A row with some tokens replaced by new ones."""
    row = list(row)
    for place in generator.choice(len(row), num_edits, replace=False):
        row[place] = int(generator.integers(10_000, 20_000))
    return row


def test_clusters_are_those_of_all_pairs():
    """Rows with 0 to 12 of 100 tokens edited, from far above to far below the bound: the components of all pairs."""
    generator = np.random.default_rng(0)
    originals = [generator.integers(0, 500, 100).tolist() for _ in range(25)]
    rows = [edited(generator, original, num) for original in originals for num in (0, 0, 1, 2, 3, 6, 12)]
    rows += [[], [], [1], [1], [1, 2, 3, 4], [7] * 30, [7] * 60]
    order = generator.permutation(len(rows)).tolist()
    rows = [rows[place] for place in order]
    clusters = cluster_documents(Rows(rows[:120]), Rows(rows[120:]))
    found = np.concatenate([clusters.train_D, clusters.heldout_D])
    assert partition(found) == partition(naive_components(rows))
    assert len(partition(found)) < len(rows) - 50


def test_exact_and_near_copies_are_counted_and_held_out_ones_told():
    """Three equal documents are two exact copies, one edited is a near one; held-out copies are contaminated."""
    generator = np.random.default_rng(1)
    one, other, third = (generator.integers(0, 500, 200).tolist() for _ in range(3))
    near = edited(generator, one, 2)
    clusters = cluster_documents(
        Rows([one, other, one, near, one]), Rows([third, near, other, edited(generator, one, 3)])
    )
    assert (clusters.num_exact, clusters.num_near) == (2, 1)
    assert len(set(clusters.train_D[[0, 2, 3, 4]].tolist())) == 1
    assert clusters.is_contaminated_D.tolist() == [False, True, True, True]
    assert clusters.sizes()[clusters.train_D[0]] == 4
    assert clusters.sizes()[clusters.heldout_D[0]] == 0


def test_a_held_out_file_without_documents_is_no_trouble():
    """No held-out document: no contamination; no document at all: no cluster."""
    assert len(cluster_documents(Rows([[1, 2, 3]]), Rows([])).is_contaminated_D) == 0
    assert len(cluster_documents(Rows([]), Rows([])).train_D) == 0


def naive_count(window, rows):
    size = len(window)
    return sum(row[i : i + size] == window for row in rows for i in range(len(row) - size + 1))


def test_copies_are_those_of_a_naive_count(monkeypatch):
    """Windows of several lengths, overlapping themselves and others, in blocks of few documents: counted one by one."""
    monkeypatch.setattr(copies, "_BLOCK_TOKENS", 64)
    generator = np.random.default_rng(2)
    rows = [generator.integers(0, 3, generator.integers(0, 40)).tolist() for _ in range(60)]
    windows = [row[start : start + size] for row in rows for start, size in ((0, 4), (3, 7), (0, 12)) if len(row) > 14]
    windows += [[2, 9, 2, 2], [5] * 12]
    passages = passages_of(windows, member=np.ones(len(windows)))
    found = count_copies(passages, Rows(rows)).tolist()
    assert found == [naive_count(window, rows) for window in windows]
    assert found[-2:] == [0, 0]
    assert min(found[:-2]) >= 1
    assert max(found) > 5


def test_units_leave_out_what_training_has_seen():
    """Held-out passages of a copied document, or that stand in training word for word, are no control; members stay."""
    generator = np.random.default_rng(3)
    shared, *others = (generator.integers(0, 900, 120).tolist() for _ in range(5))
    train = Rows([shared, others[0], shared, others[1]])
    heldout = Rows([[*shared[:62], 999, *shared[63:]], others[2], [*others[0][:20], *others[3]]])
    copied = [*shared[60:62], 999, *shared[63:67]]
    rows = [shared[:7], others[0][:7], shared[:7], others[1][:7], copied, others[2][:7], others[0][:7]]
    passages = passages_of(rows, member=[1, 1, 1, 1, 0, 0, 0], documents=[0, 1, 2, 3, 0, 1, 2])
    clusters = cluster_documents(train, heldout)
    counted = count_copies(passages, train)
    assert counted.tolist() == [2, 1, 2, 1, 0, 0, 1]
    units = find_units(passages, clusters, counted)
    assert units.is_kept_R.tolist() == [True, True, True, True, False, True, False]
    assert seen_in_training(passages, clusters, counted).tolist() == [False] * 4 + [True, False, True]
    assert units.cluster_R[0] == units.cluster_R[2] == units.cluster_R[4]
    assert units.window_R.tolist() == [0, 1, 0, 3, 4, 5, 1]
    assert units.twin_R[0] == units.twin_R[2]
    assert len(set(units.twin_R[:4].tolist())) == 3
    left_out = find_units(passages, clusters, counted, is_left_out_R=np.arange(7) == 3)
    assert left_out.is_kept_R.tolist() == [True, True, True, False, False, True, False]


def test_twins_stand_at_one_place_of_copies():
    """The first offsets of two near-exact copies are twins; first and second of one document, or a start, are not."""
    passages = passages_of(
        different_rows(6),
        member=[1] * 6,
        documents=[0, 0, 0, 1, 1, 2],
        kinds=["start", "offset", "offset", "start", "offset", "offset"],
        starts=[0, 9, 4, 0, 5, 5],
    )
    rows = [list(range(50)), list(range(50)), list(range(100, 150))]
    units = find_units(passages, cluster_documents(Rows(rows), Rows([])), np.ones(6, np.int64))
    start, later, first, other_start, other_first, alone = units.twin_R.tolist()
    assert start == other_start
    assert first == other_first
    assert len({start, later, first, alone}) == 4


def test_doses_count_different_windows():
    """A window that stands three times is one recited window of dose 2 to 3; held-out, left-out and short ones none."""
    rows = different_rows(8)
    rows[1] = rows[2] = rows[0]
    rows[7] = rows[7][:5]
    passages = passages_of(rows, member=[1, 1, 1, 1, 1, 1, 0, 1])
    facts = facts_of(passages, recited=[1, 1, 1, 0, 1, 1, 1, 1])
    units = dataclasses.replace(
        units_of(passages, kept=[1, 1, 1, 1, 1, 0, 1, 1]), window_R=np.array([0, 0, 0, 3, 4, 5, 6, 7])
    )
    windows = dose_windows(facts, units, np.array([3, 3, 3, 1, 40, 1, 0, 1]))
    assert windows.rows_N.tolist() == [0, 3, 4]
    found = {(dose.low, dose.high): (dose.recited.count, dose.recited.n) for dose in doses(windows)}
    assert found == {
        (1, 1): (0, 1),
        (2, 3): (1, 1),
        (4, 7): (0, 0),
        (8, 15): (0, 0),
        (16, 31): (0, 0),
        (32, None): (1, 1),
    }


def windows_of(num_copies, is_recited, unit=None):
    num = len(num_copies)
    return DoseWindows(
        np.arange(num), np.array(num_copies), np.array(is_recited, np.bool_), np.arange(num) if unit is None else unit
    )


def dosed(num, *, slope=0.8, seed=0, per_unit=1):
    """Windows of 1 to 64 copies whose log odds of being recited grow with each doubling; units share a shock."""
    generator = np.random.default_rng(seed)
    unit = np.repeat(np.arange(num // per_unit), per_unit)
    num_copies = 2 ** generator.integers(0, 7, len(unit))
    shock = generator.normal(0, 1, len(unit) // per_unit)[unit] if per_unit > 1 else 0.0
    odds = -3 + slope * np.log2(num_copies) + shock
    return windows_of(num_copies, generator.random(len(unit)) < 1 / (1 + np.exp(-odds)), unit)


@pytest.mark.parametrize("per_unit", [1, 4])
def test_trend_is_statsmodels(per_unit):
    """Slope, interval and p-value are statsmodels' logistic regression with errors by cluster."""
    windows = dosed(240, per_unit=per_unit)
    design = sm.add_constant(np.log2(windows.copies_N))
    expected = sm.Logit(windows.is_recited_N.astype(float), design).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": windows.unit_N}, tol=1e-12
    )
    trend = measure_trend(windows)
    assert trend.slope.estimate == pytest.approx(expected.params[1], rel=1e-8)
    assert (trend.slope.low, trend.slope.high) == pytest.approx(expected.conf_int()[1].tolist(), rel=1e-6)
    assert trend.p_value == pytest.approx(expected.pvalues[1], rel=1e-5)
    assert f"by {math.exp(trend.slope.estimate):.3g}" in trend.sentence
    fit = fit_logistic(np.log2(windows.copies_N), windows.is_recited_N, windows.unit_N)
    assert fit.intercept == pytest.approx(expected.params[0], rel=1e-8)


def test_intervals_of_the_trend_hold_the_truth():
    """95 % intervals hold the slope that the windows were drawn with in at least 91 % of 200 draws."""
    slopes = [measure_trend(dosed(300, seed=seed)).slope for seed in range(200)]
    assert sum(slope.low <= 0.8 <= slope.high for slope in slopes) >= 0.91 * 200


def test_a_turn_without_a_prompt_is_at_no_dose():
    """Nothing predicts its first token: it is left out here as it is of the shares."""
    rows = np.random.default_rng(0).integers(0, 99, (3, 7)).tolist()
    passages = passages_of(rows, member=[1, 1, 1])
    passages.context_RC[1, 1] = 0
    facts = facts_of(passages, recited=[1, 0, 1])
    assert dose_windows(facts, units_of(passages), np.ones(3, np.int64)).rows_N.tolist() == [0, 2]


def test_separation_is_told_and_tested():
    """All from 8 copies on and none below: no slope, a p-value by permutation, and a sentence with the bound."""
    num_copies = [1] * 30 + [4] * 5 + [8] * 4 + [32] * 6
    trend = measure_trend(windows_of(num_copies, np.array(num_copies) >= 8))
    assert trend.slope.estimate is trend.slope.low is trend.slope.high is None
    assert trend.p_value == 1e-4
    assert "what is recited (10 passages) has 8 copies or more, what is not (35 passages) 4 or fewer" in trend.sentence
    reverse = measure_trend(windows_of(num_copies, np.array(num_copies) < 8))
    assert "has 4 copies or fewer, what is not (10 passages) 8 or more" in reverse.sentence
    touching = measure_trend(windows_of([1, 1, 2, 2, 4], [0, 0, 0, 1, 1]))
    assert touching.slope.estimate is None
    assert touching.p_value > 0.05
    assert touching.sentence.startswith("Copies part them, but for those with 2: ")
    assert "(2 passages) has 2 copies or more, what is not (3 passages) 2 or fewer" in touching.sentence


@pytest.mark.parametrize(
    ("num_copies", "is_recited", "word"),
    [
        ([2] * 9, [1, 0, 1] * 3, "same number"),
        ([1, 2, 4], [1, 1, 1], "All"),
        ([1, 2, 4], [0, 0, 0], "None"),
        ([], [], "0"),
    ],
)
def test_no_trend_where_there_is_nothing_to_compare(num_copies, is_recited, word):
    """One dose, all recited, none recited, no passage: no slope, no p-value, and the reason."""
    trend = measure_trend(windows_of(np.array(num_copies, np.int64), is_recited))
    assert (trend.slope.estimate, trend.p_value) == (None, None)
    assert word in trend.sentence


def test_permutations_are_exact_for_few_clusters():
    """Four clusters in order: 2 of the 24 orders are as far from flat, so that p is 1 / 12."""
    p_value = permute_clusters(np.arange(4.0), np.array([0, 1, 2, 3]) / 3, np.arange(4), seed=0)
    assert p_value == pytest.approx(1 / 12, abs=0.01)
    doubled = permute_clusters(
        np.repeat(np.arange(4.0), 5), np.repeat([0, 1, 2, 3], 5) / 3, np.repeat(np.arange(4), 5), seed=0
    )
    assert doubled == p_value


def test_rates_are_smooth_and_never_fall():
    """With half a passage of either kind; doses that fall are pooled by their sizes; empty ones take the next lower."""
    windows = windows_of([1] * 10 + [2] * 4 + [4] * 4 + [16] * 3, [1] + [0] * 9 + [1, 1, 0, 0] + [0] * 4 + [1] * 3)
    pooled = (2.5 + 0.5) / (5 + 5)
    assert smooth_rates(windows) == pytest.approx([1.5 / 11, pooled, pooled, pooled, 3.5 / 4, 3.5 / 4])


def test_the_cluster_that_spares_most_comes_first():
    """Two windows of 8 copies count 1 - rate / rate each, a near-exact pair by its documents; single ones not."""
    generator = np.random.default_rng(5)
    eight, pair, single, plain = (generator.integers(0, 900, 60 + size).tolist() for size in range(4))
    plenty = [generator.integers(0, 900, 60).tolist() for _ in range(30)]
    train = Rows([eight] * 8 + [pair, [*pair[:52], 999, *pair[53:]], single, plain, *plenty])
    rows = [eight[:7], eight[20:27], pair[50:57], single[:7], plain[:7], *(row[:7] for row in plenty)]
    passages = passages_of(rows, member=np.ones(35), documents=[0, 0, 8, 10, 11, *range(12, 42)])
    facts = facts_of(passages, recited=[1, 1, 1, 1, 0, *[0] * 30])
    clusters, copies_R = cluster_documents(train, Rows([])), count_copies(passages, train)
    windows = dose_windows(facts, find_units(passages, clusters, copies_R), copies_R)
    rates = smooth_rates(windows._replace(copies_N=np.where(np.arange(35) == 2, 2, windows.copies_N)))
    first, second = deduplicate_first(facts, windows, clusters, train, text_of=lambda tokens: f"{len(tokens)} tokens")
    assert (first.num_documents, first.num_recited, first.lines) == (8, 2, (1, 2, 3, 4, 5, 6, 7, 8))
    assert first.expected_fewer == pytest.approx(2 * (1 - rates[0] / rates[3]))
    assert first.num_tokens == 7 * 60
    assert first.text == "48 tokens"
    assert windows.copies_N[:4].tolist() == [8, 8, 1, 1]
    assert (second.num_documents, second.num_recited, second.num_tokens) == (2, 1, 61)
    assert second.expected_fewer == pytest.approx(1 - rates[0] / rates[1])
    assert first.expected_fewer > second.expected_fewer > 0


def test_nothing_recited_recommends_nothing():
    """Copies of which nothing is recited are not recommended for removal."""
    rows = different_rows(3, width=30)
    train = Rows([rows[0], rows[0], rows[1]])
    passages = passages_of([row[:7] for row in rows[:2]], member=[1, 1])
    facts = facts_of(passages, recited=[0, 0])
    clusters, copies_R = cluster_documents(train, Rows([])), count_copies(passages, train)
    windows = dose_windows(facts, find_units(passages, clusters, copies_R), copies_R)
    assert deduplicate_first(facts, windows, clusters, train, text_of=str) == ()
