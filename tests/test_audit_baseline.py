"""Two audits compared pair by pair, against hand-made pairs, statsmodels and the definition of the score interval."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from audited_facts import different_rows, facts_of, passages_of, units_of
from mnemoscope.audit.baseline import (
    compare_audits,
    comparison_notes,
    mcnemar,
    outcomes_of,
    paired_difference,
)
from mnemoscope.audit.exposure import measure_nearness, near_verbatim, recited
from mnemoscope.audit.result import AuditResult
from mnemoscope.errors import ConfigError


def audited(is_recited, *, rows=None, member=None, similarity=0.9, kept=None, reference=(1, 3)):
    """The result of an audit as far as a comparison reads it."""
    num = len(is_recited)
    rows = different_rows(num) if rows is None else rows
    passages = passages_of(rows, member=np.arange(num) < num // 2 if member is None else member)
    facts = facts_of(passages, recited=is_recited, reference=reference)
    units, near = units_of(passages, kept=kept), measure_nearness(facts)
    empty = {
        field.name: ()
        for field in dataclasses.fields(AuditResult)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    empty |= {"state": "pass", "headline": "", "blind": None, "trend": None, "provenance": {}, "sizes": {}}
    return AuditResult(
        **empty
        | {
            "matches": recited(facts, units),
            "near": near_verbatim(facts, units, near, least_similarity=similarity),
            "outcomes": outcomes_of(facts, units, near, least_similarity=similarity),
            "reference": (facts.context_labels[reference[0]], reference[1]),
        }
    )


def test_outcomes_are_of_known_kept_passages_by_their_tokens():
    """`m` or `c`, recited, near; short and left-out passages have none; the hash hangs on tokens and context alone."""
    rows = different_rows(6)
    rows[4] = rows[4][:5]
    result = audited([1, 0, 1, 1, 0, 0], rows=rows, kept=[1, 1, 1, 1, 1, 0])
    assert list(result.outcomes.values()) == ["m11", "m00", "m11", "c11"]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in result.outcomes)
    reversed_rows = audited([0, 0, 1, 1, 0, 1], rows=rows[::-1])
    assert set(result.outcomes) < set(reversed_rows.outcomes)


def test_pairs_are_counted_by_group():
    """Of 10 training passages 4 were recited and 3 are, 2 of them new; of 10 held-out ones nothing changed."""
    earlier = audited([1, 1, 1, 1] + [0] * 6 + [1] + [0] * 9)
    now = audited([1, 0, 0, 0, 1, 1] + [0] * 4 + [1] + [0] * 9)
    changes = {change.what: change for change in compare_audits(now, earlier)}
    assert list(changes) == [
        "recited, training passages",
        "recited, held-out passages",
        "near-verbatim, training passages",
        "near-verbatim, held-out passages",
    ]
    training, held_out = changes["recited, training passages"], changes["recited, held-out passages"]
    assert (training.n, training.earlier, training.now, training.only_earlier, training.only_now) == (10, 4, 3, 3, 2)
    assert training.difference.estimate == pytest.approx(-0.1)
    assert training.p_value == 1.0
    assert (held_out.n, held_out.earlier, held_out.now, held_out.only_earlier, held_out.only_now) == (10, 1, 1, 0, 0)
    assert held_out.p_value == 1.0
    assert held_out.difference.low == pytest.approx(-held_out.difference.high)
    assert changes["near-verbatim, training passages"].only_now == 2
    assert comparison_notes(now, earlier) == ()


@pytest.mark.parametrize(("one", "other"), [(0, 0), (5, 0), (3, 9), (40, 41), (100, 60)])
def test_mcnemar_is_statsmodels(one, other):
    """The exact p-value is statsmodels'."""
    expected = reference_mcnemar([[50, one], [other, 50]], exact=True).pvalue
    assert mcnemar(one, other) == pytest.approx(min(expected, 1.0), rel=1e-9)


def likelihood_end(one, other, n, z, *, side):
    """An end of the score interval, the constrained shares found by maximising the likelihood itself."""

    def statistic(difference):
        low, high = max(0.0, -difference), (1 - difference) / 2

        def loss(share):  # of pairs that changed the other way; those that changed this way are `difference` more
            cells = np.array([share + difference, share, 1 - 2 * share - difference])
            return -float(np.sum([one, other, n - one - other] * np.log(np.maximum(cells, 1e-300))))

        share = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
        return (one - other - n * difference) / np.sqrt(n * (2 * share + difference * (1 - difference)))

    measured = (one - other) / n
    end = side * (1 - 1e-9)
    return optimize.brentq(lambda value: statistic(value) + side * z, measured + side * 1e-9, end)


