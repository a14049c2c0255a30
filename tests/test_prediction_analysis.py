"""Perspective 5: tables against cases worked by hand, verdicts where the truth is known, and what cannot be meant."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mnemoscope.analyses.prediction import prediction
from mnemoscope.errors import ConfigError
from predicted_samples import SKILLS, forecast, predictions, simulate, study

CONTEXT_ONLY = {key: skill for key, skill in SKILLS.items() if key[0] == "context"}


def rows_of(table, **keys):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in keys.items())]


def one_row(table, **keys):
    (row,) = rows_of(table, **keys)
    return row


def analyze(table, **settings):
    return prediction(table, **{"num_resamples": 200, **settings})


def by_hand(matched, predicted, *, full=None, probability=None, cluster=None, weight=None, split="test", **names):
    """A table of answers written out."""
    matched, predicted = np.array(matched, bool), np.array(predicted, bool)
    size = len(matched)
    sample = {
        "sequence_id": np.arange(size),
        "cluster": np.arange(size) if cluster is None else np.array(cluster),
        "num_matched": matched.sum(axis=1),
        "matched": matched,
        "design_weight": np.ones(size) if weight is None else np.array(weight, float),
        "split": split,
    }
    probability = predicted * 0.8 + 0.1 if probability is None else np.array(probability)
    answer = {
        "probability": probability,
        "predicted": predicted,
        "full_match_probability": probability.prod(axis=1) if full is None else np.array(full),
        "expected_matched": probability.sum(axis=1),
    }
    return predictions(sample, answer, **names)


def test_planted_gain_holds():
    """A predictor that knows more than every baseline is said to beat them, with the gain's interval above zero."""
    result = analyze(study())
    figures = result.finding.figures
    assert result.finding.verdict == "holds"
    assert (figures["model"], figures["num_baselines"], figures["num_baselines_beaten"]) == ("big", 3, 3)
    assert figures["context_token_accuracy_gain_low"] > 0
    assert "it beats every baseline" in result.finding.sentence
    assert "80.3 % and 10.9 % (n = 16, 12B) are of other data" in result.finding.sentence


def test_a_baseline_that_knows_more_makes_it_fail():
    """Where boosting knows far more than the predictor, the claim fails and boosting is named."""
    result = analyze(study({**CONTEXT_ONLY, ("context", "boosting"): 2.0}))
    assert result.finding.verdict == "fails"
    assert "boosting being surely ahead" in result.finding.sentence
    assert result.finding.figures["context_token_accuracy_gain_high"] < 0


@pytest.mark.parametrize("skill", [0.0, 0.6])
def test_equal_predictors_decide_nothing(skill):
    """Of 20 studies where no predictor knows more than another at most 2 hold and 3 fail; each is due about 1."""
    skills = {("context", name): skill for name in ("transformer", "majority", "logistic", "boosting")}
    verdicts = [
        analyze(study(skills, models=("big",), seeds=(0,), controls=False, seed=seed, num_rows=102)).finding.verdict
        for seed in range(20)
    ]
    assert verdicts.count("holds") <= 2
    assert verdicts.count("fails") <= 3


def test_gain_intervals_miss_zero_at_their_level():
    """Of 60 pairs of equally skilled predictors about 3 intervals miss a gain of zero, for each metric at most 9."""
    missed = {"token_accuracy": 0, "full_accuracy": 0, "full_pr_auc": 0}
    for seed in range(60):
        sample = simulate(102, seed=seed)
        answers = (forecast(sample, skill=1.5, seed=2 * seed + place) for place in (0, 1))
        tables = [
            predictions(sample, a, predictor=p) for a, p in zip(answers, ("transformer", "boosting"), strict=True)
        ]
        for row in rows_of(analyze(pa.concat_tables(tables)).gains, role="baseline"):
            missed[row["metric"]] += not row["gain_low"] <= 0 <= row["gain_high"]
    assert max(missed.values()) <= 9


