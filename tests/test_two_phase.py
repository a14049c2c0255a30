"""Two phases in one study: what is stored, what it stands for, and that estimates find the full count."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from mnemoscope.config import GradedSampleConfig, Grid
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ConfigError
from mnemoscope.graded_sample import draw_graded, inclusion_probabilities, permanent_numbers
from mnemoscope.model import wrap_network
from mnemoscope.prediction.baselines import fit_hint
from mnemoscope.prediction.examples import UNKNOWN, read_hint
from mnemoscope.run import run_study
from mnemoscope.scoring import score_sequences
from mnemoscope.shards import Part, is_graded, num_matched, per_continuation
from mnemoscope.store import outstanding_shards, read_scores, set_aside
from mnemoscope.study_file import load_study
from networks import build, plant_sequences
from studies import hash_tables, make_study

GRID = Grid(contexts=(4, 9, 16), continuations=(1, 5, 12))


@pytest.mark.parametrize("architecture", ["gpt_neox", "mamba"])
def test_chosen_rows_are_those_of_mode_graded_and_the_others_those_of_exact(architecture):
    """Match bits of the chosen rows are those of `graded`, every other fact of the rest that of `exact`."""
    network = build(architecture)
    tokens_RW = plant_sequences(network, num_sequences=36, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    model = wrap_network(network)
    seen = []

    def choose(rows, first_mismatch_BC):
        seen.append((rows, first_mismatch_BC.copy()))
        return np.arange(rows.start, rows.stop) % 3 == 1

    exact, graded = (score_sequences(model, tokens_RW, GRID, mode=mode, batch_size=7) for mode in ("exact", "graded"))
    both = score_sequences(model, tokens_RW, GRID, mode="graded", batch_size=7, choose=choose)
    chosen = np.arange(36) % 3 == 1
    np.testing.assert_array_equal(both.matched_RCn[chosen], graded.matched_RCn[chosen])
    np.testing.assert_array_equal(both.first_mismatch_RC, exact.first_mismatch_RC)
    np.testing.assert_array_equal(both.log_probability_RCN, exact.log_probability_RCN)
    np.testing.assert_array_equal(both.smallest_margin_RCN[~chosen], exact.smallest_margin_RCN[~chosen])
    np.testing.assert_allclose(both.smallest_margin_RCN[chosen], graded.smallest_margin_RCN[chosen], atol=1e-4)
    assert [(rows.start, rows.stop) for rows, _ in seen] == [(i, min(i + 7, 36)) for i in range(0, 36, 7)]
    np.testing.assert_array_equal(np.concatenate([first for _, first in seen]), exact.first_mismatch_RC)


def test_what_is_not_chosen_is_not_decoded():
    """Where no sequence is chosen, the network reads the truth and not a token more."""
    network = build("gpt_neox")
    tokens_RW = plant_sequences(network, num_sequences=8, window_tokens=GRID.window_tokens, contexts=GRID.contexts)
    model = wrap_network(network)
    num_tokens = []
    network.register_forward_pre_hook(lambda _module, _args, kwargs: num_tokens.append(1), with_kwargs=True)
    body = network.base_model.register_forward_pre_hook(
        lambda _module, args, kwargs: num_tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    score_sequences(
        model, tokens_RW, GRID, mode="graded", batch_size=8, choose=lambda rows, _: np.zeros(rows.stop, np.bool_)
    )
    body.remove()
    assert num_tokens == [8 * (GRID.window_tokens - 1)]


def test_probabilities_follow_from_first_mismatches_alone():
    """1 where nothing is left to decode at any context, near_share from half of the shortest continuation on."""
    grid, settings = Grid(contexts=(4, 8), continuations=(5, 12)), GradedSampleConfig(share=0.1, near_share=0.4)
    first_mismatch_RC = np.array([[12, 12], [11, 12], [10, 12], [0, 3], [2, 2], [0, 0]], np.int32)
    found = inclusion_probabilities(first_mismatch_RC, grid, settings)
    np.testing.assert_array_equal(found, [1, 1, 0.4, 0.4, 0.1, 0.1])


def test_default_near_share_is_five_times_the_share_and_never_more_than_one():
    """0.05 gives 0.25, and 0.4 gives 1."""
    assert GradedSampleConfig().probabilities == (1.0, 0.25, 0.05)
    assert GradedSampleConfig(share=0.4).probabilities == (1.0, 1.0, 0.4)


def test_permanent_numbers_are_uniform_and_those_of_the_sequence():
    """Of 100,000 sequences as many as expected lie below each bound; groups and seeds have other numbers."""
    ids = np.arange(100_000)
    numbers = permanent_numbers(ids, group="member", seed=0)
    for bound in (0.01, 0.05, 0.5, 0.9):
        spread = np.sqrt(len(ids) * bound * (1 - bound))
        assert abs((numbers < bound).sum() - len(ids) * bound) < 4 * spread
    np.testing.assert_array_equal(permanent_numbers(ids[777:779], group="member", seed=0), numbers[777:779])
    for other in (permanent_numbers(ids, group="control", seed=0), permanent_numbers(ids, group="member", seed=1)):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 4 / np.sqrt(len(ids))


def test_a_sequence_graded_under_the_smaller_probability_is_graded_under_the_larger():
    """Samples of two models overlap as much as they can: of two probabilities the smaller is that of both."""
    ids, grid = np.arange(20_000), Grid(contexts=(4,), continuations=(5,))
    one, other = (
        draw_graded(ids, first, group="member", grid=grid, settings=GradedSampleConfig(share=0.1, near_share=0.3))
        for first in (np.zeros((20_000, 1), np.int32), np.full((20_000, 1), 3, np.int32))
    )
    assert not (one.is_graded_R & ~other.is_graded_R).any()
    both = (one.is_graded_R & other.is_graded_R).mean()
    assert abs(both - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 20_000)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"share": 0.0}, "share: 0.0 given; expected a probability above 0, at most 1"),
        ({"share": 0.5, "near_share": 0.2}, "near_share: 0.2 given; expected 0.5"),
    ],
)
def test_probabilities_out_of_bounds_are_refused(settings, told):
    """What is no probability, or would grade near sequences more rarely than others, is told."""
    with pytest.raises(ConfigError, match=told):
        GradedSampleConfig(**settings)


def test_a_section_without_effect_is_refused(tmp_path):
    """[graded_sample] belongs to mode two-phase."""
    with pytest.raises(ConfigError, match="graded_sample: given with mode 'graded'; expected mode 'two-phase'"):
        make_study(tmp_path, graded_sample=GradedSampleConfig())


SETTINGS = {"mode": "two-phase", "graded_sample": GradedSampleConfig(share=0.3, near_share=0.6, seed=4)}


def read_rows(study, label="tiny"):
    return pa.concat_tables(list(read_scores(study, label))).replace_schema_metadata(None)


def test_columns_are_those_of_exact_and_bits_of_graded_rows_those_of_graded(tmp_path):
    """Every column of mode exact is stored of every sequence, the match bits of the drawn ones are those of graded."""
    config = make_study(tmp_path / "in", num_rows=40, num_control=10, **SETTINGS)
    study = run_study(config, tmp_path / "two")
    exact, graded = (
        run_study(replace(config, mode=mode, graded_sample=None), tmp_path / mode) for mode in ("exact", "graded")
    )
    rows, of_exact, of_graded = read_rows(study), read_rows(exact), read_rows(graded)
    same = ("sequence_id", "group", "context", "offset", "num_repeats", "first_mismatch", "log_probability")
    for name in (*same, "window_hash"):
        assert rows[name].equals(of_exact[name]), name
    is_graded_R = is_graded(rows)
    assert 0.1 < is_graded_R.mean() < 0.9
    chosen, others = pa.array(is_graded_R), pa.array(~is_graded_R)
    assert rows["matched"].filter(chosen).equals(of_graded["matched"].filter(chosen))
    assert rows["matched"].filter(others).null_count == (~is_graded_R).sum()
    margins, exactly, decoded = (per_continuation(each, "smallest_margin") for each in (rows, of_exact, of_graded))
    np.testing.assert_array_equal(margins[~is_graded_R], exactly[~is_graded_R])
    np.testing.assert_allclose(margins[is_graded_R], decoded[is_graded_R], atol=1e-5)  # other rows were beside them
    known = num_matched(pa.concat_tables(list(read_scores(study, "tiny"))), config.grid)
    full = num_matched(of_graded, config.grid)
    assert ((known == full) | (known == -1)).all() and (known[is_graded_R] == full[is_graded_R]).all()
    assert (known[full == [3, 5]] >= 0).all()  # full matches are known of all


def test_what_is_graded_hangs_on_nothing_but_the_sequence(tmp_path):
    """Shards, batches and a resume after a loss give the same rows; the study's file gives the same study."""
    config = make_study(tmp_path / "in", num_rows=40, num_control=10, **SETTINGS)
    study = run_study(config, tmp_path / "two")
    other = run_study(replace(config, shard_rows=7, batch_size=5), tmp_path / "other")
    one, two = read_rows(study), read_rows(other)
    for name in ("sequence_id", "first_mismatch", "matched", "inclusion_probability"):
        assert one[name].equals(two[name]), name
    run = study.runs["tiny"]
    set_aside(study.folder, run, run.shards[2])
    assert outstanding_shards(study.folder, run) == [run.shards[2]]
    again = run_study(load_study(tmp_path / "two" / "study.toml"), tmp_path / "two")
    assert read_rows(again).equals(one)


