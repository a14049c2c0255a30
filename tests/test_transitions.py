"""Perspective 2: tables and findings by hand, against statsmodels, and from the published matrices."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from mnemoscope.analyses import agreement
from mnemoscope.analyses.cluster_shares import BY_ROW
from mnemoscope.analyses.levels import LEVELS
from mnemoscope.analyses.pairs import PairCounts, PairedCell, PairStratum, PairTally
from mnemoscope.analyses.transition_columns import PAIR_COLUMNS
from mnemoscope.analyses.transitions import PairedRun, RunPair, plan_pairs, transitions
from mnemoscope.errors import ConfigError
from mnemoscope.intervals import newcombe
from mnemoscope.report.transition_figures import transition_specs

CELL = PairedCell(32, 5, 32, 5)
REFERENCE = Path(
    os.environ.get("MNEMOSCOPE_TEST_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference")
)
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "paper_reference.json").is_file(),
    reason=f"the published matrices are not at {REFERENCE} (set MNEMOSCOPE_TEST_REFERENCE)",
)
TABLES = st.lists(st.integers(0, 30), min_size=25, max_size=25).map(lambda c: np.array(c, np.int64).reshape(5, 5))


def run(label, size=10, *, source=None, step=None):
    return PairedRun(label=label, source=source or label, num_non_embedding_parameters=size, training_step=step)


def pair(scores, *, relation="size", names=("small", "large"), group="member", cell=CELL, sizes=(10, 40)):
    """Two runs with one stratum of these joint counts of num_matched."""
    tally = PairTally(rows=np.asarray(scores, np.int64), copies=None, unique=None, duplicates=None)
    one, other = (run(name, size) for name, size in zip(names, sizes, strict=True))
    counts = PairCounts({PairStratum(group, cell): tally})
    return RunPair(relation=relation, run_from=one, run_to=other, counts=counts)


def scores_of(levels):
    """Joint counts at n = 5 whose levels these are: num_matched 1 to 5 are the five levels."""
    scores = np.zeros((6, 6), np.int64)
    scores[1:, 1:] = levels
    return scores


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def matrix(table, column, **wanted):
    """A column of a table of levels as a 5 x 5 array."""
    rows = rows_of(table, **wanted)
    cells = {(LEVELS.index(row["level_from"]), LEVELS.index(row["level_to"])): row[column] for row in rows}
    return np.array([[cells[i, j] for j in range(5)] for i in range(5)], float)


@settings(max_examples=15, deadline=None)
@given(TABLES)
def test_transposition_swaps_forward_and_inverse(counts):
    """The large model against the small one has the same shares with forward and inverse exchanged."""
    there, back = (transitions([pair(scores_of(table))]).levels for table in (counts, counts.T))
    for one, other in (("share", "inverse_share"), ("share_low", "inverse_low"), ("num_from", "num_to")):
        assert matrix(there, one) == pytest.approx(matrix(back, other).T, nan_ok=True)
    rows = matrix(there, "share").sum(axis=1)
    assert rows == pytest.approx(np.where(counts.sum(axis=1) > 0, 1.0, np.nan), nan_ok=True)


def published(index):
    return json.loads((REFERENCE / "paper_reference.json").read_text())["transition_matrices"]["rows"][index]


def published_counts(index):
    """The joint level counts of a published matrix."""
    found = published(index)
    return np.rint(np.array(found["marginal_row"])[:, None] * np.array(found["matrix"])).astype(np.int64)


@needs_reference
@pytest.mark.parametrize("index", range(4))
def test_published_matrices_carry_one_models_counts_to_the_others(index):
    """Corrected published matrices make one model's published level counts the other's within 2 %; as labelled, not."""
    found = published(index)
    counts = np.array(found["marginal_row"])
    carried = agreement.carry(counts, np.array(found["matrix"]))
    assert carried == pytest.approx(np.array(found["marginal_column"]), rel=0.02)
    assert carried / found["marginal_column"] == pytest.approx(np.array(found["flow_ratio_corrected"]), abs=1e-3)
    wrong = agreement.carry(counts, np.array(found["as_labelled_in_png"]))
    assert abs(wrong / found["marginal_column"] - 1).max() > 1


@needs_reference
@pytest.mark.parametrize(("there", "back"), [(0, 3), (1, 2)])
def test_published_inverse_is_the_inverse_of_the_published(there, back):
    """P(smaller | larger) computed from the published forward matrix is the published inverse one within 0.015."""
    levels = transitions([pair(scores_of(published_counts(there)))]).levels
    assert matrix(levels, "share") == pytest.approx(np.array(published(there)["matrix"]), abs=0.002)
    inverse = matrix(levels, "inverse_share").T
    assert inverse == pytest.approx(np.array(published(back)["matrix"]), abs=0.015)


@needs_reference
def test_published_levels_persist_more_than_regression_to_the_mean_and_ever_more():
    """The published claim holds: diagonals dominate, grow, and exceed at the top what one correlation would keep."""
    names = (("410m", "2.8b"), ("2.8b", "12b"))
    result = transitions([pair(scores_of(published_counts(i)), names=names[i]) for i in (0, 1)])
    assert result.finding.verdict == "holds"
    figures = result.finding.figures
    assert (figures["dominance_num_dominant"], figures["dominance_num_levels"]) == (10, 10)
    assert (figures["growth_num_rising"], figures["growth_num_falling"]) == (5, 0)
    assert figures["very_high_share"] == pytest.approx(0.870, abs=0.002)
    assert figures["regression_share"] == pytest.approx(0.721, abs=0.005)
    fall = rows_of(result.regression, null="regression", model_to="12b", level_from="very high", level_to="very low")[0]
    assert (fall["share"], fall["expected_share"]) == pytest.approx((0.041, 0.004), abs=0.001)


def example():
    """40 memorized by both, 10 lost, 20 gained, 130 by neither; 3 of 200 at other levels."""
    scores = np.zeros((6, 6), np.int64)
    scores[5, 5], scores[5, 0], scores[0, 5], scores[0, 0], scores[3, 3] = 40, 10, 20, 127, 3
    return scores


def test_kept_gained_and_lost_by_hand():
    """Kept 40 and lost 10 of 50, gained 20 of 150, new 20 of 60, with statsmodels' Wilson intervals."""
    result = transitions([pair(example())])
    found = {row["fate"]: row for row in result.kept_gained_lost.to_pylist()}
    expected = {"kept": (40, 50), "lost": (10, 50), "gained": (20, 150), "new": (20, 60)}
    for name, (count, n) in expected.items():
        row = found[name]
        assert (row["num_chosen"], row["num_sequences"], row["share"]) == (count, n, count / n)
        ends = proportion_confint(count, n, method="wilson")
        assert (row["share_low"], row["share_high"]) == pytest.approx(ends)
        assert (row["interval_method"], row["num_unique"]) == (BY_ROW, None)


