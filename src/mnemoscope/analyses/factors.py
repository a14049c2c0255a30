"""Factors: memorized shares by model size, context, continuation, repeats and training step.

Counts in, tables with intervals and one finding out. Full matches with n + 1 tokens are among those with n,
so a share can only fall along the continuation; whether it rises with size, and exceeds the control's, is
measured. Counts are given over rows and over unique sequences, and intervals are those of unique sequences.

Axes: C classes of a stratum's sequences, I shares of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mnemoscope import intervals
from mnemoscope.analyses import Finding
from mnemoscope.analyses.cluster_shares import METHODS, ClassCounts, IntArray, share_intervals
from mnemoscope.analyses.columns import Row, Value, make_table, tables_of
from mnemoscope.analyses.matches import NUM_BINS, MatchCounts, Stratum, StratumCounts, score_bin
from mnemoscope.analyses.size_finding import find_size_effect
from mnemoscope.analyses.trends import series_of, trend_table
from mnemoscope.errors import ConfigError

SMALL_STRATUM = 30
"""Unique sequences (rows, where duplicates are unknown) under which a stratum is flagged."""
BIN_LABELS = ("0", "(0, 0.1)", *(f"[0.{i}, 0.{i + 1})" for i in range(1, 9)), "[0.9, 1)", "1")

MODEL = ("model", "source", "num_parameters", "num_non_embedding_parameters", "training_step")
CELL = (*MODEL, "group", "context", "continuation")
ENDS = ("share", "share_low", "share_high", "interval_method", "small_stratum")
CHOSEN = ("num_chosen", "num_unique", "num_sequences", *ENDS)
MEMORIZED_RATE = ("num_memorized", "num_unique_memorized", "num_sequences", "num_unique", *ENDS)
FLIPPED = ("num_fragile", "num_fragile_memorized", "share_if_flipped_low", "share_if_flipped_high")
MEMORIZED = (*CELL, *MEMORIZED_RATE, *FLIPPED)
EXCESS = (
    *(*MODEL, "context", "continuation"),
    *("num_memorized", "num_unique_memorized", "num_sequences", "num_unique", "share"),
    *("num_control_memorized", "num_control_unique_memorized", "num_control_sequences", "num_control_unique"),
    *("control_share", "excess", "excess_low", "excess_high", "interval_method", "small_stratum"),
)


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """One model or checkpoint, and what it matched."""

    label: str
    """The model's name in tables and figures."""
    source: str
    """Where it came from; several checkpoints of one source are one training run."""
    num_parameters: int | None
    """All parameters; None where unknown."""
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
        return tables_of(self)


class _Rate(NamedTuple):
    """A share of a stratum, over rows and over unique sequences, with its interval."""

    num_chosen: float
    """An integer where sequences were counted, else an estimate."""
    num_unique_chosen: float | None
    num_sequences: int
    num_unique: int | None
    num_observed: int | None
    """Unique sequences (rows, where duplicates are unknown) that the share rests on; None for all."""
    ends: intervals.Interval
    method: str

    @property
    def share(self) -> float | None:
        """None in an empty stratum."""
        return self.num_chosen / self.num_sequences if self.num_sequences else None

    @property
    def is_small(self) -> bool:
        """Whether the stratum has too few sequences to be told from."""
        units = self.num_sequences if self.num_unique is None else self.num_unique
        return (units if self.num_observed is None else self.num_observed) < SMALL_STRATUM

    @property
    def columns(self) -> dict[str, Value]:
        """The columns `ENDS`."""
        low, high = (float(end) for end in self.ends)
        return dict(zip(ENDS, (self.share, low, high, self.method, self.is_small), strict=True))


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
        bins=_bin_table(models, level),
        num_matched=_histogram_table(models, "num_matched", level),
        first_mismatch=_histogram_table(models, "first_mismatch", level),
        repeats=_repeat_table(models, level),
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
    sizes = model.num_non_embedding_parameters, model.num_parameters or 0
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


