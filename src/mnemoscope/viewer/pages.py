"""Pages of sequences from the committed shards, and how many there are in all.

A look goes through the shards in parts, one after the other, and ends with the page: memory does not grow with the
study, and in the order of ids nothing is read behind the page.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, final

from mnemoscope.store import GROUPS, Group, Study
from mnemoscope.viewer.committed import CommittedShards, Part, order_from, split_into_parts
from mnemoscope.viewer.filters import Cursor, Filter, Place
from mnemoscope.viewer.queries import Session
from mnemoscope.viewer.statements import Row, ids_by_id, ids_by_value, labels_of, number_of_rows, rows_of_ids

PAGE_ROWS: Final = 50
MAX_PART: Final = 1 << 20
MAX_JOINED_PART: Final = 1 << 18
"""Sequences whose rows are looked at in one go; fewer where models are joined in memory."""
_KEPT_COUNTS: Final = 256


class ListedRow(NamedTuple):
    """A row, and the part that it was found in."""

    part: Part
    row: Row


class Page(NamedTuple):
    """Some sequences, and where the next ones begin."""

    rows: tuple[ListedRow, ...]
    next: Cursor | None
    total: int | None
    """How many there are in all, where the page tells: it is the last."""


class _Ranked(NamedTuple):
    """A row's place in an order: by id, or by value and then by id."""

    part: Part
    sequence_id: int
    value: float | None


def read_page(shards: CommittedShards, session: Session, asked: Filter, cursor: Cursor | None) -> Page:
    """The next 50 sequences of a filter without text, in its order."""
    find = _first_by_id if asked.order == "id" else _first_by_value
    found = find(shards, session, asked, cursor, limit=PAGE_ROWS + 1)
    rows = tuple(_fill(shards.study, session, asked.place, found[:PAGE_ROWS]))
    num_passed = len(rows) + (0 if cursor is None else cursor.num_passed)
    if len(found) <= PAGE_ROWS:
        return Page(rows, None, num_passed)
    last = found[PAGE_ROWS - 1]
    return Page(rows, Cursor(last.part.group, last.part.start, last.sequence_id, num_passed, last.value), None)


def parts_of(
    shards: CommittedShards, asked: Filter, cursor: Cursor | None, *, wrap: bool = False, most: int = MAX_PART
) -> Iterator[Part]:
    """The parts that a look goes through, from the cursor's shard on; a cell's look stays in the cell's group."""
    labels, group = labels_of(asked), asked.group
    if asked.cell is not None:
        if group not in (None, asked.cell.group):
            return
        group = asked.cell.group
    most = min(most, MAX_JOINED_PART) if len(labels) > 1 else most
    ordered = order_from(shards.shards(labels, group), cursor, wrap=wrap)
    yield from split_into_parts(ordered, max_sequences=most)


def last_id(part: Part, cursor: Cursor | None) -> int:
    """The id behind which a look in the order of ids goes on in a part: they ascend within a group."""
    return cursor.sequence_id if cursor is not None and cursor.group == part.group else -1


def _first_by_id(
    shards: CommittedShards, session: Session, asked: Filter, cursor: Cursor | None, *, limit: int
) -> list[_Ranked]:
    found: list[_Ranked] = []
    for part in parts_of(shards, asked, cursor):
        after, num_wanted = last_id(part, cursor), limit - len(found)
        statement = ids_by_id(shards.study, part, asked, after=after, limit=num_wanted)
        found += [_Ranked(part, *row) for row in session.ask(statement)]
        if len(found) >= limit:
            break
    return found


def _first_by_value(
    shards: CommittedShards, session: Session, asked: Filter, cursor: Cursor | None, *, limit: int
) -> list[_Ranked]:
    """The rows with the largest values; the look ends early where no row can be before those that are found.

    It begins at the cursor's shard: what has the cursor's value and was not listed yet lies there or behind.
    """
    most = asked.place.continuation if asked.order == "matched" else 0.0
    best = _rank(most if cursor is None else cursor.value)
    found: list[_Ranked] = []
    for part in parts_of(shards, asked, cursor, wrap=True):
        statement = ids_by_value(shards.study, part, asked, cursor=cursor, limit=limit)
        rows = [_Ranked(part, *row) for row in session.ask(statement)]
        found = heapq.nsmallest(limit, [*found, *rows], key=_key)
        if len(found) == limit and _rank(found[-1].value) <= best:
            break
    return found


def _fill(study: Study, session: Session, place: Place, ranked: Sequence[_Ranked]) -> Iterator[ListedRow]:
    """The rows, in the order of their ranks: what a list shows is read of these few only."""
    rows: dict[tuple[Group, int], Row] = {}
    for part in dict.fromkeys(each.part for each in ranked):
        ids = [each.sequence_id for each in ranked if each.part == part]
        answer = session.ask(rows_of_ids(study, part, place, ids))
        rows |= {(part.group, row[0]): Row(*row) for row in answer}
    for each in ranked:
        yield ListedRow(each.part, rows[each.part.group, each.sequence_id])


def _rank(value: float | None) -> float:
    return math.inf if value is None else -value


def _key(ranked: _Ranked) -> tuple[float, int, int]:
    return _rank(ranked.value), GROUPS.index(ranked.part.group), ranked.sequence_id


@final
class Counts:
    """How many sequences pass a filter, kept for those that were counted; for any number of threads."""

    def __init__(self, shards: CommittedShards) -> None:
        self._shards = shards
        self._known: dict[tuple[Filter, tuple[int, ...]], int] = {}
        self._lock = threading.Lock()

    def known(self, asked: Filter) -> int | None:
        """The number where it stands in the commits or has been counted, else None; a text's is never known."""
        if asked.text is not None:
            return None
        if asked.is_everything:
            return self._shards.num_sequences(asked.place.model, asked.group)
        return self._known.get(self._key(asked))

    def count(self, session: Session, asked: Filter, *, seconds: float = math.inf) -> int | None:
        """The number, counted now where it has to be; None for a text's, and where it takes longer than `seconds`."""
        known = self.known(asked)
        if known is not None or asked.text is not None:
            return known
        key, total, ends = self._key(asked), 0, time.monotonic() + seconds
        for part in parts_of(self._shards, asked, None):
            if time.monotonic() > ends:
                return None
            total += session.ask(number_of_rows(self._shards.study, part, asked))[0][0]
        self.remember(key, total)
        return total

    def remember(self, key: tuple[Filter, tuple[int, ...]], number: int) -> None:
        """Keep a number; the oldest go."""
        with self._lock:
            while len(self._known) >= _KEPT_COUNTS:
                self._known.pop(next(iter(self._known)))
            self._known[key] = number

    def _key(self, asked: Filter) -> tuple[Filter, tuple[int, ...]]:
        """The order does not count; the state of the shards does."""
        changed = tuple(self._shards.changed(label) for label in labels_of(asked))
        return replace(asked, order="id"), changed
