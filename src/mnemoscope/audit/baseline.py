"""Two audits, passage by passage: what the later one recites that the earlier did not, and the other way round.

A passage is known by a hash of its tokens, so that both audits need the same tokenizer, grid and passages, and nothing
else. The unit is a different passage; near-exact copies with other tokens count as passages of their own.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.exposure import NearFacts, is_known
from mnemoscope.audit.facts import AuditFacts
from mnemoscope.audit.result import AuditResult, Changed, Difference
from mnemoscope.audit.shares import LEVEL, UNKNOWN
from mnemoscope.audit.units import Units
from mnemoscope.errors import ConfigError
from mnemoscope.intervals import normal_quantile

_GROUPS: Final = {"m": "training passages", "c": "held-out passages"}
_FACTS: Final = ("recited", "near-verbatim")
"""In the order in which they stand in an outcome, after the group."""
_HASH_DIGITS: Final = 16


def outcomes_of(facts: AuditFacts, units: Units, near: NearFacts, *, least_similarity: float) -> dict[str, str]:
    """`AuditResult.outcomes`: of each kept passage that is long enough for the reference cell, by its hash."""
    known_R = units.is_kept_R & is_known(facts, *facts.reference)
    is_full_R, is_near_R = facts.is_recited(*facts.reference), near.is_near(least_similarity)
    return {
        hash_passage(
            facts, row
        ): f"{'m' if facts.passages.is_member_R[row] else 'c'}{is_full_R[row]:d}{is_near_R[row]:d}"
        for row in np.flatnonzero(known_R).tolist()
    }


def hash_passage(facts: AuditFacts, row: int) -> str:
    """16 hex digits of a passage's tokens and of where its continuation begins."""
    passages, context = facts.passages, facts.reference[0]
    tokens: NDArray[np.int32] = passages.tokens_RW[row, : passages.length_R[row]]
    hashed = hashlib.sha256(f"{passages.context_RC[row, context]}\n".encode())
    hashed.update(tokens.astype("<i4").tobytes())
    return hashed.hexdigest()[:_HASH_DIGITS]


def compare_audits(now: AuditResult, earlier: AuditResult) -> tuple[Changed, ...]:
    """Recited and near-verbatim passages that both audits have, training and held-out ones apart.

    ConfigError where the audits' reference cells differ, or no passage is in both. Near-verbatim passages are left out
    where the two mean different things by it (see `comparison_notes`).
    """
    ours, theirs = reference_of(now), reference_of(earlier)
    if ours != theirs:
        raise ConfigError(
            f"baseline: its passages have context {theirs[0]} and continuation {theirs[1]}, those of this audit "
            f"{ours[0]} and {ours[1]}; expected the same (set `contexts` and `continuations` as they were)"
        )
    common = _common(now, earlier)
    if not common:
        raise ConfigError(
            f"baseline: none of its {len(earlier.outcomes):,} passages is among the {len(now.outcomes):,} of this "
            "audit; expected an audit of the same files, tokenizer, grid and seed"
        )
    facts = _FACTS if _nearness(now) == _nearness(earlier) else _FACTS[:1]
    return tuple(
        _change(now, earlier, [name for name in common if now.outcomes[name][0] == group], place, f"{fact}, {words}")
        for place, fact in enumerate(facts, start=1)
        for group, words in _GROUPS.items()
    )


def comparison_notes(now: AuditResult, earlier: AuditResult) -> tuple[str, ...]:
    """What a reader of the comparison has to know: what is left out of it."""
    notes: list[str] = []
    num_common, num_now, num_earlier = len(_common(now, earlier)), len(now.outcomes), len(earlier.outcomes)
    if not num_common == num_now == num_earlier:
        notes.append(
            f"Compared with the earlier audit are the {num_common:,} passages that both have, of {num_now:,} now and "
            f"{num_earlier:,} then."
        )
    num_moved = len(now.outcomes.keys() & earlier.outcomes.keys()) - num_common
    if num_moved:
        notes.append(f"{num_moved:,} passages are training text in one audit and held out in the other: left out.")
    if _nearness(now) != _nearness(earlier):
        notes.append(
            f"Near-verbatim passages are not compared: {_nearness(now) or 'nothing'} now, "
            f"{_nearness(earlier) or 'nothing'} then."
        )
    return tuple(notes)


def reference_of(result: AuditResult) -> tuple[str, int]:
    """The reference cell that a result's outcomes are of: its context's label and its continuation."""
    if result.reference is not None:
        return result.reference
    for compared in (*(row.compared for row in result.extraction), *result.near, *result.matches):
        return compared.context, compared.continuation
    raise ConfigError("baseline: an audit without any cell given; expected one that has compared something")


def _nearness(result: AuditResult) -> str | None:
    """What a result calls near-verbatim."""
    return result.near[0].what if result.near else None


def _common(now: AuditResult, earlier: AuditResult) -> list[str]:
    """The hashes of passages that both have in the same group."""
    return [name for name, outcome in now.outcomes.items() if earlier.outcomes.get(name, " ")[0] == outcome[0]]


def _change(now: AuditResult, earlier: AuditResult, names: list[str], place: int, what: str) -> Changed:
    is_now, was = (
        np.array([result.outcomes[name][place] == "1" for name in names], np.bool_) for result in (now, earlier)
    )
    only_now, only_earlier = int((is_now & ~was).sum()), int((was & ~is_now).sum())
    return Changed(
        what=what,
        n=len(names),
        earlier=int(was.sum()),
        now=int(is_now.sum()),
        only_earlier=only_earlier,
        only_now=only_now,
        difference=paired_difference(only_now, only_earlier, len(names)),
        p_value=mcnemar(only_now, only_earlier) if names else None,
    )


def mcnemar(one: int, other: int) -> float:
    """The exact two-sided p-value of McNemar's test, from the pairs that changed either way; 1 where none did."""
    from scipy import stats

    return float(stats.binomtest(one, one + other, 0.5).pvalue) if one + other else 1.0


def paired_difference(one: int, other: int, n: int) -> Difference:
    """(one - other) / n, the difference of two paired shares, with its score interval; unknown where n is 0.

    Tango (1998), Statistics in Medicine 17:891: the differences from which the measured one is z standard errors away,
    these as they would be there.
    """
    if not n:
        return UNKNOWN
    from scipy import optimize

    z, measured = normal_quantile(LEVEL), (one - other) / n

    def excess(true: float) -> float:
        linear = -one - other + (2 * n - one + other) * true
        root = math.sqrt(max(linear * linear + 8 * n * other * true * (1 - true), 0.0))
        share = (root - linear) / (4 * n)
        return (one - other - n * true) ** 2 - z * z * n * max(2 * share + true * (1 - true), 0.0)

    ends: list[float] = []
    for end in (-1.0, 1.0):
        # From the measured difference on the excess is negative, at first or at once; at the ends nothing can vary.
        inner = measured + (end - measured) * 1e-9
        ends.append(end if excess(end) <= 0 else cast("float", optimize.brentq(excess, inner, end)))
    return Difference(measured, ends[0], ends[1])
