"""The verb `audit`: what cannot be meant is one line on stderr and exit status 2, before a model is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mnemoscope.audit.secret_library import _detectors
from networks import VOCAB, build

GRID = ("--contexts", "4,8", "--continuations", "3,6")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder with a model, and random rows of each side."""
    folder = tmp_path_factory.mktemp("verb")
    build("gpt_neox").save_pretrained(folder / "tiny")
    for seed, name in enumerate(("train.npy", "heldout.npy")):
        np.save(folder / name, np.random.default_rng(seed).integers(0, VOCAB, (30, 20)).astype(np.uint16))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("MNEMOSCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def unread(monkeypatch):
    """No model is loaded."""

    def refuse(*_: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("mnemoscope.model.load_model", refuse)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sample", 0), "sample: 0 given; expected 1 or more"),
        (("--offsets", -1), "offsets_per_document: -1 given; expected 0 or more"),
        (("--seed", -1), "seed: -1 given; expected 0 to 2^64 - 1"),
        (("--seed", 10**70), "expected 0 to 2^64 - 1"),
        (("--batch-size", 0), "batch_size: 0 given; expected 1 or more"),
        (("--batch-size", "all"), "--batch-size: 'all' given"),
        (("--near", "nan"), "near_similarity: nan given"),
        (("--samplings", "1,1"), "samplings: T = 1, T = 1 given; expected each once"),
        (("--samplings", "0.7:0"), "top_k: 0 given; expected 1 or more"),
        (("--samplings", "0"), "temperature: 0.0 given; expected more than 0"),
        (("--samplings", "1:x"), "expected TEMPERATURE or TEMPERATURE:TOP_K"),
        (("--samplings", ""), "expected TEMPERATURE or TEMPERATURE:TOP_K"),
        (("--fail-on", "max_leak"), "fail-on: max_leak given; expected one of max_recited_excess"),
        (("--fail-on", "max_canaries_recited"), "not judged in this audit; give canaries"),
        (("--fail-on", "max_code_leaks"), "not judged in this audit; give a threshold"),
        (("--key-variable", "KEY"), "--key-variable: given with --model; expected it with --endpoint only"),
        (("--max-requests", 3), "--max-requests: given with --model"),
        (("--insecure-http",), "--insecure-http: given with --model"),
        (("--endpoint", "https://host/v1"), "--model, --endpoint: expected one of them"),
        (("--chat-template", "none.jinja"), "it is for conversations"),
        (("--baseline", "none.json"), "none.json: cannot be read"),
    ],
)
@pytest.mark.usefixtures("unread")
def test_what_cannot_be_meant_is_refused_before_the_model_is_asked(run, tiny, tmp_path, options, words):
    """One line with what came and what is expected; no report is written."""
    files = ("--model", tiny / "tiny", "--train", tiny / "train.npy", "--heldout", tiny / "heldout.npy")
    code, shown, told = run("audit", *files, *GRID, "--out", tmp_path / "out", *options)
    assert (code, shown) == (2, "")
    assert told.startswith("mnemoscope: ")
    assert told.count("\n") == 1
    assert words in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--endpoint-model: expected the name"),
        (("--endpoint-model", "m"), "--tokenizer: expected one with --endpoint"),
        (("--endpoint-model", "m", "--dtype", "bfloat16"), "--dtype: given with --endpoint, where it has no effect"),
        (("--endpoint-model", "m", "--revision", "r"), "--revision: given with --endpoint"),
        (("--endpoint-model", "m", "--samplings", "0.5"), "--samplings: given with --endpoint"),
        (("--endpoint-model", "m", "--bos"), "--bos: given with --endpoint"),
        (("--endpoint-model", "m", "--workers", "2"), "--workers: given with --endpoint"),
        (("--endpoint-model", "m", "--max-tokens", 0), "max_tokens: 0 given; expected 1 or more"),
    ],
)
def test_an_endpoint_is_asked_nothing_where_options_are_not_for_it(run, tiny, tmp_path, options, words):
    """What only a model at hand can do is refused beside an endpoint, and what an endpoint needs is asked for."""
    files = ("--endpoint", "http://127.0.0.1:9/v1", "--train", tiny / "train.npy", "--heldout", tiny / "heldout.npy")
    code, _, told = run("audit", *files, *GRID, "--out", tmp_path / "out", *options)
    assert code == 2
    assert told.startswith("mnemoscope: ")
    assert told.count("\n") == 1
    assert words in told


@pytest.mark.usefixtures("unread")
def test_a_detector_that_is_not_installed_is_told_before_the_model_is_asked(run, tiny, tmp_path, monkeypatch):
    """Not after hours of a pass."""
    monkeypatch.setitem(sys.modules, "detect_secrets.core.plugins.util", None)
    monkeypatch.setattr("mnemoscope.audit.secret_library._detectors", _detectors.__wrapped__)
    files = ("--model", tiny / "tiny", "--train", tiny / "train.npy", "--heldout", tiny / "heldout.npy")
    code, _, told = run("audit", *files, *GRID, "--out", tmp_path / "out", "--detector", "detect-secrets")
    assert code == 2
    assert "not installed" in told
