"""Sequences of a study: everything that is stored of them, and their text where the corpus is at hand.

What is not known is None, and a note says why: the corpus has moved, the sequence was not traced, scores were imported.
Many are read as one: each file that holds something of them is opened once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.redaction import redact_sequence
from mnemoscope.sequence_facts import ScoreKey, SequenceFacts, SequencePick, SequenceScore, Trace, longest_truth
from mnemoscope.sequence_texts import Corpora, TrueTokens, open_corpora, read_true_tokens, token_texts
from mnemoscope.sequence_view import SequenceView
from mnemoscope.shards import ShardRange, is_graded, matched_bits, num_matched
from mnemoscope.store import GROUPS, Group, Run, Study, read_shard, shard_path, step_rank
from mnemoscope.traces import has_traces, read_traces

_COLUMNS: Final = (
    "sequence_id",
    "context",
    "offset",
    "num_repeats",
    "first_mismatch",
    "matched",
    "log_probability",
    "window_hash",
)
_TRACE_COLUMNS: Final = ("true_token", "generated_token", "entropy")
_IdArray = NDArray[np.int64]


class _Row(NamedTuple):
    """A row of scores."""

    score: SequenceScore
    offset: int | None
    num_repeats: int | None
    window_hash: int | None


def read_sequence(
    study: Study,
    sequence_id: int,
    *,
    group: Group = "member",
    label: str | None = None,
    context: int | None = None,
    redact: bool = False,
) -> SequenceView:
    """Everything that is stored of a sequence, seen by a model (default: the largest, at its last step) at a context
    (default: the first that was traced, else the shortest); `redact` hides what looks private, see `redaction`.

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
    facts = read_many(study, [SequencePick(group, sequence_id)])[0]
    if ScoreKey(run.label, context) not in facts.scores:
        raise _not_found(study, run, facts.pick)
    return _view(study, redact_sequence(facts) if redact else facts, run, context)


def read_many(study: Study, picks: Sequence[SequencePick], *, corpora: Corpora | None = None) -> list[SequenceFacts]:
    """Everything that is stored of each of some sequences, in their order; one that no model has scored has no scores.

    Opens each shard that holds one of them once, each table of traces once, and the corpora once, unless `corpora`
    brings them along open.
    """
    groups: tuple[Group, ...] = tuple(group for group in GROUPS if any(pick.group == group for pick in picks))
    wanted: dict[Group, _IdArray] = {
        group: _ids(pick.sequence_id for pick in picks if pick.group == group) for group in groups
    }
    corpora = open_corpora(study, groups=groups) if corpora is None else corpora
    rows, traces = _read_rows(study, wanted), _read_traces(study, wanted)
    true_tokens: dict[SequencePick, TrueTokens] = {}
    for group in groups:
        hashes = {pick.sequence_id: _first(own).window_hash for pick, own in rows.items() if pick.group == group}
        read = read_true_tokens(corpora, group, hashes)
        true_tokens |= {SequencePick(group, sequence_id): tokens for sequence_id, tokens in read.items()}
    facts = [
        _facts(study, pick, rows=rows.get(pick, {}), traces=traces.get(pick, {}), true_tokens=true_tokens.get(pick))
        for pick in picks
    ]
    return _with_texts(facts, corpora)


def find_rows(study: Study, run: Run, group: str, sequence_id: int) -> pa.Table | None:
    """A sequence's rows of `scores`, one per context; None where it has none. Reads a few footers and one shard."""
    tables = list(find_many_rows(study, run, group, _ids([sequence_id])))
    return tables[0] if tables else None


