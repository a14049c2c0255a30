"""The predictions table as arrays: one forecast for each predictor, seed and set of sequences.

Axes: R sequences, I indices of the continuation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.errors import ConfigError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]
Role = Literal["baseline", "original", "own"]

OURS: Final = "transformer"
"""The predictor whose gains are reported."""
OWN: Final = (OURS, "transformer-facts", "lstm")
ORIGINALS: Final = ("original", "original-fixed")
TASKS: Final = ("context", "decode")
PRIORS: Final = ("balanced", "natural")
TEST, CONTROL = "test", "control"
_KEYS: Final = ("model", "context", "continuation", "trained_on", "task", "predictor", "prior", "split", "seed")
_SCALARS: Final = (
    *("sequence_id", "cluster", "design_weight", "num_matched"),
    *("full_match_probability", "expected_matched"),
)
_LISTS: Final = ("matched", "probability", "predicted")


class Unit(NamedTuple):
    """A predictor in one of its roles: what it learned from, at which task, for which prior, on which split."""

    trained_on: str
    task: str
    predictor: str
    prior: str
    split: str


@dataclass(frozen=True, eq=False)
class Forecast:
    """What one trained predictor says of some sequences, and what came; rows by rising sequence_id, each once."""

    seed: int
    sequence_id_R: Integers
    cluster_R: Integers
    design_weight_R: Floats
    num_matched_R: Integers
    matched_RI: Bits
    probability_RI: Floats
    """Of a match at each index."""
    predicted_RI: Bits
    full_probability_R: Floats
    """Of a match at every index."""
    expected_R: Floats
    """Expected num_matched."""

    def take(self, rows: Integers) -> Forecast:
        """The forecast of these rows alone."""
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    @property
    def is_full(self) -> Bits:
        """Whether the whole continuation matched."""
        return self.num_matched_R == self.matched_RI.shape[1]


class Cell(NamedTuple):
    """All forecasts of one model's generation at one context and continuation."""

    model: str
    context: int
    continuation: int
    forecasts: Mapping[Unit, Sequence[Forecast]]
    """By unit, in order: tasks, ours, the original, baselines; one forecast for each seed."""


def role_of(predictor: str) -> Role:
    """Whether a predictor is ours, the original's, or a baseline."""
    return "own" if predictor in OWN else "original" if predictor in ORIGINALS else "baseline"


def read_cells(table: pa.Table) -> Iterator[Cell]:
    """The table cell by cell, models in the order of their first row, then by context and continuation.

    Raises `ConfigError` where columns lack or what stands in them cannot be a forecast.
    """
    missing = [name for name in (*_KEYS, *_SCALARS, *_LISTS) if name not in table.column_names]
    if missing:
        raise ConfigError(f"the predictions table has no column {', '.join(missing)}; expected those of `predictions`")
    for model in table["model"].unique().to_pylist():
        rows = _where(table, "model", model)
        for context in sorted(rows["context"].unique().to_pylist()):
            at_context = _where(rows, "context", context)
            for continuation in sorted(at_context["continuation"].unique().to_pylist()):
                cell = _where(at_context, "continuation", continuation)
                yield Cell(model, context, continuation, _forecasts(cell, continuation))


def _where(table: pa.Table, name: str, value: Any) -> pa.Table:
    return table.filter(pa.array(table[name].to_numpy() == value))


def _forecasts(cell: pa.Table, continuation: int) -> dict[Unit, list[Forecast]]:
    columns = _Columns(cell, continuation)
    found: dict[tuple[Unit, int], Forecast] = {}
    for key, rows in _groups(cell):
        *names, seed = key
        unit = Unit(*names)
        by_sequence = rows[np.argsort(columns.scalars["sequence_id"][rows], kind="stable")]
        found[unit, seed] = _check(columns.forecast(seed, by_sequence), unit)
    first = {unit.predictor: place for place, (unit, _) in reversed(list(enumerate(found)))}
    ordered: dict[Unit, list[Forecast]] = {}
    for unit, seed in sorted(found, key=lambda pair: (*_rank(pair[0], first), pair[1])):
        ordered.setdefault(unit, []).append(found[unit, seed])
    return ordered


