"""Traces as a study stores them: what they say, that they are made once, and anew when they must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig, TracesConfig, dump_study, load_study
from mnemoscope.errors import ConfigError
from mnemoscope.run import run_study
from mnemoscope.traces import read_states, read_traces, traces_of
from networks import build, plant_sequences


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of one tiny model over planted members and random held-out rows, traced at two contexts."""
    folder = tmp_path_factory.mktemp("traces")
    network = build("gpt_neox")
    network.save_pretrained(folder / "tiny")
    np.save(folder / "rows.npy", plant_sequences(network, num_sequences=60, window_tokens=24, contexts=(4, 8)))
    np.save(folder / "heldout.npy", np.random.default_rng(1).integers(0, 97, (30, 24)))
    config = StudyConfig(
        models=(ModelConfig(source=str(folder / "tiny"), device="cpu"),),
        corpus=CorpusConfig(path=str(folder / "rows.npy")),
        control=CorpusConfig(path=str(folder / "heldout.npy")),
        contexts=(4, 8),
        continuations=(6, 12),
        traces=TracesConfig(per_stratum=4, contexts=(4, 8)),
    )
    run_study(config, folder / "study")
    return folder / "study", config


def test_a_trace_holds_the_path_that_was_scored(study):
    """num_matched, the stratum, is the number of generated tokens that are true; weights give the population."""
    folder, _ = study
    for context in (4, 8):
        table = read_traces(folder, "tiny", context)
        true, generated = (np.array(table[name].to_pylist()) for name in ("true_token", "generated_token"))
        matched = (true == generated)[:, context : context + 6].sum(axis=1)
        assert matched.tolist() == table["num_matched"].to_pylist()
        weights = np.array(table["design_weight"])
        member = np.array([group == "member" for group in table["group"].to_pylist()])
        assert weights[member].sum() == pytest.approx(60)
        assert weights[~member].sum() == pytest.approx(30)
        assert np.bincount(matched[member]).max() == 4
        assert true.shape == (len(table), context + 6)
        assert read_states(folder, "tiny", context).shape == (len(table), context + 5, 32)


def test_states_predict_the_generated_tokens(study):
    """The head applied to the stored state at index i gives the generated token i + 1, in context and continuation."""
    import torch

    folder, config = study
    from mnemoscope.model import load_model

    model = load_model(config.models[0])
    states = torch.from_numpy(np.array(read_states(folder, "tiny", 8))).float()
    generated = np.array(read_traces(folder, "tiny", 8)["generated_token"].to_pylist())
    said = model.logits(states.flatten(0, 1)).argmax(-1).view(states.shape[:2]).numpy()
    assert (said == generated[:, 1:]).mean() > 0.99  # float16 may turn a near-tie


def test_traces_are_made_once_and_again_when_their_settings_change(study, tmp_path):
    """The same command writes nothing anew; another sample size replaces the traces and leaves the scores."""
    folder, config = study
    files = traces_of(folder, "tiny", 4)
    before = {suffix: files.path(suffix).stat().st_mtime_ns for suffix in (".json", ".npy", ".parquet")}
    run_study(config, folder)
    assert before == {suffix: files.path(suffix).stat().st_mtime_ns for suffix in before}
    num_rows = len(read_traces(folder, "tiny", 4))
    run_study(replace(config, traces=TracesConfig(per_stratum=2, contexts=(4, 8))), folder)
    assert len(read_traces(folder, "tiny", 4)) < num_rows
    run_study(config, folder)
    assert len(read_traces(folder, "tiny", 4)) == num_rows


def test_a_damaged_trace_is_made_anew(study):
    """One bit flipped in the states is found, and the same states stand there afterwards."""
    folder, config = study
    path = traces_of(folder, "tiny", 8).path(".npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_study(config, folder)
    assert path.read_bytes() == content


def test_study_file_with_traces_round_trips(study, tmp_path):
    """The sections [traces] and [counts] survive dumping and loading."""
    _, config = study
    (tmp_path / "s.toml").write_text(dump_study(config))
    assert load_study(tmp_path / "s.toml") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "exact"}, "expected mode 'graded'"),
        ({"traces": TracesConfig(continuation=5)}, r"traces.continuation: 5 given; expected one of \[6, 12\]"),
        ({"traces": TracesConfig(contexts=(4, 5))}, r"traces.contexts: \[5\] given; expected some of \[4, 8\]"),
    ],
)
def test_traces_that_the_scores_cannot_give_are_refused(study, changes, message):
    """Strata need match bits; context and continuation must be the study's."""
    with pytest.raises(ConfigError, match=message):
        replace(study[1], **changes)
