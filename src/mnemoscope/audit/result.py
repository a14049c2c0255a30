"""What an audit has found, as frozen dataclasses that are written as JSON: the contract with scripts that read it.

A field is added without a new version; a change of what one means takes a new `SCHEMA`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

SCHEMA: Final = "mnemoscope.audit/1"
State = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class Share:
    """count / n with its interval; n passages, `num_unique` of them different."""

    count: int
    n: int
    num_unique: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A difference, or another number, with its interval; None where nothing is known."""

    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Compared:
    """Members beside held-out passages, in one cell of the grid."""

    what: str
    """`full match`; a way of sampling with its number of samples; a criterion of near-verbatim matches."""
    kind: str
    """Of the passages: start, offset, turn, or all."""
    context: str
    """In tokens, or `prompt`."""
    continuation: int
    member: Share
    control: Share
    excess: Difference
    """Member minus held-out share."""


@dataclass(frozen=True)
class Extraction:
    """(n, p)-discoverable extraction: passages that appear with probability p within so many samples."""

    sampling: str
    num_samples: int
    probability: float
    compared: Compared


@dataclass(frozen=True)
class Exposed:
    """A passage that the model recites, or nearly."""

    passage: int
    """Its index in the audit."""
    line: int
    """Of the training file; held-out ones are never listed here."""
    kind: str
    start: int
    context: int
    """Tokens of the context."""
    continuation: int
    num_recited: int
    """Tokens of the continuation up to the first mismatch."""
    is_full: bool
    similarity: float
    """1 - token edit distance / n."""
    longest_run: int
    """Tokens of the longest common run."""
    shortest_context: int | None
    """Fewest tokens before the continuation that trigger it."""
    log_probability: float | None
    """Of the continuation, in nats, at temperature 1; None where it can never be drawn."""
    samples_needed: dict[str, float | None]
    """By way of sampling: samples after which it has appeared with probability one half; None: never."""
    num_copies: int
    """Of its window in the training file."""
    cluster: int
    """Of near-exact duplicates among the training documents."""
    private: tuple[str, ...]
    """Kinds of private things in the continuation."""
    context_text: str
    """Redacted, unless asked for otherwise."""
    continuation_text: str


@dataclass(frozen=True)
class Signal:
    """A membership signal: how well it tells members from held-out passages."""

    name: str
    auc: Difference
    tpr_at_1: Difference
    """True-positive rate at a false-positive rate of 1 %."""
    tpr_at_01: Difference
    """At 0.1 %; None where there are too few held-out passages to know."""
    num_member: int
    num_control: int


@dataclass(frozen=True)
class BlindCheck:
    """A classifier that sees texts, and no model: where it can tell the files apart, signals prove nothing."""

    auc: Difference
    is_comparable: bool | None
    """None where there are too few passages to know."""
    sentence: str


@dataclass(frozen=True)
class Leak:
    """Private things of one kind inside recited continuations."""

    kind: str
    num_spans: int
    num_passages: int
    num_control_passages: int
    """Held-out passages whose recited continuation has one: what text of this kind holds anyway."""
    examples: tuple[str, ...]
    """Redacted, unless asked for otherwise."""


@dataclass(frozen=True)
class Dose:
    """Recited members by the number of copies of their window in the training file."""

    low: int
    high: int | None
    """None: and more."""
    recited: Share


@dataclass(frozen=True)
class Trend:
    """Whether more copies mean more recitation."""

    slope: Difference
    """Of the log odds, for each doubling."""
    p_value: float | None
    sentence: str


@dataclass(frozen=True)
class Cluster:
    """Near-exact copies of one training document whose removal would help."""

    cluster: int
    num_documents: int
    lines: tuple[int, ...]
    """The first few."""
    num_recited: int
    """Different recited passages of it."""
    expected_fewer: float
    """Recited passages that one copy instead of all would spare, by the dose-response."""
    num_tokens: int
    """That its removal, but for one copy, would save."""
    text: str
    """Its beginning, redacted unless asked for otherwise."""


@dataclass(frozen=True)
class CanaryDose:
    """Planted sequences with so many copies, or, at 0, their twins that were not planted."""

    repeats: int
    recited: Share


@dataclass(frozen=True)
class Criterion:
    """One demand on the model, and whether it is met."""

    name: str
    """Its key in the file of thresholds."""
    state: State
    measured: Difference
    threshold: float
    sentence: str
    decides: bool = True
    """Whether the verdict follows from it."""


@dataclass(frozen=True)
class Changed:
    """An audit beside an earlier one, over the passages that both have."""

    what: str
    n: int
    earlier: int
    now: int
    only_earlier: int
    only_now: int
    difference: Difference
    p_value: float | None
    """McNemar's, exact."""


@dataclass(frozen=True)
class AuditResult:
    """Everything that an audit has found."""

    state: State
    headline: str
    criteria: tuple[Criterion, ...]
    matches: tuple[Compared, ...]
    extraction: tuple[Extraction, ...]
    near: tuple[Compared, ...]
    exposed: tuple[Exposed, ...]
    """Most exposed first."""
    signals: tuple[Signal, ...]
    blind: BlindCheck | None
    leaks: tuple[Leak, ...]
    doses: tuple[Dose, ...]
    trend: Trend | None
    clusters: tuple[Cluster, ...]
    canaries: tuple[CanaryDose, ...]
    changes: tuple[Changed, ...]
    notes: tuple[str, ...]
    """What a reader has to know: what was left out, what is approximate."""
    provenance: dict[str, Any]
    """Model, files with hashes, settings, versions, time, command."""
    sizes: dict[str, int]
    """Documents and passages of either side, those too short, fragile ones."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """By a hash of the passage's tokens (16 hex digits): `m` member or `c` held-out, then 1 or 0 for recited in full
    and for near-verbatim, so that a later audit can be compared pair by pair."""
    schema: str = SCHEMA
    reference: tuple[str, int] | None = None
    """The context, as in `matches`, and the continuation at which the verdict is reached; None: the longest."""