def _rates(counts: ClassCounts, tops_CI: IntArray, level: float) -> list[_Rate]:
    """The share of all sequences that each column of `tops_CI` picks."""
    low, high, method = share_intervals(counts, tops_CI, np.ones_like(tops_CI), level)
    unique = None if counts.unique is None else (counts.unique @ tops_CI).tolist()
    second = counts.second
    return [
        _Rate(
            count,
            None if unique is None else unique[i],
            round(float(counts.rows.sum())),
            None if counts.unique is None else round(float(counts.unique.sum())),
            None if second is None else int(second.observed_unique_C.sum()),
            intervals.Interval(low[i], high[i]),
            method,
        )
        for i, count in enumerate((counts.rows @ tops_CI).tolist())
    ]


def _memorized_rate(counts: StratumCounts, level: float) -> _Rate:
    classes = counts.by_class("first_mismatch")
    if counts.first_mismatch is None:  # a published count
        others = counts.num_sequences - counts.num_memorized
        classes = ClassCounts(np.array([others, counts.num_memorized]), None, None)
    return _rates(classes, np.eye(len(classes.rows), dtype=np.int64)[:, -1:], level)[0]


def _memorized_row(keys: Row, counts: StratumCounts, level: float) -> dict[str, Value]:
    rate = _memorized_rate(counts, level)
    return {
        **keys,
        "num_memorized": _whole(rate.num_chosen),
        "num_unique_memorized": _whole(rate.num_unique_chosen),
        "num_sequences": rate.num_sequences,
        "num_unique": rate.num_unique,
        **rate.columns,
    }


def _memorized_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    cells = _cells(models)
    return make_table(MEMORIZED, [{**_memorized_row(keys, c, level), **_flipped(c)} for keys, _, c in cells])


def _flipped(counts: StratumCounts) -> Row:
    """What fragile rows could make of the share, all of them turned at once: away from a full match, or into one."""
    fragile, memorized, n = counts.num_fragile, counts.num_fragile_memorized, counts.num_sequences
    if fragile is None or memorized is None:
        return dict.fromkeys(FLIPPED)
    ends = (counts.num_memorized - memorized, counts.num_memorized + fragile - memorized)
    shares = (end / n if n else None for end in ends)
    return dict(zip(FLIPPED, (fragile, memorized, *shares), strict=True))


def _excess_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    rows: list[Row] = []
    for model in models:
        strata = model.counts.over_repeats().strata
        for stratum, counts in strata.items():
            control = strata.get(stratum._replace(group="control"))
            if stratum.group == "member" and control is not None:
                rates = _memorized_rate(counts, level), _memorized_rate(control, level)
                rows.append({**_keys(model, stratum), **_excess_row(*rates)})
    return make_table(EXCESS, rows)


def _excess_row(member: _Rate, control: _Rate) -> Row:
    share, control_share = (np.nan if rate.share is None else rate.share for rate in (member, control))
    difference = intervals.subtract(share, member.ends, control_share, control.ends)
    return {
        "num_memorized": _whole(member.num_chosen),
        "num_unique_memorized": _whole(member.num_unique_chosen),
        "num_sequences": member.num_sequences,
        "num_unique": member.num_unique,
        "share": member.share,
        "num_control_memorized": _whole(control.num_chosen),
        "num_control_unique_memorized": _whole(control.num_unique_chosen),
        "num_control_sequences": control.num_sequences,
        "num_control_unique": control.num_unique,
        "control_share": control.share,
        "excess": None if member.share is None or control.share is None else float(difference.estimate),
        "excess_low": float(difference.low),
        "excess_high": float(difference.high),
        "interval_method": min(member.method, control.method, key=METHODS.index),
        "small_stratum": member.is_small or control.is_small,
    }


def _chosen_row(keys: Row, rate: _Rate, classes: ClassCounts) -> Row:
    counts = (_whole(rate.num_chosen), _whole(rate.num_unique_chosen), rate.num_sequences)
    graded = {} if classes.second is None else {"num_known": int(classes.second.observed_C.sum())}
    return {**keys, **dict(zip(CHOSEN, counts, strict=False)), **rate.columns, **graded}


