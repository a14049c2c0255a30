"""Sections, provenance and the facts of a study: what there is stands in its place, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from mnemoscope.analyses.factors import factors
from mnemoscope.manifest import read_manifest
from mnemoscope.report.provenance import hash_words, hide_home, provenance
from mnemoscope.report.sections import sections
from mnemoscope.report.study_facts import facts_of
from studies import score_two
from test_factors import published_models
from worded_studies import bare_facts, beside, counted, every_result, factors_of, group_facts, model_facts, study_facts

NAMES = ["factors", "transitions", "frequency", "entropy", "embeddings", "prediction"]


@pytest.fixture(scope="module")
def results():
    return every_result()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A real study of two models, 11 members and 5 of a control."""
    return score_two(tmp_path_factory.mktemp("scored"))


def by_name(results, facts=None, figures=None):
    return {section.name: section for section in sections(results, facts or study_facts(), figures or {})}


def rows_of(tables, title):
    (table,) = (table for table in tables if table.title == title)
    return dict(table.rows)


def test_sections_stand_in_the_order_of_the_study(results):
    """One for each analysis, whatever order they come in; the finding and its verdict are the analysis's own."""
    backwards = {name: results[name] for name in reversed(NAMES)}
    found = sections(backwards, study_facts(), {})
    assert [section.name for section in found] == NAMES
    for section in found:
        finding = results[section.name].finding
        assert (section.finding, section.state) == (finding.sentence, finding.verdict)
        assert section.question.endswith("?") and section.n and section.checks
    assert sections({}, bare_facts(), {}) == ()


def test_every_table_with_rows_stands_once_and_has_a_caption(results):
    """All of an analysis's tables that hold rows, the most telling first; empty ones are left out."""
    found = by_name(results)
    for name, section in found.items():
        told = {name: table.num_rows for name, table in results[name].tables.items() if table.num_rows}
        assert {table.name: table.table.num_rows for table in section.tables} == told
        assert len(section.tables) == len(told) and all(table.caption for table in section.tables)
    firsts = {name: section.tables[0].name for name, section in found.items()}
    assert firsts == {
        "factors": "memorized",
        "transitions": "kept_gained_lost",
        "frequency": "boundary",
        "entropy": "boundary",
        "embeddings": "models",
        "prediction": "metrics",
    }


def test_figures_are_those_given_most_telling_first(results):
    """Known names in the section's order, then unknown ones as given; none is made up."""
    given = {"factors": ["new_one", "score_bins", "memorized_by_size"]}
    assert by_name(results, figures=given)["factors"].figures == ("memorized_by_size", "score_bins", "new_one")
    assert by_name(results)["entropy"].figures == ()


def test_the_control_is_told_or_missed():
    """Above the control beyond chance in 1 of 2 models; without one, guessing is said to be counted."""
    one, other = (beside(counted((n, 300)), counted((2, 200), group="control")) for n in (2, 90))
    told = by_name({"factors": factors_of(one, other)})["factors"].checks
    assert "beyond chance, in 1 of 2 models; of unseen text b recites 2 of 200" in told[0]
    alone = by_name({"factors": factors_of(counted((90, 300)))})["factors"].checks
    assert alone[0].startswith("No control:") and len(alone) == 1


def test_regression_and_paired_tests_are_the_tables(results):
    """The share that stays and what regression keeps; 20 newly recited, 10 no longer, with Holm's p."""
    checks, figures = by_name(results)["transitions"].checks, results["transitions"].finding.figures
    assert f"would keep {100 * figures['regression_share']:.1f} %" in checks[0]
    assert f"{100 * figures['very_high_share']:.1f} % stay" in checks[0]
    (row,) = (row for row in results["transitions"].tests.to_pylist() if row["test"] == "McNemar")
    assert (row["num_rose"], row["num_fell"]) == (20, 10)
    assert f"20 sequences are newly recited and 10 no longer (McNemar, p = {row['p_symmetric_holm']:.2g}" in checks[1]
    assert checks[2].startswith("No noise floor")


def test_boundary_checks_are_the_row_of_the_unmemorized(results):
    """Step, step inside the context, unexplained part and the memory-free null, of the table's row."""
    for name in ("frequency", "entropy"):
        rows = [row for row in results[name].boundary.to_pylist() if row["score_class"] == "unmemorized"]
        row = next(row for row in rows if row.get("ngram", 1) == 1)
        text = " ".join(by_name(results)[name].checks)
        for value in ("difference", "inside_difference", "unexplained"):
            assert f"{row[value]:+.2f} ({row[f'{value}_low']:+.2f} to {row[f'{value}_high']:+.2f})" in text
        assert f"expects a step of {row['null_difference']:+.2f}" in text


def test_the_curve_of_size_is_told_when_aicc_can_tell():
    """Seven published sizes: a power law leads by 15.1; two sizes are too few."""
    checks = by_name({"factors": factors(published_models())})["factors"].checks
    assert "a power law curve fits best, by 15.1 AICc" in checks[-1]
    few = by_name({"factors": factors_of(counted((9, 300)), counted((90, 300)))})["factors"].checks
    assert few[-1].startswith("Shape: 2 models are too few")


