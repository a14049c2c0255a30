"""Passages -> what the model says of them: parts that an engine works on, each committed, taken up after a kill.

Passages with the same tokens and the same reference context are read once. Parts are cut from those, sorted by length,
whatever engine works on them.

Axes: R passages, W tokens of the longest one, C contexts, S ways of sampling, n index in the reference continuation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mnemoscope.audit.fact_parts import (
    Part,
    PassageFacts,
    PassageReaderFactory,
    Wanted,
    Weights,
    read_part,
    unknown_facts,
    write_part,
)
from mnemoscope.audit.facts import AuditFacts, Passages, TokenFacts
from mnemoscope.audit.files.passages import context_labels
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.config import ModelConfig
from mnemoscope.derived import key_of
from mnemoscope.engines import Engine, Once
from mnemoscope.engines.local import LocalEngine
from mnemoscope.files import remove_abandoned
from mnemoscope.version import __version__

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

PART_PASSAGES: Final = 256
"""What a killed audit loses at most, for each worker."""
_FORMAT: Final = 1
"""Raised when the same model would give other facts, or lay them out otherwise."""


def pass_over(
    model_config: ModelConfig,
    settings: AuditSettings,
    passages: Passages,
    *,
    engine: Engine | None = None,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> AuditFacts:
    """What a model says of passages; the parts lie in `folder`, and those that are there and current are taken.

    `progress` hears of passages that are done. The facts are the same on every engine, and the model is not loaded
    where all parts are there. ModelError for a model that cannot be loaded or cannot take the passages, ScoringError
    for logits that are not finite, StoreError where the folder refuses.
    """
    engine, progress = engine or LocalEngine(), progress or (lambda num_passages: None)
    reference = choose_reference(passages, settings)
    wanted, inverse_R = _different(passages, reference[0])
    load = Once(partial(_load, model_config))
    make_reader = _make_reader(model_config, settings, wanted, reference[1], load=load, engine=engine)
    keys = {part: _key_of(part, make_reader, model_config) for part in _cut(len(wanted.length_R))}
    num_alike = np.bincount(inverse_R, minlength=len(wanted.length_R))
    found = _read_all(
        folder, keys, make_reader, engine, lambda part: progress(int(num_alike[part.start : part.stop].sum()))
    )
    tokens, path_Rn, trigger_R = _lay_out(found, wanted, len(settings.samplings), reference[1])
    return AuditFacts(
        passages=passages,
        tokens=TokenFacts._make(values[inverse_R] for values in tokens),
        path_Rn=path_Rn[inverse_R],
        trigger_R=trigger_R[inverse_R],
        context_labels=context_labels(passages, settings),
        continuations=settings.continuations,
        samplings=settings.samplings,
        reference=reference,
    )


def choose_reference(passages: Passages, settings: AuditSettings) -> tuple[int, int]:
    """Index of the reference context, and the reference continuation n.

    The longest continuation of the grid, then the longest context, that at least half of the members are long enough
    for; the smallest cell where there is none.
    """
    own = passages.take(passages.is_member_R)
    for continuation in reversed(settings.continuations):
        for context in reversed(range(own.context_RC.shape[1])):
            fits_R = own.context_RC[:, context] + continuation <= own.length_R
            if len(fits_R) and 2 * int(fits_R.sum()) >= len(fits_R):
                return context, continuation
    return 0, settings.continuations[0]


def _load(config: ModelConfig) -> CausalLM:
    from mnemoscope.model import load_model

    return load_model(config)


def _different(passages: Passages, context: int) -> tuple[Wanted, NDArray[np.int64]]:
    """The different passages, the longest last, and which of them each passage is, int64 [R]."""
    facts = [passages.tokens_RW, passages.length_R[:, None], passages.context_RC[:, context, None]]
    rows_RX = np.ascontiguousarray(np.concatenate(facts, axis=1), np.int32)
    _, first, inverse_R = np.unique(rows_RX, axis=0, return_index=True, return_inverse=True)
    # By length, then as they come: what a file holds behind them moves none of its own length.
    order = np.lexsort((first, passages.length_R[first]))
    chosen = first[order]
    places = [_place(passages, row) for row in chosen.tolist()]
    wanted = Wanted(passages.tokens_RW[chosen], passages.length_R[chosen], passages.context_RC[chosen, context], places)
    return wanted, np.argsort(order)[inverse_R.reshape(-1)]


def _place(passages: Passages, row: int) -> str:
    file = "training" if passages.is_member_R[row] else "held-out"
    return f"{file} file, line or row {passages.line_R[row]}, passage from token {passages.start_R[row]} on"


def _cut(num_passages: int) -> list[Part]:
    starts = range(0, num_passages, PART_PASSAGES)
    return [Part(i, start, min(start + PART_PASSAGES, num_passages)) for i, start in enumerate(starts)]


def _make_reader(
    config: ModelConfig,
    settings: AuditSettings,
    wanted: Wanted,
    continuation: int,
    *,
    load: Once[CausalLM],
    engine: Engine,
) -> PassageReaderFactory:
    from mnemoscope.model import find_files, hash_files, pick_device

    folder = find_files(config)
    if folder is None:
        identity = load().identity  # fetched now, or refused with the reason
        weights = Weights(identity.weights_sha256, identity.config_sha256)
    else:
        weights = Weights(*hash_files(folder, with_code=config.remote_code))
    device = pick_device(config).type
    return PassageReaderFactory(
        model=load,
        label=config.label,
        weights=weights,
        device=device,
        wanted=wanted,
        continuation=continuation,
        samplings=settings.samplings,
        batch_size=settings.batch_size,
        num_workers=engine.workers_per_device(device),
    )


def _key_of(part: Part, make_reader: PassageReaderFactory, config: ModelConfig) -> str:
    """A hash of all that decides a part's facts."""
    own = make_reader.wanted.rows(part)
    content = hashlib.sha256()
    for values in (own.tokens_RW, own.length_R, own.context_R):
        content.update(f"{values.shape}\n".encode() + np.ascontiguousarray(values, "<i4").tobytes())
    return key_of(
        {"format": _FORMAT, "mnemoscope": __version__, **{name: version(name) for name in ("torch", "transformers")}},
        make_reader.weights._asdict(),
        [config.dtype, config.attention, make_reader.device],
        [asdict(sampling) for sampling in make_reader.samplings],
        make_reader.continuation,
        content.hexdigest(),
    )


