"""The columns of the prediction tables, and which table has which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mnemoscope.analyses.columns import COLUMNS, COUNT, FLAG, LENGTH, REAL, TEXT, Column

_UNIT = "1; num_matched errors in tokens"


def _with_ends(name: str, meaning: str, unit: str = "1") -> dict[str, Column]:
    ends = {f"{name}_{end}": Column(REAL, f"{end}er end of the interval of {name}", unit) for end in ("low", "high")}
    return {name: Column(REAL, meaning, unit), **ends}


PREDICTION_COLUMNS: Final[Mapping[str, Column]] = {
    **{name: COLUMNS[name] for name in ("context", "continuation", "num_matched", "p_value", "note")},
    "model": Column(TEXT, "label of the model whose generation is predicted"),
    "trained_on": Column(TEXT, "label of the model that the predictor learned from; another one: transfer"),
    "task": Column(
        TEXT,
        "context: known before decoding (smaller, earlier: another run's answer); decode: its own decode",
    ),
    "predictor": Column(TEXT, "the predictor's name"),
    "prior": Column(TEXT, "balanced: every num_matched counts the same; natural: by design weight"),
    "split": Column(TEXT, "test: members that no predictor learned from; control: held-out text"),
    "metric": Column(TEXT, "what is measured"),
    **_with_ends("value", "the metric, mean over seeds; null where undefined", _UNIT),
    "seed_spread": Column(REAL, "standard deviation of the value over seeds; null for one seed", _UNIT),
    "base_rate": Column(REAL, "weighted share of positives: PR-AUC of a guess; null where there is no class", "1"),
    "interval_method": Column(TEXT, "how the interval was found; always of new sequences for these trained predictors"),
    "num_sequences": Column(COUNT, "sequences behind the value", "sequences"),
    "num_clusters": Column(COUNT, "clusters of duplicates among them: the independent units", "clusters"),
    "num_seeds": Column(COUNT, "trainings of the predictor", "seeds"),
    "num_full_matches": Column(COUNT, "sequences among them whose whole continuation matched", "sequences"),
    "small_stratum": Column(
        FLAG, "fewer than 30 clusters; for metrics of full matches, fewer than 10 sequences of either class too"
    ),
    **_with_ends("token_accuracy", "share of continuation tokens rightly said to match or not, mean over seeds"),
    **_with_ends("full_accuracy", "share of sequences with every token right, mean over seeds"),
    "share_of_fully_predicted": Column(REAL, "of all sequences with every token right, the part of this score", "1"),
    "kind": Column(TEXT, "what is predicted: token (it matches) or full (all of them do)"),
    "bin": Column(LENGTH, "bin of the predicted probability, tenths, 0 to 9"),
    "mean_probability": Column(REAL, "weighted mean of the predicted probability", "1"),
    **_with_ends("observed_share", "weighted share that did match"),
    "weight_share": Column(REAL, "part of all weight that falls into the bin", "1"),
    "role": Column(TEXT, "best baseline, baseline, original (the published architecture), own (ours, other variants)"),
    "against_task": Column(TEXT, "task of the predictor that is compared with"),
    "against": Column(TEXT, "name of the predictor that is compared with"),
    "against_value": Column(REAL, "the metric of the predictor that is compared with, on the same sequences", _UNIT),
    **_with_ends("gain", "value minus against_value, on the same sequences in the same resamples", _UNIT),
    "gain_seed_spread": Column(REAL, "standard deviation of the gain over seeds; null for one seed", _UNIT),
    "p_holm": Column(REAL, "p_value, Holm-adjusted over the models of the same comparison"),
    **_with_ends("own_value", "the metric of the same predictor trained on the model's own traces", _UNIT),
    **_with_ends("loss", "own_value minus value, on the same sequences in the same resamples", _UNIT),
    **_with_ends("mean_full_probability", "weighted mean of the predicted probability of a full match"),
    "member_mean_full_probability": Column(REAL, "the same over the members of the test split", "1"),
    **_with_ends("flagged_share", "share with a probability as high as the 1 % of members that are flagged first"),
    **_with_ends("said_share", "share of which the predictor says that every token matches"),
    "full_share": Column(REAL, "share whose whole continuation did match", "1"),
}

KEY: Final = ("model", "trained_on", "context", "continuation", "task", "predictor", "prior")
SIZES: Final = ("num_sequences", "num_clusters", "num_seeds", "num_full_matches")


def ends(*names: str) -> tuple[str, ...]:
    """Each name followed by those of its interval's ends."""
    return tuple(part for name in names for part in (name, f"{name}_low", f"{name}_high"))


METRIC_TABLE: Final = (
    *(*KEY, "split", "metric", *ends("value"), "seed_spread", "base_rate", *SIZES),
    *("small_stratum", "interval_method", "note"),
)
SCORE_TABLE: Final = (
    *(*KEY, "num_matched", *ends("token_accuracy", "full_accuracy"), "share_of_fully_predicted"),
    *("num_sequences", "num_clusters", "num_seeds", "small_stratum"),
)
CALIBRATION_TABLE: Final = (
    *(*KEY, "kind", "bin", "mean_probability", *ends("observed_share"), "weight_share"),
    *("num_sequences", "num_clusters", "num_seeds", "small_stratum"),
)
GAIN_TABLE: Final = (
    *("model", "context", "continuation", "task", "predictor", "prior", "metric", "role", "against_task", "against"),
    *("value", "against_value", *ends("gain"), "gain_seed_spread", "p_value", "p_holm"),
    *(*SIZES, "small_stratum", "note"),
)
TRANSFER_TABLE: Final = (
    *(*KEY, "metric", *ends("value", "own_value", "loss")),
    *(*SIZES, "small_stratum", "note"),
)
CONTROL_TABLE: Final = (
    *(*KEY, *ends("mean_full_probability"), "member_mean_full_probability", *ends("flagged_share", "said_share")),
    *("full_share", "num_sequences", "num_clusters", "num_seeds", "small_stratum"),
)
