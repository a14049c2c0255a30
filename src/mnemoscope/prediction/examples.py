"""Traces -> examples: what a predictor may see of a sequence, and the bits that it has to say.

Nothing of the true continuation is among the features: the log-probability, the rank and the hit of a true token are
given inside the context only. At index k, where the context ends, only the entropy and the margin of the first
prediction are.

Axes: R examples, L traced continuation, k context, I = k + 1 indices, Y layers, D width, F facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnemoscope.analyses.samples import list_matrix, numbers, places
from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.shards import has_second_phase, hash_windows, is_graded, matched_bits

Floats = NDArray[np.float32]
Numbers = NDArray[np.floating[Any] | np.integer[Any]]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
HintBits = NDArray[np.bool_] | NDArray[np.int8]
"""Another run's match bits; int8 where some are `UNKNOWN`."""
UNKNOWN: Final = 2

CONTEXT_FACTS: Final = ("entropy", "margin", "log_probability", "log_rank", "hit")
"""Of the distribution that predicts the token at an index: nats, logits, nats, ln(1 + rank), rank == 0."""
KNOWN_AT_K: Final = 2
"""The first so many of them are known of the first generated token."""
DECODE_FACTS: Final = ("entropy", "margin")
"""Of the distribution that says each generated token."""
FREQUENCIES: Final = ("ngram_1", "ngram_2")
"""Columns of the counts table whose logarithms may be features."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """The traced sequences of one model at one context, or new sequences of which only the context was read."""

    model: str
    """Whose generation is predicted."""
    sequence_id: Integers
    """int64 [R]."""
    group: NDArray[np.str_]
    """[R], member or control."""
    cluster: Integers
    """int64 [R]: sequences with the same context share it, and so all copies do: a predictor sees no more of them."""
    design_weight: NDArray[np.float64]
    """float64 [R]: sequences that each stands for."""
    num_matched: Integers
    """int64 [R]: the stratum that it was drawn from; -1 where nothing was decoded."""
    context_states: NDArray[np.float16]
    """float16 [R, Y, k, D]: index i has read the tokens 0 .. i."""
    context_facts: Floats
    """float32 [R, k + 1, F], `CONTEXT_FACTS` of the prediction of the token at each index; NaN where not known."""
    matched_RL: Bools | None = None
    """bool [R, L]: generated token == true token along the greedy path; None where nothing was decoded."""
    decode_states: NDArray[np.float16] | None = None
    """float16 [R, L, D]: the last layer's state that says each generated token."""
    decode_facts: Floats | None = None
    """float32 [R, L, 2], `DECODE_FACTS` of each generated token."""
    frequency_Rk: Floats | None = None
    """float32 [R, k, 2]: ln of the corpus frequency of the 1-gram and 2-gram that end at each context index."""
    copies_R: Integers | None = None
    """int64 [R]: other copies of the whole window in the corpus. It knows the continuation: an option, and a leak
    of the corpus, not of the model's answer."""
    hints: Mapping[str, HintBits] = field(default_factory=dict[str, HintBits])
    """By name (`smaller: demo-0.4M`), bool [R, L]: another run's matched bits of the same sequences."""

    def __len__(self) -> int:
        return len(self.sequence_id)

    @property
    def context(self) -> int:
        """k, in tokens."""
        return self.context_states.shape[2]

    @property
    def continuation(self) -> int:
        """L, in tokens; 0 where nothing was decoded."""
        return 0 if self.matched_RL is None else self.matched_RL.shape[1]

    @property
    def labels(self) -> Bools:
        """The matched bits [R, L]; ConfigError where nothing was decoded."""
        if self.matched_RL is None:
            raise ConfigError(f"{self.model}: examples without matched bits; expected traced sequences")
        return self.matched_RL

    def take(self, rows: Integers) -> Examples:
        """Some of the examples, in the order of `rows`; their states are read into memory."""
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays, hints={name: bits_RL[rows] for name, bits_RL in self.hints.items()})


def build_examples(
    traces: pa.Table,
    states_RWD: NDArray[np.float16],
    counts: pa.Table,
    *,
    model: str,
    layers_RYKD: NDArray[np.float16] | None = None,
    hints: Mapping[str, HintBits] | None = None,
) -> Examples:
    """The examples of a model's traces at one context, in the table's order.

    The context's states are those of the layers given, or of the last one. `counts` tells of frequencies and copies,
    where it has them. Raises ConfigError for traces of no or several contexts, StoreError for states or hints
    that do not fit and for sequences that `counts` does not know.
    """
    contexts: list[int] = traces["context"].unique().to_pylist()
    if not contexts:
        raise ConfigError(
            f"{model}: no sequence is traced, as none has a known score; expected some: grade more of them"
        )
    if len(contexts) != 1:
        raise ConfigError(f"{model}: traces of contexts {contexts}; expected exactly one")
    k, window = contexts[0], traces.schema.field("true_token").type.list_size
    hints = dict(hints or {})
    shapes = {"states": states_RWD.shape[:2], **{name: bits_RL.shape for name, bits_RL in hints.items()}}
    expected = {"states": (len(traces), window - 1), **dict.fromkeys(hints, (len(traces), window - k))}
    wrong = [
        f"{name} {list(shapes[name])}, not {list(expected[name])}" for name in shapes if shapes[name] != expected[name]
    ]
    if wrong:
        raise StoreError(
            f"{model}: {'; '.join(wrong)}; expected states and hints of the {len(traces)} traced sequences"
        )
    place_R = places(traces, counts, model)
    true_RW, generated_RW = (list_matrix(traces, name, window) for name in ("true_token", "generated_token"))
    facts_RWF = _facts(traces, window)
    return Examples(
        model=model,
        sequence_id=numbers(traces, "sequence_id").astype(np.int64),
        group=np.asarray(traces["group"].cast(pa.string()).to_pylist(), dtype=np.str_),
        cluster=hash_windows(true_RW[:, :k].astype(np.int64)),
        design_weight=numbers(traces, "design_weight"),
        num_matched=numbers(traces, "num_matched").astype(np.int64),
        context_states=states_RWD[:, None, :k] if layers_RYKD is None else layers_RYKD,
        context_facts=mask_unknown(facts_RWF[:, : k + 1]),
        matched_RL=(true_RW == generated_RW)[:, k:],
        decode_states=states_RWD[:, k - 1 : window - 1],
        decode_facts=facts_RWF[:, k:, : len(DECODE_FACTS)].copy(),
        frequency_Rk=_frequencies(counts, k, place_R),
        copies_R=numbers(counts, "num_copies").astype(np.int64)[place_R]
        if "num_copies" in counts.column_names
        else None,
        hints=hints,
    )


