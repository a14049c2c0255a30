"""A ranking's first rows for a terminal, and what it cost."""

from __future__ import annotations

from rich.table import Table

from mnemoscope.ranking import Ranking
from mnemoscope.report.layout import Column, lay_out


def ranking_table(ranking: Ranking, *, top: int) -> Table:
    """The sequences of highest risk, as many as asked for."""
    rows = ranking.table.slice(0, top).to_pylist()
    columns = [
        Column("rank", [f"{place:,}" for place in range(1, len(rows) + 1)]),
        Column("sequence", [str(row["sequence_id"]) for row in rows]),
        Column("offset", [f"{row['offset']:,}" for row in rows]),
        Column("recited\nwhole, %", [f"{100 * row['full_match_probability']:.1f}" for row in rows]),
        Column(f"matches\nof {ranking.continuation}", [f"{row['expected_matched']:.1f}" for row in rows]),
    ]
    title = f"Predicted from {ranking.context} tokens of context: the riskiest {len(rows)} of {len(ranking.table):,}"
    return lay_out(title, columns, caption=describe_cost(ranking))


def describe_cost(ranking: Ranking) -> str:
    """What was spent, and what decoding would have cost."""
    forwards = ranking.forwards
    short = f"; {ranking.num_short:,} rows too short" if ranking.num_short else ""
    return (
        f"{forwards.predicted:,} token forwards, and nothing decoded; to decide it by decoding {forwards.exact:,}: "
        f"{100 * forwards.saved_share:.0f} % saved{short}"
    )
