"""Which passages are one unit of inference, and which are left out of the findings.

Passages of one document, of its near-exact copies, and of documents that share a whole passage stand or fall together:
intervals draw them together. A held-out document that is a near-exact copy of a training document, and a held-out
passage that stands in the training files word for word, were seen in training: they are no control.

Axes: R passages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from mnemoscope.audit.facts import Passages
from mnemoscope.counting import find_clusters

if TYPE_CHECKING:
    from mnemoscope.audit.duplicates import Clusters


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """What each passage shares with others."""

    cluster_R: NDArray[np.int64]
    """Of its document: near-exact copies share it, whatever their group."""
    window_R: NDArray[np.int64]
    """The first passage with the same tokens."""
    is_kept_R: NDArray[np.bool_]
    """Whether it takes part in findings."""
    twin_R: NDArray[np.int64] | None = None
    """Shared by passages at the same place, by kind and order, of near-exact copies; None: no two are twins."""

    def join(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Of some passages, their unit: a number that passages of one cluster or one window share, by any chain."""
        _, cluster = np.unique(self.cluster_R[rows], return_inverse=True)
        _, window = np.unique(self.window_R[rows], return_inverse=True)
        num_clusters = int(cluster.max(initial=-1)) + 1
        size = num_clusters + int(window.max(initial=-1)) + 1
        links = sparse.csr_matrix((np.ones(len(rows), np.int8), (cluster, num_clusters + window)), shape=(size, size))
        _, unit = csgraph.connected_components(links, directed=False)
        return unit[cluster].astype(np.int64)

    def different(self) -> Units:
        """The same, with the first kept passage of each window alone: findings are then of different passages."""
        kept = np.flatnonzero(self.is_kept_R)
        _, first = np.unique(self.window_R[kept], return_index=True)
        is_first_R = np.zeros_like(self.is_kept_R)
        is_first_R[kept[first]] = True
        return replace(self, is_kept_R=is_first_R)

    def first_of_each(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """The first of some passages in each unit, in their order."""
        _, first = np.unique(self.join(rows), return_index=True)
        return np.asarray(rows, np.int64)[np.sort(first)]


def find_units(
    passages: Passages,
    clusters: Clusters,
    copies_R: NDArray[np.int64],
    *,
    is_left_out_R: NDArray[np.bool_] | None = None,
) -> Units:
    """The units of passages, given the duplicates of their documents and the copies of each in the training files.

    `is_left_out_R` names passages that are no part of findings, such as canaries, besides held-out ones that training
    has seen.
    """
    is_member_R = passages.is_member_R
    is_kept_R = is_member_R | ~seen_in_training(passages, clusters, copies_R)
    if is_left_out_R is not None:
        is_kept_R &= ~is_left_out_R
    cluster_R = np.empty(len(is_member_R), np.int64)
    cluster_R[is_member_R] = clusters.train_D[passages.document_R[is_member_R]]
    cluster_R[~is_member_R] = clusters.heldout_D[passages.document_R[~is_member_R]]
    twin_R = _find_twins(passages, cluster_R)
    return Units(cluster_R=cluster_R, window_R=find_windows(passages), is_kept_R=is_kept_R, twin_R=twin_R)


def _find_twins(passages: Passages, cluster_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Passages that are the i-th of their kind in documents of one cluster share a number."""
    _, kind_R = np.unique(passages.kind_R, return_inverse=True)
    order = np.lexsort((passages.start_R, kind_R, passages.document_R, passages.is_member_R))
    owner_RX = np.column_stack([passages.is_member_R, passages.document_R, kind_R])[order]
    is_first_R = np.append(True, (np.diff(owner_RX, axis=0) != 0).any(1))[: len(order)]
    places = np.arange(len(order))
    rank_R = np.empty(len(order), np.int64)
    rank_R[order] = places - np.maximum.accumulate(np.where(is_first_R, places, 0))
    _, twin_R = np.unique(np.column_stack([cluster_R, kind_R, rank_R]), axis=0, return_inverse=True)
    return twin_R.reshape(-1).astype(np.int64)


def seen_in_training(passages: Passages, clusters: Clusters, copies_R: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which held-out passages [R] training has seen: of a copied document, or copied themselves; False for members."""
    is_seen_R = ~passages.is_member_R & (copies_R > 0)
    rows = np.flatnonzero(~passages.is_member_R)
    is_seen_R[rows] |= clusters.is_contaminated_D[passages.document_R[rows]]
    return is_seen_R


def find_windows(passages: Passages) -> NDArray[np.int64]:
    """Of each passage the first one with the same tokens, and as many, int64 [R]."""
    if not len(passages.length_R):
        return np.zeros(0, np.int64)
    return find_clusters(np.column_stack([passages.length_R, passages.tokens_RW]))
