"""A small model, fine-tuned within seconds on a file with planted repeats and canaries; and text that it never saw."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mnemoscope.audit.files.canary_words import WORDS
from mnemoscope.audit.files.planting import plant
from mnemoscope.demo import train_tokenizer

REPEATS = {1: 120, 4: 8, 32: 8, 64: 4}
"""Documents by the number of their lines."""
NUM_HELDOUT = 120
CANARY_DOSES = (1, 32)
PER_DOSE = 4
_WORDS_PER_DOCUMENT = 44
_ROW_TOKENS = 64
_NUM_PASSES = 3


class FineTuned(NamedTuple):
    """Where it lies."""

    model: Path
    train: Path
    heldout: Path
    canaries: Path
    repeats: dict[str, int]
    """Of each document's text, the lines that it stands in."""


def fine_tune(folder: Path) -> FineTuned:
    """The model after a few passes over the planted file, its lines shuffled."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=_WORDS_PER_DOCUMENT)) for _ in range(sum(REPEATS.values()) + NUM_HELDOUT)]
    copies = [repeats for repeats, number in REPEATS.items() for _ in range(number)]
    repeats = dict(zip(texts, copies, strict=False))
    lines = [text for text, number in repeats.items() for _ in range(number)]
    draw.shuffle(lines)
    _write(folder / "plain.jsonl", lines)
    _write(folder / "heldout.jsonl", texts[len(copies) :])
    planted = plant(
        folder / "plain.jsonl",
        folder / "train.jsonl",
        seed=9,
        doses=CANARY_DOSES,
        per_dose=PER_DOSE,
        num_twins=PER_DOSE,
        num_words=_WORDS_PER_DOCUMENT,
    )
    _train(folder / "model", [json.loads(line)["text"] for line in planted.planted.open()])
    return FineTuned(folder / "model", planted.planted, folder / "heldout.jsonl", planted.key, repeats)


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def _train(folder: Path, texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, vocabulary_size=640)
    rows = [tokenizer.encode(text).ids[:_ROW_TOKENS] for text in texts]
    rows_RT = torch.tensor([row + [0] * (_ROW_TOKENS - len(row)) for row in rows])
    torch.manual_seed(0)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=384,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for seed in range(_NUM_PASSES):
        for batch in np.array_split(np.random.default_rng(seed).permutation(len(rows_RT)), len(rows_RT) // 16):
            tokens = rows_RT[batch]
            optimizer.zero_grad()
            network(input_ids=tokens, labels=tokens.masked_fill(tokens == 0, -100)).loss.backward()
            optimizer.step()
    network.eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
