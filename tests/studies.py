"""A study that takes a second: a random GPT-NeoX of two layers over rows of random tokens, some of them known to it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig
from mnemoscope.run import run_study
from mnemoscope.shards import num_matched
from mnemoscope.store import Study, read_scores

VOCAB = 64
torch.set_num_threads(1)  # the networks are so small that threads only wait for each other


def save_model(folder: Path, *, seed: int = 0) -> Path:
    """A randomly initialised network of width 32 with 48 positions, as safetensors."""
    torch.manual_seed(seed)
    shape = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        bos_token_id=0,
        eos_token_id=0,
    )
    network = GPTNeoXForCausalLM(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # spreads the logits: few near-ties
    network.save_pretrained(folder)
    return folder


def save_rows(path: Path, *, num_rows: int, row_tokens: int = 16, seed: int = 0) -> Path:
    """Random tokens, uint16 [num_rows, row_tokens], as .npy."""
    rows = np.random.default_rng(seed).integers(0, VOCAB, size=(num_rows, row_tokens), dtype=np.uint16)
    np.save(path, rows)
    return path


def make_study(folder: Path, *, num_rows: int = 10, num_control: int = 0, **settings) -> StudyConfig:
    """Contexts 4 and 8, continuations 3 and 5, shards of 4 sequences; the model and the rows lie in `folder`."""
    folder.mkdir(exist_ok=True)
    corpus = CorpusConfig(path=str(save_rows(folder / "member.npy", num_rows=num_rows)))
    control = None
    if num_control:
        control = CorpusConfig(path=str(save_rows(folder / "control.npy", num_rows=num_control, seed=1)))
    if not (folder / "tiny").exists():
        save_model(folder / "tiny")
    defaults = {
        "models": (ModelConfig(source=str(folder / "tiny"), device="cpu"),),
        "corpus": corpus,
        "control": control,
        "contexts": (4, 8),
        "continuations": (3, 5),
        "batch_size": 2,
        "shard_rows": 4,
    }
    return StudyConfig(**(defaults | settings))


def score_two(folder: Path) -> Study:
    """A study in `folder` of two models, the second at step 7, over 11 members and 5 of a control."""
    save_model(folder / "other" / "step7", seed=3)
    config = make_study(folder / "in", num_rows=11, num_control=5)
    models = (*config.models, ModelConfig(source=str(folder / "other"), revision="step7", device="cpu"))
    return run_study(replace(config, models=models), folder / "study")


def stored_matches(study: Study, label: str) -> dict[tuple[str, int, int, int], int]:
    """num_matched of a run by group, sequence_id, context and continuation; cells that it lacks are left out."""
    grid = study.run(label).identity.grid
    found = {}
    for table in read_scores(study, label):
        keys = zip(*(table.column(name).to_pylist() for name in ("group", "sequence_id", "context")), strict=True)
        for key, counts in zip(keys, num_matched(table, grid).tolist(), strict=True):
            found |= {(*key, n): count for n, count in zip(grid.continuations, counts, strict=True) if count >= 0}
    return found


def hash_tables(folder: Path) -> dict[str, str]:
    """The sha256 of every file under scores/, by its path."""
    files = sorted(path for path in (folder / "scores").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
