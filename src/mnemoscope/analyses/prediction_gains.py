"""Paired differences between predictors: ours against every other one, and a transferred one against the model's own.

Both are of the same sequences in the same resamples of clusters. Which baseline is the best is seen on the test split
itself: that flatters the baseline, and makes the gain over it smaller than it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from mnemoscope.analyses.columns import Row, Value
from mnemoscope.analyses.prediction_intervals import Estimate, bootstrap_p, estimate_number
from mnemoscope.analyses.prediction_measured import (
    Measured,
    Settings,
    Sizes,
    estimate,
    mean_over_seeds,
    sizes_of,
    spread_over_seeds,
)
from mnemoscope.analyses.prediction_metrics import Values, measure
from mnemoscope.analyses.prediction_tables import keys_of
from mnemoscope.analyses.prediction_units import OURS, TEST, Cell, Forecast, Unit, role_of
from mnemoscope.analyses.size_finding import Amount, difference
from mnemoscope.intervals import holm

GAIN_METRICS: Final = ("token_accuracy", "full_accuracy", "full_pr_auc")
TRANSFER_METRICS: Final = ("token_accuracy", "full_accuracy", "token_roc_auc", "full_pr_auc", "full_roc_auc")
BEST: Final = "best baseline"
NOTHING_SHARED: Final = "no test sequence in common"
_COMPARISON: Final = ("context", "continuation", "task", "prior", "metric", "role")


class _Pair(NamedTuple):
    """Two units over the sequences that both predict, seed by seed."""

    unit: Unit
    other: Unit
    sizes: Sizes | None
    """None where they share no sequence."""
    forecasts: Sequence[Forecast]
    values: Sequence[Values]
    other_forecasts: Sequence[Forecast]
    other_values: Sequence[Values]


def gain_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """Our predictor's gain over every other one, at each task and prior; the best baseline's row stands twice."""
    for unit in _own_units(measured, OURS):
        pairs = [
            _pair(measured, unit, other, GAIN_METRICS)
            for other in _own_units(measured)
            if other != unit and other.prior == unit.prior and _is_compared(unit, other)
        ]
        for metric in GAIN_METRICS:
            yield from _with_best([_gain_row(measured.cell, pair, metric, settings) for pair in pairs])


def adjust(rows: Sequence[Row]) -> list[Row]:
    """The rows of gains with their p-values Holm-adjusted over the models of the same comparison."""
    families: dict[tuple[Value, ...], list[int]] = {}
    for place, row in enumerate(rows):
        if row["p_value"] is not None:
            families.setdefault(_comparison(row), []).append(place)
    adjusted: list[dict[str, Value]] = [dict(row) for row in rows]
    for places in families.values():
        for place, p in zip(places, holm([_number(rows[place]["p_value"]) for place in places]), strict=True):
            adjusted[place]["p_holm"] = float(p)
    return list(adjusted)


def transfer_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """Every predictor that learned from another model's traces, beside the same one that learned from this one's."""
    for unit in measured.values:
        own = unit._replace(trained_on=measured.cell.model)
        if unit == own or unit.split != TEST:
            continue
        pair = _pair(measured, own, unit, TRANSFER_METRICS) if own in measured.values else None
        for metric in TRANSFER_METRICS:
            yield _transfer_row(measured, unit, metric, pair, settings)


def _own_units(measured: Measured, predictor: str | None = None) -> list[Unit]:
    """Units of the test split that learned from the model's own traces."""
    return [
        unit
        for unit in measured.values
        if unit.split == TEST and unit.trained_on == measured.cell.model and predictor in {None, unit.predictor}
    ]


def _is_compared(unit: Unit, other: Unit) -> bool:
    """Baselines know what the task allows: those of the decode are no measure of what knows the context alone."""
    return role_of(other.predictor) != "baseline" or other.task in {unit.task, "context"}


def _gain_row(cell: Cell, pair: _Pair, metric: str, settings: Settings) -> dict[str, Value]:
    keys, other = keys_of(cell, pair.unit), pair.other
    row: dict[str, Value] = {
        **{name: value for name, value in keys.items() if name != "trained_on"},
        **{"metric": metric, "role": role_of(other.predictor), "against_task": other.task, "against": other.predictor},
        **dict.fromkeys(("value", "against_value", "gain", "gain_low", "gain_high", "gain_seed_spread", "p_value")),
        **{"p_holm": None, "num_sequences": 0, "num_clusters": 0, "num_seeds": 0, "num_full_matches": 0},
        **{"small_stratum": True, "note": NOTHING_SHARED},
    }
    if pair.sizes is None:
        return row
    ours_B, other_B = mean_over_seeds(pair.values, metric), mean_over_seeds(pair.other_values, metric)
    found = _difference(pair, metric, settings)
    gains = [float(one[metric][0] - two[metric][0]) for one, two in zip(pair.values, pair.other_values, strict=True)]
    return {
        **row,
        **{"value": _known(ours_B[0]), "against_value": _known(other_B[0]), "gain": found.value},
        **{"gain_low": found.low, "gain_high": found.high, "gain_seed_spread": spread_over_seeds(gains)},
        **{"p_value": bootstrap_p(ours_B - other_B), **pair.sizes._asdict()},
        **{"small_stratum": pair.sizes.is_small(metric), "note": found.note},
    }


