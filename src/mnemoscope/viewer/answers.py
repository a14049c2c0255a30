"""A study's answers to the explorer's questions, as plain JSON values. Everything is read, nothing is written.

What the study does not know is null, and a note says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

from mnemoscope.errors import ConfigError
from mnemoscope.manifest import read_manifest
from mnemoscope.report.explorer_data import ExplorerShape, RowJson, sequence_json, texts_json
from mnemoscope.report.page_data import study_data
from mnemoscope.report.study_facts import facts_of
from mnemoscope.sequence_facts import SequencePick
from mnemoscope.store import GROUPS, Group, Study
from mnemoscope.viewer.committed import CommittedShards
from mnemoscope.viewer.filters import Cursor, Filter, Place
from mnemoscope.viewer.pages import Counts, ListedRow, read_page
from mnemoscope.viewer.queries import Database, Session
from mnemoscope.viewer.search import search
from mnemoscope.viewer.statements import Row, labels_of
from mnemoscope.viewer.windows import WindowTexts

COUNT_SECONDS: Final = 0.1
"""That a page waits for the number of all, which can be asked for separately."""
MAX_ORDERED: Final = 1_000_000
"""Sequences of a study that opens with the most matched first; of a larger one that could take a look at them all."""
_REDACTED: Final = (
    "Text that looks private, and long verbatim text, is hidden; so there is no search in text: "
    "it would tell what is hidden."
)


@final
@dataclass(frozen=True)
class Library:
    """A study, and what is kept between requests."""

    study: Study
    shards: CommittedShards
    database: Database
    counts: Counts
    texts: WindowTexts
    redact: bool

    @classmethod
    def of(cls, study: Study, *, redact: bool) -> Library:
        """A library over a study; opens its corpora in the background, and reads nothing else yet."""
        shards, texts = CommittedShards(study), WindowTexts(study, redact=redact)
        texts.start()
        return cls(study, shards, Database(study.folder), Counts(shards), texts, redact)


def tell_study(library: Library) -> dict[str, Any]:
    """What the explorer must know before it asks: models, grid, groups."""
    study = library.study
    folder = str(study.folder)
    facts = facts_of(study, read_manifest(study.folder))
    sizes = {  # without those that turned out too short, once a manifest says how many they are
        name: own.num_sequences if own.num_scored is None else own.num_scored for name, own in facts.groups.items()
    }
    counted = " and ".join(f"{sizes[group]:,} {_plural(group)}" for group in GROUPS if group in sizes)
    note = f"All of this study's sequences, {counted}, as they stand in its tables."
    return {
        "study": study_data(facts, folder=folder),
        "note": f"{note} {_REDACTED}" if library.redact else note,
        "folder": folder,
        "order": "matched" if sum(sizes.values()) <= MAX_ORDERED else "id",
    }


def tell_page(library: Library, session: Session, asked: Filter, cursor: Cursor | None) -> dict[str, Any]:
    """Fifty sequences of a filter, where the next ones begin, and how many there are if that is known already."""
    if asked.text is not None:
        return _tell_search(library, session, asked, cursor)
    page = read_page(library.shards, session, asked, cursor)
    total = page.total
    if total is None:
        total = library.counts.count(session, asked, seconds=COUNT_SECONDS)
    return {
        "total": total,
        "rows": _row_data(library, page.rows, asked.place),
        "next": None if page.next is None else str(page.next),
        "note": _note(library, asked),
    }


def tell_count(library: Library, session: Session, asked: Filter) -> dict[str, Any]:
    """How many sequences pass a filter; null with a text, which would have to be searched to the end."""
    return {"total": library.counts.count(session, asked)}


def tell_sequence(library: Library, group: Group, sequence_id: int) -> dict[str, Any] | None:
    """Everything that is stored of a sequence; None where no model has scored it."""
    facts = library.texts.sequences([SequencePick(group, sequence_id)])[0]
    if not facts.scores:
        return None
    return {"sequence": sequence_json(facts, _shape(library.study)), "texts": texts_json([facts])}


def _shape(study: Study) -> ExplorerShape:
    models = tuple(study.runs)
    return ExplorerShape(models, frozenset(models), study.config.contexts, study.config.continuations)


def _tell_search(library: Library, session: Session, asked: Filter, cursor: Cursor | None) -> dict[str, Any]:
    if library.redact:
        raise ConfigError("text: a search in text would tell what is hidden; expected none with --redact")
    groups: list[Group] = [group for group in GROUPS if group in library.study.config.groups]
    groups = [group for group in groups if asked.group in (None, group)]
    faults: dict[Group, str] = {group: fault for group in groups if (fault := library.texts.fault(group)) is not None}
    told = [f"The text of the {_plural(group)} cannot be searched: {fault}." for group, fault in faults.items()]
    readable = [group for group in groups if group not in faults]
    if not readable:
        return {"total": 0, "rows": [], "next": None, "note": " ".join(told)}
    if len(readable) < len(groups):
        asked = replace(asked, group=readable[0])
    found = search(library.shards, session, library.texts, asked, cursor)
    is_whole = cursor is None and found.next is None
    everything = library.counts.known(replace(asked, text=None))
    of_all = "" if everything is None else f" of {everything:,}"
    state = "All are searched." if found.next is None else "More sequences: the search goes on from there."
    told.append(f"Searched {found.num_searched:,}{of_all} sequences in the order of the corpus. {state}")
    if found.num_unread:
        told.append(f"Of {found.num_unread:,} of these the corpus no longer holds the text that was scored.")
    return {
        "total": len(found.rows) if is_whole else None,
        "rows": _row_data(library, found.rows, asked.place),
        "next": None if found.next is None else str(found.next),
        "note": " ".join(told),
    }


def _row_data(library: Library, rows: Sequence[ListedRow], place: Place) -> list[RowJson]:
    by_group: dict[Group, list[Row]] = {
        group: [listed.row for listed in rows if listed.part.group == group] for group in GROUPS
    }
    previews = {group: library.texts.previews(group, own, place.context) for group, own in by_group.items()}
    return [
        {
            "id": row.sequence_id,
            "group": part.group,
            "num_repeats": row.num_repeats,
            "num_matched": row.num_matched,
            "first_mismatch": row.first_mismatch,
            "log_probability": None if row.log_probability is None else round(row.log_probability, 2),
            "preview": previews[part.group].get(row.sequence_id),
        }
        for part, row in rows
    ]


def _note(library: Library, asked: Filter) -> str | None:
    """What a reader of the list must know; None where nothing."""
    told: list[str] = []
    if library.study.config.mode == "exact" and (asked.matched is not None or asked.order == "matched"):
        told.append("Scored in mode 'exact': the number of matched tokens is known of full matches only.")
    asks_scores = asked.matched is not None or asked.order == "matched" or asked.cell is not None
    if library.study.config.mode == "two-phase" and asks_scores:
        told.append(
            "Scored in two phases: how many tokens match is known of the graded sequences, and of others where the "
            "first mismatch decides it; the rest are in no such list."
        )
    lacking = [label for label in labels_of(asked) if _is_incomplete(library, label)]
    if lacking:
        told.append(f"Not scored to the end yet: {', '.join(lacking)}; what there is is listed.")
    return " ".join(told) or None


def _is_incomplete(library: Library, label: str) -> bool:
    return len(library.shards.records(label)) < library.shards.num_planned(label)


def _plural(group: Group) -> str:
    return "members" if group == "member" else "control sequences"
