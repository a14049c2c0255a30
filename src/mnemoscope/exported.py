"""A study's analysis tables and scores as files for people and for other programs.

    tables/NAME/TABLE.csv                                        the tables of analyses, columns as stored
    scores/memorization_evals_MODEL_K_K+N_STEP.csv               idx,score of the members: sequence_id, num_matched / n
    scores-control/memorization_evals_MODEL_K_K+N_STEP.csv       the same of the control

or .parquet. In mode `two-phase` they have the sequences whose score is known, and inclusion_probability as a third
column: 1 where the first mismatch decides the score. What `import_scores` reads from scores/ has the same num_matched;
it refuses files with that column, which are of a sample. Constant memory: tables are read a row group at a time, scores
a shard at a time. Axes: R rows, N continuations.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.errors import StoreError
from mnemoscope.files import replacing
from mnemoscope.progress import Progress
from mnemoscope.score_files import ScoreFileName
from mnemoscope.shards import num_known, num_matched
from mnemoscope.store import GROUPS, Group, Run, Study, read_scores

Format = Literal["csv", "parquet"]

FOLDERS: Final[dict[Group, str]] = {"member": "scores", "control": "scores-control"}
_SCORES: Final = pa.schema(
    [pa.field("idx", pa.int64(), nullable=False), pa.field("score", pa.float64(), nullable=False)]
)
_GRADED_SCORES: Final = _SCORES.append(pa.field("inclusion_probability", pa.float64(), nullable=False))
_Write = Callable[[pa.Table], None]


class Exported(NamedTuple):
    """What was written."""

    tables: list[Path]
    scores: list[Path]


def export_study(study: Study, folder: Path, *, format: Format = "csv", progress: Progress | None = None) -> Exported:
    """The files written into `folder`; those that are there are replaced.

    Without per-sequence scores in mode `exact`, which has none below 1. StoreError for a study that is not complete.
    """
    scores = [] if study.config.mode == "exact" else _export_scores(study, folder, format, progress)
    return Exported(_export_tables(study, folder, format), scores)


def name_scores(study: Study, run: Run, context: int, continuation: int) -> ScoreFileName:
    """The name of the file of a run's scores at a cell: the model's label, without the step where that is known anyway.

    Unless two runs would then share a name.
    """
    models = {each.label: _model_name(each) for each in study.runs.values()}
    steps = {each.label: each.training_step for each in study.runs.values()}
    is_alone = [(models[label], steps[label]) for label in models].count((models[run.label], run.training_step)) == 1
    model = models[run.label] if is_alone else run.label
    return ScoreFileName(model, run.training_step, context, continuation)


def _model_name(run: Run) -> str:
    return run.label if run.training_step is None else run.label.removesuffix(f"@step{run.training_step}")


def _export_tables(study: Study, folder: Path, format: Format) -> list[Path]:
    written: list[Path] = []
    for source in sorted((study.folder / "analyses").glob("*/*.parquet")):
        path = folder / "tables" / source.parent.name / f"{source.stem}.{format}"
        try:
            with pq.ParquetFile(source) as file, _writing(path, file.schema_arrow, format) as write:
                for number in range(file.num_row_groups):
                    write(file.read_row_group(number))
        except pa.ArrowException as error:
            raise StoreError(f"{source}: damaged ({error}); run the study again to have it redone") from error
        written.append(path)
    return written


def _export_scores(study: Study, folder: Path, format: Format, progress: Progress | None) -> list[Path]:
    """One pass over each run's scores, with the files of all its cells open at once."""
    written: list[Path] = []
    for run in study.runs.values():
        num_sequences = sum(group.num_sequences for group in run.identity.groups.values())
        num_done = 0
        for group in GROUPS:
            if group not in run.identity.groups:
                continue
            with ExitStack() as stack:
                writers = _Writers(study, run, folder / FOLDERS[group], format, stack)
                for table in read_scores(study, run.label, group=group, columns=_columns(run)):
                    writers.add(table)
                    num_done += table.num_rows // len(run.identity.contexts)
                    if progress is not None:
                        progress(f"{run.label}, export", num_done, num_sequences)
                written += writers.paths
    return written


