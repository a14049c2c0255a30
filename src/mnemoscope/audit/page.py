"""An audit's result -> one self-contained HTML page in the report's style: verdict, why, what to do, then the rest.

The page stands as text; scripts draw figures and narrow the list of passages. Text of a corpus is escaped by the
template, spelled out where it could not be seen, and hidden things are blocks. The content-security policy names the
hash of every script and style.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mnemoscope.audit.advice import advise
from mnemoscope.audit.figures import audit_figures
from mnemoscope.audit.gauge import gauge_of
from mnemoscope.audit.leaks import CODE_KINDS, HIDDEN
from mnemoscope.audit.result import AuditResult, Compared, State
from mnemoscope.audit.verdict import ALL, EXIT_STATUS, TITLES, at_reference, reference_of
from mnemoscope.audit.words import area_words, context_words, interval_words, percent, points_cell, share_words
from mnemoscope.report.escapes import escape
from mnemoscope.report.page import asset_text, content_policy, seen, vega_bundle
from mnemoscope.report.page_data import dump_json, figure_data
from mnemoscope.report.provenance import hide_home
from mnemoscope.report.spoken import copies_words, plural
from mnemoscope.report.theme import theme
from mnemoscope.version import __version__

SCRIPTS: Final = ("elements.js", "narrowing.js", "figures.js", "surroundings.js")
"""The report's, before the page's own."""
SIGNS: Final[dict[State, str]] = {"pass": "✓", "fail": "✗", "unknown": "?"}
WORDS: Final[dict[State, str]] = {"pass": "Pass", "fail": "Fail", "unknown": "Could not tell"}
LIMITS: Final = (
    "A pass says that these tests found no more memorization than is accepted, not that there is none: other prompts, "
    "longer contexts or further training may bring out more.",
    "Private things are found by their form. Names, street addresses and passwords that are words have none, and are "
    "not found; some harmless numbers are taken for private ones.",
    "Held-out text is the yardstick. Where it holds what the training file holds, too, the excess is too small; where "
    "it is of another kind, membership signals prove nothing.",
    "Every share is of passages that were tried, with a 95 % interval; what was not tried is not told of.",
)
_ORDER: Final[tuple[State, ...]] = ("fail", "unknown", "pass")
_MAX_CELLS: Final = 40
_MAX_LISTED: Final = 300
_PREVIEW: Final = 110
_SCALES: Final = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def audit_page(result: AuditResult) -> str:
    """The whole page as HTML."""
    figures = audit_figures(result)
    style = "".join([asset_text("page.css"), asset_text("audit.css", "mnemoscope.audit")])
    own = asset_text("audit.js", "mnemoscope.audit")
    scripts = [*([vega_bundle()] if figures else []), *map(asset_text, SCRIPTS), own]
    name = audit_name(result)
    data = {
        "name": name,
        "figures": {name: figure_data(spec) for name, spec in figures.items()},
        "dark_config": theme(dark=True),
    }
    page = _template().render(
        result=result,
        name=name,
        figures={name: spec["usermeta"] for name, spec in figures.items()},
        criteria=[(one, gauge_of(one)) for one in sorted(result.criteria, key=lambda one: _ORDER.index(one.state))],
        advice=advise(result),
        glance=list(_glance(result)),
        cells=_cells(result),
        near=[row for row in result.near if row.kind == ALL][:_MAX_CELLS],
        extraction=[row for row in result.extraction if row.compared.kind == ALL][:_MAX_CELLS],
        exposed=result.exposed[:_MAX_LISTED],
        kinds=sorted({one.kind for one in result.exposed}),
        parts=list(_parts(result)),
        provenance=list(_provenance({**result.provenance, "counts": result.sizes})),
        command=_command(result),
        exit_status=EXIT_STATUS[result.state],
        signs=SIGNS,
        words=WORDS,
        titles=TITLES,
        limits=LIMITS,
        code_kinds=CODE_KINDS,
        policy=content_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=dump_json(data),
        version=__version__,
    )
    return page.encode("utf-8", "replace").decode()


def audit_name(result: AuditResult) -> str:
    """What the audited model is called: `provenance`'s model, its label or source."""
    model = result.provenance.get("model")
    if isinstance(model, Mapping):
        model = model.get("label") or model.get("source")  # pyright: ignore[reportUnknownMemberType]  (any JSON)
    return hide_home(str(model)) if model else "audit"


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=seen
    )
    filters: dict[str, Any] = {
        "area": area_words,
        "blocks": _blocks,
        "dose": _dose,
        "number": "{:,}".format,
        "percent": percent,
        "plural": plural,
        "points": points_cell,
        "preview": _preview,
        "samples": _samples,
        "share": interval_words,
        "shares": share_words,
    }
    environment.filters.update(filters)
    return environment.from_string(asset_text("audit.html.j2", "mnemoscope.audit"))


