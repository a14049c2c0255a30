"""What every side of `peers.py` is given: a model's folder, rows of text, and the environments of the other engines.

Everything here can be made again and lies in the cache folder, never in the repository.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from measured_models import SHAPES, library_rows, save_network
from mnemoscope.cache import building, cache_folder, is_whole

DATA: Final = Path(os.environ.get("MNEMOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
ROW_CHARACTERS: Final = 20
"""Text taken per token wanted: more than tokens are long."""


class Peer(NamedTuple):
    """Another engine: what its environment needs, and what it is asked."""

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    """Imported to see that the environment is usable."""
    protocols: tuple[str, ...] = ("strongest", "exact")
    needs_gpu: bool = False


PEERS: Final = {
    "ctranslate2": Peer(("ctranslate2", "numpy", "safetensors"), ("ctranslate2", "safetensors")),
    "llama_cpp": Peer(("llama-cpp-python", "gguf", "numpy", "safetensors"), ("llama_cpp", "gguf")),
    "openvino": Peer(("openvino", "numpy", "safetensors"), ("openvino", "safetensors")),
    "onnxruntime": Peer(("onnxruntime", "onnx", "numpy", "safetensors"), ("onnxruntime", "onnx")),
    "vllm": Peer(("vllm",), ("vllm",), needs_gpu=True),
}


def peers_folder() -> Path:
    """Where environments and converted models lie."""
    return cache_folder() / "peers"


def environment_python(name: str) -> Path:
    """The interpreter of a peer's environment, whether or not it is there."""
    return peers_folder() / "environments" / name / "bin" / "python"


def install(name: str) -> str | None:
    """Make a peer's environment from the package index; what went wrong, if anything did. May build from source."""
    python = environment_python(name)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *PEERS[name].packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def reason_missing(name: str, *, has_gpu: bool) -> str | None:
    """Why a peer is left out, or None."""
    peer, python = PEERS[name], environment_python(name)
    if peer.needs_gpu and not has_gpu:
        return "needs a GPU"
    if not python.exists():
        return f"not installed (--install {name})"
    imports = "; ".join(f"import {module}" for module in peer.modules)
    done = subprocess.run([str(python), "-c", imports], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"does not import: {(done.stderr.strip().splitlines() or ['?'])[-1]}"


def model_folder(shape: str) -> Path:
    """A folder for a Pythia-shaped model and its conversions; `weights/SHAPE` inside is what transformers reads."""
    folder = peers_folder() / "models" / shape
    if shape not in SHAPES:
        raise SystemExit(f"--shapes {shape}: expected one of {', '.join(SHAPES)}")
    if not is_whole(folder / "weights"):
        with building(folder / "weights") as temporary:
            save_network(shape, temporary)
    return folder


def real_rows(num_rows: int, row_tokens: int) -> tuple[NDArray[np.int64], str]:
    """Rows int64 [R, W] of public-domain books, or without that corpus of Python's library; and which."""
    corpus = DATA / "corpora" / "books_classic.jsonl"
    vocabulary = DATA / "tokenizers" / "gpt-neox-20b_tokenizer.json"
    if not (corpus.exists() and vocabulary.exists()):
        return library_rows(num_rows, row_tokens), "Python's library"
    tokenizer = Tokenizer.from_file(str(vocabulary))
    with corpus.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    rows: list[list[int]] = []
    for number in range(num_rows):
        text = texts[number % len(texts)]
        start = len(text) // 2 + (number // len(texts)) * ROW_CHARACTERS * row_tokens
        rows.append(tokenizer.encode(text[start : start + ROW_CHARACTERS * row_tokens]).ids[:row_tokens])
    return np.array(rows, np.int64), "public-domain books"
