"""Published findings in the verdict: which hold, fail or are open here, and which nothing could test."""

from __future__ import annotations

import re

import pytest

from mnemoscope.analyses.factors import factors
from mnemoscope.analyses.matches import BinCounts, MemorizedCount, from_bins
from mnemoscope.analyses.transitions import transitions
from mnemoscope.report.claims import length_claim
from mnemoscope.report.verdict import published_states, verdict
from test_factors import model
from test_transitions import example, pair, scores_of
from worded_studies import every_result, few_traces, study_facts


@pytest.fixture(scope="module")
def results():
    return every_result()


def test_published_findings_are_sorted_by_what_became_of_them(results):
    """Each of the nine stands once, in the list of its verdict; what has no analysis, or no test, is not tested."""
    states = published_states(results)
    (claim,) = (c for c in verdict(results, study_facts()).claims if c.lead.startswith("Of 9 published findings"))
    titles = {"holds": "Holds", "fails": "Not found", "undecided": "Open, neither shown nor ruled out"}
    words = {
        "holds": "holds? here",
        "fails": "(?:is|are) not found",
        "undecided": "(?:is|are) open",
        None: "(?:is|are) not tested",
    }
    for wanted, title in {**titles, None: "Not tested"}.items():
        listed = [words for words, state in states.items() if state == wanted]
        part = re.search(rf"{title}: (.*?)\.(?: |$)", claim.detail)
        assert (part.group(1).split("; ") if part else []) == listed
        told = re.search(rf"(\d+) {words[wanted]}", claim.lead)
        assert int(told.group(1) if told else 0) == len(listed)
    assert states["larger models recite more"] == "holds"
    assert list(published_states({}).values()) == [None] * 9


def test_a_published_finding_that_nothing_could_test_is_not_open(results):
    """One size of model, checkpoints alone, too few sequences at the boundary: not tested, which is not undecided."""
    assert published_states(results)["larger models spread internal states further"] is None
    assert published_states(results)["internal states lie in the order of scores"] is not None
    steps = {"transitions": transitions([pair(example(), relation="step")])}
    assert list(published_states(steps).values()) == [None] * 9
    assert list(published_states(few_traces()).values()) == [None] * 9
    nothing = {"transitions": transitions([pair(scores_of([[0] * 5] * 5))])}
    assert list(published_states(nothing).values()) == [None] * 9
    claims = [claim for claim in verdict(few_traces(), study_facts()).claims if "(a published finding)" in claim.lead]
    assert len(claims) == 2 and all("not tested" in claim.lead for claim in claims)


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        (((30, 200), (30, 200)), "found"),
        (((30, 200), (30, 31)), "undecided"),
        (((200, 30), (200, 30)), "not found"),
        (((200, 30), (30, 31)), "undecided"),
        (((200, 30), (30, 200)), "undecided"),
    ],
)
def test_contexts_bring_out_more_only_where_they_do_in_every_model(ends, state):
    """Of 900 at k = 16 and 64: rising in both models is found, falling in both is not found, all else is open."""
    models = {}
    for place, counts in enumerate(ends):
        cells = [MemorizedCount(k, 32, count, 900) for k, count in zip((16, 64), counts, strict=True)]
        models[f"m{place}"] = model(f"m{place}", from_bins(cells), 10, 10**place)
    result = factors(models)
    assert length_claim(result).state == state
    published = {"found": "holds", "not found": "fails", "undecided": "undecided"}[state]
    assert published_states({"factors": result})["longer contexts bring out more"] == published


@pytest.mark.parametrize(
    ("low", "high", "state"), [(70, 30, "holds"), (30, 70, "fails"), (9, 3, "undecided"), (55, 45, "undecided")]
)
def test_low_scores_are_counted_where_there_are_enough(low, high, state):
    """70 of 100 below 0.3 are most, 30 are not; 9 of 12 are too few to say, and 55 of 100 may be half."""
    bins = (low, *[0] * 10, high)
    result = factors({"m": model("m", from_bins([BinCounts(32, 32, bins)]))})
    assert published_states({"factors": result})["most scores stay below 0.3"] == state
