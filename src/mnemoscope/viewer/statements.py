"""A filter, over some shards -> SQL and its parameters. Pure.

Only the text of a statement depends on what is asked; every value and every path is a bound parameter. A path is
written so that no character in it is taken for a pattern.

num_matched is counted from the match bits, cut to the continuation by a mask. Where the first mismatch decides or
bounds it, it is asked first: it is one small column with bounds per shard, so that most shards are not read. All n
match if and only if the first mismatch is not before n, and no more than num_matched tokens are before it.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from mnemoscope.store import Run, Study, shard_path
from mnemoscope.viewer.committed import Part
from mnemoscope.viewer.filters import Cursor, Filter, Interval, Order, Place

VALUES: Final[dict[Order, str]] = {"matched": "num_matched", "log_probability": "log_probability"}
"""What rows are ordered by, where that is not the id."""
_LAST_ID: Final = 2**63 - 1


class Row(NamedTuple):
    """A sequence as a list shows it."""

    sequence_id: int
    num_repeats: int | None
    window_hash: int | None
    first_mismatch: int | None
    num_matched: int | None
    log_probability: float | None


_ROW: Final = ("sequence_id", "num_repeats", "window_hash", "first_mismatch", "num_matched", "log_probability")


class Statement(NamedTuple):
    """SQL and its parameters."""

    sql: str
    parameters: dict[str, Any]


def places_of(asked: Filter) -> list[Place]:
    """The place whose values are shown, and those of the cell."""
    cell = asked.cell
    return [asked.place, *(() if cell is None else (cell.before, cell.after))]


def labels_of(asked: Filter) -> list[str]:
    """The models whose shards are read, each once."""
    return list(dict.fromkeys(place.model for place in places_of(asked)))


def rows_by_id(study: Study, part: Part, asked: Filter, *, after: int) -> Statement:
    """The rows of a part in the order of ids, behind the id `after`; columns as in `Row`."""
    writer = _Writer(study, part, asked)
    behind = f"t0.sequence_id > {writer.bind('after', after)}"
    return Statement(f"{writer.select(_ROW, behind)} ORDER BY sequence_id", writer.parameters)


def ids_by_id(study: Study, part: Part, asked: Filter, *, after: int, limit: int) -> Statement:
    """Id, and null as value, of the `limit` first rows of a part in the order of ids, behind the id `after`."""
    writer = _Writer(study, part, asked)
    inner = writer.select(("sequence_id",), f"t0.sequence_id > {writer.bind('after', after)}")
    sql = f"SELECT sequence_id, NULL FROM ({inner}) ORDER BY sequence_id LIMIT {writer.bind('limit', limit)}"
    return Statement(sql, writer.parameters)


def ids_by_value(study: Study, part: Part, asked: Filter, *, cursor: Cursor | None, limit: int) -> Statement:
    """Id and value of the `limit` first rows of a part behind the cursor: largest first, unknown last, then by id."""
    writer, value = _Writer(study, part, asked), VALUES[asked.order]
    inner, behind = writer.select(("sequence_id", value)), "true"
    if cursor is not None:
        after = writer.bind("after", _last_listed(part, cursor))
        behind = f"{value} IS NULL AND sequence_id > {after}"
        if cursor.value is not None:
            own = writer.bind("value", cursor.value)
            behind = f"{value} < {own} OR {value} IS NULL OR ({value} = {own} AND sequence_id > {after})"
    order = f"ORDER BY {value} DESC NULLS LAST, sequence_id LIMIT {writer.bind('limit', limit)}"
    return Statement(f"SELECT sequence_id, {value} FROM ({inner}) WHERE {behind} {order}", writer.parameters)


def rows_of_ids(study: Study, part: Part, place: Place, sequence_ids: Sequence[int]) -> Statement:
    """The rows of some sequences of a part, in any order; columns as in `Row`."""
    writer = _Writer(study, part, Filter(place=place))
    chosen = f"t0.sequence_id IN (SELECT unnest({writer.bind('ids', list(sequence_ids))}))"
    return Statement(writer.select(_ROW, chosen), writer.parameters)


def number_of_rows(study: Study, part: Part, asked: Filter) -> Statement:
    """How many rows of a part pass the filter."""
    writer = _Writer(study, part, asked)
    return Statement(f"SELECT count(*) FROM ({writer.select(('sequence_id',))})", writer.parameters)


def _last_listed(part: Part, cursor: Cursor) -> int:
    """Of rows with the cursor's value, the last id of this part's group that was listed: members come first."""
    if part.group == cursor.group:
        return cursor.sequence_id
    return -1 if part.group == "control" else _LAST_ID


@final
class _Writer:
    """A SELECT over a part, with the parameters that it needs so far.

    t0 is the table of the place that is shown; the cell's, where they are others, are joined on the sequence.
    """

    def __init__(self, study: Study, part: Part, asked: Filter) -> None:
        self.parameters: dict[str, Any] = {}
        self._study = study
        self._part = part
        self._asked = asked
        self._tables = list(dict.fromkeys((place.model, place.context) for place in places_of(asked)))

    def bind(self, name: str, value: object) -> str:
        """The name of a parameter in SQL."""
        self.parameters[name] = value
        return f"${name}"

    def select(self, columns: Sequence[str], *conditions: str) -> str:
        """Columns of all rows that pass the filter and further conditions."""
        told = ", ".join(f"{self._column(name)} AS {name}" for name in columns)
        sources = " JOIN ".join(self._source(number) for number in range(len(self._tables)))
        return f"SELECT {told} FROM {sources} WHERE {' AND '.join([*self._conditions(), *conditions])}"

    def _source(self, number: int) -> str:
        label, _ = self._tables[number]
        folder, run = self._study.folder.resolve(), self._study.run(label)
        paths = [_plain(shard_path(folder, run, shard)) for shard in self._part.shards]
        table = f"read_parquet({self.bind(f'paths{number}', paths)}, hive_partitioning = false) AS t{number}"
        return table if number == 0 else f"{table} ON t{number}.sequence_id = t0.sequence_id"

    def _conditions(self) -> list[str]:
        asked = self._asked
        conditions = [
            f"t{number}.context = {self.bind(f'context{number}', context)}"
            for number, (_, context) in enumerate(self._tables)
        ]
        if asked.matched is not None:
            conditions.append(self._is_within(asked.place, asked.matched, "matched"))
        if asked.cell is not None:
            conditions.append(self._is_within(asked.cell.before, asked.cell.matched_before, "before"))
            conditions.append(self._is_within(asked.cell.after, asked.cell.matched_after, "after_level"))
        if asked.copies is not None:
            low, high = self.bind("copies_low", asked.copies.low), self.bind("copies_high", asked.copies.high)
            conditions.append(f"t0.num_repeats BETWEEN {low} AND {high}")
        return conditions

    def _is_within(self, place: Place, interval: Interval, name: str) -> str:
        """num_matched lies in an interval."""
        run, table, n = self._table(place)
        mode = run.identity.mode
        if mode != "imported" and (interval.low >= n or mode == "exact"):
            is_possible = interval.low <= n <= interval.high
            return f"{table}.first_mismatch >= {self.bind(f'n{n}', n)}" if is_possible else "false"
        low, high = self.bind(f"{name}_low", interval.low), self.bind(f"{name}_high", interval.high)
        condition = f"{self._num_matched(place)} BETWEEN {low} AND {high}"
        is_bounded = mode in ("graded", "two-phase") and interval.high < n
        return f"{table}.first_mismatch <= {high} AND {condition}" if is_bounded else condition

    def _column(self, name: str) -> str:
        place = self._asked.place
        if name == "num_matched":
            return self._num_matched(place)
        if name == "log_probability":
            value = f"t0.log_probability[{self._index(place.continuation)}]"
            return f"CASE WHEN isfinite({value}) THEN {value} END"
        return f"t0.{name}"

    def _num_matched(self, place: Place) -> str:
        """num_matched of a place, null where it is unknown."""
        run, table, n = self._table(place)
        if run.identity.mode == "imported":
            return f"{table}.num_matched[{self._index(n)}]"
        if run.identity.mode == "exact":
            length = self.bind(f"n{n}", n)
            return f"CASE WHEN {table}.first_mismatch >= {length} THEN {length} END"
        num_bits = -(-self._study.config.continuations[-1] // 8) * 8  # what is stored, the last byte's padding too
        mask = self.bind(f"mask{n}", "1" * n + "0" * (num_bits - n))
        counted = f"bit_count({table}.matched::BIT & {mask}::BIT)"
        if run.identity.mode != "two-phase":
            return counted
        length, first = self.bind(f"n{n}", n), f"{table}.first_mismatch"  # which decides it from the last token on
        decided = f"CASE WHEN {first} >= {length} - 1 THEN least({first}, {length}) END"
        return f"CASE WHEN {table}.matched IS NULL THEN {decided} ELSE {counted} END"

    def _table(self, place: Place) -> tuple[Run, str, int]:
        number = self._tables.index((place.model, place.context))
        return self._study.run(place.model), f"t{number}", place.continuation

    def _index(self, continuation: int) -> str:
        return self.bind(f"index{continuation}", self._study.config.continuations.index(continuation) + 1)


def _plain(path: Path) -> str:
    return glob.escape(str(path))
