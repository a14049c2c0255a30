"""An audit for a terminal, and as plain text in a pipe: the verdict, why, what to do, and where the rest lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemoscope.audit.advice import advise
from mnemoscope.audit.result import AuditResult, Cluster, Compared, Criterion, Share, State
from mnemoscope.audit.verdict import reference_of
from mnemoscope.audit.words import plain_share, points_cell
from mnemoscope.report.escapes import escape
from mnemoscope.report.layout import Column, lay_out, print_table
from mnemoscope.report.spoken import copies_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WORDS: Final[dict[State, str]] = {"pass": "PASS", "fail": "FAIL", "unknown": "COULD NOT TELL"}
_STYLES: Final[dict[State, str]] = {"pass": "bold green", "fail": "bold red", "unknown": "bold yellow"}
_MOST_CLUSTERS: Final = 5


def print_audit(result: AuditResult, folder: Path, console: Console) -> None:
    """Print it; text of documents is escaped, and as redacted as the result has it."""
    from rich.text import Text

    def say(*parts: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*parts), highlight=False, soft_wrap=True)

    say((WORDS[result.state], _STYLES[result.state]), "  ", escape(result.headline))
    for table in _tables(result):
        console.print()
        print_table(table, console)
    if deeds := advise(result):
        console.print()
        for deed in deeds:
            say(("-> ", "bold"), escape(deed.deed), ("  " + escape(deed.reason), "dim"))
    if result.notes:
        console.print()
        for note in result.notes:
            say(("note: ", "dim"), escape(note))
    console.print()
    for name, what in (
        ("report.html", "to look at"),
        ("summary.md", "for a pull request"),
        ("audit.json", "all of it"),
    ):
        say(f"{folder / name}  ", (what, "dim"))


def _tables(result: AuditResult) -> Iterator[Table]:
    yield lay_out(
        "Criteria",
        [
            Column("criterion", [each.name for each in result.criteria]),
            Column("state", [WORDS[each.state].lower() for each in result.criteria]),
            Column("remark", [_remark(each) for each in result.criteria]),
        ],
    )
    cell = reference_of(result)
    rows = [row for row in (*result.matches, *result.near) if row.kind == "all"]
    if rows and cell is not None:
        where = f"tokens of context + continuation; judged at {cell[0]} + {cell[1]}"
        caption = f"{where}; 95 % intervals over independent passages"
        yield _compared(rows, caption)
    if doses := [dose for dose in result.doses if dose.recited.n]:
        yield lay_out(
            "Recited by copies in the training file",
            [
                Column("copies", [_range(dose.low, dose.high) for dose in doses]),
                Column("recited", [_counts(dose.recited) for dose in doses]),
                Column("share", [plain_share(dose.recited) for dose in doses]),
            ],
            caption="" if result.trend is None else result.trend.sentence,
        )
    if result.canaries:
        yield lay_out(
            "Canaries",
            [
                Column("planted", [copies_words(dose.repeats, dose.repeats) for dose in result.canaries]),
                Column("recited", [_counts(dose.recited) for dose in result.canaries]),
                Column("remark", ["" if dose.repeats else "the twins" for dose in result.canaries]),
            ],
        )
    if first := result.clusters[:_MOST_CLUSTERS]:
        yield lay_out(
            "Deduplicate these first",
            [
                Column("copies", [f"{each.num_documents:,}" for each in first]),
                Column("recited", [f"{each.num_recited:,}" for each in first]),
                Column("fewer", [f"{each.expected_fewer:.1f}" for each in first]),
                Column("lines", [_lines(each) for each in first]),
            ],
        )


def _compared(rows: list[Compared], caption: str) -> Table:
    return lay_out(
        "Training passages beside held-out ones",
        [
            Column("what", [row.what for row in rows]),
            Column("tokens", [f"{row.context} + {row.continuation}" for row in rows]),
            Column("training", [_counts(row.member) for row in rows]),
            Column("share", [plain_share(row.member) for row in rows]),
            Column("held-out", [_counts(row.control) for row in rows]),
            Column("excess, points", [points_cell(row.excess) for row in rows]),
        ],
        caption=caption,
    )


def _remark(criterion: Criterion) -> str:
    return escape(criterion.sentence) + ("" if criterion.decides else " It does not decide here.")


def _lines(cluster: Cluster) -> str:
    """The first few; without commas within a number, for they stand between numbers."""
    return ", ".join(map(str, cluster.lines[:4])) + (", …" if cluster.num_documents > 4 else "")


def _counts(share: Share) -> str:
    return f"{share.count:,} of {share.n:,}"


def _range(low: int, high: int | None) -> str:
    return f"{low:,} or more" if high is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
