"""A study's stored tables -> analyses -> results on disk and as figures.

    analyses/NAME.json              finding, verdict, figures of the sentence, provenance
    analyses/NAME/TABLE.parquet     the tables behind it
    figures/FIGURE.svg, .png        drawn from them

Reads scores, never a model; may be run again at any time, and replaces what it wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from mnemoscope.analyses.factors import FactorsResult, ModelCounts, factors
from mnemoscope.analyses.matches import count_matches
from mnemoscope.files import write_atomically
from mnemoscope.store import Run, Study, encode_table, read_scores
from mnemoscope.version import __version__

FRAGILE_MARGIN: Final = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Logits: a path whose smallest top-1 to top-2 margin is below this may differ on another machine or batch."""
_COLUMNS: Final = ("group", "context", "num_repeats", "first_mismatch", "matched", "smallest_margin")


def analyze(study: Study) -> FactorsResult:
    """Memorization by size, context, continuation, repeats and training step, from the stored scores."""
    return factors({label: _count(study, run) for label, run in study.runs.items()})


def save_findings(study: Study, result: FactorsResult, *, figures: bool = True) -> list[Path]:
    """Write a result and its tables into the study's folder, and draw it; the paths of the figures."""
    folder = study.folder / "analyses"
    for name, table in result.tables.items():
        write_atomically(folder / "factors" / f"{name}.parquet", encode_table(table))
    content = {
        "finding": result.finding.sentence,
        "verdict": result.finding.verdict,
        "figures": dict(result.finding.figures),
        "provenance": {
            "mnemoscope": __version__,
            "fingerprints": {label: run.fingerprint for label, run in study.runs.items()},
            "fragile_margin_logits": {label: _fragile_margin(run) for label, run in study.runs.items()},
        },
    }
    write_atomically(folder / "factors.json", (json.dumps(content, indent=1) + "\n").encode())
    if not figures:
        return []
    from mnemoscope.report.figures import save_figures

    return save_figures(result, study.folder / "figures")


def _count(study: Study, run: Run) -> ModelCounts:
    identity = run.identity
    tables = read_scores(study, run.label, columns=_COLUMNS)
    return ModelCounts(
        label=run.label,
        source=run.source,
        num_parameters=identity.model.num_parameters,
        num_non_embedding_parameters=identity.model.num_non_embedding_parameters,
        training_step=run.training_step,
        counts=count_matches(tables, identity.grid, identity.mode, fragile_margin_logits=_fragile_margin(run)),
    )


def _fragile_margin(run: Run) -> float:
    return FRAGILE_MARGIN[run.identity.model.dtype]
