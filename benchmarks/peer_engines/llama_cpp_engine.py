"""llama.cpp: many sequences decoded together, through the functions of the library that llama-cpp-python exposes.

Its GELU is a table of float16 values, hence its answers are close to float32's rather than equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from neox_weights import Linear, convert_once, read_weights, rotary_dimensions
from serve import Settings, Tokens

PASS_ROWS = 8
"""Rows of one pass: its logits come back whole, 50,304 float32 a position."""
FLOAT32 = 0
"""The number of that type in ggml."""


def convert(source: Path, target: Path) -> None:
    """Write a GPT-NeoX folder as a GGUF file in float32, without a tokenizer."""
    weights = read_weights(source)
    writer, config = gguf.GGUFWriter(str(target), "gptneox"), weights.config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(len(weights.layers))
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(rotary_dimensions(config))
    writer.add_head_count(config["num_attention_heads"])
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_vocab_size(len(weights.embedding))
    writer.add_tokenizer_model("no_vocab")
    parts: dict[str, Linear] = {"output_norm": weights.final_norm}
    for number, layer in enumerate(weights.layers):
        names = ("attn_norm", "ffn_norm", "attn_qkv", "attn_output", "ffn_up", "ffn_down")
        parts |= {f"blk.{number}.{name}": part for name, part in zip(names, layer, strict=True)}
    writer.add_tensor("token_embd.weight", weights.embedding)
    writer.add_tensor("output.weight", weights.head)
    for name, part in parts.items():
        writer.add_tensor(f"{name}.weight", part.weight)
        writer.add_tensor(f"{name}.bias", part.bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(folder: Path, settings: Settings) -> LlamaCpp:
    """The engine over a folder's weights, converted on first use."""
    target = folder / "model.gguf"
    convert_once(target, convert)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(target).encode(), llama_cpp.llama_model_default_params())
    window = settings.contexts[-1] + settings.continuations[-1]
    options = llama_cpp.llama_context_default_params()
    options.n_seq_max = settings.batch_size
    options.n_ctx = window * settings.batch_size
    options.n_batch = window * settings.batch_size
    options.n_threads = options.n_threads_batch = settings.threads
    options.type_k = options.type_v = FLOAT32
    options.flash_attn_type = 0
    return LlamaCpp(model, llama_cpp.llama_init_from_model(model, options), options.n_batch)


class LlamaCpp:
    """A loaded model and room for a batch of sequences."""

    def __init__(self, model: Any, context: Any, most_tokens: int) -> None:
        self.context = context
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(most_tokens, 0, 1)

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        self._forget()
        tokens_BT, seen, told = prompts_BK, 0, []
        for _ in range(num_tokens):
            told.append(self._step(tokens_BT, seen, last_only=True))
            seen, tokens_BT = seen + tokens_BT.shape[1], told[-1]
        return np.concatenate(told, axis=1)

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        found = []
        for start in range(0, len(rows_BW), PASS_ROWS):
            self._forget()
            found.append(self._step(rows_BW[start : start + PASS_ROWS], 0, last_only=False))
        return np.concatenate(found)

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _step(self, tokens_BT: Tokens, seen: int, *, last_only: bool) -> Tokens:
        """The greedy tokens after the last, or after each, of some new tokens: int [B, 1] or [B, T]."""
        num_rows, num_new = tokens_BT.shape
        batch = self.batch
        batch.n_tokens = tokens_BT.size
        place = 0
        for row, tokens in enumerate(tokens_BT.tolist()):
            for offset, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, seen + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                batch.logits[place] = not last_only or offset == num_new - 1
                place += 1
        status = llama_cpp.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode: status {status}; expected 0")
        num_told = num_rows * (1 if last_only else num_new)
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape=(num_told, self.vocabulary))
        return logits.argmax(-1).reshape(num_rows, -1)
