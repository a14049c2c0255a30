"""One sequence of a study: everything that is stored of it, and its text where the corpus is at hand.

What is not known is None, and a note says why: the corpus has moved, the sequence was not traced, scores were imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnemoscope.errors import ConfigError, CorpusError, StoreError
from mnemoscope.sequence_view import SequenceScore, SequenceView, Trace
from mnemoscope.shards import ShardRange, hash_windows, matched_bits, num_matched
from mnemoscope.store import Group, Run, Study, read_shard, shard_path, step_rank
from mnemoscope.texts import open_texts
from mnemoscope.traces import has_traces, read_traces

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class _Place(NamedTuple):
    """What is looked up."""

    study: Study
    run: Run
    group: Group
    sequence_id: int
    context: int


def read_sequence(
    study: Study,
    sequence_id: int,
    *,
    group: Group = "member",
    label: str | None = None,
    context: int | None = None,
) -> SequenceView:
    """Everything that is stored of a sequence, seen by a model (default: the largest, at its last step) at a context
    (default: the first that was traced, else the shortest).

    StoreError for a model or sequence that has no scores, ConfigError for a group or context that the study lacks.
    """
    if group not in study.config.groups:
        raise ConfigError(f"group: {group!r} given; {study.folder} has no control, expected 'member'")
    run = _largest_run(study) if label is None else study.run(label)
    contexts = study.config.contexts
    if context is None:
        context = next((k for k in contexts if has_traces(study.folder, run.label, k)), contexts[0])
    if context not in contexts:
        raise ConfigError(f"context: {context} given; expected one of {list(contexts)}")
    place = _Place(study, run, group, sequence_id, context)
    rows = find_rows(study, run, group, sequence_id)
    if rows is None:
        raise _not_found(place)
    row = rows.filter(pa.array(rows.column("context").to_numpy() == context))
    notes: list[str] = []
    trace = _read_trace(place, notes)
    tokens, tokenizer = _read_text(place, row, trace, notes)
    return SequenceView(
        sequence_id=sequence_id,
        group=group,
        model=run.label,
        context=context,
        continuations=study.config.continuations,
        offset=row.column("offset")[0].as_py(),
        num_repeats=row.column("num_repeats")[0].as_py(),
        tokens=tokens,
        matched=_read_matches(row, run, notes),
        first_mismatch=row.column("first_mismatch")[0].as_py(),
        trace=trace,
        texts=None if tokenizer is None else _texts(tokenizer, tokens, trace),
        scores=tuple(_all_scores(place, notes)),
        notes=tuple(notes),
    )


def find_rows(study: Study, run: Run, group: str, sequence_id: int) -> pa.Table | None:
    """A sequence's rows of `scores`, one per context; None where it has none. Reads a few footers and one shard.

    Sequences ascend over a group's shards, so that the right one is found by halving; shards that are not there or
    hold nothing are passed over.
    """
    shards = [shard for shard in run.shards if shard.group == group]
    low, high = 0, len(shards)
    while low < high:
        middle = (low + high) // 2
        place, ends = middle, None
        while place < high and (ends := _id_range(study, run, shards[place])) is None:
            place += 1
        if ends is None or sequence_id < ends[0]:
            high = middle
        elif sequence_id > ends[1]:
            low = place + 1
        else:
            table = read_shard(study.folder, run, shards[place])
            found = table.filter(pa.array(table.column("sequence_id").to_numpy() == sequence_id))
            return found if found.num_rows else None
    return None


def _id_range(study: Study, run: Run, shard: ShardRange) -> tuple[int, int] | None:
    """The smallest and the largest sequence_id of a shard, from its footer."""
    path = shard_path(study.folder, run, shard)
    if not path.is_file():
        return None
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged ({error}); run the study again to have it redone") from error
    ends = [footer.row_group(number).column(0).statistics for number in range(footer.num_row_groups)]
    known = [(int(end.min), int(end.max)) for end in ends if end is not None and end.has_min_max]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _largest_run(study: Study) -> Run:
    if not study.runs:
        raise StoreError(f"{study.folder}: no model has been scored; expected at least one")
    return max(
        study.runs.values(),
        key=lambda run: (run.identity.model.num_non_embedding_parameters, step_rank(run.training_step)),
    )


def _not_found(place: _Place) -> StoreError:
    study, run, group, sequence_id, _ = place
    other: Group = "control" if group == "member" else "member"
    is_there = other in study.config.groups and find_rows(study, run, other, sequence_id) is not None
    hint = f"the {other} has one of that id: --group {other}" if is_there else "expected one that was scored"
    size = run.identity.groups[group].num_sequences
    return StoreError(f"{study.folder}: no {group} sequence {sequence_id} among {run.label}'s {size:,}; {hint}")


def _read_matches(row: pa.Table, run: Run, notes: list[str]) -> tuple[bool | None, ...] | None:
    n_max = run.identity.grid.max_continuation
    if not row.column("matched").null_count:
        return tuple(matched_bits(row, n_max)[0].tolist())
    first = row.column("first_mismatch")[0].as_py()
    if first is None:
        notes.append("which tokens match is unknown: the scores were imported")
        return None
    if first < n_max:
        notes.append("what matches after the first mismatch is unknown: the study was scored in mode 'exact'")
    return (*[True] * first, False, *[None] * n_max)[:n_max]


def _read_trace(place: _Place, notes: list[str]) -> Trace | None:
    study, run, group, sequence_id, context = place
    if not has_traces(study.folder, run.label, context):
        notes.append(f"generated tokens and entropy are unknown: {run.label} was not traced at k = {context}")
        return None
    table = read_traces(study.folder, run.label, context)
    is_own = table.column("sequence_id").to_numpy() == sequence_id
    is_own &= np.array(table.column("group").to_pylist()) == group
    if not is_own.any():
        notes.append("generated tokens and entropy are unknown: the sequence is not in the traced sample")
        return None
    row = table.filter(pa.array(is_own)).slice(0, 1).to_pylist()[0]
    return Trace(
        np.array(row["true_token"], np.int64),
        np.array(row["generated_token"], np.int64),
        np.array(row["entropy"], np.float64),
    )


def _read_text(
    place: _Place, row: pa.Table, trace: Trace | None, notes: list[str]
) -> tuple[tuple[int, ...] | None, Tokenizer | None]:
    """The window's tokens, and what turns them into text; from the trace where the corpus cannot be had."""
    study, _, group, sequence_id, context = place
    traced = None if trace is None else tuple(trace.true_tokens_P.tolist())
    if study.config.mode == "imported":
        notes.append("its tokens are unknown: the scores were imported, without a corpus")
        return traced, None
    section = study.config.groups[group]
    own = replace(study.config, corpus=section, control=None, traces=None, counts=None, prediction=None)
    try:
        text = open_texts(own)["member"]
        windows = text.read(np.array([sequence_id]))
    except CorpusError as error:
        notes.append(f"the corpus cannot be read: {error}")
        return traced, None
    stored = row.column("window_hash")[0].as_py()
    if not len(windows.tokens) or int(hash_windows(windows.tokens)[0]) != stored:
        notes.append(f"{text.corpus.place(sequence_id)} holds other tokens than those that were scored")
        return traced, text.corpus.tokenizer
    window = windows.tokens[0, : context + study.config.grid.max_continuation]
    return tuple(window.tolist()), text.corpus.tokenizer


