"""Which passages are one unit of inference, and which are left out of the findings.

Passages of one document, of its near-exact copies, and of documents that share a whole passage stand or fall together:
intervals draw them together. A held-out document that is a near-exact copy of a training document, and a held-out
passage that stands in the training files word for word, were seen in training: they are no control.

Axes: R passages.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    def join(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Of some passages, their unit: a number that passages of one cluster or one window share, by any chain."""
        _, cluster = np.unique(self.cluster_R[rows], return_inverse=True)
        _, window = np.unique(self.window_R[rows], return_inverse=True)
        num_clusters = int(cluster.max(initial=-1)) + 1
        size = num_clusters + int(window.max(initial=-1)) + 1
        links = sparse.csr_matrix((np.ones(len(rows), np.int8), (cluster, num_clusters + window)), shape=(size, size))
        _, unit = csgraph.connected_components(links, directed=False)
        return unit[cluster].astype(np.int64)

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
    return Units(cluster_R=cluster_R, window_R=find_windows(passages), is_kept_R=is_kept_R)


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
