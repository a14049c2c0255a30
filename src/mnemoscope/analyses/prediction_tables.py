"""The tables of metrics, of scores, of calibration and of controls, row by row from one measured cell.

Axes: R rows: sequences, once for each seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from mnemoscope.analyses.columns import Row, Value
from mnemoscope.analyses.prediction_intervals import linear_share
from mnemoscope.analyses.prediction_measured import (
    MIN_CLUSTERS,
    SMALL_SCORES,
    Measured,
    Settings,
    base_rate,
    estimate,
    mean_over_seeds,
    names_for,
    sizes_of,
    spread_over_seeds,
)
from mnemoscope.analyses.prediction_metrics import FLAGGED_SHARE, says_full, tenths, weigh
from mnemoscope.analyses.prediction_units import CONTROL, TEST, Cell, Floats, Forecast, Integers, Unit

KINDS: Final = ("token", "full")


class _Pooled(NamedTuple):
    """All seeds' rows of a unit, one below the other; the weights of each seed add up to 1."""

    weight_R: Floats
    cluster_R: Integers
    sequence_R: Integers
    num_matched_R: Integers
    num_seeds: int

    def share(self, value_R: Floats, rows: np.ndarray, settings: Settings, *, per_row: int = 1) -> dict[str, Value]:
        """The weighted mean of some rows with its interval, and their numbers."""
        found = linear_share(
            value_R[rows],
            self.weight_R[rows],
            self.cluster_R[rows],
            level=settings.level,
            max_units=per_row * len(np.unique(self.sequence_R[rows])),
        )
        return {"": found.value, "_low": found.low, "_high": found.high}

    def repeat(self, num_items: int) -> _Pooled:
        """Each row as many times."""
        arrays = {name: np.repeat(getattr(self, name), num_items) for name in self._fields[:4]}
        return self._replace(**arrays)

    def sizes(self, rows: np.ndarray) -> dict[str, Value]:
        """How many distinct sequences and clusters some rows are of."""
        num_clusters = len(np.unique(self.cluster_R[rows]))
        return {
            "num_sequences": len(np.unique(self.sequence_R[rows])),
            "num_clusters": num_clusters,
            "num_seeds": self.num_seeds,
            "small_stratum": num_clusters < MIN_CLUSTERS,
        }


def keys_of(cell: Cell, unit: Unit) -> dict[str, Value]:
    """The columns that name a unit of a cell."""
    return {
        **{"model": cell.model, "trained_on": unit.trained_on, "context": cell.context},
        **{"continuation": cell.continuation, "task": unit.task, "predictor": unit.predictor, "prior": unit.prior},
    }


def metric_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """Every metric of every unit."""
    for unit, values in measured.values.items():
        forecasts = measured.cell.forecasts[unit]
        keys = {**keys_of(measured.cell, unit), "split": unit.split}
        sizes = sizes_of(forecasts)
        for metric in names_for(unit.prior):
            found = estimate(metric, mean_over_seeds(values, metric), forecasts, unit.prior, settings)
            rate = base_rate(metric, forecasts, unit.prior)
            yield {
                **{**keys, "metric": metric, "value": found.value, "value_low": found.low, "value_high": found.high},
                "seed_spread": spread_over_seeds([float(some[metric][0]) for some in values]),
                "base_rate": rate,
                **sizes._asdict(),
                "small_stratum": sizes.is_small(metric),
                "interval_method": found.method,
                "note": found.note or _note(metric, rate, forecasts, unit),
            }


def score_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """Token and full accuracy for each num_matched of each unit of the test split."""
    for unit, forecasts in _units(measured.cell, TEST):
        pooled = _pool(forecasts, unit.prior)
        right = [forecast.predicted_RI == forecast.matched_RI for forecast in forecasts]
        tokens_R = np.concatenate([some.mean(axis=1) for some in right])
        full_R = np.concatenate([some.all(axis=1) for some in right]).astype(np.float64)
        fully = float(pooled.weight_R @ full_R)
        for score in np.unique(pooled.num_matched_R).tolist():
            rows = np.flatnonzero(pooled.num_matched_R == score)
            tokens = pooled.share(tokens_R, rows, settings, per_row=measured.cell.continuation)
            full = pooled.share(full_R, rows, settings)
            yield {
                **{**keys_of(measured.cell, unit), "num_matched": score},
                **{f"token_accuracy{end}": value for end, value in tokens.items()},
                **{f"full_accuracy{end}": value for end, value in full.items()},
                "share_of_fully_predicted": float(pooled.weight_R[rows] @ full_R[rows]) / fully if fully else None,
                **pooled.sizes(rows),
            }


