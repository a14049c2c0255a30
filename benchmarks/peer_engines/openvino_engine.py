"""OpenVINO: a graph with its keys and values as state, greedy tokens chosen inside it.

Axes: B rows, T new tokens, S all tokens so far, P picked positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from neox_weights import Linear, Weights, read_weights, rotary_dimensions, weights_folder
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo
from serve import Settings, Tokens

PASS_ROWS = 8
"""Rows of one pass: the logits of all of them are in memory at once."""


def load(folder: Path, settings: Settings) -> OpenVINO:
    """The engine over a folder's weights."""
    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": settings.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
    }
    compiled = core.compile_model(
        build(read_weights(weights_folder(folder))), "CPU", options | {"PERFORMANCE_HINT": "LATENCY"}
    )
    return OpenVINO(compiled.create_infer_request())


class OpenVINO:
    """A compiled graph."""

    def __init__(self, request: Any) -> None:
        self.request = request

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        self.request.reset_state()
        tokens_BT, seen, told = prompts_BK, 0, []
        for _ in range(num_tokens):
            told.append(self._step(tokens_BT, seen, picked=np.array([tokens_BT.shape[1] - 1])))
            seen, tokens_BT = seen + tokens_BT.shape[1], told[-1]
        return np.concatenate(told, axis=1)

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        found = []
        for start in range(0, len(rows_BW), PASS_ROWS):
            self.request.reset_state()
            found.append(self._step(rows_BW[start : start + PASS_ROWS], 0, picked=np.arange(rows_BW.shape[1])))
        return np.concatenate(found)

    def _step(self, tokens_BT: Tokens, seen: int, *, picked: Tokens) -> Tokens:
        positions = np.arange(seen, seen + tokens_BT.shape[1])
        hidden = np.arange(seen + len(positions)) > positions[:, None]
        inputs = {
            "tokens": tokens_BT,
            "positions": positions,
            "picked": picked,
            "mask": np.where(hidden, np.float32(np.finfo(np.float32).min), np.float32(0))[None, None],
            "beams": np.arange(len(tokens_BT), dtype=np.int32),
        }
        return next(iter(self.request.infer(inputs).values())).copy()


def build(weights: Weights) -> ov.Model:
    """The network as a stateful graph: tokens [B, T] in, greedy tokens [B, P] out."""
    tokens = ops.parameter([-1, -1], np.int64, name="tokens")
    positions = ops.parameter([-1], np.int64, name="positions")
    picked = ops.parameter([-1], np.int64, name="picked")
    mask = ops.parameter([1, 1, -1, -1], np.float32, name="mask")
    beams = ops.parameter([-1], np.int32, name="beams")
    builder = _Builder(weights, tokens, positions, mask, beams)
    hidden = ops.gather(ops.constant(weights.embedding), tokens, ops.constant(0))
    for number in range(len(weights.layers)):
        hidden = builder.block(hidden, number)
    chosen = ops.gather(builder.norm(hidden, weights.final_norm), picked, ops.constant(1))
    logits = ops.matmul(chosen, ops.constant(weights.head), False, True)
    best = ops.topk(logits, ops.constant(1), -1, "max", "none", index_element_type="i64").output(1)
    result = ops.result(ops.squeeze(best, ops.constant([-1])))
    return ov.Model([result], builder.sinks, [tokens, positions, picked, mask, beams], "gpt_neox")


class _Builder:
    """The parts of the graph that a block needs."""

    def __init__(self, weights: Weights, tokens: Any, positions: Any, mask: Any, beams: Any) -> None:
        self.weights, self.mask, self.beams, self.sinks = weights, mask, beams, []
        config = weights.config
        self.heads = config["num_attention_heads"]
        self.head_width = config["hidden_size"] // self.heads
        self.turned = rotary_dimensions(config)
        base = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rotary_emb_base", 10_000))
        speeds = np.float32(1) / np.float32(base) ** (np.arange(0, self.turned, 2, dtype=np.float32) / self.turned)
        angles = ops.multiply(
            ops.unsqueeze(ops.convert(positions, "f32"), ops.constant(1)), ops.constant(np.tile(speeds, 2)[None])
        )
        self.cosines, self.sines = ops.cos(angles), ops.sin(angles)
        batch = ops.gather(ops.shape_of(tokens), ops.constant([0]), ops.constant(0))
        fresh = ops.concat([batch, ops.constant(np.array([self.heads, 0, self.head_width]))], 0)
        self.empty = ops.broadcast(ops.constant(np.float32(0)), fresh)

    def block(self, hidden: Any, number: int) -> Any:
        """Attention and feed-forward side by side, added to what came in."""
        layer = self.weights.layers[number]
        attended = self.attend(self.linear(self.norm(hidden, layer.attention_norm), layer.qkv), number)
        fed = ops.gelu(self.linear(self.norm(hidden, layer.feed_norm), layer.up), "erf")
        return ops.add(ops.add(hidden, self.linear(attended, layer.out)), self.linear(fed, layer.down))

    def attend(self, qkv: Any, number: int) -> Any:
        """Attention over the state and the new tokens."""
        split = ops.reshape(qkv, ops.constant([0, 0, 3 * self.heads, self.head_width]), True)
        query, key, value = ops.split(ops.transpose(split, ops.constant([0, 2, 1, 3])), ops.constant(1), 3).outputs()
        keys, values = (
            self.remember(new, f"{name}.{number}") for name, new in (("key", self.turn(key)), ("value", value))
        )
        mixed = ops.scaled_dot_product_attention(self.turn(query), keys, values, self.mask)
        flat = ops.constant([0, 0, self.heads * self.head_width])
        return ops.reshape(ops.transpose(mixed, ops.constant([0, 2, 1, 3])), flat, True)

    def remember(self, new: Any, name: str) -> Any:
        """The state with the new tokens behind it, which is the next state."""
        shape = ov.PartialShape([-1, self.heads, -1, self.head_width])
        info = VariableInfo()
        info.data_shape, info.data_type, info.variable_id = shape, ov.Type.f32, name
        variable = Variable(info)
        past = ops.read_value(self.empty, variable)
        whole = ops.concat([ops.gather(past, self.beams, ops.constant(0)), new], 2)
        self.sinks.append(ops.assign(whole, variable))
        return whole

    def turn(self, heads: Any) -> Any:
        """The first dimensions of every head turned with its position."""
        half, width = self.turned // 2, self.head_width
        first, second, rest = ops.variadic_split(heads, ops.constant(3), [half, half, width - self.turned]).outputs()
        turned = ops.concat([first, second], 3)
        across = ops.concat([ops.negative(second), first], 3)
        moved = ops.add(ops.multiply(turned, self.cosines), ops.multiply(across, self.sines))
        return ops.concat([moved, rest], 3)

    def norm(self, hidden: Any, values: Linear) -> Any:
        """Layer normalisation."""
        epsilon = self.weights.config["layer_norm_eps"]
        scaled = ops.mvn(hidden, ops.constant([-1]), True, epsilon, "inside_sqrt")
        return ops.add(ops.multiply(scaled, ops.constant(values.weight)), ops.constant(values.bias))

    def linear(self, hidden: Any, values: Linear) -> Any:
        """A matrix and its bias."""
        return ops.add(ops.matmul(hidden, ops.constant(values.weight), False, True), ops.constant(values.bias))
