"""What the scoring benchmark runs on when it is given nothing: Pythia-shaped models and real text, made on the spot.

The models have random weights, as speed does not depend on them, and the vocabulary of a real one: a head over 50,304
tokens is most of a small model's work. Their text is the interpreter's own library, in tokens learned from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
import transformers as hf
from numpy.typing import NDArray

from mnemoscope.demo import train_tokenizer
from mnemoscope.library import gather_sources

VOCABULARY: Final = 50_304
SHAPES: Final = {"3M": (256, 4), "19M": (512, 6)}
"""Width and blocks by non-embedding parameters; the larger is Pythia-70M's."""


def save_network(shape: str, folder: Path) -> Path:
    """A folder with a GPT-NeoX of a shape, whose logits are spread out enough to have few near-ties."""
    width, num_layers = SHAPES[shape]
    torch.manual_seed(0)
    network = hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=num_layers,
            num_attention_heads=8,
            rotary_pct=0.25,
        )
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    network.save_pretrained(folder / shape)
    return folder / shape


def library_rows(num_rows: int, row_tokens: int) -> NDArray[np.int64]:
    """Rows of Python's own texts, int64 [num_rows, row_tokens], each from another place."""
    texts = [source.text for source in gather_sources()]
    tokenizer = train_tokenizer(texts, vocabulary_size=VOCABULARY)
    tokens = np.concatenate([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    starts = np.linspace(0, len(tokens) - row_tokens, num_rows, dtype=np.int64)
    return tokens[starts[:, None] + np.arange(row_tokens)].astype(np.int64)
