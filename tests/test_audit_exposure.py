"""What is recited, drawn and nearly recited, against hand-made cases, exact arithmetic and naive loops."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from audited_facts import different_rows, facts_of, passages_of, units_of
from mnemoscope.audit.exposed import Described, exposed, own_cells
from mnemoscope.audit.exposure import (
    extraction,
    longest_runs,
    measure_nearness,
    near_verbatim,
    recited,
    samples_needed,
)
from mnemoscope.audit.shares import count_independent, measure_share, subtract_shares
from mnemoscope.audit.units import Units
from mnemoscope.intervals import newcombe, wilson


def test_recited_counts_every_cell_and_kind():
    """Of three training starts two are recited, of two offsets none, of two held-out starts one; short ones not."""
    rows = different_rows(7)
    rows[6] = rows[6][:5]  # has room for 2 + 3 and not for 4 + 2
    kinds = ["start", "start", "start", "offset", "offset", "start", "start"]
    passages = passages_of(rows, member=[1, 1, 1, 1, 1, 0, 0], kinds=kinds)
    facts = facts_of(passages, recited=[1, 1, 0, 0, 0, 1, 0])
    found = {(row.context, row.continuation, row.kind): row for row in recited(facts, units_of(passages))}
    assert len(found) == 2 * 2 * 3
    assert {row.what for row in found.values()} == {"full match"}
    for cell in (("2", 2), ("2", 3)):
        assert (found[*cell, "start"].member.count, found[*cell, "start"].member.n) == (2, 3)
        assert (found[*cell, "offset"].member.count, found[*cell, "offset"].member.n) == (0, 2)
        assert (found[*cell, "all"].member.count, found[*cell, "all"].member.n) == (2, 5)
        assert (found[*cell, "all"].control.count, found[*cell, "all"].control.n) == (1, 2)
    assert (found["4", 3, "all"].control.count, found["4", 3, "all"].control.n) == (1, 1)
    assert found["2", 3, "all"].excess.estimate == pytest.approx(2 / 5 - 1 / 2)
    assert found["2", 3, "offset"].control.share is None
    assert dataclasses.astuple(found["2", 3, "offset"].excess) == (None, None, None)


def test_independent_passages_have_wilsons_interval():
    """Where nothing repeats, shares are Wilson's, their difference Newcombe's, at 0 and at n too."""
    for count, n in ((0, 40), (3, 40), (40, 40)):
        share = measure_share(np.arange(n) < count, np.arange(n))
        low, high = wilson(count, n)
        assert (share.count, share.n, share.num_unique, share.share) == (count, n, n, count / n)
        assert (share.low, share.high) == pytest.approx((float(low), float(high)), abs=1e-12)
    excess = subtract_shares(
        measure_share(np.arange(50) < 9, np.arange(50)), measure_share(np.arange(30) < 1, np.arange(30))
    )
    expected = newcombe(9, 50, 1, 30)
    assert dataclasses.astuple(excess) == pytest.approx([float(value) for value in expected], abs=1e-12)


def test_copies_are_no_evidence():
    """A file copied k times over has the share of the file and its interval: copies do not narrow it."""
    hits = np.arange(60) < 11
    once = measure_share(hits, np.arange(60))
    copied = measure_share(np.tile(hits, 7), np.tile(np.arange(60), 7), np.tile(np.arange(60), 7))
    assert (copied.count, copied.n, copied.num_unique) == (77, 420, 60)
    # 60 units give Student's t at 59 degrees of freedom for that at 419: a hundredth of the width.
    assert once.high < copied.high < once.high + 0.01
    assert once.low - 0.01 < copied.low < once.low
    none = measure_share(np.zeros(420, np.bool_), np.tile(np.arange(60), 7), np.tile(np.arange(60), 7))
    assert none.high == pytest.approx(float(wilson(0, 60).high))


def test_one_text_that_fills_the_file_is_one_text():
    """100 different texts and one 300 times: no more is known than of (400)^2 / (100 + 300^2) = 1.78 passages."""
    window = np.concatenate([np.arange(100), np.full(300, 100)])
    for hits in (window < 0, window >= 0, window == 3):
        assert count_independent(hits, window, window, np.arange(400)) == pytest.approx(400**2 / (100 + 300**2))


@pytest.mark.parametrize("sizes", [(1, 2), (1, 1, 1, 1, 8), (1,) * 19 + (40,)])
@pytest.mark.parametrize("rate", [0.02, 0.3])
@pytest.mark.parametrize("likeness", ["equal", "near", "of one document"])
def test_intervals_of_shares_hold_the_truth(sizes, rate, likeness):
    """Units of unequal sizes, equal or alike: of 400 intervals 92 % or more hold the true share."""
    generator = np.random.default_rng(1)
    num_held = 0
    for _ in range(400):
        size = generator.choice(sizes, 150)
        unit = np.repeat(np.arange(150), size)
        strength = {"equal": 1e-9, "near": 0.5, "of one document": 4}[likeness]
        own = generator.beta(rate * strength, (1 - rate) * strength, 150)
        hits = generator.random(len(unit)) < own[unit]
        share = measure_share(hits, unit, None, None if likeness == "of one document" else unit)
        num_held += share.low <= rate <= share.high
    assert num_held >= 0.92 * 400


def test_units_are_joined_by_chains_of_windows():
    """Passages of one cluster or one window are one unit, by any chain, among the passages asked for alone."""
    units = Units(
        cluster_R=np.array([0, 0, 1, 2, 3, 4]), window_R=np.array([0, 1, 1, 3, 3, 5]), is_kept_R=np.ones(6, np.bool_)
    )
    assert len(set(units.join(np.arange(3)).tolist())) == 1
    joined = units.join(np.arange(6)).tolist()
    assert joined[0] == joined[1] == joined[2] != joined[3] == joined[4] != joined[5]
    apart = units.join(np.array([0, 2])).tolist()  # without passage 1 nothing links the two
    assert apart[0] != apart[1]
    assert units.first_of_each(np.arange(6)).tolist() == [0, 3, 5]
    assert units.different().is_kept_R.tolist() == [True, True, False, True, False, True]


def test_samples_needed_is_the_definition():
    """The fewest N with 1 - (1 - p_z)^N >= p, in exact arithmetic; and (N - 1) samples do not do."""
    for chance in (Fraction(1, 2), Fraction(1, 4), Fraction(3, 4), Fraction(1, 1000), Fraction(999, 1000)):
        for probability in (Fraction(1, 2), Fraction(3, 4), Fraction(9, 10), Fraction(15, 16)):
            needed = 1
            while 1 - (1 - chance) ** needed < probability:
                needed += 1
            found = samples_needed(math.log(chance), float(probability))
            assert float(found) == needed, (chance, probability)


def test_samples_needed_at_the_borders():
    """Certain: one. Impossible: never. So rare that e^x is 0 in floating point: never told as few."""
    needed = samples_needed([0.0, 1e-9, -np.inf, -690.0, -5000.0, np.nan], 0.5)
    assert needed[:3].tolist() == [1, 1, np.inf]
    assert needed[3] == pytest.approx(math.log(2) * math.exp(690), rel=1e-9)
    assert needed[4] == np.inf
    assert np.isnan(needed[5])
    assert samples_needed(-40.0, 0.5) == pytest.approx(math.log(2) * math.exp(40), rel=1e-9)
    around = samples_needed([-29.9999999, -30.0000001], 0.5)
    assert around[1] / around[0] == pytest.approx(1, rel=1e-6)


def test_extraction_follows_the_probability_of_a_sample():
    """p_z = e^-1.5 for each of three tokens at -0.5: discoverable from the N at which 1 - (1 - p_z)^N reaches p."""
    passages = passages_of(different_rows(4), member=[1, 1, 1, 0])
    log_probability = np.array([[-0.5], [-3.0], [0.0], [-0.5]])
    facts = facts_of(passages, recited=[0, 0, 0, 0], log_probability=log_probability)
    rows = {(row.sampling, row.num_samples, row.probability): row for row in extraction(facts, units_of(passages))}
    assert len(rows) == 2 * 5 * 2
    for (sampling, num, probability), row in rows.items():
        chances = [math.exp(-1.5), math.exp(-9), 1.0] if sampling == "T = 1" else [0.0, 0.0, 0.0]
        expected = sum(1 - (1 - chance) ** num >= probability for chance in chances)
        assert (row.compared.member.count, row.compared.member.n) == (expected, 3), row
        assert (row.compared.continuation, row.compared.context, row.compared.kind) == (3, "4", "all")
    assert [rows["T = 1", num, 0.5].compared.member.count for num in (1, 10, 10_000)] == [1, 2, 3]


def test_greedy_is_the_special_case():
    """With the largest logit alone to draw from, whatever N and p: discoverable is recited."""
    passages = passages_of(different_rows(6), member=[1, 1, 1, 1, 0, 0])
    facts = facts_of(passages, recited=[1, 0, 1, 1, 0, 1])
    units = units_of(passages)
    full = next(row for row in recited(facts, units) if (row.context, row.continuation) == ("4", 3))
    for row in extraction(facts, units):
        if row.sampling == "T = 1, top 1":
            assert row.compared.member == full.member
            assert row.compared.control == full.control


def naive_distance(one, other):
    """Levenshtein's distance, by the textbook's table."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[0], table[:, 0] = np.arange(len(other) + 1), np.arange(len(one) + 1)
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            differs = one[i - 1] != other[j - 1]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + differs)
    return int(table[-1, -1])


