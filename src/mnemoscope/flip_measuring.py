"""A run in half precision -> the same facts of a sample in float32, beside its own (see `flips` for what is stored).

The run's model has been let go by then: float32 takes twice its room. Where its device has not that much, float32 is
computed on the CPU, which is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.flip_counts import REFERENCE, FlipCount, count_flips
from mnemoscope.config import FRAGILE_MARGIN, Device, Mode, ModelConfig
from mnemoscope.corpus import Windows
from mnemoscope.engines import Once
from mnemoscope.errors import ModelError, StoreError
from mnemoscope.facts import GradedRows
from mnemoscope.flips import SEED, flips_key, flips_of
from mnemoscope.rescoring import in_float32, load_reference
from mnemoscope.scorer import facts_of, let_go
from mnemoscope.sequences import find_many_rows
from mnemoscope.shards import SequenceRows, hash_windows, is_graded, scores_schema, scores_table
from mnemoscope.store import GROUPS, Group, Run, Study, encode_table
from mnemoscope.texts import GroupText

if TYPE_CHECKING:
    from mnemoscope.model import CausalLM

_KEYS: Final = ("group", "sequence_id", "context", "window_hash")
_FACTS: Final = ("first_mismatch", "matched", "smallest_margin", "log_probability")
_log = logging.getLogger(__name__)

Tell = Callable[[int, int], None]
"""Told how many of how many sequences are scored."""


def measure_flips(
    study: Study,
    run: Run,
    config: ModelConfig,
    texts: Mapping[str, GroupText],
    *,
    load: Callable[[ModelConfig], CausalLM],
    progress: Tell = lambda num_done, num_sequences: None,
) -> None:
    """Score a sample of each group in float32 and put both computations down.

    A word instead, and no sample, where float32 has no room on the run's device nor on the CPU.
    """
    model = Once(partial(_load_reference, run, config, load))
    try:
        device = model().device.type
    except ModelError as error:
        _log.warning("%s: no flip rate: %s", run.label, error)
        return
    windows: dict[Group, Windows] = {
        group: _draw(texts[group], group, study.config.flip_sample) for group in GROUPS if group in texts
    }
    num_sequences, num_done = sum(len(each.sequence_ids) for each in windows.values()), 0

    def tell(number: int) -> None:
        nonlocal num_done
        num_done += number
        progress(num_done, num_sequences)

    def fill(paths: Mapping[str, Path]) -> None:
        parts = [_compare(study, run, model(), own, group=group, tell=tell) for group, own in windows.items()]
        threshold = run.identity.audit_margin or FRAGILE_MARGIN[run.identity.weights.dtype]
        table = pa.concat_tables(parts)
        counts = count_flips(table, run.identity.grid, threshold=threshold)
        counted = pa.table({name: [getattr(count, name) for count in counts] for name in FlipCount._fields})
        metadata = {
            "fingerprint": run.fingerprint,
            "model": run.label,
            "float32_device": device,
            "near_margin_logits": str(threshold),
        }
        for suffix, each in ((".parquet", table), (".counts.parquet", counted)):
            paths[suffix].write_bytes(encode_table(each.replace_schema_metadata(metadata)))

    try:
        flips_of(study.folder, run.label).write(flips_key(study, run), [".parquet", ".counts.parquet"], fill)
    finally:
        let_go(model)  # before the next model asks what memory is free


def _load_reference(run: Run, config: ModelConfig, load: Callable[[ModelConfig], CausalLM]) -> CausalLM:
    """The model in float32 on the run's device, or on the CPU where that has no room, or is not here."""
    import torch

    from mnemoscope.memory import choose_batch_size
    from mnemoscope.model import pick_device

    own = run.identity.weights
    wanted = replace(in_float32(config), device=cast("Device", own.device))
    try:
        model = load_reference(lambda: load(wanted), own, pick_device(wanted), label=run.label)
    except ModelError as error:
        if own.device == "cpu":
            raise
        _log.warning("%s: its flip rate is computed on the CPU: %s", run.label, error)
        wanted = replace(wanted, device="cpu")
        model = load_reference(lambda: load(wanted), own, torch.device("cpu"), label=run.label)
    mode: Mode = "exact" if run.identity.mode == "exact" else "graded"
    model.batch_limit = choose_batch_size(model, run.identity.grid, mode)
    return model


def _draw(text: GroupText, group: Group, num_sampled: int) -> Windows:
    """The windows of a random sample without replacement, by ascending id; of all where there are no more."""
    ids, generator = text.selection.sequence_ids, np.random.default_rng([SEED, GROUPS.index(group)])
    places = generator.choice(len(ids), min(num_sampled, len(ids)), replace=False, shuffle=False)
    picked = [ids[place : place + 1] for place in np.sort(places).tolist()]
    return text.read(np.concatenate(picked), short_rows="skip")


def _compare(
    study: Study, run: Run, model: CausalLM, windows: Windows, *, group: Group, tell: Callable[[int], None]
) -> pa.Table:
    """A row for each sequence and context: the stored facts, and those of float32."""
    own = _stored(study, run, group, windows)
    is_graded_R = is_graded(own)[:: len(run.identity.contexts)] if run.identity.mode == "two-phase" else None
    # Where sequences are graded by chance, float32 decodes the same ones.
    choose = None if is_graded_R is None else partial(_choose, is_graded_R)
    graded = None if is_graded_R is None else GradedRows(np.ones(len(is_graded_R)), is_graded_R)
    mode: Mode = "exact" if run.identity.mode == "exact" else "graded"
    facts = facts_of(run, model, windows, mode=mode, choose=choose, progress=tell)
    rows = SequenceRows(windows.sequence_ids, windows.offsets, None, hash_windows(windows.tokens))
    reference = scores_table(group, rows, facts, schema=_schema(run), grid=run.identity.grid, graded=graded)
    if not own.column("sequence_id").equals(reference.column("sequence_id")):
        raise StoreError(f"{study.place}: {run.label} lacks scores of sampled sequences; run the study again")
    columns = {name: own.column(name) for name in (*_KEYS, *_FACTS)}
    return pa.table(columns | {f"{REFERENCE}{name}": reference.column(name) for name in _FACTS})


def _choose(is_graded_R: NDArray[np.bool_], rows: slice, _first_RC: NDArray[np.int32]) -> NDArray[np.bool_]:
    return is_graded_R[rows]


def _stored(study: Study, run: Run, group: Group, windows: Windows) -> pa.Table:
    """The sampled sequences' rows of the run, by sequence and context."""
    parts = list(find_many_rows(study, run, group, windows.sequence_ids))
    table = pa.concat_tables(parts) if parts else _schema(run).empty_table()
    return table.sort_by([("sequence_id", "ascending"), ("context", "ascending")])


def _schema(run: Run) -> pa.Schema:
    return scores_schema(run.identity.grid, mode=run.identity.mode, label=run.label, fingerprint=run.fingerprint)
