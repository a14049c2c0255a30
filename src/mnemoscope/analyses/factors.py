"""Factors: memorized shares by model size, context, continuation, repeats and training step.

Counts in, tables with intervals and one finding out. Full matches with n + 1 tokens are among those with n,
so a share can only fall along the continuation; whether it rises with size, and exceeds the control's, is
measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses import Finding
from mnemoscope.analyses.columns import Row, Value, make_table
from mnemoscope.analyses.matches import MatchCounts, Stratum, StratumCounts
from mnemoscope.analyses.size_finding import find_size_effect
from mnemoscope.analyses.trends import series_of, trend_table
from mnemoscope.errors import ConfigError

SMALL_STRATUM = 30
"""Sequences under which a stratum is flagged."""
BIN_LABELS = ("0", "(0, 0.1)", *(f"[0.{i}, 0.{i + 1})" for i in range(1, 9)), "[0.9, 1)", "1")

MODEL = ("model", "source", "num_parameters", "num_non_embedding_parameters", "training_step")
CELL = (*MODEL, "group", "context", "continuation")
RATE = ("num_sequences", "share", "share_low", "share_high", "small_stratum")
MEMORIZED = (*CELL, "num_memorized", *RATE, "num_fragile", "num_fragile_memorized")
EXCESS = (
    *(*MODEL, "context", "continuation", "num_memorized", "num_sequences", "share"),
    *("num_control_memorized", "num_control_sequences", "control_share"),
    *("excess", "excess_low", "excess_high", "small_stratum"),
)


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """One model or checkpoint, and what it matched."""

    label: str
    """The model's name in tables and figures."""
    source: str
    """Where it came from; several checkpoints of one source are one training run."""
    num_parameters: int
    """All parameters."""
    num_non_embedding_parameters: int
    """Parameters but for input and output embeddings: the size along which trends run."""
    training_step: int | None = None
    """The checkpoint's training step; None for the final model, or where unknown."""
    counts: MatchCounts
    """Its counts by stratum."""

    def __post_init__(self) -> None:
        if self.num_non_embedding_parameters < 1:
            raise ConfigError(f"{self.label}: {self.num_non_embedding_parameters} parameters; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class FactorsResult:
    """Tables with intervals, and the finding computed from them."""

    memorized: pa.Table
    """Full matches by model, group, context, continuation."""
    excess: pa.Table
    """Member share minus control share; empty without a control."""
    bins: pa.Table
    """Sequences by the 12 score bins; empty in mode `exact`."""
    num_matched: pa.Table
    """Sequences by exact score; empty in mode `exact`."""
    first_mismatch: pa.Table
    """Sequences by the index of the first wrong token."""
    repeats: pa.Table
    """Full matches by number of repeats, where known."""
    repeat_classes: pa.Table
    """The same in doubling classes: 0, 1, 2 to 3, 4 to 7 ..."""
    steps: pa.Table
    """Full matches along training, for sources with two checkpoints or more."""
    trend: pa.Table
    """Fits along size, context and continuation, with alternatives."""
    finding: Finding
    """The sentence."""

    @property
    def tables(self) -> Mapping[str, pa.Table]:
        """The tables by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, pa.Table)}


class _Count(NamedTuple):
    """A numerator and its stratum's size, with the columns that name them."""

    keys: Row
    num_chosen: int
    num_sequences: int


def factors(counts_by_model: Mapping[str, ModelCounts], *, level: float = 0.95) -> FactorsResult:
    """All tables of this perspective; rows go from small models to large, members before control."""
    if not counts_by_model:
        raise ConfigError("no models given; expected the counts of at least one")
    models = sorted(counts_by_model.values(), key=_size_rank)
    memorized, excess = _memorized_table(models, level), _excess_table(models, level)
    final = [model.label for model in final_models(models)]
    trend = trend_table(series_of(memorized, excess, final), level=level)
    return FactorsResult(
        memorized=memorized,
        excess=excess,
        bins=_rate_table((*CELL, "bin", "bin_label"), "num_chosen", _bin_counts(models), level),
        num_matched=_rate_table((*CELL, "num_matched"), "num_chosen", _histogram(models, "num_matched"), level),
        first_mismatch=_rate_table(
            (*CELL, "first_mismatch"), "num_chosen", _histogram(models, "first_mismatch"), level
        ),
        repeats=_rate_table((*CELL, "num_repeats"), "num_memorized", _repeat_counts(models), level),
        repeat_classes=_repeat_classes(models, level),
        steps=_steps_table(models, memorized),
        trend=trend,
        finding=find_size_effect(final, memorized, excess, trend, level=level),
    )


def final_models(models: Iterable[ModelCounts]) -> list[ModelCounts]:
    """The last checkpoint of each source: intermediate ones, or twins, would count one training run twice."""
    last: dict[str, ModelCounts] = {}
    for model in models:
        if model.source not in last or _step_rank(model) > _step_rank(last[model.source]):
            last[model.source] = model
    return list(last.values())


def _step_rank(model: ModelCounts) -> float:
    return float("inf") if model.training_step is None else model.training_step


def _size_rank(model: ModelCounts) -> tuple[int, int, str, float, str]:
    sizes = model.num_non_embedding_parameters, model.num_parameters
    return *sizes, model.source, _step_rank(model), model.label


def _keys(model: ModelCounts, stratum: Stratum) -> dict[str, Value]:
    return {
        **dict.fromkeys(CELL),
        "model": model.label,
        **{name: getattr(model, name) for name in MODEL[1:]},
        **{name: getattr(stratum, name) for name in CELL[len(MODEL) :]},
    }


def _cells(models: Iterable[ModelCounts]) -> Iterator[tuple[dict[str, Value], Stratum, StratumCounts]]:
    for model in models:
        for stratum, counts in model.counts.over_repeats().strata.items():
            yield _keys(model, stratum), stratum, counts


def _rate_table(keys: Sequence[str], count: str, counts: Iterable[_Count], level: float) -> pa.Table:
    return make_table((*keys, count, *RATE), _rates(count, counts, level))


def _rates(name: str, counts: Iterable[_Count], level: float) -> list[dict[str, Value]]:
    rows = list(counts)
    numerators, totals = [row.num_chosen for row in rows], [row.num_sequences for row in rows]
    low, high = intervals.wilson(numerators, totals, level)
    return [
        {
            **row.keys,
            name: row.num_chosen,
            "num_sequences": row.num_sequences,
            "share": row.num_chosen / row.num_sequences if row.num_sequences else None,
            "share_low": float(low[i]),
            "share_high": float(high[i]),
            "small_stratum": row.num_sequences < SMALL_STRATUM,
        }
        for i, row in enumerate(rows)
    ]


def _memorized_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    cells = list(_cells(models))
    rates = _rates("num_memorized", [_Count(keys, c.num_memorized, c.num_sequences) for keys, _, c in cells], level)
    for row, (_, _, cell) in zip(rates, cells, strict=True):
        row["num_fragile"], row["num_fragile_memorized"] = cell.num_fragile, cell.num_fragile_memorized
    return make_table(MEMORIZED, rates)


def _excess_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    pairs: list[tuple[dict[str, Value], StratumCounts, StratumCounts]] = []
    for model in models:
        strata = model.counts.over_repeats().strata
        for stratum, counts in strata.items():
            control = strata.get(stratum._replace(group="control"))
            if stratum.group == "member" and control is not None:
                pairs.append((_keys(model, stratum), counts, control))
    return make_table(EXCESS, [_excess_row(*pair, level) for pair in pairs])


def _excess_row(keys: Row, member: StratumCounts, control: StratumCounts, level: float) -> Row:
    count, n = member.num_memorized, member.num_sequences
    control_count, control_n = control.num_memorized, control.num_sequences
    difference = intervals.newcombe(count, n, control_count, control_n, level)
    return {
        **keys,
        "num_memorized": count,
        "num_sequences": n,
        "share": count / n if n else None,
        "num_control_memorized": control_count,
        "num_control_sequences": control_n,
        "control_share": control_count / control_n if control_n else None,
        "excess": float(difference.estimate) if n and control_n else None,
        "excess_low": float(difference.low),
        "excess_high": float(difference.high),
        "small_stratum": min(n, control_n) < SMALL_STRATUM,
    }


def _bin_counts(models: Iterable[ModelCounts]) -> Iterator[_Count]:
    for keys, _, counts in _cells(models):
        for place, count in enumerate(counts.binned or ()):
            yield _Count({**keys, "bin": place, "bin_label": BIN_LABELS[place]}, count, counts.num_sequences)


def _histogram(models: Iterable[ModelCounts], name: str) -> Iterator[_Count]:
    for keys, _, counts in _cells(models):
        histogram = counts.matched if name == "num_matched" else counts.first_mismatch
        for place, count in enumerate(histogram or ()):
            yield _Count({**keys, name: place}, count, counts.num_sequences)


def _repeat_counts(models: Iterable[ModelCounts]) -> Iterator[_Count]:
    for model in models:
        for stratum, counts in model.counts.strata.items():
            if stratum.num_repeats is not None:
                keys = {**_keys(model, stratum), "num_repeats": stratum.num_repeats}
                yield _Count(keys, counts.num_memorized, counts.num_sequences)


def _repeat_classes(models: Sequence[ModelCounts], level: float) -> pa.Table:
    """Classes by the bit length of the number of repeats; their ends are the numbers seen in any model."""
    seen: defaultdict[int, set[int]] = defaultdict(set)
    sums: defaultdict[tuple[str, Stratum], list[int]] = defaultdict(lambda: [0, 0])
    by_label = {model.label: model for model in models}
    for model in models:
        for stratum, counts in model.counts.strata.items():
            if stratum.num_repeats is None:
                continue
            doubling = stratum.num_repeats.bit_length()
            seen[doubling].add(stratum.num_repeats)
            total = sums[model.label, stratum._replace(num_repeats=doubling)]
            total[0] += counts.num_memorized
            total[1] += counts.num_sequences
    counts_by_class: list[_Count] = []
    for (label, stratum), (num_memorized, num_sequences) in sums.items():
        ends = seen[stratum.num_repeats or 0]
        keys = {
            **_keys(by_label[label], stratum),
            "num_repeats_low": min(ends),
            "num_repeats_high": max(ends),
        }
        counts_by_class.append(_Count(keys, num_memorized, num_sequences))
    return _rate_table((*CELL, "num_repeats_low", "num_repeats_high"), "num_memorized", counts_by_class, level)


def _steps_table(models: Sequence[ModelCounts], memorized: pa.Table) -> pa.Table:
    """The rows of checkpoints with a known step; a final model without one has no place along the axis."""
    steps: defaultdict[str, set[int]] = defaultdict(set)
    for model in models:
        if model.training_step is not None:
            steps[model.source].add(model.training_step)
    rows: list[dict[str, Value]] = memorized.to_pylist()
    chosen = [row for row in rows if row["training_step"] is not None and len(steps[str(row["source"])]) > 1]
    return make_table(MEMORIZED, chosen)