def _whole(number: float | None) -> int | None:
    """A count as it is, an estimate rounded."""
    return None if number is None else round(number)


def _with_graded(names: tuple[str, ...], rows: Sequence[Row]) -> tuple[tuple[str, ...], list[Row]]:
    """The columns, with `num_known` where some row is an estimate; of a row that is none it is all of its stratum."""
    if not any("num_known" in row for row in rows):
        return names, list(rows)
    return (*names, "num_known"), [{"num_known": row["num_sequences"], **row} for row in rows]


def _bin_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    rows: list[Row] = []
    for keys, stratum, counts in _cells(models):
        if counts.binned is None and counts.matched is None:
            continue
        classes, tops_CI = ClassCounts(np.array(counts.binned), None, None), np.eye(NUM_BINS, dtype=np.int64)
        if counts.matched is not None:
            bins = [score_bin(num_matched, stratum.continuation) for num_matched in range(stratum.continuation + 1)]
            classes, tops_CI = counts.by_class("num_matched"), tops_CI[bins]
            if not len(classes.rows):  # nobody was graded of those who are open
                continue
        for place, rate in enumerate(_rates(classes, tops_CI, level)):
            rows.append(_chosen_row({**keys, "bin": place, "bin_label": BIN_LABELS[place]}, rate, classes))
    return make_table(*_with_graded((*CELL, "bin", "bin_label", *CHOSEN), rows))


def _histogram_table(
    models: Iterable[ModelCounts], name: Literal["num_matched", "first_mismatch"], level: float
) -> pa.Table:
    """One row per number that a sequence of the stratum can have; none where the source does not say."""
    rows: list[Row] = []
    for keys, _, counts in _cells(models):
        classes = counts.by_class(name)
        for place, rate in enumerate(_rates(classes, np.eye(len(classes.rows), dtype=np.int64), level)):
            rows.append(_chosen_row({**keys, name: place}, rate, classes))
    return make_table(*_with_graded((*CELL, name, *CHOSEN), rows))


def _repeat_table(models: Iterable[ModelCounts], level: float) -> pa.Table:
    rows = [
        {**_memorized_row(_keys(model, stratum), counts, level), "num_repeats": stratum.num_repeats}
        for model in models
        for stratum, counts in model.counts.strata.items()
        if stratum.num_repeats is not None
    ]
    return make_table((*CELL, "num_repeats", *MEMORIZED_RATE), rows)


def _repeat_classes(models: Sequence[ModelCounts], level: float) -> pa.Table:
    """Classes by the bit length of the number of repeats; their ends are the numbers seen in any model."""
    seen: defaultdict[int, set[int]] = defaultdict(set)
    sums: dict[tuple[str, Stratum], StratumCounts] = {}
    by_label = {model.label: model for model in models}
    for model in models:
        for stratum, counts in model.counts.strata.items():
            if stratum.num_repeats is None:
                continue
            doubling = stratum.num_repeats.bit_length()
            seen[doubling].add(stratum.num_repeats)
            place = model.label, stratum._replace(num_repeats=doubling)
            sums[place] = sums[place] + counts if place in sums else counts
    rows: list[Row] = []
    for (label, stratum), counts in sums.items():
        numbers = seen[stratum.num_repeats or 0]
        ends = {"num_repeats_low": min(numbers), "num_repeats_high": max(numbers)}
        rows.append({**_memorized_row(_keys(by_label[label], stratum), counts, level), **ends})
    return make_table((*CELL, "num_repeats_low", "num_repeats_high", *MEMORIZED_RATE), rows)


def _steps_table(models: Sequence[ModelCounts], memorized: pa.Table) -> pa.Table:
    """The rows of checkpoints with a known step; a final model without one has no place along the axis."""
    steps: defaultdict[str, set[int]] = defaultdict(set)
    for model in models:
        if model.training_step is not None:
            steps[model.source].add(model.training_step)
    rows: list[dict[str, Value]] = memorized.to_pylist()
    chosen = [row for row in rows if row["training_step"] is not None and len(steps[str(row["source"])]) > 1]
    return make_table(MEMORIZED, chosen)
