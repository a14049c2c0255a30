"""Membership signals against naive implementations and scikit-learn; their intervals against simulation."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from audited_facts import different_rows, facts_of, passages_of, units_of
from mnemoscope.audit.blind_check import INFLATION, blind_check
from mnemoscope.audit.separation import area_interval, measure_area, measure_rate
from mnemoscope.audit.signals import measure_signals, representatives, signal_values


def text_of(tokens):
    return " ".join(map(str, tokens.tolist()))


def random_facts(num, *, width=26, member=None, seed=0):
    """Passages of different lengths with random log-probabilities."""
    generator = np.random.default_rng(seed)
    rows = [tokens[: generator.integers(8, width)] for tokens in different_rows(num, width=width, seed=seed)]
    member = np.arange(num) % 2 == 0 if member is None else member
    passages = passages_of(rows, member=member)
    log_RW = -generator.exponential(2, (num, width))[:, : passages.tokens_RW.shape[1]]
    return facts_of(passages, recited=np.zeros(num), log_probability=log_RW, seed=seed)


def test_signals_equal_naive_loops():
    """Loss, zlib ratio, Min-K% and Min-K%++ as their papers' loops compute them, passage by passage, to 1e-12."""
    facts = random_facts(40)
    found = signal_values(facts, np.arange(40), text_of)
    assert list(found) == ["loss", "zlib ratio", "Min-20%", "Min-20%++"]
    for row in range(40):
        length = facts.passages.length_R[row]
        log_p = [float(facts.tokens.log_probability_RW[row, place]) for place in range(1, length)]
        loss = -sum(log_p) / len(log_p)
        num_bytes = len(zlib.compress(text_of(facts.passages.tokens_RW[row, :length]).encode()))
        scores = [
            (value - float(facts.tokens.mean_RW[row, place])) / float(facts.tokens.deviation_RW[row, place])
            for place, value in enumerate(log_p, start=1)
        ]
        num_lowest = max(1, int(len(log_p) * 0.2))
        expected = [-loss, -loss / num_bytes, *(sum(sorted(v)[:num_lowest]) / num_lowest for v in (log_p, scores))]
        assert [values[row] for values in found.values()] == pytest.approx(expected, rel=1e-12)


def test_a_certain_model_divides_nothing_by_zero():
    """Where the model is certain of the truth, Min-K%++ is 0, and no warning is given."""
    facts = random_facts(3)
    certain = np.zeros_like(facts.tokens.log_probability_RW)
    tokens = facts.tokens._replace(log_probability_RW=certain, mean_RW=certain, deviation_RW=certain)
    with np.errstate(all="raise"):
        found = signal_values(dataclasses.replace(facts, tokens=tokens), np.arange(3), text_of)
    assert all((values == 0).all() for values in found.values())


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_area_equals_scikit_learn(decimals):
    """The area under the curve is roc_auc_score's to 1e-12, with ties of any number."""
    generator = np.random.default_rng(decimals)
    for _ in range(20):
        member, control = generator.normal(0.7, 1, 37).round(decimals), generator.normal(0, 1, 53).round(decimals)
        area = measure_area(member, control)
        truth = np.repeat([1, 0], [37, 53])
        assert area.estimate == pytest.approx(roc_auc_score(truth, np.concatenate([member, control])), abs=1e-12)
        assert area.low < area.estimate < area.high


def test_rate_equals_scikit_learns_curve():
    """The true-positive rate is the highest of roc_curve's points with at most the false-positive rate."""
    generator = np.random.default_rng(5)
    for decimals in (1, 9):
        member, control = generator.normal(1.5, 1, 400).round(decimals), generator.normal(0, 1, 1000).round(decimals)
        false, true, _ = roc_curve(np.repeat([1, 0], [400, 1000]), np.concatenate([member, control]))
        for false_rate in (0.01, 0.001):
            rate = measure_rate(member, control, false_rate)
            assert rate.estimate == true[false <= false_rate].max()
            assert 0 <= rate.low <= rate.estimate <= rate.high <= 1


def test_rates_too_rare_for_the_held_out_file_are_unknown():
    """1 % needs 100 held-out passages, 0.1 % a thousand; without a passage nothing is known."""
    member = np.arange(30.0)
    assert measure_rate(member, np.arange(99.0), 0.01).estimate is None
    assert measure_rate(member, np.arange(100.0), 0.01).estimate is not None
    assert measure_rate(member, np.arange(999.0), 0.001).estimate is None
    assert measure_rate(member, np.arange(1000.0), 0.001).estimate is not None
    for one, other in ((member[:0], member), (member, member[:0])):
        assert dataclasses.astuple(measure_area(one, other)) == (None, None, None)
        assert dataclasses.astuple(measure_rate(one, other, 0.01)) == (None, None, None)