def mask_unknown(facts_RIF: Floats) -> Floats:
    """The same facts without what is not known before decoding: all of the true token at the last index, k."""
    masked_RIF = np.array(facts_RIF, np.float32)
    masked_RIF[:, -1, KNOWN_AT_K:] = np.nan
    return masked_RIF


def read_hint(
    scores: Mapping[str, Iterable[pa.Table]], traces: pa.Table, *, continuation: int, n_max: int, name: str
) -> NDArray[np.int8]:
    """Another run's matched bits of the traced sequences, int8 [R, L], from its stored scores by group.

    In mode `two-phase` the other run may not have graded one, as what the one recites and the other does not: its bits
    are known up to the first mismatch, and `UNKNOWN` after it.

    Raises StoreError for sequences that the other run did not score at the traces' context.
    """
    k = int(traces["context"][0].as_py())
    keys = list(zip(*(traces[column].cast(kind).to_pylist() for column, kind in _KEY), strict=True))
    place = {key: row for row, key in enumerate(keys)}
    bits_RL, found_R = np.zeros((len(keys), continuation), np.int8), np.zeros(len(keys), np.bool_)
    for group, tables in scores.items():
        for table in tables:
            part = table.filter(pa.array(table["context"].to_numpy() == k))
            ids, offsets = part["sequence_id"].to_pylist(), part["offset"].to_pylist()
            pairs = [(row, place.get((i, group, o), -1)) for row, (i, o) in enumerate(zip(ids, offsets, strict=True))]
            pairs = [pair for pair in pairs if pair[1] >= 0]
            if pairs:
                source, target = np.array(pairs, np.int64).T
                bits_RL[target] = _hint_bits(part, n_max)[source, :continuation]
                found_R[target] = True
    if not found_R.all():
        sequence_id, group, offset = keys[int(np.argmin(found_R))]
        raise StoreError(
            f"{name}: {group} sequence {sequence_id} at offset {offset} has no scores at context {k}; "
            "expected a run over the same corpus and grid"
        )
    return bits_RL


def _hint_bits(table: pa.Table, n_max: int) -> NDArray[np.int8]:
    """The match bits of some rows, int8 [R, n_max], as far as they are known."""
    if not has_second_phase(table):
        return matched_bits(table, n_max).astype(np.int8)
    first_R1 = table["first_mismatch"].to_numpy()[:, None]
    bits_Rn = np.where(np.arange(n_max) > first_R1, UNKNOWN, np.arange(n_max) < first_R1).astype(np.int8)
    graded_R = is_graded(table)
    if graded_R.any():
        bits_Rn[graded_R] = matched_bits(table.filter(pa.array(graded_R)), n_max)
    return bits_Rn


_KEY: Final = (("sequence_id", pa.int64()), ("group", pa.string()), ("offset", pa.int64()))


def join_facts(entropy_RI: Numbers, margin_RI: Numbers, log_probability_RI: Numbers, rank_RI: Numbers) -> Floats:
    """float32 [R, I, F]: `CONTEXT_FACTS` at every index; a negative rank is an unknown one."""
    rank_RI = np.where(rank_RI < 0, np.nan, rank_RI)
    hit_RI = np.where(np.isnan(rank_RI), np.nan, rank_RI == 0)
    return np.stack([entropy_RI, margin_RI, log_probability_RI, np.log1p(rank_RI), hit_RI], axis=-1).astype(np.float32)


def _facts(traces: pa.Table, window: int) -> Floats:
    """float32 [R, W, F], `CONTEXT_FACTS` at every index; NaN at index 0."""
    return join_facts(*(list_matrix(traces, name, window) for name in ("entropy", "margin", "log_probability", "rank")))


def _frequencies(counts: pa.Table, k: int, place_R: Integers) -> Floats | None:
    """float32 [R, k, 2]: ln(1 + occurrences); the 2-gram of index 0, which is none, is NaN."""
    if not set(FREQUENCIES) <= set(counts.column_names):
        return None
    columns = [np.log1p(list_matrix(counts, name, k))[place_R] for name in FREQUENCIES]
    return np.stack(columns, axis=-1).astype(np.float32)
