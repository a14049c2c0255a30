"""An audit's result -> what to do about it, most pressing first, each with the finding that it follows from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mnemoscope.audit.leaks import CODE_KINDS
from mnemoscope.audit.result import AuditResult, Criterion
from mnemoscope.audit.verdict import at_reference, judged_extraction, wider_side
from mnemoscope.report.spoken import plural


class Advice(NamedTuple):
    """What to do, why, and where on the page it follows from."""

    deed: str
    reason: str
    place: str
    """The name of a part of the page: leaks, copies, exposed, signals, recited."""


def advise(result: AuditResult) -> tuple[Advice, ...]:
    """What to do; empty where nothing is."""
    return tuple(_advise(result))


def _advise(result: AuditResult) -> Iterator[Advice]:
    states = {one.name: one.state for one in result.criteria}
    private = [leak for leak in result.leaks if leak.kind not in CODE_KINDS and leak.num_spans]
    if private:
        count = sum(leak.num_spans for leak in private)
        yield Advice(
            f"Remove {plural(count, 'private thing')} from the training file and train again",
            "The model says them word for word; whoever has it has them. Revoke what can be revoked: keys, passwords.",
            "leaks",
        )
    yield from _advise_copies(result)
    is_recited = any(states.get(f"max_{what}_excess") == "fail" for what in ("recited", "near", "extractable"))
    if is_recited and not any(cluster.num_documents > 1 for cluster in result.clusters):
        yield _advise_training(result)
    if states.get("max_signal_tpr_at_1") == "unknown" and result.blind and result.blind.is_comparable is False:
        yield Advice(
            "Give a held-out file of the same kind as the training file",
            "A classifier that sees no model tells the two apart, so that membership signals prove nothing.",
            "signals",
        )
    yield from _advise_passages(result)


def _advise_copies(result: AuditResult) -> Iterator[Advice]:
    clusters = [cluster for cluster in result.clusters if cluster.num_documents > 1]
    if not clusters:
        return
    fewer = round(sum(cluster.expected_fewer for cluster in clusters))
    spared = f"about {plural(fewer, 'recited passage')}" if fewer else "less than one recited passage"
    tokens = sum(cluster.num_tokens for cluster in clusters)
    which = "the one cluster" if len(clusters) == 1 else f"each of the {len(clusters):,} clusters"
    yield Advice(
        f"Keep one document of {which} of copies that help most, and train again",
        f"By the dose-response that would spare {spared}, and {tokens:,} tokens of training.",
        "copies",
    )


def _advise_training(result: AuditResult) -> Advice:
    """What to do where no removal of copied documents helps, by what is recited with copies and without."""
    once = [dose.recited for dose in result.doses if dose.low == 1]
    more = [dose.recited for dose in result.doses if dose.low > 1]
    (single, num_single), (copied, num_copied) = (
        (sum(share.count for share in shares), sum(share.n for share in shares)) for shares in (once, more)
    )
    if num_single and copied * num_single > single * num_copied:
        return Advice(
            "Remove what is repeated inside different documents, and train again",
            f"{copied:,} of {num_copied:,} passages with copies are recited, and {single:,} of {num_single:,} without, "
            "but the documents that hold them are no copies of one another.",
            "copies",
        )
    if not copied:
        reason = "What is recited stands in the training file once: it is not copies that are learned by heart."
    elif num_single:
        reason = (
            "What has copies is recited no more often than what has none: it is not copies that are learned by heart."
        )
    else:
        reason = "All that was tried has copies, so that it is not known whether fewer of them would do."
    return Advice("Train for fewer epochs, or with a smaller learning rate", reason, "exposed")


def _advise_passages(result: AuditResult) -> Iterator[Advice]:
    """More passages, of the side that leaves something undecided; nothing where more would not help."""
    sides = set[str]()
    for one in result.criteria if result.state == "unknown" else ():
        if one.decides and one.state == "unknown":
            sides |= _lacking(one, result)
    if not sides:
        return
    row = at_reference(result.matches, result)
    tried = "none of either side was" if row is None else f"{row.member.n:,} training and {row.control.n:,} held-out"
    which = sides.pop() if len(sides) == 1 else "training and held-out"
    yield Advice(
        f"Try more {which} passages",
        f"Intervals narrow with the number of independent passages, and {tried} were long enough: give more documents, "
        "or longer ones, or draw a larger sample of them.",
        "recited",
    )


def _lacking(one: Criterion, result: AuditResult) -> set[str]:
    """The sides, `training` and `held-out`, of which more passages would decide a criterion."""
    if one.name == "max_canaries_recited" or (one.name.endswith("excess") and one.threshold <= 0):
        return set()
    if one.name == "max_signal_tpr_at_1":
        return set() if result.blind is not None and result.blind.is_comparable is False else {"held-out"}
    sampled = judged_extraction(result)
    own = {
        "max_near_excess": at_reference(result.near, result),
        "max_extractable_excess": None if sampled is None else sampled.compared,
    }
    row = own.get(one.name, at_reference(result.matches, result))
    if row is None:  # not computed in this audit
        return set()
    sides = {"training": row.member, "held-out": row.control}
    least = one.threshold if one.name == "min_passages" else 1
    return {side for side, share in sides.items() if share.num_unique < least} or {wider_side(row)}
