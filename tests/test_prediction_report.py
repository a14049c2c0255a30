"""Figures and tables of prediction: what stands in them is what stands in the result."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from rich.console import Console

from mnemoscope.analyses.prediction import prediction
from mnemoscope.report.drawing import save_specs
from mnemoscope.report.prediction_figures import FIGURES, prediction_specs
from mnemoscope.report.prediction_panels import BASELINE, CONTEXT, DECODE, ORIGINAL, shorten
from mnemoscope.report.prediction_table import every_predictor_table, print_prediction
from predicted_samples import SKILLS, forecast, predictions, simulate, study

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def result():
    """Two models, two lengths, every kind of predictor, and one that is borrowed."""
    skills = {**SKILLS, ("context", "smaller: [red]small"): 0.7}
    table = study(skills, lengths=(8, 16), seeds=(0,), num_rows=102)
    borrowed = predictions(simulate(102), forecast(simulate(102), skill=0.7, seed=3), model="big", trained_on="small")
    return prediction(pa.concat_tables([table, borrowed]), num_resamples=60)


def drawn(spec):
    """All rows of all panels."""
    panels = [panel for part in spec.get("concat", spec.get("vconcat")) for panel in part.get("hconcat", [part])]
    names = [part["data"]["name"] for part in (spec, *panels) if "data" in part]
    return [row for name in names for row in spec["datasets"][name]]


def printed(result, width=None):
    """What stands on a terminal so wide, or in a pipe."""
    console = Console(file=io.StringIO(), force_terminal=width is not None, width=width, no_color=True, highlight=False)
    print_prediction(result, console)
    return console.file.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")


def at_reference(table, **keys):
    wanted = {"model": "big", "continuation": 16, "trained_on": "big", **keys}
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def test_every_figure_is_drawn(result, tmp_path):
    """A full study gives all figures, each as SVG, PDF and PNG."""
    specs = prediction_specs(result)
    assert list(specs) == [name for name, _ in FIGURES]
    for path in save_specs(specs, tmp_path):
        assert path.read_bytes().startswith(PNG_SIGNATURE) == (path.suffix == ".png")


def test_only_what_has_data_is_drawn():
    """One model and one length have no figure along either; nobody borrowed, nothing transferred; no rows, nothing."""
    one = prediction(study(models=("big",), seeds=(0,), num_rows=51), num_resamples=20)
    missing = {"prediction_by_model", "prediction_by_continuation", "prediction_transfer"}
    assert set(prediction_specs(one)) == {name for name, _ in FIGURES} - missing
    assert prediction_specs(prediction(study(models=("big",)).slice(0, 0))) == {}


def test_dots_are_the_tables_rows(result):
    """Each predictor of the largest model has its token and full accuracy, grouped by who made it."""
    rows = drawn(prediction_specs(result)["prediction_accuracy"])
    table = at_reference(result.metrics, split="test", prior="balanced")
    expected = [row["value"] for row in table if row["metric"] in {"token_accuracy", "full_accuracy"}]
    assert sorted(row["value"] for row in rows) == pytest.approx(sorted(expected), abs=1e-4)
    roles = {(row["task"], row["label"]): row["role"] for row in rows}
    assert roles["decode", "original"] == "original"
    assert roles["context", "boosting"] == "baseline"
    assert roles["context", "lstm"] == "ours"


def test_gains_leave_out_the_doubled_best(result):
    """Each other predictor stands once in each panel, though the best baseline has two rows in the table."""
    rows = drawn(prediction_specs(result)["prediction_gains"])
    others = {(row["label"], row["task"]) for row in rows}
    assert len(rows) == 2 * len(others) == 2 * 7


def test_four_predictors_are_followed(result):
    """Ours twice, the original's, and the best baseline of the finding's cell."""
    best = result.finding.figures["context_token_accuracy_best_baseline"]
    rows = drawn(prediction_specs(result)["prediction_by_model"])
    assert {row["series"] for row in rows} == {series.name for series in (DECODE, CONTEXT, ORIGINAL, BASELINE)}
    baseline = [row["value"] for row in rows if row["series"] == BASELINE.name and row["x"] == "big"]
    table = at_reference(result.metrics, split="test", prior="balanced", predictor=best)
    expected = [row["value"] for row in table if row["metric"] in {"token_accuracy", "full_accuracy"}]
    assert baseline == pytest.approx(expected, abs=1e-4)


def test_transfer_shows_the_models_own_beside(result):
    """The borrowed predictor and the one of the model itself stand in one matrix."""
    rows = drawn(prediction_specs(result)["prediction_transfer"])
    assert {(row["trained_on"], row["model"]) for row in rows} == {("small", "small"), ("small", "big"), ("big", "big")}


@pytest.mark.parametrize(
    ("labels", "short", "family"),
    [
        (["pythia-70m-deduped@step9", "pythia-1b-deduped@step9"], ["70m", "1b"], " (pythia-…-deduped@step9)"),
        (["demo-3M", "demo-3M@step4"], ["3M", "3M@step4"], " (demo-…)"),
        (["a", "b"], ["a", "b"], ""),
        (["16", "32"], ["16", "32"], ""),
        (["a-b", "b"], ["a-b", "b"], ""),
        (["only-one"], ["only-one"], ""),
    ],
)
def test_labels_lose_what_all_share(labels, short, family):
    """What labels begin and end with alike is told once; each label stays itself, and none is empty."""
    assert shorten(labels) == (dict(zip(labels, short, strict=True)), family)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal(result, width):
    """No line is longer than the terminal, and no number is cut: all that a pipe has is there."""
    text = printed(result, width)
    assert max(map(len, text.splitlines())) <= width
    for line in printed(result).splitlines():
        for word in line.split("  "):
            assert word.strip() in text or len(word) > width, word


def test_tables_carry_the_tables_numbers(result):
    """The first row is ours from the context, with the values of the stored table; labels are shown, not obeyed."""
    text = printed(result)
    (row,) = at_reference(
        result.metrics, split="test", prior="balanced", task="context", predictor="transformer", metric="token_accuracy"
    )
    line = next(line for line in text.splitlines() if line.startswith("transformer"))
    assert f"{100 * row['value']:.1f} ({100 * row['value_low']:.1f}, {100 * row['value_high']:.1f})" in line
    assert "smaller: [red]small" in text
    assert "102 test sequences, 6 full matches" in text


def test_every_cell_has_its_table(result):
    """The long form has a table for each model and length."""
    titles = [str(table.title) for table in every_predictor_table(result)]
    assert len(titles) == 4
    assert [title.partition(":")[0] for title in titles][:2] == [
        "Prediction of small (k = 32, n = 8)",
        "Prediction of small (k = 32, n = 16)",
    ]