def _rank(unit: Unit, first: Mapping[str, int]) -> tuple[Any, ...]:
    """Tasks, then our predictors, the original's and the baselines in the order of their first row."""
    known = (*OWN, *ORIGINALS)
    place = known.index(unit.predictor) if unit.predictor in known else len(known) + first[unit.predictor]
    return unit.split != TEST, TASKS.index(unit.task), place, unit.trained_on, PRIORS.index(unit.prior)


def _groups(cell: pa.Table) -> Iterator[tuple[tuple[Any, ...], Integers]]:
    """The rows of each unit and seed, in the order of their first row."""
    codes, labels = np.zeros(len(cell), np.int64), list[list[Any]]()
    for name in _KEYS[3:]:
        column = cell[name].combine_chunks()
        encoded = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
        labels.append(encoded.dictionary.to_pylist())
        codes = codes * len(labels[-1]) + encoded.indices.to_numpy().astype(np.int64)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    for place in np.argsort(first, kind="stable"):
        rest, key = int(codes[first[place]]), list[Any]()
        for some in reversed(labels):
            rest, index = divmod(rest, len(some))
            key.append(some[index])
        yield tuple(reversed(key)), pieces[place]


class _Columns:
    """The columns of a cell as arrays."""

    def __init__(self, cell: pa.Table, continuation: int) -> None:
        self.scalars = {name: cell[name].to_numpy() for name in _SCALARS}
        self.matrices = {name: _matrix(cell[name], name, continuation) for name in _LISTS}

    def forecast(self, seed: int, rows: Integers) -> Forecast:
        scalars = {name: values[rows] for name, values in self.scalars.items()}
        return Forecast(
            seed=seed,
            sequence_id_R=scalars["sequence_id"].astype(np.int64),
            cluster_R=scalars["cluster"].astype(np.int64),
            design_weight_R=scalars["design_weight"].astype(np.float64),
            num_matched_R=scalars["num_matched"].astype(np.int64),
            matched_RI=self.matrices["matched"][rows].astype(np.bool_),
            probability_RI=self.matrices["probability"][rows].astype(np.float64),
            predicted_RI=self.matrices["predicted"][rows].astype(np.bool_),
            full_probability_R=scalars["full_match_probability"].astype(np.float64),
            expected_R=scalars["expected_matched"].astype(np.float64),
        )


def _matrix(column: pa.ChunkedArray, name: str, continuation: int) -> NDArray[Any]:
    """A list column as [rows, continuation]."""
    lists = column.combine_chunks()
    if lists.null_count or (lists.value_lengths().to_numpy() != continuation).any():
        raise ConfigError(
            f"a list of `{name}` in the predictions table has not its continuation's {continuation} items"
        )
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, continuation)


def _check(forecast: Forecast, unit: Unit) -> Forecast:
    """The forecast; raises where it has a sequence twice, labels that contradict one another, or no probabilities."""
    allowed = {"task": TASKS, "prior": PRIORS, "split": (TEST, CONTROL)}
    for name, values in allowed.items():
        if getattr(unit, name) not in values:
            raise ConfigError(f"a row has {name} {getattr(unit, name)!r}; expected {' or '.join(values)}")
    where = f"predictor {unit.predictor!r} (task {unit.task}, {unit.split}, seed {forecast.seed})"
    if (np.diff(forecast.sequence_id_R) == 0).any():
        twice = int(forecast.sequence_id_R[1:][np.diff(forecast.sequence_id_R) == 0][0])
        raise ConfigError(f"{where} predicts sequence {twice} twice; expected one row each")
    if (forecast.matched_RI.sum(axis=1) != forecast.num_matched_R).any():
        raise ConfigError(f"{where}: num_matched is not the number of matched tokens in every row")
    for name, values in (("probability", forecast.probability_RI), ("full_match", forecast.full_probability_R)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ConfigError(f"{where}: {name} has a value that is not from 0 to 1")
    if not (np.isfinite(forecast.expected_R).all() and (forecast.design_weight_R > 0).all()):
        raise ConfigError(f"{where}: expected_matched must be finite and design_weight positive")
    return forecast
