"""What a request asks for, read from its parameters: which sequences, in which order, from where on.

Every value is checked against the study. ConfigError, one line that says what came and what is allowed, for any other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError

from mnemoscope.errors import ConfigError
from mnemoscope.store import Group, Study

Order = Literal["id", "matched", "log_probability"]
ORDERS: Final[tuple[Order, ...]] = ("id", "matched", "log_probability")
MAX_TEXT: Final = 200
_MAX_CELL: Final = 4000
_MAX_COPIES: Final = 2**31 - 1
_MAX_ID: Final = 2**63 - 1
_NAMES: Final = (
    "model",
    "context",
    "continuation",
    "group",
    "matched_low",
    "matched_high",
    "copies_low",
    "copies_high",
    "text",
    "order",
    "cell",
    "cursor",
)
_CURSOR: Final = re.compile(
    r"(?P<group>member|control):(?P<start>\d{1,12}):(?P<id>-1|\d{1,19}):(?P<passed>\d{1,12})"
    r":(?P<value>none|-?\d[\d.e+-]{0,39})",
    re.ASCII,
)


class Interval(NamedTuple):
    """Whole numbers from low to high, both included."""

    low: int
    high: int


class Place(NamedTuple):
    """Where num_matched stands: a model, a context and a continuation."""

    model: str
    """Its label."""
    context: int
    continuation: int


class Cell(NamedTuple):
    """The sequences of a group at one level of num_matched in one place and at another in the next."""

    group: Group
    before: Place
    matched_before: Interval
    after: Place
    matched_after: Interval


class Cursor(NamedTuple):
    """Where a page ended, so that the next one starts behind it."""

    group: Group
    start: int
    """First position of a shard that the last row, or a later shard, is not before."""
    sequence_id: int
    """Of the last row; -1 where the next page starts with a whole shard."""
    num_passed: int
    """Sequences that have been listed so far; with words to search for, those whose text has been searched."""
    value: float | None
    """What the last row is ordered by, where that is not the id; None where it is unknown."""

    def __str__(self) -> str:
        value = "none" if self.value is None else repr(self.value)
        return f"{self.group}:{self.start}:{self.sequence_id}:{self.num_passed}:{value}"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which sequences, and in which order."""

    place: Place
    """Whose num_matched and log-probability are shown, filtered and ordered by."""
    group: Group | None = None
    matched: Interval | None = None
    copies: Interval | None = None
    text: str | None = None
    order: Order = "id"
    cell: Cell | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing but a group is chosen."""
        return self.matched is None and self.copies is None and self.text is None and self.cell is None


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """The JSON of a cell, as the page writes it; `from` and `to` are renamed."""

    group: Group
    model_from: str
    model_to: str
    context_from: int
    context_to: int
    continuation_from: int
    continuation_to: int
    matched_from: tuple[int, int]
    matched_to: tuple[int, int]


_CELL: Final = TypeAdapter(_Cell)
_JSON_NAMES: Final = {"from": "matched_from", "to": "matched_to"}


def read_filter(parameters: Sequence[tuple[str, str]], study: Study) -> tuple[Filter, Cursor | None]:
    """The filter that a request's parameters stand for, and where its page starts; an empty value is none."""
    names = [name for name, _ in parameters]
    if alien := sorted(set(names) - set(_NAMES)):
        raise ConfigError(f"{_shown(alien[0])}: no such parameter; expected some of {', '.join(_NAMES)}")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{doubled[0]}: given twice; expected once")
    given = {name: value for name, value in parameters if value}
    place = _read_place(given, study)
    longest, groups = study.config.continuations[-1], tuple(study.config.groups)
    cell = _read_cell(given["cell"], study) if "cell" in given else None
    cursor = _read_cursor(given["cursor"], groups) if "cursor" in given else None
    found = Filter(
        place=place,
        group=cast(Group, _one_of("group", given["group"], groups)) if "group" in given else None,
        matched=_read_interval("matched", given, longest),
        copies=_read_interval("copies", given, _MAX_COPIES),
        text=_read_text(given.get("text")),
        order=cast(Order, _one_of("order", given.get("order", "id"), ORDERS)),
        cell=cell,
    )
    return found, cursor


def read_group(text: str, study: Study) -> Group:
    """A group of the study; ConfigError for anything else."""
    return cast(Group, _one_of("group", text, tuple(study.config.groups)))


def read_sequence_id(text: str) -> int:
    """A sequence id; ConfigError for anything else."""
    return _whole_number("id", text, 0, _MAX_ID)


