"""Estimates from a graded sample against the full count of the same study, where every sequence was graded."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from mnemoscope.analyses.agreement import merge_scores
from mnemoscope.analyses.cluster_shares import BY_WEIGHT, share_intervals
from mnemoscope.analyses.clusters import clusters_of_scores
from mnemoscope.analyses.factors import ModelCounts, factors
from mnemoscope.analyses.matches import MatchCounts, Stratum, StratumCounts, count_matches
from mnemoscope.analyses.pair_phases import NUM_KINDS, ObservedRows, OpenPairs, resolve
from mnemoscope.analyses.pairs import PairedCell, PairStratum, count_pairs
from mnemoscope.config import CorpusConfig, CountsConfig, GradedSampleConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import audit_coverage, find_derived_faults
from mnemoscope.errors import StoreError
from mnemoscope.findings import analyze
from mnemoscope.open_counts import OpenCounts, count_open
from mnemoscope.report.cautions import cautions
from mnemoscope.report.estimates import known_row
from mnemoscope.report.rigor import rigor_table
from mnemoscope.report.study_facts import facts_of
from mnemoscope.report.verdict import published_states
from mnemoscope.sampling import draw_sample
from mnemoscope.sequence_sample import draw_explorer_sample
from mnemoscope.sequences import read_sequence
from mnemoscope.shards import num_matched
from mnemoscope.store import open_study, read_scores
from mnemoscope.study_file import dump_study
from mnemoscope.traces import read_traces
from networks import VOCAB, build, plant_sequences
from synthetic_study import write_study
from two_phase_tables import thin_study, thin_table

CONTEXT, CONTINUATION = 16, 16
NUM_SEEDS = 60
SHARES = {"share": 0.15, "near_share": 0.5}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """2,500 members and 500 of a control under two models, all graded; a hundredth are duplicates."""
    return write_study(tmp_path_factory.mktemp("graded") / "study", num_sequences=2500, num_models=2, shard_rows=2500)


@pytest.fixture(scope="module")
def tables(graded):
    """By model, the members' scores."""
    return {label: pa.concat_tables(read_scores(graded, label, group="member")) for label in graded.runs}


@pytest.fixture(scope="module")
def clusters(graded):
    return clusters_of_scores(read_scores(graded, next(iter(graded.runs))), context=CONTEXT)


def draws():
    return (GradedSampleConfig(**SHARES, seed=seed) for seed in range(NUM_SEEDS))


def assert_unbiased(estimates, expected, *, least=5):
    """The mean over seeds lies within four of its own standard errors, for numbers that are not a handful."""
    error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
    told = expected >= least
    assert (np.abs(estimates.mean(axis=0) - expected)[told] <= 4 * error[told] + 1e-9).all()


def test_a_graded_sequence_stands_for_the_open_ones_of_its_stratum():
    """By hand: 10 open, 4 graded stand for 2.5 each; 6 open, all graded, for themselves; decided ones are counted."""
    stratum = np.array([0] * 10 + [1] * 6 + [-1] * 3)
    place = np.array([0, 0, 1, 2] + [-1] * 6 + [1] * 6 + [2] * 3)
    counts = count_open(stratum, place, num_strata=2, num_places=3)
    np.testing.assert_array_equal(counts.num_open, [10, 6])
    np.testing.assert_array_equal(counts.weights, [2.5, 1.0])
    np.testing.assert_allclose(counts.estimate(np.array([0, 0, 3])), [5, 2.5 + 6, 2.5 + 3])
    assert not counts.is_complete and counts.is_estimable


def test_open_ones_of_whom_nobody_is_graded_go_to_the_next_probability():
    """What is open in a stratum without a graded sequence is put to its neighbour: the sum stays."""
    counts = OpenCounts(np.array([7, 4]), np.array([[0, 0], [1, 1]]))
    assert not counts.is_estimable
    merged = counts.merged(2)
    np.testing.assert_array_equal(merged.num_open, [0, 11])
    np.testing.assert_allclose(merged.estimate(np.array([0, 0])), [5.5, 5.5])
    assert not OpenCounts(np.array([7, 0]), np.zeros((2, 2), int)).merged(2).is_estimable


