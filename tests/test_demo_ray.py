"""The embedded study on a Ray that the command starts by itself: the tables are those of the local engine.

It wants the demo's study, which `.ci/run` makes first; the same on a small study is in test_ray.py.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mnemoscope.coverage import audit_coverage
from mnemoscope.store import open_study
from mnemoscope.study_file import dump_study

pytest.importorskip("ray")
PATIENCE_SECONDS = 420


@pytest.fixture
def demo() -> Path:
    """The folder of the demo's study, made by the local engine."""
    if not os.environ.get("MNEMOSCOPE_DEMO_PAGE"):
        pytest.skip("MNEMOSCOPE_DEMO_PAGE names no page of the demo, beside which its study lies")
    return Path(os.environ["MNEMOSCOPE_DEMO_PAGE"]).resolve().parent


def hash_files(folder: Path) -> dict[str, str]:
    """The checksum of every stored table and array of facts."""
    paths = [path for kind in ("scores", "traces", "counts") for path in (folder / kind).rglob("*")]
    tables = sorted(path for path in paths if path.suffix in (".parquet", ".npy"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables}


def test_one_command_runs_the_demos_study_on_its_own_ray(demo, tmp_path):
    """Scores, traces and counts of all seven models, byte for byte; predictors are fitted by the driver, not by Ray,
    and are left out.
    """
    study = open_study(demo)
    file = tmp_path / "study.toml"
    file.write_text(dump_study(replace(study.config, prediction=None)), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mnemoscope",
        "study",
        str(file),
        "--engine",
        "ray",
        "--out",
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS)
    again = open_study(tmp_path / "out")
    assert all(audit_coverage(again, label).is_complete for label in study.runs)
    assert hash_files(tmp_path / "out") == hash_files(demo)
    assert len(study.runs) == 7
