"""The results of a study's analyses on disk: written whole, read back only while they are what an analysis would say.

    analyses/NAME.json              finding, verdict, figures of the sentence, provenance; written last
    analyses/NAME/TABLE.parquet     the tables behind it

The provenance names everything that a result follows from, and the checksum of every table. Results of other runs,
traces, counts or predictions than the study holds now, of another version, or damaged ones are not read: analyses can
be had again in seconds.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.analyses import AnalysisResult, Finding
from mnemoscope.analyses.embeddings import EmbeddingsResult
from mnemoscope.analyses.entropy import EntropyResult
from mnemoscope.analyses.factors import FactorsResult
from mnemoscope.analyses.frequency import FrequencyResult
from mnemoscope.analyses.prediction import PredictionResult
from mnemoscope.analyses.transitions import TransitionsResult
from mnemoscope.config import FRAGILE_MARGIN
from mnemoscope.counts import counts_of
from mnemoscope.derived import Derived, key_of
from mnemoscope.files import remove_abandoned, write_atomically
from mnemoscope.predictions import current_predictions
from mnemoscope.store import Run, Study, encode_table
from mnemoscope.traces import has_traces, traced_contexts, traces_of
from mnemoscope.version import __version__

RESULTS: Final = {
    "factors": FactorsResult,
    "transitions": TransitionsResult,
    "frequency": FrequencyResult,
    "entropy": EntropyResult,
    "embeddings": EmbeddingsResult,
    "prediction": PredictionResult,
}
"""The analyses in the order in which a reader wants them, and what each returns."""
_OF_TRACES: Final = ("frequency", "entropy", "embeddings")


def fragile_margin(run: Run) -> float:
    """Logits below which a margin of this run counts as a near-tie.

    After an audit that left none below its own format's, all that are below float32's are float32's.
    """
    own, audited = FRAGILE_MARGIN[run.identity.weights.dtype], run.identity.audit_margin
    return own if audited is None or audited < own else FRAGILE_MARGIN["float32"]


def write_findings(study: Study, results: Mapping[str, AnalysisResult]) -> None:
    """Put the results and their tables into the study's folder, each file whole or not at all, the record last.

    The factors, which every study has, come last of all: where they are there, so is the rest.
    """
    folder = study.folder / "analyses"
    for name in sorted(results, key=lambda name: name == "factors"):
        result = results[name]
        encoded = {table_name: encode_table(table) for table_name, table in result.tables.items()}
        remove_abandoned(folder / name)
        for table_name, content in encoded.items():
            write_atomically(folder / name / f"{table_name}.parquet", content)
        record = {
            "finding": result.finding.sentence,
            "verdict": result.finding.verdict,
            "figures": dict(result.finding.figures),
            "provenance": {
                **_provenance(study, name),
                "tables_sha256": {
                    table_name: hashlib.sha256(content).hexdigest() for table_name, content in encoded.items()
                },
            },
        }
        signed = {**record, "sha256": key_of(record)}
        write_atomically(folder / f"{name}.json", (json.dumps(signed, indent=1) + "\n").encode())


def read_findings(study: Study) -> dict[str, AnalysisResult] | None:
    """The stored results by name, as `analyze` returns them, without computing any; None where none can be read.

    A result is left out where it is absent, damaged, or follows from anything else than the study holds now.
    """
    found = {name: _read(study, name) for name in RESULTS}
    return {name: result for name, result in found.items() if result is not None} or None


def _read(study: Study, name: str) -> AnalysisResult | None:
    kind, folder = RESULTS[name], study.folder / "analyses"
    try:
        record: dict[str, Any] = json.loads((folder / f"{name}.json").read_bytes())
        signature = record.pop("sha256")
        provenance: dict[str, Any] = record["provenance"]
        checksums: dict[str, str] = provenance.pop("tables_sha256")
        if provenance != _provenance(study, name):
            return None
        if signature != key_of({**record, "provenance": {**provenance, "tables_sha256": checksums}}):
            return None
        tables = {table: _read_table(folder / name / f"{table}.parquet", checksums[table]) for table in _tables(kind)}
        finding = Finding(record["finding"], record["verdict"], record["figures"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None
    return kind(**tables, finding=finding)


def _tables(kind: type) -> list[str]:
    """The names of the tables of a kind of result."""
    hints = get_type_hints(kind)
    return [field.name for field in fields(kind) if hints[field.name] is pa.Table]


def _read_table(path: Path, checksum: str) -> pa.Table:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"{path}: its checksum is not the one it was written with")
    return pq.read_table(io.BytesIO(content))


def _provenance(study: Study, name: str) -> dict[str, Any]:
    """Everything that a result follows from, as JSON gives it back."""
    margins = {label: fragile_margin(run) for label, run in study.runs.items() if run.identity.mode != "imported"}
    return {
        "mnemoscope": __version__,
        "fingerprints": {label: run.fingerprint for label, run in study.runs.items()},
        "fragile_margin_logits": margins,
        "derived": {
            derived.path("").relative_to(study.folder).as_posix(): derived.key for derived in _derived(study, name)
        },
    }


def _derived(study: Study, name: str) -> list[Derived]:
    """The derived tables that an analysis reads: traces of the first traced context and counts, or predictions."""
    if name == "prediction":
        return current_predictions(study)
    if name not in _OF_TRACES or study.config.traces is None:
        return []
    context = traced_contexts(study.config)[0]
    traced = [label for label in study.runs if has_traces(study.folder, label, context)]
    return [*(traces_of(study.folder, label, context) for label in traced), counts_of(study.folder)]