def test_full_separation_has_a_lower_bound():
    """An area of 1 is not certainly 1: with three held-out passages far less than with 300."""
    few, many = (measure_area(np.arange(50.0) + 1000, np.arange(float(num))) for num in (3, 300))
    assert few.estimate == many.estimate == few.high == many.high == 1
    assert few.low < 0.95 < many.low < 1
    none = measure_area(np.arange(50.0), np.arange(300.0) + 1000)
    assert (none.estimate, none.low, none.high) == pytest.approx((0, 0, 1 - many.low))


def test_inflation_multiplies_the_standard_error():
    """On the scale of log odds the ends are as many times further away; the blind check's 1.5 times, for 5 turns."""
    generator = np.random.default_rng(0)
    above, below = generator.uniform(0.3, 1, 50), generator.uniform(0.3, 1, 60)
    plain, wide = (area_interval(0.65, above, below, inflation=inflation) for inflation in (1.0, 1.5))
    odds = {value: np.log(value / (1 - value)) for value in (plain.low, plain.high, wide.low, wide.high, 0.65)}
    assert odds[wide.high] - odds[0.65] == pytest.approx(1.5 * (odds[plain.high] - odds[0.65]))
    assert odds[0.65] - odds[wide.low] == pytest.approx(1.5 * (odds[0.65] - odds[plain.low]))
    assert pytest.approx(1.5) == INFLATION


@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (1, 1), (0.5, 3), (3, 1)])
@pytest.mark.parametrize("sizes", [(20, 20), (100, 30)])
def test_intervals_of_areas_hold_the_truth(shift, spread, sizes):
    """Normal scores: at least 91 % of 95 % intervals hold the true area, simulated 400 times."""
    generator = np.random.default_rng(2)
    truth = stats.norm.cdf(shift / np.hypot(1, spread))
    areas = [
        measure_area(generator.normal(shift, spread, sizes[0]), generator.normal(0, 1, sizes[1])) for _ in range(400)
    ]
    assert sum(area.low <= truth <= area.high for area in areas) >= 0.91 * 400


@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize(("false_rate", "num_control"), [(0.01, 100), (0.01, 400), (0.001, 1000)])
def test_intervals_of_rates_hold_the_truth(shift, spread, false_rate, num_control):
    """Normal scores: at least 93 % of 95 % intervals hold the true-positive rate of the true bound, 300 times."""
    generator = np.random.default_rng(4)
    truth = stats.norm.sf((stats.norm.isf(false_rate) - shift) / spread)
    rates = [
        measure_rate(generator.normal(shift, spread, 200), generator.normal(0, 1, num_control), false_rate)
        for _ in range(300)
    ]
    assert sum(rate.low <= truth <= rate.high for rate in rates) >= 0.93 * 300


def test_one_passage_of_a_document_and_one_of_its_copies_enter():
    """Of two passages the earlier; of documents in one cluster, or with one window, the first; left out: never."""
    rows = different_rows(7)
    rows[4] = rows[2]
    passages = passages_of(
        rows, member=[1, 1, 1, 1, 1, 0, 0], documents=[0, 0, 1, 2, 3, 0, 1], starts=[5, 0, 0, 0, 0, 0, 0]
    )
    facts = facts_of(passages, recited=np.zeros(7))
    units = units_of(passages, clusters=[0, 0, 1, 1, 3, 4, 5], kept=[1, 1, 1, 1, 1, 1, 0])
    assert representatives(facts, units).tolist() == [1, 2, 4, 5]
    joined = dataclasses.replace(units, window_R=np.array([0, 1, 2, 3, 2, 5, 6]))
    assert representatives(facts, joined).tolist() == [1, 2, 5]


def test_signals_of_a_model_that_knows_its_members():
    """Members at -1 and held-out ones at -3 nats a token: loss parts them, with the sizes of either side."""
    member = np.arange(150) < 40
    passages = passages_of(different_rows(150), member=member)
    generator = np.random.default_rng(0)
    log_probability = np.where(member, -1.0, -3.0)[:, None] + generator.normal(0, 0.1, (150, 7))
    facts = facts_of(passages, recited=np.zeros(150), log_probability=log_probability)
    loss = measure_signals(facts, units_of(passages), text_of)[0]
    assert (loss.name, loss.num_member, loss.num_control) == ("loss", 40, 110)
    assert (loss.auc.estimate, loss.tpr_at_1.estimate, loss.tpr_at_01.estimate) == (1, 1, None)


