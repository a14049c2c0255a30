"""Compressed streams as plain ones, in constant memory; a cut or damaged stream is a CorpusError.

gzip may have several members and zstd several frames; both end where the last of them is complete.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, final

import zstandard

from mnemoscope.errors import CorpusError

Compression = Literal["gz", "zst"]

# A zstd block of 4 bytes may stand for 128 KiB: so many bytes at a time bound what a bad file can ask for.
_ZSTD_INPUT_BYTES = 4096
_GZIP_OUTPUT_BYTES = 1 << 18


def decompress(stream: BinaryIO, *, compression: Compression, name: str) -> BinaryIO:
    """The plain bytes of a compressed stream, as a stream; CorpusError where it is cut or damaged."""
    chunks = _gunzip(stream, name) if compression == "gz" else _unzstd(stream, name)
    return io.BufferedReader(_ChunkStream(chunks), buffer_size=1 << 16)


def _gunzip(stream: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            while chunk := plain.read(_GZIP_OUTPUT_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(name, "gzip", error) from error


def _unzstd(stream: BinaryIO, name: str) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    begun = False
    try:
        while chunk := stream.read(_ZSTD_INPUT_BYTES):
            while chunk:
                begun = True
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    except zstandard.ZstdError as error:
        raise _damaged(name, "zstd", error) from error
    if begun:
        raise _damaged(name, "zstd", EOFError("the file ends inside a frame"))


def _damaged(name: str, kind: str, error: Exception) -> CorpusError:
    why = " ".join(str(error).split())
    return CorpusError(f"{name}: truncated or damaged {kind} data ({why}); expected a complete {kind} file")


@final
class _ChunkStream(io.RawIOBase):
    """Chunks of any size as a raw stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
