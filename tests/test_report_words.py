"""The verdict: its numbers are the tables', and every kind of study gets sentences that are right for it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mnemoscope.analyses.embeddings import embeddings
from mnemoscope.analyses.factors import factors
from mnemoscope.analyses.prediction import prediction
from mnemoscope.analyses.transitions import transitions
from mnemoscope.findings import analyze
from mnemoscope.imported import import_scores
from mnemoscope.intervals import wilson
from mnemoscope.manifest import read_manifest
from mnemoscope.report.claims import length_claim, longest_row, size_claim
from mnemoscope.report.perspective_claims import boundary_counts, kept_row
from mnemoscope.report.provenance import provenance
from mnemoscope.report.rigor import rigor_table
from mnemoscope.report.sections import sections
from mnemoscope.report.spoken import bound_words, copies_words, joined, plural, points_words, size_words
from mnemoscope.report.study_facts import facts_of
from mnemoscope.report.verdict import published_states, verdict
from mnemoscope.run import run_study
from predicted_samples import forecast, predictions, simulate
from studies import make_study
from test_embeddings import sample
from test_factors import published_models
from test_imported import write
from test_transitions import example, pair, scores_of
from worded_studies import (
    bare_facts,
    beside,
    counted,
    every_result,
    factors_of,
    few_traces,
    group_facts,
    model_facts,
    study_facts,
)

NO_CONTROL = "No unseen text was scored"


@pytest.fixture(scope="module")
def results():
    return every_result()


def claims_of(result, facts=None):
    return verdict({"factors": result}, facts or bare_facts()).claims


def the_claim(claims, *words):
    """The only claim that holds all of these words."""
    (found,) = (claim for claim in claims if all(word in claim.words for word in words))
    return found


def interval(count, of):
    """Wilson's interval as a sentence has it, of shares between 1 and 99 %."""
    low, high = (100 * float(end) for end in wilson(count, of))
    return low, high


def test_a_full_study_is_told_in_thirteen_claims_at_most(results):
    """Every perspective has its claim, the amount comes first, cautions last, and nothing is repeated."""
    found = verdict(results, study_facts(groups={"member": group_facts(drawn="listed", num_short=3)}))
    words = [claim.words for claim in found.claims]
    assert 8 <= len(words) <= 13 and len(set(words)) == len(words)
    assert "recites 2 of 200" in words[0] and "b (10 million parameters" in words[0]
    assert words[0] == found.claims[0].lead + found.claims[0].detail and found.claims[-1].state == "warning"
    topics = (
        "Rarer words just",
        "less sure of itself",
        "(embeddings)",
        "trained predictor",
        "recites 40 too",
    )
    assert all(the_claim(found.claims, topic) for topic in topics)


def test_the_amount_is_the_largest_models_at_the_longest_lengths(results):
    """90 of 300 at k = n = 32: the count, the share and Wilson's interval stand in headline and first claim."""
    found, row = verdict(results, study_facts()), longest_row(results["factors"])
    assert (row["model"], row["context"], row["continuation"]) == ("b", 32, 32)
    low, high = interval(90, 300)
    for text in (found.headline, found.claims[0].words):
        assert "90 of 300 training sequences" in text and f"30 % ({low:.0f} to {high:.0f})" in text
    assert "against 2 of 200 sequences that it never saw" in found.headline
    assert found.claims[0].state == "found"


def test_the_excess_is_the_tables(results):
    """29 points more than of the control's 2 of 200, with the table's interval."""
    (row,) = (row for row in results["factors"].excess.to_pylist() if row["model"] == "b")
    words = points_words(row["excess"], row["excess_low"], row["excess_high"])
    assert words.startswith("29 percentage points (")
    claim = the_claim(verdict(results, study_facts()).claims, "than of text that it never saw")
    assert words in claim.words and claim.state == "found" and "it recites 2 of 200 sequences" in claim.words


@pytest.mark.parametrize(
    ("member", "control", "state"),
    [(60, 2, "found"), (3, 2, "undecided"), (3, 60, "not found")],
)
def test_recitation_counts_beside_unseen_text(member, control, state):
    """More than of unseen text is found, as much is undecided, less is not found; a count alone is none of these."""
    one = beside(counted((member, 300)), counted((control, 200), group="control"))
    claims = claims_of(factors_of(one))
    (claim,) = (claim for claim in claims if "text that it never saw" in claim.words)
    assert claim.state == state
    assert claims[0].state == ("found" if state == "found" else "undecided")
    assert claims_of(factors_of(counted((member, 300))))[0].state == "plain"


