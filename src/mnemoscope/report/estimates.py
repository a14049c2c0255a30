"""Which numbers of a result are estimates from the graded sample of mode `two-phase`, and the words that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.report.claims import longest_row
from mnemoscope.report.rows import Record, records
from mnemoscope.report.spoken import counted

ESTIMATED: Final = frozenset({"bins", "num_matched", "levels", "regression", "scores", "tests", "noise"})
"""Tables of factors and transitions whose counts then are estimates; what hangs on full matches alone is counted."""
_MARKS: Final = ("num_known", "num_known_from")


def is_estimated(result: AnalysisResult) -> bool:
    """Whether a result rests on a graded sample."""
    return any(mark in table.column_names for table in result.tables.values() for mark in _MARKS)


def caption_words(name: str, result: AnalysisResult) -> str:
    """What the caption of a table adds."""
    return " Weighted estimates from the graded sample, rounded." if name in ESTIMATED and is_estimated(result) else ""


def known_row(results: Mapping[str, AnalysisResult]) -> Record | None:
    """The largest final model's members at the longest lengths: of how many the score is known; None where of all."""
    factors = results.get("factors")
    row = longest_row(factors) if isinstance(factors, FactorsResult) else None
    if row is None or not isinstance(factors, FactorsResult) or "num_known" not in factors.bins.column_names:
        return None
    names = ("model", "group", "context", "continuation")
    return next((each for each in records(factors.bins) if all(each[name] == row[name] for name in names)), None)


def is_unknown(results: Mapping[str, AnalysisResult]) -> bool:
    """Whether too few were graded to estimate that row's scores at all."""
    factors = results.get("factors")
    row = longest_row(factors) if isinstance(factors, FactorsResult) else None
    if row is None or not isinstance(factors, FactorsResult):
        return False
    names = ("model", "group", "context", "continuation")
    return not any(all(each[name] == row[name] for name in names) for each in records(factors.bins))


def known_words(row: Record) -> str:
    """Of how many sequences the score is known, as `1,234 of 10,000`."""
    return counted(row, "num_known", "num_sequences")
