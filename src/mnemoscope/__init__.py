"""Mnemoscope: the instrument for memorization in language models.

A few lines score a model and say what was found:

    import mnemoscope as ms
    models = (ms.ModelConfig(source="EleutherAI/pythia-70m-deduped", revision="step143000"),)
    corpus = ms.CorpusConfig(path="document.bin", sample=10_000)
    config = ms.StudyConfig(models=models, corpus=corpus, contexts=(32, 64), continuations=(16, 32))
    study = ms.run_study(config, "pythia-70m")
    print(ms.analyze(study)["factors"].finding.sentence)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.config import CorpusConfig, Grid, ModelConfig, StudyConfig
    from mnemoscope.corpus import open_corpus, read_windows, select_sequences
    from mnemoscope.engines.local import LocalEngine
    from mnemoscope.engines.ray import RayEngine
    from mnemoscope.errors import MnemoscopeError
    from mnemoscope.exported import export_study
    from mnemoscope.facts import MatchFacts
    from mnemoscope.findings import analyze, save_findings
    from mnemoscope.imported import import_scores
    from mnemoscope.model import CausalLM, load_model, wrap_network
    from mnemoscope.run import run_study
    from mnemoscope.scoring import score_sequences
    from mnemoscope.sequences import read_sequence
    from mnemoscope.store import Study, matched_bits, open_study, read_scores
    from mnemoscope.study_file import load_study

_HOME = {
    "config": ("CorpusConfig", "Grid", "ModelConfig", "StudyConfig"),
    "study_file": ("load_study",),
    "corpus": ("open_corpus", "read_windows", "select_sequences"),
    "engines.local": ("LocalEngine",),
    "engines.ray": ("RayEngine",),
    "errors": ("MnemoscopeError",),
    "exported": ("export_study",),
    "facts": ("MatchFacts",),
    "findings": ("analyze", "save_findings"),
    "imported": ("import_scores",),
    "model": ("CausalLM", "load_model", "wrap_network"),
    "run": ("run_study",),
    "scoring": ("score_sequences",),
    "sequences": ("read_sequence",),
    "store": ("Study", "matched_bits", "open_study", "read_scores"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: RUF022  in the order of the modules
    "__version__",
    "CorpusConfig",
    "Grid",
    "ModelConfig",
    "StudyConfig",
    "load_study",
    "open_corpus",
    "read_windows",
    "select_sequences",
    "MnemoscopeError",
    "analyze",
    "save_findings",
    "CausalLM",
    "load_model",
    "wrap_network",
    "LocalEngine",
    "RayEngine",
    "run_study",
    "MatchFacts",
    "score_sequences",
    "Study",
    "matched_bits",
    "open_study",
    "read_scores",
    "import_scores",
    "export_study",
    "read_sequence",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: `import mnemoscope` costs no torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mnemoscope' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mnemoscope.{_MODULE_OF[name]}"), name)
