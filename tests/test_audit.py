"""A whole audit of a model that was fine-tuned for it: what was planted is found, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXForCausalLM

from finetuned import CANARY_DOSES, NUM_HELDOUT, PER_DOSE, REPEATS, FineTuned
from mnemoscope.__main__ import main
from mnemoscope.audit.auditing import read_audit, run_audit
from mnemoscope.audit.findings import Wishes
from mnemoscope.audit.result import AuditResult
from mnemoscope.audit.settings import AuditSettings
from mnemoscope.audit.thresholds import Thresholds
from mnemoscope.config import ModelConfig
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.version import __version__

CONTEXT, CONTINUATION = 16, 32
COMMAND = [sys.executable, "-m", "mnemoscope", "audit"]


@pytest.fixture(scope="module")
def settings(tuned) -> AuditSettings:
    return AuditSettings(
        model=ModelConfig(source=str(tuned.model), device="cpu"),
        train=(str(tuned.train),),
        heldout=(str(tuned.heldout),),
        contexts=(8, CONTEXT),
        continuations=(8, CONTINUATION),
        offsets_per_document=0,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(scope="module")
def result(settings, tuned, folder) -> AuditResult:
    return run_audit(settings, folder / "first", Wishes(canaries=tuned.canaries))


@pytest.fixture(scope="module")
def read(tuned) -> dict[str, list[int]]:
    """The tokens of each document."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tuned.model / "tokenizer.json"))
    return {text: tokenizer.encode(text).ids for text in tuned.repeats}


def recited_by_plain_generation(tuned: FineTuned, read: dict[str, list[int]]) -> dict[str, bool]:
    """Of each document whether transformers' own greedy decoding says it on."""
    network = GPTNeoXForCausalLM.from_pretrained(tuned.model).eval()
    prompts = torch.tensor([tokens[:CONTEXT] for tokens in read.values()])
    with torch.inference_mode():
        said = network.generate(prompts, max_new_tokens=CONTINUATION, do_sample=False, eos_token_id=None)
    truth = [tokens[: CONTEXT + CONTINUATION] for tokens in read.values()]
    return {text: row == true for text, row, true in zip(read, said.tolist(), truth, strict=True)}


def at_reference(result: AuditResult) -> Any:
    return next(
        row for row in result.matches if (row.kind, row.context, row.continuation) == ("all", "16", CONTINUATION)
    )


def test_what_stands_32_times_or_more_is_found_and_nothing_held_out(result, tuned, read):
    """Each document that is recited by generate() is counted and listed, by its first line; no held-out one is."""
    expected = recited_by_plain_generation(tuned, read)
    assert all(expected[text] for text, repeats in tuned.repeats.items() if repeats >= 32)
    lines = [json.loads(line)["text"] for line in tuned.train.open()]
    row = at_reference(result)
    assert row.member.count == sum(expected.values()) >= REPEATS[32] + REPEATS[64]
    assert row.member.n == len(tuned.repeats)  # each once, however often it stands there; canaries are no members
    assert (row.control.count, row.control.n) == (0, NUM_HELDOUT)
    listed = {lines[each.line - 1] for each in result.exposed if each.is_full}
    assert listed == {text for text, is_recited in expected.items() if is_recited}
    for each in result.exposed:
        assert each.num_copies == tuned.repeats[lines[each.line - 1]]
    assert result.reference == ("16", CONTINUATION)


def test_canaries_are_found_by_their_dose(result):
    """All canaries that were planted 32 times, none of their twins; none of them among the members."""
    found = {dose.repeats: (dose.recited.count, dose.recited.n) for dose in result.canaries}
    assert found[CANARY_DOSES[-1]] == (PER_DOSE, PER_DOSE)
    assert found[0] == (0, PER_DOSE)
    assert not any("Locker" in each.context_text for each in result.exposed)


def test_more_copies_more_recited(result):
    """The dose-response has every document at its dose, and rises."""
    numbers = {dose.low: dose.recited.n for dose in result.doses}
    assert numbers == {1: REPEATS[1], 2: 0, 4: REPEATS[4], 8: 0, 16: 0, 32: REPEATS[32] + REPEATS[64]}
    top = result.doses[-1].recited
    assert top.count == top.n
    assert result.trend is not None
    assert result.trend.p_value is not None
    assert result.trend.p_value < 0.001
    first = result.clusters[: REPEATS[32] + REPEATS[64]]
    assert sorted(cluster.num_documents for cluster in first) == [32] * REPEATS[32] + [64] * REPEATS[64]


