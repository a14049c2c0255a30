"""Match bits of the kernel against plain generate(), over many rows of real text: how many differ, and at near-ties?

Rows that differ with a smallest margin below `NEAR_TIE_LOGITS` are near-ties: two tokens whose logits are equal but for
the rounding of float32 sums, which another batch adds in another order. Any other difference is an error of ours, and
the exit status is 1. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from mnemoscope.config import CorpusConfig, Grid, ModelConfig
from mnemoscope.corpus import open_corpus, read_windows, select_sequences
from mnemoscope.model import CausalLM, load_model
from mnemoscope.scoring import score_sequences

GRID: Final = Grid(contexts=(32, 48, 64, 96), continuations=(16, 32, 48, 64))
NEAR_TIE_LOGITS: Final = 1e-3


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", required=True, help="file of rows or documents that the model reads")
    parser.add_argument("--tokenizer", help="for a corpus of text")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=32, help="of the kernel; generate() takes 512 rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    model = load_model(ModelConfig(source=arguments.model))
    tokens = read_rows(arguments)
    counts = np.zeros(5, np.int64)
    for first in range(0, len(tokens), 512):
        counts += compare(model, tokens[first : first + 512], arguments.batch_size)
        print(f"\r{first} of {len(tokens)}: {counts.tolist()}", end="", file=sys.stderr, flush=True)
    names = ("rows", "paths_different_at_a_near_tie", "paths_different_otherwise", "paths_fully_matched", "near_ties")
    print(json.dumps({"paths": len(GRID.contexts) * int(counts[0])} | dict(zip(names, counts.tolist(), strict=True))))
    sys.exit(int(counts[2] > 0))


def read_rows(arguments: argparse.Namespace) -> NDArray[np.int64]:
    """Rows of the corpus, int64 [R, W]; text is packed."""
    reading = CorpusConfig(path=arguments.corpus, short_rows="skip")
    if arguments.corpus.endswith((".jsonl", ".txt")):
        reading = CorpusConfig(
            path=arguments.corpus, tokenizer=arguments.tokenizer, layout="packed", row_tokens=GRID.window_tokens
        )
    corpus = open_corpus(reading, default_tokenizer=arguments.model)
    ids = select_sequences(reading, corpus).sequence_ids[: arguments.rows]
    return read_windows(corpus, ids, window_tokens=GRID.window_tokens, offset=0, seed=0, short_rows="skip").tokens


def compare(model: CausalLM, tokens_RW: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """Rows; paths that differ at a near-tie and otherwise; paths of full matches; paths with a near-tie."""
    facts = score_sequences(model, tokens_RW, GRID, mode="graded", batch_size=batch_size)
    generated_RCn = np.stack([generate(model, tokens_RW[:, :k]) for k in GRID.contexts], axis=1)
    truth_RCn = np.stack([tokens_RW[:, k : k + GRID.max_continuation] for k in GRID.contexts], axis=1)
    matched_RCn = generated_RCn == truth_RCn
    differs_RC = (matched_RCn != facts.matched_RCn).any(axis=2)
    near_RC = facts.smallest_margin_RCN[:, :, -1] < NEAR_TIE_LOGITS
    sums = [(differs_RC & near_RC).sum(), (differs_RC & ~near_RC).sum(), matched_RCn.all(axis=2).sum(), near_RC.sum()]
    return np.array([len(tokens_RW), *sums], np.int64)


@torch.inference_mode()
def generate(model: CausalLM, prompts_RT: NDArray[np.int64]) -> NDArray[np.int64]:
    """Plain greedy decoding by transformers; nothing stops it early."""
    prompts = torch.from_numpy(np.ascontiguousarray(prompts_RT))
    said = model.network.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=GRID.max_continuation,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return said[:, prompts.shape[1] :].numpy()


if __name__ == "__main__":
    main()
