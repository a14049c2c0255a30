"""The stage of prediction in a study: what it stores, that it is made once, and that new sequences are ranked."""

from __future__ import annotations

import io
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mnemoscope.config import CorpusConfig, CountsConfig, ModelConfig, PredictionConfig, StudyConfig, TracesConfig
from mnemoscope.errors import ConfigError, CorpusError
from mnemoscope.findings import analyze
from mnemoscope.predictions import plan_predictions, predictor_path, read_examples, read_predictions, settings_of
from mnemoscope.ranker import rank_corpus
from mnemoscope.ranking import count_forwards, save_ranking
from mnemoscope.report.layout import print_table
from mnemoscope.report.ranking_table import ranking_table
from mnemoscope.run import run_study
from mnemoscope.store import open_study, read_scores
from networks import build, generate

NAMES = ("transformer", "transformer-facts", "majority", "index-rate", "logistic", "boosting-full", "smaller")


def half_recited(network, *, num_sequences, seed):
    """Random rows of 24 tokens; every other one is what the network says after the first 8, half of them but one."""
    rng = np.random.default_rng(seed)
    tokens_RW = rng.integers(0, 97, (num_sequences, 24))
    tokens_RW[::2, 8:] = generate(network, tokens_RW[::2, :8], 16)
    for row in range(0, num_sequences, 4):
        place = rng.integers(8, 16)
        tokens_RW[row, place] = (tokens_RW[row, place] + 1) % 97
    return tokens_RW


