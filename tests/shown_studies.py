"""Studies to look at in a browser: one of drawn facts with every perspective, one that real networks scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from byte_tokens import HOSTILE, save_tokenizer
from mnemoscope.config import CorpusConfig, CountsConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.findings import analyze, save_findings
from mnemoscope.run import run_study
from mnemoscope.store import Study
from networks import VOCAB, build, plant_sequences
from synthetic_study import write_study


def drawn_study(folder: Path, *, num_sequences: int = 700) -> Study:
    """Two models of two sizes over members and a control, traced, analysed, with hostile tokens."""
    study = write_study(
        folder,
        num_sequences=num_sequences,
        num_models=2,
        contexts=(8, 16),
        continuations=(4, 8),
        hostile=HOSTILE,
        traced_per_stratum=45,
    )
    save_findings(study, analyze(study), figures=False)
    return study


def genuine_study(folder: Path) -> Study:
    """Two checkpoints of a tiny network over rows that it recites, a third of them whole; scored, traced, analysed."""
    folder.mkdir(parents=True, exist_ok=True)
    network = build("gpt_neox")
    rows = plant_sequences(network, num_sequences=90, window_tokens=24, contexts=(8, 16))
    np.save(folder / "member.npy", rows.astype(np.uint16))
    np.save(folder / "control.npy", np.random.default_rng(1).integers(0, VOCAB, (30, 24)).astype(np.uint16))
    network.save_pretrained(folder / "tiny" / "step2")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    network.save_pretrained(folder / "tiny" / "step1")
    tokenizer = str(save_tokenizer(folder / "tokenizer.json", vocab_size=VOCAB, hostile=HOSTILE))
    config = StudyConfig(
        models=tuple(ModelConfig(source=str(folder / "tiny"), revision=f"step{i}", device="cpu") for i in (1, 2)),
        corpus=CorpusConfig(path=str(folder / "member.npy"), tokenizer=tokenizer),
        control=CorpusConfig(path=str(folder / "control.npy"), tokenizer=tokenizer),
        contexts=(8, 16),
        continuations=(4, 8),
        batch_size=16,
        traces=TracesConfig(per_stratum=20),
        counts=CountsConfig(),
    )
    study = run_study(config, folder / "study", command="mnemoscope study tiny.toml")
    save_findings(study, analyze(study), figures=False)
    return study
