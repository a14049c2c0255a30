"""Traces and counts of made-up models: memory-free ones, and ones with an effect planted at the boundary."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mnemoscope.analyses.samples import TraceSample

K, N = 32, 16
NUM_TOKENS = 3000


def simulate(num_rows, *, seed, group="member", row_spread=0.0, recited_share=0.0, planted=0.0, k=K, n=N):
    """Arrays of sequences of Zipf tokens; the chance of a hit depends on the token's frequency, and on the row's ease.

    Generated text leaves the true path at the first mismatch and hits rarely from there on. `planted` lowers the
    logarithm of the frequency at index k, and raises the entropy there, whether or not the token is hit.
    """
    rng = np.random.default_rng([seed, group == "member"])
    frequencies = 1e9 / np.arange(1, NUM_TOKENS + 1)
    tokens = rng.choice(NUM_TOKENS, (num_rows, k + n), p=frequencies / frequencies.sum())
    log_frequency = np.log(frequencies[tokens])
    ease = row_spread * rng.standard_normal((num_rows, 1)) + 9.0 * (rng.random((num_rows, 1)) < recited_share)
    chance = 1 / (1 + np.exp(-(0.6 * (log_frequency - 17.5) + ease)))
    would_hit = rng.random(tokens.shape) < chance
    would_hit_off = rng.random(tokens.shape) < 0.25 * chance
    hit = would_hit.copy()
    on_path = np.ones(num_rows, bool)
    for index in range(k, k + n):
        hit[:, index] = np.where(on_path, would_hit[:, index], would_hit_off[:, index])
        on_path &= hit[:, index]
    noise = rng.exponential(0.5, tokens.shape)
    entropy = np.maximum(0.05, 3 - 0.4 * (log_frequency - 15) - 0.3 * ease) + noise
    counts = frequencies[tokens]
    if group == "member":
        counts[:, k] *= np.exp(-planted)
        entropy[:, k] += planted
    entropy[:, 0] = np.nan
    return {"tokens": tokens, "hit": hit, "entropy": entropy, "counts": counts, "k": k, "n": n, "group": group}


def sample_rows(arrays, per_stratum, *, seed):
    """Rows drawn by stratum of num_matched, and the design weight of each."""
    rng = np.random.default_rng(seed)
    num_matched = arrays["hit"][:, arrays["k"] :].sum(1)
    rows, weights = [], []
    for score in range(arrays["n"] + 1):
        stratum = np.flatnonzero(num_matched == score)
        drawn = rng.permutation(stratum)[:per_stratum]
        rows.append(drawn)
        weights.append(np.full(len(drawn), len(stratum) / max(1, len(drawn))))
    return np.concatenate(rows), np.concatenate(weights)


def traces_table(arrays, rows, weights):
    """A `traces` table of these rows."""
    k, hit = arrays["k"], arrays["hit"][rows]
    true = arrays["tokens"][rows].astype(np.int32)
    generated = np.where(hit, true, (true + 1) % NUM_TOKENS).astype(np.int32)
    generated[:, 0] = -1
    size = len(rows)
    zeros = np.zeros(true.shape)
    return pa.table(
        {
            "sequence_id": pa.array(rows, pa.int64()),
            "group": pa.array([arrays["group"]] * size, pa.string()).dictionary_encode(),
            "context": pa.array([k] * size, pa.int32()),
            "offset": pa.array([0] * size, pa.int64()),
            "num_repeats": pa.array([None] * size, pa.int32()),
            "num_matched": pa.array(hit[:, k:].sum(1), pa.int32()),
            "num_stratum": pa.array(np.full(size, len(hit)), pa.int64()),
            "design_weight": pa.array(weights, pa.float64()),
            "true_token": lists(true, pa.int32()),
            "generated_token": lists(generated, pa.int32()),
            "entropy": lists(arrays["entropy"][rows], pa.float32()),
            "log_probability": lists(zeros, pa.float32()),
            "rank": lists(zeros.astype(np.int32), pa.int32()),
            "margin": lists(zeros, pa.float32()),
        }
    )


def counts_table(arrays, rows, *, cluster=None):
    """A `counts` table of these rows; the 2-gram is a hundredth of the 1-gram."""
    ones = arrays["counts"][rows].astype(np.int64)
    twos = [[None, *row[1:]] for row in (ones // 100).tolist()]
    return pa.table(
        {
            "sequence_id": pa.array(rows, pa.int64()),
            "group": pa.array([arrays["group"]] * len(rows), pa.string()),
            "offset": pa.array([0] * len(rows), pa.int64()),
            "ngram_1": lists(ones, pa.int64()),
            "ngram_2": pa.array(twos, pa.list_(pa.int64())),
            "num_copies": pa.array([1] * len(rows), pa.int64()),
            "cluster": pa.array(rows if cluster is None else cluster, pa.int64()),
        }
    )


def lists(matrix, type_):
    """A list column of a matrix's rows."""
    return pa.array(matrix.tolist(), pa.list_(type_))


def study(*, num_rows=4000, per_stratum=300, seed=0, control=True, label="tiny", size=1000, **settings):
    """A trace sample of members and control, and its counts."""
    tables, counts = [], []
    for group in ("member", "control") if control else ("member",):
        arrays = simulate(num_rows, seed=seed, group=group, **settings)
        rows, weights = sample_rows(arrays, per_stratum, seed=seed)
        tables.append(traces_table(arrays, rows, weights))
        counts.append(counts_table(arrays, rows))
    traces = pa.concat_tables([table.unify_dictionaries() for table in tables], promote_options="default")
    sample = TraceSample(label=label, num_non_embedding_parameters=size, table=traces)
    return sample, pa.concat_tables(counts)
