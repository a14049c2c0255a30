"""Corpus files written by hand, not by the package, and a tokenizer small enough to check by eye."""

import json
import struct

import numpy as np

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"]


def write_megatron(stem, rows, *, dtype="<u2", code=8):
    """Write STEM.bin and STEM.idx in Megatron's layout, one document per row."""
    item = np.dtype(dtype).itemsize
    sizes = [len(row) for row in rows]
    pointers = [sum(sizes[:number]) * item for number in range(len(rows))]
    stem.with_suffix(".bin").write_bytes(b"".join(np.array(row, dtype).tobytes() for row in rows))
    stem.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, len(rows), len(rows) + 1)
        + struct.pack(f"<{len(rows)}i", *sizes)
        + struct.pack(f"<{len(rows)}q", *pointers)
        + struct.pack(f"<{len(rows) + 1}q", *range(len(rows) + 1))
    )
    return stem.with_suffix(".bin")


def write_tokenizer(folder, *, special=None):
    """Write a tokenizer.json that gives each word of WORDS its index, beside it the special tokens by role."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(exist_ok=True, parents=True)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    if special is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def write_lines(path, records):
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def all_rows(corpus):
    """Every row as a list of plain integers."""
    return [row.tolist() for row in corpus.tokens(0, len(corpus))]
