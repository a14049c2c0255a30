"""Examples -> what networks and baselines read: standardised arrays of a batch, unknowns in the middle.

Step i of the context has read the tokens 0 .. i; its facts are those of the prediction of token i + 1. Means and
deviations are the training split's. States are read a batch at a time, so that they may be larger than memory.

Axes: B sequences of a batch, R examples, k context steps, L continuation, S states' width (Y layers x D), F facts,
G summaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnemoscope.errors import ConfigError
from mnemoscope.prediction.examples import CONTEXT_FACTS, DECODE_FACTS, Examples
from mnemoscope.prediction.settings import Task

Array = NDArray[np.floating]
Integers = NDArray[np.int64]

MOST_SCALED: Final = 2048
"""Training sequences that means and deviations are taken from."""
MOST_DEVIATIONS: Final = 5.0
"""Standardised values are clipped there: a new sequence's outlier is no reason to shout."""
_RECENT: Final = (8, 16)
_STATISTICS: Final = ("mean", "last", "min", "max", *(f"mean_last_{steps}" for steps in _RECENT))
SUMMARIES: Final = (
    *(f"{fact}_{statistic}" for fact in ("entropy", "log_probability", "margin") for statistic in _STATISTICS),
    "hit_mean",
    *(f"hit_mean_last_{steps}" for steps in _RECENT),
    "hits_to_the_end",
)
"""Scalars of a context, in `summarize`'s order; the first twelve are of entropy and loss alone."""
NUM_ENTROPY_AND_LOSS: Final = 2 * len(_STATISTICS)


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Which features a predictor sees, beside the context's facts."""

    task: Task
    states: bool
    frequency: bool = False
    copies: bool = False


class Inputs(NamedTuple):
    """Features of a batch, float32; None where the feature set has none."""

    context_facts: Tensor
    """[B, k, F]."""
    summary: Tensor
    """[B, G]."""
    context_states: Tensor | None
    """[B, k, S]."""
    decode_facts: Tensor | None
    """[B, L, F']."""
    decode_states: Tensor | None
    """[B, L, D]."""


class Scale(NamedTuple):
    """Means and deviations of the last axis of one input."""

    mean: Array
    deviation: Array

    def apply(self, values: Array) -> Array:
        """Standardised, clipped, float32; 0 where unknown."""
        scaled = (values.astype(np.float32) - self.mean) / self.deviation
        return np.nan_to_num(scaled, nan=0.0).clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)


@final
@dataclass(frozen=True, eq=False)
class Reader:
    """Reads features of examples, standardised as in training."""

    features: FeatureSet
    scales: dict[str, Scale]
    """By the input's name."""

    def read(self, examples: Examples, rows: Integers) -> Inputs:
        """The inputs of some examples; ConfigError where they lack a feature or have another width."""
        raw = _raw(examples, rows, self.features)
        for name, scale in self.scales.items():
            if raw[name].shape[-1] != len(scale.mean):
                raise ConfigError(
                    f"{examples.model}: {name} of width {raw[name].shape[-1]}; expected {len(scale.mean)}, the "
                    "width that the predictor was trained on (a facts-only predictor fits every model)"
                )
        ready = {name: torch.from_numpy(self.scales[name].apply(values)) for name, values in raw.items()}
        return Inputs(*(ready.get(name) for name in Inputs._fields))  # pyright: ignore[reportArgumentType]


def fit_reader(examples: Examples, train: Integers, features: FeatureSet) -> Reader:
    """A reader scaled to some training examples, spread evenly over `train`."""
    num_rows = min(len(train), MOST_SCALED)
    raw = _raw(examples, train[np.linspace(0, len(train) - 1, num_rows).astype(np.int64)], features)
    return Reader(features, {name: _scale(values) for name, values in raw.items()})


def summarize(context_facts: Array) -> Array:
    """The `SUMMARIES` of contexts [R, k + 1, F], float64 [R, G]; NaN where nothing is known."""
    facts: dict[str, Array] = dict(
        zip(CONTEXT_FACTS, np.moveaxis(context_facts[:, 1:].astype(np.float64), -1, 0), strict=True)
    )
    facts["margin"] = np.log1p(facts["margin"])
    columns: list[Array] = []
    for name, num_known in (("entropy", None), ("log_probability", -1), ("margin", None)):
        columns.extend(_statistics(facts[name][:, :num_known]))
    hit_Rk = facts["hit"][:, :-1]
    columns.extend([_mean(hit_Rk), *(_mean(hit_Rk[:, -steps:]) for steps in _RECENT)])
    columns.append(np.cumprod(hit_Rk[:, ::-1], axis=1).sum(axis=1))
    return np.stack(columns, axis=1)


def _statistics(values_Rk: Array) -> list[Array]:
    if not values_Rk.shape[1]:
        return [np.full(len(values_Rk), np.nan)] * len(_STATISTICS)
    recent = [_mean(values_Rk[:, -steps:]) for steps in _RECENT]
    return [_mean(values_Rk), values_Rk[:, -1], values_Rk.min(axis=1), values_Rk.max(axis=1), *recent]


def _mean(values_Rk: Array) -> Array:
    return values_Rk.mean(axis=1) if values_Rk.shape[1] else np.full(len(values_Rk), np.nan)


def _raw(examples: Examples, rows: Integers, features: FeatureSet) -> dict[str, Array]:
    """The features of some examples before standardisation, by the input's name."""
    facts_RkF = _log_margin(examples.context_facts[rows])[:, 1:]
    summary_RG = summarize(examples.context_facts[rows])
    if features.frequency:
        frequency_Rk2 = _needed(examples, "frequency_Rk", rows)
        facts_RkF = np.concatenate([facts_RkF, frequency_Rk2], axis=-1)
        recent = (frequency_Rk2[:, 1:].mean(axis=1), frequency_Rk2[:, -1]) if examples.context > 1 else ()
        summary_RG = np.concatenate([summary_RG, *recent], axis=1)
    if features.copies:
        copies_R1 = np.log1p(_needed(examples, "copies_R", rows))[:, None]
        summary_RG = np.concatenate([summary_RG, copies_R1], axis=1)
    raw: dict[str, Array] = {"context_facts": facts_RkF, "summary": summary_RG}
    if features.states:
        states_RYkD = np.asarray(examples.context_states[rows])
        raw["context_states"] = np.moveaxis(states_RYkD, 1, 2).reshape(*states_RYkD.shape[::2], -1)
    if features.task == "decode":
        raw["decode_facts"] = _log_margin(_needed(examples, "decode_facts", rows))
        if features.states:
            raw["decode_states"] = _needed(examples, "decode_states", rows)
    return raw


def _needed(examples: Examples, name: str, rows: Integers) -> Array:
    values = getattr(examples, name)
    if values is None:
        raise ConfigError(f"{examples.model}: examples without {name}; expected what the predictor was trained on")
    return np.asarray(values[rows])


def _log_margin(facts: Array) -> Array:
    """Facts with ln(1 + margin) for the margin, which has a long tail."""
    facts = np.array(facts, np.float32)
    assert CONTEXT_FACTS[1] == DECODE_FACTS[1] == "margin"
    facts[..., 1] = np.log1p(facts[..., 1])
    return facts


def _scale(values: Array) -> Scale:
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    known = ~np.isnan(flat)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, flat, 0.0).sum(axis=0) / count
    variance = np.where(known, (flat - mean) ** 2, 0.0).sum(axis=0) / count
    deviation = np.sqrt(variance)
    return Scale(mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32))