def test_without_a_control_nothing_is_called_memorized():
    """The headline says that guessing is not known, a warning says why, and no claim speaks of unseen text's share."""
    found = verdict({"factors": factors_of(counted((60, 300)))}, bare_facts())
    assert "how much of this is guessing is not known" in found.headline
    assert the_claim(found.claims, NO_CONTROL).state == "warning"
    assert not any("counts as memorized" in claim.words for claim in found.claims)


@pytest.mark.parametrize("control", [None, 0])
def test_zero_has_an_upper_bound(control):
    """None of 300: Wilson's upper end of 1.264 % is told, rounded up, and nothing is said to be guessed."""
    one = counted((0, 300))
    one = one if control is None else beside(one, counted((control, 200), group="control"))
    found = verdict({"factors": factors_of(one)}, bare_facts())
    assert float(wilson(0, 300).high) == pytest.approx(0.01264, abs=1e-5)
    assert "at most 1.3 %" in found.headline and "at most 1.3 %" in found.claims[0].words
    assert found.claims[0].state == "not found"
    told = [claim.words for claim in found.claims if "published findings" not in claim.words]
    assert not any("guess" in words or "longer" in words.lower() for words in told)


@pytest.mark.parametrize(("of", "state"), [(29, "undecided"), (30, "not found")])
def test_none_of_a_few_is_not_called_absent(of, state):
    """None of 29 leaves up to 12 % open: too few to say that nothing is recited."""
    assert claims_of(factors_of(counted((0, of))))[0].state == state


@pytest.mark.parametrize(
    ("counts", "state", "words"),
    [
        ((100, 200, 300), "found", "Larger models recite more"),
        ((300, 200, 100), "not found", "not recite more, but less"),
        ((100, 300, 200), "not found", "falls at 1 of 2 steps from one size to the next (corrected for their number)"),
        ((200, 200, 205), "undecided", "is open"),
    ],
)
def test_size_is_told_as_it_is(counts, state, words):
    """Rising, falling, bumpy and flat over three sizes, with the finding's difference and both ends' counts."""
    result = factors_of(*(counted((count, 1000)) for count in counts))
    claim, figures = size_claim(result), result.finding.figures
    assert claim.state == state and words in claim.words
    ends = [figures[f"size_difference{end}"] for end in ("", "_low", "_high")]
    assert points_words(*ends, signed=True) in claim.words
    assert f"{counts[0]} of 1,000 recited" in claim.words and f"{counts[-1]} of 1,000 recited" in claim.words


def test_larger_models_memorize_more_only_beside_unseen_text():
    """A larger share alone may be better guessing: without a control it is recited, with one it is memorized."""
    control = counted((2, 200), group="control")
    beside_it = factors_of(*(beside(counted((count, 300)), control) for count in (30, 90)))
    assert size_claim(beside_it).lead == "Larger models memorize more"
    assert size_claim(factors_of(counted((30, 300)), counted((90, 300)))).lead == "Larger models recite more"


def test_one_model_says_nothing_of_size():
    """Neither found nor failed: undecided, and not among the findings that were tested."""
    result = factors_of(counted((60, 300)))
    assert size_claim(result).state == "undecided" and "Only one model" in size_claim(result).words
    assert published_states({"factors": result})["larger models recite more"] is None


def test_copies_are_told_from_once_to_the_largest_class_that_is_not_small():
    """0 of 120 at one copy against 60 of 80 at 64; a class of 9 sequences above them does not carry the claim."""
    rows = ((1, 0, 120), (8, 30, 100), (64, 60, 80), (500, 9, 9))
    claim = the_claim(claims_of(factors_of(counted(*rows))), "0 of 120 that stand there once")
    assert "60 of 80 that stand there 64 times" in claim.words and claim.state == "found"


@pytest.mark.parametrize(
    ("rows", "state"),
    [(((1, 60, 100), (64, 5, 100)), "not found"), (((1, 10, 100), (64, 12, 100)), "undecided"), ((), "undecided")],
)
def test_copies_without_effect_are_no_finding(rows, state):
    """Fewer recitations with more copies, as many, and copies that nobody knows."""
    claims = claims_of(factors_of(counted(*rows) if rows else counted((60, 300))))
    (claim,) = (c for c in claims if "copies" in c.words.lower() and c.state != "warning")
    assert claim.state == state