def test_seed_and_shares_are_of_the_run(tmp_path):
    """A folder takes in no rows of another second phase."""
    config = make_study(tmp_path / "in", **SETTINGS)
    run_study(config, tmp_path / "two")
    with pytest.raises(Exception, match="graded_sample"):
        run_study(replace(config, graded_sample=GradedSampleConfig(share=0.3, near_share=0.6)), tmp_path / "two")


@pytest.mark.filterwarnings("ignore")
def test_processes_and_parts_store_the_same_bytes(tmp_path):
    """Two processes, and two parts one after the other, grade and store what one process does."""
    config = make_study(tmp_path / "in", num_rows=40, num_control=10, **SETTINGS)
    run_study(config, tmp_path / "one")
    run_study(config, tmp_path / "processes", engine=LocalEngine(workers=2))
    for number in (1, 2):
        run_study(config, tmp_path / "parts", part=Part(number, 2))
    shards = {path: digest for path, digest in hash_tables(tmp_path / "one").items() if "run.json" not in path}
    for other in ("processes", "parts"):
        found = hash_tables(tmp_path / other)
        assert {path: found[path] for path in shards} == shards, other


def test_hints_of_another_model_are_what_is_known_of_it(tmp_path):
    """A smaller model's match bits are its graded ones; of the rest those up to the first mismatch, then unknown."""
    config = make_study(tmp_path / "in", num_rows=40, **SETTINGS)
    study = run_study(config, tmp_path / "two")
    rows = pa.concat_tables(list(read_scores(study, "tiny")))
    of_context = rows.filter(pa.array(rows["context"].to_numpy() == 8))
    traces = of_context.select(["sequence_id", "group", "offset", "context"])
    bits = read_hint({"member": [rows]}, traces, continuation=5, n_max=5, name="smaller")
    is_graded_R, first_R = is_graded(of_context), of_context["first_mismatch"].to_numpy()
    assert is_graded_R.any() and not is_graded_R.all()
    np.testing.assert_array_equal(bits[is_graded_R].sum(axis=1), num_matched(of_context, config.grid)[is_graded_R, 1])
    place, first_R1 = np.arange(5), first_R[~is_graded_R, None]
    np.testing.assert_array_equal(bits[~is_graded_R] == 1, place < first_R1)
    np.testing.assert_array_equal(bits[~is_graded_R] == UNKNOWN, place > first_R1)
    assert (bits[~is_graded_R] == UNKNOWN).any() and not (bits[is_graded_R] == UNKNOWN).any()


def test_unknown_bits_of_a_hint_have_a_rate_of_their_own():
    """By hand: beside 0 nothing matches, beside what is unknown all does: neither rate is drawn to the other's."""
    bits_RL = np.array([[0, 0], [0, 0], [0, UNKNOWN], [0, UNKNOWN]], np.int8)
    matched_RL = np.array([[0, 0], [0, 0], [0, 1], [0, 1]], np.bool_)
    examples = SimpleNamespace(model="m", hints={"smaller: s": bits_RL}, labels=matched_RL)
    found = fit_hint(examples, np.arange(4), "smaller: s").logits_3C[:, 0]
    # 0 of 6 and 2 of 2 in the bin, each drawn towards its own rate, 0.5 / 7 and 2.5 / 3, by one example
    np.testing.assert_allclose(found[0], np.log((0.5 / 7) / (7 - 0.5 / 7)))
    np.testing.assert_allclose(found[2], np.log((2 + 2.5 / 3) / (1 - 2.5 / 3)))
