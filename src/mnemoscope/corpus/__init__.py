"""Tokens or text on disk -> rows of tokens -> windows.

sources (addresses) -> parts (bytes) -> flat, npy, megatron, tables (rows), or documents -> tokenizer ->
tokenized (rows in the cache) -> corpus -> selection, windows. `opening` decides which; `digest` says what
content it was.
"""

from mnemoscope.corpus.corpus import Corpus
from mnemoscope.corpus.opening import open_corpus
from mnemoscope.corpus.selection import RowRange, Selection, select_sequences
from mnemoscope.corpus.windows import Windows, check_vocabulary, read_windows

__all__ = [
    "Corpus",
    "RowRange",
    "Selection",
    "Windows",
    "check_vocabulary",
    "open_corpus",
    "read_windows",
    "select_sequences",
]
