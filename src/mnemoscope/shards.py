"""A range of sequences -> its shard: the plan, the scores table's schema, facts as rows and rows as facts.

A shard is a range of positions in a group's selection, never a rank or a worker: whoever computes it, and
when, it holds the same rows. The table holds integers, bits and sums; ratios are computed on reading. All pure.

Axes: R rows or sequences, C contexts, N continuations, n index in the continuation (0 .. n_max-1), b bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.config import Grid, StudyMode
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.facts import GradedRows, MatchFacts

MATCH_BITS_MISSING: Final = "the scores have no match bits (mode 'exact'); score in mode 'graded' to have them"
UNITS: Final[dict[str, str]] = {
    "sequence_id": "row of the corpus, from 0",
    "group": "member or control",
    "context": "tokens",
    "offset": "tokens from the start of the row to the window",
    "num_repeats": "copies, as the list of sequences has them; null where unknown",
    "first_mismatch": "index in the continuation, tokens; the longest continuation's length where none",
    "matched": "one bit per index of the greedy continuation, most significant first; null in mode exact",
    "smallest_margin": "logits, per continuation",
    "log_probability": "nats, per continuation",
    "window_hash": "first 8 bytes of the blake2b of the window's token ids: equal for duplicates",
}
"""Every stored column and what it counts in."""
SECOND_PHASE_UNITS: Final[dict[str, str]] = {
    "matched": "one bit per index of the greedy continuation, most significant first; null where not graded",
    "inclusion_probability": "with which the sequence is graded, 1 where nothing was left to decode",
}
"""The same of mode `two-phase`, where they differ or no other mode has them."""
SCORES_FORMAT: Final = 2
"""Raised when the columns or their meaning change. Every fingerprint has it: no folder takes in rows of two kinds."""


class ShardRange(NamedTuple):
    """The positions start to stop of a group's selection."""

    group: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The shard's file name, without suffix."""
        return f"{self.group}-{self.start:012d}"


class Part(NamedTuple):
    """Every `of`-th shard of a plan, from the `number`-th on, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`2/8` is the second of eight; ConfigError for anything else."""
        number, _, of = (piece.strip() for piece in text.partition("/"))
        part = cls(int(number), int(of)) if number.isdecimal() and of.isdecimal() else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise ConfigError(f"--part: {text!r} given; expected NUMBER/OF, such as 2/8, with NUMBER from 1 to OF")
        return part

    def of_plan(self, shards: Sequence[ShardRange]) -> tuple[ShardRange, ...]:
        """Its shards: the plan is the same wherever it is made."""
        return tuple(shards[self.number - 1 :: self.of])


class SequenceRows(NamedTuple):
    """Which sequences the rows of a shard tell of."""

    sequence_ids: NDArray[np.int64]
    """int64 [R]."""
    offsets: NDArray[np.int64]
    """int64 [R], in tokens."""
    num_repeats: NDArray[np.int64] | None
    """int64 [R]; None where unknown."""
    window_hashes: NDArray[np.int64]
    """int64 [R], see `hash_windows`."""


def hash_windows(tokens_RW: NDArray[np.integer]) -> NDArray[np.int64]:
    """The first 8 bytes of the blake2b of each window's token ids as little-endian int64, int64 [R].

    Equal windows have equal hashes. That any two of n different windows share one has a probability under n^2 / 2^65:
    6e-4 for the 146 million rows of the Pile.
    """
    rows = np.ascontiguousarray(tokens_RW, "<i8")
    hashes = b"".join(hashlib.blake2b(row.tobytes()).digest()[:8] for row in rows)
    return np.frombuffer(hashes, "<i8").astype(np.int64)


def plan_shards(num_sequences: Mapping[str, int], shard_rows: int) -> tuple[ShardRange, ...]:
    """The ranges, of `shard_rows` sequences or fewer at the end, that cover each group once."""
    return tuple(
        ShardRange(group, start, min(start + shard_rows, count))
        for group, count in num_sequences.items()
        for start in range(0, count, shard_rows)
    )


