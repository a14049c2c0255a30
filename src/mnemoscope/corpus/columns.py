"""Which field of a table or of JSON lines holds the corpus, and whether it is text or token lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from mnemoscope.errors import CorpusError

ColumnKind = Literal["tokens", "text"]

_NAMES: Final[dict[ColumnKind, tuple[str, ...]]] = {
    "tokens": ("tokens", "input_ids", "token_ids"),
    "text": ("text", "content"),
}
_MEANING: Final[dict[ColumnKind, str]] = {"tokens": "lists of integers", "text": "strings"}


class Column(NamedTuple):
    """A field by name, and what it holds."""

    name: str
    kind: ColumnKind


def choose_column(
    fields: Mapping[str, ColumnKind | None], *, wanted: str | None, kind: ColumnKind | None, where: str
) -> Column:
    """The wanted column, or the first with a usual name; of the given kind, token lists before text.

    `fields` tells what each field of the file holds, None for neither. Raises CorpusError naming `where`.
    """
    kinds: tuple[ColumnKind, ...] = ("tokens", "text") if kind is None else (kind,)
    if wanted is not None:
        return Column(wanted, _kind_of_wanted(fields, wanted, kinds, where))
    for candidate in kinds:
        for name in _NAMES[candidate]:
            if fields.get(name) == candidate:
                return Column(name, candidate)
    expected = " or ".join(f"{' / '.join(_NAMES[kind])} with {_MEANING[kind]}" for kind in kinds)
    raise CorpusError(f"{where}: has the columns {_listed(fields)}; expected {expected} (or set `column`)")


def _kind_of_wanted(
    fields: Mapping[str, ColumnKind | None], wanted: str, kinds: tuple[ColumnKind, ...], where: str
) -> ColumnKind:
    if wanted not in fields:
        raise CorpusError(f"{where}: no column {wanted!r}; it has {_listed(fields)}")
    found = fields[wanted]
    if found is None or found not in kinds:
        given = "neither strings nor lists of integers" if found is None else _MEANING[found]
        raise CorpusError(
            f"{where}: column {wanted!r} holds {given}; expected {' or '.join(_MEANING[kind] for kind in kinds)}"
        )
    return found


def _listed(fields: Mapping[str, ColumnKind | None]) -> str:
    names = list(fields)
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "") if names else "none"
