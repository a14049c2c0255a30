"""Predictions tables of simulated sequences, with predictors whose skill is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

K, N = 32, 16


def simulate(num_rows=170, *, n=N, seed=0, split="test", score=None):
    """Sequences: scores spread evenly over 0 to n, hits at random places, design weights falling with the score."""
    rng = np.random.default_rng([seed, split == "test"])
    num_matched = np.arange(num_rows) % (n + 1) if score is None else np.full(num_rows, score)
    matched = np.argsort(np.argsort(rng.random((num_rows, n)), axis=1), axis=1) < num_matched[:, None]
    return {
        "sequence_id": np.arange(num_rows) * 3 + 1,
        "cluster": np.arange(num_rows) * 3 + 1,
        "num_matched": num_matched,
        "matched": matched,
        "design_weight": 1.0 + 50.0 * (num_matched == 0),
        "split": split,
    }


def forecast(sample, *, skill, seed, sharpness=4.0):
    """Probabilities that know each bit with noise: `skill` 0 knows nothing, large ones everything."""
    rng = np.random.default_rng([seed, 7])
    n = sample["matched"].shape[1]
    signal = skill * (2 * sample["matched"] - 1) + rng.standard_normal((len(sample["matched"]), n))
    probability = 1 / (1 + np.exp(-sharpness * signal / (1 + skill)))
    full_signal = skill * (2 * (sample["num_matched"] == n) - 1) + rng.standard_normal(len(signal))
    return {
        "probability": probability.astype(np.float32),
        "predicted": probability > 0.5,
        "full_match_probability": (1 / (1 + np.exp(-2 * full_signal))).astype(np.float32),
        "expected_matched": probability.sum(axis=1).astype(np.float32),
    }


def predictions(sample, answer, *, model="big", trained_on=None, task="context", predictor="transformer", seed=0,
                prior="balanced", k=K):  # fmt: skip
    """A predictions table of one predictor's answers."""
    size, n = sample["matched"].shape
    control = sample["split"] == "control"
    return pa.table(
        {
            "model": pa.array([model] * size),
            "trained_on": pa.array([trained_on or model] * size),
            "context": pa.array([k] * size, pa.int32()),
            "continuation": pa.array([n] * size, pa.int32()),
            "task": pa.array([task] * size),
            "predictor": pa.array([predictor] * size),
            "seed": pa.array([seed] * size, pa.int32()),
            "prior": pa.array([prior] * size),
            "sequence_id": pa.array(sample["sequence_id"], pa.int64()),
            "group": pa.array(["control" if control else "member"] * size),
            "cluster": pa.array(sample["cluster"], pa.int64()),
            "split": pa.array([sample["split"]] * size),
            "design_weight": pa.array(sample["design_weight"], pa.float64()),
            "num_matched": pa.array(sample["num_matched"], pa.int32()),
            "matched": pa.array(sample["matched"].tolist(), pa.list_(pa.bool_())),
            "probability": pa.array(answer["probability"].tolist(), pa.list_(pa.float32())),
            "predicted": pa.array(answer["predicted"].tolist(), pa.list_(pa.bool_())),
            "full_match_probability": pa.array(answer["full_match_probability"], pa.float32()),
            "expected_matched": pa.array(answer["expected_matched"], pa.float32()),
        }
    )


SKILLS = {
    ("context", "transformer"): 0.9,
    ("context", "lstm"): 0.85,
    ("context", "majority"): 0.0,
    ("context", "logistic"): 0.5,
    ("context", "boosting"): 0.6,
    ("decode", "transformer"): 1.6,
    ("decode", "original"): 1.1,
}


def study(skills=None, *, models=("small", "big"), lengths=(N,), seeds=(0, 1), num_rows=170, controls=True, seed=0):
    """Predictions of several models by several predictors, members and controls, both priors."""
    parts = []
    for place, model in enumerate(models):
        for n in lengths:
            samples = [simulate(num_rows, n=n, seed=seed)]
            samples += [simulate(60, n=n, seed=seed, split="control", score=1)] if controls else []
            for sample in samples:
                for number, ((task, predictor), skill) in enumerate((skills or SKILLS).items()):
                    for one in seeds:
                        answer = forecast(sample, skill=skill + 0.1 * place, seed=1000 * seed + 50 * one + number)
                        for prior in ("balanced", "natural"):
                            names = {"task": task, "predictor": predictor, "seed": one, "prior": prior}
                            parts.append(predictions(sample, answer, model=model, **names))
    return pa.concat_tables(parts)
