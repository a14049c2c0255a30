"""What is prepared once and mapped from then on: tokenized text and unpacked files, a folder per content.

The folder's name is a hash of all that decides its bytes. It is written under a temporary name and renamed:
two processes may prepare the same one, and a killed one leaves nothing that could be taken for whole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mnemoscope.corpus.digest import digest_bytes, digest_facts
from mnemoscope.corpus.parts import Parts
from mnemoscope.corpus.progress import ProgressBar
from mnemoscope.corpus.sources import Source, reason
from mnemoscope.errors import CorpusError

_COPY_BYTES = 1 << 20


def cache_root() -> Path:
    """The folder of all caches: $MNEMOSCOPE_CACHE, or ~/.cache/mnemoscope."""
    named = os.environ.get("MNEMOSCOPE_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "mnemoscope"


def prepare(key: str, build: Callable[[Path], None]) -> Path:
    """The folder of `key`, built by `build(folder)` unless it is there already; whole or not at all."""
    final = cache_root() / "tokens" / key
    if final.is_dir():
        return final
    building = final.with_name(f".{key}-{uuid.uuid4().hex}")
    try:
        building.mkdir(parents=True)
        build(building)
        _rename(building, final)
    except OSError as error:
        raise CorpusError(
            f"{final.parent}: the prepared tokens cannot be written there ({reason(error)}); "
            "make room, or set MNEMOSCOPE_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def unpack(source: Source) -> Source:
    """The file decompressed in the cache, under its own address in messages; itself where it is plain."""
    if source.compression is None:
        return source
    key = digest_facts({"unpacked": digest_bytes(Parts([source])), "suffix": source.suffix})
    name = f"data{source.suffix}"
    path = prepare(key, lambda folder: _decompress_into(folder / name, source)) / name
    if path.stat().st_size == 0:
        raise CorpusError(f"{source.address}: decompresses to nothing; expected data")
    return replace(source, path=str(path), size=path.stat().st_size, filesystem=None, is_unpacked=True)


def _rename(building: Path, final: Path) -> None:
    try:
        building.rename(final)
    except OSError:
        if not final.is_dir():  # otherwise another process was first, with the same bytes
            raise


def _decompress_into(path: Path, source: Source) -> None:
    bar = ProgressBar(f"unpacking {source.address}", total=source.size)
    with source.stream() as (stream, below), path.open("wb") as out, bar:
        while chunk := stream.read(_COPY_BYTES):
            out.write(chunk)
            bar.show(below.tell())
