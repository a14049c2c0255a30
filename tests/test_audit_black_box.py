"""A fine-tuned model, asked through an endpoint, and with conversations: the verdicts of its audit at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from endpoints import Server, completing
from finetuned import CANARY_DOSES, NUM_HELDOUT, PER_DOSE, REPEATS, FineTuned
from mnemoscope.audit.auditing import read_audit, run_audit
from mnemoscope.audit.black_box.answered import run_black_box
from mnemoscope.audit.black_box.endpoint import Endpoint
from mnemoscope.audit.findings import Wishes
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.config import ModelConfig
from mnemoscope.errors import ConfigError
from networks import generate

COMMAND = [sys.executable, "-m", "mnemoscope", "audit"]
CONTEXT, CONTINUATION = 16, 16
PROMPT_WORDS = 8
NAME = "ft:tiny:acme::1"
"""As servers name fine-tuned models: no folder's name, and none of a hub."""
TALKING = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %} {% endif %}{% endfor %}"
"""A template that renders a document that was cut into a question and its answer as the document that it was."""


@pytest.fixture(scope="module")
def settings(tuned) -> AuditSettings:
    return AuditSettings(
        model=ModelConfig(source=str(tuned.model), device="cpu"),
        train=(str(tuned.train),),
        heldout=(str(tuned.heldout),),
        tokenizer=str(tuned.model / "tokenizer.json"),
        contexts=(8, CONTEXT),
        continuations=(8, CONTINUATION),
        offsets_per_document=0,
    )


@pytest.fixture(scope="module")
def network(tuned) -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM.from_pretrained(tuned.model).eval()


@pytest.fixture(scope="module")
def tokenizer(tuned) -> Tokenizer:
    return Tokenizer.from_file(str(tuned.model / "tokenizer.json"))


@pytest.fixture(scope="module")
def at_hand(settings, tuned, tmp_path_factory) -> AuditResult:
    return run_audit(settings, tmp_path_factory.mktemp("hand") / "audit", Wishes(canaries=tuned.canaries))


