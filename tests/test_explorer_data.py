"""The explorer's data: every stored fact of a sequence as plain JSON, harmless, within a budget, and nothing hidden."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mnemoscope.redaction import redact_sequence
from mnemoscope.report.explorer_data import (
    BLOCK,
    MAX_TEXT,
    ExplorerShape,
    explorer_json,
    preview,
    sequence_json,
    show_text,
    texts_json,
)
from mnemoscope.report.explorer_sample import ExplorerSample
from mnemoscope.sequence_facts import HIDDEN, ScoreKey, SequenceFacts, SequencePick, SequenceScore, Trace

SHAPE = ExplorerShape(("small@step1", "small", "big"), frozenset({"small", "big"}), (2, 4), (1, 3))
TEXTS = {0: "zero", 1: " one", 2: "</script>", 3: "\u202eevil", 4: "\x1b[31m", 5: "x" * 10_000, 7: '"&amp;\\'}


def make_facts(sequence_id=0, *, group="member", num_traced=3):
    """A sequence of 7 tokens, of which 6 has no text, with scores of all models but one cell, and some traces."""
    rng = np.random.default_rng(sequence_id)
    scores = {}
    for number, model in enumerate(SHAPE.models):
        for context in SHAPE.contexts[: 1 if model == "small" else 2]:
            matched = tuple(bool(bit) for bit in rng.integers(0, 2, 3))
            first = matched.index(False) if False in matched else 3
            logs = (-0.125 - number, -400.0)
            counts = (int(matched[0]), sum(matched))
            scores[ScoreKey(model, context)] = SequenceScore(model, context, counts, first, logs, matched)
    traces = {}
    for model in SHAPE.models[3 - num_traced :]:
        generated = np.array([-1, *rng.integers(0, 8, 4)])
        traces[ScoreKey(model, 2)] = Trace(np.arange(5), generated, np.array([np.nan, 0.0, 1.234567, 2.0, 6.2]))
    return SequenceFacts(
        sequence_id=sequence_id,
        group=group,
        offset=0,
        num_repeats=None,
        tokens=(0, 1, 2, 3, 4, 5, 6),
        texts=TEXTS,
        scores=scores,
        traces=traces,
        notes=("a note",),
    )


def make_sample(facts, *, strata=None):
    strata = tuple(number % 2 for number in range(len(facts))) if strata is None else strata
    return ExplorerSample(
        picks=tuple(own.pick for own in facts),
        strata=strata,
        traced_weights=(1.0,) * len(facts),
        sizes=(70, 30),
        model="big",
        context=2,
        continuation=3,
        seed=0,
    )


def size_of(value):
    return len(json.dumps(value, separators=(",", ":")))


def test_a_sequence_is_all_of_its_facts():
    """Scores stand by model and context, traces by their indexes, and what is unknown is null."""
    facts = make_facts(3)
    found = json.loads(json.dumps(sequence_json(facts, SHAPE, weight=2.34567), allow_nan=False))
    assert (found["id"], found["group"], found["offset"], found["num_repeats"]) == (3, "member", 0, None)
    assert (found["weight"], found["notes"], found["redacted"]) == (2.3457, ["a note"], [])
    assert found["tokens"] == [0, 1, 2, 3, 4, 5, 6]
    assert found["scores"][1][1] is None
    for number, model in enumerate(SHAPE.models):
        for place, context in enumerate(SHAPE.contexts):
            if (model, context) != ("small", 4):
                score, own = facts.scores[model, context], found["scores"][number][place]
                assert own["matched"] == "".join("01"[bit] for bit in score.matched)
                assert own["num_matched"] == [own["matched"][:n].count("1") for n in (1, 3)]
                assert own["first_mismatch"] == (own["matched"] + "0").index("0")
                assert own["log_probability"] == [round(-0.125 - number, 2), -400]
    assert [(trace["model"], trace["context"]) for trace in found["traces"]] == [(0, 2), (1, 2), (2, 2)]
    for trace, own in zip(found["traces"], facts.traces.values(), strict=True):
        assert trace["generated"] == own.generated_tokens_P.tolist()
        assert trace["entropy"] == [None, 0, 1.23, 2, 6.2]


def test_unknown_matches_are_question_marks():
    """Imported scores have no bits: their string has a question mark for each index; exact ones as far as is known."""
    unknown = SequenceScore("big", 2, (None, 2), None, (None, float("nan")), None)
    exact = SequenceScore("big", 4, (1, None), 1, (-1.0, float("-inf")), (True, False, None))
    facts = replace(make_facts(), scores={("big", 2): unknown, ("big", 4): exact}, traces={}, tokens=None, texts=None)
    one, two = sequence_json(facts, SHAPE)["scores"][2]
    assert one == {"num_matched": [None, 2], "first_mismatch": None, "log_probability": [None] * 2, "matched": "???"}
    assert two == {"num_matched": [1, None], "first_mismatch": 1, "log_probability": [-1, None], "matched": "10?"}
    assert sequence_json(facts, SHAPE)["tokens"] is None
    assert texts_json([facts]) == {}


def test_texts_are_harmless_and_short():
    """Texts have nothing that is not seen or moves the text around it; endless tokens are cut; no text is no entry."""
    texts = texts_json([make_facts()])
    assert {"0", "1", "2", "3", "4", "5"} <= set(texts) <= {str(token) for token in TEXTS}
    assert "6" not in texts
    assert texts["3"] == r"\u202eevil"
    assert texts["4"] == r"\x1b[31m"
    assert texts["5"] == "x" * MAX_TEXT + "[+9800]"
    assert texts["2"] == "</script>"  # what a page does with it is the page's business: it is text
    for hostile in ("\u202e" * 10_000, "\x00\n\t\r", "a\u200bb\ufeff", "\ud800", "\u0301" * 50):
        assert all(character.isprintable() for character in show_text(hostile))
        assert len(show_text(hostile)) < 6 * MAX_TEXT + 20


def test_texts_are_those_of_tokens_that_are_there():
    """An id that neither truth nor generation has is not carried."""
    facts = replace(make_facts(), tokens=(0, 1), traces={})
    assert set(texts_json([facts])) == {"0", "1"}


def test_a_preview_is_the_first_words_around_a_bar():
    """Context, bar, true continuation; an id where a token is no text by itself, a block where it is hidden."""
    assert preview((0, 1, 6, 0, HIDDEN, 3, 3), TEXTS, 2) == rf"zero one | <6>zero{BLOCK}\u202eevil\u202eevil"


def test_previews_are_short():
    """However long tokens are, and however many: a preview has some 110 characters; without text there is none."""
    assert len(preview((5, 5, 5), TEXTS, 2)) < 130
    assert len(preview((0,) * 5000, TEXTS, 2500)) < 130
    assert preview((0,), None, 1) is None
    assert preview(None, TEXTS, 1) is None


def test_all_is_carried_where_there_is_room():
    """Within the budget every sequence and trace is there, members first by id, with weights that add up."""
    facts = [make_facts(number, group="control" if number % 3 == 0 else "member") for number in (9, 4, 3, 8, 1, 6)]
    sample = make_sample(facts)
    found = explorer_json(facts, sample, SHAPE)
    groups = [(own["group"], own["id"]) for own in found["sequences"]]
    assert groups == [("member", 1), ("member", 4), ("member", 8), ("control", 3), ("control", 6), ("control", 9)]
    assert sum(own["weight"] for own in found["sequences"]) == pytest.approx(100, abs=0.001)
    weights = dict(zip(sample.picks, sample.weights, strict=True))
    for own in found["sequences"]:
        assert own["weight"] == pytest.approx(weights[SequencePick(own["group"], own["id"])], abs=1e-4)
        assert len(own["traces"]) == 3
    assert found["note"] == sample.note


def test_the_budget_takes_checkpoints_then_sequences_then_traces():
    """Less room leaves out traces of intermediate checkpoints, then sequences, then other traces; the note says so."""
    facts = [make_facts(number) for number in range(40)]
    sample = make_sample(facts)
    sizes, said = [], []
    for max_bytes in (100_000, size_of(explorer_json(facts, sample, SHAPE)) - 1, 15_000, 5_000, 2_600, 10):
        found = explorer_json(facts, sample, SHAPE, max_bytes=max_bytes)
        models = {SHAPE.models[trace["model"]] for own in found["sequences"] for trace in own["traces"]}
        sizes.append((len(found["sequences"]), sorted(models)))
        said.append(found["note"].partition("too large: ")[2])
        assert size_of(found) <= max_bytes or sizes[-1] == (2, [])
        assert sum(own["weight"] for own in found["sequences"]) == pytest.approx(100, abs=0.01)
        kept = {own["id"] for own in found["sequences"]}
        assert kept == set(range(len(kept)))  # the first seats: as even over the strata as all of them
    assert sizes[:2] == [(40, ["big", "small", "small@step1"]), (40, ["big", "small"])]
    assert sizes[2][1] == ["big", "small"]
    assert 2 < sizes[2][0] < 40
    assert sizes[-1] == (2, [])
    assert said[:2] == ["", "traces of intermediate checkpoints."]
    assert said[2] == f"traces of intermediate checkpoints and {40 - sizes[2][0]} of 40 drawn sequences."
    assert said[-1] == "traces and 38 of 40 drawn sequences."
    assert [count for count, _ in sizes] == sorted((count for count, _ in sizes), reverse=True)


def test_a_study_without_checkpoints_loses_sequences_first():
    """Where every model is final, no traces are given up for sequences, and the note speaks of sequences alone."""
    shape = SHAPE._replace(final_models=frozenset(SHAPE.models))
    facts = [make_facts(number) for number in range(40)]
    found = explorer_json(facts, make_sample(facts), shape, max_bytes=15_000)
    assert 2 < len(found["sequences"]) < 40
    assert all(len(own["traces"]) == 3 for own in found["sequences"])
    assert found["note"].endswith(f"too large: {40 - len(found['sequences'])} of 40 drawn sequences.")


def test_nothing_hidden_is_in_the_data():
    """Property: of a secret cut into tokens, true or generated, no text is left in the data or in a preview."""
    rng = np.random.default_rng(0)
    pieces = [" qjane", ".qdoe", "@qmail", ".example", ".org"]
    texts = {number: f" w{number}" for number in range(20)} | dict(enumerate(pieces, start=20))
    for trial in range(50):
        truth = rng.integers(0, 20, 12)
        generated = rng.integers(0, 20, 12)
        where = truth if trial % 2 else generated
        start = int(rng.integers(4, 7)) if trial % 2 == 0 else int(rng.integers(0, 7))
        where[start : start + 5] = range(20, 25)
        generated[0] = -1
        trace = Trace(truth, generated, np.zeros(12))
        facts = replace(make_facts(), tokens=tuple(truth.tolist()), texts=texts, traces={ScoreKey("big", 4): trace})
        redacted = redact_sequence(facts)
        data = [explorer_json([redacted], replace(make_sample([redacted]), strata=(0,), sizes=(1,)), SHAPE)]
        text = json.dumps([data, preview(redacted.tokens, redacted.texts, 4)])
        assert not any(piece in text for piece in pieces)
        own = data[0]["sequences"][0]
        hidden = own["tokens"] if trial % 2 else own["traces"][0]["generated"]
        assert [place for place, token in enumerate(hidden) if token == HIDDEN] == list(range(start, start + 5))
        assert own["redacted"] == [place for place, token in enumerate(own["tokens"]) if token == HIDDEN]
        for place in range(12):
            if place not in range(start, start + 5):
                assert own["tokens"][place] == truth[place]
                assert own["traces"][0]["generated"][place] == generated[place]
