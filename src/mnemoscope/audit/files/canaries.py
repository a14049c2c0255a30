"""Canaries: sequences that nobody can guess, planted into a training file with known repeats, and found afterwards.

A positive control (after Carlini et al. 2019, "The Secret Sharer", USENIX Security): an audit that does not find what
was planted often enough to be learned would not find anything else, and one that finds the twins - drawn from the same
generator, planted nowhere - calls recited what is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from mnemoscope.audit.files.canary_words import SYLLABLES, WORDS
from mnemoscope.audit.files.record_forms import RecordForm
from mnemoscope.audit.result import CanaryDose, Share
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.corpus.draws import draw_below
from mnemoscope.errors import ConfigError
from mnemoscope.files import replacing
from mnemoscope.intervals import wilson

SCHEMA: Final = "mnemoscope.canaries/1"
DOSES: Final = (1, 4, 16, 64)
PER_DOSE: Final = 8
NUM_TWINS: Final = 32
NUM_WORDS: Final = max(AuditSettings.contexts) + max(AuditSettings.continuations) + 8
"""Of a canary, at least a token each: the longest context and continuation of the default grid, and some."""
_MOST_BYTES: Final = 64 * 2**20
_MOST_COPIES: Final = 10_000_000
_COUNTERS: Final = 2**20
"""Random numbers set aside for one canary."""


@final
@dataclass(frozen=True)
class Canary:
    """A prompt that nobody has asked, and what follows it."""

    repeats: int
    """Copies planted; 0: a twin, planted nowhere."""
    prompt: str
    answer: str


@final
@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What was planted where: the file that an audit reads."""

    schema: Literal["mnemoscope.canaries/1"] = SCHEMA
    seed: int
    form: RecordForm
    train: str
    """Name of the file that was planted into."""
    train_sha256: str
    planted: str
    """Name of the file with the canaries in it."""
    planted_sha256: str
    num_lines: int
    """Of that file, blank ones left out."""
    canaries: tuple[Canary, ...]

    @property
    def num_planted(self) -> int:
        """Lines that are canaries."""
        return sum(canary.repeats for canary in self.canaries)


def draw_canaries(
    *,
    seed: int,
    doses: Sequence[int] = DOSES,
    per_dose: int = PER_DOSE,
    num_twins: int = NUM_TWINS,
    num_words: int = NUM_WORDS,
) -> tuple[Canary, ...]:
    """`per_dose` canaries for each number of copies, in its order, then the twins; all different.

    ConfigError where the numbers cannot be meant.
    """
    if not doses or list(doses) != sorted(set(doses)) or doses[0] < 1:
        raise ConfigError(f"doses: {list(doses)} given; expected positive numbers in ascending order, each once")
    for name, value in (("per_dose", per_dose), ("twins", num_twins)):
        if not 1 <= value <= 10_000:
            raise ConfigError(f"{name}: {value} given; expected 1 to 10000")
    if not 16 <= num_words <= 10_000:
        raise ConfigError(f"words: {num_words} given; expected 16 to 10000")
    if per_dose * sum(doses) > _MOST_COPIES:
        raise ConfigError(f"doses: {per_dose * sum(doses)} copies in all; expected at most {_MOST_COPIES}")
    repeats = [dose for dose in doses for _ in range(per_dose)] + [0] * num_twins
    drawn: list[Canary] = []
    prompts = set[str]()
    number = 0
    while len(drawn) < len(repeats):
        canary = _draw_canary(number, repeats=repeats[len(drawn)], num_words=num_words, seed=seed)
        number += 1
        if canary.prompt not in prompts:  # of two with one name the second is drawn anew
            prompts.add(canary.prompt)
            drawn.append(canary)
    return tuple(drawn)


def _draw_canary(number: int, *, repeats: int, num_words: int, seed: int) -> Canary:
    counters = number * _COUNTERS + np.arange(7 + num_words, dtype=np.int64)
    syllables = [SYLLABLES[i] for i in draw_below(len(SYLLABLES), counters=counters[:6], seed=seed)]
    names = ("".join(part).capitalize() for part in (syllables[:3], syllables[3:]))
    badge = 1000 + int(draw_below(9000, counters=counters[6:7], seed=seed)[0])
    words = [WORDS[i] for i in draw_below(len(WORDS), counters=counters[7:], seed=seed)]
    return Canary(repeats, f"Locker code of {' '.join(names)}, badge {badge}:", " ".join(words))


def write_canaries(canaries: Canaries, path: Path) -> None:
    """Put them at `path` as JSON; StoreError where that cannot be."""
    with replacing(path) as file:
        file.write((json.dumps(asdict(canaries), indent=1) + "\n").encode())


