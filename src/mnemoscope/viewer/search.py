"""Sequences whose text holds some words: there is no index, so their windows are read, for a bounded time.

A search goes through the sequences that the other filters leave, in the order of ids, until a page is full or its
time is up; it says how far it came, and the next page goes on from there.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from mnemoscope.viewer.committed import CommittedShards
from mnemoscope.viewer.filters import Cursor, Filter
from mnemoscope.viewer.pages import PAGE_ROWS, ListedRow, last_id, parts_of
from mnemoscope.viewer.queries import Session
from mnemoscope.viewer.statements import Row, rows_by_id
from mnemoscope.viewer.windows import WindowTexts

SEARCH_SECONDS: Final = 1.5
MAX_SEARCHED_PART: Final = 1 << 15
_ROWS_AT_ONCE: Final = 256


class Found(NamedTuple):
    """A page of a search."""

    rows: tuple[ListedRow, ...]
    next: Cursor | None
    num_searched: int
    """Sequences that have been looked at, on the pages before too."""
    num_unread: int
    """Of those on this page: whose text the corpus does not hold any more."""


def search(
    shards: CommittedShards,
    session: Session,
    texts: WindowTexts,
    asked: Filter,
    cursor: Cursor | None,
    *,
    seconds: float = SEARCH_SECONDS,
) -> Found:
    """The next sequences whose text holds the filter's words; at least a few hundred are looked at."""
    ends = time.monotonic() + seconds
    found: list[ListedRow] = []
    num_searched, num_unread = 0 if cursor is None else cursor.num_passed, 0
    at = cursor
    for number, part in enumerate(parts_of(shards, asked, cursor, most=MAX_SEARCHED_PART)):
        if number and time.monotonic() > ends:
            at = Cursor(part.group, part.start, last_id(part, at), num_searched, None)
            return Found(tuple(found), at, num_searched, num_unread)
        statement = rows_by_id(shards.study, part, asked, after=last_id(part, at))
        rows = [Row(*row) for row in session.ask(statement)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            session.check()
            block = rows[start : start + _ROWS_AT_ONCE]
            hits = texts.find(part.group, block, asked.text or "")
            places = [place for place, row in enumerate(block) if row.sequence_id in hits.sequence_ids]
            places = places[: PAGE_ROWS - len(found)]
            found += [ListedRow(part, block[place]) for place in places]
            is_full = len(found) == PAGE_ROWS
            num_done = places[-1] + 1 if is_full else len(block)
            num_searched, num_unread = num_searched + num_done, num_unread + hits.num_unread
            at = Cursor(part.group, part.start, block[num_done - 1].sequence_id, num_searched, None)
            is_last = start + num_done == len(rows)  # then the next part says where to go on, if there is one
            if is_full or (time.monotonic() > ends and not is_last):
                return Found(tuple(found), at, num_searched, num_unread)
    return Found(tuple(found), None, num_searched, num_unread)
