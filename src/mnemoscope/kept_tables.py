"""The stored tables of the embedded study in the cache, so that a second run of it starts from them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from pathlib import Path

from mnemoscope.cache import CHECKSUMS, building, is_whole
from mnemoscope.config import StudyConfig
from mnemoscope.demo import DemoAssets
from mnemoscope.library import digest
from mnemoscope.store import STUDY_FILE
from mnemoscope.study_file import dump_study


def restore_tables(assets: DemoAssets, study: StudyConfig, folder: Path) -> bool:
    """Whether the study's stored tables were taken from the cache into `folder`, which must not be there yet.

    They are those of a run of the same code, study, texts, models and libraries; the run goes on from them, and
    checks every one.
    """
    kept = kept_tables(assets, study)
    if folder.exists() or not is_whole(kept):
        return False
    shutil.copytree(kept, folder, ignore=shutil.ignore_patterns(CHECKSUMS))
    return True


def keep_tables(assets: DemoAssets, study: StudyConfig, folder: Path) -> None:
    """Put a finished study's stored tables into the cache, for `restore_tables`."""
    kept = kept_tables(assets, study)
    if is_whole(kept):
        return
    with building(kept) as temporary:
        for name in ("scores", "traces", "counts", "predictions"):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, temporary / name, ignore=shutil.ignore_patterns(".*"))
        shutil.copy(folder / STUDY_FILE, temporary / STUDY_FILE)


def kept_tables(assets: DemoAssets, study: StudyConfig) -> Path:
    """Where the tables lie that this code, on this kind of machine, makes of the study."""
    package = Path(__file__).parent
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(digest(path.relative_to(package).as_posix()) + hashlib.sha256(path.read_bytes()).digest())
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "numpy", "pyarrow")]
    facts = json.dumps([code.hexdigest(), dump_study(study), versions, platform.machine()])
    return assets.stream.parent.parent / "studies" / hashlib.sha256(facts.encode()).hexdigest()[:16]