def test_n_counts_sequences_models_and_cells():
    """300 less 7 too short, 200 of a control, 2 models, 2 cells."""
    groups = {"member": group_facts(num_short=7, num_scored=293), "control": group_facts(num_sequences=200)}
    section = by_name({"factors": factors_of(counted((90, 300)))}, study_facts(groups=groups))["factors"]
    assert section.n == (
        "293 sequences of the training text and 200 sequences of unseen text; 2 models (2 of them last steps); 2 pairs "
        "of context k and continuation n."
    )


def test_facts_are_those_of_the_run_and_the_manifest(scored):
    """Two models, 11 and 5 sequences scored, none short, hashes and versions as stored; command and machine known."""
    facts = facts_of(scored, read_manifest(scored.folder))
    assert [model.label for model in facts.models] == list(scored.runs)
    assert [model.training_step for model in facts.models] == [None, 7] and all(m.is_final for m in facts.models)
    for model, run in zip(facts.models, scored.runs.values(), strict=True):
        assert (model.weights_sha256, model.fingerprint) == (run.identity.model.weights_sha256, run.fingerprint)
    counts = {name: (group.num_sequences, group.num_scored, group.num_short) for name, group in facts.groups.items()}
    assert counts == {"member": (11, 11, 0), "control": (5, 5, 0)}
    assert (facts.contexts, facts.continuations, facts.mode) == ((4, 8), (3, 5), "graded")
    assert facts.is_complete and facts.platform and facts.python and facts.command is not None
    assert not (facts.has_traces or facts.has_counts or facts.has_predictions or facts.traced_contexts)


def test_without_a_manifest_nothing_of_it_is_known(scored):
    """None, or what the runs themselves say."""
    facts = facts_of(scored, None)
    assert not facts.is_complete and facts.groups["member"].num_scored is None
    assert (facts.platform, facts.python, facts.command, facts.duration_seconds) == (None, None, None, None)
    assert facts.versions == next(iter(scored.runs.values())).identity.versions
    text = str(provenance(facts))
    assert "not known before the study is complete" in text and "no manifest" in text


def test_models_that_have_not_begun_are_named(scored):
    """A model of the study without a run is missing, and said so."""
    config = replace(scored.config, models=(*scored.config.models, replace(scored.config.models[0], name="later")))
    facts = facts_of(replace(scored, config=config), None)
    assert facts.missing_models == ("later",) and len(facts.models) == 2
    assert "not begun: later" in rows_of(provenance(facts), "How to repeat it")["state"]


def test_only_the_last_step_of_a_source_is_final(scored):
    """Two steps of one source: only the last is final."""
    steps = dict(zip(scored.runs, (3, 7), strict=True))
    runs = {label: replace(run, source="same", training_step=steps[label]) for label, run in scored.runs.items()}
    facts = facts_of(replace(scored, runs=runs), None)
    assert [model.is_final for model in facts.models] == [False, True]


def test_provenance_holds_every_hash_short_and_whole():
    """Weights, corpus and selection of every model and text."""
    tables = provenance(study_facts())
    assert [table.title for table in tables][:2] == ["Model small", "Model large"]
    assert rows_of(tables, "Model small")["weights, SHA-256"] == f"{'ab' * 6} ({'ab' * 32})"
    text = rows_of(tables, "Training text (member)")
    assert text["corpus fingerprint"] == hash_words("12" * 32) and text["selected"] == "300 sequences"
    machine = rows_of(tables, "Software and machine")
    assert machine["duration of the last run"] == "2.2 minutes" and machine["version of torch"] == "2.0"


def test_homes_are_shown_as_a_tilde():
    """Wherever a path under a home stands, and nowhere else."""
    replay = rows_of(provenance(study_facts()), "How to repeat it")
    assert replay["command as it was given"] == "mnemoscope study ~/study.toml"
    superuser = PurePosixPath("/") / "root"
    cases = {
        "/home/someone": "~",
        "/Users/some one/x": "~ one/x",
        f"--out={superuser}/a b": "--out=~/a b",
        "'/home/someone/a'": "'~/a'",
        "/rooted/home/b": "/rooted/home/b",
        "s3://bucket/home/b": "s3://bucket/home/b",
        "C:\\Users\\someone\\x": "~\\x",
    }
    assert {text: hide_home(text) for text in cases} == cases
    assert "someone" not in str(provenance(study_facts()))


def test_imported_models_are_shown_without_what_nobody_knows():
    """No weights, number format or device: each is said to be unknown, and why."""
    unknown = dict.fromkeys(("weights_sha256", "config_sha256", "architecture", "dtype", "device", "attention"))
    facts = bare_facts(mode="imported", models=(model_facts("a", batch_size=0, num_parameters=None, **unknown),))
    rows = rows_of(provenance(facts), "Model a")
    names = ("architecture", "number format", "device", "attention", "sequences per pass")
    assert {rows[name] for name in names} == {"not known: scores were imported"}
    assert rows["weights, SHA-256"] == rows["parameters"] == "not known"
    assert rows_of(provenance(facts), "Grid")["mode"].startswith("imported")


def test_the_grid_names_traces_and_counts_where_there_are_any():
    """Traced contexts, the reference continuation and n-grams; none of them in a bare study."""
    full, bare = (rows_of(provenance(facts), "Grid") for facts in (study_facts(), bare_facts()))
    assert full["traced contexts"] == "32" and full["n-grams counted in the corpus"] == "1, 2"
    assert set(full) - set(bare) == {
        "traced contexts",
        "traced sample drawn by the score at",
        "traced tokens of each continuation",
        "n-grams counted in the corpus",
    }
