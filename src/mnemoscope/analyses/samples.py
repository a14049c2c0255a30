"""Traced samples as arrays: one model, one context, rows joined to what the corpus says of them.

Axes: R rows, I token indices of the window, K statistics, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.resampling import draw_multiplicities

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_CLUSTERS = 30
"""Clusters of duplicates under which a sample stratum is named but not averaged."""
MIN_AGREEING = 0.9
"""Share of rows whose trace must have the matches of their scores."""
CELLS_AT_ONCE = 4_000_000
"""Multiplicities held at once: 32 MB."""
KEY = ("sequence_id", "group", "offset")
GROUPS = ("member", "control")


@dataclass(frozen=True, kw_only=True)
class TraceSample:
    """One model's traces at one context."""

    label: str
    """The model's name in tables and figures."""
    num_non_embedding_parameters: int
    """Parameters but for input and output embeddings: the size along which trends run."""
    training_step: int | None = None
    """The checkpoint's training step; None for the final model, or where unknown."""
    table: pa.Table
    """The rows of `traces` of this model with one value of `context`."""


class Traced(NamedTuple):
    """A trace sample as arrays; index i of the last axis is the token index in the window, up to k + n."""

    sample: TraceSample
    context: int
    continuation: int
    group_R: NDArray[np.str_]
    num_matched_R: Integers
    hit_RI: Bools
    """Whether the generated token is the true one; False at index 0, which nothing predicts."""
    weight_R: Floats
    cluster_R: Integers
    place_R: Integers
    """The row of the counts table that speaks of the same sequence."""

    @property
    def keys(self) -> dict[str, Any]:
        """The columns that name the model and the cell."""
        return {
            "model": self.sample.label,
            "num_non_embedding_parameters": self.sample.num_non_embedding_parameters,
            "training_step": self.sample.training_step,
            "context": self.context,
            "continuation": self.continuation,
        }

    @property
    def groups(self) -> list[str]:
        """Groups with rows, members first."""
        return [group for group in GROUPS if (self.group_R == group).any()]

    def rows_of(self, group: str, num_matched: int) -> Integers:
        """The rows of a group with this number of matches."""
        return np.flatnonzero((self.group_R == group) & (self.num_matched_R == num_matched))

    def seed_of(self, group: str, num_matched: int, seed: int) -> int:
        """A seed for the stratum's own resamples, the same for every model."""
        return int(np.random.SeedSequence([seed, GROUPS.index(group), num_matched]).generate_state(1)[0])


class Means(NamedTuple):
    """Weighted means of K statistics, and the same in each resample; NaN where nothing is known."""

    estimate_K: Floats
    resampled_BK: Floats


def read_sample(sample: TraceSample, clusters: pa.Table, *, continuation: int) -> Traced:
    """The sample's arrays, joined to `clusters` by sequence, group and offset.

    A row whose trace has other matches than its score met a near-tie that fell the other way, as it may where precision
    is low: it is left out. Raises ConfigError for a sample of no or several contexts, or of another continuation, which
    shows in more than a tenth of the rows; StoreError for
    lists of wrong length and for sequences that `clusters` does not know.
    """
    table = sample.table
    contexts: list[int] = table["context"].unique().to_pylist()
    if len(contexts) != 1:
        raise ConfigError(f"{sample.label}: traces of contexts {contexts}; expected exactly one")
    context, width = contexts[0], contexts[0] + continuation
    true, generated = (list_matrix(table, name, width) for name in ("true_token", "generated_token"))
    hit_RI = true == generated
    hit_RI[:, 0] = False
    num_matched_R = numbers(table, "num_matched").astype(np.int64)
    agrees_R = hit_RI[:, context:].sum(1) == num_matched_R
    if len(agrees_R) and agrees_R.mean() < MIN_AGREEING:
        raise ConfigError(f"{sample.label}: num_matched is not that of the first {continuation} continuation tokens")
    if not agrees_R.all():
        return read_sample(replace(sample, table=table.filter(pa.array(agrees_R))), clusters, continuation=continuation)
    place_R = places(table, clusters, sample.label)
    return Traced(
        sample=sample,
        context=context,
        continuation=continuation,
        group_R=np.asarray(table["group"].cast(pa.string()).to_pylist(), dtype=np.str_),
        num_matched_R=num_matched_R,
        hit_RI=hit_RI,
        weight_R=numbers(table, "design_weight"),
        cluster_R=numbers(clusters, "cluster").astype(np.int64)[place_R],
        place_R=place_R,
    )


def read_samples(samples: Mapping[str, TraceSample], clusters: pa.Table, *, continuation: int) -> list[Traced]:
    """All samples as arrays, from small models to large and early steps to late."""
    if not samples:
        raise ConfigError("no traces given; expected those of at least one model")
    ordered = sorted(samples.values(), key=_size_rank)
    return [read_sample(sample, clusters, continuation=continuation) for sample in ordered]