@pytest.mark.parametrize("probabilities", [(), (0.3, 0.7, 1.0)])
def test_probabilities_of_another_study_are_refused(tables, graded, probabilities):
    """Rows that were drawn with other probabilities than the study's are told, not counted."""
    grid = graded.config.grid
    table = thin_table(next(iter(tables.values())), grid, GradedSampleConfig(**SHARES))
    with pytest.raises(StoreError, match="inclusion probabilities that are not the study's"):
        count_matches([table], grid, "two-phase", probabilities=probabilities)


def test_counts_by_score_are_estimated_without_bias_and_full_matches_counted(tables, clusters, graded):
    """Over seeds rows and unique sequences by score average to the full count; intervals hold it as promised."""
    label = next(iter(graded.runs))
    stratum, grid = Stratum("member", None, CONTEXT, CONTINUATION), graded.config.grid
    count = {"grid": grid, "clusters": clusters}
    whole = count_matches([tables[label]], mode="graded", **count).over_repeats().strata[stratum]
    full = whole.by_class("num_matched")
    tops = np.eye(CONTINUATION + 1, dtype=np.int64)
    rows, unique, held = [], [], []
    for settings in draws():
        table = thin_table(tables[label], grid, settings)
        found = count_matches([table], mode="two-phase", probabilities=settings.probabilities, **count)
        own = found.over_repeats().strata[stratum]
        assert own.num_memorized == whole.num_memorized and own.first_mismatch == whole.first_mismatch
        classes = own.by_class("num_matched")
        assert classes.rows.sum() == pytest.approx(2500) and classes.rows[-1] == full.rows[-1]
        low, high, method = share_intervals(classes, tops, np.ones_like(tops), 0.95)
        assert method == BY_WEIGHT
        rows.append(classes.rows)
        unique.append(classes.unique)
        held.append((low <= full.rows / 2500) & (full.rows / 2500 <= high))
    assert_unbiased(np.array(rows), full.rows)
    assert_unbiased(np.array(unique), full.unique)
    covered = np.array(held)[:, full.rows >= 20].mean()
    assert 0.93 <= covered <= 1.0
    widths = share_intervals(full, tops, np.ones_like(tops), 0.95)
    assert ((high - low)[:6] > 1.2 * (widths.high - widths.low)[:6]).all()  # less is known than if all were graded


@pytest.mark.parametrize(
    ("sides", "cell"),
    [
        ((0, 1), PairedCell(CONTEXT, CONTINUATION, CONTEXT, CONTINUATION)),
        ((0, 0), PairedCell(16, CONTINUATION, 32, CONTINUATION)),
        ((1, 1), PairedCell(CONTEXT, 8, CONTEXT, 16)),
    ],
)
def test_transition_cells_are_estimated_without_bias(tables, clusters, graded, sides, cell):
    """Between models, contexts and continuations: cells average to the full count; the memorized set's are counted."""
    labels, grid = list(graded.runs), graded.config.grid
    stratum, count = PairStratum("member", cell), {"grid": grid, "cells": [cell], "clusters": clusters}
    pair = [tables[labels[side]] for side in sides]
    full = count_pairs([pair[0]], [pair[1]], **count).strata[stratum].resolved()
    classes = merge_scores(full.rows)
    cells, units, held = [], [], []
    tops = np.eye(36, dtype=np.int64)
    for settings in draws():
        thinned = [thin_table(table, grid, settings) for table in pair]
        counts = count_pairs([thinned[0]], [thinned[1]], probabilities=settings.probabilities, **count)
        found = counts.strata[stratum].resolved()
        cells.append(merge_scores(found.rows).ravel())
        units.append(merge_scores(found.unique).ravel())
        assert found.rows.sum() == pytest.approx(2500)
        np.testing.assert_array_equal(found.memorized.rows[1, 1], classes[5, 5])
        np.testing.assert_array_equal(found.memorized.rows[1, 0], classes[5, :5].sum())
        assert merge_scores(found.rows)[5, :5].sum() == pytest.approx(classes[5, :5].sum())
        assert found.memorized.copies.sum() == full.copies.sum()
        low, high, _ = share_intervals(found.classes, tops, np.ones_like(tops), 0.95)
        held.append((low <= classes.ravel() / 2500) & (classes.ravel() / 2500 <= high))
    assert_unbiased(np.array(cells), classes.ravel(), least=20)
    assert_unbiased(np.array(units), merge_scores(full.unique).ravel(), least=20)
    assert np.array(held)[:, classes.ravel() >= 20].mean() >= 0.93