def _with_best(rows: Sequence[dict[str, Value]]) -> Iterator[Row]:
    """The rows, led by that of the baseline with the highest value, as one of its own."""
    known = [row for row in rows if row["role"] == "baseline" and row["against_value"] is not None]
    if known:
        yield {**max(known, key=lambda row: _number(row["against_value"])), "role": BEST}
    yield from rows


def _difference(pair: _Pair, metric: str, settings: Settings) -> Estimate:
    """The difference with its interval.

    Where every resample has the same difference, of shares of 0 or 1, the interval is that of independent ones: that
    neither was right in these sequences does not say that they are equally rarely right in others.
    """
    one_B, other_B = mean_over_seeds(pair.values, metric), mean_over_seeds(pair.other_values, metric)
    found = estimate_number(one_B - other_B, level=settings.level)
    if found.value is None or found.low is not None:
        return found
    one = estimate(metric, one_B, pair.forecasts, pair.unit.prior, settings)
    other = estimate(metric, other_B, pair.other_forecasts, pair.unit.prior, settings)
    if one.low is None or other.low is None:
        return found
    apart = difference(_amount(one), _amount(other))
    return Estimate(apart.value, apart.low, apart.high, None, "no scatter: the interval of independent shares")


def _amount(estimate: Estimate) -> Amount:
    return Amount(*(_number(end) for end in estimate[:3]))


def _transfer_row(
    measured: Measured, unit: Unit, metric: str, pair: _Pair | None, settings: Settings
) -> dict[str, Value]:
    """The transferred predictor on the sequences that both predict; on all of its own where there is no other."""
    forecasts, values = measured.cell.forecasts[unit], measured.values[unit]
    own, loss, note = None, None, "no predictor of this kind learned from the model itself"
    if pair is not None and pair.sizes is not None:
        forecasts, values = pair.other_forecasts, pair.other_values
        own_B = mean_over_seeds(pair.values, metric)
        own = estimate(metric, own_B, pair.forecasts, unit.prior, settings)
        loss = _difference(pair, metric, settings)
        note = loss.note
    elif pair is not None:
        note = NOTHING_SHARED
    found = estimate(metric, mean_over_seeds(values, metric), forecasts, unit.prior, settings)
    sizes = sizes_of(forecasts)
    return {
        **{**keys_of(measured.cell, unit), "metric": metric},
        **{
            f"{name}{end}": value
            for name, some in (("value", found), ("own_value", own), ("loss", loss))
            for end, value in zip(("", "_low", "_high"), some[:3] if some else (None,) * 3, strict=True)
        },
        **sizes._asdict(),
        **{"small_stratum": sizes.is_small(metric), "note": found.note or note},
    }


def _pair(measured: Measured, unit: Unit, other: Unit, metrics: tuple[str, ...]) -> _Pair:
    """Seeds of one name go together; a seed that the other lacks is compared with the other's first.

    The other may have been tested elsewhere (the original's split): then both are measured anew, where they meet.
    """
    ones, others = measured.cell.forecasts[unit], measured.cell.forecasts[other]
    place_by_seed = {forecast.seed: place for place, forecast in enumerate(others)}
    places = [(place, place_by_seed.get(one.seed, 0)) for place, one in enumerate(ones)]
    resamples, kept = measured.resamples[TEST], list[tuple[Forecast, Values, Forecast, Values]]()
    for place, other_place in places:
        one, two = ones[place], others[other_place]
        values, other_values = measured.values[unit][place], measured.values[other][other_place]
        if not np.array_equal(one.sequence_id_R, two.sequence_id_R):
            shared = np.intersect1d(one.sequence_id_R, two.sequence_id_R)
            if not len(shared):
                continue
            one, two = (f.take(np.searchsorted(f.sequence_id_R, shared)) for f in (one, two))
            values, other_values = (measure(f, unit.prior, resamples, metrics) for f in (one, two))
        kept.append((one, values, two, other_values))
    if not kept:
        return _Pair(unit, other, None, (), (), (), ())
    ones = [one for one, _, _, _ in kept]
    return _Pair(
        unit=unit,
        other=other,
        sizes=sizes_of(ones),
        forecasts=ones,
        values=[some for _, some, _, _ in kept],
        other_forecasts=[two for _, _, two, _ in kept],
        other_values=[some for *_, some in kept],
    )


def _comparison(row: Row) -> tuple[Value, ...]:
    """The family of a gain: of the best baseline whatever it is called."""
    return (
        *(row[name] for name in _COMPARISON),
        *(() if row["role"] == BEST else (row["against_task"], row["against"])),
    )


def _number(value: Any) -> float:
    return float(value)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
