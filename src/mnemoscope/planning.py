"""From a pilot's rates to hours, bytes and sample sizes: the arithmetic of a plan.

Shards are the unit that is handed out, so that the busiest device has a whole number of them. Loading a model is
counted as often as a device waits for it. All pure: `pilot` measures, `report.plan_table` prints.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from mnemoscope.config import GradedSampleConfig, StudyConfig, StudyMode
from mnemoscope.sample_sizes import Population, cautious_share, excess_size, sample_size
from mnemoscope.study_plan import (
    CellCount,
    Disk,
    Hours,
    Memory,
    ModelPilot,
    SizeNeeded,
    StudySize,
    TraceSize,
    Wishes,
)
from mnemoscope.traces import path_tokens, traced_contexts, traced_continuation

RECORD_BYTES: Final = 320
"""Of a shard's commit record, its longest numbers included."""
TRACE_BYTES_PER_TOKEN: Final = 24
"""Six facts of four bytes at every index of a trace; compression makes it less."""
TRACE_BYTES_PER_ROW: Final = 60
COUNT_BYTES_PER_ROW: Final = 48
ANALYSIS_BYTES_PER_SEQUENCE: Final = 18
"""Of the driver's memory: the clusters of duplicates of every sequence, on which all intervals rest."""
ID_BYTES: Final = 8
"""Of the driver's memory per sequence that a sample or a list names."""

Speed = Literal["per_second", "slowest", "fastest"]
"""Which of a rate's numbers is reckoned with."""


def study_size(config: StudyConfig, *, selected: Mapping[str, int], available: Mapping[str, int]) -> StudySize:
    """What a study file asks for, given how many sequences its corpora have."""
    return StudySize(
        mode=config.mode,
        graded_sample=config.second_phase,
        window_tokens=config.grid.window_tokens,
        shard_rows=config.shard_rows,
        selected=dict(selected),
        available=dict(available),
        is_listed=config.corpus.sequences is not None,
        traces=trace_sizes(config),
        num_ngram_lengths=0 if config.counts is None else len(config.counts.ngrams),
    )


def trace_sizes(config: StudyConfig) -> tuple[TraceSize, ...]:
    """The traced samples of a study file, one per traced context."""
    if config.traces is None:
        return ()
    return tuple(
        TraceSize(
            context=context,
            path_tokens=path_tokens(config),
            num_layers=len(config.traces.context_layers),
            most_per_group=config.traces.per_stratum * (traced_continuation(config) + 1),
        )
        for context in traced_contexts(config)
    )