def _texts(tokenizer: Tokenizer, tokens: Sequence[int] | None, trace: Trace | None) -> dict[int, str]:
    """The text of each token as it stands behind another one: some decoders drop a space at a text's start."""
    ids = {*(tokens or ()), *(() if trace is None else trace.generated_tokens_P.tolist())} - {-1}
    texts: dict[int, str] = {}
    for token in ids:
        once = tokenizer.decode([token], skip_special_tokens=False)
        twice = tokenizer.decode([token, token], skip_special_tokens=False)
        text = twice[len(once) :] if twice.startswith(once) else once
        if text and "\ufffd" not in text:  # a part of a character of several bytes is no text by itself
            texts[token] = text
    return texts


def _all_scores(place: _Place, notes: list[str]) -> list[SequenceScore]:
    scores: list[SequenceScore] = []
    for label, run in place.study.runs.items():
        rows = find_rows(place.study, run, place.group, place.sequence_id)
        if rows is None:
            notes.append(f"{label} has not scored it yet")
            continue
        counts = _num_matched(rows, run)
        for row, matched in zip(rows.to_pylist(), counts, strict=True):
            logs: list[Any] = row["log_probability"] or [None] * len(run.identity.continuations)
            scores.append(SequenceScore(label, row["context"], matched, row["first_mismatch"], tuple(logs)))
    return scores


def _num_matched(rows: pa.Table, run: Run) -> list[tuple[int | None, ...]]:
    """Per row and continuation."""
    grid = run.identity.grid
    if run.identity.mode != "exact":
        return [tuple(None if count < 0 else count for count in counts) for counts in num_matched(rows, grid).tolist()]
    firsts: list[int] = rows.column("first_mismatch").to_pylist()
    return [tuple(n if first >= n else None for n in grid.continuations) for first in firsts]
