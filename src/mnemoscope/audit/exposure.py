"""What a model recites of its training passages, how many samples would say it, and what it nearly recites.

A passage is (N, p)-discoverable where at least one of N samples is its continuation with probability p or more:
1 - (1 - p_z)^N >= p, p_z the probability that one sample is (Hayes et al. 2024, "Measuring memorization through
probabilistic discoverable extraction"). Greedy decoding is its limit at temperature 0, where p_z is 0 or 1.

Axes: R passages, n tokens of a continuation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnemoscope.audit.facts import AuditFacts
from mnemoscope.audit.result import Compared, Extraction
from mnemoscope.audit.shares import compare, kinds_of
from mnemoscope.audit.units import Units

NUM_SAMPLES: Final = (1, 10, 100, 1000, 10_000)
PROBABILITIES: Final = (0.5, 0.9)
FULL_MATCH: Final = "full match"
LONG_RUN_TOKENS: Final = 50
"""A run of so many tokens is verbatim by any measure, whatever the continuation's length."""
_ROUNDING: Final = 1e-12
"""Relative: whole numbers of samples stay whole."""
_ROWS_AT_ONCE: Final = 4096
Floats = NDArray[np.float64]


class NearFacts(NamedTuple):
    """How near each passage's greedy path comes to its reference continuation."""

    similarity_R: Floats
    """1 - token edit distance / n; NaN where the passage is too short."""
    longest_run_R: NDArray[np.int64]
    """Tokens of the longest run that both have, wherever it stands in either; -1 where the passage is too short."""

    def is_near(self, least_similarity: float) -> NDArray[np.bool_]:
        """Which passages [R] are near-verbatim: those recited in full are, too."""
        return np.nan_to_num(self.similarity_R, nan=-1.0) >= least_similarity - _ROUNDING


def recited(facts: AuditFacts, units: Units) -> tuple[Compared, ...]:
    """Full matches in every cell of the grid, by kind and for all kinds."""
    return tuple(
        compare(
            facts.is_recited(context, n),
            is_known(facts, context, n),
            facts.passages,
            units,
            what=FULL_MATCH,
            kind=kind,
            context=label,
            n=n,
        )
        for context, label in enumerate(facts.context_labels)
        for n in facts.continuations
        for kind in kinds_of(facts.passages)
    )


def extraction(
    facts: AuditFacts,
    units: Units,
    *,
    num_samples: tuple[int, ...] = NUM_SAMPLES,
    probabilities: tuple[float, ...] = PROBABILITIES,
) -> tuple[Extraction, ...]:
    """(N, p)-discoverable passages of all kinds at the reference cell, for each way of sampling, N and p."""
    return tuple(_extraction(facts, units, num_samples, probabilities))


def _extraction(
    facts: AuditFacts, units: Units, num_samples: tuple[int, ...], probabilities: tuple[float, ...]
) -> Iterator[Extraction]:
    context, n = facts.reference
    for number, sampling in enumerate(facts.samplings):
        log_R = sampled_log_probability(facts, number)
        for probability in probabilities:
            needed_R = samples_needed(log_R, probability)
            for num in num_samples:
                compared = compare(
                    needed_R <= num,
                    ~np.isnan(log_R),
                    facts.passages,
                    units,
                    what=f"{sampling.name}, {num:,} samples, p = {probability:g}",
                    kind="all",
                    context=facts.context_labels[context],
                    n=n,
                )
                yield Extraction(sampling.name, num, probability, compared)


def samples_needed(log_probability: ArrayLike, probability: float) -> Floats:
    """Fewest samples of which at least one is the continuation with the given probability; inf: never.

    `log_probability` is that of one sample, in nats. More than 1e300 samples count as never; NaN gives NaN.
    """
    log_p = np.minimum(np.asarray(log_probability, np.float64), 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        # log(1 - e^x) as Maechler (2012), "Accurately computing log(1 - exp(-|a|))", cuts it at -ln 2.
        log_miss = np.where(log_p > -np.log(2), np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))
        # Below -30 the two logarithms differ by less than rounding, and e^x underflows from -745 on.
        needed = np.where(log_p < -30, -np.log1p(-probability) * np.exp(-log_p), np.log1p(-probability) / log_miss)
    whole = np.maximum(np.ceil(needed * (1 - _ROUNDING)), 1.0)
    return np.where(whole > 1e300, np.inf, whole)