def scores_schema(grid: Grid, *, mode: StudyMode, label: str, fingerprint: str) -> pa.Schema:
    """The columns of a scores table, with the run's fingerprint, grid, mode, model and units as metadata."""
    per_continuation = pa.list_(pa.field("element", pa.float32()), len(grid.continuations))
    metadata = {
        "table": "scores",
        "model": label,
        "fingerprint": fingerprint,
        "contexts": json.dumps(grid.contexts),
        "continuations": json.dumps(grid.continuations),
        "mode": mode,
        "units": json.dumps(UNITS | (SECOND_PHASE_UNITS if mode == "two-phase" else {}), ensure_ascii=False),
    }
    columns = [
        pa.field("sequence_id", pa.int64(), nullable=False),
        pa.field("group", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("context", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_repeats", pa.int32()),
        pa.field("first_mismatch", pa.int32(), nullable=False),
        pa.field("matched", pa.binary(-(-grid.max_continuation // 8))),
        pa.field("smallest_margin", per_continuation),
        pa.field("log_probability", per_continuation),
        pa.field("window_hash", pa.int64(), nullable=False),
    ]
    if mode == "two-phase":
        columns.append(pa.field("inclusion_probability", pa.float64(), nullable=False))
    return pa.schema(columns, metadata)


def scores_table(
    group: str,
    rows: SequenceRows,
    facts: MatchFacts,
    *,
    schema: pa.Schema,
    grid: Grid,
    graded: GradedRows | None = None,
) -> pa.Table:
    """One row per sequence and context, contexts of a sequence together; `graded` in mode `two-phase` only."""
    num_contexts = len(grid.contexts)
    size = len(rows.sequence_ids) * num_contexts
    repeats = None if rows.num_repeats is None else np.repeat(rows.num_repeats, num_contexts)
    columns = {
        "sequence_id": np.repeat(rows.sequence_ids, num_contexts),
        "group": pa.DictionaryArray.from_arrays(np.zeros(size, np.int32), pa.array([group])),
        "context": np.tile(np.array(grid.contexts, np.int32), len(rows.sequence_ids)),
        "offset": np.repeat(rows.offsets, num_contexts),
        "num_repeats": pa.nulls(size, pa.int32()) if repeats is None else pa.array(repeats).cast(pa.int32()),
        "first_mismatch": facts.first_mismatch_RC.reshape(-1),
        "matched": _pack_bits(facts.matched_RCn, graded, size=size, kind=schema.field("matched").type),
        "smallest_margin": _as_lists(facts.smallest_margin_RCN, schema.field("smallest_margin").type),
        "log_probability": _as_lists(facts.log_probability_RCN, schema.field("log_probability").type),
        "window_hash": np.repeat(rows.window_hashes, num_contexts),
    }
    if graded is not None:
        columns["inclusion_probability"] = np.repeat(graded.probability_R, num_contexts)
    return pa.table(columns, schema=schema)


def matched_bits(table: pa.Table, n_max: int) -> NDArray[np.bool_]:
    """Match bits, bool [R, n_max]: generated token == true token, per index; StoreError if not stored."""
    return np.unpackbits(_all_match_bytes(table), axis=1, count=n_max).astype(np.bool_)


def num_matched(table: pa.Table, grid: Grid) -> NDArray[np.int64]:
    """Matches among the first n of each continuation, int64 [R, N]; -1 where an import does not say, or where a row of
    mode `two-phase` is not graded and its first mismatch leaves it open.

    From the column `num_matched` where there is one, as in imported scores, else from the match bits; StoreError where
    there are none.
    """
    if "num_matched" in table.column_names:
        column = table.column("num_matched").combine_chunks()
        return column.flatten().fill_null(-1).to_numpy().astype(np.int64).reshape(len(column), -1)
    is_two_phase = has_second_phase(table)
    bytes_Rb = match_bytes(table) if is_two_phase else _all_match_bytes(table)
    places = np.arange(bytes_Rb.shape[1] * 8)
    # The mask of n cuts off longer continuations and the padding of the last byte.
    masks = [np.packbits(places < continuation) for continuation in grid.continuations]
    matched_RN = np.stack([np.bitwise_count(bytes_Rb & mask_b).sum(axis=1, dtype=np.int64) for mask_b in masks], axis=1)
    if is_two_phase:
        first_R1 = table.column("first_mismatch").to_numpy()[:, None]
        known_RN = num_known(first_R1, np.array(grid.continuations))
        matched_RN = np.where(is_graded(table)[:, None], matched_RN, known_RN)
    return matched_RN


def num_known(first_mismatch: NDArray[np.integer], continuation: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """num_matched as far as the first mismatch decides it, as the two broadcast; -1 where tokens after it may match."""
    known = np.minimum(first_mismatch, continuation).astype(np.int64)
    return np.where(first_mismatch >= np.asarray(continuation) - 1, known, -1)


def has_second_phase(table: pa.Table) -> bool:
    """Whether a table of scores is of mode `two-phase`: match bits are then null where a sequence is not graded."""
    return (table.schema.metadata or {}).get(b"mode") == b"two-phase"


def is_graded(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows have their match bits, bool [R]."""
    return table.column("matched").is_valid().to_numpy()


def per_continuation(table: pa.Table, name: str) -> NDArray[np.float32]:
    """The numbers, float32 [R, N], of a column with one number per continuation."""
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _all_match_bytes(table: pa.Table) -> NDArray[np.uint8]:
    if table.column("matched").null_count:
        raise StoreError(MATCH_BITS_MISSING)
    return match_bytes(table)


def match_bytes(table: pa.Table) -> NDArray[np.uint8]:
    """Match bits as they are stored, uint8 [R, b]; undefined in rows without (`is_graded`)."""
    column = table.column("matched").combine_chunks()
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[column.offset * width :][: len(column) * width].reshape(len(column), width)


def _pack_bits(
    matched_RCn: NDArray[np.bool_] | None, graded: GradedRows | None, *, size: int, kind: pa.FixedSizeBinaryType
) -> pa.Array:
    if matched_RCn is None:
        return pa.nulls(size, kind)
    packed = pa.py_buffer(np.packbits(matched_RCn, axis=2).tobytes())
    is_valid = None
    if graded is not None and not graded.is_graded_R.all():
        is_valid_RC = np.repeat(graded.is_graded_R, matched_RCn.shape[1])
        is_valid = pa.py_buffer(np.packbits(is_valid_RC, bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(kind, size, [is_valid, packed])


def _as_lists(values_RCN: NDArray[np.float32], kind: pa.FixedSizeListType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_RCN.reshape(-1), pa.float32()), type=kind)
