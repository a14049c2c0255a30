"""Sample sizes against brute force, numbers by hand, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mnemoscope.intervals import newcombe, wilson
from mnemoscope.sample_sizes import (
    Population,
    cautious_share,
    design_effect,
    excess_size,
    half_width,
    reach,
    sample_size,
)

ENDLESS = Population(10**15)


def half(count: float, n: float, level: float = 0.95) -> float:
    """Half of Wilson's interval as the analyses have it."""
    ends = wilson(count, n, level)
    return float(ends.high - ends.low) / 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_half_width_is_that_of_the_printed_interval(share, level):
    """Half the width equals that of `intervals.wilson` for the same share and n."""
    for n in (10, 1000, 123_456):
        assert half_width(share, n, level) == pytest.approx(half(share * n, n, level), rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("within", [0.02, 0.05])
@pytest.mark.parametrize("num_sequences", [50, 700, 10**15])
def test_size_is_the_first_that_fits(share, within, num_sequences):
    """Trying 1, 2, 3 ... gives the same size; a finite population widens n by (N - 1) / (N - n)."""

    def fits(n: int) -> bool:
        if n >= num_sequences:
            return True
        effective = n * (num_sequences - 1) / (num_sequences - n)
        return half(share * effective, effective) <= within

    first = next(n for n in range(1, 10_000) if fits(n))
    assert sample_size(share, within, Population(num_sequences)) == first


def test_sizes_by_hand():
    """One half within 1 point at 95 %: z^2 / (4 d^2) - z^2; a share of 0 within d: z^2 (1 / (2 d) - 1)."""
    z = 1.959963984540054
    assert sample_size(0.5, 0.01, ENDLESS) == math.ceil(z * z / (4 * 0.01**2) - z * z) == 9600
    assert sample_size(0.0, 0.001, ENDLESS) == math.ceil(z * z * (1 / 0.002 - 1)) == 1917


def test_size_for_the_pile_in_closed_form():
    """70M at 32 + 16 tokens: the larger root of d^2 (m + z^2)^2 = z^2 (m p q + z^2 / 4), then n = m N / (N - 1 + m)."""
    z, d, num_sequences, num_full = 1.959963984540054, 0.001, 146_432_000, 894_809
    variance = num_full / num_sequences * (1 - num_full / num_sequences) - 2 * d * d
    m = z * z * (variance + math.sqrt(variance**2 - d * d * (4 * d * d - 1))) / (2 * d * d)
    size = sample_size(num_full / num_sequences, d, Population(num_sequences))
    assert size == math.ceil(m * num_sequences / (num_sequences - 1 + m)) == 23_477


def test_size_never_exceeds_the_corpus():
    """All of it is always enough, and known without an interval."""
    for num_sequences in (1, 2, 17, 510):
        population = Population(num_sequences)
        size = sample_size(0.3, 1e-9, population)
        assert size == num_sequences
        assert reach(0.3, size, population) == 0.0


def test_finite_population_correction():
    """Half of a corpus says as much as twice its number of independent draws: 500 of 1,000 as 999."""
    assert Population(1000).effective_size(500) == pytest.approx(500 * 999 / 500)
    assert Population(1000).effective_size(1000) == math.inf
    assert Population(10**12).effective_size(500) == pytest.approx(500)


def test_size_grows_with_what_is_asked_and_with_duplicates():
    """Narrower, surer, nearer to one half, or with duplicates: never a smaller sample."""
    plain, doubled = Population(10**6), Population(10**6, 1.02, 500)
    sizes = [sample_size(share, 0.01, plain) for share in np.linspace(0, 0.5, 30)]
    assert sizes == sorted(sizes)
    assert sample_size(0.1, 0.005, plain) > sample_size(0.1, 0.01, plain)
    assert sample_size(0.1, 0.01, plain, level=0.99) > sample_size(0.1, 0.01, plain)
    assert sample_size(0.1, 0.01, doubled) > sample_size(0.1, 0.01, plain)


def test_design_effect_by_hand():
    """Rows that are all in pairs count half: 2; without duplicates 1; of equal values the sizes decide: (4 + 1) / 3."""
    pairs = np.repeat(np.arange(50), 2)
    matched = np.repeat(np.arange(50) < 10, 2)
    assert design_effect(matched, pairs) == pytest.approx(2.0)
    assert design_effect(matched, np.arange(100)) == 1.0
    assert design_effect(np.zeros(3, bool), np.array([7, 7, 9])) == pytest.approx(5 / 3)


def test_duplicates_grow_with_the_sample():
    """Of a corpus where each row stands twice, a sample of n has design effect 1 + (n - 1) / (N - 1), on average."""
    num_sequences, num_pilot, num_sampled = 2000, 400, 1200
    cluster_N = np.repeat(np.arange(num_sequences // 2), 2)
    matched_N = np.repeat(np.random.default_rng(0).random(num_sequences // 2) < 0.3, 2)
    generator = np.random.default_rng(1)

    def mean_effect(size: int) -> float:
        draws = [generator.choice(num_sequences, size, replace=False) for _ in range(300)]
        return float(np.mean([design_effect(matched_N[rows], cluster_N[rows]) for rows in draws]))

    pilot = mean_effect(num_pilot)
    assert pilot == pytest.approx(1 + (num_pilot - 1) / (num_sequences - 1), abs=0.01)
    scaled = Population(num_sequences, pilot, num_pilot).duplicates_effect(num_sampled)
    assert scaled == pytest.approx(mean_effect(num_sampled), abs=0.02)


def test_cautious_share_needs_most():
    """No share of the pilot's interval needs a larger sample than the cautious one; of no match it is the upper end."""
    assert cautious_share(0, 100) == pytest.approx(float(wilson(0, 100).high))
    assert cautious_share(100, 100) == pytest.approx(float(wilson(100, 100).low))
    assert cautious_share(49, 100) == 0.5
    for count in (0, 3, 60, 97):
        ends = wilson(count, 100)
        most = max(sample_size(share, 0.01, ENDLESS) for share in np.linspace(float(ends.low), float(ends.high), 400))
        assert sample_size(cautious_share(count, 100), 0.01, ENDLESS) == pytest.approx(most, rel=0.001)


@pytest.mark.parametrize(("share", "control_share"), [(0.1, 0.01), (0.02, 0.0), (0.5, 0.5)])
def test_excess_size_is_the_first_that_fits(share, control_share):
    """Of endless members and control, the first n at which Newcombe's interval is at most 2 x 3 points wide."""

    def width(n: int) -> float:
        found = newcombe(share * n, n, control_share * n, n)
        return float(found.high - found.low) / 2

    first = next(n for n in range(1, 10_000) if width(n) <= 0.03)
    found = excess_size(share, control_share, 0.03, members=ENDLESS, control=ENDLESS)
    assert found.num_members == found.num_control == first
    assert found.within == pytest.approx(width(first))


def test_excess_of_a_small_control():
    """Where the control has too few, all of both are needed, and the width that is left is the control's own."""
    found = excess_size(0.2, 0.05, 0.001, members=Population(10_000), control=Population(200))
    assert (found.num_members, found.num_control) == (10_000, 200)
    assert found.within == pytest.approx(half(0.05 * 200, 200), rel=1e-6)
    enough = excess_size(0.2, 0.05, 0.05, members=Population(10_000), control=Population(200))
    assert enough.within <= 0.05
    assert enough.num_members <= 10_000


@pytest.mark.parametrize(("num_sequences", "num_full"), [(20_000, 1_000), (20_000, 40), (3_000, 1_500)])
def test_coverage_at_the_proposed_size(num_sequences, num_full):
    """Samples of the proposed size, drawn without replacement, are off by more than wanted in about 5 % of draws."""
    share, within = num_full / num_sequences, 0.01 if num_full > 100 else 0.001
    size = sample_size(share, within, Population(num_sequences))
    assert size < num_sequences
    drawn = np.random.default_rng(3).hypergeometric(num_full, num_sequences - num_full, size, 40_000)
    off = np.abs(drawn / size - share) > within
    assert off.mean() < 0.065
