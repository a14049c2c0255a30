"""The traces of a study on disk: which sequences, what is still to do, and how they are read again.

    traces/MODEL/kCONTEXT.parquet    one row per sampled sequence: per-token facts along its path (see `COLUMNS`)
    traces/MODEL/kCONTEXT.npy        float16 [rows, k + n - 1, width]: last-layer states, memory-mapped on reading
    traces/MODEL/kCONTEXT.layers.npy float16 [rows, layers, k, width]: chosen layers' in the context, if any were
    traces/MODEL/kCONTEXT.json       the record, written last

Index i of a list is the token index in the window: i < k in the context, k + j the continuation's token j. n is the
length of the traced path, which may be longer than the reference continuation whose matches make the strata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.config import Grid, StudyConfig, TracesConfig
from mnemoscope.derived import Derived, key_of, reserve
from mnemoscope.engines import Engine, Once
from mnemoscope.errors import StoreError
from mnemoscope.sampling import Sample, draw_sample
from mnemoscope.store import GROUPS, Run, Study, encode_table, read_scores
from mnemoscope.texts import GroupText
from mnemoscope.tracer import TracedPart, TracePart, TracerFactory

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

BYTES_AT_ONCE: Final = 1 << 28
"""Of states held in memory while they are traced; rows are traced in parts of this size."""
COLUMNS: Final[dict[str, tuple[pa.DataType, str]]] = {
    "sequence_id": (pa.int64(), "row of the corpus, from 0"),
    "group": (pa.dictionary(pa.int8(), pa.string()), "member or control"),
    "context": (pa.int32(), "tokens"),
    "offset": (pa.int64(), "tokens from the start of the row to the window"),
    "num_repeats": (pa.int32(), "copies, as the list of sequences has them; null where unknown"),
    "num_matched": (pa.int32(), "matches among the first n of the reference continuation: the stratum"),
    "num_stratum": (pa.int64(), "sequences in the stratum, sampled or not"),
    "design_weight": (pa.float64(), "sequences that this one stands for"),
}
TOKEN_COLUMNS: Final[dict[str, tuple[pa.DataType, str]]] = {
    "true_token": (pa.int32(), "token id"),
    "generated_token": (pa.int32(), "token id; in the context what the model would have said; -1 at index 0"),
    "entropy": (pa.float32(), "nats, of the distribution that predicts the token; NaN at index 0"),
    "log_probability": (pa.float32(), "nats, of the true token; NaN at index 0"),
    "rank": (pa.int32(), "tokens with a larger logit than the true one; -1 at index 0"),
    "margin": (pa.float32(), "logits, largest minus second largest; NaN at index 0"),
}
"""Lists of k + n entries."""


class TracePlan(NamedTuple):
    """What is traced of one model at one context."""

    derived: Derived
    context: int
    path_tokens: int
    """Tokens of the continuation that are traced."""
    layers: tuple[int, ...]
    """Those whose states in the context are kept besides the last layer's."""
    samples: dict[str, Sample]
    """By group."""
    key: str


def traced_continuation(config: StudyConfig) -> int:
    """The n whose matched tokens make the strata."""
    traces = config.traces or TracesConfig()
    return traces.continuation or config.continuations[0]


def path_tokens(config: StudyConfig) -> int:
    """Tokens of the continuation that are traced: the reference n or more."""
    traces = config.traces or TracesConfig()
    return traces.path_tokens or traced_continuation(config)


def traced_contexts(config: StudyConfig) -> tuple[int, ...]:
    """The contexts that are traced."""
    traces = config.traces or TracesConfig()
    return traces.contexts or config.contexts[:1]


def plan_traces(study: Study, run: Run, config: StudyConfig) -> list[TracePlan]:
    """The samples of each traced context, drawn from the run's scores; none where the study asks for no traces."""
    settings = config.traces
    if settings is None:
        return []
    plans = []
    probabilities = () if run.identity.graded_sample is None else run.identity.graded_sample.probabilities
    for context in traced_contexts(config):
        samples = {
            group: draw_sample(
                read_scores(study, run.label, group=group),
                context=context,
                grid=run.identity.grid,
                continuation=traced_continuation(config),
                per_stratum=settings.per_stratum,
                seed=settings.seed,
                probabilities=probabilities,
            )
            for group in GROUPS
            if group in config.groups
        }
        ids = {group: sample.sequence_id.tolist() for group, sample in samples.items()}
        key = key_of(run.fingerprint, asdict(settings), traced_continuation(config), context, ids)
        derived = traces_of(study.folder, run.label, context)
        plans.append(TracePlan(derived, context, path_tokens(config), settings.context_layers, samples, key))
    return plans


def traces_of(folder: Path, label: str, context: int) -> Derived:
    """Where a model's traces at a context lie."""
    return Derived(folder / "traces" / label, f"k{context}")