def calibration_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """What came of each tenth of predicted probability, at the natural prior, for tokens and for full matches."""
    for unit, forecasts in _units(measured.cell, TEST):
        if unit.prior != "natural":
            continue
        pooled = _pool(forecasts, unit.prior)
        for kind in KINDS:
            asked = [_asked(forecast, kind) for forecast in forecasts]
            probability_RI, came_RI = (np.concatenate([pair[part] for pair in asked]) for part in (0, 1))
            bins_RI, num_items = tenths(probability_RI), probability_RI.shape[1]
            items = pooled.repeat(num_items)
            total = float(items.weight_R.sum())
            for place in np.unique(bins_RI).tolist():
                rows = np.flatnonzero(bins_RI.ravel() == place)
                weight = items.weight_R[rows]
                yield {
                    **{**keys_of(measured.cell, unit), "kind": kind, "bin": place},
                    "mean_probability": float(weight @ probability_RI.ravel()[rows] / weight.sum()),
                    **{
                        f"observed_share{end}": value
                        for end, value in items.share(came_RI.ravel(), rows, settings, per_row=num_items).items()
                    },
                    "weight_share": float(weight.sum()) / total,
                    **items.sizes(rows),
                }


def control_rows(measured: Measured, settings: Settings) -> Iterator[Row]:
    """What each unit says of text that the model never saw, by design weight, beside members."""
    cell = measured.cell
    for unit, forecasts in _units(cell, CONTROL):
        members = {f.seed: f for f in cell.forecasts.get(unit._replace(split=TEST), ())}
        pooled = _pool(forecasts, "natural")
        everything = np.arange(len(pooled.weight_R))
        probability_R = np.concatenate([f.full_probability_R for f in forecasts])
        measures = {
            "mean_full_probability": probability_R,
            "said_share": np.concatenate([says_full(f) for f in forecasts]).astype(np.float64),
        }
        known = all(f.seed in members for f in forecasts)
        if known:
            measures["flagged_share"] = np.concatenate([_flagged(f, members[f.seed]) for f in forecasts])
        shares = {name: pooled.share(value_R, everything, settings) for name, value_R in measures.items()}
        shares.setdefault("flagged_share", {"": None, "_low": None, "_high": None})
        beside = [float(_natural(m) @ m.full_probability_R) for m in members.values()]
        yield {
            **keys_of(cell, unit),
            **{f"{name}{end}": value for name, share in shares.items() for end, value in share.items()},
            "member_mean_full_probability": float(np.mean(beside)) if beside else None,
            "full_share": float(pooled.weight_R @ np.concatenate([f.is_full for f in forecasts])) / pooled.num_seeds,
            **pooled.sizes(everything),
        }


def _units(cell: Cell, split: str) -> Iterator[tuple[Unit, Sequence[Forecast]]]:
    return ((unit, forecasts) for unit, forecasts in cell.forecasts.items() if unit.split == split)


def _pool(forecasts: Sequence[Forecast], prior: str) -> _Pooled:
    weights = [weigh(np.ones((1, len(f.cluster_R))), f, prior)[0] for f in forecasts]
    return _Pooled(
        np.concatenate(weights),
        np.concatenate([f.cluster_R for f in forecasts]),
        np.concatenate([f.sequence_id_R for f in forecasts]),
        np.concatenate([f.num_matched_R for f in forecasts]),
        len(forecasts),
    )


def _asked(forecast: Forecast, kind: str) -> tuple[Floats, Floats]:
    """Probabilities and what came, a column for each index, or one for the whole."""
    if kind == "token":
        return forecast.probability_RI, forecast.matched_RI.astype(np.float64)
    return forecast.full_probability_R[:, None], forecast.is_full[:, None].astype(np.float64)


def _natural(forecast: Forecast) -> Floats:
    return forecast.design_weight_R / forecast.design_weight_R.sum()


def _flagged(control: Forecast, members: Forecast) -> Floats:
    """Of each control, whether it would be flagged where 1 % of members are; at the threshold as many as of members."""
    weight_R = _natural(members)
    order = np.argsort(-members.full_probability_R, kind="stable")
    reached = np.searchsorted(np.cumsum(weight_R[order]), FLAGGED_SHARE * (1 - 1e-12))
    threshold = members.full_probability_R[order[min(reached, len(order) - 1)]]
    above = float(weight_R[members.full_probability_R > threshold].sum())
    at = float(weight_R[members.full_probability_R == threshold].sum())
    part = min(max((FLAGGED_SHARE - above) / at, 0.0), 1.0)
    return np.where(control.full_probability_R > threshold, 1.0, part * (control.full_probability_R == threshold))


def _note(metric: str, rate: float | None, forecasts: Sequence[Forecast], unit: Unit) -> str | None:
    """How far to trust a number."""
    if metric == "recall_at_1_percent" and rate is not None and rate > FLAGGED_SHARE:
        return f"at most {100 * FLAGGED_SHARE / rate:.0f} % can be found: full matches are {100 * rate:.2g} % of all"
    if unit.prior == "balanced":
        present, possible = len(np.unique(forecasts[0].num_matched_R)), forecasts[0].matched_RI.shape[1] + 1
        if present < possible:
            return SMALL_SCORES.format(present, possible)
    return None
