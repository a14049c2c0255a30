"""A training file -> a copy with canaries at random places, and the file that tells of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from mnemoscope.audit.files.canaries import (
    DOSES,
    NUM_TWINS,
    NUM_WORDS,
    PER_DOSE,
    Canaries,
    Canary,
    draw_canaries,
    record_line,
    write_canaries,
)
from mnemoscope.audit.files.record_forms import RecordForm, find_form
from mnemoscope.corpus.documents import JSON_LINES_SUFFIXES, place_document, read_records
from mnemoscope.corpus.draws import draw_below
from mnemoscope.corpus.sources import Source, find_sources
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.files import replacing

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PLACES: Final = 2**62
"""Of the counters that places are drawn at, so that they share none with the canaries' words."""


class Planted(NamedTuple):
    """What was written."""

    canaries: Canaries
    planted: Path
    key: Path


def plant(
    train: str | Path,
    out: str | Path,
    *,
    key: str | Path | None = None,
    seed: int,
    field: str | None = None,
    doses: Sequence[int] = DOSES,
    per_dose: int = PER_DOSE,
    num_twins: int = NUM_TWINS,
    num_words: int = NUM_WORDS,
) -> Planted:
    """A copy of a training file in JSON lines, at `out`, with each canary planted as often as its dose.

    `key` is where the canaries are told (default: canaries.json beside `out`). Lines stay as they are and in their
    order. CorpusError for a file that is none or of several forms; ConfigError where one of the files is there already.
    """
    source, out = _find_source(train), Path(out)
    key = out.with_name("canaries.json") if key is None else Path(key)
    _check_places(source, out, key)
    drawn = draw_canaries(seed=seed, doses=doses, per_dose=per_dose, num_twins=num_twins, num_words=num_words)
    form, num_lines = _survey(source, field)
    copies = [canary for canary in drawn for _ in range(canary.repeats)]
    planted_hash = _write_planted(source, out, form=form, num_lines=num_lines, copies=copies, seed=seed)
    canaries = Canaries(
        seed=seed,
        form=form,
        train=Path(source.address).name,
        train_sha256=_hash(source),
        planted=out.name,
        planted_sha256=planted_hash,
        num_lines=num_lines + len(copies),
        canaries=drawn,
    )
    write_canaries(canaries, key)
    return Planted(canaries, out, key)


def _find_source(train: str | Path) -> Source:
    sources = find_sources([str(train)])
    if len(sources) > 1:
        raise CorpusError(f"{train}: {len(sources)} files; expected one, which canaries are planted into")
    if sources[0].suffix not in JSON_LINES_SUFFIXES:
        raise CorpusError(f"{sources[0].address}: no file of JSON lines; expected {', '.join(JSON_LINES_SUFFIXES)}")
    return sources[0]


def _check_places(source: Source, out: Path, key: Path) -> None:
    if out.suffix not in JSON_LINES_SUFFIXES:
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(JSON_LINES_SUFFIXES)}, for JSON lines")
    if out.absolute() == key.absolute():
        raise ConfigError(f"{key}: is the planted file, too; expected a file of its own")
    for path in (out, key):
        if path.exists():
            # A model may have been trained on what is there; nobody finds its canaries again without their key.
            raise ConfigError(f"{path}: is there already; expected another name, or remove it")
    if source.is_local and Path(source.address).absolute() == out.absolute():
        raise ConfigError(f"{out}: is the training file; expected another name")


def _hash(source: Source) -> str:
    digest = hashlib.sha256()
    with source.open() as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _lines(source: Source) -> Iterator[bytes]:
    """The bytes of each line that is not blank, without its end."""
    with source.stream() as (stream, _):
        for number, line in enumerate(stream, start=1):
            text = (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r\n")
            if text.strip():
                yield text


def _survey(source: Source, field: str | None) -> tuple[RecordForm, int]:
    """The form that all lines have, and how many they are."""
    form: RecordForm | None = None
    count = 0
    for number, record, _ in read_records(source):
        place = place_document(source, number)
        if form is None:
            form = find_form(record, field=field, place=place)
        form.check_record(record, place)
        count += 1
    if form is None:
        raise CorpusError(f"{source.address}: holds no line of JSON; expected one object per line")
    return form, count


def _write_planted(
    source: Source, out: Path, *, form: RecordForm, num_lines: int, copies: Sequence[Canary], seed: int
) -> str:
    """The sha256 of the file that was written."""
    counters = _PLACES + np.arange(len(copies), dtype=np.int64)
    before = draw_below(num_lines + 1, counters=counters, seed=seed)  # this many lines stand before a copy
    order = np.argsort(before, kind="stable").tolist()
    written = hashlib.sha256()
    with replacing(out) as file:

        def put(line: bytes) -> None:
            file.write(line)
            written.update(line)

        following = 0
        for count, line in enumerate(_lines(source)):
            while following < len(order) and before[order[following]] <= count:
                put(record_line(form, copies[order[following]]))
                following += 1
            put(line + b"\n")
        for place in order[following:]:
            put(record_line(form, copies[place]))
    return written.hexdigest()
