"""The columns of the tables of transitions: what `columns` has, and what a pair of runs needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mnemoscope.analyses.columns import COLUMNS, COUNT, FLAG, LENGTH, REAL, TEXT, Column

PAIR_COLUMNS: Final[Mapping[str, Column]] = {
    "relation": Column(TEXT, "what differs between the two runs: size, step, final, context, continuation or twin"),
    "model_from": Column(TEXT, "label of the run whose level is given: the smaller, or earlier"),
    "model_to": Column(TEXT, "label of the run whose level is asked for"),
    "context_from": Column(LENGTH, "context length k in the first run", "tokens"),
    "continuation_from": Column(LENGTH, "continuation length n in the first run", "tokens"),
    "context_to": Column(LENGTH, "context length k in the second run", "tokens"),
    "continuation_to": Column(LENGTH, "continuation length n in the second run", "tokens"),
    "level_from": Column(TEXT, "level in the first run"),
    "level_to": Column(TEXT, "level in the second run"),
    "num_matched_from": Column(LENGTH, "num_matched in the first run", "tokens"),
    "num_matched_to": Column(LENGTH, "num_matched in the second run", "tokens"),
    "num_from": Column(COUNT, "sequences at level_from in the first run", "sequences"),
    "num_to": Column(COUNT, "sequences at level_to in the second run", "sequences"),
    "num_copies": Column(COUNT, "their copies in the training stream; null where unknown", "copies"),
    "inverse_share": Column(REAL, "P(level_from | level_to); null where no sequence is at level_to", "1"),
    "inverse_low": Column(REAL, "lower end of its interval", "1"),
    "inverse_high": Column(REAL, "upper end of its interval", "1"),
    "inverse_small_stratum": Column(FLAG, "the same of the sequences at level_to"),
    "noise_share": Column(REAL, "the same share between a run and its twin; null without a twin", "1"),
    "fate": Column(TEXT, "kept, lost: of those memorized before; gained: of the others; new: of those memorized after"),
    "test": Column(TEXT, "Bowker (levels) or McNemar (memorized)"),
    "statistic": Column(REAL, "Bowker's chi-square; for McNemar the smaller of num_fell and num_rose"),
    "degrees_of_freedom": Column(LENGTH, "Bowker: pairs of cells with sequences in them"),
    "num_fell": Column(COUNT, "sequences at a lower level (no longer memorized) in the second run", "sequences"),
    "num_rose": Column(COUNT, "sequences at a higher level (newly memorized) in the second run", "sequences"),
    "p_symmetric": Column(REAL, "p-value of as many falling as rising; McNemar: exact, mid-p"),
    "p_symmetric_holm": Column(REAL, "the same, Holm-adjusted over all tests of this name and relation"),
    "unit": Column(TEXT, "what was counted: unique sequences where clusters are known, else rows"),
    "null": Column(TEXT, "regression (one correlation), symmetric (exchangeable) or independent (permuted)"),
    "expected": Column(REAL, "sequences expected in the cell", "sequences"),
    "expected_share": Column(REAL, "P(level_to | level_from) expected", "1"),
    "share_difference": Column(REAL, "share minus expected_share", "1"),
    "residual": Column(REAL, "(num_chosen - expected) / sqrt(expected), Pearson's; null where none is expected"),
    "correlation": Column(REAL, "the normal traits' fitted correlation; null for other nulls"),
    "changed": Column(TEXT, "level, or memorized"),
    "twin": Column(TEXT, "label of the twin run that gives the noise floor"),
    "noise_low": Column(REAL, "lower end of noise_share's interval", "1"),
    "noise_high": Column(REAL, "upper end of noise_share's interval", "1"),
    "measure": Column(TEXT, "precision, recall, F1, or base rate"),
    "value": Column(REAL, "of predicting the second run's memorized set by the first's; null where undefined", "1"),
    "value_low": Column(REAL, "lower end of its interval", "1"),
    "value_high": Column(REAL, "upper end of its interval", "1"),
    "lift": Column(REAL, "precision / base rate; null for the others"),
}

ESTIMATE_COLUMNS: Final[Mapping[str, Column]] = {
    "num_known_from": Column(
        COUNT,
        "of num_from those whose levels are known in both runs; the counts are then estimates from them, rounded",
        "sequences",
    ),
}
"""Those that there are in mode `two-phase` alone."""

ALL_COLUMNS: Final[Mapping[str, Column]] = {**COLUMNS, **PAIR_COLUMNS, **ESTIMATE_COLUMNS}