def naive_run(one, other):
    """The longest run that two lists share, by trying all."""
    for size in range(len(one), 0, -1):
        runs = {tuple(one[i : i + size]) for i in range(len(one) - size + 1)}
        if any(tuple(other[i : i + size]) in runs for i in range(len(other) - size + 1)):
            return size
    return 0


def test_nearness_is_that_of_naive_loops():
    """Edit similarity and longest common run are the textbook's, on 300 random pairs of few different tokens."""
    generator = np.random.default_rng(3)
    rows = generator.integers(0, 3, (300, 12))
    passages = passages_of(rows.tolist(), member=np.ones(300), contexts=(2, 4))
    facts = facts_of(passages, recited=np.zeros(300), reference=(1, 8))
    path_Rn = generator.integers(0, 3, (300, 8)).astype(np.int32)
    path_Rn[::10] = rows[::10, 4:]
    facts = dataclasses.replace(facts, path_Rn=path_Rn)
    near = measure_nearness(facts)
    for row in range(300):
        true, path = rows[row, 4:].tolist(), path_Rn[row].tolist()
        assert near.similarity_R[row] == pytest.approx(1 - naive_distance(true, path) / 8)
        assert near.longest_run_R[row] == naive_run(true, path)
    assert (near.similarity_R[::10] == 1).all()


