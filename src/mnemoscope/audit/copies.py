"""How often each passage stands in the training files, and what that does to what is recited.

Dose-response takes each different window once, so that one text repeated a thousand times is one observation of its
dose and not a thousand.

Axes: R passages, D documents, G doses, N different windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.duplicates import Clusters, TokenDocuments
from mnemoscope.audit.exposure import is_known
from mnemoscope.audit.facts import AuditFacts, Passages
from mnemoscope.audit.result import Cluster, Dose
from mnemoscope.audit.shares import measure_share
from mnemoscope.audit.units import Units
from mnemoscope.counting import count_rows, plan_counts

DOSES: Final = (1, 2, 4, 8, 16, 32)
"""The least copies of each dose; the last one is open."""
MAX_CLUSTERS: Final = 50
_BLOCK_TOKENS: Final = 1 << 22
_SHOWN_LINES: Final = 10
_SHOWN_TOKENS: Final = 48
Tokens = NDArray[np.int32]


class TrainingDocuments(TokenDocuments, Protocol):
    """Documents that also say where they stand."""

    @property
    def lines(self) -> NDArray[np.int64]:
        """[N]: the line of each."""
        ...


class DoseWindows(NamedTuple):
    """The different windows of members that a dose-response rests on."""

    rows_N: NDArray[np.int64]
    """The first passage of each."""
    copies_N: NDArray[np.int64]
    is_recited_N: NDArray[np.bool_]
    unit_N: NDArray[np.int64]
    """What is drawn together."""


def count_copies(passages: Passages, train: TokenDocuments) -> NDArray[np.int64]:
    """How often all tokens of each passage stand in a row in one training document, int64 [R]; members: 1 or more."""
    copies_R = np.zeros(len(passages.length_R), np.int64)
    by_length = {
        int(length): np.flatnonzero(passages.length_R == length) for length in np.unique(passages.length_R) if length
    }
    requests = {
        length: plan_counts(passages.tokens_RW[rows, :length], ngram_sizes=()) for length, rows in by_length.items()
    }
    for block in _blocks(train):
        for length, request in requests.items():
            counts = count_rows(request, block)
            copies_R[by_length[length]] += counts.occurrences[-1][request.windows.number_RP[:, 0]]
    return copies_R


def _blocks(documents: TokenDocuments) -> Iterator[list[Tokens]]:
    """All documents, some millions of tokens at a time."""
    block: list[Tokens] = []
    size = 0
    for document in range(documents.num):
        block.append(documents.tokens(document))
        size += len(block[-1])
        if size >= _BLOCK_TOKENS:
            yield block
            block, size = [], 0
    if block:
        yield block


def dose_windows(facts: AuditFacts, units: Units, copies_R: NDArray[np.int64]) -> DoseWindows:
    """Members' different windows that are long enough for the reference cell, once each."""
    known_R = facts.passages.is_member_R & units.is_kept_R & is_known(facts, *facts.reference)
    rows = np.flatnonzero(known_R)
    _, first = np.unique(units.window_R[rows], return_index=True)
    rows = rows[np.sort(first)]
    is_recited_R = facts.is_recited(*facts.reference)
    return DoseWindows(rows, np.maximum(copies_R[rows], 1), is_recited_R[rows], units.join(rows))


def doses(windows: DoseWindows) -> tuple[Dose, ...]:
    """The share recited of different windows, by copies; every dose has a row, empty ones too."""
    highs = [*(low - 1 for low in DOSES[1:]), None]
    dose_N = dose_of(windows.copies_N)
    return tuple(
        Dose(low, high, measure_share(windows.is_recited_N[dose_N == number], windows.unit_N[dose_N == number]))
        for number, (low, high) in enumerate(zip(DOSES, highs, strict=True))
    )


def dose_of(copies: NDArray[np.integer]) -> NDArray[np.int64]:
    """The number of each one's dose in `DOSES`."""
    return np.searchsorted(DOSES, copies, side="right") - 1


def smooth_rates(windows: DoseWindows) -> NDArray[np.float64]:
    """The share recited at each dose, float64 [G]: never less at a higher one, never 0 or 1.

    Half a passage of either kind is added to each dose (Jeffreys), and neighbours that fall are pooled. A dose that no
    window has takes the rate of the next lower one that some have, else of the lowest.
    """
    from scipy.optimize import isotonic_regression

    dose_N = dose_of(windows.copies_N)
    num_G = np.bincount(dose_N, minlength=len(DOSES))
    recited_G = np.bincount(dose_N[windows.is_recited_N], minlength=len(DOSES))
    held = np.flatnonzero(num_G)
    rates = isotonic_regression((recited_G[held] + 0.5) / (num_G[held] + 1), weights=num_G[held] + 1).x
    return rates[np.maximum(np.searchsorted(held, np.arange(len(DOSES)), side="right") - 1, 0)]


def deduplicate_first(
    facts: AuditFacts,
    windows: DoseWindows,
    clusters: Clusters,
    train: TrainingDocuments,
    *,
    text_of: Callable[[Tokens], str],
    limit: int = MAX_CLUSTERS,
) -> tuple[Cluster, ...]:
    """Clusters of copies whose removal, but for one copy, would spare most recited passages; the most first.

    A recited window of dose d counts 1 - rate at one copy / rate at d, by `smooth_rates`. Here the dose is the copies,
    or the documents of the cluster where these are more: near-exact copies teach nearly the same. What the model would
    have been without them is not known: this orders, it does not promise.
    """
    if not windows.is_recited_N.any():
        return ()
    sizes, cluster_N = clusters.sizes(), clusters.train_D[facts.passages.document_R[windows.rows_N]]
    taught = windows._replace(copies_N=np.maximum(windows.copies_N, sizes[cluster_N]))
    rate_G, dose_N = smooth_rates(taught), dose_of(taught.copies_N)
    spared: dict[int, list[float]] = defaultdict(list)
    for place in np.flatnonzero(windows.is_recited_N & (sizes[cluster_N] > 1)).tolist():
        spared[int(cluster_N[place])].append(1 - float(rate_G[0] / rate_G[dose_N[place]]))
    order = sorted(spared, key=lambda cluster: (-sum(spared[cluster]), -len(spared[cluster]), cluster))
    helpful = [cluster for cluster in order if sum(spared[cluster]) > 0][:limit]
    return tuple(_describe(cluster, spared[cluster], clusters, train, text_of) for cluster in helpful)


def _describe(
    cluster: int,
    spared: list[float],
    clusters: Clusters,
    train: TrainingDocuments,
    text_of: Callable[[Tokens], str],
) -> Cluster:
    documents = np.flatnonzero(clusters.train_D == cluster)
    lengths = [len(train.tokens(document)) for document in documents.tolist()]
    return Cluster(
        cluster=cluster,
        num_documents=len(documents),
        lines=tuple(int(line) for line in train.lines[documents[:_SHOWN_LINES]]),
        num_recited=len(spared),
        expected_fewer=sum(spared),
        num_tokens=sum(lengths) - max(lengths),
        text=text_of(train.tokens(int(documents[0]))[:_SHOWN_TOKENS]),
    )