def test_a_passage_with_an_unknown_fact_is_left_out():
    """NaN in one member's facts takes that member away and moves no other; an impossible token is the lowest loss."""
    facts = random_facts(20, member=np.arange(20) < 10)
    facts.tokens.log_probability_RW[3, 2] = np.nan
    facts.tokens.log_probability_RW[4, 2] = -np.inf
    units = units_of(facts.passages)
    loss = measure_signals(facts, units, text_of)[0]
    assert (loss.num_member, loss.num_control) == (9, 10)
    values = signal_values(facts, np.arange(20), text_of)["loss"]
    assert np.isnan(values[3])
    assert values[4] == -np.inf
    kept = np.delete(values[:10], 3)
    below = [(member > values[10:]).mean() for member in kept]
    assert loss.auc.estimate == pytest.approx(np.mean(below))


def test_a_side_without_passages_is_unknown():
    """No held-out passage: no signal is known, and nothing fails."""
    passages = passages_of(different_rows(5), member=np.ones(5))
    for signal in measure_signals(facts_of(passages, recited=np.ones(5)), units_of(passages), text_of):
        assert (signal.num_member, signal.num_control) == (5, 0)
        assert signal.auc.estimate is signal.tpr_at_1.low is signal.tpr_at_01.high is None


def written(generator, num, *, shift=0.0):
    """Texts of 60 words by a Zipf law; `shift` of the words are another year's."""
    words = np.minimum(generator.zipf(1.3, (num, 60)), 5000)
    later = generator.random((num, 60)) < shift
    pairs = zip(words.tolist(), later.tolist(), strict=True)
    return [" ".join(f"w{word}{'x' * other}" for word, other in zip(*row, strict=True)) for row in pairs]


def test_files_of_one_distribution_are_comparable():
    """Two samples of one law: comparable in at least 3 of 4 draws, and never told apart."""
    generator = np.random.default_rng(0)
    found = [blind_check(written(generator, 600), written(generator, 600), seed=seed) for seed in range(4)]
    assert sum(check.is_comparable is True for check in found) >= 3
    assert not any(check.is_comparable is False for check in found)
    assert all(check.auc.low < 0.5 < check.auc.high for check in found[:1])


def test_intervals_of_the_blind_check_hold_one_half():
    """Two samples of 40 texts of one law: at least 26 of 30 intervals hold 0.5, and none is above 0.6."""
    generator = np.random.default_rng(7)
    areas = [blind_check(written(generator, 40), written(generator, 40), seed=seed).auc for seed in range(30)]
    assert sum(area.low <= 0.5 <= area.high for area in areas) >= 26
    assert max(area.low for area in areas) < 0.6


def test_files_of_other_words_are_not_comparable():
    """One word in twenty is of another year: told apart, and the sentence says what that means."""
    generator = np.random.default_rng(0)
    check = blind_check(written(generator, 300), written(generator, 300, shift=0.05))
    assert check.is_comparable is False
    assert check.auc.low > 0.6
    assert "signals prove nothing" in check.sentence


def test_files_of_other_lengths_are_not_comparable():
    """The same words, a third of them cut away: length alone tells the files apart."""
    generator = np.random.default_rng(0)
    shorter = [" ".join(text.split()[:40]) for text in written(generator, 200)]
    assert blind_check(written(generator, 200), shorter).is_comparable is False


def test_copies_are_not_recognised():
    """Each text ten times on its own side: one of each cluster is looked at, for a copy would be recognised."""
    generator = np.random.default_rng(1)
    members, controls = written(generator, 40) * 10, written(generator, 40) * 10
    clusters = [*np.tile(np.arange(40), 10), *(40 + np.tile(np.arange(40), 10))]
    apart, mixed = blind_check(members, controls, clusters), blind_check(members, controls)
    assert apart.auc.low < 0.5 < apart.auc.high
    assert "40 training and 40 held-out" in apart.sentence
    assert mixed.auc.estimate > 0.95


@pytest.mark.parametrize(("members", "controls"), [(19, 500), (500, 3), (0, 0)])
def test_few_texts_tell_nothing(members, controls):
    """Fewer than 20 texts of a side: unknown, and the sentence has both numbers."""
    check = blind_check(["a b"] * members, ["a b"] * controls)
    assert check.is_comparable is None
    assert f"{members} training and {controls} held-out" in check.sentence
    assert check.auc.estimate is None


def test_texts_without_words_do_not_fail():
    """Empty texts, one text for all, one cluster for all: an answer, if only that it cannot be told."""
    assert blind_check([""] * 30, [" "] * 30).is_comparable in {None, False, True}
    same = blind_check(["one text"] * 30, ["one text"] * 30)
    assert same.auc.estimate == 0.5
    assert blind_check(["a"] * 30, ["b"] * 30, np.zeros(60, int)).is_comparable is None  # one text of each side