def test_published_counts_are_told_with_their_lengths():
    """The published suite: 10,523,472 of 146,432,000 at k = 96, n = 16; contexts bring out more in all 7 models."""
    result = factors(published_models())
    found = verdict({"factors": result}, bare_facts(mode="imported"))
    assert "10,523,472 of 146,432,000 training sequences" in found.headline and "next 16 tokens" in found.headline
    lengths = length_claim(result)
    assert lengths.state == "found" and "it rises in 7 of 7 models and falls in 0" in lengths.words
    assert "2.4682 % (2.4657 to 2.4707) after 32 tokens" in lengths.words


@pytest.mark.parametrize(("first", "last", "state"), [(5, 60, "found"), (60, 5, "not found"), (30, 33, "undecided")])
def test_training_time_is_told_between_first_and_last_step(first, last, state):
    """Two checkpoints of one source, 300 sequences each."""
    result = factors_of(counted((first, 300)), counted((last, 300)), steps=(10, 99), source="a/run")
    claim = the_claim(claims_of(result), "from step 10 to step 99 of run")
    assert claim.state == state


def test_nothing_scored_is_said_so():
    """Without results, with a control alone, with empty strata: no number is made up."""
    alone = factors_of(counted((1, 200), group="control"))
    unscored, missing = "No sequence of the training text has been scored.", "the analysis of the scores is missing."
    empty = factors_of(counted((0, 0)))
    for results, words in (({}, missing), ({"factors": alone}, unscored), ({"factors": empty}, unscored)):
        found = verdict(results, bare_facts())
        assert found.headline.endswith(words)
        assert not any("%" in claim.words for claim in found.claims)


def test_the_boundary_claim_counts_models_by_verdict(results):
    """One model: its verdict in words; a `fails` is not found, an `undecided` undecided, a `holds` found."""
    for name, noun in (("frequency", "Rarer words"), ("entropy", "less sure")):
        claim = the_claim(verdict(results, study_facts()).claims, noun, "(a published finding)")
        expected = {"holds": "found", "fails": "not found", "undecided": "undecided"}
        assert claim.state == expected[results[name].finding.verdict]
        assert sum(boundary_counts(results[name]).values()) == 1


def test_the_last_pair_of_models_is_told():
    """Of three sizes, what the largest keeps of the middle one."""
    result = transitions([pair(example()), pair(example(), names=("large", "larger"), sizes=(40, 160))])
    row = kept_row(result)
    assert (row["model_from"], row["model_to"]) == ("large", "larger")


def test_what_the_next_model_keeps_is_the_tables(results):
    """40 of the small model's 50 are kept by the large one: 80 %, with the table's interval."""
    row = kept_row(results["transitions"])
    assert (row["num_chosen"], row["num_sequences"], row["share"]) == (40, 50, 0.8)
    low, high = interval(40, 50)
    words = the_claim(verdict(results, study_facts()).claims, "recites 40 too").words
    assert words.startswith("Of the 50 sequences that small recites, large (the next larger) recites 40 too, ")
    assert f"80 % ({low:.0f} to {high:.0f})" in words


def test_the_predictors_share_and_gain_are_the_findings(results):
    """Token accuracy, and the gain over the best baseline with its sign."""
    figures = results["prediction"].finding.figures
    words = the_claim(verdict(results, study_facts()).claims, "trained predictor").words
    gain = [figures[f"context_token_accuracy_gain{end}"] for end in ("", "_low", "_high")]
    assert points_words(*gain, signed=True) in words and figures["context_token_accuracy_best_baseline"] in words
    assert f"ahead of {figures['num_baselines_beaten']} of {figures['num_baselines']}" in words


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (bare_facts(mode="imported"), "computed elsewhere and imported"),
        (bare_facts(is_complete=False), "The study is not complete"),
        (study_facts(), "is the study's word"),
        (bare_facts(mode="exact"), "mode exact"),
        (bare_facts(missing_models=("big",)), "Not scored yet: big."),
        (bare_facts(models=(model_facts("x", dtype="bfloat16"),)), "x ran in a half-precision number format"),
        (bare_facts(groups={"member": group_facts(drawn="listed")}), "chosen by a list"),
        (bare_facts(groups={"member": group_facts(drawn="sample")}), "300 sequences drawn at random"),
        (bare_facts(groups={"member": group_facts(num_short=7)}), "7 sequences of the training text were too short"),
    ],
)
def test_cautions_follow_the_facts(facts, words):
    """Each is said where its fact holds, and not in a plain study."""
    result = factors_of(counted((60, 300)))
    assert the_claim(claims_of(result, facts), words).state == "warning"
    assert not any(words in claim.words for claim in claims_of(result, bare_facts()))


