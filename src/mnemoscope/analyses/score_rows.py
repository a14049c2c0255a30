"""A table of scores as arrays by stratum, for counting.

Axes: R rows, N continuation lengths, D rows of clusters of two or more, b bytes of match bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.clusters import SequenceClusters, clusters_of
from mnemoscope.config import Grid
from mnemoscope.errors import StoreError
from mnemoscope.open_counts import OpenRows, open_rows
from mnemoscope.shards import match_bytes

ScoredMode = Literal["exact", "graded", "two-phase"]
IntArray = NDArray[np.int64]


class ScoreRows(NamedTuple):
    """The rows of a table of scores."""

    strata: list[tuple[str, int | None, int]]
    """Group, number of repeats and context of the strata present."""
    stratum_R: IntArray
    """Index into `strata`."""
    first_mismatch_R: IntArray
    matched_Rb: NDArray[np.uint8] | None
    second: OpenRows | None
    """Which rows are graded and from what they were drawn, in mode `two-phase`."""
    smallest_margin_RN: NDArray[np.float32]
    duplicates: list[DuplicatePlaces | None]
    """By stratum; None where no row of it has a duplicate."""


class DuplicatePlaces(NamedTuple):
    """The rows of a stratum that have duplicates."""

    places: IntArray
    """int64 [D], rows of the table."""
    clusters: IntArray
    sequence_ids: IntArray


def read_rows(
    table: pa.Table,
    grid: Grid,
    mode: ScoredMode,
    clusters: Mapping[str, SequenceClusters] | None,
    probabilities: Sequence[float],
) -> ScoreRows:
    """The rows of a table of scores; StoreError where one has a context outside the grid or lacks what its mode has."""
    strata, stratum_R = _strata_of_rows(table, grid)
    margin = table.column("smallest_margin").combine_chunks()
    return ScoreRows(
        strata=strata,
        stratum_R=stratum_R,
        first_mismatch_R=table.column("first_mismatch").to_numpy().astype(np.int64),
        matched_Rb=None if mode == "exact" else _match_bytes(table, grid, mode),
        second=open_rows(table, probabilities) if mode == "two-phase" else None,
        smallest_margin_RN=margin.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1),
        duplicates=[
            None if clusters is None else _duplicates_in(table, clusters_of(clusters, group), stratum_R == place)
            for place, (group, _, _) in enumerate(strata)
        ],
    )


def _duplicates_in(table: pa.Table, clusters: SequenceClusters, chosen_R: NDArray[np.bool_]) -> DuplicatePlaces | None:
    places = np.flatnonzero(chosen_R)
    sequence_ids = table.column("sequence_id").to_numpy().astype(np.int64)[places]
    cluster, _, alone = clusters.look_up(sequence_ids)
    return None if alone.all() else DuplicatePlaces(places[~alone], cluster[~alone], sequence_ids[~alone])


def _strata_of_rows(table: pa.Table, grid: Grid) -> tuple[list[tuple[str, int | None, int]], IntArray]:
    contexts = np.asarray(grid.contexts, np.int64)
    context_R = table.column("context").to_numpy().astype(np.int64)
    unknown = np.setdiff1d(context_R, contexts)
    if unknown.size:
        raise StoreError(f"scores have context {unknown[0]}; expected one of the grid's {list(grid.contexts)}")
    groups = table.column("group").cast(pa.string()).combine_chunks().dictionary_encode()
    names: list[str] = groups.dictionary.to_pylist()
    # One integer per row: 0 stands for an unknown number of repeats.
    repeats_R = table.column("num_repeats").cast(pa.int64()).fill_null(-1).to_numpy() + 1
    code_R = groups.indices.to_numpy().astype(np.int64) * len(contexts) + np.searchsorted(contexts, context_R)
    codes, stratum_R = np.unique((code_R << 32) + repeats_R, return_inverse=True)
    strata: list[tuple[str, int | None, int]] = []
    for code in codes.tolist():
        group, context = divmod(code >> 32, len(contexts))
        repeats = code & 0xFFFFFFFF
        strata.append((names[group], repeats - 1 if repeats else None, grid.contexts[context]))
    return strata, stratum_R.astype(np.int64)


def _match_bytes(table: pa.Table, grid: Grid, mode: ScoredMode) -> NDArray[np.uint8]:
    column = table.column("matched")
    if column.null_count and mode == "graded":
        raise StoreError(f"scores lack {column.null_count} rows' match bits; expected all in mode 'graded'")
    width = -(-grid.max_continuation // 8)
    if column.type.byte_width != width:
        raise StoreError(f"scores have {column.type.byte_width} bytes of match bits; expected {width}")
    return match_bytes(table)
