"""CTranslate2: greedy decoding in batches, and the logits of whole rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from neox_weights import Linear, convert_once, read_weights, rotary_dimensions
from serve import Settings, Tokens

PASS_ROWS = 8
"""Rows of one pass: its logits come back whole, 50,304 float32 a position."""


def convert(source: Path, target: Path) -> None:
    """Write a GPT-NeoX folder as CTranslate2 reads it, in float32, tokens named by their numbers.

    The package's own converter wants torch and an older transformers; its public specification takes arrays as well.
    """
    weights = read_weights(source)
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        len(weights.layers),
        weights.config["num_attention_heads"],
        pre_norm=True,
        activation=common_spec.Activation.GELU,
        rotary_dim=rotary_dimensions(weights.config),
        rotary_interleave=False,
        parallel_residual=weights.config["use_parallel_residual"],
        shared_layer_norm=False,
    )
    decoder: Any = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight, decoder.projection.weight = weights.embedding, weights.head
    _fill_norm(decoder.layer_norm, weights.final_norm)
    for part, layer in zip(decoder.layer, weights.layers, strict=True):
        _fill_norm(part.input_layer_norm, layer.attention_norm)
        _fill_norm(part.post_attention_layer_norm, layer.feed_norm)
        matrices = (*part.self_attention.linear, part.ffn.linear_0, part.ffn.linear_1)
        for matrix, values in zip(matrices, (layer.qkv, layer.out, layer.up, layer.down), strict=True):
            matrix.weight, matrix.bias = values
    spec.register_vocabulary([str(token) for token in range(len(weights.embedding))])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.validate()
    spec.optimize(quantization="float32")
    target.mkdir()
    spec.save(str(target))


def _fill_norm(norm: Any, values: Linear) -> None:
    norm.gamma, norm.beta = values


def load(folder: Path, settings: Settings) -> CTranslate2:
    """The engine over a folder's weights, converted on first use."""
    target = folder / "ctranslate2"
    convert_once(target, convert)
    return CTranslate2(ctranslate2.Generator(str(target), compute_type="float32", intra_threads=settings.threads))


class CTranslate2:
    """A loaded model."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        results = self.generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts_BK],
            max_length=num_tokens,
            end_token=[],
            include_prompt_in_result=False,
        )
        return np.array([result.sequences_ids[0] for result in results])

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        found = []
        for start in range(0, len(rows_BW), PASS_ROWS):
            logits = self.generator.forward_batch(rows_BW[start : start + PASS_ROWS].tolist())
            found.append(np.asarray(logits).argmax(-1))
        return np.concatenate(found)
