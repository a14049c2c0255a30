"""The rigor table: every point for every study, decided from facts and results; a state flips when its fact does."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mnemoscope.analyses.factors import factors
from mnemoscope.analyses.matches import BinCounts, from_bins
from mnemoscope.analyses.prediction import prediction
from mnemoscope.analyses.transitions import transitions
from mnemoscope.report.rigor import rigor_table
from predicted_samples import forecast, predictions, simulate
from test_factors import BINS_70M, model
from test_transitions import example, pair
from worded_studies import bare_facts, beside, counted, every_result, factors_of, group_facts, model_facts, study_facts

TESTS = Path(__file__).parent
TOPICS = ("Definition", "Units", "Controls", "Selection", "Numerics", "Inference", "Prediction", "Reporting")


@pytest.fixture(scope="module")
def results():
    return every_result()


def the_row(rows, words):
    """The only row whose point holds these words."""
    (found,) = (row for row in rows if words in row.point)
    return found


def state(words, results, facts):
    return the_row(rigor_table(results, facts), words).state


def test_every_study_has_the_same_points(results):
    """25 to 42 rows, the same in the same order with everything and with nothing; each with its evidence."""
    full, empty = rigor_table(results, study_facts()), rigor_table({}, bare_facts(models=(), groups={}))
    assert [row[:2] for row in full] == [row[:2] for row in empty] and 25 <= len(full) <= 42
    assert tuple(dict.fromkeys(row.topic for row in full)) == TOPICS
    assert all(row.evidence for row in (*full, *empty))
    assert len({row.point for row in full}) == len(full)


def test_nothing_is_done_where_nothing_was_scored():
    """Without models and results only what holds by construction of the program is called done."""
    rows = rigor_table({}, bare_facts(models=(), groups={}))
    done = [row for row in rows if row.state == "done"]
    assert done and all("by construction" in row.evidence for row in done)


def test_cited_tests_exist(results):
    """Where the evidence names a test, that test stands in that file."""
    evidence = " ".join(row.evidence for row in rigor_table(results, study_facts()))
    cited = re.findall(r"(test_\w+\.py): (test_\w+)", evidence)
    assert len(cited) >= 4
    for file, name in cited:
        assert f"def {name}(" in (TESTS / file).read_text(), (file, name)


TWIN = pair(example(), relation="twin", names=("small", "other"))


def rising(*counts):
    """Models of growing size, 900 sequences each."""
    return {"factors": factors_of(*(counted((count, 900)) for count in counts))}


FLIPS = [
    # words of the point, facts and results that decide it, and its state with them
    ("Several definitions", {"factors": factors_of(counted((60, 300)))}, "partly"),
    ("excess over it", {"factors": factors_of(counted((60, 300)))}, "not done"),
    ("excess over it", {"factors": factors_of(beside(counted((60, 300)), counted((1, 200), group="control")))}, "done"),
    ("positive control", {"factors": factors_of(counted((60, 300)))}, "not done"),
    ("positive control", {"factors": factors_of(counted((1, 1, 100), (64, 90, 100)))}, "done"),
    ("positive control", {"factors": factors_of(counted((1, 50, 100), (64, 52, 100)))}, "partly"),
    ("Copies in the training stream", {"factors": factors_of(counted((1, 1, 100), (64, 90, 100)))}, "done"),
    ("Copies in the training stream", {"factors": factors_of(counted((60, 300)))}, "not done"),
    ("A zero count", {"factors": factors_of(counted((0, 300)))}, "done"),
    ("A zero count", {"factors": factors_of(counted((60, 300)))}, "not applicable"),
    ("unique sequence", {"factors": factors_of(counted((60, 300)))}, "not done"),
    ("Noise-floor", {"transitions": transitions([pair(example())])}, "not done"),
    ("Noise-floor", {"transitions": transitions([pair(example()), TWIN])}, "done"),
    ("regression to the mean", {"transitions": transitions([pair(example())])}, "done"),
    ("regression to the mean", {}, "not applicable"),
    ("Paired tests", {"transitions": transitions([pair(example())])}, "done"),
    ("Paired tests", {}, "not applicable"),
    ("alternatives to log-linear", rising(9, 40, 90, 200, 300, 420), "done"),
    ("alternatives to log-linear", rising(9, 40, 90), "partly"),
    ("alternatives to log-linear", {"factors": factors_of(counted((60, 300)))}, "not applicable"),
    ("baselines", {}, "not applicable"),
    ("Curves by position", {}, "not applicable"),
]


@pytest.mark.parametrize(("words", "some", "expected"), FLIPS)
def test_states_follow_the_results(words, some, expected):
    """One analysis more or less, and its point is done, partly done, not done, or does not apply."""
    assert state(words, some, bare_facts()) == expected


FACT_FLIPS = [
    ("scored again in float32", {}, "not applicable"),
    ("scored again in float32", {"models": (model_facts(dtype="float16"),)}, "not done"),
    ("scored again in float32", {"models": (model_facts("a"), model_facts("b", dtype="bfloat16"))}, "not done"),
    ("scored again in float32", {"mode": "imported"}, "not done"),
    ("never saw the data", {}, "not done"),
    ("never saw the data", {"models": (model_facts("a", training_step=0),)}, "done"),
    ("no BOS that training lacked", {}, "done"),
    ("no BOS that training lacked", {"groups": {"member": group_facts(bos=True)}}, "partly"),
    ("no BOS that training lacked", {"mode": "imported"}, "not done"),
    ("Tokens are compared", {}, "done"),
    ("Tokens are compared", {"mode": "imported"}, "not done"),
    ("p_z", {}, "partly"),
    ("p_z", {"mode": "imported"}, "not done"),
    ("skipped rows are counted", {}, "done"),
    ("skipped rows are counted", {"groups": {"member": group_facts(num_scored=None, num_short=None)}}, "not done"),
    ("skipped rows are counted", {"mode": "imported"}, "partly"),
    ("are recorded", {}, "done"),
    ("are recorded", {"models": (model_facts(dtype=None),)}, "partly"),
    ("are recorded", {"groups": {"member": group_facts(corpus=None)}}, "partly"),
    ("are recorded", {"versions": {}}, "partly"),
    ("Provenance", {}, "done"),
    ("Provenance", {"platform": None, "command": None, "is_complete": False}, "partly"),
    ("batch shape", {}, "partly"),
    ("batch shape", {"models": (model_facts("a"), model_facts("b", dtype="bfloat16"))}, "done"),
    ("batch shape", {"models": (model_facts("a"), model_facts("b"))}, "partly"),
    ("batch shape", {"models": (model_facts(batch_size=0),)}, "not done"),
]


@pytest.mark.parametrize(("words", "changes", "expected"), FACT_FLIPS)
def test_states_follow_the_facts(words, changes, expected):
    """Number formats, checkpoints, imports, rows left out: the point's state is theirs."""
    some = {"factors": factors_of(counted((60, 300)))}
    assert state(words, some, bare_facts(**changes)) == expected


