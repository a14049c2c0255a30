"""A model's files -> how large the model is, before anything of it is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final, NamedTuple

from mnemoscope.config import Dtype, ModelConfig
from mnemoscope.errors import ModelError

DTYPE_BYTES: Final[dict[Dtype, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
_MOST_HEADER_BYTES: Final = 100_000_000
"""What the format allows."""


class ModelSize(NamedTuple):
    """What a model's files say of its size."""

    num_weights: int
    file_bytes: int
    """Of its safetensors."""
    max_positions: int | None
    """None where its config.json does not say."""

    def weight_bytes(self, dtype: Dtype) -> int:
        """Bytes of the weights once they are loaded in a number format."""
        return self.num_weights * DTYPE_BYTES[dtype]


def model_size(config: ModelConfig) -> ModelSize | None:
    """The size of a model whose files are on this machine; None where they are not.

    ModelError for files that cannot be read.
    """
    from mnemoscope.model import find_files, locate

    locate(config)  # says what is wrong with a local folder
    folder = find_files(config)
    if folder is None:
        return None
    paths = sorted(folder.glob("*.safetensors"))
    return ModelSize(
        num_weights=sum(_num_weights(path) for path in paths),
        file_bytes=sum(path.stat().st_size for path in paths),
        max_positions=_max_positions(folder / "config.json"),
    )


def _num_weights(path: Path) -> int:
    """Numbers in a safetensors file, by its header: eight bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, _MOST_HEADER_BYTES)))
        return sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no readable safetensors file ({error}); expected the weights of a model") from error


def _max_positions(path: Path) -> int | None:
    try:
        settings: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable ({error}); expected a model's settings as JSON") from error
    settings = settings.get("text_config") or settings
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = settings.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None