def find_many_rows(
    study: Study, run: Run, group: str, sequence_ids: _IdArray, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of `scores` of ascending sequences, a table for each shard that has some of them.

    Sequences ascend over a group's shards, so that the right ones are found by halving; shards that are not there or
    hold nothing are passed over.
    """
    shards = [shard for shard in run.shards if shard.group == group]
    parts = [(0, len(shards), sequence_ids)]
    while parts:
        low, high, ids = parts.pop()
        if low >= high or not len(ids):
            continue
        middle = place = (low + high) // 2
        ends: tuple[int, int] | None = None
        while place < high and (ends := _id_range(study, run, shards[place])) is None:
            place += 1
        if ends is None:
            parts.append((low, middle, ids))
            continue
        start, stop = np.searchsorted(ids, ends[0], "left"), np.searchsorted(ids, ends[1], "right")
        parts += [(place + 1, high, ids[stop:]), (low, middle, ids[:start])]
        if start < stop:
            table = read_shard(study.folder, run, shards[place], columns=columns)
            is_wanted = np.isin(table.column("sequence_id").to_numpy(), ids[start:stop])
            if is_wanted.any():
                yield table.filter(pa.array(is_wanted))


def _ids(sequence_ids: Iterable[int]) -> _IdArray:
    return np.unique(np.array(list(sequence_ids), np.int64))


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


def _not_found(study: Study, run: Run, pick: SequencePick) -> StoreError:
    group, sequence_id = pick
    other: Group = "control" if group == "member" else "member"
    is_there = other in study.config.groups and find_rows(study, run, other, sequence_id) is not None
    hint = f"the {other} has one of that id: --group {other}" if is_there else "expected one that was scored"
    size = run.identity.groups[group].num_sequences
    return StoreError(f"{study.folder}: no {group} sequence {sequence_id} among {run.label}'s {size:,}; {hint}")


def _view(study: Study, facts: SequenceFacts, run: Run, context: int) -> SequenceView:
    """The facts as one model and context have them; what these do not know is said first."""
    score = facts.scores[ScoreKey(run.label, context)]
    trace = facts.traces.get(ScoreKey(run.label, context))
    n_max = run.identity.grid.max_continuation
    notes: list[str] = []
    if trace is None and has_traces(study.folder, run.label, context):
        notes.append("generated tokens and entropy are unknown: the sequence is not in the traced sample")
    elif trace is None:
        notes.append(f"generated tokens and entropy are unknown: {run.label} was not traced at k = {context}")
    if score.matched is None:
        notes.append("which tokens match is unknown: the scores were imported")
    elif None in score.matched:
        why = "the study was scored in mode 'exact'"
        if run.identity.mode == "two-phase":
            why = "the sequence is not in the graded sample (mode 'two-phase')"
        notes.append(f"what matches after the first mismatch is unknown: {why}")
    return SequenceView(
        sequence_id=facts.sequence_id,
        group=facts.group,
        model=run.label,
        context=context,
        continuations=study.config.continuations,
        offset=facts.offset,
        num_repeats=facts.num_repeats,
        tokens=None if facts.tokens is None else facts.tokens[: context + n_max],
        matched=score.matched,
        first_mismatch=score.first_mismatch,
        trace=trace,
        texts=facts.texts,
        scores=tuple(facts.scores.values()),
        notes=(*notes, *facts.notes),
    )


def _facts(
    study: Study,
    pick: SequencePick,
    *,
    rows: Mapping[ScoreKey, _Row],
    traces: Mapping[ScoreKey, Trace],
    true_tokens: TrueTokens | None,
) -> SequenceFacts:
    """What was read of a sequence, without texts; its tokens are the longest trace's if the corpus has lost them."""
    having = {key.model for key in rows}
    tokens, note = true_tokens or TrueTokens(None, None)
    tokens = longest_truth(traces) if tokens is None else tokens
    notes = [] if note is None else [note]
    notes += [f"{label} has not scored it yet" for label in study.runs if label not in having]
    return SequenceFacts(
        sequence_id=pick.sequence_id,
        group=pick.group,
        offset=_first(rows).offset if rows else None,
        num_repeats=_first(rows).num_repeats if rows else None,
        tokens=tokens,
        texts=None,
        scores={key: row.score for key, row in rows.items()},
        traces=traces,
        notes=tuple(notes),
    )


def _with_texts(facts: Sequence[SequenceFacts], corpora: Corpora) -> list[SequenceFacts]:
    """The same sequences with the texts of all tokens of their group, one mapping that they share."""
    texts: dict[Group, dict[int, str]] = {}
    for group, text in corpora.texts.items():
        tokens = (tokens for own in facts if own.group == group for tokens in _all_tokens(own))
        if text.corpus.tokenizer is not None:
            texts[group] = token_texts(text.corpus.tokenizer, sorted({*chain.from_iterable(tokens)} - {-1}))
    return [replace(own, texts=texts.get(own.group)) for own in facts]


def _all_tokens(facts: SequenceFacts) -> Iterator[Sequence[int]]:
    """The true tokens and those that models generated."""
    yield facts.tokens or ()
    for trace in facts.traces.values():
        yield trace.generated_tokens_P.tolist()


def _first(rows: Mapping[ScoreKey, _Row]) -> _Row:
    return next(iter(rows.values()))


def _read_rows(study: Study, wanted: Mapping[Group, _IdArray]) -> dict[SequencePick, dict[ScoreKey, _Row]]:
    """The rows of scores of the sequences that have some, under all models."""
    found: dict[SequencePick, dict[ScoreKey, _Row]] = {}
    for label, run in study.runs.items():
        columns = (*_COLUMNS, "num_matched") if run.identity.mode == "imported" else _COLUMNS
        for group, ids in wanted.items():
            for table in find_many_rows(study, run, group, ids, columns=columns):
                for sequence_id, row in _rows_of(table, run):
                    key = ScoreKey(label, row.score.context)
                    found.setdefault(SequencePick(group, sequence_id), {})[key] = row
    return found


def _rows_of(table: pa.Table, run: Run) -> Iterator[tuple[int, _Row]]:
    """The rows of a table with their sequence's id."""
    unknown: list[Any] = [None] * len(run.identity.continuations)
    facts = zip(table.to_pylist(), _num_matched(table, run), _matches(table, run), strict=True)
    for row, counts, matched in facts:
        logs = tuple(row["log_probability"] or unknown)
        score = SequenceScore(run.label, row["context"], counts, row["first_mismatch"], logs, matched)
        yield row["sequence_id"], _Row(score, row["offset"], row["num_repeats"], row["window_hash"])


def _num_matched(rows: pa.Table, run: Run) -> list[tuple[int | None, ...]]:
    """Per row and continuation."""
    grid = run.identity.grid
    if run.identity.mode != "exact":
        return [tuple(None if count < 0 else count for count in counts) for counts in num_matched(rows, grid).tolist()]
    firsts: list[int] = rows.column("first_mismatch").to_pylist()
    return [tuple(n if first >= n else None for n in grid.continuations) for first in firsts]


def _matches(rows: pa.Table, run: Run) -> list[tuple[bool | None, ...] | None]:
    """Per row and index of the continuation; without bits, what the first mismatch says."""
    n_max = run.identity.grid.max_continuation
    if not rows.column("matched").null_count:
        return [tuple(bits) for bits in matched_bits(rows, n_max).tolist()]
    firsts: list[int | None] = rows.column("first_mismatch").to_pylist()
    open_: list[tuple[bool | None, ...] | None] = [
        None if first is None else (*[True] * first, False, *[None] * n_max)[:n_max] for first in firsts
    ]
    is_graded_R = is_graded(rows)
    known = iter(matched_bits(rows.filter(pa.array(is_graded_R)), n_max).tolist() if is_graded_R.any() else ())
    return [tuple(next(known)) if own else bits for own, bits in zip(is_graded_R.tolist(), open_, strict=True)]


def _read_traces(study: Study, wanted: Mapping[Group, _IdArray]) -> dict[SequencePick, dict[ScoreKey, Trace]]:
    """The traces of the sequences that have some, under all models and contexts; one table at a time is held."""
    found: dict[SequencePick, dict[ScoreKey, Trace]] = {}
    for label in study.runs:
        for context in study.config.contexts:
            if has_traces(study.folder, label, context):
                for pick, trace in _read_table(study, label, context, wanted):
                    found.setdefault(pick, {})[ScoreKey(label, context)] = trace
    return found


def _read_table(
    study: Study, label: str, context: int, wanted: Mapping[Group, _IdArray]
) -> Iterator[tuple[SequencePick, Trace]]:
    """The wanted sequences of a table of traces; of one that has none the tokens are not read."""
    keys = read_traces(study.folder, label, context, columns=("sequence_id", "group"))
    groups, sequence_ids = np.array(keys.column("group").to_pylist()), keys.column("sequence_id").to_numpy()
    rows: dict[Group, _IdArray] = {
        group: np.flatnonzero((groups == group) & np.isin(sequence_ids, ids)) for group, ids in wanted.items()
    }
    if not any(len(own) for own in rows.values()):
        return
    table = read_traces(study.folder, label, context, columns=_TRACE_COLUMNS)
    for group, own in rows.items():
        for sequence_id, row in zip(sequence_ids[own].tolist(), table.take(pa.array(own)).to_pylist(), strict=True):
            trace = Trace(
                np.array(row["true_token"], np.int64),
                np.array(row["generated_token"], np.int64),
                np.array(row["entropy"], np.float64),
            )
            yield SequencePick(group, sequence_id), trace