def small_settings(config):
    """Networks that are trained in a second; what they learn is tested elsewhere."""
    sizes = {"width": 16, "layers": 2, "heads": 2, "epochs": 2}
    return replace(settings_of(config), **sizes)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two tiny models over planted members and random held-out rows, with predictors at one context."""
    folder = tmp_path_factory.mktemp("predictions")
    rows = []
    for name, seed in (("small", 0), ("large", 1)):
        network = build("gpt_neox", seed=seed) if seed else build("gpt_neox")
        network.save_pretrained(folder / name)
        rows.append(half_recited(network, num_sequences=90, seed=seed))
    np.save(folder / "rows.npy", np.concatenate(rows))
    np.save(folder / "heldout.npy", np.random.default_rng(1).integers(0, 97, (30, 24)))
    config = StudyConfig(
        models=tuple(ModelConfig(source=str(folder / name), device="cpu") for name in ("small", "large")),
        corpus=CorpusConfig(path=str(folder / "rows.npy")),
        control=CorpusConfig(path=str(folder / "heldout.npy")),
        contexts=(8,),
        continuations=(4, 8),
        traces=TracesConfig(per_stratum=60, continuation=4, path_tokens=8),
        counts=CountsConfig(),
        prediction=PredictionConfig(predictors=NAMES, num_seeds=1),
    )
    with mock.patch("mnemoscope.predictions.settings_of", small_settings):
        yield run_study(config, folder / "study"), config


def test_every_predictor_is_asked_of_every_test_and_control_sequence(study):
    """One row per sequence, predictor, prior and continuation; labels are the bits that the scores hold."""
    opened, _ = study
    table = read_predictions(opened)
    own = table.filter(np.equal(table["model"].to_numpy(False), table["trained_on"].to_numpy(False)))
    keys = ("model", "task", "predictor", "prior", "continuation", "group", "sequence_id")
    rows = list(zip(*(own[name].to_pylist() for name in keys), strict=True))
    assert len(rows) == len(set(rows))
    plan = plan_predictions(opened)[0]
    examples = read_examples(opened, plan)
    matched = {
        (group, i): bits
        for group, i, bits in zip(examples.group, examples.sequence_id, examples.labels.tolist(), strict=True)
    }
    stored = own.filter(np.equal(own["model"].to_numpy(False), plan.run.label)).to_pylist()
    assert {row["predictor"] for row in stored} >= {"transformer", "majority", "index-rate"}
    for row in stored:
        assert row["matched"] == matched[row["group"], row["sequence_id"]][: row["continuation"]]
        assert row["num_matched"] == sum(row["matched"])
    scored = {
        (group, i): bits
        for group in ("member", "control")
        for part in read_scores(opened, plan.run.label, group=group)
        for i, bits in zip(part["sequence_id"].to_pylist(), part["matched"].to_pylist(), strict=True)
    }
    for (group, i), bits in matched.items():
        assert np.unpackbits(np.frombuffer(scored[group, int(i)], np.uint8))[:8].tolist() == [int(bit) for bit in bits]


def test_only_the_larger_model_has_the_smaller_ones_answer_as_a_hint(study):
    """Of equally large models neither is the smaller; predictors that read facts alone are tried on the other."""
    opened, _ = study
    table = read_predictions(opened)
    transferred = table.filter(np.not_equal(table["model"].to_numpy(False), table["trained_on"].to_numpy(False)))
    assert set(transferred["predictor"].to_pylist()) == {"transformer-facts"}
    assert set(transferred["model"].to_pylist()) == {"small", "large"}
    assert all(not plan.hints for plan in plan_predictions(opened))


def test_predictors_are_fitted_once_and_again_when_their_settings_change(study, tmp_path):
    """The same command changes no file; another set of predictors replaces the predictions and leaves the traces."""
    opened, config = study
    files = [plan.derived.path(".parquet") for plan in plan_predictions(opened)]
    before = [path.stat().st_mtime_ns for path in files]
    run_study(config, opened.folder)
    assert before == [path.stat().st_mtime_ns for path in files]
    import shutil

    shutil.copytree(opened.folder, tmp_path / "study")
    other = replace(config, prediction=PredictionConfig(predictors=("majority",), num_seeds=1))
    again = run_study(other, tmp_path / "study")
    assert set(read_predictions(again)["predictor"].to_pylist()) == {"majority"}


def test_the_analysis_joins_the_study(study):
    """`analyze` has a result of prediction, for both models and continuations."""
    opened, _ = study
    result = analyze(opened)["prediction"]
    metrics = result.tables["metrics"]
    assert set(metrics["model"].to_pylist()) == {"small", "large"}
    assert set(metrics["continuation"].to_pylist()) == {4, 8}


def test_too_few_sequences_are_said_and_left_out(study, tmp_path, caplog):
    """With a handful of traced rows the study ends, the rest of it complete, and says why there are no predictions."""
    _, config = study
    few = replace(config, corpus=replace(config.corpus, sample=12), control=None)
    run_study(few, tmp_path / "few")
    assert "no predictions" in caplog.text
    assert read_predictions(open_study(tmp_path / "few")) is None


def test_ranking_gives_new_sequences_what_the_predictor_says_of_the_traced(study):
    """Ranked from its context alone, a traced test sequence has the stored probability; order is by risk."""
    opened, config = study
    ranking = rank_corpus(opened, config.corpus, label="large", continuation=8)
    risk = ranking.table["full_match_probability"].to_numpy()
    assert (np.diff(risk) <= 0).all()
    assert len(ranking.table) == 180
    by_id = dict(zip(ranking.table["sequence_id"].to_pylist(), risk.tolist(), strict=True))
    stored = [
        row
        for row in read_predictions(opened).to_pylist()
        if (row["model"], row["trained_on"], row["predictor"], row["task"])
        == ("large", "large", "transformer", "context")
        and (row["group"], row["prior"], row["continuation"]) == ("member", "natural", 8)
    ]
    assert stored
    for row in stored:
        assert by_id[row["sequence_id"]] == pytest.approx(row["full_match_probability"], abs=2e-3)


def test_cost_is_counted_in_token_forwards():
    """10 sequences of k = 32: 320 forwards, where the teacher-forced pass to n = 16 takes 470."""
    forwards = count_forwards(10, context=32, continuation=16)
    assert (forwards.predicted, forwards.exact) == (320, 470)
    assert forwards.saved_share == pytest.approx(150 / 470)


def test_a_ranking_is_printed_and_saved(study, tmp_path):
    """The table has as many rows as asked for; Parquet and CSV hold all; another ending is refused."""
    opened, config = study
    ranking = rank_corpus(opened, replace(config.corpus, sample=50), label="small")
    file = io.StringIO()
    print_table(ranking_table(ranking, top=3), Console(file=file, width=100))
    lines = file.getvalue().splitlines()
    assert "the riskiest 3 of 50" in lines[0]
    assert "400 token forwards" in file.getvalue()
    save_ranking(ranking, tmp_path / "r.parquet")
    save_ranking(ranking, tmp_path / "r.csv")
    assert pq.read_table(tmp_path / "r.parquet").equals(ranking.table)
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 51
    with pytest.raises(ConfigError, match="expected a name that ends in"):
        save_ranking(ranking, tmp_path / "r.txt")


def test_what_cannot_be_ranked_is_refused(study, tmp_path):
    """An unknown model, context or continuation names what there is; token ids beyond the model's are found."""
    opened, config = study
    with pytest.raises(ConfigError, match="no predictor of nobody; there are: large at k = 8; small at k = 8"):
        rank_corpus(opened, config.corpus, label="nobody")
    with pytest.raises(ConfigError, match="continuation 5 given; expected one that predictors were fit to"):
        rank_corpus(opened, config.corpus, label="small", continuation=5)
    np.save(tmp_path / "alien.npy", np.full((3, 24), 5000))
    with pytest.raises(CorpusError):
        rank_corpus(opened, CorpusConfig(path=str(tmp_path / "alien.npy")), label="small")


def test_a_predictor_is_saved_for_each_task(study):
    """Transformers of both tasks lie as safetensors and JSON, nothing else of pickle's kind."""
    opened, _ = study
    plan = plan_predictions(opened)[0]
    for task in ("context", "decode"):
        path = predictor_path(plan, "transformer", task=task, seed=0)
        assert {path.with_name(path.name + suffix).is_file() for suffix in (".safetensors", ".json")} == {True}
    assert {path.suffix for path in plan.predictors.iterdir()} == {".safetensors", ".json"}