def test_prediction_by_hand():
    """Precision 40/50, recall 40/60, F1 80/110, base rate 60/200, lift (4/5) / (3/10)."""
    rows = {row["measure"]: row for row in transitions([pair(example())]).prediction.to_pylist()}
    values = {name: row["value"] for name, row in rows.items()}
    assert values == pytest.approx({"precision": 0.8, "recall": 2 / 3, "F1": 80 / 110, "base rate": 0.3})
    assert rows["precision"]["lift"] == pytest.approx(8 / 3)
    low, high = proportion_confint(40, 70, method="wilson")
    ends = rows["F1"]["value_low"], rows["F1"]["value_high"]
    assert ends == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))


def test_tests_are_holm_adjusted_within_their_name():
    """Two pairs: the smaller of each name's two p-values is doubled; fell and rose are counted."""
    other = example()
    other[0, 5] = 10
    result = transitions([pair(example()), pair(other, names=("large", "larger"), sizes=(40, 90))])
    mcnemar = rows_of(result.tests, test="McNemar")
    p_values = [row["p_symmetric"] for row in mcnemar]
    assert p_values == pytest.approx([agreement.mcnemar(10, 20).p_value, 1.0])
    assert [row["p_symmetric_holm"] for row in mcnemar] == pytest.approx([2 * p_values[0], 1.0])
    fell_and_rose = [(row["num_fell"], row["num_rose"]) for row in rows_of(result.tests, test="Bowker")]
    assert fell_and_rose == [(10, 20), (10, 10)]
    assert [(row["num_fell"], row["num_rose"], row["unit"]) for row in mcnemar] == [(10, 20, "rows"), (10, 10, "rows")]


OWN = (
    pair(example(), relation="context", names=("large", "large"), cell=PairedCell(16, 5, 32, 5)),
    pair(example(), relation="context", names=("large", "large"), cell=PairedCell(16, 3, 32, 3)),
    pair(example(), relation="continuation", names=("large", "large"), cell=PairedCell(32, 5, 32, 6)),
    pair(example(), relation="continuation", names=("large", "large"), cell=PairedCell(16, 5, 16, 6)),
)


def test_a_model_beside_itself_changes_nothing_of_sizes():
    """With contexts and continuations in the study, the finding and the tests between sizes are what they were."""
    alone, together = transitions([pair(example())]), transitions([*OWN, pair(example())])
    assert together.finding == alone.finding
    assert rows_of(together.tests, relation="size") == alone.tests.to_pylist()
    assert together.prediction.equals(alone.prediction)
    only = transitions(OWN).finding
    assert only == ("No two sizes or checkpoints were compared on member sequences.", "undecided", {})


