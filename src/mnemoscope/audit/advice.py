"""An audit's result -> what to do about it, most pressing first, each with the finding that it follows from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mnemoscope.audit.leaks import CODE_KINDS
from mnemoscope.audit.result import AuditResult
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
        yield Advice(
            "Train for fewer epochs, or with a smaller learning rate",
            "What is recited stands in the training file once: it is not copies that are learned by heart.",
            "exposed",
        )
    is_proven = result.blind is None or result.blind.is_comparable is not False
    if states.get("max_signal_tpr_at_1") == "unknown" and not is_proven:
        yield Advice(
            "Give a held-out file of the same kind as the training file",
            "A classifier that sees no model tells the two apart, so that nothing follows from what the model does.",
            "signals",
        )
    if result.state == "unknown" and any(one.decides and one.state == "unknown" for one in result.criteria):
        yield Advice(
            "Try more passages, held-out ones above all",
            "Intervals narrow with the number of different passages; raise the sample, or give longer files.",
            "recited",
        )


def _advise_copies(result: AuditResult) -> Iterator[Advice]:
    clusters = [cluster for cluster in result.clusters if cluster.num_documents > 1]
    if not clusters:
        return
    fewer = sum(cluster.expected_fewer for cluster in clusters)
    tokens = sum(cluster.num_tokens for cluster in clusters)
    yield Advice(
        f"Keep one document of each of the {plural(len(clusters), 'cluster')} of near-copies listed, and train again",
        f"By the dose-response that would spare about {fewer:,.0f} recited passages, and {tokens:,} tokens.",
        "copies",
    )
