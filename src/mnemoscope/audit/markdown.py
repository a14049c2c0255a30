"""An audit's result -> a summary in Markdown for a pull request: verdict, why, what to do, the numbers behind it.

Text from a corpus stands in code spans, where nothing is a link, a picture, a mention or markup; other text that is not
written here (names, notes) has every sign of Markdown and HTML disarmed. What would be too long for a comment is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from mnemoscope.audit.advice import advise
from mnemoscope.audit.result import AuditResult, Compared, Criterion, State
from mnemoscope.audit.verdict import ALL, PROBABILITY, TITLES, reference_of
from mnemoscope.audit.words import area_words, points_cell, share_cell, share_words
from mnemoscope.report.escapes import escape
from mnemoscope.report.spoken import copies_words, plural

MAX_CHARACTERS: Final = 60_000
"""A comment on GitHub may have 65,536."""
MAX_ROWS: Final = 10
SIGNS: Final[dict[State, str]] = {"pass": "✅", "fail": "❌", "unknown": "❔"}
WORDS: Final[dict[State, str]] = {"pass": "pass", "fail": "fail", "unknown": "could not tell"}
_MAX_TEXT: Final = 80
_MAX_PROSE: Final = 600
_CUT: Final = "\n_Cut here: the rest stands in `audit.json` and `report.html`._\n"


def to_markdown(result: AuditResult) -> str:
    """The summary; fewer than 60,000 characters, whatever the result holds."""
    parts: list[str] = []
    room = MAX_CHARACTERS - len(_CUT) - 1
    for write in _PARTS:
        part = "\n".join(write(result))
        if not part:
            continue
        if len(part) + 2 > room:
            return "\n\n".join(parts) + "\n" + _CUT
        parts.append(part)
        room -= len(part) + 2
    return "\n\n".join(parts) + "\n"


def code(text: str, *, most: int = _MAX_TEXT) -> str:
    """The text as a code span that also stands in a table: what cannot be seen is spelled out, what is long is cut."""
    shown = escape(text, backslash=False)
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[:1] in ("`", "", " ") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown.replace('|', chr(92) + '|')}{pad or (' ' if not shown else '')}{fence}"


def plain(text: str) -> str:
    """The text as text: no emphasis, table, link, address, mention, reference or markup comes of it."""
    shown = escape(text[:_MAX_PROSE], backslash=False).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]|~#])|^(?=[-+=]|\d+[.)])", r"\\\1", shown)
    # An empty comment parts what a site would make an address, a mention or a reference of, and is not seen.
    shown = re.sub(r"(?i)(@|\\#|www(?=\.)|:(?=//)|(?:GH|gh)(?=-\d))", r"\1<!-- -->", shown)
    return shown + ("…" if len(text) > _MAX_PROSE else "")


def _head(result: AuditResult) -> Iterator[str]:
    yield f"## {SIGNS[result.state]} Memorization audit: {WORDS[result.state]}"
    yield ""
    yield plain(result.headline)


def _criteria(result: AuditResult) -> Iterator[str]:
    if not result.criteria:
        return
    yield from ("| | criterion | measured |", "| --- | --- | --- |")
    order: tuple[State, ...] = ("fail", "unknown", "pass")
    for one in sorted(result.criteria, key=lambda one: order.index(one.state)):
        yield f"| {SIGNS[one.state]} | {_named(one)} | {plain(one.sentence)} |"


def _named(one: Criterion) -> str:
    return f"{TITLES.get(one.name, '')}<br>{code(one.name)}" + ("" if one.decides else " (does not decide)")


def _advice(result: AuditResult) -> Iterator[str]:
    found = advise(result)
    if found:
        yield from ("### What to do", "")
    for number, one in enumerate(found, 1):
        yield f"{number}. **{plain(one.deed)}.** {plain(one.reason)}"


def _recited(result: AuditResult) -> Iterator[str]:
    rows = [row for row in result.matches if row.kind == ALL]
    if not rows:
        return
    yield from ("### Recited word for word", "")
    yield from (
        "| context | continuation | training | held-out | excess, points |",
        "| ---: | ---: | --- | --- | --- |",
    )
    chosen = reference_of(result)
    first = [row for row in rows if (row.context, row.continuation) == chosen]
    for row in sorted([*first, *(row for row in rows if row not in first)][: 2 * MAX_ROWS], key=_cell):
        shares = f"{share_cell(row.member)} | {share_cell(row.control)} | {points_cell(row.excess)}"
        yield f"| {plain(row.context)} | {row.continuation} | {shares} |"


def _cell(row: Compared) -> tuple[int, int]:
    return (int(row.context) if row.context.isdecimal() else 0, row.continuation)


def _nearly(result: AuditResult) -> Iterator[str]:
    rows = [(plain(row.what), row) for row in result.near if row.kind == ALL]
    for one in result.extraction:
        if one.compared.kind == ALL and one.num_samples >= 100 and one.probability == PROBABILITY:
            what = f"within {one.num_samples:,} samples with even odds, {plain(one.sampling)}"
            rows.append((what, one.compared))
    if not rows:
        return
    yield from ("### Nearly, or by sampling", "")
    yield from ("| | training | held-out | excess, points |", "| --- | --- | --- | --- |")
    for what, row in rows[: 2 * MAX_ROWS]:
        yield f"| {what} | {share_cell(row.member)} | {share_cell(row.control)} | {points_cell(row.excess)} |"


def _leaks(result: AuditResult) -> Iterator[str]:
    if not result.leaks:
        return
    yield from ("### What leaks", "", "| kind | different | training passages | held-out passages | such as |")
    yield "| --- | ---: | ---: | ---: | --- |"
    for leak in result.leaks[:MAX_ROWS]:
        such = code(leak.examples[0]) if leak.examples else ""
        numbers = f"{leak.num_spans:,} | {leak.num_passages:,} | {leak.num_control_passages:,}"
        yield f"| {plain(leak.kind)} | {numbers} | {such} |"


def _copies(result: AuditResult) -> Iterator[str]:
    if not result.doses:
        return
    yield from ("### By copies in the training file", "", "| copies | recited |", "| --- | --- |")
    for dose in [dose for dose in result.doses if dose.recited.n][: 2 * MAX_ROWS]:
        copies = f"{dose.low:,} times and more" if dose.high is None else copies_words(dose.low, dose.high)
        yield f"| {copies} | {share_cell(dose.recited)} |"
    if result.trend is not None:
        yield from ("", plain(result.trend.sentence))


def _clusters(result: AuditResult) -> Iterator[str]:
    if not result.clusters:
        return
    yield from ("### Deduplicate these first", "", "| copies | lines | recited | fewer by one copy | tokens | begins |")
    yield "| ---: | --- | ---: | ---: | ---: | --- |"
    for one in result.clusters[:MAX_ROWS]:
        lines = ", ".join(map(str, one.lines[:5])) + ("…" if one.num_documents > 5 else "")
        numbers = f"{one.num_recited:,} | {one.expected_fewer:.1f} | {one.num_tokens:,}"
        yield f"| {one.num_documents:,} | {lines} | {numbers} | {code(one.text)} |"


def _signals(result: AuditResult) -> Iterator[str]:
    if not result.signals:
        return
    yield from (
        "### Membership signals",
        "",
        "| signal | AUC | found at 1 % wrong | at 0.1 % |",
        "| --- | --- | --- | --- |",
    )
    for one in result.signals[:MAX_ROWS]:
        rates = f"{share_words(one.tpr_at_1)} | {share_words(one.tpr_at_01)}"
        yield f"| {plain(one.name)} | {area_words(one.auc)} | {rates} |"
    if result.blind is not None:
        yield from ("", plain(result.blind.sentence))


def _canaries(result: AuditResult) -> Iterator[str]:
    if not result.canaries:
        return
    yield from ("### Canaries", "", "| planted | recited |", "| --- | --- |")
    for one in result.canaries[: 2 * MAX_ROWS]:
        planted = copies_words(one.repeats, one.repeats) if one.repeats else "never (the twins)"
        yield f"| {planted} | {share_cell(one.recited)} |"


def _changes(result: AuditResult) -> Iterator[str]:
    if not result.changes:
        return
    yield from (
        "### Since the baseline",
        "",
        "| | before | now | change, points | p |",
        "| --- | ---: | ---: | --- | ---: |",
    )
    for one in result.changes[:MAX_ROWS]:
        p_value = "" if one.p_value is None else f"{one.p_value:.2g}"
        counts = f"{one.earlier:,} of {one.n:,} | {one.now:,} of {one.n:,}"
        yield f"| {plain(one.what)} | {counts} | {points_cell(one.difference)} | {p_value} |"


def _notes(result: AuditResult) -> Iterator[str]:
    if not result.notes:
        return
    yield from ("<details><summary>To know when reading this</summary>", "")
    for note in result.notes[: 2 * MAX_ROWS]:
        yield f"- {plain(note)}"
    yield from ("", "</details>")


def _foot(result: AuditResult) -> Iterator[str]:
    yield (
        f"_Shares with 95 % intervals. A pass says that these tests found no more memorization than is accepted, not "
        f"that there is none. {plural(len(result.exposed), 'exposed passage')} in `report.html`._"
    )


_PARTS: Final[tuple[Callable[[AuditResult], Iterator[str]], ...]] = (
    _head,
    _criteria,
    _advice,
    _recited,
    _leaks,
    _clusters,
    _copies,
    _nearly,
    _canaries,
    _changes,
    _signals,
    _notes,
    _foot,
)
