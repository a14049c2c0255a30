"""Traces as a study stores them: what they say, that they are made once, and anew when they must."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mnemoscope import traces
from mnemoscope.config import CorpusConfig, ModelConfig, StudyConfig, TracesConfig
from mnemoscope.coverage import find_derived_faults
from mnemoscope.engines.local import LocalEngine
from mnemoscope.errors import ConfigError, ModelError, StoreError
from mnemoscope.run import run_study
from mnemoscope.store import open_study
from mnemoscope.study_file import dump_study, load_study
from mnemoscope.traces import read_layers, read_states, read_traces, traces_of
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


def test_parts_come_in_any_order(study, tmp_path, monkeypatch):
    """An engine that traces parts of five sequences backwards leaves the bytes of one that traces them in order."""

    class Backwards:
        def run(self, tasks, make_worker, tell):
            return LocalEngine().run(tasks[::-1], make_worker, tell)

        def workers_per_device(self, device):
            return 1

    _, config = study
    settings = TracesConfig(per_stratum=4, contexts=(8,), context_layers=(0, 2))
    monkeypatch.setattr(traces, "BYTES_AT_ONCE", 5 * 2 * 32 * (2 * 14 + 2 * 8))
    found, told = [], []
    for name, engine in (("forwards", LocalEngine()), ("backwards", Backwards())):
        folder = tmp_path / name
        run_study(
            replace(config, traces=settings), folder, engine=engine, progress=lambda label, *_: told.append(label)
        )
        files = traces_of(folder, "tiny", 8)
        found.append([files.path(suffix).read_bytes() for suffix in (".parquet", ".npy", ".layers.npy", ".json")])
    sizes = Counter(read_traces(tmp_path / "backwards", "tiny", 8)["group"].to_pylist()).values()
    assert len([label for label in told if "traces" in label]) == 2 * sum(-(-size // 5) for size in sizes) > 8
    assert found[0] == found[1]


def test_a_longer_path_goes_on_where_the_reference_continuation_ends(study, tmp_path):
    """path_tokens lengthens the path and leaves the strata, the sample and what was traced before as they are."""
    folder, config = study
    shutil.copytree(folder, tmp_path / "longer")
    settings = TracesConfig(per_stratum=4, contexts=(4, 8), path_tokens=12)
    run_study(replace(config, traces=settings), tmp_path / "longer")
    for context in (4, 8):
        short, long = (read_traces(where, "tiny", context) for where in (folder, tmp_path / "longer"))
        assert long["num_matched"].to_pylist() == short["num_matched"].to_pylist()
        assert long["sequence_id"].to_pylist() == short["sequence_id"].to_pylist()
        paths = [np.array(table["generated_token"].to_pylist()) for table in (short, long)]
        assert paths[1].shape[1] == context + 12
        np.testing.assert_array_equal(paths[1][:, : context + 6], paths[0])
        states = [read_states(where, "tiny", context) for where in (folder, tmp_path / "longer")]
        np.testing.assert_allclose(states[1][:, : context + 5], states[0], atol=4e-3)  # other shapes, other last bits


def test_chosen_layers_are_those_of_the_network(study, tmp_path):
    """Layer 0 is the embeddings' output and the last layer the states that traces keep anyway; none without asking."""
    import torch

    folder, config = study
    shutil.copytree(folder, tmp_path / "layers")
    settings = TracesConfig(per_stratum=4, contexts=(4, 8), context_layers=(0, 2))
    run_study(replace(config, traces=settings), tmp_path / "layers")
    network = build("gpt_neox")
    layers = read_layers(tmp_path / "layers", "tiny", 8)
    table = read_traces(tmp_path / "layers", "tiny", 8)
    true = torch.tensor(table["true_token"].to_pylist())[:, :8]
    embedded = network.gpt_neox.embed_in(true).detach().numpy()
    assert layers.shape == (len(table), 2, 8, 32)
    np.testing.assert_allclose(layers[:, 0], embedded, atol=2e-3)
    np.testing.assert_allclose(layers[:, 1], read_states(tmp_path / "layers", "tiny", 8)[:, :8], atol=4e-3)
    assert read_layers(folder, "tiny", 8) is None


