"""ONNX Runtime: a graph of its fused operators, keys and values in buffers that it writes in place.

Axes: B rows, T new tokens, P picked positions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from neox_weights import Linear, Weights, convert_once, read_weights, rotary_dimensions, weights_folder
from onnx import TensorProto, helper, numpy_helper
from serve import Settings, Tokens

PASS_ROWS = 8
"""Rows of one pass: the logits of all of them are in memory at once."""


def load(folder: Path, settings: Settings) -> OnnxRuntime:
    """The engine over a folder's weights, converted on first use."""
    window = settings.contexts[-1] + settings.continuations[-1]
    target = folder / f"window_{window}.onnx"
    convert_once(target, lambda source, file: file.write_bytes(_Graph(read_weights(source), window).finish()))
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    return OnnxRuntime(session, json.loads((weights_folder(folder) / "config.json").read_text()), window)


class OnnxRuntime:
    """A session and the shape of its keys and values."""

    def __init__(self, session: Any, config: dict[str, Any], window: int) -> None:
        heads = config["num_attention_heads"]
        self.session, self.num_layers = session, config["num_hidden_layers"]
        self.cache_shape = (heads, window, config["hidden_size"] // heads)

    def generate(self, prompts_BK: Tokens, num_tokens: int) -> Tokens:
        """The greedy continuations, int [B, num_tokens]."""
        cache = self._empty(len(prompts_BK))
        tokens_BT, seen, told = prompts_BK, 0, []
        for _ in range(num_tokens):
            told.append(self._step(cache, tokens_BT, seen, picked=np.array([tokens_BT.shape[1] - 1])))
            seen, tokens_BT = seen + tokens_BT.shape[1], told[-1]
        return np.concatenate(told, axis=1)

    def choose(self, rows_BW: Tokens) -> Tokens:
        """The greedy token after every true prefix, int [B, W]."""
        found = []
        for start in range(0, len(rows_BW), PASS_ROWS):
            rows = rows_BW[start : start + PASS_ROWS]
            found.append(self._step(self._empty(len(rows)), rows, 0, picked=np.arange(rows.shape[1])))
        return np.concatenate(found)

    def _empty(self, num_rows: int) -> dict[str, Any]:
        shape = (num_rows, *self.cache_shape)
        names = [f"{part}.{number}" for number in range(self.num_layers) for part in ("key", "value")]
        return {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name in names}

    def _step(self, cache: dict[str, Any], tokens_BT: Tokens, seen: int, *, picked: Tokens) -> Tokens:
        num_rows, num_new = tokens_BT.shape
        binding = self.session.io_binding()
        inputs = {
            "tokens": np.ascontiguousarray(tokens_BT),
            "positions": np.tile(np.arange(seen, seen + num_new), (num_rows, 1)),
            "picked": picked,
            "last": np.full(num_rows, seen + num_new - 1, np.int32),
            "total": np.array(seen + num_new, np.int32),
        }
        for name, values in inputs.items():
            binding.bind_cpu_input(name, values)
        for name, buffer in cache.items():
            binding.bind_ortvalue_input(f"past.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        binding.bind_output("best")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()


class _Graph:
    """The network as an ONNX graph: tokens [B, T] in, greedy tokens [B, P] out."""

    def __init__(self, weights: Weights, window: int) -> None:
        self.weights, self.nodes, self.constants = weights, [], []
        config = weights.config
        self.heads, self.turned = config["num_attention_heads"], rotary_dimensions(config)
        base = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rotary_emb_base", 10_000))
        speeds = np.float32(1) / np.float32(base) ** (np.arange(0, self.turned, 2, dtype=np.float32) / self.turned)
        angles = np.arange(window, dtype=np.float32)[:, None] * speeds
        self.cosines, self.sines = self.constant("cosines", np.cos(angles)), self.constant("sines", np.sin(angles))

    def finish(self) -> bytes:
        """The serialized model."""
        weights, width = self.weights, self.weights.config["hidden_size"]
        hidden = self.node("Gather", [self.constant("embedding", weights.embedding), "tokens"])
        for number in range(len(weights.layers)):
            hidden = self.block(hidden, number)
        chosen = self.node("Gather", [self.norm(hidden, weights.final_norm, "final"), "picked"], axis=1)
        logits = self.node("MatMul", [chosen, self.constant("head", np.ascontiguousarray(weights.head.T))])
        self.nodes.append(helper.make_node("ArgMax", [logits], ["best"], axis=-1, keepdims=0))
        values = [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind, shape in (
                ("tokens", TensorProto.INT64, ["B", "T"]),
                ("positions", TensorProto.INT64, ["B", "T"]),
                ("picked", TensorProto.INT64, ["P"]),
                ("last", TensorProto.INT32, ["B"]),
                ("total", TensorProto.INT32, []),
            )
        ]
        shape = ["B", self.heads, "S", width // self.heads]
        names = [f"{part}.{number}" for number in range(len(weights.layers)) for part in ("key", "value")]
        pasts, presents = (
            [helper.make_tensor_value_info(f"{time}.{name}", TensorProto.FLOAT, shape) for name in names]
            for time in ("past", "present")
        )
        best = helper.make_tensor_value_info("best", TensorProto.INT64, ["B", "P"])
        graph = helper.make_graph(self.nodes, "gpt_neox", values + pasts, [*presents, best], self.constants)
        versions = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()

    def block(self, hidden: str, number: int) -> str:
        """Attention and feed-forward side by side, added to what came in."""
        layer, stem = self.weights.layers[number], f"block{number}"
        qkv = self.linear(self.norm(hidden, layer.attention_norm, f"{stem}.in"), layer.qkv, f"{stem}.qkv")
        out = self.linear(self.attend(qkv, number), layer.out, f"{stem}.out")
        up = self.linear(self.norm(hidden, layer.feed_norm, f"{stem}.feed"), layer.up, f"{stem}.up")
        down = self.linear(self.node("Gelu", [up]), layer.down, f"{stem}.down")
        return self.node("Add", [self.node("Add", [hidden, out]), down])

    def attend(self, qkv: str, number: int) -> str:
        """Attention over the buffers and the new tokens."""
        query, key, value = self.node("Split", [qkv], num_outputs=3, axis=-1, outputs=3)
        query, key = (
            self.node(
                "RotaryEmbedding",
                [part, "positions", self.cosines, self.sines],
                domain="com.microsoft",
                num_heads=self.heads,
                rotary_embedding_dim=self.turned,
            )
            for part in (query, key)
        )
        mixed = f"mixed.{number}"
        inputs = [query, key, value, f"past.key.{number}", f"past.value.{number}", "last", "total"]
        outputs = [mixed, f"present.key.{number}", f"present.value.{number}"]
        heads = {"num_heads": self.heads, "kv_num_heads": self.heads}
        self.nodes.append(helper.make_node("GroupQueryAttention", inputs, outputs, domain="com.microsoft", **heads))
        return mixed

    def norm(self, hidden: str, values: Linear, name: str) -> str:
        """Layer normalisation."""
        scale, shift = (self.constant(f"{name}.norm.{part}", array) for part, array in zip("wb", values, strict=True))
        epsilon = self.weights.config["layer_norm_eps"]
        return self.node("LayerNormalization", [hidden, scale, shift], axis=-1, epsilon=epsilon)

    def linear(self, hidden: str, values: Linear, name: str) -> str:
        """A matrix and its bias."""
        weight = self.constant(f"{name}.weight", np.ascontiguousarray(values.weight.T))
        return self.node("Add", [self.node("MatMul", [hidden, weight]), self.constant(f"{name}.bias", values.bias)])

    def constant(self, name: str, array: Any) -> str:
        """The name of an array that the graph holds."""
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], *, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """The name of an operator's output, or the names of several."""
        names = [f"{operator}.{len(self.nodes)}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names if outputs > 1 else names[0]