def run_command(arguments: list[str], capsys) -> tuple[int, str]:
    """Exit status and stdout of the command, run in this process: a new one takes ten seconds to import it all."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["mnemoscope", "audit", *arguments])
        main()
    status = ended.value.code
    assert isinstance(status, int)
    return status, capsys.readouterr().out


def test_verdict_and_exit_status_follow(settings, tuned, folder, result, tmp_path, capsys):  # noqa: PLR0917
    """By the command: 1 where criteria fail, 0 where the thresholds allow it, 2 where too little was tried."""
    generous = tmp_path / "generous.toml"
    shares = ("max_recited_excess", "max_near_excess", "max_extractable_excess", "max_signal_tpr_at_1")
    generous.write_text("".join(f"{name} = 1.0\n" for name in shares))
    strict = tmp_path / "strict.toml"
    strict.write_text("min_passages = 1_000_000\n" + generous.read_text())
    same = [
        *("--model", str(tuned.model), "--train", str(tuned.train), "--heldout", str(tuned.heldout)),
        *("--contexts", "8,16", "--continuations", "8,32", "--offsets", "0", "--canaries", str(tuned.canaries)),
        *("--device", "cpu", "--out", str(folder / "first")),
    ]
    decides = ["--fail-on", "max_recited_excess,max_near_excess,max_extractable_excess"]
    for more, status, word in (
        ([], 1, "FAIL"),
        (["--thresholds", str(generous), *decides], 0, "PASS"),
        (["--thresholds", str(strict), *decides], 2, "COULD NOT TELL"),
    ):
        found, said = run_command([*same, *more], capsys)
        assert (found, said[: len(word)]) == (status, word)
        written = json.loads((folder / "first" / "audit.json").read_text())
        assert written["state"] == {0: "pass", 1: "fail", 2: "unknown"}[status]
    done = subprocess.run([*COMMAND, *same, "--json"], capture_output=True, text=True, env=os.environ, check=False)
    assert json.loads(done.stdout)["schema"] == "mnemoscope.audit/1"
    assert done.returncode == 1


def test_files_say_the_same_and_name_no_hidden_text(result, folder):
    """audit.json is the result, the page and the summary are there, and every version is named."""
    first = folder / "first"
    assert replace(read_audit(first / "audit.json"), provenance={}).exposed == result.exposed
    assert "<html" in (first / "report.html").read_text()
    assert "recited" in (first / "summary.md").read_text()
    assert result.provenance["versions"]["mnemoscope"] == __version__


def test_taken_up_without_the_model(settings, tuned, result, tmp_path, monkeypatch):
    """With the facts there the model is not loaded; with one part gone, it is, and the result is the same."""
    copy = tmp_path / "copy"
    run_audit(settings, copy, Wishes(canaries=tuned.canaries))
    monkeypatch.setattr("mnemoscope.model.load_model", _refuse)
    again = run_audit(settings, copy, Wishes(canaries=tuned.canaries))
    assert replace(again, provenance={}) == replace(result, provenance={})
    monkeypatch.undo()
    parts = sorted((copy / "facts").rglob("*.parquet"))
    parts[0].unlink()
    again = run_audit(settings, copy, Wishes(canaries=tuned.canaries))
    assert replace(again, provenance={}) == replace(result, provenance={})


def _refuse(*_: object) -> None:
    raise AssertionError("the model is loaded")


def test_compared_with_itself_nothing_changes(settings, tuned, folder, result, tmp_path):
    """An audit beside itself: every passage is in both, and none differs; beside a grid of its own it is refused."""
    run_audit(settings, tmp_path / "one", Wishes(canaries=tuned.canaries))
    again = run_audit(settings, tmp_path / "one", Wishes(baseline=tmp_path / "one" / "audit.json"))
    members = next(change for change in again.changes if "training" in change.what and "recited" in change.what)
    assert members.n == len(tuned.repeats)
    assert members.only_earlier == members.only_now == 0
    assert members.earlier == members.now == at_reference(result).member.count
    with pytest.raises(ConfigError, match="expected the same"):
        run_audit(
            replace(settings, continuations=(8,)), tmp_path / "two", Wishes(baseline=tmp_path / "one" / "audit.json")
        )


def test_held_out_text_that_was_trained_on_is_no_control(settings, tuned, tmp_path):
    """Training lines in the held-out file are told of and left out; the shares stay as they were."""
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(tuned.train.read_text().splitlines(keepends=True)[:30]) + tuned.heldout.read_text())
    found = run_audit(replace(settings, heldout=(str(mixed),)), tmp_path / "audit", Wishes(canaries=tuned.canaries))
    assert (at_reference(found).control.count, at_reference(found).control.n) == (0, NUM_HELDOUT)
    assert any("left out" in note for note in found.notes)


def test_mistakes_are_told_before_the_model_is_asked(settings, tuned, tmp_path):
    """A baseline, canaries or files that are none: one line each, and nothing is written."""
    out = tmp_path / "audit"
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    for wishes in (Wishes(baseline=wrong), Wishes(canaries=wrong), Wishes(baseline=tmp_path / "absent.json")):
        with pytest.raises(ConfigError):
            run_audit(settings, out, wishes)
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": "too short"}\n')
    with pytest.raises(CorpusError, match="long enough"):
        run_audit(replace(settings, heldout=(str(empty),)), out)
    assert not (out / "audit.json").exists()


def test_thresholds_decide(settings, tuned, folder):
    """The same facts under other thresholds: fail where the low end is above, pass where the high end is not."""
    share = at_reference(run_audit(settings, folder / "first", Wishes(canaries=tuned.canaries))).excess
    for limit, state in ((share.low - 0.001, "fail"), (share.estimate, "unknown"), (share.high + 0.001, "pass")):
        wishes = Wishes(
            canaries=tuned.canaries, thresholds=Thresholds(max_recited_excess=limit), fail_on=("max_recited_excess",)
        )
        found = run_audit(settings, folder / "first", wishes)
        assert {each.name: each.state for each in found.criteria}["max_recited_excess"] == state
        assert found.state == state
    assert np.isfinite(share.low)