def test_a_layer_that_the_model_has_not_is_refused(study, tmp_path):
    """The message names the layers there are, and nothing is written."""
    _, config = study
    with pytest.raises(ModelError, match="context_layers has 3; expected 0 to 2"):
        run_study(replace(config, traces=TracesConfig(context_layers=(3,))), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_damaged_trace_is_made_anew(study):
    """One bit flipped in the states is found, and the same states stand there afterwards."""
    folder, config = study
    path = traces_of(folder, "tiny", 8).path(".npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run_study(config, folder)
    assert path.read_bytes() == content


def test_verification_finds_what_is_wrong_with_traces_and_counts(study, tmp_path):
    """A flipped bit, a cut, a lost file, a lost record: each is named, and what is sound has no fault."""
    copy = shutil.copytree(study[0], tmp_path / "study")
    opened = open_study(copy)
    sound = {"traces/tiny/k4": None, "traces/tiny/k8": None, "counts/counts": None}
    assert find_derived_faults(opened) == sound
    states, table = copy / "traces" / "tiny" / "k8.npy", copy / "traces" / "tiny" / "k4.parquet"
    content = states.read_bytes()
    states.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    size = table.stat().st_size
    table.write_bytes(table.read_bytes()[:-1])
    (copy / "counts" / "counts.parquet").unlink()
    assert find_derived_faults(opened) == {
        "traces/tiny/k4": f"k4.parquet has {size - 1} bytes, {size} were written",
        "traces/tiny/k8": "k8.npy: its checksum is not the one it was written with",
        "counts/counts": "counts.parquet is gone",
    }
    (copy / "traces" / "tiny" / "k8.json").unlink()
    assert find_derived_faults(opened)["traces/tiny/k8"] == "not there"
    run_study(study[1], copy)
    assert find_derived_faults(opened) == sound


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


def test_a_model_added_without_traces_leaves_the_others_alone(study, tmp_path):
    """Scoring a further model into a traced study keeps its [traces]; analyses go on with the models that have some."""
    from mnemoscope.findings import analyze
    from mnemoscope.store import open_study

    folder, config = study
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    build("gpt_neox", seed=9).save_pretrained(tmp_path / "other")
    other = replace(config, models=(ModelConfig(source=str(tmp_path / "other"), device="cpu"),), traces=None)
    run_study(other, copy)
    opened = open_study(copy)
    assert opened.config.traces == config.traces
    assert set(opened.runs) == {"tiny", "other"}
    results = analyze(opened)
    assert {"factors", "transitions", "entropy", "embeddings"} <= set(results)
    assert set(results["entropy"].tables["strata"]["model"].to_pylist()) == {"tiny"}


def test_a_model_that_is_not_there_is_refused_before_the_first_is_scored(study, tmp_path):
    """A misspelt second model costs nothing: no folder is written, and the corrected study finds no trace of it."""
    _, config = study
    typo = ModelConfig(source=str(tmp_path / "typo"), device="cpu")
    with pytest.raises(ModelError, match="no such folder"):
        run_study(replace(config, models=(*config.models, typo)), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_models_of_two_tokenizers_are_not_studied_together(tmp_path):
    """The ids of one model's tokenizer mean other words to a model of another."""
    from tokenizers import Tokenizer, models

    words = [f"w{i}" for i in range(40)]
    for name, order in (("one", words), ("two", words[::-1])):
        build("gpt_neox").save_pretrained(tmp_path / name)
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(order)}, unk_token="w0"))
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    np.save(tmp_path / "rows.npy", np.zeros((4, 24), np.int64))
    config = StudyConfig(
        models=tuple(ModelConfig(source=str(tmp_path / name), device="cpu") for name in ("one", "two")),
        corpus=CorpusConfig(path=str(tmp_path / "rows.npy")),
        contexts=(4,),
        continuations=(4,),
    )
    with pytest.raises(ModelError, match=r"two: its tokenizer.json gives other ids"):
        run_study(config, tmp_path / "study")


def test_a_torn_table_of_traces_is_one_line(study, tmp_path):
    """Half of its bytes are a StoreError that names the file and says what to do."""
    shutil.copytree(study[0], tmp_path / "torn")
    path = tmp_path / "torn" / "traces" / "tiny" / "k8.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match=r"k8\.parquet: damaged .*run the study again"):
        read_traces(tmp_path / "torn", "tiny", 8)