def _size_rank(sample: TraceSample) -> tuple[int, float, str]:
    step = float("inf") if sample.training_step is None else float(sample.training_step)
    return sample.num_non_embedding_parameters, step, sample.label


def places(table: pa.Table, other: pa.Table, label: str) -> Integers:
    """The row of `other` with the same sequence, group and offset, for each row of `table`."""
    known = {key: place for place, key in enumerate(_row_keys(other))}
    found = [known.get(key, -1) for key in _row_keys(table)]
    if -1 in found:
        sequence_id, group, offset = next(key for key, at in zip(_row_keys(table), found, strict=True) if at < 0)
        raise StoreError(f"{label}: {group} sequence {sequence_id} at offset {offset} has traces but no counts")
    return np.asarray(found, np.int64)


def _row_keys(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    columns = [table[name].cast(pa.string()) if name == "group" else table[name] for name in KEY]
    return zip(*(column.to_pylist() for column in columns), strict=True)


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as float64 [R]; NaN where null."""
    return np.asarray(table[name].cast(pa.float64(), safe=False).to_numpy(), np.float64)


def list_matrix(table: pa.Table, name: str, width: int) -> Floats:
    """The first `width` entries of each list, float64 [R, width]; NaN where null."""
    chunks: list[Floats] = []
    for chunk in table[name].chunks:
        flat = chunk.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        num_entries = len(flat) // max(1, len(chunk))
        lengths: set[int | None] = set(chunk.value_lengths().to_pylist())
        if lengths - {num_entries} or (len(chunk) and num_entries < width):
            raise StoreError(f"{name}: lists of {_spoken(lengths)} entries; expected one length of {width} or more")
        chunks.append(flat.reshape(len(chunk), num_entries)[:, :width] if len(chunk) else np.empty((0, width)))
    return np.concatenate([np.empty((0, width)), *chunks])


def _spoken(lengths: set[int | None]) -> str:
    return ", ".join(str(length) for length in sorted(lengths, key=str))


def weighted_medians(values_RI: Floats, weight_R: Floats) -> Floats:
    """The smallest value of each column with half of the known weight at or below it; NaN where none is known."""
    order_RI = np.argsort(values_RI, axis=0, kind="stable")
    sorted_RI = np.take_along_axis(values_RI, order_RI, axis=0)
    weights_RI = np.where(np.isnan(sorted_RI), 0.0, weight_R[order_RI])
    total_RI = np.cumsum(weights_RI, axis=0)
    place_I = np.argmax(total_RI >= total_RI[-1] / 2, axis=0)
    return np.where(total_RI[-1] > 0, sorted_RI[place_I, np.arange(values_RI.shape[1])], np.nan)


def resampled_means(
    values_RK: Floats, weight_R: Floats, cluster_R: Integers, *, num_resamples: int, seed: int
) -> Means:
    """The weighted mean of each column over its known values, with the cluster bootstrap of all columns at once."""
    known_RK = ~np.isnan(values_RK)
    sums_RK = np.where(known_RK, values_RK, 0.0) * weight_R[:, None]
    factors = np.hstack([sums_RK, known_RK * weight_R[:, None]])
    one = np.ones((1, len(weight_R)))
    resampled = [
        _ratios(block @ factors) for block in _multiplicity_blocks(cluster_R, num_resamples=num_resamples, seed=seed)
    ]
    return Means(_ratios(one @ factors)[0], np.concatenate(resampled))


def _multiplicity_blocks(cluster_R: Integers, *, num_resamples: int, seed: int) -> Iterator[Floats]:
    size = max(1, CELLS_AT_ONCE // max(1, len(cluster_R)))
    seeds = np.random.SeedSequence(seed).generate_state(-(-num_resamples // size)).tolist()
    for block, start in enumerate(range(0, num_resamples, size)):
        count = min(size, num_resamples - start)
        yield draw_multiplicities(cluster_R, num_resamples=count, seed=int(seeds[block]))


def _ratios(sums_and_weights: Floats) -> Floats:
    sums, weights = np.split(sums_and_weights, 2, axis=1)
    return np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)


def num_clusters(cluster_R: Integers) -> int:
    """How many clusters of duplicates the rows make."""
    return len(np.unique(cluster_R))


def score_class(num_matched: int, continuation: int) -> str | None:
    """The name of a score that has one: memorized, half or unmemorized."""
    names: Sequence[tuple[float, str]] = ((continuation, "memorized"), (continuation / 2, "half"), (0, "unmemorized"))
    return next((name for value, name in names if num_matched == value), None)


def break_index(num_matched: int, *, context: int, continuation: int) -> int:
    """The index where selection by score breaks a curve: k, or k + n / 2 for the half-memorized."""
    return context + num_matched if score_class(num_matched, continuation) == "half" else context