def test_small_and_empty_strata_are_said_so():
    """Under 30 sequences at a level are flagged, none give no share and the interval [0, 1]; neither is counted."""
    result = transitions([pair(example())])
    medium = rows_of(result.levels, level_from="medium", level_to="medium")[0]
    assert (medium["share"], medium["num_from"], medium["small_stratum"]) == (1.0, 3, True)
    assert "not to be averaged" in medium["note"]
    low = rows_of(result.levels, level_from="low", level_to="low")[0]
    assert (low["share"], low["share_low"], low["share_high"], low["note"]) == (
        None,
        0,
        1,
        "no sequences at this level",
    )
    assert "at 2 of 2 levels between consecutive sizes (3 more hold too few)" in result.finding.sentence
    assert result.finding.verdict == "undecided"


def test_continuations_of_one_run_are_not_tested_for_gains():
    """A longer full match contains the shorter one: McNemar has no p-value there, and says why."""
    counts = pair(example(), relation="continuation", names=("one", "one"), cell=PairedCell(32, 5, 32, 5))
    row = rows_of(transitions([counts]).tests, test="McNemar")[0]
    assert (row["p_symmetric"], row["p_symmetric_holm"]) == (None, None)
    assert "by construction" in row["note"]


def test_contexts_are_said_to_continue_other_tokens():
    """Between contexts the tokens to be continued differ too, and the test's row says so."""
    counts = pair(example(), relation="context", names=("one", "one"), cell=PairedCell(16, 5, 32, 5))
    row = rows_of(transitions([counts]).tests, test="McNemar")[0]
    assert row["p_symmetric"] == agreement.mcnemar(10, 20).p_value
    assert "other tokens" in row["note"]


def test_a_diagonal_that_is_surely_not_the_largest_fails():
    """Where most of a level leave it for another one, the finding fails and says in how many levels."""
    levels = np.diag([100, 100, 100, 100, 100])
    levels[2, 0] = 300
    finding = transitions([pair(scores_of(levels))]).finding
    assert finding.verdict == "fails"
    assert "in 1 another level is surely commoner" in finding.sentence


@pytest.mark.parametrize(("stay", "verdict"), [(400, "undecided"), (490, "holds"), (310, "fails")])
def test_the_verdict_follows_growth(stay, verdict):
    """From 400 of 500 that stay to 490 it holds, to 310 it fails, to 400 it cannot be said; diagonals lead in all."""
    steps = []
    for kept, names, sizes in ((400, ("a", "b"), (10, 40)), (stay, ("b", "c"), (40, 90))):
        levels = np.diag([kept] * 5) + np.roll(np.diag([500 - kept] * 5), 1, axis=1)
        steps.append(pair(scores_of(levels), names=names, sizes=sizes))
    finding = transitions(steps).finding
    assert finding.verdict == verdict
    assert finding.figures["growth_very_high"] == pytest.approx(stay / 500 - 0.8)
    assert "(x4.0) to the last (x2.2)" in finding.sentence


def test_growth_is_told_by_newcombes_interval():
    """With one level to compare, rising and falling are as Newcombe's interval of the two shares has them."""
    for stay in range(60, 101, 2):
        steps = []
        for kept, names, sizes in ((80, ("a", "b"), (10, 40)), (stay, ("b", "c"), (40, 90))):
            levels = np.zeros((5, 5), np.int64)
            levels[0, 0], levels[0, 1] = kept, 100 - kept
            steps.append(pair(scores_of(levels), names=names, sizes=sizes))
        figures = transitions(steps).finding.figures
        expected = newcombe(stay, 100, 80, 100)
        assert figures["growth_num_rising"] == int(expected.low > 0)
        assert figures["growth_num_falling"] == int(expected.high < 0)


def test_a_twin_is_the_noise_floor():
    """Beside each pair of the run stand the shares that its twin alone changes: 2 of 100 levels, 1 of 100 memorized."""
    twin = np.zeros((6, 6), np.int64)
    twin[0, 0], twin[5, 5], twin[0, 1], twin[5, 4], twin[0, 2] = 57, 40, 1, 1, 1
    result = transitions([pair(example()), pair(twin, relation="twin", names=("large", "large-bf16"))])
    rows = {row["changed"]: row for row in rows_of(result.noise, relation="size")}
    found = {name: (row["num_chosen"], row["noise_share"], row["twin"]) for name, row in rows.items()}
    assert found == {"level": (30, 0.02, "large-bf16"), "memorized": (30, 0.01, "large-bf16")}
    top = rows_of(result.levels, relation="size", level_from="very high", level_to="very high")[0]
    assert top["noise_share"] == 40 / 41
    assert "its twin large-bf16 alone changes" in result.finding.sentence
    assert transitions([pair(example())]).noise.num_rows == 0


