"""Analyses: from stored tables and a config to a frozen result. No files, no plots, no prints, no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa

Verdict = Literal["holds", "fails", "undecided"]


class Finding(NamedTuple):
    """What an analysis found, in a few plain sentences computed from its tables, and the numbers in them."""

    sentence: str
    """With numbers and intervals; plain where something did not hold."""
    verdict: Verdict
    """Whether the published finding holds here; `undecided` where the data cannot say."""
    figures: Mapping[str, int | float | str | None]
    """The numbers of the sentence by name, unrounded."""


class AnalysisResult(Protocol):
    """What every analysis returns."""

    @property
    def finding(self) -> Finding:
        """The sentence and its numbers."""
        ...

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name, in the order in which a reader wants them."""
        ...