def _read_all(
    folder: Path,
    keys: Mapping[Part, str],
    make_reader: PassageReaderFactory,
    engine: Engine,
    tell: Callable[[Part], None],
) -> dict[Part, PassageFacts]:
    """The facts of all parts: those on disk, and the others, which are put there as they come."""
    if folder.is_dir():
        remove_abandoned(folder)
    found: dict[Part, PassageFacts] = {}
    for part, key in keys.items():
        facts = read_part(folder, part, key)
        if facts is not None:
            found[part] = facts
            tell(part)
    outstanding = [part for part in keys if part not in found]
    for read in engine.run(outstanding, make_reader, lambda part, number: None):
        write_part(folder, read, keys[read.part])
        found[read.part] = read.facts
        tell(read.part)
    _remove_others(folder, keys)
    return found


def _remove_others(folder: Path, keys: Mapping[Part, str]) -> None:
    """Remove what parts of an audit with more passages have left."""
    names = {part.file_name for part in keys}
    for path in folder.glob("part-*.parquet"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def _lay_out(found: Mapping[Part, PassageFacts], wanted: Wanted, num_samplings: int, continuation: int) -> PassageFacts:
    """The parts end to end, at the width of the longest passage."""
    num_rows, width = wanted.tokens_RW.shape
    whole = PassageFacts(
        unknown_facts(num_rows, width, num_samplings),
        np.full((num_rows, continuation), -1, np.int32),
        np.full(num_rows, -1, np.int32),
    )
    for part, facts in found.items():
        rows = slice(part.start, part.stop)
        for known, values in zip(whole.tokens, facts.tokens, strict=True):
            known[rows, ..., : values.shape[-1]] = values
        whole.path_Rn[rows], whole.trigger_R[rows] = facts.path_Rn, facts.trigger_R
    return whole
