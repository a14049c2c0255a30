"""The facts of a part of an audit's passages: how they are had in any process, and how they lie on disk.

    facts/part-00000.parquet    one row per different passage; in its metadata the key: a hash of all that decides them

Axes: R passages of a part, W tokens of its longest one, S ways of sampling, n index in the reference continuation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.audit.facts import TokenFacts
from mnemoscope.audit.settings import Sampling
from mnemoscope.config import Grid
from mnemoscope.engines import Once
from mnemoscope.errors import ModelError, ScoringError
from mnemoscope.files import replacing
from mnemoscope.scorer import let_go

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

_KEY: Final = b"mnemoscope.audit.key"
_DIGEST: Final = b"mnemoscope.audit.sha256"


class Part(NamedTuple):
    """Passages start to stop of those that are read."""

    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"audit: passages {self.start} to {self.stop}"

    @property
    def file_name(self) -> str:
        """Its file in the folder of facts."""
        return f"part-{self.number:05d}.parquet"


class PassageFacts(NamedTuple):
    """What the model says of R passages; see `AuditFacts`."""

    tokens: TokenFacts
    path_Rn: NDArray[np.int32]
    trigger_R: NDArray[np.int32]


class ReadPart(NamedTuple):
    """A part, and what the model said of it."""

    part: Part
    facts: PassageFacts


class Wanted(NamedTuple):
    """The passages that are read: each different one once, the longest last."""

    tokens_RW: NDArray[np.int32]
    length_R: NDArray[np.int32]
    context_R: NDArray[np.int32]
    """The reference context of each."""
    places: list[str]
    """Where each stands, for messages."""

    def rows(self, part: Part) -> Wanted:
        """Those of a part, at the width of its longest."""
        rows = slice(part.start, part.stop)
        width = int(self.length_R[rows].max())
        return Wanted(self.tokens_RW[rows, :width], self.length_R[rows], self.context_R[rows], self.places[rows])


class Weights(NamedTuple):
    """Which weights are to be read with."""

    weights_sha256: str
    config_sha256: str


@final
@dataclass(frozen=True, kw_only=True)
class PassageReaderFactory:
    """Makes the workers that read an audit's passages."""

    model: Once[CausalLM]
    label: str
    """The model's name."""
    weights: Weights
    device: str
    wanted: Wanted
    continuation: int
    """Of the reference cell."""
    samplings: tuple[Sampling, ...]
    batch_size: int | Literal["auto"]
    num_workers: int
    """Of those that share a device's memory."""

    def __call__(self, tell: Callable[[int], None]) -> Callable[[Part], ReadPart]:
        """A worker; ModelError where the model's files changed, or it cannot take the passages."""
        from mnemoscope.audit.reading import Reference, read_passages
        from mnemoscope.memory import within_memory
        from mnemoscope.packing import packed_layers

        model = self.model()
        self._check(model)
        batch_size = self._batch_size(model)

        def read(part: Part) -> ReadPart:
            own = self.wanted.rows(part)
            reference = Reference(own.context_R, self.continuation)

            def attempt(limit: int) -> PassageFacts:
                return read_passages(
                    model, own.tokens_RW, own.length_R, reference, samplings=self.samplings, batch_size=limit
                )

            try:
                with packed_layers(model.network):
                    facts = within_memory(model, batch_size, attempt, window_tokens=own.tokens_RW.shape[1])
            except ScoringError as error:
                where = "" if error.row is None else f", {own.places[error.row]}"
                raise ScoringError(f"{self.label}{where}: {error}", error.row) from error
            tell(part.stop - part.start)
            return ReadPart(part, facts)

        return read

    def release(self) -> None:
        """Let go of the model, and of the memory that it held on its device."""
        let_go(self.model)

    def _check(self, model: CausalLM) -> None:
        identity, width = model.identity, self.wanted.tokens_RW.shape[1]
        if Weights(identity.weights_sha256, identity.config_sha256) != self.weights:
            raise ModelError(f"{self.label}: its files changed while it was audited; expected them to stay")
        if identity.max_positions is not None and width > identity.max_positions:
            raise ModelError(
                f"{self.label}: the longest passage (longest context + longest continuation) has {width} tokens, the "
                f"model {identity.max_positions} positions: shorten contexts or continuations"
            )
        largest = int(self.wanted.tokens_RW.max(initial=0))
        if largest >= identity.vocab_size:
            row = int(np.argmax((self.wanted.tokens_RW >= identity.vocab_size).any(1)))
            raise ModelError(
                f"{self.label}, {self.wanted.places[row]}: token id {largest}; the model's vocabulary has "
                f"{identity.vocab_size} ids: expected the model's own tokenizer (set `tokenizer`)"
            )

    def _batch_size(self, model: CausalLM) -> int:
        from mnemoscope.memory import choose_batch_size

        if self.batch_size != "auto":
            return self.batch_size
        context = max(1, self.wanted.tokens_RW.shape[1] - self.continuation)
        grid = Grid(contexts=(context,), continuations=(self.continuation,))
        return choose_batch_size(model, grid, "graded", self.num_workers)