def test_imported_scores_are_told_as_such(tmp_path):
    """A real import of two models: no word of near-ties counted, of copies known, or of a control."""
    files = [
        write(tmp_path, model, 32, n, {row: n if row < 2 else 0 for row in range(5)})
        for n in (4, 8)
        for model in ("70m-deduped-v0", "160m-deduped-v0")
    ]
    study = import_scores(files, tmp_path / "study")
    found = verdict(analyze(study), facts_of(study, read_manifest(study.folder)))
    assert "recites the next 8 tokens of 2 of 5 training sequences" in found.headline
    assert the_claim(found.claims, "imported").state == "warning"
    assert the_claim(found.claims, NO_CONTROL).state == "warning"
    assert not any("came so close" in claim.words for claim in found.claims)


def test_a_study_of_one_model_in_mode_exact(tmp_path):
    """A real run: what was scored is told, half-right sequences are said to be unknown."""
    study = run_study(make_study(tmp_path / "in", mode="exact"), tmp_path / "study")
    results = analyze(study)
    found = verdict(results, facts_of(study, read_manifest(study.folder)))
    row = longest_row(results["factors"])
    assert row["num_memorized"] == 0 and found.claims[0].state == "undecided" and row["small_stratum"]
    assert f"none of {row['num_sequences']} training sequences" in found.claims[0].words
    assert the_claim(found.claims, "mode exact")
    assert published_states(results)["most scores stay below 0.3"] is None


def test_words_of_numbers():
    """Sizes, copies, lists and bounds by hand."""
    assert [size_words(n) for n in (100_096, 3_159_552, 11_327_027_200)] == [
        "100 thousand parameters",
        "3.16 million parameters",
        "11.3 billion parameters",
    ]
    assert [copies_words(*ends) for ends in ((0, 0), (1, 1), (64, 64), (4, 7))] == [
        "never",
        "once",
        "64 times",
        "4 to 7 times",
    ]
    assert [joined(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert (plural(1, "model"), plural(1200, "model")) == ("1 model", "1,200 models")
    assert bound_words(0.01264) == "at most 1.3 %" and bound_words(0.0121) == "at most 1.3 %"


ALL_KINDS = {
    "everything": lambda: (every_result(), study_facts()),
    "nothing": lambda: ({}, bare_facts(models=(), groups={})),
    "published": lambda: ({"factors": factors(published_models())}, bare_facts(mode="imported")),
    "zero": lambda: ({"factors": factors_of(counted((0, 300)))}, bare_facts()),
    "empty": lambda: ({"factors": factors_of(counted((0, 0)))}, bare_facts()),
    "control alone": lambda: ({"factors": factors_of(counted((1, 200), group="control"))}, study_facts()),
    "one sequence": lambda: ({"factors": factors_of(counted((1, 1)))}, bare_facts()),
    "nothing kept": lambda: ({"transitions": transitions([pair(scores_of([[0] * 5] * 5))])}, study_facts()),
    "one score": lambda: ({"embeddings": embeddings({"m": lone_score()}, num_resamples=20)}, study_facts()),
    "no baseline": lambda: ({"prediction": prediction(lone_predictor(), num_resamples=20)}, study_facts()),
    "no predictor": lambda: ({"prediction": prediction(lone_predictor().slice(0, 0), num_resamples=20)}, study_facts()),
    "few traces": lambda: (few_traces(), study_facts()),
}


def lone_score():
    """Every sequence of one score: no two groups to compare."""
    return sample(np.zeros(40, int), np.random.default_rng(0).normal(size=(40, 8, 6)))


def lone_predictor():
    """Ours from the context, and nothing beside it."""
    return predictions(simulate(51), forecast(simulate(51), skill=0.9, seed=1))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_sentence_has_a_hole(kind):
    """Whatever is missing, no text shows None, nan, a brace or a doubled point or blank, and each ends as it should."""
    results, facts = ALL_KINDS[kind]()
    found = verdict(results, facts)
    sentences = [found.headline, *(claim.words for claim in found.claims)]
    for section in sections(results, facts, {}):
        sentences += [section.question, *section.checks, section.n]
    assert all(text.endswith((".", "?")) and text[:1] != " " for text in sentences)
    texts = [*sentences, *(row.evidence for row in rigor_table(results, facts))]
    texts += [value for table in provenance(facts) for _, value in table.rows]
    for text in texts:
        assert text and not re.search(r"\bNone\b(?! (of|in) )|\bnan\b|[{}]|\.\.|  | ,| \.", text), text
    assert len(found.claims) <= 14
