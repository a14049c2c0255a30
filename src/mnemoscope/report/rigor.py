"""The rigor table: every point that a strict reviewer of this field asks for, as done with its number, or not done.

Decided from results and facts alone. What holds by the construction of the program says so and names the test that
holds it; of imported scores nothing is taken to hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from mnemoscope.analyses import AnalysisResult
from mnemoscope.report.rigor_analyses import inference_rows, prediction_rows, reporting_rows, selection_rows
from mnemoscope.report.rigor_evidence import Evidence, RigorRow, State
from mnemoscope.report.rigor_numerics import numeric_rows
from mnemoscope.report.rigor_scores import control_rows, definition_rows, unit_rows
from mnemoscope.report.study_facts import StudyFacts

__all__ = ["RigorRow", "State", "rigor_table"]


def rigor_table(results: Mapping[str, AnalysisResult], facts: StudyFacts) -> tuple[RigorRow, ...]:
    """The rows by topic; the same points for every study, whatever it has."""
    evidence = Evidence(results, facts)
    topics = (definition_rows, unit_rows, control_rows, selection_rows)
    topics += (numeric_rows, inference_rows, prediction_rows, reporting_rows)
    return tuple(row for rows in topics for row in rows(evidence))