def _dose(low: int, high: int | None) -> str:
    return f"{low:,} times and more" if high is None else copies_words(low, high)


def _blocks(text: str) -> Markup:
    """The text, escaped, each run of hidden characters as one element that says so."""
    pieces = re.split(f"({HIDDEN}+)", text)
    return Markup("").join(
        Markup('<span class="hidden" title="hidden: looks private, or is more than may be shown">{}</span>').format(one)
        if one.startswith(HIDDEN)
        else str(seen(one))
        for one in pieces
        if one
    )


def _preview(text: str) -> str:
    """The beginning of a text, in one line."""
    line = escape(" ".join(text.split()), backslash=False)
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"


def _samples(number: float | None) -> str:
    """`12`, `3.4 million`; `never` where it cannot be drawn."""
    if number is None:
        return "never"
    if number >= 1e15:
        return "more than anyone draws"
    for scale, name in _SCALES:
        if number >= scale:
            return f"{number / scale:.3g} {name}"
    return f"{number:,.0f}"


def _glance(result: AuditResult) -> Iterator[tuple[str, str]]:
    """What was tried, in a few words."""
    row, cell = at_reference(result.matches, result), reference_of(result)
    if row is not None:
        for side, share in (("Training passages", row.member), ("Held-out passages", row.control)):
            others = f", {share.num_unique:,} different" if share.num_unique != share.n else ""
            yield side, f"{share.n:,}{others}"
    if cell is not None:
        yield "Judged at", f"{context_words(cell[0])} shown, {cell[1]} tokens to recite"
    for name in ("training documents", "held-out documents"):
        if name in result.sizes:
            yield _name(name), f"{result.sizes[name]:,}"
    if isinstance(when := result.provenance.get("time"), str):
        yield "Audited", when[:16].replace("T", ", ") + (" UTC" if when.endswith("+00:00") else "")


def _cells(result: AuditResult) -> list[Compared]:
    """The cells of the grid, all kinds of passages first, then each kind at the reference."""
    cell = reference_of(result)
    whole = [row for row in result.matches if row.kind == ALL]
    kinds = [row for row in result.matches if row.kind != ALL and (row.context, row.continuation) == cell]
    return [*whole[:_MAX_CELLS], *(kinds if len(kinds) > 1 else [])]


def _parts(result: AuditResult) -> Iterator[tuple[str, str]]:
    """The sections that the result has something for: their names and titles."""
    yield "why", "Why"
    if advise(result):
        yield "advice", "What to do"
    there = {
        "recited": ("Recited", result.matches),
        "exposed": ("Passages", result.exposed),
        "leaks": ("Leaks", result.leaks),
        "copies": ("Copies", result.doses or result.clusters),
        "canaries": ("Canaries", result.canaries),
        "signals": ("Membership", result.signals),
        "changes": ("Baseline", result.changes),
    }
    yield from ((name, title) for name, (title, found) in there.items() if found)
    yield "limits", "Limits"
    yield "provenance", "Provenance"


def _command(result: AuditResult) -> str:
    command: Any = result.provenance.get("command")
    return hide_home(command) if isinstance(command, str) else ""


def _provenance(provenance: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Tables of names and values: what is no table itself stands in the first."""
    own = {name: value for name, value in provenance.items() if not _is_table(value) and name != "command"}
    plain = [(_name(name), _told(value)) for name, value in own.items()]
    if plain:
        yield "This audit", plain
    for name, value in provenance.items():
        tables: Sequence[Any] = value if isinstance(value, list) else [value]
        for number, table in enumerate(tables if _is_table(value) else (), 1):
            title = str(name) if len(tables) == 1 else f"{name} {number}"
            yield _name(title), [(_name(str(key)), _told(part)) for key, part in table.items()]


def _name(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]


def _is_table(value: Any) -> bool:
    """Whether a value is a mapping, or a list of some."""
    parts: Sequence[Any] = value if isinstance(value, list) else [value]
    return bool(parts) and all(isinstance(part, Mapping) for part in parts)


def _told(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str | int | float) for part in value):
        return hide_home(", ".join(map(str, value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else hide_home(value if isinstance(value, str) else json.dumps(value))