@pytest.mark.parametrize(("one", "other", "n"), [(7, 3, 50), (3, 7, 50), (12, 1, 40), (2, 2, 30), (30, 10, 1000)])
def test_paired_difference_is_the_score_interval(one, other, n):
    """Both ends are where the score statistic, its nuisance share by maximum likelihood, is 1.96."""
    found = paired_difference(one, other, n)
    assert found.estimate == (one - other) / n
    assert found.low == pytest.approx(likelihood_end(one, other, n, 1.959964, side=-1), abs=1e-5)
    assert found.high == pytest.approx(likelihood_end(one, other, n, 1.959964, side=1), abs=1e-5)


def test_paired_difference_at_the_borders():
    """Nothing changed: z^2 / (n + z^2) either way. All changed: up to 1. Turned round: the same with the other sign."""
    z2 = 1.959964**2
    none = paired_difference(0, 0, 25)
    assert (none.estimate, none.low, none.high) == pytest.approx((0, -z2 / (25 + z2), z2 / (25 + z2)), abs=1e-6)
    full = paired_difference(25, 0, 25)
    assert (full.estimate, full.high) == (1, 1)
    assert 0.7 < full.low < 1
    for one, other in ((0, 4), (9, 2), (25, 0)):
        ahead, back = paired_difference(one, other, 25), paired_difference(other, one, 25)
        assert (ahead.low, ahead.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert dataclasses.astuple(paired_difference(0, 0, 0)) == (None, None, None)


@pytest.mark.parametrize(("now", "earlier"), [(0.05, 0.05), (0.2, 0.02), (0.9, 0.5)])
def test_paired_intervals_hold_the_truth(now, earlier):
    """Pairs that hang together: at least 93 % of 500 intervals hold the true difference."""
    generator = np.random.default_rng(0)
    num_held = 0
    for _ in range(500):
        first, both = generator.random(60), generator.random(60) < 0.6
        was, is_now = first < earlier, np.where(both, first, generator.random(60)) < now
        found = paired_difference(int((is_now & ~was).sum()), int((was & ~is_now).sum()), 60)
        num_held += found.low <= now - earlier <= found.high
    assert num_held >= 0.93 * 500


def test_other_cells_are_refused():
    """An audit at another context or continuation is no baseline, and the message names both."""
    now, earlier = audited([1] * 4), audited([1] * 4, reference=(0, 2))
    with pytest.raises(ConfigError, match="context 2 and continuation 2, those of this audit 4 and 3"):
        compare_audits(now, earlier)


def test_other_files_are_refused():
    """No passage in common: a baseline of other files, or another seed."""
    with pytest.raises(ConfigError, match="none of its 4 passages is among the 4"):
        compare_audits(audited([1] * 4), audited([1] * 4, rows=different_rows(4, seed=9)))
    blank = dataclasses.replace(audited([1] * 4), reference=None, matches=(), near=())
    with pytest.raises(ConfigError, match="without any cell"):
        compare_audits(blank, blank)


def test_what_is_left_out_is_said():
    """Passages of one audit alone, passages that changed sides, and nearness by another measure are noted."""
    rows = different_rows(8)
    now = audited([1, 0, 0, 0, 0, 0], rows=rows[:6], member=[1, 1, 1, 0, 0, 0])
    earlier = audited([1, 0, 1, 0, 0, 0], rows=rows[2:8], member=[0, 1, 0, 0, 0, 0], similarity=0.8)
    notes = comparison_notes(now, earlier)
    assert len(notes) == 3
    assert "the 2 passages that both have, of 6 now and 6 then" in notes[0]
    assert notes[1].startswith("2 passages are training text in one audit")
    assert "similarity of 0.9 or more now, edit similarity of 0.8" in notes[2]
    changes = compare_audits(now, earlier)
    assert [change.what.split(",")[0] for change in changes] == ["recited", "recited"]
    training, held_out = changes
    assert (training.n, training.difference.estimate, training.p_value) == (0, None, None)
    assert (held_out.n, held_out.only_earlier) == (2, 1)
