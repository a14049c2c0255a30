"""The plan of a study as values: what was measured, what is asked for, what it costs and what is proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mnemoscope.config import GradedSampleConfig, Mode, StudyMode


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast something went, in sequences per second: over all timed calls, in the slowest and in the fastest."""

    per_second: float
    slowest: float
    fastest: float
    num_sequences: int
    """Of all timed calls."""
    num_calls: int
    batch_size: int
    """Sequences per pass that were reached within the time; a run has the model's."""


@dataclass(frozen=True, kw_only=True)
class CellCount:
    """Full matches among a pilot's rows of a group, each row once."""

    group: str
    context: int
    continuation: int
    num_full: int
    num_sequences: int
    design_effect: float
    """Of the duplicates among them."""


@dataclass(frozen=True, kw_only=True)
class Storing:
    """What a scored sequence costs besides the model, and a shard besides its sequences."""

    bytes_per_sequence: float
    bytes_per_shard: float
    seconds_per_sequence: float
    """To read its row, hash its window and encode its scores."""


@dataclass(frozen=True, kw_only=True)
class ModelPilot:
    """What was measured of one model on one device."""

    label: str
    device: str
    """cpu, cuda or mps."""
    num_parameters: int
    weight_bytes: int
    width: int
    """Of the last-layer states."""
    load_seconds: float
    is_fetched: bool
    """Whether loading it took a download, too."""
    peak_bytes: int
    """Most memory in use: of the process on a CPU, allocated on the device elsewhere."""
    batch_size: dict[Mode, int]
    """As a run on this machine would choose it."""
    rates: dict[Mode, Rate]
    traced: Rate | None
    """At the longest traced context; None where the study traces nothing."""
    teacher_forced: float
    """Token forwards per sequence in the pass over the truth."""
    decoded: float
    """Token forwards per sequence to decode what follows a first mismatch, mode graded."""
    storing: Storing
    cells: tuple[CellCount, ...]
    near: float = 0.0
    """Share of the members that mode `two-phase` grades with its `near_share`."""


@dataclass(frozen=True, kw_only=True)
class TraceSize:
    """The traces of one context."""

    context: int
    path_tokens: int
    num_layers: int
    most_per_group: int
    """Sequences, if no stratum has too few."""

    def num_rows(self, selected: Mapping[str, int]) -> int:
        """The most sequences that are traced of groups of some sizes."""
        return sum(min(self.most_per_group, count) for count in selected.values())


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """What a study asks of its models."""

    mode: StudyMode
    window_tokens: int
    shard_rows: int
    selected: dict[str, int]
    """Sequences by group that the study file selects."""
    available: dict[str, int]
    """Sequences by group that could be: all rows of the corpus, or all of a list."""
    is_listed: bool
    """Whether a file lists the members, so that `sample` cannot be set."""
    traces: tuple[TraceSize, ...]
    num_ngram_lengths: int
    """Lengths of n-grams that are counted; 0 where nothing is."""
    graded_sample: GradedSampleConfig | None = None
    """Which sequences are graded in mode `two-phase`; None in the others."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the plan is asked for."""

    devices: tuple[int, ...]
    within: float
    """Half the width of an interval of shares, as a fraction of 1."""
    level: float
    hours: float
    """That the study may take on the first number of devices."""


@dataclass(frozen=True, kw_only=True)
class Hours:
    """A study's hours on a number of devices like the one measured."""

    devices: int
    scoring: float
    tracing: float
    loading: float
    total: float
    fastest: float
    """The total at the fastest call's rate."""
    slowest: float
    exact: float
    """The total without traces in mode exact, and in mode graded."""
    graded: float


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes on disk; traces and counts at most."""

    scores: int
    traces: int
    counts: int
    total: int
    free: int | None
    """None where nobody has looked."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of memory."""

    per_device: int
    """The largest model's peak."""
    driver: int
    """Selection and duplicate clusters, for the analyses of all sequences."""


@dataclass(frozen=True, kw_only=True)
class SizeNeeded:
    """How many sequences an interval of the wanted width needs, for one model at one k and n."""

    model: str
    context: int
    continuation: int
    num_full: int
    num_pilot: int
    share: float
    cautious_share: float
    """The end of the share's own interval that needs more sequences."""
    design_effect: float
    at_share: int
    cautious: int
    excess_members: int | None
    """For the excess over the control, at the cautious shares; None without a control."""
    excess_control: int | None
    excess_within: float | None
    """Half the width of its interval then."""


@dataclass(frozen=True, kw_only=True)
class ProposedStudy:
    """A study that is proposed."""

    mode: StudyMode
    members: int
    control: int
    all_members: bool
    all_control: bool
    traces: bool
    hours: float
    within: float
    """Half the width that the interval of full matches has, at most."""
    graded_share: float | None = None
    """Probability with which a sequence is graded in mode `two-phase`; None in the others."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One study, or none where nothing fits."""

    is_enough: bool
    """Whether the wanted width is reached within the hours."""
    studies: tuple[ProposedStudy, ...]
    hours_needed: float
    """For the wanted width in mode exact, whatever the hours allow."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study costs, and what is proposed."""

    wishes: Wishes
    size: StudySize
    models: tuple[ModelPilot, ...]
    hours: tuple[Hours, ...]
    disk: Disk
    memory: Memory
    sizes: tuple[SizeNeeded, ...]
    proposal: Proposal
    refusals: tuple[str, ...]
