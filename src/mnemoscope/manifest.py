"""manifest.json: that a study's scores are complete, which files they are, and how they came about.

Written last, when every shard of every model is committed, and taken away before anything is added. Only its
`provenance` may differ between two runs of the same study.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from mnemoscope.files import write_atomically
from mnemoscope.storage import Place, storage_of
from mnemoscope.store import Run, Study, read_records, shard_path
from mnemoscope.version import __version__

MANIFEST_FILE: Final = "manifest.json"
_RECORDED: Final = ("torch", "transformers", "numpy", "pyarrow")


class _Table(BaseModel):
    num_rows: int
    num_sequences: int
    num_short: int


class _Tables(BaseModel):
    scores: dict[str, _Table]


class _Provenance(BaseModel):
    command: str
    duration_seconds: float
    python: str
    platform: str
    versions: dict[str, str]


class _Manifest(BaseModel):
    """What readers rely on."""

    models: dict[str, dict[str, Any]]
    tables: _Tables
    provenance: _Provenance


def write_manifest(study: Study, *, command: str, duration_seconds: float) -> bool:
    """Whether the study is complete and its manifest stands; one that says the same already stays as it is."""
    tables = {model.label: _list_scores(study.folder, study.runs.get(model.label)) for model in study.config.models}
    if any(table is None for table in tables.values()):
        return False
    content = {
        "models": {label: asdict(run) for label, run in study.runs.items()},
        "tables": {"scores": tables},
    }
    there = read_manifest(study.folder)
    if there is None or {name: there.get(name) for name in content} != json.loads(json.dumps(content)):
        provenance = _provenance(command, duration_seconds)
        text = json.dumps(content | {"provenance": provenance}, indent=1) + "\n"
        write_atomically(study.folder / MANIFEST_FILE, text.encode())
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest's JSON; None where there is none, none that can be read, or one that no writer here left."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
        _Manifest.model_validate(content)
    except (OSError, ValueError):
        return None
    return content


def remove_manifest(place: Place) -> None:
    """Take away the claim that the study is complete."""
    storage_of(place).remove(MANIFEST_FILE)


def _list_scores(folder: Path, run: Run | None) -> dict[str, Any] | None:
    """The files of a model's scores with sizes and checksums; None while some are missing."""
    records = {} if run is None else read_records(folder, run)
    if run is None or len(records) < len(run.shards):
        return None
    return {
        "num_rows": sum(record.num_rows for record in records.values()),
        "num_sequences": sum(record.num_sequences for record in records.values()),
        "num_short": sum(record.num_short for record in records.values()),
        "num_audited": sum(record.num_audited for record in records.values()),
        "fingerprint": run.fingerprint,
        "shards": [
            {
                "path": shard_path(folder, run, shard).relative_to(folder).as_posix(),
                "num_rows": record.num_rows,
                "bytes": record.bytes,
                "sha256": record.sha256,
            }
            for shard, record in records.items()
        ],
    }


def _provenance(command: str, duration_seconds: float) -> dict[str, Any]:
    return {
        "command": command,
        "duration_seconds": round(duration_seconds, 3),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"mnemoscope": __version__} | {name: version(name) for name in _RECORDED},
    }
