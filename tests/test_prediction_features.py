"""What predictors may see: aligned, standardised by the training split alone, and nothing of the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from mnemoscope.errors import ConfigError, StoreError
from mnemoscope.prediction.examples import CONTEXT_FACTS, build_examples
from mnemoscope.prediction.features import SUMMARIES, FeatureSet, fit_reader, summarize
from traced_samples import K, N, study

TOKENS = ("true_token", "generated_token", "entropy", "log_probability", "rank", "margin")


def tables(*, num_rows=300, per_stratum=12):
    """A traces table as it is stored, with lists of one length, and its counts."""
    sample, counts = study(num_rows=num_rows, per_stratum=per_stratum, control=False)
    table = sample.table
    rng = np.random.default_rng(0)
    for name in TOKENS:
        values = np.array(table[name].to_pylist(), dtype=np.float64)
        if name in ("log_probability", "margin", "rank"):
            values = np.abs(np.round(rng.normal(scale=3, size=values.shape)))
        kind = pa.float32() if name in ("entropy", "log_probability", "margin") else pa.int32()
        fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel().astype(kind.to_pandas_dtype())), K + N)
        table = table.set_column(table.column_names.index(name), name, fixed)
    return table, counts


def states_of(table, *, width=3):
    """States that say where they are from: row, index in the window, dimension."""
    row, index, dimension = np.indices((len(table), K + N - 1, width))
    return (row + index / 100 + 10 * dimension).astype(np.float16)


def test_each_state_is_the_one_that_predicts_its_token():
    """Step i has read tokens 0 .. i; the first decode state, which is the context's last, says token k."""
    table, counts = tables()
    states = states_of(table)
    examples = build_examples(table, states, counts, model="tiny")
    np.testing.assert_array_equal(examples.context_states[:, 0], states[:, :K])
    np.testing.assert_array_equal(examples.decode_states, states[:, K - 1 :])
    np.testing.assert_array_equal(examples.decode_states[:, 0], examples.context_states[:, 0, -1])
    entropy = np.array(table["entropy"].to_pylist(), np.float32)
    np.testing.assert_array_equal(examples.decode_facts[..., 0], entropy[:, K:])
    np.testing.assert_array_equal(examples.context_facts[:, 1:, 0], entropy[:, 1 : K + 1])
    hits = np.array(table["true_token"].to_pylist()) == np.array(table["generated_token"].to_pylist())
    np.testing.assert_array_equal(examples.matched_RL, hits[:, K:])


def test_nothing_of_the_true_continuation_is_among_the_features():
    """With every fact of the truth after the context changed, what predictors read is the same, bit for bit."""
    table, counts = tables()
    changed = table
    for name in ("log_probability", "rank", "true_token"):
        values = np.array(table[name].to_pylist())
        values[:, K:] += 7
        fixed = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel(), table.schema.field(name).type.value_type), K + N
        )
        changed = changed.set_column(changed.column_names.index(name), name, fixed)
    found = []
    for one in (table, changed):
        examples = build_examples(one, states_of(table), counts, model="tiny")
        reader = fit_reader(examples, np.arange(20), FeatureSet(task="decode", states=True, frequency=True))
        found.append(reader.read(examples, np.arange(len(examples))))
    for here, there in zip(*found, strict=True):
        assert torch.equal(here, there)


def test_states_of_other_sequences_are_refused():
    """The message says how many there are and how many are expected."""
    table, counts = tables()
    with pytest.raises(StoreError, match=rf"states \[3, 47\], not \[{len(table)}, 47\]"):
        build_examples(table, states_of(table)[:3], counts, model="tiny")


def test_summaries_are_those_by_hand():
    """Of a context of three tokens: entropies of the predictions of tokens 1, 2 and k; loss and hits of 1 and 2."""
    facts = np.full((1, 4, len(CONTEXT_FACTS)), np.nan)
    facts[0, 1:, 0] = [1.0, 4.0, 1.0]  # entropy
    facts[0, 1:, 1] = np.expm1([0.5, 1.5, 1.0])  # margin, summarised as ln(1 + margin)
    facts[0, 1:3, 2] = [-3.0, -1.0]  # log-probability
    facts[0, 1:3, 4] = [0.0, 1.0]  # hit
    found = dict(zip(SUMMARIES, summarize(facts)[0], strict=True))
    entropy = {"mean": 2.0, "last": 1.0, "min": 1.0, "max": 4.0, "mean_last_8": 2.0, "mean_last_16": 2.0}
    loss = {"mean": -2.0, "last": -1.0, "min": -3.0, "max": -1.0, "mean_last_8": -2.0, "mean_last_16": -2.0}
    margin = {"mean": 1.0, "last": 1.0, "min": 0.5, "max": 1.5, "mean_last_8": 1.0, "mean_last_16": 1.0}
    for fact, expected in (("entropy", entropy), ("log_probability", loss), ("margin", margin)):
        assert {name: found[f"{fact}_{name}"] for name in expected} == pytest.approx(expected)
    hits = {"hit_mean": 0.5, "hit_mean_last_8": 0.5, "hit_mean_last_16": 0.5, "hits_to_the_end": 1.0}
    assert {name: found[name] for name in hits} == hits


def test_features_are_standardised_by_the_training_split():
    """Its mean is 0 and its deviation 1; rows outside it move neither, and outliers are clipped."""
    table, counts = tables()
    examples = build_examples(table, states_of(table), counts, model="tiny")
    loud = examples.context_facts.copy()
    loud[40:] *= 1000
    examples = replace(examples, context_facts=loud)
    reader = fit_reader(examples, np.arange(40), FeatureSet(task="context", states=False))
    known = reader.read(examples, np.arange(40)).context_facts[..., 0].numpy()
    assert known.mean() == pytest.approx(0, abs=1e-5)
    assert known.std() == pytest.approx(1, abs=1e-2)  # a little less where clipped
    assert reader.read(examples, np.arange(40, len(examples))).context_facts.abs().max() == 5.0


def test_a_predictor_of_states_is_refused_another_width_and_one_of_facts_is_not():
    """The message names both widths, and what to do."""
    table, counts = tables()
    narrow, wide = (build_examples(table, states_of(table, width=w), counts, model=f"w{w}") for w in (3, 5))
    rows = np.arange(20)
    with pytest.raises(ConfigError, match=r"w5: context_states of width 5; expected 3, .*facts-only"):
        fit_reader(narrow, rows, FeatureSet(task="context", states=True)).read(wide, rows)
    reader = fit_reader(narrow, rows, FeatureSet(task="context", states=False))
    for here, there in zip(reader.read(narrow, rows), reader.read(wide, rows), strict=True):
        assert here is there is None or torch.equal(here, there)


def test_what_was_not_counted_cannot_be_a_feature():
    """Frequencies and copies are asked for by name, and are missed by name."""
    table, counts = tables()
    examples = build_examples(
        table, states_of(table), counts.select(["sequence_id", "group", "offset", "cluster"]), model="m"
    )
    for option, missing in (("frequency", "frequency_Rk"), ("copies", "copies_R")):
        with pytest.raises(ConfigError, match=f"m: examples without {missing}"):
            fit_reader(examples, np.arange(20), FeatureSet(task="context", states=False, **{option: True}))
