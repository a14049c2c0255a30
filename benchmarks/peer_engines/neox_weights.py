"""A GPT-NeoX folder read without torch: its settings and its weights by engine-neutral names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float32]


class Linear(NamedTuple):
    """A matrix [out, in] and a bias [out]; for a norm, both are [width]."""

    weight: Array
    bias: Array


class Layer(NamedTuple):
    """One block; `qkv` has all queries first, then all keys, then all values."""

    attention_norm: Linear
    feed_norm: Linear
    qkv: Linear
    out: Linear
    up: Linear
    down: Linear


class Weights(NamedTuple):
    """Everything a GPT-NeoX network computes with."""

    config: dict[str, Any]
    embedding: Array
    layers: list[Layer]
    final_norm: Linear
    head: Array


def read_weights(folder: Path) -> Weights:
    """The float32 weights of a folder with config.json and model.safetensors."""
    config, arrays = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    heads = config["num_attention_heads"]

    def linear(name: str) -> Linear:
        return Linear(arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    def layer(number: int) -> Layer:
        stem = f"gpt_neox.layers.{number}"
        return Layer(
            linear(f"{stem}.input_layernorm"),
            linear(f"{stem}.post_attention_layernorm"),
            Linear(*(ungrouped(array, heads) for array in linear(f"{stem}.attention.query_key_value"))),
            linear(f"{stem}.attention.dense"),
            linear(f"{stem}.mlp.dense_h_to_4h"),
            linear(f"{stem}.mlp.dense_4h_to_h"),
        )

    return Weights(
        config,
        arrays["gpt_neox.embed_in.weight"],
        [layer(number) for number in range(config["num_hidden_layers"])],
        linear("gpt_neox.final_layer_norm"),
        arrays["embed_out.weight"],
    )


def weights_folder(folder: Path) -> Path:
    """Where below a model's folder its config.json lies."""
    return next((folder / "weights").glob("*/config.json")).parent


def convert_once(target: Path, convert: Callable[[Path, Path], object]) -> None:
    """Have `convert(source, target)` write what is not there yet; of several sides at once, the first one counts."""
    if target.exists():
        return
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    convert(weights_folder(target.parent), unfinished)
    try:
        unfinished.rename(target)
    except OSError:  # another side has put its folder there
        shutil.rmtree(unfinished)


def rotary_dimensions(config: dict[str, Any]) -> int:
    """How many dimensions of a head turn with the position."""
    settings = config.get("rope_parameters") or {}
    share = settings.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    return int(share * (config["hidden_size"] // config["num_attention_heads"]))


def ungrouped(array: Array, heads: int) -> Array:
    """Rows stored head by head as (query, key, value), sorted into queries, keys, values of all heads."""
    parts = array.reshape(heads, 3, -1, *array.shape[1:])
    return np.ascontiguousarray(np.moveaxis(parts, 1, 0)).reshape(array.shape)