def _read_place(given: Mapping[str, str], study: Study) -> Place:
    labels = tuple(study.runs)
    for name in ("model", "context", "continuation"):
        if name not in given:
            raise ConfigError(f"{name}: missing; this parameter is required")
    model = _whole_number("model", given["model"], 0, len(labels) - 1)
    context = _one_of("context", given["context"], [str(k) for k in study.config.contexts])
    continuation = _one_of("continuation", given["continuation"], [str(n) for n in study.config.continuations])
    return Place(labels[model], int(context), int(continuation))


def _read_interval(name: str, given: Mapping[str, str], most: int) -> Interval | None:
    low, high = given.get(f"{name}_low"), given.get(f"{name}_high")
    if low is None and high is None:
        return None
    found = Interval(
        0 if low is None else _whole_number(f"{name}_low", low, 0, most),
        most if high is None else _whole_number(f"{name}_high", high, 0, most),
    )
    if found.low > found.high:
        raise ConfigError(f"{name}_low: {found.low} given; expected {name}_high, which is {found.high}, or less")
    return found


def _read_text(text: str | None) -> str | None:
    if text is not None and len(text) > MAX_TEXT:
        raise ConfigError(f"text: {len(text)} characters given; expected {MAX_TEXT} or fewer")
    return text


def _read_cell(text: str, study: Study) -> Cell:
    """The cell of a transition matrix from its JSON; what is for people, such as `label`, is passed over."""
    if len(text) > _MAX_CELL:
        raise ConfigError(f"cell: {len(text)} characters given; expected {_MAX_CELL} or fewer")
    found = _parse_cell(text)
    _one_of("cell.group", found.group, tuple(study.config.groups))
    before = Place(found.model_from, found.context_from, found.continuation_from)
    after = Place(found.model_to, found.context_to, found.continuation_to)
    for end, place, matched in (("from", before, found.matched_from), ("to", after, found.matched_to)):
        _one_of(f"cell.model_{end}", place.model, tuple(study.runs))
        _one_of(f"cell.context_{end}", str(place.context), [str(k) for k in study.config.contexts])
        _one_of(f"cell.continuation_{end}", str(place.continuation), [str(n) for n in study.config.continuations])
        if not 0 <= matched[0] <= matched[1] <= place.continuation:
            raise ConfigError(
                f"cell.{end}: {list(matched)} given; expected [low, high] within 0 to {place.continuation}"
            )
    return Cell(found.group, before, Interval(*found.matched_from), after, Interval(*found.matched_to))


def _parse_cell(text: str) -> _Cell:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"cell: {_shown(text)} given; expected JSON") from None
    if not isinstance(document, dict):
        raise ConfigError(f"cell: {_shown(text)} given; expected a JSON object")
    renamed = {_JSON_NAMES.get(name, name): value for name, value in cast(dict[str, Any], document).items()}
    try:
        return _CELL.validate_json(json.dumps(renamed), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        names = {own: name for name, own in _JSON_NAMES.items()}
        place = ".".join(names.get(str(part), str(part)) for part in first["loc"])
        should = "this field is required" if first["type"] == "missing" else first["msg"].lower()
        raise ConfigError(f"cell.{place}: {should}") from None


def _read_cursor(text: str, groups: Sequence[str]) -> Cursor:
    parts = _CURSOR.fullmatch(text)
    if parts is None or parts["group"] not in groups or int(parts["id"]) > _MAX_ID or not _is_number(parts["value"]):
        raise ConfigError(f"cursor: {_shown(text)} given; expected `next` of the page before, as it came")
    return Cursor(
        cast(Group, parts["group"]),
        int(parts["start"]),
        int(parts["id"]),
        int(parts["passed"]),
        None if parts["value"] == "none" else float(parts["value"]),
    )


def _is_number(text: str) -> bool:
    try:
        return text == "none" or math.isfinite(float(text))
    except ValueError:
        return False


def _one_of(name: str, text: str, allowed: Sequence[str]) -> str:
    if text not in allowed:
        raise ConfigError(f"{name}: {_shown(text)} given; expected one of {', '.join(allowed)}")
    return text


def _whole_number(name: str, text: str, low: int, high: int) -> int:
    if re.fullmatch(r"\d{1,19}", text, re.ASCII) and low <= int(text) <= high:
        return int(text)
    raise ConfigError(f"{name}: {_shown(text)} given; expected a whole number from {low} to {high}")


def _shown(text: str) -> str:
    """The beginning of what came, as a Python string: nothing in it can do harm on a page or in a terminal."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")