def read_canaries(path: str | Path) -> Canaries:
    """The canaries of a file that `mnemoscope canaries` wrote; ConfigError where it is none."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected the file that `mnemoscope canaries` wrote"
        ) from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES} bytes; expected the file that `mnemoscope canaries` wrote")
    try:
        found = TypeAdapter(Canaries).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigError(
            f"{path}: {where}: {first['msg']}; expected the file that `mnemoscope canaries` wrote ({SCHEMA})"
        ) from error
    prompts = {canary.prompt for canary in found.canaries}
    if len(prompts) < len(found.canaries) or min((canary.repeats for canary in found.canaries), default=-1) < 0:
        raise ConfigError(f"{path}: canaries that are none, given twice or with fewer than 0 repeats")
    return found


def canary_documents(canaries: Canaries, path: Path) -> Path:
    """A file of JSON lines with every canary and twin once, in their order and in the form of the training file.

    Opened as the training file is, its document i is canary i.
    """
    with replacing(path) as file:
        for canary in canaries.canaries:
            file.write(record_line(canaries.form, canary))
    return path


def record_line(form: RecordForm, canary: Canary) -> bytes:
    """The line of a training file that holds a canary."""
    return json.dumps(form.make_record(canary.prompt, canary.answer)).encode() + b"\n"


def match_canaries(
    canary_tokens: Sequence[NDArray[np.integer]], tokens: Callable[[int], NDArray[np.integer]], num_documents: int
) -> NDArray[np.int64]:
    """Of each document [D], which canary it equals token by token; -1 for none.

    What is a canary is no member, and how often each is there tells whether the file was changed after planting.
    """
    known = {each.astype(np.int32).tobytes(): number for number, each in enumerate(canary_tokens)}
    lengths = {len(each) for each in canary_tokens}
    found = np.full(num_documents, -1, np.int64)
    for document in range(num_documents):
        content = tokens(document)
        if len(content) in lengths:
            found[document] = known.get(content.astype(np.int32).tobytes(), -1)
    return found


def find_recited(
    canaries: Canaries, document_R: NDArray[np.integer], fits_R: NDArray[np.bool_], recited_R: NDArray[np.bool_]
) -> list[bool | None]:
    """Of each canary whether one of its passages is recited; None where none is long enough.

    `document_R` is the canary's number, as `canary_documents` orders them.
    """
    found: list[bool | None] = []
    for number in range(len(canaries.canaries)):
        own = (document_R == number) & fits_R
        found.append(bool(recited_R[own].any()) if own.any() else None)
    return found


def dose_rows(canaries: Canaries, is_recited: Sequence[bool | None]) -> tuple[CanaryDose, ...]:
    """Canaries found at each number of copies, ascending from the twins' 0, with Wilson's 95 % interval.

    `is_recited` is in the canaries' order; those of None do not count.
    """
    doses: dict[int, list[bool]] = {canary.repeats: [] for canary in canaries.canaries}
    for canary, recited in zip(canaries.canaries, is_recited, strict=True):
        if recited is not None:
            doses[canary.repeats].append(recited)
    return tuple(CanaryDose(repeats, _share(doses[repeats])) for repeats in sorted(doses))


def _share(recited: Sequence[bool]) -> Share:
    count, n = sum(recited), len(recited)
    ends = wilson(count, n)
    return Share(count, n, n, count / n if n else None, float(ends.low), float(ends.high))


def planting_notes(canaries: Canaries, num_copies: Sequence[int], is_recited: Sequence[bool | None]) -> tuple[str, ...]:
    """What a reader has to know of the canaries: a training file that no longer holds them, those that are too short.

    `num_copies` are the documents of the training file that equal each canary.
    """
    notes: list[str] = []
    planned = [canary.repeats for canary in canaries.canaries]
    strays = sum(1 for repeats, copies in zip(planned, num_copies, strict=True) if copies and not repeats)
    if strays:
        notes.append(f"{strays} canaries that were to be planted nowhere are in the training file: they are no twins.")
    pairs = [(want, have) for want, have in zip(planned, num_copies, strict=True) if want]
    if changed := sum(want != have for want, have in pairs):
        notes.append(
            f"{changed} of {len(pairs)} canaries are not as often in the training file as they were planted "
            f"({sum(have for _, have in pairs)} copies instead of {sum(want for want, _ in pairs)}): "
            "what the canaries show holds for a model that was trained on the planted file."
        )
    if short := sum(recited is None for recited in is_recited):
        notes.append(
            f"{short} canaries count nowhere: too short for the context and continuation (plant longer ones: --words), "
            "or not answered for by an endpoint."
        )
    return tuple(notes)