def test_longest_run_is_found_across_blocks_of_rows():
    """Each row has its own run, beyond the rows that are worked on at once."""
    one = np.tile(np.arange(6), (5000, 1))
    other = one + 10
    other[4999, 3:] = [1, 2, 3]
    other[4097, 0] = 5
    runs = longest_runs(one, other)
    assert (runs[4999], runs[4097], runs.sum()) == (3, 1, 4)


def test_near_verbatim_counts_what_is_recited_and_little_else():
    """One wrong token of ten is near at 0.9 and far at 0.95; too short passages count nowhere."""
    rows = different_rows(5, width=14)
    rows[4] = rows[4][:9]
    passages = passages_of(rows, member=[1, 1, 1, 0, 0])
    facts = facts_of(passages, recited=[1, 0, 0, 0, 0], reference=(1, 10))
    path_Rn = facts.path_Rn.copy()
    path_Rn[1] = passages.tokens_RW[1, 4:]
    path_Rn[1, 4] = 1
    units, near = units_of(passages), measure_nearness(dataclasses.replace(facts, path_Rn=path_Rn))
    edit, run = near_verbatim(facts, units, near, least_similarity=0.9)
    assert (edit.what, edit.member.count, edit.member.n, edit.control.n) == ("edit similarity of 0.9 or more", 2, 3, 1)
    assert (run.what, run.member.count) == ("common run of 5 tokens or more", 2)
    strict, _ = near_verbatim(facts, units, near, least_similarity=0.95)
    assert strict.member.count == 1


def test_a_run_of_fifty_is_asked_where_there_is_room():
    """A continuation of 60 tokens has three criteria, and 50 of 60 in a row meets the third."""
    passages = passages_of(different_rows(2, width=64), member=[1, 0])
    facts = facts_of(passages, recited=[0, 0], reference=(1, 60))
    path_Rn = facts.path_Rn.copy()
    path_Rn[0, 5:55] = passages.tokens_RW[0, 9:59]
    near = measure_nearness(dataclasses.replace(facts, path_Rn=path_Rn))
    rows = near_verbatim(facts, units_of(passages), near, least_similarity=0.9)
    assert [(row.what.split(" tokens")[0], row.member.count) for row in rows] == [
        ("edit similarity of 0.9 or more", 0),
        ("common run of 30", 1),
        ("common run of 50", 1),
    ]


def show(context, continuation):
    return Described(" ".join(map(str, context)), " ".join(map(str, continuation)), ("key",))


def listed(facts, units, copies, **options):
    near = measure_nearness(facts)
    return exposed(facts, units, near, np.array(copies), least_similarity=0.6, describe=show, **options)


