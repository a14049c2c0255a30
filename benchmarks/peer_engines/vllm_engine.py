"""vLLM on a GPU: generation, and the greedy choices that its prompt log-probabilities tell.

Written from its documentation and untested: it has not met a GPU yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from serve import Settings, Tokens
from vllm import LLM, SamplingParams


def load(folder: Path, settings: Settings) -> VLLM:
    """The engine over a folder's weights, in float32."""
    window = settings.contexts[-1] + settings.continuations[-1]
    return VLLM(LLM(str(folder), dtype="float32", skip_tokenizer_init=True, max_model_len=window + 1))


class VLLM:
    """A loaded model."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False)
        outputs = self._run(prompts_BK, sampling)
        return np.array([output.outputs[0].token_ids for output in outputs])

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, detokenize=False, prompt_logprobs=1)
        found = []
        for output in self._run(rows_BW, sampling):
            ranked = (told.items() for told in output.prompt_logprobs[1:])
            best = [next(token for token, entry in items if entry.rank == 1) for items in ranked]
            found.append([*best, output.outputs[0].token_ids[0]])
        return np.array(found)

    def _run(self, prompts_BK: Tokens, sampling: Any) -> list[Any]:
        prompts = [{"prompt_token_ids": prompt} for prompt in prompts_BK.tolist()]
        return self.engine.generate(prompts, sampling, use_tqdm=False)
