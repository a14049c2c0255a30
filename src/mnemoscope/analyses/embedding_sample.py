"""A model's sample of last-layer states, and its division into groups of equal score.

The unit of every mean, split and resample is a cluster of duplicates: its rows of one score count as one unit, the
mean of their states, which weighs as much as they do together.

Axes: R rows (sequences), T decoding steps, D width, U units, C groups of equal score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnemoscope.errors import ConfigError, ScoringError

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

MIN_GROUP = 10
"""Clusters under which a group is left out: its mean is mostly noise, and its noise cannot be estimated."""
SLICE_ROWS = 1024
"""Rows read at once from the states."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSample:
    """The states of one model for a sample of sequences at one context, decoded greedily for T steps."""

    label: str
    """The model's name in tables and figures."""
    num_non_embedding_parameters: int
    """Parameters but for input and output embeddings: the size along which trends run."""
    training_step: int | None
    """The checkpoint's training step; None for the final model, or where unknown."""
    width: int
    """D."""
    num_matched: Integers
    """[R], 0 to T: the score, in matches among the T generated tokens."""
    group: NDArray[np.str_]
    """[R], `member` or `control`."""
    cluster: Integers
    """[R]: rows with one number are duplicates of one another, and are drawn and split together."""
    design_weight: Floats
    """[R]: how many sequences of the corpus a row stands for."""
    states: NDArray[np.float16]
    """[R, T, D], may be memory-mapped: the last-layer state that predicts continuation token j, for each j."""
    context: int | None = None
    """Tokens given before decoding, for titles; None where unknown."""

    def __post_init__(self) -> None:
        if self.states.ndim != 3 or self.states.shape[2] != self.width:
            raise ConfigError(f"{self.label}: states of shape {self.states.shape}; expected [R, n, {self.width}]")
        num_rows, num_steps = self.states.shape[:2]
        for name in ("num_matched", "group", "cluster", "design_weight"):
            shape = getattr(self, name).shape
            if shape != (num_rows,):
                raise ConfigError(f"{self.label}: {name} has shape {shape}; expected one value for each of {num_rows}")
        if num_rows and not 0 <= self.num_matched.min() <= self.num_matched.max() <= num_steps:
            raise ConfigError(f"{self.label}: num_matched outside 0 to {num_steps}, the decoding steps of its states")
        if not set(self.group.tolist()) <= {"member", "control"}:
            raise ConfigError(f"{self.label}: groups {sorted(set(self.group.tolist()))}; expected member, control")
        if not (np.isfinite(self.design_weight).all() and (self.design_weight > 0).all()):
            raise ConfigError(f"{self.label}: design weights must be finite and above zero")

    @property
    def num_steps(self) -> int:
        """T, the generated tokens."""
        return int(self.states.shape[1])


class Score(NamedTuple):
    """How many stand behind one score of one side of the corpus, kept or not."""

    num_matched: int
    num_sequences: int
    num_clusters: int

    @property
    def kept(self) -> bool:
        """Whether it has enough clusters to be averaged."""
        return self.num_clusters >= MIN_GROUP


class Units(NamedTuple):
    """The units of one side's kept groups, sorted by group."""

    scores: list[Score]
    """All scores 0 to T, the empty ones too."""
    kept_C: Integers
    """The scores of the kept groups, ascending."""
    group_U: Integers
    """Each unit's group, as an index into `kept_C`; ascending."""
    start_C: Integers
    """Where each group's units begin; one more entry for the end, [C + 1]."""
    cluster_U: Integers
    weight_U: Floats
    """Design weight of each unit's rows, divided by its group's mean: sampling rates differ between scores, and a
    random group that mixed them would be one heavy unit and noise."""
    rows_R: Integers
    """The sample's rows that belong to a kept group, ascending."""
    gather_UR: sparse.csr_matrix | None
    """Averages rows into units; None where each row is its own unit, and only needs to be put in order."""
    order_U: Integers
    """Position in `rows_R` of each unit's (first) row."""

    def slice_of(self, group: int) -> slice:
        """The units of a group."""
        return slice(int(self.start_C[group]), int(self.start_C[group + 1]))


def divide(sample: EmbeddingSample, side: str) -> Units:
    """The units of one side (`member` or `control`); groups of fewer than MIN_GROUP clusters are left out."""
    on_side = sample.group == side
    scores = [_score(sample, on_side, value) for value in range(sample.num_steps + 1)]
    kept_C = np.array([score.num_matched for score in scores if score.kept], np.int64)
    rows_R = np.flatnonzero(on_side & np.isin(sample.num_matched, kept_C))
    group_R = np.searchsorted(kept_C, sample.num_matched[rows_R])
    keys = np.stack([group_R, sample.cluster[rows_R]], axis=1)
    unique, first_U, unit_R = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    unit_R = unit_R.reshape(-1)
    group_U = unique[:, 0]
    design_R = sample.design_weight[rows_R]
    total_U = np.bincount(unit_R, design_R, minlength=len(unique))
    num_units_C = np.bincount(group_U, minlength=len(kept_C))
    mean_C = np.bincount(group_U, total_U, minlength=len(kept_C)) / num_units_C
    gather_UR = None
    if len(unique) < len(rows_R):
        entries = (design_R / total_U[unit_R]).astype(np.float32), (unit_R, np.arange(len(rows_R)))
        gather_UR = sparse.csr_matrix(entries, shape=(len(unique), len(rows_R)))
    start_C = np.concatenate([[0], np.cumsum(num_units_C)])
    weight_U = total_U / mean_C[group_U]
    return Units(scores, kept_C, group_U, start_C, unique[:, 1], weight_U, rows_R, gather_UR, first_U)


def _score(sample: EmbeddingSample, on_side: NDArray[np.bool_], value: int) -> Score:
    chosen = on_side & (sample.num_matched == value)
    return Score(value, int(chosen.sum()), len(np.unique(sample.cluster[chosen])))


def read_step(sample: EmbeddingSample, rows_R: Integers, step: int) -> Singles:
    """The states [R, D] of some rows at one step, read in slices of rows."""
    states_RD = np.empty((len(rows_R), sample.width), np.float32)
    for start in range(0, len(rows_R), SLICE_ROWS):
        states_RD[start : start + SLICE_ROWS] = sample.states[rows_R[start : start + SLICE_ROWS], step]
    finite_R = np.isfinite(states_RD).all(axis=1)
    if not finite_R.all():
        row = int(rows_R[np.flatnonzero(~finite_R)[0]])
        raise ScoringError(f"{sample.label}: the state of row {row} at step {step} is not finite; store it anew", row)
    return states_RD


def read_units(sample: EmbeddingSample, units: Units, step: int) -> Singles:
    """The states [U, D] of the units at one step."""
    states_RD = read_step(sample, units.rows_R, step)
    return states_RD[units.order_U] if units.gather_UR is None else units.gather_UR @ states_RD
