"""Tiny networks of several architectures, built in the process, and the slow reference they are checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf

VOCAB = 97
SHAPE = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
WIDE = SHAPE | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**WIDE, max_position_embeddings=128)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**WIDE, num_key_value_heads=2, max_position_embeddings=128)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**SHAPE, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
    "olmo": lambda: hf.OlmoForCausalLM(hf.OlmoConfig(**WIDE, max_position_embeddings=128)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**WIDE, num_key_value_heads=2, max_position_embeddings=128)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(  # scaled and softened logits, layers with a short sliding window
        hf.Gemma2Config(**WIDE, num_key_value_heads=2, head_dim=8, sliding_window=16, final_logit_softcapping=3.0)
    ),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(  # local layers that mask by slot
        hf.GPTNeoConfig(
            **SHAPE,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=24,
            max_position_embeddings=128,
        )
    ),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**WIDE, logit_scale=0.25)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**SHAPE, hidden_size=32, n_layer=2, n_head=4)),  # ALiBi
    "mamba": lambda: hf.MambaForCausalLM(  # recurrent: no keys and values at all
        hf.MambaConfig(**SHAPE, hidden_size=32, state_size=8, num_hidden_layers=2)
    ),
}


def build(architecture: str, *, seed: int = 0) -> Any:
    """A randomly initialised network whose logits are spread out enough to have few near-ties."""
    torch.manual_seed(seed)
    network = ARCHITECTURES[architecture]().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "A_log" not in name:
                parameter.mul_(4)
    return network


def generate(network: Any, prompts: np.ndarray, num_tokens: int) -> np.ndarray:
    """What transformers' own greedy `generate()` says after each prompt, int64 [R, num_tokens]; nothing stops it."""
    prompts_RT = torch.from_numpy(np.ascontiguousarray(prompts))
    with torch.inference_mode():
        out = network.generate(
            prompts_RT,
            attention_mask=torch.ones_like(prompts_RT),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[:, prompts_RT.shape[1] :].numpy()


def plant_sequences(
    network: Any, *, num_sequences: int, window_tokens: int, contexts: tuple[int, ...], seed: int = 0
) -> np.ndarray:
    """Random rows; a third recited by the network itself from some context on, a third so but for one token."""
    rng = np.random.default_rng(seed)
    tokens_RW = rng.integers(0, VOCAB, (num_sequences, window_tokens))
    for row in range(num_sequences):
        kind, context = row % 3, contexts[row // 3 % len(contexts)]
        if kind > 0:
            recited = generate(network, tokens_RW[row : row + 1, :context], window_tokens - context)
            tokens_RW[row, context:] = recited[0]
        if kind == 2:
            place = rng.integers(context, window_tokens)
            tokens_RW[row, place] = (tokens_RW[row, place] + 1) % VOCAB
    return tokens_RW
