"""What the page's scripts read: plain JSON values of a study and its tables, and their text, safe inside HTML."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.levels import LEVELS, level_of_scores
from mnemoscope.report.escapes import escape
from mnemoscope.report.study_facts import StudyFacts

MAX_TABLE_CHARACTERS: Final = 25_000
"""Of one table's rows that the page carries; the whole lies beside the study's analyses."""
_MAX_ROWS: Final = 2000
_DIGITS: Final = 6
"""Of reals in tables and figures: more than any interval here allows."""
_ESCAPED: Final = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def study_data(facts: StudyFacts, *, folder: str) -> dict[str, Any]:
    """The study as figures, tables and explorer know it; `folder` is what a reader types after `mnemoscope show`."""
    return {
        "name": facts.name,
        "folder": folder,
        "models": [
            {
                "label": model.label,
                "source": escape(model.source, backslash=False),
                "training_step": model.training_step,
                "num_parameters": model.num_non_embedding_parameters,
                "is_final": model.is_final,
            }
            for model in facts.models
        ],
        "contexts": list(facts.contexts),
        "continuations": list(facts.continuations),
        "groups": list(facts.groups),
        "mode": facts.mode,
        "traced_contexts": list(facts.traced_contexts),
        "levels": {str(n): _level_ranges(n) for n in facts.continuations},
    }


def table_data(
    table: pa.Table, caption: str, *, max_characters: int = MAX_TABLE_CHARACTERS, model: str | None = None
) -> dict[str, Any]:
    """A table's columns with their meanings, and as many of its rows as fit: where not all do, those of `model` first.

    Says how many rows the whole has, and whose rows come first.
    """
    rows = _rows(table.slice(0, _MAX_ROWS))
    shown, first = rows[: _num_fitting(rows, max_characters)], None
    if table.num_rows > len(shown) and (own := _rows_of(table, model)) is not None:
        rows = _rows(table.take(own[:_MAX_ROWS]))
        shown, first = rows[: _num_fitting(rows, max_characters)], model
    return {
        "caption": caption,
        "columns": [_column_data(field) for field in table.schema],
        "rows": shown,
        "num_rows": table.num_rows,
        "is_cut": table.num_rows > len(shown),
        "first": first,
    }


def _rows_of(table: pa.Table, model: str | None) -> NDArray[np.int64] | None:
    """The places of all rows, those of a model (of a pair: the second) before the others; None where it has none."""
    for name in ("model", "model_to"):
        if name in table.column_names:
            is_other = np.array([value != model for value in table.column(name).to_pylist()], np.bool_)
            return None if is_other.all() else np.argsort(is_other, kind="stable")
    return None


def _rows(table: pa.Table) -> list[list[Any]]:
    return [list(row) for row in zip(*(_plain_column(column) for column in table.columns), strict=True)]


def _num_fitting(rows: Sequence[Sequence[Any]], max_characters: int) -> int:
    """How many first rows fit, at least one."""
    ends = np.cumsum([len(dump_json(row)) for row in rows])
    return max(1, int(np.searchsorted(ends, max_characters, side="right")))


def figure_data(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A figure's description, its rows packed: the names of their columns once, then their values."""
    packed = {name: _pack(rows) for name, rows in spec.get("datasets", {}).items()}
    return {**spec, "datasets": packed}


def _pack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each row as the index of its columns and its values: what a row lacks is not null.

    Texts that occur again stand in `texts`, and where they occur stands `[index]`, for they are most of a figure.
    """
    shapes = list(dict.fromkeys(tuple(row) for row in rows))
    places = {shape: index for index, shape in enumerate(shapes)}
    counts = Counter(value for row in rows for value in row.values() if isinstance(value, str))
    texts = [text for text, count in counts.items() if count > 1]
    indexes = {text: [index] for index, text in enumerate(texts)}
    packed = [[places[tuple(row)], *(_short(value, indexes) for value in row.values())] for row in rows]
    return {"shapes": shapes, "texts": texts, "rows": packed}


def _short(value: Any, indexes: Mapping[str, list[int]]) -> Any:
    """A row's value, which is a text, a number, a truth value or None."""
    assert not isinstance(value, list | dict), f"{value}: not told apart from the index of a text"
    if isinstance(value, str):
        return indexes.get(value, value)
    return _rounded(value) if isinstance(value, float) and math.isfinite(value) else value


def dump_json(value: object) -> str:
    """JSON that can stand in a script element: no `<`, `>`, `&` or line separator. ValueError for NaN and infinity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def _level_ranges(continuation: int) -> list[tuple[str, int, int]]:
    """Each level that occurs, with its fewest and most matched tokens."""
    level_of = level_of_scores(continuation)
    places = ((name, np.flatnonzero(level_of == level)) for level, name in enumerate(LEVELS))
    return [(name, int(found[0]), int(found[-1])) for name, found in places if len(found)]


def _column_data(field: pa.Field) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    kind = "flag" if pa.types.is_boolean(field.type) else "number" if _is_number(field.type) else "text"
    return {
        "name": field.name,
        "meaning": metadata.get("meaning", ""),
        "unit": metadata.get("unit", ""),
        "type": kind,
    }


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _plain_column(column: pa.ChunkedArray) -> Sequence[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type):
        return [None if value is None or not math.isfinite(value) else _rounded(value) for value in values]
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return values
    return [None if value is None else escape(str(value), backslash=False) for value in values]


def _rounded(value: float) -> float | int:
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short
