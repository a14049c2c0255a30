"""What the rigor table decides from: a study's results and facts, and counts over its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar

import pyarrow as pa

from mnemoscope.analyses import AnalysisResult
from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.report.study_facts import StudyFacts

State = Literal["done", "partly", "not done", "not applicable"]
NO_SCORES: Final = "no scores were analysed"
IMPORTED: Final = "scores were imported; how they were made is not known"
NO_TRACES: Final = "no sequences were traced token by token; a [traces] section does that"
NO_PREDICTION: Final = "no predictors were trained; a [prediction] section does that"
ONE_MODEL: Final = "no two runs were compared"

_Result = TypeVar("_Result")


class RigorRow(NamedTuple):
    """One point that a strict reviewer asks for, and what became of it here."""

    topic: str
    point: str
    state: State
    evidence: str
    """Its number, or why not and how one would get it."""


class Evidence(NamedTuple):
    """Everything that a row may be decided from."""

    results: Mapping[str, AnalysisResult]
    facts: StudyFacts

    @property
    def is_imported(self) -> bool:
        """Whether scores came from elsewhere."""
        return self.facts.mode == "imported"

    @property
    def factors(self) -> FactorsResult | None:
        """The result, None where there is none; so are the next."""
        return self._find(FactorsResult)

    @property
    def transitions(self) -> TransitionsResult | None:
        """Of transitions."""
        return self._find(TransitionsResult)

    @property
    def prediction(self) -> PredictionResult | None:
        """Of prediction."""
        return self._find(PredictionResult)

    @property
    def curves(self) -> list[FrequencyResult | EntropyResult]:
        """Those that hold curves by token index."""
        return [result for result in self.results.values() if isinstance(result, FrequencyResult | EntropyResult)]

    @property
    def embeddings(self) -> EmbeddingsResult | None:
        """Of embeddings."""
        return self._find(EmbeddingsResult)

    @property
    def tables(self) -> dict[str, pa.Table]:
        """Every table with rows, named ANALYSIS/TABLE."""
        return {
            f"{analysis}/{name}": table
            for analysis, result in self.results.items()
            for name, table in result.tables.items()
            if table.num_rows
        }

    def _find(self, kind: type[_Result]) -> _Result | None:
        return next((result for result in self.results.values() if isinstance(result, kind)), None)


def num_known(table: pa.Table | None, name: str) -> int:
    """Rows with a value in the column; 0 where there is no such table or column."""
    if table is None or name not in table.column_names:
        return 0
    return table.num_rows - table[name].null_count


def num_rows_with(table: pa.Table | None, **wanted: Any) -> int:
    """Rows with these values; 0 where there is no such table."""
    return 0 if table is None else sum(_is(row, wanted) for row in table.select(list(wanted)).to_pylist())


def num_rows_where(table: pa.Table | None, name: str, **wanted: Any) -> int:
    """Rows with these values that have one in the column `name`; 0 where there is no such table."""
    if table is None:
        return 0
    rows = table.select(list(dict.fromkeys((*wanted, name)))).to_pylist()
    return sum(row[name] is not None and _is(row, wanted) for row in rows)


def num_marked(table: pa.Table, name: str) -> int:
    """Rows whose flag is set; 0 without the column."""
    return sum(map(bool, table[name].to_pylist())) if name in table.column_names else 0


def values_of(table: pa.Table | None, name: str) -> list[str]:
    """The distinct texts of a column, in order of appearance."""
    if table is None or name not in table.column_names:
        return []
    return [str(value) for value in dict.fromkeys(table[name].to_pylist()) if value is not None]


def _is(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def graded(done: int, of: int) -> State:
    """`done` where all are, `partly` where some, `not done` where none."""
    return "not done" if not done else "done" if done == of else "partly"
