"""Which of the scored sequences are duplicates of one another: the unit of every interval, from `scores` tables.

Duplicates are sequences of one group whose windows have one hash. Axes: S sequences, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.errors import ConfigError, StoreError

COLUMNS: Final = ("sequence_id", "group", "context", "window_hash")
"""The columns of `scores` that are read here."""

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceClusters:
    """The clusters of duplicates of a group; the first sequence of a cluster stands for it. 18 bytes per sequence."""

    sequence_ids: IntArray
    """int64 [S], ascending: every scored sequence."""
    clusters: IntArray
    """int64 [S]: the smallest sequence_id of the sequence's cluster."""
    leads: NDArray[np.bool_]
    """bool [S], whether the sequence is its cluster's first."""
    alone: NDArray[np.bool_]
    """bool [S], whether it has no duplicate."""

    def look_up(self, sequence_ids: IntArray) -> Membership:
        """The sequences' clusters; ConfigError where one is not listed."""
        place = np.searchsorted(self.sequence_ids, sequence_ids).clip(0, len(self.sequence_ids) - 1)
        unknown = sequence_ids[self.sequence_ids[place] != sequence_ids]
        if unknown.size:
            raise ConfigError(f"clusters: no cluster for sequence {unknown[0]}; expected one for every scored sequence")
        return Membership(self.clusters[place], self.leads[place], self.alone[place])


class Membership(NamedTuple):
    """The clusters of some sequences."""

    cluster_S: IntArray
    leads_S: NDArray[np.bool_]
    """Whether the sequence stands for its cluster."""
    alone_S: NDArray[np.bool_]


def sequence_clusters(sequence_ids: IntArray, keys: IntArray) -> SequenceClusters:
    """The clusters of a group's sequences, given in any order: those with equal keys are duplicates."""
    if sequence_ids.shape != keys.shape or sequence_ids.ndim != 1 or not len(sequence_ids):
        shapes = f"{sequence_ids.shape} and {keys.shape}"
        raise ConfigError(f"clusters: shapes {shapes}; expected one key for each of one sequence or more")
    if (np.diff(sequence_ids) < 0).any():
        order = np.argsort(sequence_ids, kind="stable")
        sequence_ids, keys = sequence_ids[order], keys[order]
    order = np.argsort(keys, kind="stable")  # equal keys together, and then by sequence_id
    starts = np.flatnonzero(np.append(True, keys[order[1:]] != keys[order[:-1]]))
    sizes = np.diff(starts, append=len(keys))
    clusters, alone = np.empty_like(sequence_ids), np.empty(len(keys), np.bool_)
    clusters[order] = np.repeat(sequence_ids[order[starts]], sizes)
    alone[order] = np.repeat(sizes == 1, sizes)
    leads = np.zeros(len(keys), np.bool_)
    leads[order[starts]] = True
    return SequenceClusters(sequence_ids=sequence_ids, clusters=clusters, leads=leads, alone=alone)


def clusters_of_scores(tables: Iterable[pa.Table], *, context: int) -> dict[str, SequenceClusters]:
    """The clusters of each group, from one run's `scores` tables: all runs of a study have the same sequences.

    Reads the rows of one context, which every sequence has; sequences with windows of equal hash are duplicates.
    """
    parts: dict[str, list[tuple[IntArray, IntArray]]] = {}
    for table in tables:
        rows = table.filter(pa.array(table.column("context").to_numpy() == context))
        group_R = rows.column("group").to_numpy().astype(str)
        if rows.column("window_hash").null_count:
            raise StoreError("the scores have no window hashes (they were imported); expected scores made here")
        ids_R, hashes_R = (rows.column(name).to_numpy().astype(np.int64) for name in ("sequence_id", "window_hash"))
        for group in np.unique(group_R).tolist():
            is_own_R = group_R == group
            parts.setdefault(group, []).append((ids_R[is_own_R], hashes_R[is_own_R]))
    joined = {group: tuple(map(np.concatenate, zip(*some, strict=True))) for group, some in parts.items()}
    return {group: sequence_clusters(ids, hashes) for group, (ids, hashes) in joined.items()}


def clusters_of(clusters: Mapping[str, SequenceClusters], group: str) -> SequenceClusters:
    """The clusters of a group; ConfigError where there are none."""
    if group not in clusters:
        raise ConfigError(f"clusters: none for group {group!r}; expected those of every scored group")
    return clusters[group]