def busiest_rows(selected: Mapping[str, int], shard_rows: int, devices: int) -> int:
    """Sequences of the device with most to do: whole shards are handed out evenly, then the short ones at the end."""
    rounds, num_over = divmod(sum(count // shard_rows for count in selected.values()), devices)
    short = sorted((count % shard_rows for count in selected.values()), reverse=True)
    most = (rounds + (num_over > 0)) * shard_rows
    lightest = [rounds * shard_rows] * min(devices - num_over, len(short)) + [most] * min(num_over, len(short))
    for count in short:
        heapq.heapreplace(lightest, lightest[0] + count)
        most = max(most, *lightest)
    return most


def scoring_seconds(
    model: ModelPilot, size: StudySize, devices: int, *, mode: StudyMode, speed: Speed = "per_second"
) -> float:
    """Seconds that a model's scores take without loading, at one of the speeds measured.

    In mode `two-phase` every sequence takes what it does in mode exact, and a graded one what mode graded takes more.
    """
    exact, graded = (1 / float(getattr(model.rates[name], speed)) for name in ("exact", "graded"))
    seconds = graded if mode == "graded" else exact
    if mode == "two-phase":
        seconds += decoded_share(model, size.graded_sample or GradedSampleConfig()) * max(0.0, graded - exact)
    num_rows = busiest_rows(size.selected, size.shard_rows, devices)
    return num_rows * (seconds + model.storing.seconds_per_sequence)


def decoded_share(model: ModelPilot, settings: GradedSampleConfig) -> float:
    """The share of the sequences that are decoded in mode `two-phase`, at most."""
    _, near, rest = settings.probabilities
    return rest + model.near * (near - rest)


def tracing_seconds(model: ModelPilot, size: StudySize, devices: int, *, speed: Speed = "per_second") -> float:
    """Seconds that a model's traces take without loading, at most."""
    if model.traced is None:
        return 0.0
    num_rows = sum(-(-trace.num_rows(size.selected) // devices) for trace in size.traces)
    return num_rows / getattr(model.traced, speed)


def num_loads(traces: Sequence[TraceSize], devices: int) -> int:
    """How often a device waits for a model: one loads it once; of several first the driver does, then all at once for
    the scores and for each traced context.
    """
    return 1 if devices == 1 else 2 + len(traces)


def hours_needed(models: Sequence[ModelPilot], size: StudySize, devices: int) -> Hours:
    """A study's hours; analyses, counts and predictors not included."""
    loading = sum(model.load_seconds for model in models) * num_loads(size.traces, devices)

    def scoring(mode: StudyMode, speed: Speed = "per_second") -> float:
        return sum(scoring_seconds(each, size, devices, mode=mode, speed=speed) for each in models)

    def tracing(speed: Speed = "per_second") -> float:
        return sum(tracing_seconds(each, size, devices, speed=speed) for each in models)

    bare = sum(model.load_seconds for model in models) * num_loads((), devices)
    return Hours(
        devices=devices,
        scoring=scoring(size.mode) / 3600,
        tracing=tracing() / 3600,
        loading=loading / 3600,
        total=(scoring(size.mode) + tracing() + loading) / 3600,
        fastest=(scoring(size.mode, "fastest") + tracing("fastest") + loading) / 3600,
        slowest=(scoring(size.mode, "slowest") + tracing("slowest") + loading) / 3600,
        exact=(scoring("exact") + bare) / 3600,
        graded=(scoring("graded") + bare) / 3600,
    )


def disk_needed(models: Sequence[ModelPilot], size: StudySize, *, free: int | None) -> Disk:
    """Bytes of scores, traces and counts."""
    num_sequences = sum(size.selected.values())
    num_shards = sum(-(-count // size.shard_rows) for count in size.selected.values())
    scores = sum(
        num_sequences * model.storing.bytes_per_sequence + num_shards * (model.storing.bytes_per_shard + RECORD_BYTES)
        for model in models
    )
    traces = sum(trace_bytes(trace, size.selected, model.width) for model in models for trace in size.traces)
    num_counted = min(sum(trace.num_rows(size.selected) for trace in size.traces) * len(models), num_sequences)
    counts = num_counted * (COUNT_BYTES_PER_ROW + 8 * size.window_tokens * size.num_ngram_lengths)
    total = round(scores) + traces + counts
    return Disk(scores=round(scores), traces=traces, counts=counts, total=total, free=free)


def trace_bytes(trace: TraceSize, selected: Mapping[str, int], width: int) -> int:
    """Bytes of a context's traces of one model: states in 16 bits, layers, and the table."""
    window = trace.context + trace.path_tokens
    states = 2 * width * (window - 1 + trace.num_layers * trace.context)
    return trace.num_rows(selected) * (states + TRACE_BYTES_PER_TOKEN * window + TRACE_BYTES_PER_ROW)


def memory_needed(models: Sequence[ModelPilot], size: StudySize) -> Memory:
    """Bytes of each device at its peak, and of the driver's analyses, which follow the number of sequences."""
    per_sequence = ANALYSIS_BYTES_PER_SEQUENCE + ID_BYTES
    return Memory(
        per_device=max(model.peak_bytes for model in models), driver=sum(size.selected.values()) * per_sequence
    )


def sizes_needed(models: Sequence[ModelPilot], size: StudySize, wishes: Wishes) -> list[SizeNeeded]:
    """The sample that each model needs at each cell of interest."""
    needed: list[SizeNeeded] = []
    for model in models:
        control = {(cell.context, cell.continuation): cell for cell in model.cells if cell.group == "control"}
        for cell in model.cells:
            if cell.group == "member":
                other = control.get((cell.context, cell.continuation))
                needed.append(_size_needed(model.label, cell, other, size, wishes))
    return needed


def _size_needed(label: str, cell: CellCount, control: CellCount | None, size: StudySize, wishes: Wishes) -> SizeNeeded:
    members, share = population(cell, size), cell.num_full / cell.num_sequences
    cautious = cautious_share(cell.num_full, cell.num_sequences, level=wishes.level)
    excess = None
    if control is not None:
        excess = excess_size(
            cautious,
            cautious_share(control.num_full, control.num_sequences, level=wishes.level),
            wishes.within,
            members=members,
            control=population(control, size),
            level=wishes.level,
        )
    return SizeNeeded(
        model=label,
        context=cell.context,
        continuation=cell.continuation,
        num_full=cell.num_full,
        num_pilot=cell.num_sequences,
        share=share,
        cautious_share=cautious,
        design_effect=cell.design_effect,
        at_share=sample_size(share, wishes.within, members, level=wishes.level),
        cautious=sample_size(cautious, wishes.within, members, level=wishes.level),
        excess_members=excess and excess.num_members,
        excess_control=excess and excess.num_control,
        excess_within=excess and excess.within,
    )


def population(cell: CellCount, size: StudySize) -> Population:
    """What a cell's sample is drawn from."""
    return Population(size.available[cell.group], cell.design_effect, cell.num_sequences)
