"""Ours: the kernel that `mnemoscope score` runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from serve import Settings, Tokens

from mnemoscope.config import Grid, Mode, ModelConfig
from mnemoscope.model import CausalLM, load_model
from mnemoscope.scoring import score_sequences


def load(folder: Path, settings: Settings) -> Mnemoscope:
    """The model of a folder."""
    torch.set_num_threads(settings.threads)
    return Mnemoscope(load_model(ModelConfig(source=str(folder))), settings)


class Mnemoscope:
    """A loaded model and the grid."""

    def __init__(self, model: CausalLM, settings: Settings) -> None:
        self.model, self.batch_size = model, settings.batch_size
        self.grid = Grid(contexts=settings.contexts, continuations=settings.continuations)

    @torch.inference_mode()
    def score(self, mode: Mode, rows_RW: Tokens) -> NDArray[np.int64]:
        """First mismatches [R, C] of mode exact; match bits [R, C, n_max] as 0 and 1 of mode graded."""
        facts = score_sequences(self.model, rows_RW, self.grid, mode=mode, batch_size=self.batch_size)
        found = facts.first_mismatch_RC if facts.matched_RCn is None else facts.matched_RCn
        return found.astype(np.int64)