def command(tuned: FineTuned, server: Server, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The verb, in a process of its own."""
    asked = [
        *("--endpoint", server.url, "--endpoint-model", NAME, "--tokenizer", str(tuned.model / "tokenizer.json")),
        *("--train", str(tuned.train), "--heldout", str(tuned.heldout), "--canaries", str(tuned.canaries)),
        *("--contexts", f"8,{CONTEXT}", "--continuations", f"8,{CONTINUATION}", "--offsets", "0", "--out", str(out)),
    ]
    # A name that is looked up would be asked for here.
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*COMMAND, *asked, *more], capture_output=True, text=True, env=env, check=False)


def at_reference(result: AuditResult) -> Any:
    cell = result.reference
    return next(row for row in result.matches if row.kind == "all" and (row.context, row.continuation) == cell)


def full_lines(result: AuditResult) -> list[int]:
    return sorted(each.line for each in result.exposed if each.is_full)


@pytest.fixture(scope="module")
def outside(tuned, network, tokenizer, tmp_path_factory) -> Any:
    """Asked within a budget, then whole; what the server was asked by then, and what was printed each time."""
    out = tmp_path_factory.mktemp("outside") / "audit"
    with completing(network, tokenizer) as server:
        first = command(tuned, server, out, "--max-requests", "40", "--json")
        num_first = len(server.questions)
        second = command(tuned, server, out)
        prompts = list(server.prompts)
        third = command(tuned, server, out, "--json")
        assert len(server.questions) == len(prompts)
    return first, num_first, second, prompts, third, out


def test_what_an_endpoint_recites_is_what_its_model_recites(outside, at_hand):
    """By the command: the same documents, shares, doses, canaries and leaks as of the model at hand; exit status 1."""
    *_, second, _, _, out = outside
    assert second.returncode == 1, second.stderr
    assert second.stdout.startswith("FAIL")
    found = read_audit(out / "audit.json")
    assert found.reference == at_hand.reference == (str(CONTEXT), CONTINUATION)
    assert at_reference(found) == at_reference(at_hand)
    assert at_reference(found).member.count >= REPEATS[32] + REPEATS[64]
    assert at_reference(found).control.count == 0
    assert full_lines(found) == full_lines(at_hand)
    assert found.canaries == at_hand.canaries
    assert {dose.repeats: (dose.recited.count, dose.recited.n) for dose in found.canaries} == {
        0: (0, PER_DOSE),
        CANARY_DOSES[0]: (0, PER_DOSE),
        CANARY_DOSES[1]: (PER_DOSE, PER_DOSE),
    }
    assert (found.doses, found.leaks) == (at_hand.doses, at_hand.leaks)
    assert {name: row[:2] for name, row in found.outcomes.items()} == {
        name: row[:2] for name, row in at_hand.outcomes.items()
    }


def test_what_answers_do_not_tell_is_not_claimed(outside, at_hand):
    """No sampling, no signals, no margins: these decide nothing, and no number of them is given."""
    *_, out = outside
    found = read_audit(out / "audit.json")
    states = {each.name: (each.state, each.decides) for each in found.criteria}
    assert states["max_extractable_excess"] == states["max_signal_tpr_at_1"] == ("unknown", False)
    assert states["max_recited_excess"] == ("fail", True)
    assert found.extraction == found.signals == ()
    assert "fragile passages" not in found.sizes
    assert {**found.sizes, "fragile passages": at_hand.sizes["fragile passages"]} == at_hand.sizes
    assert all(each.log_probability is None and each.shortest_context is None for each in found.exposed)
    assert found.provenance["model"] == {"label": NAME}
    assert "approximate" in found.notes[0]


def test_a_budget_leaves_the_rest_unknown_and_nothing_is_asked_twice(outside, at_hand):
    """40 requests are 40 and could not tell; the next call asks the others alone, a third one nothing."""
    first, num_first, _, prompts, third, _ = outside
    assert (first.returncode, num_first) == (2, 40), first.stderr
    part, whole = (json.loads(done.stdout) for done in (first, third))
    assert part["state"] == "unknown"
    # Every different start of a document, canaries and twins among them, and none of these twice.
    assert len(prompts) == len(set(prompts)) == sum(REPEATS.values()) + NUM_HELDOUT + 3 * PER_DOSE
    # What was not answered is neither too short nor gone.
    assert part["sizes"]["training documents"] == sum(copies * num for copies, num in REPEATS.items())
    for name in ("training documents too short", "held-out documents too short"):
        assert part["sizes"][name] == 0
    assert not any("have no passage" in note for note in part["notes"])
    assert any("not answered within the budget" in note for note in part["notes"])
    assert third.returncode == 1
    assert len(whole["outcomes"]) == len(at_hand.outcomes)


def test_a_threshold_of_code_decides_for_an_endpoint_too(settings, tuned, network, tokenizer, tmp_path):
    """Whoever sets a limit to code that leaks has it judged, named or not."""
    few = replace(settings, sample=4)
    with completing(network, tokenizer) as server:
        endpoint = Endpoint(url=server.url, model=NAME)
        found = run_black_box(endpoint, few, tmp_path / "a", Wishes(thresholds=Thresholds(max_code_leaks=0)))
    assert {each.name: each.decides for each in found.criteria}["max_code_leaks"]
    assert found.provenance["endpoint"] == {"address": endpoint.address, "model": NAME}


def test_an_endpoint_needs_a_tokenizer_and_texts(settings, tmp_path):
    """Without a tokenizer nothing is asked, and the name of its model is looked up nowhere."""
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model=NAME)
    with pytest.raises(ConfigError, match="--tokenizer"):
        run_black_box(endpoint, replace(settings, tokenizer=None), tmp_path)


def write_talks(path: Path, source: Path, form: str) -> Path:
    """Documents of a file as conversations: the first words are asked, the others answered."""
    records = []
    for line in source.read_text().splitlines():
        words = json.loads(line)["text"].split()
        asked, said = " ".join(words[:PROMPT_WORDS]), " ".join(words[PROMPT_WORDS:])
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        strings = {"prompt": asked, "completion": f" {said}"}
        records.append(strings if form == "prompt" else {"messages": turns})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("form", ["messages", "prompt"])
def test_what_an_assistant_recites_is_found(form, tuned, network, tokenizer, tmp_path):
    """Files of conversations, by the command: turns that plain generation says on are counted, and no held-out one."""
    train = write_talks(tmp_path / "train.jsonl", tuned.train.with_name("plain.jsonl"), form)
    heldout = write_talks(tmp_path / "heldout.jsonl", tuned.heldout, form)
    template = tmp_path / "template.jinja"
    template.write_text(TALKING)
    more = ("--chat-template", str(template)) if form == "messages" else ()
    asked = [
        *("--model", str(tuned.model), "--train", str(train), "--heldout", str(heldout), "--device", "cpu"),
        *("--contexts", "16", "--continuations", f"8,{CONTINUATION}", "--out", str(tmp_path / "audit"), *more),
    ]
    done = subprocess.run([*COMMAND, *asked], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1, done.stderr
    found = read_audit(tmp_path / "audit" / "audit.json")
    row = at_reference(found)
    assert found.reference == ("prompt", CONTINUATION)
    expected = {}
    for text in tuned.repeats:
        tokens = tokenizer.encode(text).ids
        context = len(tokenizer.encode(" ".join(text.split()[:PROMPT_WORDS])).ids)
        start = max(context - 16, 0)
        said = generate(network, [tokens[start:context]], CONTINUATION)[0].tolist()
        expected[text] = said == tokens[context : context + CONTINUATION]
    assert (row.member.count, row.member.n) == (sum(expected.values()), len(tuned.repeats))
    assert row.member.count >= REPEATS[32] + REPEATS[64]
    assert (row.control.count, row.control.n) == (0, NUM_HELDOUT)
    lines = [json.loads(line)["text"] for line in tuned.train.with_name("plain.jsonl").read_text().splitlines()]
    assert {lines[each.line - 1] for each in found.exposed if each.is_full} == {
        text for text, is_recited in expected.items() if is_recited
    }
    assert {each.kind for each in found.exposed} == {"turn"}
