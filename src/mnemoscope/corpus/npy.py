"""A .npy token array -> rows; its header is read as data and never unpickled."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from mnemoscope.corpus.flat import FlatRows
from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.sources import Source, reason
from mnemoscope.errors import CorpusError

# numpy's own headers have 128 bytes; a longer one than this lies about itself.
_HEADER_BYTES = 1 << 16


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    first_byte: int


def open_npy(source: Source, *, row_tokens: int) -> FlatRows:
    """Rows of an array [rows, length], or of a flat one cut into rows of `row_tokens`."""
    parts = Parts([source])
    header = _read_header(parts)
    num_bytes = math.prod(header.shape) * header.dtype.itemsize
    if parts.size - header.first_byte != num_bytes:
        raise CorpusError(
            f"{source.address}: {parts.size - header.first_byte} bytes of data found; expected {num_bytes} "
            f"for {header.dtype} of shape {list(header.shape)}: the file is truncated or its header lies"
        )
    length = header.shape[1] if len(header.shape) == 2 else row_tokens
    if len(header.shape) == 1 and header.shape[0] % length:
        raise CorpusError(
            f"{source.address}: a flat array of {header.shape[0]} tokens given; "
            f"expected a multiple of row_tokens, {row_tokens}"
        )
    if length == 0 or num_bytes == 0:
        raise CorpusError(f"{source.address}: shape {list(header.shape)} holds no tokens; expected at least one row")
    return FlatRows(parts, dtype=header.dtype, row_tokens=length, first_byte=header.first_byte)


def _read_header(parts: Parts) -> _Header:
    opening = io.BytesIO(parts.read(0, min(parts.size, _HEADER_BYTES)).tobytes())
    try:
        version = npy_format.read_magic(opening)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, is_fortran, dtype = read(opening)
    except (ValueError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise CorpusError(f"{parts.name}: not a readable .npy header ({reason(error)})") from error
    if dtype.kind not in "iu":
        raise CorpusError(f"{parts.name}: an array of {dtype} given; expected integers")
    if len(shape) not in (1, 2) or min(shape) < 0 or (is_fortran and len(shape) == 2):
        order = " in Fortran order" if is_fortran else ""
        raise CorpusError(
            f"{parts.name}: an array of shape {list(shape)}{order} given; "
            "expected [rows, length] or [tokens], in C order"
        )
    return _Header(shape=shape, dtype=dtype, first_byte=opening.tell())
