"""transformers: its own greedy `generate()`, and one bare forward pass with its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from serve import Settings, Tokens
from transformers import AutoModelForCausalLM


def load(folder: Path, settings: Settings) -> Transformers:
    """The network of a folder, in float32."""
    torch.set_num_threads(settings.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Transformers(network.to(device).eval())


class Transformers:
    """A loaded model."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @torch.inference_mode()
    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        prompts = torch.from_numpy(prompts_BK.copy()).to(self.network.device)
        out_BT = self.network.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out_BT[:, prompts.shape[1] :].cpu().numpy()

    @torch.inference_mode()
    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        rows = torch.from_numpy(rows_BW.copy()).to(self.network.device)
        return self.network(rows, use_cache=False).logits.argmax(-1).cpu().numpy()