def test_counts_of_small_strata_and_methods_are_those_of_the_tables(results):
    """Marked rows and Wilson's shares, counted again one row at a time."""
    tables = [table for result in results.values() for table in result.tables.values() if table.num_rows]
    flagged = [row["small_stratum"] for table in tables for row in table.to_pylist() if "small_stratum" in row]
    rows = rigor_table(results, study_facts())
    evidence = the_row(rows, "Small strata").evidence
    assert evidence.startswith(f"{sum(map(bool, flagged)):,} of {len(flagged):,} rows")
    methods = Counter(
        row["interval_method"]
        for name in ("factors", "transitions")
        for table in results[name].tables.values()
        for row in table.to_pylist()
        if row.get("interval_method") is not None
    )
    assert all(method.startswith("Wilson") for method in methods)
    assert the_row(rows, "Wilson").evidence.startswith(f"{methods.total():,} of {methods.total():,} shares")


def test_near_ties_are_carried_beside_the_interval():
    """Fragile rows: `partly` with some, `done` with none, `not done` where margins are not known."""
    words, base = "flip rate is carried", factors_of(counted((60, 300)))
    assert state(words, {"factors": base}, bare_facts()) == "not done"
    rows = [{**row, "num_fragile": 4, "num_fragile_memorized": 1} for row in base.memorized.to_pylist()]
    rows = [{**row, "share_if_flipped_low": 59 / 300, "share_if_flipped_high": 63 / 300} for row in rows]
    known = replace(base, memorized=pa.Table.from_pylist(rows, schema=base.memorized.schema))
    assert state(words, {"factors": known}, bare_facts()) == "partly"
    assert state("margin is kept", {"factors": known}, bare_facts()) == "done"
    none = [{**row, "num_fragile": 0, "num_fragile_memorized": 0} for row in rows]
    calm = replace(base, memorized=pa.Table.from_pylist(none, schema=base.memorized.schema))
    assert state(words, {"factors": calm}, bare_facts()) == "done"


def test_graded_scores_are_a_definition_of_their_own():
    """Bins of scores beside full matches, without first mismatches: two definitions of three."""
    bins = tuple(int(word) for word in BINS_70M[(32, 16)].split())
    some = {"factors": factors({"70m": model("70m", from_bins([BinCounts(32, 16, bins)]))})}
    row = the_row(rigor_table(some, bare_facts()), "Several definitions")
    assert row.evidence == "full match and graded score; not known here: first mismatch"


def test_missing_baselines_are_named():
    """A predictor with one baseline: three of the sceptic's four are missing."""
    sample = simulate(102)
    tables = [
        predictions(sample, forecast(sample, skill=skill, seed=1), predictor=name)
        for name, skill in (("transformer", 0.9), ("majority", 0.0))
    ]
    result = prediction(pa.concat_tables(tables), num_resamples=20)
    row = the_row(rigor_table({"prediction": result}, study_facts()), "baselines")
    assert row.state == "partly"
    assert row.evidence == "majority; missing: logistic regression, gradient boosting and a smaller model's score"


def test_bands_are_called_simultaneous_by_their_column(results):
    """What the tables' columns say of their band is what the row says."""
    row = the_row(rigor_table(results, study_facts()), "simultaneous bands")
    assert row.state in ("done", "partly") and "simultaneous" in row.evidence
    curves = results["frequency"].curves
    fields = [
        field.with_metadata({"meaning": "lower end"} if field.name == "mean_low" else None) for field in curves.schema
    ]
    plain = replace(results["frequency"], curves=curves.cast(pa.schema(fields)))
    row = the_row(rigor_table({"frequency": plain}, study_facts()), "simultaneous bands")
    assert row.state == "partly" and row.evidence.endswith("pointwise")