def test_exposed_are_ordered_and_different():
    """Recited before near, likelier before rarer, copies break ties; a window once; held-out, left-out never."""
    rows = different_rows(8)
    rows[1] = rows[0]
    passages = passages_of(rows, member=[1, 1, 1, 1, 1, 1, 0, 1])
    log_probability = np.array([-1.0, -1, -2, -0.5, -2, -3, -0.1, -0.1])[:, None]
    facts = facts_of(passages, recited=[1, 1, 1, 0, 1, 0, 1, 1], log_probability=log_probability)
    facts.path_Rn[3] = passages.tokens_RW[3, 4:]
    facts.path_Rn[3, 2] = 0  # two of three tokens: near at 0.6
    units = dataclasses.replace(
        units_of(passages, kept=[1, 1, 1, 1, 1, 1, 1, 0]), window_R=np.array([0, 0, 2, 3, 4, 5, 6, 7])
    )
    found = listed(facts, units, [2, 2, 1, 1, 5, 1, 0, 9])
    assert [row.passage for row in found] == [0, 4, 2, 3]
    assert [row.passage for row in listed(facts, units, [2, 2, 1, 1, 5, 1, 0, 9], limit=2)] == [0, 4]
    first, last = found[0], found[-1]
    assert (first.is_full, first.num_recited, first.similarity, first.longest_run, first.num_copies) == (
        True,
        3,
        1,
        3,
        2,
    )
    assert (first.context, first.continuation, first.line, first.shortest_context) == (4, 3, 1, 1)
    assert first.log_probability == pytest.approx(-3)
    assert first.samples_needed == {"T = 1": math.ceil(math.log(0.5) / math.log1p(-math.exp(-3))), "T = 1, top 1": 1}
    assert (last.is_full, last.num_recited, last.longest_run, last.shortest_context) == (False, 2, 2, None)
    assert last.similarity == pytest.approx(2 / 3)
    assert last.samples_needed["T = 1, top 1"] is None
    assert first.context_text == " ".join(map(str, rows[0][:4]))
    assert (first.continuation_text, first.private) == (" ".join(map(str, rows[0][4:])), ("key",))


def test_a_path_that_says_all_of_it_has_said_all_of_it():
    """Where a near-tie falls one way along the path and the other way at the true tokens, no token mismatches."""
    passages = passages_of(different_rows(2), member=[1, 0])
    facts = facts_of(passages, recited=[0, 0])
    facts.path_Rn[0] = passages.tokens_RW[0, 4:]
    (found,) = listed(facts, units_of(passages), [1, 0])
    assert (found.is_full, found.num_recited, found.similarity) == (False, 3, 1.0)


def test_a_recited_passage_too_short_for_the_reference_is_listed():
    """At the longest cell that it has room for, of which the greedy path from the reference says nothing."""
    rows = [*different_rows(2), different_rows(3)[2][:5]]
    passages = passages_of(rows, member=[1, 0, 1])
    facts = facts_of(passages, recited=[0, 0, 1], log_probability=-2.0)
    (found,) = listed(facts, units_of(passages), [1, 0, 1])
    assert (found.passage, found.context, found.continuation, found.num_recited) == (2, 2, 3, 3)
    assert (found.shortest_context, found.similarity, found.longest_run) == (None, 1.0, 3)
    assert found.log_probability == pytest.approx(-6)


def test_own_cells_prefer_long_continuations_then_long_contexts():
    """The reference where it fits; of 8 tokens 4 + 3 before 2 + 3 and 6 + 2; of 6 tokens 2 + 3; of 3 tokens nothing."""
    rows = [list(range(size)) for size in (9, 8, 6, 3)]
    passages = passages_of(rows, member=np.ones(4), contexts=(2, 4, 6))
    facts = dataclasses.replace(
        facts_of(passages, recited=np.ones(4), reference=(2, 3)), context_labels=("2", "4", "6")
    )
    cells = own_cells(facts)
    assert cells.context_R.tolist() == [2, 1, 0, -1]
    assert cells.continuation_R.tolist() == [3, 3, 3, -1]
    assert cells.is_full_R.tolist() == [True, True, True, False]


def test_nothing_recited_lists_nothing():
    """A clean model has no exposed passage, and a share of 0 with an upper bound."""
    passages = passages_of(different_rows(5), member=[1, 1, 1, 0, 0])
    facts = facts_of(passages, recited=[0] * 5)
    assert listed(facts, units_of(passages), [1] * 5) == ()
    assert all(row.member.share == 0 and 0 < row.member.high < 1 for row in recited(facts, units_of(passages)))