def test_a_kind_of_whom_nobody_is_graded_borrows_the_other_sides_scores():
    """By hand: of 6 full matches on the first side nobody is graded; they go as the 4 without a full match went."""
    decided = np.zeros((3, 3), np.int64)
    graded_ = np.zeros((NUM_KINDS, 9), np.int64)
    graded_[0, [0, 1, 1, 4]] = [1, 2, 2, 1]
    counts = OpenCounts(np.array([8, 0, 6]), graded_)
    found = resolve(
        decided, None, None, OpenPairs(counts, None, None), ObservedRows(*np.zeros((3, 0), int)), memorized=None
    )
    np.testing.assert_allclose(found.rows, [[2, 4, 0], [0, 2, 0], [1.5, 4.5, 0]])


def test_what_is_lent_comes_from_the_same_probability_and_is_no_evidence():
    """By hand: 3 near ones turn full as the near did, with their copies; known are the 6 graded, not the 2 lent."""
    graded_ = np.zeros((NUM_KINDS * 2, 9), np.int64)
    graded_[0, 0], graded_[1, 4] = 4, 2  # the others had no match, the near had one in both runs
    pairs_ = OpenPairs(OpenCounts(np.array([40, 6, 0, 3, 0, 0]), graded_), None, 10 * graded_)
    nothing = np.zeros((3, 3), np.int64)
    observed = ObservedRows(*np.zeros((3, 0), int))
    found = resolve(nothing, nothing, None, pairs_, observed, memorized=None)
    np.testing.assert_allclose(found.rows, [[40, 0, 0], [0, 6, 3], [0, 0, 0]])
    np.testing.assert_allclose(found.copies, 10 * found.rows)
    assert found.classes.second.observed_C.sum() == 6
    gained = np.zeros((36, 1), np.int64)
    gained[merge_scores(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]])).ravel() > 0] = 1
    low, high, _ = share_intervals(found.classes, gained, np.ones_like(gained), 0.95)
    assert low[0] < 1 / 49 and high[0] > 6 / 49  # 3 of 49 are lent: none of them, or twice as many, may be so


def test_ten_graded_sequences_are_no_proof_that_most_score_low():
    """440 of 1,000 are full matches, all of 10 graded of the others score 0: 56 % is not beyond a half, of whoever."""
    facts = {"num_sequences": 1000, "num_memorized": 440, "first_mismatch": (560, 0, 0, 0, 440)}

    def judge(num_graded):
        counts = OpenCounts(np.array([560]), np.array([[num_graded, 0, 0, 0, 0]]))
        strata = {Stratum("member", None, 4, 4): StratumCounts(**facts, matched=(0, 0, 0, 0, 440), open=counts)}
        model = {"label": "m", "source": "m", "num_parameters": 2, "num_non_embedding_parameters": 1}
        found = factors({"m": ModelCounts(**model, counts=MatchCounts(strata))})
        return published_states({"factors": found})["most scores stay below 0.3"]

    assert judge(10) == "undecided" and judge(500) == judge(560) == "holds"


def test_share_one_gives_the_numbers_of_mode_graded(graded, tmp_path):
    """Where every sequence is drawn, every table and finding is that of mode graded, to the last bit."""
    whole, one = analyze(graded), analyze(thin_study(graded, tmp_path / "one", GradedSampleConfig(share=1.0)))
    assert whole.keys() == one.keys() == {"factors", "transitions"}
    for name, result in whole.items():
        assert one[name].finding == result.finding
        for table in result.tables:
            assert one[name].tables[table].equals(result.tables[table], check_metadata=True), table