def _columns(run: Run) -> tuple[str, ...]:
    known = {"imported": ("num_matched",), "two-phase": ("first_mismatch", "matched", "inclusion_probability")}
    return ("sequence_id", "context", *known.get(run.identity.mode, ("matched",)))


class _Writers:
    """The files of a run's group, each opened when its cell first turns up: an import may lack some."""

    def __init__(self, study: Study, run: Run, folder: Path, format: Format, stack: ExitStack) -> None:
        self._study, self._run, self._folder, self._stack = study, run, folder, stack
        self._format: Format = format
        self._writers: dict[Path, _Write] = {}

    @property
    def paths(self) -> list[Path]:
        """The files, in the order in which they were begun."""
        return list(self._writers)

    def add(self, table: pa.Table) -> None:
        """Write a shard's rows, each to the file of its cell."""
        for context, continuation, rows in _cells(table, self._run):
            name = name_scores(self._study, self._run, context, continuation)
            path = (self._folder / str(name)).with_suffix(f".{self._format}")
            if path not in self._writers:
                self._writers[path] = self._stack.enter_context(_writing(path, rows.schema, self._format))
            self._writers[path](rows)


def _cells(table: pa.Table, run: Run) -> Iterator[tuple[int, int, pa.Table]]:
    """Context, continuation, and their idx and score; none where an import does not say."""
    grid, is_two_phase = run.identity.grid, run.identity.mode == "two-phase"
    matched_RN = num_matched(table, grid)
    contexts_R, ids_R = table.column("context").to_numpy(), table.column("sequence_id").to_numpy()
    for context in grid.contexts:
        is_own_R = contexts_R == context
        for place, continuation in enumerate(grid.continuations):
            is_known_R = is_own_R & (matched_RN[:, place] >= 0)
            if is_known_R.any() and (is_two_phase or is_known_R.sum() == is_own_R.sum()):
                matched_R = matched_RN[is_known_R, place]
                columns = {"idx": ids_R[is_known_R], "score": matched_R.astype(np.float64) / continuation}
                if is_two_phase:
                    columns["inclusion_probability"] = _probabilities(table, continuation)[is_known_R]
                schema = _GRADED_SCORES if is_two_phase else _SCORES
                yield context, continuation, pa.table(columns, schema=schema)


def _probabilities(table: pa.Table, continuation: int) -> NDArray[np.float64]:
    """With which each row's score is known, float64 [R]."""
    is_decided_R = num_known(table.column("first_mismatch").to_numpy(), continuation) >= 0
    return np.where(is_decided_R, 1.0, table.column("inclusion_probability").to_numpy())


@contextmanager
def _writing(path: Path, schema: pa.Schema, format: Format) -> Generator[_Write]:
    """Something to write tables of the schema with; the file takes its place in the end."""
    with replacing(path) as file:
        if format == "parquet":
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                yield writer.write_table
        else:
            file.write(_header(schema.names))
            yield _csv_writer(file)


def _csv_writer(file: BinaryIO) -> _Write:
    options = pa_csv.WriteOptions(include_header=False)

    def write(table: pa.Table) -> None:
        if table.num_rows:
            pa_csv.write_csv(_without_formulas(table), file, options)

    return write


def _without_formulas(table: pa.Table) -> pa.Table:
    """The same, with an apostrophe before text that a spreadsheet would run (OWASP, "CSV Injection"); numbers stay."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts: list[str | None] = table.column(place).to_pylist()
            harmless = [f"'{text}" if text and text[0] in "=+-@\t\r" else text for text in texts]
            table = table.set_column(place, field, pa.array(harmless, field.type))
    return table


def _header(names: Iterable[str]) -> bytes:
    """A header line, quoted only where it must be: pyarrow quotes every name."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(names)
    return text.getvalue().encode()