def test_pairs_are_planned_by_size_step_and_twin():
    """Final models by size, checkpoints in order and against their final one, two runs of one checkpoint as twins.

    Behind them each final model with itself, between contexts and between continuations.
    """
    runs = [
        run("big", 90),
        run("mid@1", 40, source="mid", step=1),
        run("mid@2", 40, source="mid", step=2),
        run("mid", 40),
        run("small", 10),
        run("big-bf16", 90, source="big"),
    ]
    planned = [(relation, one.label, other.label) for relation, one, other in plan_pairs(runs)]
    assert planned == [
        ("size", "small", "mid"),
        ("size", "mid", "big"),
        ("step", "mid@1", "mid@2"),
        ("step", "mid@2", "mid"),
        ("final", "mid@1", "mid"),
        ("twin", "big", "big-bf16"),
        *(("context", name, name) for name in ("small", "mid", "big")),
        *(("continuation", name, name) for name in ("small", "mid", "big")),
    ]


def test_every_column_says_what_it_is():
    """Each column of each table has its meaning in the schema; no column of pairs is without a table."""
    result = transitions([pair(example()), pair(example(), relation="twin", names=("small", "twin"))])
    seen = set()
    for table in result.tables.values():
        assert all(field.metadata[b"meaning"] for field in table.schema)
        seen |= set(table.column_names)
    assert set(PAIR_COLUMNS) <= seen


def test_no_pairs_are_refused():
    """Without a pair there is nothing to say; pairs of controls only are undecided."""
    with pytest.raises(ConfigError, match="no pairs of runs given"):
        transitions([])
    assert transitions([pair(example(), group="control")]).finding.verdict == "undecided"


def drawn(spec):
    """The cells of each heatmap of a figure, rows of heatmaps one after the other."""
    return [spec["datasets"][chart["data"]["name"]] for row in spec["vconcat"] for chart in row["hconcat"]]


def test_heatmaps_hold_the_tables_shares_in_level_order():
    """Each heatmap has the 25 cells of its table with share and number, levels in order, the null beside it."""
    result = transitions([pair(example())])
    spec = transition_specs(result)["transitions_by_size"]
    observed, null = drawn(spec)
    shares = {(cell["from"], cell["to"]): (cell["label"], cell["number"], cell["small"]) for cell in observed}
    assert len(observed) == len(null) == 25
    assert shares["very high", "very high"] == (".800", "40", False)
    assert shares["medium", "medium"] == ("1", "3", True)
    assert shares["low", "high"] == ("–", "0", True)
    x, y = (spec["vconcat"][0]["hconcat"][0]["layer"][0]["encoding"][axis] for axis in "xy")
    assert (x["sort"], y["sort"]) == (list(LEVELS), list(LEVELS)[::-1])
    assert (x["title"], y["title"]) == ("level under large", "level under small")
    assert "200 member sequences" in spec["title"]["subtitle"][0]
    expected = rows_of(result.regression, null="regression", level_from="very high", level_to="very high")[0]
    top = next(cell for cell in null if (cell["from"], cell["to"]) == ("very high", "very high"))
    assert top["share"] == expected["expected_share"]


def test_figures_are_drawn_for_what_there_is():
    """Sizes give a figure and its inverse, steps theirs, controls none; each is drawn by the renderer."""
    import vl_convert

    specs = transition_specs(transitions([pair(example())]))
    assert list(specs) == ["transitions_by_size", "transitions_inverse"]
    assert vl_convert.vegalite_to_svg(specs["transitions_by_size"]).startswith("<svg")
    assert list(transition_specs(transitions([pair(example(), relation="step")]))) == ["transitions_by_step"]
    contexts = pair(example(), relation="context", names=("one", "one"), cell=PairedCell(16, 5, 32, 5))
    spec = transition_specs(transitions([contexts]))["transitions_by_context"]
    assert spec["vconcat"][0]["hconcat"][0]["title"]["text"] == ["k = 16 →", "k = 32"]
    assert transition_specs(transitions([pair(example(), group="control")])) == {}


def test_a_model_beside_itself_has_one_figure_for_each_length():
    """Of all cells those at the finding's other length are drawn: k = 16 to 32 at n = 5, n = 5 to 6 at k = 32."""
    specs = transition_specs(transitions([*OWN, pair(example())]))
    assert len(specs) == 4
    for name, title, at in (
        ("transitions_by_context", "k = 16 → k = 32", "large, n = 5, "),
        ("transitions_by_continuation", "n = 5 → n = 6", "large, k = 32, "),
    ):
        [row] = specs[name]["vconcat"]
        assert " ".join(row["hconcat"][0]["title"]["text"]) == title
        assert specs[name]["title"]["subtitle"][0].startswith(at)
        assert row["hconcat"][0]["layer"][0]["encoding"]["x"]["title"] == f"level at {title.split(' → ')[1]}"