def test_gain_by_hand():
    """Ours has 5 of 6 tokens and 1 of 2 sequences right, the baseline 3 of 6 and none: +1/3 and +1/2."""
    ours = by_hand([[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [0, 0, 1]], prior="natural")
    base = by_hand([[1, 1, 1], [0, 0, 0]], [[1, 0, 1], [0, 1, 1]], prior="natural", predictor="logistic")
    table = analyze(pa.concat_tables([ours, base])).gains
    row = one_row(table, metric="token_accuracy", role="baseline")
    assert (row["value"], row["against_value"], row["gain"]) == pytest.approx((5 / 6, 1 / 2, 1 / 3))
    assert one_row(table, metric="full_accuracy", role="baseline")["gain"] == pytest.approx(1 / 2)
    assert (row["num_sequences"], row["num_full_matches"], row["small_stratum"]) == (2, 1, True)


def test_best_baseline_is_the_highest_by_metric():
    """The row of the best baseline is that of the highest value on the test, for each metric its own."""
    gains = analyze(study(models=("big",))).gains
    for metric in ("token_accuracy", "full_accuracy", "full_pr_auc"):
        keys = {"task": "context", "prior": "balanced", "metric": metric}
        rows = rows_of(gains, role="baseline", **keys)
        best = one_row(gains, role="best baseline", **keys)
        assert best["against_value"] == max(row["against_value"] for row in rows)
        assert best["gain"] == min(row["gain"] for row in rows)
    against = {row["against"] for row in rows_of(gains, task="context", role="baseline")}
    assert against == {"majority", "logistic", "boosting"}


def test_baselines_of_the_context_stand_beside_the_decode():
    """What needs no decode is a baseline of the decode too; a baseline that reads it is none of the context."""
    skills = {**SKILLS, ("decode", "boosting"): 1.0}
    gains = analyze(study(skills, models=("big",), controls=False)).gains
    named = {(row["task"], row["against_task"], row["against"]) for row in rows_of(gains, role="baseline")}
    assert ("decode", "context", "majority") in named
    assert ("decode", "decode", "boosting") in named
    assert ("context", "decode", "boosting") not in named


def test_holm_over_models():
    """The smallest p-value of three models of one comparison is tripled; that of one model stays."""
    three = rows_of(
        analyze(study(CONTEXT_ONLY, models=("a", "b", "c"), controls=False)).gains,
        metric="token_accuracy",
        role="best baseline",
        prior="balanced",
    )
    lowest = min(three, key=lambda row: row["p_value"])
    assert len(three) == 3
    assert lowest["p_holm"] == pytest.approx(min(1, 3 * lowest["p_value"]))
    for row in analyze(study(CONTEXT_ONLY, models=("a",), controls=False)).gains.to_pylist():
        assert row["p_holm"] == row["p_value"]


def test_other_test_sequences_are_compared_where_they_meet():
    """The original tested on rows 2 to 5, ours on 0 to 3: the gain is of rows 2 and 3; without any in common, none."""
    matched = [[1, 1], [1, 0], [0, 1], [0, 0], [1, 1], [1, 0]]
    predicted = [[0, 0], [0, 1], [0, 1], [0, 1], [0, 0], [0, 0]]
    ours = by_hand(matched, predicted, task="decode", prior="natural").slice(0, 4)
    right = by_hand(matched, matched, task="decode", prior="natural", predictor="original")
    keys = {"metric": "token_accuracy", "against": "original"}
    row = one_row(analyze(pa.concat_tables([ours, right.slice(2)])).gains, **keys)
    assert (row["value"], row["against_value"], row["num_sequences"]) == (pytest.approx(3 / 4), pytest.approx(1), 2)
    row = one_row(analyze(pa.concat_tables([ours, right.slice(4)])).gains, **keys)
    assert (row["gain"], row["num_sequences"]) == (None, 0)
    assert row["note"] == "no test sequence in common"


def test_seeds_are_averaged():
    """Two seeds with 3 and 2 of 4 tokens right: 5/8, and a standard deviation of sqrt(2)/8 over seeds."""
    matched = [[1, 1], [0, 0]]
    one = by_hand(matched, [[1, 1], [0, 1]], prior="natural", seed=0)
    two = by_hand(matched, [[1, 0], [0, 1]], prior="natural", seed=1)
    row = one_row(analyze(pa.concat_tables([one, two])).metrics, metric="token_accuracy")
    assert (row["value"], row["seed_spread"], row["num_seeds"]) == pytest.approx((5 / 8, np.sqrt(2) / 8, 2))
    assert row["num_sequences"] == 2


def test_accuracy_by_score_by_hand():
    """Score 0: 3 of 4 tokens and 1 of 2 sequences right; score 2: none; the one right sequence is of score 0."""
    table = by_hand([[0, 0], [0, 0], [1, 1]], [[0, 0], [0, 1], [0, 0]])
    low, high = analyze(table).by_score.to_pylist()
    assert (low["num_matched"], high["num_matched"]) == (0, 2)
    assert (low["token_accuracy"], low["full_accuracy"]) == pytest.approx((3 / 4, 1 / 2))
    assert (high["token_accuracy"], high["full_accuracy"]) == (0, 0)
    assert (low["share_of_fully_predicted"], high["share_of_fully_predicted"]) == (1, 0)
    assert (low["num_sequences"], high["num_sequences"], high["num_clusters"]) == (2, 1, 1)
    assert high["token_accuracy_high"] > 0.7


def test_calibration_by_hand():
    """Tokens: of two said 0.15, with weights 1 and 3, the second matches: 3/4 in bin 1, a half of all weight."""
    table = by_hand(
        [[0, 1], [1, 1]], [[0, 1], [0, 1]], probability=[[0.15, 0.95], [0.15, 0.95]], weight=[1, 3], prior="natural"
    )
    bins = {(row["kind"], row["bin"]): row for row in analyze(table).calibration.to_pylist()}
    assert set(bins) == {("token", 1), ("token", 9), ("full", 1)}
    row = bins["token", 1]
    assert (row["mean_probability"], row["observed_share"], row["weight_share"]) == pytest.approx((0.15, 3 / 4, 1 / 2))
    assert bins["token", 9]["observed_share"] == pytest.approx(1)
    assert bins["full", 1]["observed_share"] == pytest.approx(3 / 4)


def test_controls_by_hand():
    """The threshold of the first 1 % of members' weight is 0.8: of four controls one is above it and one ties.

    Of the members with 0.8, which weigh 2 %, one half is flagged; so is one half of the control that ties.
    """
    members = by_hand(np.zeros((4, 2)), np.zeros((4, 2)), full=[0.8, 0.8, 0.2, 0.1], weight=[1, 1, 49, 49])
    control = by_hand(np.eye(4, 2), np.zeros((4, 2)), full=[0.9, 0.8, 0.3, 0.0], split="control")
    row = one_row(analyze(pa.concat_tables([members, control])).controls)
    assert row["flagged_share"] == pytest.approx((1 + 0.5) / 4)
    assert row["mean_full_probability"] == pytest.approx(0.5)
    assert row["member_mean_full_probability"] == pytest.approx(0.01 * (0.8 + 0.8) + 0.49 * 0.3)
    assert (row["said_share"], row["full_share"], row["num_sequences"]) == (0, 0, 4)


def test_transfer_stands_beside_the_models_own():
    """A predictor trained on another model, and the loss: own value minus the transferred one."""
    matched = [[1, 1], [0, 0], [1, 0]]
    own = by_hand(matched, matched, prior="natural")
    borrowed = by_hand(matched, [[1, 1], [0, 0], [0, 1]], prior="natural", trained_on="small")
    row = one_row(analyze(pa.concat_tables([own, borrowed])).transfer, metric="token_accuracy")
    assert (row["model"], row["trained_on"]) == ("big", "small")
    assert (row["value"], row["own_value"], row["loss"]) == pytest.approx((2 / 3, 1, 1 / 3))
    alone = one_row(analyze(borrowed).transfer, metric="token_accuracy")
    assert (alone["value"], alone["own_value"], alone["loss"]) == (pytest.approx(2 / 3), None, None)
    assert "no predictor of this kind" in alone["note"]


def test_transferred_predictors_compete_with_none():
    """Gains are between predictors that learned from the model's own traces."""
    own, borrowed = study(models=("big",), controls=False), study(models=("big",), controls=False)
    borrowed = borrowed.set_column(1, "trained_on", pa.array(["small"] * len(borrowed)))
    together = analyze(pa.concat_tables([own, borrowed]))
    assert together.gains.equals(analyze(own).gains)


def test_order_of_rows_says_nothing():
    """The table shuffled within a model gives the same tables and sentence."""
    table = study(models=("big",))
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    one, two = analyze(table), analyze(shuffled)
    assert one.finding.sentence == two.finding.sentence
    for name in one.tables:
        keys = ("task", "predictor", "prior")
        order = [(column, "ascending") for column in one.tables[name].column_names if column in keys]
        assert sorted(map(str, one.tables[name].sort_by(order).to_pylist())) == sorted(
            map(str, two.tables[name].sort_by(order).to_pylist())
        )


def test_another_model_changes_nothing_of_this_one():
    """What is said of a model is the same with others in the study, but for the adjustment over models."""
    both, alone = analyze(study()), analyze(study(models=("small",)))
    for name in ("metrics", "by_score", "calibration", "controls"):
        table = both.tables[name]
        assert table.filter(pc.equal(table["model"], "small")).equals(alone.tables[name])


def test_the_reference_cell_is_the_largest_models():
    """Last model, shortest context, and n = 16 where it is there, else the shortest."""
    figures = analyze(study(CONTEXT_ONLY, lengths=(8, 16, 24), controls=False, num_rows=50)).finding.figures
    assert (figures["model"], figures["context"], figures["continuation"]) == ("big", 32, 16)
    figures = analyze(study(CONTEXT_ONLY, lengths=(8, 24), controls=False, num_rows=50)).finding.figures
    assert figures["continuation"] == 8


def test_nothing_to_compare_is_said_so():
    """Without a context predictor, without a baseline, without any row: undecided, in words."""
    empty = analyze(study().slice(0, 0)).finding
    assert (empty.verdict, empty.sentence) == (
        "undecided",
        "No predictor was tested on the model that it learned from.",
    )
    decode = {key: skill for key, skill in SKILLS.items() if key[0] == "decode"}
    finding = analyze(study(decode, models=("big",))).finding
    assert (finding.verdict, "no predictor of big from the context alone" in finding.sentence) == ("undecided", True)
    bare = analyze(study({("context", "transformer"): 1.0}, models=("big",))).finding
    assert (bare.verdict, "no baseline was tested" in bare.sentence) == ("undecided", True)


def test_columns_say_what_they_are():
    """Every column of every table has a meaning; the result is JSON as it is stored."""
    result = analyze(study(models=("big",), num_rows=51))
    for table in result.tables.values():
        for field in table.schema:
            assert field.metadata[b"meaning"], field.name
    assert json.loads(json.dumps(dict(result.finding.figures)))["model"] == "big"


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("probability", [[1.5] * 16], "not from 0 to 1"),
        ("full_match_probability", [float("nan")], "not from 0 to 1"),
        ("num_matched", [99], "not the number of matched"),
        ("prior", ["flat"], "expected balanced or natural"),
        ("task", ["oracle"], "expected context or decode"),
        ("design_weight", [0.0], "design_weight positive"),
        ("matched", [[True] * 15], "not its continuation's 16 items"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused(column, value, word):
    """One row that cannot be a forecast is named by its predictor and refused."""
    table = predictions(simulate(20), forecast(simulate(20), skill=1, seed=0))
    place = table.column_names.index(column)
    changed = pa.array(value + table[column].to_pylist()[1:], table.schema.field(column).type)
    with pytest.raises(ConfigError, match=word):
        analyze(table.set_column(place, column, changed))


def test_missing_columns_and_doubled_rows_are_refused():
    """A column that lacks is named; a sequence that is predicted twice too."""
    table = predictions(simulate(20), forecast(simulate(20), skill=1, seed=0))
    with pytest.raises(ConfigError, match="no column cluster"):
        analyze(table.drop_columns(["cluster"]))
    with pytest.raises(ConfigError, match="sequence 1 twice"):
        analyze(pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ConfigError, match="expected 20 or more"):
        prediction(table, num_resamples=2)


def test_analysis_needs_no_torch():
    """Importing the analysis does not import torch or scikit-learn."""
    code = "import sys, mnemoscope.analyses.prediction; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "False",
    ]