def is_known(facts: AuditFacts, context: int, n: int) -> NDArray[np.bool_]:
    """Which passages [R] are long enough for a cell, and have a token before the continuation that predicts it."""
    return facts.fits(context, n) & (facts.passages.context_RC[:, context] > 0)


def sampled_log_probability(facts: AuditFacts, sampling: int) -> Floats:
    """In nats, that one sample is the reference continuation, float64 [R]; -inf never, NaN where it is too short."""
    return sum_continuation(facts, facts.tokens.sampled_RSW[:, sampling], *facts.reference)


def sum_continuation(facts: AuditFacts, values_RW: NDArray[np.floating], context: int, n: int) -> Floats:
    """Sums over the tokens of a cell's continuation, float64 [R]; NaN where the passage is too short."""
    sum_R = np.full(len(facts.passages.length_R), np.nan)
    values = facts.continuation_of(values_RW, context, n)
    sum_R[facts.fits(context, n)] = np.asarray(values, np.float64).sum(1)
    return sum_R


def measure_nearness(facts: AuditFacts) -> NearFacts:
    """Edit similarity and longest common run of each greedy path from the reference context with the truth."""
    from rapidfuzz.distance import Levenshtein

    context, n = facts.reference
    num = len(facts.passages.length_R)
    similarity_R, longest_run_R = np.full(num, np.nan), np.full(num, -1, np.int64)
    rows = np.flatnonzero(is_known(facts, context, n))
    places = facts.passages.context_RC[rows, context][:, None] + np.arange(n)
    true_Rn, path_Rn = facts.passages.tokens_RW[rows[:, None], places], facts.path_Rn[rows, :n]
    is_same = (true_Rn == path_Rn).all(1)
    similarity_R[rows], longest_run_R[rows] = 1.0, n
    for at in np.flatnonzero(~is_same).tolist():
        distance = Levenshtein.distance(true_Rn[at].tolist(), path_Rn[at].tolist())
        similarity_R[rows[at]] = 1 - distance / n
    longest_run_R[rows[~is_same]] = longest_runs(true_Rn[~is_same], path_Rn[~is_same])
    return NearFacts(similarity_R, longest_run_R)


def longest_runs(one_Rn: NDArray[np.integer], other_Rn: NDArray[np.integer]) -> NDArray[np.int64]:
    """Tokens of the longest run that two rows share, at any places of either, int64 [R]."""
    num, width = one_Rn.shape
    longest_R = np.zeros(num, np.int64)
    for start in range(0, num, _ROWS_AT_ONCE):
        one, other = one_Rn[start : start + _ROWS_AT_ONCE], other_Rn[start : start + _ROWS_AT_ONCE]
        # Of the runs that end at a token of the one: their lengths, by the token of the other where they end.
        ending = np.zeros((len(one), width + 1), np.int32)
        for place in range(width):
            ending[:, 1:] = np.where(one[:, place, None] == other, ending[:, :-1] + 1, 0)
            np.maximum(longest_R[start : start + len(one)], ending.max(1), out=longest_R[start : start + len(one)])
    return longest_R


def near_verbatim(facts: AuditFacts, units: Units, near: NearFacts, *, least_similarity: float) -> tuple[Compared, ...]:
    """Near-verbatim passages at the reference cell: by edit similarity, by a run of half the continuation, by a run of
    `LONG_RUN_TOKENS` where the continuation is as long.
    """
    context, n = facts.reference
    half = (n + 1) // 2
    criteria = [
        (f"edit similarity of {least_similarity:g} or more", near.is_near(least_similarity)),
        (f"common run of {half} tokens or more", near.longest_run_R >= half),
    ]
    if n >= LONG_RUN_TOKENS:
        criteria.append((f"common run of {LONG_RUN_TOKENS} tokens or more", near.longest_run_R >= LONG_RUN_TOKENS))
    label, known_R = facts.context_labels[context], near.longest_run_R >= 0
    return tuple(
        compare(hits_R, known_R, facts.passages, units, what=what, kind=kind, context=label, n=n)
        for what, hits_R in criteria
        for kind in kinds_of(facts.passages)
    )