def write_traces(
    plan: TracePlan,
    run: Run,
    model: Once[CausalLM],
    texts: Once[dict[str, GroupText]],
    *,
    width: int,
    engine: Engine,
    progress: Callable[[int], None] = lambda num_sequences: None,
) -> None:
    """Have an engine trace a plan's sequences, and commit them; `progress` hears of sequences traced.

    `width` is that of the model's last-layer states. Parts of the sample are put into place as they arrive.
    """
    grid = Grid(contexts=(plan.context,), continuations=(plan.path_tokens,))
    num_rows = sum(len(sample.sequence_id) for sample in plan.samples.values())
    shapes: dict[str, tuple[int, ...]] = {".npy": (num_rows, grid.window_tokens - 1, width)}
    if plan.layers:
        shapes[".layers.npy"] = (num_rows, len(plan.layers), plan.context, width)
    make_tracer = TracerFactory(
        run=run,
        model=model,
        texts=texts,
        grid=grid,
        layers=plan.layers,
        sequence_ids={group: sample.sequence_id for group, sample in plan.samples.items()},
    )
    first_rows = _plan_parts(plan, run.label, width, grid.window_tokens)

    def fill(paths: Mapping[str, Path]) -> None:
        arrays = {suffix: _new_array(paths[suffix], shape) for suffix, shape in shapes.items()}
        tables: dict[TracePart, pa.Table] = {}
        for traced in engine.run(list(first_rows), make_tracer, lambda part, number: progress(number)):
            part = traced.part
            rows = slice(first_rows[part], first_rows[part] + part.stop - part.start)
            arrays[".npy"][rows] = traced.states_RWD
            if plan.layers:
                arrays[".layers.npy"][rows] = traced.layers_RYKD
            tables[part] = _table(plan.samples[part.group].part(slice(part.start, part.stop)), traced)
        for array in arrays.values():
            array.flush()
        _write_table(paths[".parquet"], [tables[part] for part in first_rows], run, grid)

    plan.derived.write(plan.key, [*shapes, ".parquet"], fill)


def _plan_parts(plan: TracePlan, label: str, width: int, window_tokens: int) -> dict[TracePart, int]:
    """The parts of the samples, group by group, whose states fit `BYTES_AT_ONCE`, with each one's first row of all.

    What a part holds decides which sequences are decoded together, and so the last digits: no engine has a say in it.
    """
    bytes_per_row = 2 * width * (2 * window_tokens + len(plan.layers) * plan.context)
    rows_at_once = max(1, BYTES_AT_ONCE // bytes_per_row)
    first_rows: dict[TracePart, int] = {}
    first_row = 0
    for group, sample in plan.samples.items():
        num_rows = len(sample.sequence_id)
        for start in range(0, num_rows, rows_at_once):
            stop = min(start + rows_at_once, num_rows)
            first_rows[TracePart(label, plan.context, group, start, stop)] = first_row + start
        first_row += num_rows
    return first_rows


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float16]]:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    reserve(path)
    return array


def _write_table(path: Path, tables: list[pa.Table], run: Run, grid: Grid) -> None:
    table = pa.concat_tables(tables) if tables else _schema(grid.window_tokens).empty_table()
    metadata = {"fingerprint": run.fingerprint, "model": run.label}
    units = json.dumps({name: unit for name, (_, unit) in (COLUMNS | TOKEN_COLUMNS).items()})
    path.write_bytes(encode_table(table.replace_schema_metadata(metadata | {"units": units})))


def read_traces(folder: Path, label: str, context: int, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A model's traces at a context, one row per sampled sequence; by `columns` where given; StoreError without any."""
    path = traces_of(folder, label, context).path(".parquet")
    if not path.is_file():
        raise StoreError(f"{path}: not there; expected the traces of {label}: run the study with it again")
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); run the study again to have it redone") from error


def has_traces(folder: Path, label: str, context: int) -> bool:
    """Whether a model was traced at a context: not so where it was scored before the study asked for traces."""
    return traces_of(folder, label, context).path(".json").is_file()


def read_states(folder: Path, label: str, context: int) -> NDArray[np.float16]:
    """The last-layer states, float16 [rows, k + n - 1, width], memory-mapped; index i predicts token i + 1."""
    return np.load(traces_of(folder, label, context).path(".npy"), mmap_mode="r", allow_pickle=False)


def read_layers(folder: Path, label: str, context: int) -> NDArray[np.float16] | None:
    """Chosen layers' states in the context, float16 [rows, layers, k, width], memory-mapped; None if none were kept."""
    files = traces_of(folder, label, context)
    kept = files.has(".layers.npy")
    return np.load(files.path(".layers.npy"), mmap_mode="r", allow_pickle=False) if kept else None


def _schema(window_tokens: int) -> pa.Schema:
    scalars = [pa.field(name, kind) for name, (kind, _) in COLUMNS.items()]
    lists = [pa.field(name, pa.list_(kind, window_tokens)) for name, (kind, _) in TOKEN_COLUMNS.items()]
    return pa.schema([*scalars, *lists])


def _table(sample: Sample, traced: TracedPart) -> pa.Table:
    """The rows of a part of one group."""
    num_rows, window = traced.tokens_RW.shape
    scalars = [
        pa.array(sample.sequence_id),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_rows, np.int8)), pa.array([traced.part.group])),
        pa.array(np.full(num_rows, traced.part.context, np.int32)),
        pa.array(sample.offset),
        pa.array(sample.num_repeats.astype(np.int32), mask=sample.num_repeats < 0),
        pa.array(sample.num_matched.astype(np.int32)),
        pa.array(sample.num_stratum),
        pa.array(sample.design_weight),
    ]
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel(), type=kind), window)
        for values, (kind, _) in zip([traced.tokens_RW, *traced.facts], TOKEN_COLUMNS.values(), strict=True)
    ]
    return pa.Table.from_arrays([*scalars, *lists], schema=_schema(window))
