"""How often a run in half precision says something else than float32 does: counts over a sample that both scored.

A sequence *changes* at (k, n) if its first mismatch, or one of its known match bits, is another among the first n.
All pure. Axes: R rows of a context, n index in the continuation, N continuations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.cluster_shares import count_classes, share_intervals
from mnemoscope.analyses.clusters import SequenceClusters, sequence_clusters
from mnemoscope.config import Grid
from mnemoscope.intervals import Interval
from mnemoscope.shards import per_continuation

REFERENCE: Final = "float32_"
"""What the columns of the other computation begin with."""
LEVEL: Final = 0.95
_ONLY_CHANGED: Final = np.array([[0], [1]])
_ALL: Final = np.array([[1], [1]])


class FlipCount(NamedTuple):
    """Of one group at one context k and continuation n."""

    group: str
    context: int
    continuation: int
    num_sequences: int
    num_unique: int
    num_bits: int
    """Match bits that both know, n for each such sequence."""
    num_bits_flipped: int
    num_first_changed: int
    """Sequences whose first mismatch among the first n is another."""
    num_gained: int
    """Full matches that float32 does not have."""
    num_lost: int
    """Full matches that only float32 has."""
    num_changed: int
    num_changed_near: int
    """Those whose float32 path up to n has a margin below the threshold: an audit at it is there to find them."""
    share_low: float
    """Of the share of sequences that change, 95 %, clusters of duplicates resampled; so is the next."""
    share_high: float
    full_low: float
    """Of the share of full matches that were gained or lost."""
    full_high: float
    largest_log_probability_difference: float
    """Nats, of the truth's log-probability, absolute."""
    largest_margin_difference: float | None
    """Logits, of the smallest margin, absolute, over the paths that keep to the truth in both; None where none does."""


class _Rows(NamedTuple):
    """What both computations say of a group at a context, by ascending sequence_id."""

    clusters: SequenceClusters
    first_R2: NDArray[np.int64]
    """int64 [R, 2]: the run's and float32's."""
    bits_Rn: NDArray[np.bool_] | None
    """bool [R, n_max]: which differ; None where bits are not known."""
    has_bits_R: NDArray[np.bool_]
    margin_RN2: NDArray[np.float32]
    log_probability_RN2: NDArray[np.float32]


def count_flips(table: pa.Table, grid: Grid, *, threshold: float) -> list[FlipCount]:
    """The counts of each group, context and continuation, from a table of `flips`; `threshold` in logits."""
    counts: list[FlipCount] = []
    group_R = np.array(table.column("group").to_pylist(), np.str_)
    context_R = table.column("context").to_numpy()
    for group in dict.fromkeys(group_R.tolist()):
        for context in grid.contexts:
            rows = table.filter(pa.array((group_R == group) & (context_R == context)))
            if rows.num_rows:
                counts += _count_rows(_read(rows, grid), group, context, grid, threshold)
    return counts


def _read(table: pa.Table, grid: Grid) -> _Rows:
    ids, hashes = (table.column(name).to_numpy() for name in ("sequence_id", "window_hash"))
    names = {name: (name, REFERENCE + name) for name in ("first_mismatch", "smallest_margin", "log_probability")}
    first_R2 = np.stack([table.column(name).to_numpy() for name in names["first_mismatch"]], axis=1)
    margin, log_probability = (
        np.stack([per_continuation(table, each) for each in names[name]], axis=2)
        for name in ("smallest_margin", "log_probability")
    )
    has_bits_R, bits_Rn = _differing_bits(table, grid.max_continuation)
    clusters = sequence_clusters(ids, hashes)
    return _Rows(clusters, first_R2.astype(np.int64), bits_Rn, has_bits_R, margin, log_probability)


def _differing_bits(table: pa.Table, n_max: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Which rows have bits in both, bool [R], and which bits differ, False in the other rows; None where none has."""
    pair = [table.column(name).to_pylist() for name in ("matched", f"{REFERENCE}matched")]
    has_bits_R = np.array([None not in both for both in zip(*pair, strict=True)], np.bool_)
    if not has_bits_R.any():
        return has_bits_R, None
    empty = bytes(-(-n_max // 8))
    packed = [np.frombuffer(b"".join(bits or empty for bits in own), np.uint8).reshape(len(own), -1) for own in pair]
    differs_Rn = np.unpackbits(packed[0] ^ packed[1], axis=1, count=n_max).astype(np.bool_)
    return has_bits_R, differs_Rn & has_bits_R[:, None]


def _count_rows(rows: _Rows, group: str, context: int, grid: Grid, threshold: float) -> Iterator[FlipCount]:
    for place, n in enumerate(grid.continuations):
        first_R2 = np.minimum(rows.first_R2, n)
        bits_Rn = None if rows.bits_Rn is None else rows.bits_Rn[:, :n]
        is_first_R = first_R2[:, 0] != first_R2[:, 1]
        is_changed_R = is_first_R if bits_Rn is None else is_first_R | bits_Rn.any(axis=1)
        is_full_R2 = first_R2 == n
        margin_R2, log_R2 = rows.margin_RN2[:, place], rows.log_probability_RN2[:, place]
        changed = _interval(is_changed_R, rows.clusters)
        full = _interval(is_full_R2[:, 0] != is_full_R2[:, 1], rows.clusters)
        # Up to its first mismatch a path is the truth, in both: there, and only there, margins are of the same tokens.
        is_same_R = (first_R2 >= n - 1).all(axis=1) & ~is_first_R
        yield FlipCount(
            group=group,
            context=context,
            continuation=n,
            num_sequences=len(is_changed_R),
            num_unique=int(rows.clusters.leads.sum()),
            num_bits=n * int(rows.has_bits_R.sum()),
            num_bits_flipped=0 if bits_Rn is None else int(bits_Rn.sum()),
            num_first_changed=int(is_first_R.sum()),
            num_gained=int((is_full_R2[:, 0] & ~is_full_R2[:, 1]).sum()),
            num_lost=int((is_full_R2[:, 1] & ~is_full_R2[:, 0]).sum()),
            num_changed=int(is_changed_R.sum()),
            num_changed_near=int((is_changed_R & (margin_R2[:, 1] < threshold)).sum()),
            share_low=float(changed.low[0]),
            share_high=float(changed.high[0]),
            full_low=float(full.low[0]),
            full_high=float(full.high[0]),
            largest_log_probability_difference=_largest_difference(log_R2),
            largest_margin_difference=_largest_difference(margin_R2[is_same_R]) if is_same_R.any() else None,
        )


def _largest_difference(values_R2: NDArray[np.float32]) -> float:
    return float(np.abs(np.diff(values_R2.astype(np.float64), axis=1)).max())


def _interval(is_one_R: NDArray[np.bool_], clusters: SequenceClusters) -> Interval:
    """Of the share of ones, by clusters of duplicates where there are some."""
    code_R, doubled = is_one_R.astype(np.int64), ~clusters.alone
    rows_C, unique_C = (np.bincount(codes, minlength=2) for codes in (code_R, code_R[clusters.leads]))
    counts = count_classes(rows_C, unique_C, clusters.clusters[doubled], code_R[doubled])
    ends = share_intervals(counts, _ONLY_CHANGED, _ALL, LEVEL)
    return Interval(ends.low, ends.high)