def test_what_the_first_phase_knows_is_the_same_in_every_table(graded, tmp_path):
    """Full matches, first mismatches, trends, the memorized set's fate are those of mode graded; the rest is told."""
    thinned = thin_study(graded, tmp_path / "two", GradedSampleConfig(**SHARES))
    whole, found = analyze(graded), analyze(thinned)
    for name in ("memorized", "excess", "first_mismatch", "repeats", "repeat_classes", "steps", "trend"):
        assert found["factors"].tables[name].equals(whole["factors"].tables[name]), name
    for name in ("kept_gained_lost", "prediction"):
        one, other = (result["transitions"].tables[name] for result in (found, whole))
        for column in one.column_names:
            if pa.types.is_floating(one[column].type):
                np.testing.assert_allclose(one[column], other[column], rtol=1e-9, err_msg=column)
            else:
                assert one[column].equals(other[column]), column
    bins = found["factors"].bins
    assert 0 < bins["num_known"][0].as_py() < bins["num_sequences"][0].as_py()
    assert "num_known_from" in found["transitions"].levels.column_names
    totals: Counter[tuple[object, ...]] = Counter()
    names = ("relation", "model_from", "model_to", "group", "context_from", "context_to", "continuation_to")
    for cell in found["transitions"].levels.to_pylist():
        totals[*(cell[name] for name in (*names, "continuation_from"))] += cell["num_chosen"]
    assert set(totals.values()) == {2500, 500}  # rounded, they still add up
    row = known_row(found)
    facts = facts_of(thinned, {"tables": {}, "provenance": {}})
    told = " ".join(claim.words for claim in cautions(found, facts))
    assert f"only of {row['num_known']:,} of {row['num_sequences']:,} training sequences" in told
    assert "weighted estimates from a random sample" in told
    weights = next(row for row in rigor_table(found, facts) if "design weights" in row.point)
    assert weights.state == "done" and f"{row['num_known']:,} of {row['num_sequences']:,}" in weights.evidence