def unknown_facts(num_rows: int, width: int, num_samplings: int) -> TokenFacts:
    """Facts of nothing yet."""
    numbers = [np.full((num_rows, width), np.nan, np.float32) for _ in range(4)]
    sampled_RSW = np.full((num_rows, num_samplings, width), np.nan, np.float32)
    return TokenFacts._make([np.full((num_rows, width), -1, np.int32), *numbers, sampled_RSW])


def write_part(folder: Path, read: ReadPart, key: str) -> None:
    """Commit a part; StoreError where the disk refuses."""
    arrays = _columns(read.facts)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
        for values in arrays.values()
    ]
    metadata = {_KEY: key.encode(), _DIGEST: _digest(arrays).encode()}
    table = pa.table(columns, names=list(arrays)).replace_schema_metadata(metadata)
    with replacing(folder / read.part.file_name) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=False)


def read_part(folder: Path, part: Part, key: str) -> PassageFacts | None:
    """The facts of a part; None where they are not there, damaged, or follow from something else."""
    try:
        table = pq.read_table(folder / part.file_name)
        metadata = table.schema.metadata or {}
        arrays = {name: _array(table[name]) for name in table.column_names}
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return None
    # The pages' own checksums would not cover the file's footer, with names, types and sizes.
    if metadata.get(_KEY) != key.encode() or metadata.get(_DIGEST) != _digest(arrays).encode():
        return None
    sampled = [arrays[f"sampled_{s}"] for s in range(len(arrays) - len(_TOKEN_COLUMNS) - len(_PASSAGE_COLUMNS))]
    shape = len(table), 0, arrays["generated"].shape[1]
    sampled_RSW = np.stack(sampled, 1) if sampled else np.zeros(shape, np.float32)
    tokens = TokenFacts._make([*(arrays[name] for name in _TOKEN_COLUMNS), sampled_RSW])
    return PassageFacts(tokens, arrays["path"], arrays["trigger"][:, 0])


_TOKEN_COLUMNS: Final = ("generated", "margin", "log_probability", "mean", "deviation")
_PASSAGE_COLUMNS: Final = ("path", "trigger")


def _columns(facts: PassageFacts) -> dict[str, NDArray[Any]]:
    """By name; each [R, ...]."""
    tokens = facts.tokens
    named = dict(zip(_TOKEN_COLUMNS, tokens[:5], strict=True))
    sampled = {f"sampled_{s}": tokens.sampled_RSW[:, s] for s in range(tokens.sampled_RSW.shape[1])}
    return {**named, **sampled, **dict(zip(_PASSAGE_COLUMNS, (facts.path_Rn, facts.trigger_R[:, None]), strict=True))}


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of one length as [rows, length]."""
    array: Any = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256, hex, of named arrays."""
    hashed = hashlib.sha256()
    for name, values in arrays.items():
        hashed.update(f"{name} {values.dtype} {values.shape}\n".encode())
        hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()
