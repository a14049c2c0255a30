"""Score files -> the cells of models (context and continuation), over one set of sequences per group.

A list of sequence_ids that several files share is one array in memory and on disk: that is how it is known to be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mnemoscope.config import ModelConfig
from mnemoscope.corpus.sources import Source, find_sources
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.progress import Progress
from mnemoscope.score_files import ROWS_AT_ONCE, FileScores, IntArray, ScoreFileName, parse_name, read_score_file
from mnemoscope.store import Group

Join = Literal["same", "inner"]


class ScoredModel(NamedTuple):
    """A model or checkpoint, as the files' names have it."""

    name: str
    step: int | None

    @property
    def config(self) -> ModelConfig:
        """The model in a study; ConfigError for a name that cannot name a folder."""
        return ModelConfig(source=self.name, revision=None if self.step is None else f"step{self.step}")


class ScoreCell(NamedTuple):
    """Where a file's scores belong."""

    model: ScoredModel
    group: Group
    context: int
    continuation: int

    @property
    def key(self) -> str:
        """Its name in the run's identity."""
        return f"{self.group}-{self.context}-{self.continuation}"


class CellScores(NamedTuple):
    """All scores, and the sequences that are taken of each group."""

    files: dict[ScoreCell, FileScores]
    sequence_ids: dict[Group, IntArray]


def find_cells(files: Mapping[Group, Sequence[str]]) -> dict[ScoreCell, Source]:
    """The files by what their names say; ConfigError for two of one cell, and for a control of some models only."""
    cells: dict[ScoreCell, Source] = {}
    for group, addresses in files.items():
        for source in find_sources(addresses) if addresses or group == "member" else ():
            cell = _cell_of(parse_name(source.address), group, source)
            if cell in cells:
                raise ConfigError(
                    f"{source.address}: the same model, k, n and step as {cells[cell].address}; expected each once"
                )
            cells[cell] = source
    having = {group: {cell.model for cell in cells if cell.group == group} for group in files}
    odd = having["member"] ^ having["control"]
    if having["control"] and odd:
        raise ConfigError(
            f"control: files of {min(odd).config.label} in one group only; expected those of every model in both"
        )
    return cells


def _cell_of(name: ScoreFileName, group: Group, source: Source) -> ScoreCell:
    model = ScoredModel(name.model, name.step)
    try:
        _ = model.config
    except ConfigError as error:
        raise ConfigError(f"{source.address}: {error}") from error
    return ScoreCell(model, group, name.context, name.continuation)


def read_cells(sources: Mapping[ScoreCell, Source], spool: Path, join: Join, progress: Progress) -> CellScores:
    """Every file, checked, in the folder `spool`; CorpusError where their sequences differ and join is `same`.

    join `inner` holds the lists that differ in memory.
    """
    files: dict[ScoreCell, FileScores] = {}
    for number, (cell, source) in enumerate(sources.items()):
        read = read_score_file(source, continuation=cell.continuation, folder=spool, stem=str(number))
        first = next((file for other, file in files.items() if other.group == cell.group), read)
        # One array for all files of the same sequences: it is what the disk is needed for, and how they are known.
        if read is not first and _first_difference(first.sequence_ids, read.sequence_ids) is None:
            read = read._replace(sequence_ids=first.sequence_ids)
            (spool / f"{number}.idx").unlink()
        elif read is not first and join == "same":
            raise _other_sequences(first, read)
        files[cell] = read
        progress(str(source.address), len(read.sequence_ids), len(read.sequence_ids))
    shared: dict[Group, IntArray] = {cell.group: _shared_ids(files, cell.group) for cell in files}
    return CellScores(files, shared)


def _first_difference(one: IntArray, other: IntArray) -> int | None:
    """The first place where two ascending lists of ids differ, or one ends; None where they are the same."""
    size = min(len(one), len(other))
    for start in range(0, size, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, size)
        differs = one[start:stop] != other[start:stop]
        if differs.any():
            return start + int(np.argmax(differs))
    return None if len(one) == len(other) else size


def _other_sequences(one: FileScores, other: FileScores) -> CorpusError:
    place = _first_difference(one.sequence_ids, other.sequence_ids) or 0
    found = [int(file.sequence_ids[place]) if place < len(file.sequence_ids) else None for file in (one, other)]
    having, lacking = (
        (one, other) if found[1] is None or (found[0] is not None and found[0] < found[1]) else (other, one)
    )
    return CorpusError(
        f"{lacking.address}: lacks idx {having.sequence_ids[place]}, which {having.address} has "
        f"({len(lacking.sequence_ids)} and {len(having.sequence_ids)} rows); expected the same sequences in every "
        "file: --join inner takes those that all have"
    )


def _shared_ids(files: Mapping[ScoreCell, FileScores], group: Group) -> IntArray:
    """The sequences that every file of a group has; one array by identity where they are the same anyway."""
    lists = {id(file.sequence_ids): file.sequence_ids for cell, file in files.items() if cell.group == group}
    shared = reduce(lambda one, other: np.intersect1d(one, other, assume_unique=True), lists.values())
    if not len(shared):
        raise CorpusError(f"{group}: no idx is in every file; expected files over the same corpus")
    return shared