def test_traced_sequences_carry_both_weights(tables, graded):
    """Over seeds the weighted sum of a quantity over a traced sample is that over all; weights add up to all."""
    table, grid = tables[list(graded.runs)[1]], graded.config.grid
    draw = {"context": CONTEXT, "grid": grid, "continuation": 8, "per_stratum": 25}
    of_context = table.filter(pa.array(table["context"].to_numpy() == CONTEXT))
    quantity = num_matched(of_context, grid)[:, 1] + 3.0 * (of_context["first_mismatch"].to_numpy() == 0)
    sums, sizes = [], []
    for settings in draws():
        thinned = thin_table(table, grid, settings)
        sample = draw_sample([thinned], seed=settings.seed, probabilities=settings.probabilities, **draw)
        assert sample.design_weight.sum() == pytest.approx(2500)
        sums.append((sample.design_weight * quantity[sample.sequence_id]).sum())
        sizes.append(np.bincount(sample.num_matched, weights=sample.design_weight, minlength=9))
    assert_unbiased(np.array(sums)[:, None], np.array([quantity.sum()]))
    assert_unbiased(np.array(sizes), np.bincount(num_matched(of_context, grid)[:, 0], minlength=9))
    whole = thin_table(table, grid, GradedSampleConfig(share=1.0))
    one, other = draw_sample([table], seed=3, **draw), draw_sample([whole], seed=3, probabilities=(1.0,), **draw)
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_explorers_sequences_stand_for_all(graded, tmp_path):
    """The page's sample of an untraced study adds up to every scored sequence."""
    thinned = thin_study(graded, tmp_path / "two", GradedSampleConfig(**SHARES))
    sample = draw_explorer_sample(thinned, num_sequences=60)
    assert sum(sample.weights) == pytest.approx(3000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study file of two tiny models with traces and counts, in mode two-phase."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        build("gpt_neox", seed=seed).save_pretrained(folder / f"tiny{seed}")
    rows = plant_sequences(build("gpt_neox"), num_sequences=300, window_tokens=20, contexts=(4, 8))
    np.save(folder / "rows.npy", rows.astype(np.uint16))
    np.save(folder / "heldout.npy", np.random.default_rng(5).integers(0, VOCAB, (60, 20)).astype(np.uint16))
    config = StudyConfig(
        models=tuple(ModelConfig(source=str(folder / f"tiny{seed}"), device="cpu") for seed in (0, 1)),
        corpus=CorpusConfig(path=str(folder / "rows.npy")),
        control=CorpusConfig(path=str(folder / "heldout.npy")),
        contexts=(4, 8),
        continuations=(6, 12),
        mode="two-phase",
        graded_sample=GradedSampleConfig(share=0.4, near_share=0.8),
        batch_size=32,
        shard_rows=128,
        traces=TracesConfig(per_stratum=20),
        counts=CountsConfig(),
    )
    (folder / "whole.toml").write_text(dump_study(config))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_the_study_verb_runs_in_two_phases_end_to_end(whole, run, tmp_path):
    """`study`, `status`, `show`, `report` and `export` of a two-phase study with traces and counts: all complete."""
    folder = whole
    out = tmp_path / "study"
    code, _, err = run("study", folder / "whole.toml", "--out", out)
    assert code == 0, err
    study = open_study(out)
    assert all(audit_coverage(study, label).is_complete for label in study.runs)
    assert not any(find_derived_faults(study).values())
    traced = read_traces(out, "tiny0", 4)
    is_member = np.array([group == "member" for group in traced["group"].to_pylist()])
    assert np.array(traced["design_weight"])[is_member].sum() == pytest.approx(300)
    assert {path.stem for path in (out / "analyses").glob("*.json")} >= {"factors", "transitions", "entropy"}
    assert "weighted estimates from a random sample" in (out / "report.html").read_text()
    assert run("status", out, "--verify")[0] == 0
    some = next(i for i in range(300) if None in read_sequence(study, i).matched)
    code, shown, _ = run("show", out, some)
    assert code == 0 and "not in the graded sample" in " ".join(shown.split())
    assert run("export", out)[0] == 0
    lines = sorted((out / "export" / "scores").glob("*.csv"))[0].read_text().splitlines()
    assert lines[0] == "idx,score,inclusion_probability" and 1 < len(lines) < 301
    sizes = ("--parameters", "tiny0=1000", "--parameters", "tiny1=1000")
    code, _, err = run(
        "import-scores", *sorted((out / "export" / "scores").glob("*.csv")), "--out", tmp_path / "in", *sizes
    )
    assert code == 2 and "expected the header idx,score" in err


@pytest.mark.filterwarnings("ignore")
def test_a_study_in_which_nobody_is_graded_is_told_to_the_end(whole, run, tmp_path):
    """Of one model nothing is known but first mismatches, of the other full matches too: each table has what it can."""
    text = (whole / "whole.toml").read_text().replace("share = 0.4", "share = 1e-9")
    (tmp_path / "none.toml").write_text(text.replace("near_share = 0.8", "near_share = 1e-9"))
    out = tmp_path / "study"
    code, _, err = run("study", tmp_path / "none.toml", "--out", out)
    assert code == 0, err
    study = open_study(out)
    assert read_traces(out, "tiny0", 4).num_rows and not read_traces(out, "tiny1", 4).num_rows
    found = analyze(study)
    assert found["factors"].bins.num_rows == 0 and found["factors"].memorized["num_memorized"][0].as_py() > 0
    assert set(found["entropy"].strata["model"].to_pylist()) == {"tiny0"}
    fates = found["transitions"].kept_gained_lost.to_pylist()
    lost = next(row for row in fates if (row["relation"], row["fate"], row["context_to"]) == ("size", "lost", 4))
    assert lost["num_chosen"] == lost["num_sequences"] == found["factors"].memorized["num_memorized"][0].as_py()
    assert "nothing is known of numbers of half right ones" in (out / "report.html").read_text()


def test_the_viewers_scores_are_those_that_are_known(graded, tmp_path):
    """SQL's num_matched is that of the rows: null where neither bits nor the first mismatch tell."""
    from mnemoscope.viewer.committed import Part
    from mnemoscope.viewer.filters import Filter, Place
    from mnemoscope.viewer.statements import rows_by_id

    thinned = thin_study(graded, tmp_path / "two", GradedSampleConfig(**SHARES))
    label, run_ = next(iter(thinned.runs.items()))
    shards = tuple(shard for shard in run_.shards if shard.group == "member")
    statement = rows_by_id(thinned, Part("member", shards), Filter(place=Place(label, CONTEXT, 16)), after=-1)
    found = duckdb.execute(statement.sql, statement.parameters).fetchall()
    table = pa.concat_tables(read_scores(thinned, label, group="member"))
    rows = table.filter(pa.array(table["context"].to_numpy() == CONTEXT))
    expected = [None if count < 0 else count for count in num_matched(rows, run_.identity.grid)[:, 1].tolist()]
    assert [row[4] for row in found] == expected
    assert None in expected
